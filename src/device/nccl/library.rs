//! `libnccl`, found and loaded at run time: a table of the functions that ranks need.
//!
//! The one idea: wheels and packages ship `libnccl.so.2` and nothing else, so that is looked for first, then beside the Python
//! on the PATH, where `pip install` puts it. A library that is not there, is too old or lacks a function is one line.
//!
//! Source: NCCL 2.32, nccl.h.

use crate::error::{Error, Result};
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW, Symbol};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};

/// The oldest version that is used here, 2.18: its config is written below.
const OLDEST: c_int = 21_800;
/// What a library exports that moves memory of the host too. NVIDIA's does not: the double of the tests does.
const TAKES_HOST_MEMORY: &str = "ncclTakesHostMemory";

/// `ncclUniqueId`: what all ranks of a communicator know, and nobody else.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

impl std::fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "UniqueId({:02x?}..)", &self.0[..16])
    }
}

/// `ncclConfig_t` as of 2.18; newer libraries read the size and take what is missing as not set.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    /// `cgaClusterSize`, `minCTAs`, `maxCTAs`.
    not_set: [c_int; 3],
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Of a communicator whose calls return at once.
    pub(super) fn not_blocking() -> Config {
        Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: OLDEST as c_uint,
            blocking: 0,
            not_set: [c_int::MIN; 3],
            net_name: std::ptr::null(),
            split_share: c_int::MIN,
        }
    }
}

/// `ncclComm_t`.
pub(super) type Handled = *mut c_void;
/// `ncclResult_t`.
pub(super) type Code = c_int;
/// `ncclSuccess`.
pub(super) const SUCCESS: Code = 0;
/// `ncclInProgress`.
pub(super) const IN_PROGRESS: Code = 7;
/// `ncclUint8`.
pub(super) const BYTES: c_int = 1;
/// `ncclFloat32`.
pub(super) const F32: c_int = 7;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;

type GetVersion = unsafe extern "C" fn(*mut c_int) -> Code;
type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> Code;
type InitRankConfig = unsafe extern "C" fn(*mut Handled, c_int, UniqueId, c_int, *mut Config) -> Code;
type OfComm = unsafe extern "C" fn(Handled) -> Code;
type AsyncError = unsafe extern "C" fn(Handled, *mut Code) -> Code;
type ErrorString = unsafe extern "C" fn(Code) -> *const c_char;
type LastError = unsafe extern "C" fn(Handled) -> *const c_char;
type Group = unsafe extern "C" fn() -> Code;
type Send = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Handled, *mut c_void) -> Code;
type Receive = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Handled, *mut c_void) -> Code;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handled, *mut c_void) -> Code;
type AllGather = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handled, *mut c_void) -> Code;

/// A loaded `libnccl`; it stays loaded as long as the process.
pub struct Library {
    /// Its file, as it was found.
    pub file: String,
    /// Its version, as `2.32.3`.
    pub version: String,
    /// True where it moves memory of the host.
    pub takes_host_memory: bool,
    get_unique_id: Symbol<GetUniqueId>,
    pub(super) init: Symbol<InitRankConfig>,
    pub(super) finalize: Symbol<OfComm>,
    pub(super) destroy: Symbol<OfComm>,
    pub(super) abort: Symbol<OfComm>,
    pub(super) async_error: Symbol<AsyncError>,
    error_string: Symbol<ErrorString>,
    last_error: Symbol<LastError>,
    pub(super) group_start: Symbol<Group>,
    pub(super) group_end: Symbol<Group>,
    pub(super) send: Symbol<Send>,
    pub(super) receive: Symbol<Receive>,
    pub(super) all_gather: Symbol<AllGather>,
    pub(super) reduce_scatter: Symbol<Reduce>,
    pub(super) all_reduce: Symbol<Reduce>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "NCCL {} ({})", self.version, self.file)
    }
}

impl Library {
    /// The library that `HAGGLE_NCCL` names, else the first that is found.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub fn find() -> Result<Library> {
        match std::env::var("HAGGLE_NCCL").ok().filter(|file| !file.is_empty()) {
            Some(file) => Library::open(&[file]),
            None => Library::open(&places(&std::env::var("PATH").unwrap_or_default())),
        }
    }

    /// Loads the first of `files` that is there.
    ///
    /// # Errors
    /// [`Error::Ranks`] when none is, or it is too old, or lacks a function.
    pub fn open(files: &[String]) -> Result<Library> {
        let mut said = String::new();
        // SAFETY: the library's own initialisers run, as they would in any program linked to it.
        let open = |file: &String| unsafe { Handle::open(Some(file), RTLD_NOW | RTLD_LOCAL) };
        let found = files.iter().find_map(|file| match open(file) {
            Ok(handle) => Some((file, handle)),
            Err(e) => {
                // Of a file that is there and does not load, the reason is told.
                if Path::new(file).exists() || said.is_empty() {
                    said = std::error::Error::source(&e).map_or_else(|| e.to_string(), |why| why.to_string());
                }
                None
            }
        });
        let Some((file, handle)) = found else {
            let what = format!(
                "no NCCL library: none of {} loads ({said}); install it (pip install nvidia-nccl-cu13, or your system's \
                 libnccl2), or name its file in HAGGLE_NCCL",
                files.join(", ")
            );
            return Err(Error::Ranks { what });
        };
        // SAFETY: the types are those of nccl.h.
        unsafe { Library::of(file, handle) }
    }

    /// # Safety
    /// `handle` must be a library with NCCL's functions, where it has functions of their names.
    unsafe fn of(file: &str, handle: Handle) -> Result<Library> {
        // SAFETY: the caller's promise; each type is its function's, as nccl.h has it.
        unsafe {
            let get_version: Symbol<GetVersion> = symbol(&handle, file, "ncclGetVersion")?;
            let mut version = 0;
            get_version(&mut version);
            if version < OLDEST {
                let (has, wants) = (dotted(version), dotted(OLDEST));
                let what = format!("{file} is NCCL {has}; ranks need {wants} or newer (pip install nvidia-nccl-cu13)");
                return Err(Error::Ranks { what });
            }
            let library = Library {
                file: file.into(),
                version: dotted(version),
                takes_host_memory: handle.get::<*const c_void>(TAKES_HOST_MEMORY).is_ok(),
                get_unique_id: symbol(&handle, file, "ncclGetUniqueId")?,
                init: symbol(&handle, file, "ncclCommInitRankConfig")?,
                finalize: symbol(&handle, file, "ncclCommFinalize")?,
                destroy: symbol(&handle, file, "ncclCommDestroy")?,
                abort: symbol(&handle, file, "ncclCommAbort")?,
                async_error: symbol(&handle, file, "ncclCommGetAsyncError")?,
                error_string: symbol(&handle, file, "ncclGetErrorString")?,
                last_error: symbol(&handle, file, "ncclGetLastError")?,
                group_start: symbol(&handle, file, "ncclGroupStart")?,
                group_end: symbol(&handle, file, "ncclGroupEnd")?,
                send: symbol(&handle, file, "ncclSend")?,
                receive: symbol(&handle, file, "ncclRecv")?,
                all_gather: symbol(&handle, file, "ncclAllGather")?,
                reduce_scatter: symbol(&handle, file, "ncclReduceScatter")?,
                all_reduce: symbol(&handle, file, "ncclAllReduce")?,
            };
            // Threads of its own may run until the process ends.
            std::mem::forget(handle);
            Ok(library)
        }
    }

    /// A new id, for rank 0 to tell the others.
    ///
    /// # Errors
    /// [`Error::Ranks`] with what the library says.
    pub fn new_id(&self) -> Result<UniqueId> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: it writes an id.
        let code = unsafe { (self.get_unique_id)(&mut id) };
        self.said("ncclGetUniqueId", code)?;
        Ok(id)
    }

    /// The id of ranks that meet at `HOST:PORT`: each gets the same by itself, and NCCL at rank 0 listens there. To be called
    /// before anything else of NCCL, by one thread of a process.
    ///
    /// # Errors
    /// As [`Library::new_id`].
    pub fn id_at(&self, address: &str) -> Result<UniqueId> {
        // SAFETY: Rust's own readers of the environment are locked out meanwhile; of C there is NCCL alone, which reads it in
        // the call below.
        unsafe { std::env::set_var("NCCL_COMM_ID", address) };
        self.new_id()
    }

    /// `Ok` for a call that went well or goes on.
    pub(super) fn said(&self, doing: &str, code: Code) -> Result<()> {
        match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            _ => Err(Error::Ranks { what: self.trouble(doing, code) }),
        }
    }

    /// What the library says of a call that failed.
    pub(super) fn trouble(&self, doing: &str, code: Code) -> String {
        // SAFETY: both give texts that stay, or null.
        let [error, last] = unsafe { [text((self.error_string)(code)), text((self.last_error)(std::ptr::null_mut()))] };
        let last = if last.is_empty() { last } else { format!(": {last}") };
        format!("{doing}: {error}{last}; {self:?}")
    }
}

/// A C text on one line.
///
/// # Safety
/// `text` must be one, or null.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// # Safety
/// `T` must be the function's type.
unsafe fn symbol<T>(handle: &Handle, file: &str, name: &str) -> Result<Symbol<T>> {
    // SAFETY: the caller's promise.
    unsafe { handle.get(name) }
        .map_err(|_| Error::Ranks { what: format!("{file} has no {name}: it is no NCCL library") })
}

/// A version as NCCL counts, as people write it.
fn dotted(version: c_int) -> String {
    // Up to 2.8 the minor had one digit.
    let (major, minor) = if version < 10_000 { (1000, 100) } else { (10_000, 100) };
    format!("{}.{}.{}", version / major, version % major / minor, version % minor)
}

/// Where the library may be, the likeliest first: where the loader looks, and in the wheel of each Python on the path.
fn places(path: &str) -> Vec<String> {
    let mut all = vec!["libnccl.so.2".to_string(), "libnccl.so".into()];
    for folder in std::env::split_paths(path).filter(|folder| folder.join("python3").exists()) {
        let real = folder.join("python3").canonicalize().ok();
        let roots = [Some(folder.as_path()), real.as_deref().and_then(Path::parent)];
        for root in roots.into_iter().flatten().filter_map(Path::parent) {
            all.extend(wheels(root).iter().map(|file| file.display().to_string()));
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|file| seen.insert(file.clone()));
    all
}

/// The wheel's library of a Python that is installed in `root`.
fn wheels(root: &Path) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let pythons = entries(root.join("lib"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")));
    let packages = pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)));
    packages.map(|at| at.join("nvidia/nccl/lib/libnccl.so.2")).filter(|file| file.exists()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_write_them() {
        assert_eq!([23_203, 21_403, 2_708].map(dotted), ["2.32.3", "2.14.3", "2.7.8"]);
    }

    #[test]
    fn the_wheel_beside_a_python_of_the_path_is_found_behind_the_loaders_own() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = dir.path().join("env/lib/python3.12/site-packages/nvidia/nccl/lib");
        std::fs::create_dir_all(&wheel).unwrap();
        std::fs::create_dir_all(dir.path().join("env/bin")).unwrap();
        std::fs::write(wheel.join("libnccl.so.2"), "").unwrap();
        let path = dir.path().join("env/bin").display().to_string();
        assert_eq!(places(&path), ["libnccl.so.2", "libnccl.so"]);
        std::fs::write(dir.path().join("env/bin/python3"), "").unwrap();
        let file = wheel.join("libnccl.so.2").display().to_string();
        assert_eq!(places(&path), ["libnccl.so.2", "libnccl.so", &file]);
    }
}
