//! A run directory: one place on disk that holds everything a run says, locked while the run lives.
//!
//! ```text
//! RUN/config.toml        the config in force
//! RUN/inputs.json        checksums of the products and models it began with
//! RUN/metrics.jsonl      one row a step; what measures the work, not its result, stands under `time/`
//! RUN/episodes.jsonl     every dialogue
//! RUN/checkpoints/step-N a Hugging Face folder and `haggle/`; `RUN/latest` names the newest whole one
//! RUN/checkpoints/best   the one of the highest held-out reward, where training evaluates (`eval.every`)
//! RUN/lock               held by the live run
//! ```
//!
//! The one idea: a file is either appended to by whole lines and cut back on resume, or replaced whole by a rename.

use crate::disk::{UNFINISHED, is_missing, try_sync_dir, write_atomic};
use crate::error::{Error, Result, shown};
use serde::Serialize;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The config of a run, in its directory.
pub const CONFIG: &str = "config.toml";

/// A run directory that this process holds.
pub struct RunDir {
    path: PathBuf,
    /// What its file system cannot do, a line each.
    pub warnings: Vec<String>,
    /// None where another rank of the run holds it.
    lock: Option<File>,
}

impl RunDir {
    /// Makes a new run directory (parents too), locks it and writes its config.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made or written, is locked by a live run, or already holds something.
    pub fn create(path: &Path, config_toml: &str) -> Result<RunDir> {
        fs::create_dir_all(path).map_err(|e| Error::io(path, format!("cannot make the run directory: {e}")))?;
        if path.join("lock").exists() {
            RunDir::lock(path)?;
        }
        // Before the lock, which would be a file in a foreign directory, and behind it, for a run may just have come and gone.
        refuse_taken(path)?;
        let run = RunDir::lock(path)?;
        refuse_taken(path)?;
        write_atomic(&path.join(CONFIG), |f| f.write_all(config_toml.as_bytes()))?;
        Ok(run)
    }

    /// Locks an existing run directory to continue it.
    ///
    /// # Errors
    /// [`Error::Io`] when it holds no run, is locked by a live run, or is not writable.
    pub fn reopen(path: &Path) -> Result<RunDir> {
        if !path.join(CONFIG).is_file() {
            return Err(Error::io(path, "holds no run to resume (no config.toml); start one without --resume"));
        }
        RunDir::lock(path)
    }

    /// The directory of a run whose first rank holds it: this one reads there and writes nothing.
    pub fn beside(path: &Path) -> RunDir {
        RunDir { path: path.into(), warnings: vec![], lock: None }
    }

    /// The first of `parent/001`, `parent/002`, ... that does not exist.
    pub fn next_free(parent: &Path) -> PathBuf {
        let mut numbered = (1..).map(|n| parent.join(format!("{n:03}")));
        // A link to nowhere is there too.
        numbered.find(|p| p.symlink_metadata().is_err()).unwrap_or_else(|| parent.join("001"))
    }

    /// Makes the next free directory below `parent`: each of many runs that start at once gets one of its own.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn claim_next(parent: &Path) -> Result<PathBuf> {
        let failed = |path: &Path, e| Error::io(path, format!("cannot make the run directory: {e}"));
        loop {
            fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
            let path = RunDir::next_free(parent);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                // Another run was faster, or gave the parent back.
                Err(e) if [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&e.kind()) => {}
                Err(e) => return Err(failed(&path, e)),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A log of the run, cut back to its first `keep` bytes and open for appending.
    pub fn log(&self, name: &str, keep: u64) -> Result<Log> {
        match self.lock {
            Some(_) => Log::open(&self.path.join(name), keep),
            None => Ok(Log { file: None, path: self.path.join(name), bytes: keep }),
        }
    }

    fn lock(path: &Path) -> Result<RunDir> {
        let (file, mut warnings) = (path.join("lock"), Vec::new());
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
        let mut lock = options.map_err(|e| Error::io(&file, format!("cannot write in the run directory: {e}")))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = lock.read_to_string(&mut owner);
                let what = format!("in use by a live run (process {}); wait for it or stop it", owner.trim());
                return Err(Error::io(path, what));
            }
            Err(TryLockError::Error(e)) if is_missing(&e) => warnings.push(format!(
                "{}: this file system has no locks ({e}); start no second run in this directory, it would not be noticed",
                shown(path)
            )),
            Err(TryLockError::Error(e)) => return Err(Error::io(&file, format!("cannot lock: {e}"))),
        }
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(|e| Error::io(&file, format!("cannot write in the run directory: {e}")))?;
        if let Some(e) = try_sync_dir(path)? {
            warnings.push(format!(
                "{}: this file system does not say when a directory is on disk ({e}); a power cut may lose the last checkpoint",
                shown(path)
            ));
        }
        Ok(RunDir { path: path.into(), warnings, lock: Some(lock) })
    }
}

/// Refuses a directory that holds something.
fn refuse_taken(path: &Path) -> Result<()> {
    let Some(name) = first_entry(path)? else { return Ok(()) };
    let what = if path.join(CONFIG).exists() {
        "already holds a run; continue it with --resume, or name another directory with --out".into()
    } else {
        format!("is not empty (`{name}`); name another directory with --out")
    };
    Err(Error::io(path, what))
}

/// The name of something in a directory that a run has not left by being killed at birth.
fn first_entry(path: &Path) -> Result<Option<String>> {
    let entries = fs::read_dir(path).map_err(|e| Error::io(path, e))?;
    let names = entries.filter_map(|e| e.ok()).map(|e| e.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|n| n != "lock" && !n.starts_with(UNFINISHED)).min())
}

/// A file of JSON lines that only grows.
pub struct Log {
    /// None where another rank writes it.
    file: Option<File>,
    path: PathBuf,
    bytes: u64,
}

impl Log {
    /// Opens (or makes) a log and cuts it back to its first `keep` bytes.
    ///
    /// # Errors
    /// [`Error::Data`] when the file is shorter than that: something else wrote it.
    pub fn open(path: &Path, keep: u64) -> Result<Log> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(|e| Error::io(path, format!("cannot open: {e}")))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if length < keep {
            let what = format!("is {length} bytes long, the checkpoint recorded {keep}; restore it or start a new run");
            return Err(Error::data(path, what));
        }
        let cut = file.set_len(keep).and_then(|()| file.seek(SeekFrom::Start(keep)));
        cut.map_err(|e| Error::io(path, format!("cannot cut back: {e}")))?;
        Ok(Log { file: Some(file), path: path.into(), bytes: keep })
    }

    /// Appends one row.
    pub fn append(&mut self, row: &impl Serialize) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = serde_json::to_vec(row).map_err(|e| Error::data(&self.path, e))?;
        line.push(b'\n');
        file.write_all(&line).map_err(|e| Error::io(&self.path, format!("cannot append: {e}")))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Waits until every row is on disk; returns the log's length in bytes.
    pub fn sync(&mut self) -> Result<u64> {
        if let Some(file) = &self.file {
            file.sync_data().map_err(|e| Error::io(&self.path, format!("cannot write to disk: {e}")))?;
        }
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_live_run_keeps_others_out_and_a_finished_one_must_be_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/run");
        let run = RunDir::create(&path, "seed = 1\n").unwrap();
        for refused in [RunDir::create(&path, ""), RunDir::reopen(&path)] {
            let message = refused.err().unwrap().to_string();
            assert!(message.contains("in use by a live run"), "{message}");
            assert!(message.contains(&std::process::id().to_string()), "{message}");
        }
        drop(run);
        let message = RunDir::create(&path, "").err().unwrap().to_string();
        assert!(message.contains("already holds a run; continue it with --resume"), "{message}");
        assert!(RunDir::reopen(&path).is_ok());
        assert_eq!(fs::read_to_string(path.join(CONFIG)).unwrap(), "seed = 1\n");
    }

    #[test]
    fn a_foreign_or_unwritable_place_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
        let message = RunDir::create(dir.path(), "").err().unwrap().to_string();
        assert!(message.contains("is not empty (`thesis.txt`)"), "{message}");
        assert!(!dir.path().join("lock").exists(), "left a file in a foreign directory");
        let message = RunDir::create(&dir.path().join("thesis.txt/run"), "").err().unwrap().to_string();
        assert!(message.contains("cannot make the run directory"), "{message}");
        let message = RunDir::reopen(dir.path()).err().unwrap().to_string();
        assert!(message.contains("holds no run to resume"), "{message}");
    }

    #[test]
    fn a_directory_left_by_a_run_killed_at_birth_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lock"), "12345\n").unwrap();
        fs::write(dir.path().join(".unfinished-config.toml"), "see").unwrap();
        assert!(RunDir::create(dir.path(), "").is_ok());
    }

    #[test]
    fn a_log_is_cut_back_to_what_the_checkpoint_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = Log::open(&path, 0).unwrap();
        log.append(&json!({"step": 1})).unwrap();
        let kept = log.sync().unwrap();
        log.append(&json!({"step": 2})).unwrap();
        let mut log = Log::open(&path, kept).unwrap();
        log.append(&json!({"step": 3})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":3}\n");
        let message = Log::open(&path, 1000).err().unwrap().to_string();
        assert!(message.contains("the checkpoint recorded 1000"), "{message}");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        // /dev/full takes nothing: every write fails with "no space left on device".
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut log = Log { file: Some(full), path: "x".into(), bytes: 0 };
        assert!(log.append(&json!({"step": 1})).unwrap_err().to_string().contains("No space left"));
    }

    #[test]
    fn the_next_free_directory_is_counted_up() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RunDir::next_free(dir.path()), dir.path().join("001"));
        fs::create_dir(dir.path().join("001")).unwrap();
        assert_eq!(RunDir::next_free(dir.path()), dir.path().join("002"));
    }

    #[test]
    fn of_many_that_start_at_once_each_gets_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("runs");
        let claim = || RunDir::claim_next(&parent).unwrap();
        let mut all: Vec<PathBuf> = std::thread::scope(|scope| {
            let claims: Vec<_> = (0..16).map(|_| scope.spawn(claim)).collect();
            claims.into_iter().map(|claim| claim.join().unwrap()).collect()
        });
        all.sort();
        assert_eq!(all, (1..=16).map(|n| parent.join(format!("{n:03}"))).collect::<Vec<_>>());
        std::os::unix::fs::symlink("/nowhere", parent.join("017")).unwrap();
        assert_eq!(claim(), parent.join("018"));
        let nowhere = RunDir::claim_next(Path::new("/proc/nope")).unwrap_err().to_string();
        assert!(nowhere.contains("cannot make the run directory"), "{nowhere}");
    }
}
