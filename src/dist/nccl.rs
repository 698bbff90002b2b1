//! Ranks that meet over NCCL: processes with a GPU each, or, in tests, threads.
//!
//! The one idea: a process that must end does so at once. What NCCL holds may never come back, so the end is not left to whoever
//! waits in it.

use super::{Call, Link, agree};
use crate::device::mpi::Mpi;
use crate::device::nccl::{Nccl, Place};
use crate::device::{Buffer, Device, View, ViewMut};
use crate::error::Result;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a communicator may take to be aborted before the process ends all the same.
const ABORT: Duration = Duration::from_secs(5);

/// What an end ends.
enum Ends {
    /// What waits in a collective: it fails.
    Waiting,
    /// The process; with it all that the MPI started, where its ranks met through one.
    Process(Option<Mpi>),
}

/// A rank over NCCL.
pub struct OverNccl {
    nccl: Nccl,
    ends: Ends,
    /// The process is about to end.
    ending: AtomicBool,
}

impl OverNccl {
    /// A rank that is a thread among others: an end is an error of its collectives.
    pub fn thread(nccl: Nccl) -> OverNccl {
        OverNccl { nccl, ends: Ends::Waiting, ending: AtomicBool::new(false) }
    }

    /// A rank that is a process; `mpi` is what its ranks met through, where they did.
    pub(super) fn process(nccl: Nccl, mpi: Option<Mpi>) -> OverNccl {
        OverNccl { nccl, ends: Ends::Process(mpi), ending: AtomicBool::new(false) }
    }

    /// What a collective told. Where the process is about to end nobody says more, and its exit code is the end's.
    fn told<T>(&self, told: Result<T>) -> Result<T> {
        while self.ending.load(Ordering::SeqCst) {
            std::thread::sleep(ABORT);
        }
        told
    }
}

impl Link for OverNccl {
    fn rank(&self) -> usize {
        self.nccl.rank()
    }

    fn world(&self) -> usize {
        self.nccl.world()
    }

    fn device(&self) -> Option<Device> {
        Some(self.nccl.device().clone())
    }

    fn all_to_all(&self, call: &Call, pieces: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        self.told(self.nccl.all_to_all(&call.to_string(), &pieces))
    }

    fn all_gather(&self, call: &Call, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.told(self.nccl.all_to_all(&call.to_string(), &vec![mine; self.world()]))
    }

    fn exchange(
        &self,
        call: &Call,
        _: &Device,
        from: View,
        cuts: &[Range<usize>],
        into: &mut [Buffer],
        places: &[Place],
    ) -> Result<()> {
        self.told(self.nccl.exchange(&call.to_string(), from, cuts, into, places))
    }

    fn share(&self, call: &Call, _: &Device, data: ViewMut, cuts: &[Range<usize>]) -> Result<()> {
        self.told(self.nccl.share(&call.to_string(), data, cuts))
    }

    fn sums(&self) -> bool {
        true
    }

    fn sum(&self, call: &Call, data: ViewMut, cuts: &[Range<usize>]) -> Result<()> {
        self.told(self.nccl.sum(&call.to_string(), data, cuts))
    }

    fn abort(&self, code: u8, why: &str) {
        let Ends::Process(mpi) = &self.ends else { return self.nccl.abort(why) };
        self.ending.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(ABORT);
                leave(mpi.as_ref(), code);
            });
            self.nccl.abort(why);
            leave(mpi.as_ref(), code);
        });
    }

    fn transport(&self) -> String {
        format!("{:?}", self.nccl.library())
    }

    fn finish(&self) {
        self.nccl.finish();
        if let Ends::Process(Some(mpi)) = &self.ends {
            mpi.finish();
        }
    }
}

/// Ends the process without a word to libraries that may hang in theirs.
fn leave(mpi: Option<&Mpi>, code: u8) {
    if let Some(mpi) = mpi {
        mpi.abort(code);
    }
    signal_hook::low_level::exit(code.into());
}

/// A rank of this machine that is about to join, in a file for the others of this machine. Nobody needs it: it names who is
/// missing.
pub(super) struct Present {
    folder: PathBuf,
    own: PathBuf,
    /// All ranks of this machine.
    ranks: Range<usize>,
}

impl Present {
    /// This rank comes to where the ranks meet.
    pub(super) fn comes(at: &str, rank: usize, ranks: Range<usize>) -> Present {
        let folder = std::env::temp_dir().join(format!("haggle-ranks-{:08x}", crc32c::crc32c(at.as_bytes())));
        let own = folder.join(rank.to_string());
        // A folder that cannot be written names nobody, and keeps nobody from joining.
        let _ = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&own, std::process::id().to_string()));
        Present { folder, own, ranks }
    }

    /// Who has not come.
    pub(super) fn missing(&self) -> String {
        let is_there = |rank: &usize| {
            let pid = std::fs::read_to_string(self.folder.join(rank.to_string())).unwrap_or_default();
            !pid.is_empty() && PathBuf::from("/proc").join(pid).exists()
        };
        let missing: Vec<String> = self.ranks.clone().filter(|r| !is_there(r)).map(|r| r.to_string()).collect();
        let host = agree::host();
        match missing.as_slice() {
            [] => format!("all ranks of {host} are there, those of another machine are not"),
            missing => format!("of {host} rank {} has not come so far", missing.join(", ")),
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.own).and_then(|()| std::fs::remove_dir(&self.folder));
    }
}
