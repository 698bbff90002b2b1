//! MPI, loaded at run time: nothing of it is needed to build, nothing to run one rank.
//!
//! The one idea: one call does all that ranks need, an all-to-all of bytes with a length for each pair. Open MPI's handles are
//! addresses of its own objects, those of MPICH and its kin are fixed numbers; both are one machine word in a call.
//!
//! Source: MPI: A Message-Passing Interface Standard 4.0, sections 6.8, 9.6 and 11.2; the MPICH ABI initiative.

use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};
use rustix::fs::FileType;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// `MPI_THREAD_MULTIPLE` of both: a watchdog may abort while a collective waits.
const ANY_THREAD: c_int = 3;
/// `MPI_COMM_WORLD` and `MPI_BYTE` of MPICH and its kin.
const MPICH: [usize; 2] = [0x4400_0000, 0x4c00_010d];
/// Bytes that a rank sends in one call, at most: counts and offsets are 32-bit.
const MOST_BYTES: usize = 1 << 30;
/// How long a launcher that reads nothing holds up the end.
const TO_BE_READ: Duration = Duration::from_secs(2);

type InitThread = unsafe extern "C" fn(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int;
type OfWorld = unsafe extern "C" fn(usize, *mut c_int) -> c_int;
type Alltoallv = unsafe extern "C" fn(
    *const c_void,
    *const c_int,
    *const c_int,
    usize,
    *mut c_void,
    *const c_int,
    *const c_int,
    usize,
    usize,
) -> c_int;
type Abort = unsafe extern "C" fn(usize, c_int) -> c_int;
type Finalize = unsafe extern "C" fn() -> c_int;
type Version = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;

/// A loaded MPI, begun.
pub struct Mpi {
    /// This rank.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// What the library calls itself.
    pub version: String,
    /// The file it was loaded from.
    pub file: String,
    comm: usize,
    byte: usize,
    alltoallv: Symbol<Alltoallv>,
    abort: Symbol<Abort>,
    finalize: Symbol<Finalize>,
}

/// The bytes that each rank has for each: `sizes[from][to]`.
type Sizes = Vec<Vec<usize>>;

impl Mpi {
    /// Loads the first of `files` that is there, and begins it. A process begins MPI once.
    ///
    /// # Errors
    /// [`Error::Ranks`] when none is there, or it lacks a function, or does not begin.
    pub fn begin(files: &[String]) -> Result<Mpi> {
        // SAFETY: an MPI library's own initialisers run, as they would in any program linked to it.
        let open = |file: &str| unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) }.ok();
        let (file, library) = files.iter().find_map(|file| Some((file, open(file)?))).ok_or_else(|| {
            let what =
                format!("no MPI library: none of {} loads; install it, or name it in HAGGLE_MPI", files.join(", "));
            Error::Ranks { what }
        })?;
        // SAFETY: the types are those of the standard's C binding; a handle is one word, see the module.
        unsafe {
            let init: Symbol<InitThread> = symbol(&library, file, "MPI_Init_thread")?;
            let (rank, size): (Symbol<OfWorld>, Symbol<OfWorld>) =
                (symbol(&library, file, "MPI_Comm_rank")?, symbol(&library, file, "MPI_Comm_size")?);
            let version: Symbol<Version> = symbol(&library, file, "MPI_Get_library_version")?;
            let [comm, byte] = handles(&library);
            let (alltoallv, abort) = (symbol(&library, file, "MPI_Alltoallv")?, symbol(&library, file, "MPI_Abort")?);
            let finalize = symbol(&library, file, "MPI_Finalize")?;
            let (mut given, mut mine, mut world) = (0, 0, 0);
            said(file, "MPI_Init_thread", init(std::ptr::null_mut(), std::ptr::null_mut(), ANY_THREAD, &mut given))?;
            said(file, "MPI_Comm_rank", rank(comm, &mut mine))?;
            said(file, "MPI_Comm_size", size(comm, &mut world))?;
            let (rank, world, version) = (mine as usize, world as usize, version_of(&version));
            // Its functions stay loaded: threads of its own may run until the process ends.
            std::mem::forget(library);
            Ok(Mpi { rank, world, version, file: file.clone(), comm, byte, alltoallv, abort, finalize })
        }
    }

    /// `pieces[r]` goes to rank r; returns each rank's piece for this one, in their order.
    ///
    /// # Errors
    /// [`Error::Ranks`] with what the library says, where it does not end the process itself.
    pub fn all_to_all(&self, pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let sizes = self.sizes(pieces)?;
        let mut got: Vec<Vec<u8>> = sizes.iter().map(|to| Vec::with_capacity(to[self.rank])).collect();
        let (most, longest) = (MOST_BYTES / self.world, sizes.iter().flatten().copied().max().unwrap_or(0));
        for first in (0..longest).step_by(most) {
            let part = |len: usize| len.min(first)..len.min(first + most);
            let send: Vec<&[u8]> = pieces.iter().map(|piece| &piece[part(piece.len())]).collect();
            let counts: Vec<usize> = sizes.iter().map(|to| part(to[self.rank]).len()).collect();
            let all = self.exchange(&send, &counts)?;
            let mut rest = &all[..];
            for (got, count) in got.iter_mut().zip(counts) {
                let (own, tail) = rest.split_at(count);
                got.extend_from_slice(own);
                rest = tail;
            }
        }
        Ok(got)
    }

    /// Every rank's sizes, told to all.
    fn sizes(&self, pieces: &[&[u8]]) -> Result<Sizes> {
        let mine: Vec<u64> = pieces.iter().map(|piece| piece.len() as u64).collect();
        let row: &[u8] = bytemuck::cast_slice(&mine);
        let all = self.exchange(&vec![row; self.world], &vec![row.len(); self.world])?;
        let numbers = all.chunks_exact(8).map(bytemuck::pod_read_unaligned::<u64>).collect::<Vec<_>>();
        Ok(numbers.chunks(self.world).map(|row| row.iter().map(|n| *n as usize).collect()).collect())
    }

    /// One call; `counts` of bytes come from each rank. Returns them end to end.
    fn exchange(&self, send: &[&[u8]], counts: &[usize]) -> Result<Vec<u8>> {
        let ints = |lens: &mut dyn Iterator<Item = usize>| {
            let counts: Vec<c_int> = lens.map(|n| n as c_int).collect();
            let offsets: Vec<c_int> = counts.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
            (counts, offsets)
        };
        let (n_to, at_to) = ints(&mut send.iter().map(|piece| piece.len()));
        let (n_from, at_from) = ints(&mut counts.iter().copied());
        // A byte more: the address of an empty Vec is 1, which Open MPI calls MPI_IN_PLACE.
        let (sent, got): (usize, usize) = (send.iter().map(|piece| piece.len()).sum(), counts.iter().sum());
        let (mut out, mut all) = (Vec::with_capacity(sent + 1), vec![0u8; got + 1]);
        send.iter().for_each(|piece| out.extend_from_slice(piece));
        out.push(0);
        // SAFETY: the buffers hold what counts and offsets say, which fit 32 bits (`MOST_BYTES`), and outlive the call, which
        // returns when both may be used again.
        let code = unsafe {
            (self.alltoallv)(
                out.as_ptr().cast(),
                n_to.as_ptr(),
                at_to.as_ptr(),
                self.byte,
                all.as_mut_ptr().cast(),
                n_from.as_ptr(),
                at_from.as_ptr(),
                self.byte,
                self.comm,
            )
        };
        said(&self.file, "MPI_Alltoallv", code)?;
        all.truncate(got);
        Ok(all)
    }

    /// Ends every rank's process with this code; from any thread. What this one wrote to its standard error is given time to
    /// be read first: MPICH's launcher drops what it has not read when it hears of the end.
    pub fn abort(&self, code: u8) {
        let written = Instant::now();
        while unread(std::io::stderr()) > 0 && written.elapsed() < TO_BE_READ {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: it may be called from any thread at any time after the beginning.
        unsafe { (self.abort)(self.comm, c_int::from(code)) };
    }

    /// Ends MPI: every rank must come to this. Nothing may be asked of it afterwards.
    pub fn finish(&self) {
        // SAFETY: called once, by the owner of the link, when its last collective is done.
        unsafe { (self.finalize)() };
    }
}

/// The bytes in a pipe that its reader has not taken; none in what is no pipe.
fn unread(pipe: impl AsFd) -> u64 {
    let is_pipe = rustix::fs::fstat(&pipe).is_ok_and(|file| FileType::from_raw_mode(file.st_mode).is_fifo());
    if is_pipe { rustix::io::ioctl_fionread(&pipe).unwrap_or(0) } else { 0 }
}

/// The handles of all ranks and of a byte.
///
/// # Safety
/// `library` must be an MPI.
unsafe fn handles(library: &Library) -> [usize; 2] {
    // SAFETY: only the addresses of these objects are taken.
    let address = |name: &str| unsafe { library.get::<*const c_void>(name) }.ok().map(|s| s.into_raw() as usize);
    match [address("ompi_mpi_comm_world"), address("ompi_mpi_byte")] {
        [Some(comm), Some(byte)] => [comm, byte],
        _ => MPICH,
    }
}

/// # Safety
/// As [`Library::get`]: `T` must be the function's type.
unsafe fn symbol<T>(library: &Library, file: &str, name: &str) -> Result<Symbol<T>> {
    // SAFETY: the caller says what it is.
    unsafe { library.get(name) }.map_err(|_| Error::Ranks { what: format!("{file}: has no {name}: no MPI library") })
}

fn said(file: &str, function: &str, code: c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::Ranks { what: format!("{file}: {function} failed with code {code}") }) }
}

/// What a library calls itself, on one line.
///
/// # Safety
/// `version` must be `MPI_Get_library_version`.
unsafe fn version_of(version: &Symbol<Version>) -> String {
    // Open MPI writes at most 256 bytes, MPICH 8192.
    let (mut text, mut n) = (vec![0u8; 8192], 0);
    // SAFETY: the text is as long as either may write.
    unsafe { version(text.as_mut_ptr().cast(), &mut n) };
    let text = String::from_utf8_lossy(&text[..(n.max(0) as usize).min(text.len())]).into_owned();
    let line = text.trim_matches('\0').split(['\n', ',']).next().unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_a_pipe_holds_unread_is_counted_and_nothing_else() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"haggle: ranks").unwrap();
        assert_eq!(unread(&writer), 13);
        reader.read_exact(&mut [0; 13]).unwrap();
        assert_eq!(unread(&writer), 0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"read by nobody").unwrap();
        assert_eq!(unread(&file), 0);
    }
}
