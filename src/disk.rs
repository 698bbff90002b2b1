//! Files that a kill at any moment leaves old or new, never between.

use crate::error::{Error, Result, shown};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Begins the name of what is being written and has not been renamed yet.
pub const UNFINISHED: &str = ".unfinished-";

/// Replaces a file whole: written beside it by `fill`, on disk, then renamed.
///
/// # Errors
/// [`Error::Io`]; the half-written file is removed.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::io(path, "is no file name"));
    };
    let unfinished = parent.join(format!("{UNFINISHED}{}", name.to_string_lossy()));
    let written = File::create(&unfinished).and_then(|file| {
        let mut buffered = BufWriter::new(file);
        fill(&mut buffered)?;
        buffered.into_inner().map_err(|e| e.into_error())?.sync_all()
    });
    if let Err(e) = written.and_then(|()| fs::rename(&unfinished, path)) {
        let _ = fs::remove_file(&unfinished);
        return Err(Error::io(path, format!("cannot write: {e}")));
    }
    sync_dir(parent)
}

/// Makes a directory, parents too, and finds whether files can be written in it; nothing is left in it.
///
/// # Errors
/// [`Error::Io`] when they cannot.
pub fn make_writable(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, format!("cannot be made: {e}; name another place")))?;
    let probe = dir.join(format!("{UNFINISHED}{}", std::process::id()));
    let tried = File::create(&probe).and_then(|mut file| {
        let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_all());
        fs::remove_file(&probe).and(written)
    });
    tried.map_err(|e| Error::io(dir, format!("cannot be written in: {e}; name another place")))
}

/// Finds whether a file can be written, without changing it; a file that was not there is not left.
///
/// # Errors
/// [`Error::Io`] when it cannot.
pub fn try_file(path: &Path) -> Result<()> {
    let there = path.exists();
    let opened = fs::OpenOptions::new().append(true).create(true).open(path);
    let tried = opened.and_then(|_| if there { Ok(()) } else { fs::remove_file(path) });
    tried.map_err(|e| Error::io(path, format!("cannot write: {e}; name another place")))
}

/// Bytes that can still be written below a folder that is there, where the file system says it.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The bytes of a file that came from a repository.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] when Git LFS keeps it elsewhere.
pub fn read_fetched(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    refuse_pointer(path, &bytes)?;
    Ok(bytes)
}

/// Names a file that is only Git LFS's note of where the file itself is.
///
/// # Errors
/// [`Error::Data`]
pub fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Ok(());
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = format!("a Git LFS pointer, not the file; run `git lfs pull` in {}", shown(folder));
    Err(Error::data(path, what))
}

/// Waits until a directory's entries are on disk, where the file system can be asked to.
///
/// # Errors
/// [`Error::Io`]
pub fn sync_dir(path: &Path) -> Result<()> {
    try_sync_dir(path).map(drop)
}

/// The same; what the file system says when it cannot be asked.
///
/// # Errors
/// As [`sync_dir`].
pub fn try_sync_dir(path: &Path) -> Result<Option<io::Error>> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match File::open(path).and_then(|d| d.sync_all()) {
        Ok(()) => Ok(None),
        Err(e) if is_missing(&e) => Ok(Some(e)),
        Err(e) => Err(Error::io(path, format!("cannot write to disk: {e}"))),
    }
}

/// Whether an error says that this file system does not have what was asked of it (some of NFS, Lustre, FUSE, CIFS): EINVAL,
/// ENOLCK, ENOSYS, ENOTSUP. What has failed there (EIO, ENOSPC) is none of these.
pub fn is_missing(e: &io::Error) -> bool {
    let codes: &[i32] = if cfg!(target_os = "linux") { &[22, 37, 38, 95] } else { &[22, 45, 77, 78, 102] };
    e.kind() == io::ErrorKind::Unsupported || e.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_cannot_be_written_are_found_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (new, file) = (dir.path().join("a/b"), dir.path().join("file"));
        make_writable(&new).unwrap();
        assert_eq!(fs::read_dir(&new).unwrap().count(), 0);
        fs::write(&file, "mine").unwrap();
        try_file(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        try_file(&new.join("new")).unwrap();
        assert_eq!(fs::read_dir(&new).unwrap().count(), 0);
        for refused in [make_writable(&file), make_writable(&file.join("in")), make_writable(Path::new("/proc/self"))] {
            assert!(refused.unwrap_err().to_string().contains("name another place"));
        }
        for refused in [try_file(&new), try_file(&dir.path().join("none/x"))] {
            assert!(refused.unwrap_err().to_string().contains("cannot write"));
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_old_file_stays() {
        // /dev/full takes nothing: every write fails with "no space left on device".
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latest");
        write_atomic(&path, |f| f.write_all(b"old")).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join(".unfinished-latest")).unwrap();
        let full = write_atomic(&path, |f| f.write_all(b"new")).unwrap_err();
        assert!(full.to_string().contains("No space left"), "{full}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert!(!dir.path().join(".unfinished-latest").exists());
    }
}
