//! NCCL, loaded at run time: memory of GPUs goes from rank to rank without a detour over the host.
//!
//! The one idea: everything is a copy, as grouped sends and receives of bytes or an all-gather of equal pieces, on the device's
//! own stream; sums are this program's, in an order of its own, so that NCCL's algorithms never decide a bit, but where NCCL is
//! asked for sums by name ([`Nccl::sum`]). Bytes of the host go through a staging buffer on the device. Nothing of NCCL is needed to build. **It has run on the double of the tests
//! (tests/dist/nccl_double), which moves memory of the host, and not on several GPUs.**

mod comm;
mod library;
mod staging;

pub use library::{Library, UniqueId};

use crate::device::{Buffer, DType, Device, View, ViewMut};
use crate::error::{Error, Result};
use comm::{Asking, Comm, Move};
use staging::Staging;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where a piece comes to: the buffer's number, and its part.
pub type Place = (usize, Range<usize>);

/// How long one rank alone may take to begin.
const ALONE: Duration = Duration::from_secs(60);

/// How ranks begin.
pub struct Joining<'a> {
    /// The library.
    pub library: Arc<Library>,
    /// What all ranks of the run have alike.
    pub id: UniqueId,
    /// The number of this rank, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// How long they wait for each other.
    pub limit: Duration,
    /// Says who has not come.
    pub missing: &'a dyn Fn() -> String,
}

/// Begins one rank alone, and ends it: whether the library works on this machine.
///
/// # Errors
/// [`Error::Ranks`] with what the library says.
pub fn starts(library: &Arc<Library>) -> Result<()> {
    let id = library.new_id()?;
    let comm = Comm::begin(library.clone(), id, 0, 1, ALONE, &|| "it is alone".into())?;
    comm.finish();
    Ok(())
}

/// A rank that speaks NCCL, and the device whose memory it tells.
pub struct Nccl {
    comm: Comm,
    dev: Device,
    staging: Mutex<Staging>,
}

impl Nccl {
    /// Joins the ranks of an id.
    ///
    /// # Errors
    /// [`Error::Ranks`] with what the library says, who is missing, or that it does not move this device's memory.
    pub fn begin(dev: Device, how: Joining) -> Result<Nccl> {
        let Joining { library, id, rank, world, limit, missing } = how;
        dev.enter()?;
        if !dev.has_own_memory() && !library.takes_host_memory {
            let what = format!(
                "{library:?} moves memory of GPUs, and {} is none: --device cuda; or start with mpirun or srun, whose ranks \
                 meet over MPI",
                dev.name()
            );
            return Err(Error::Ranks { what });
        }
        let comm = Comm::begin(library, id, rank, world, limit, missing)?;
        let staging = Mutex::new(Staging::new(&dev, world)?);
        Ok(Nccl { comm, dev, staging })
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.comm.rank
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.comm.world
    }

    /// The library.
    pub fn library(&self) -> &Library {
        &self.comm.library
    }

    /// The device whose memory it tells.
    pub fn device(&self) -> &Device {
        &self.dev
    }

    /// Does a group of moves; they are done when it returns.
    fn moved(&self, what: &str, moves: &[Move]) -> Result<()> {
        self.dev.enter()?;
        self.comm.group(what, moves, self.dev.stream())?;
        let asking = Asking::begin();
        loop {
            // Asked first: what is not begun is not on the stream yet.
            if self.comm.is_idle(what)? && self.dev.is_idle()? {
                return Ok(());
            }
            asking.pause();
        }
    }

    /// Of `from`, `cuts[r]` goes to rank r; what rank r has for this one comes to `places[r]` of `into`.
    ///
    /// # Errors
    /// [`Error::Ranks`] with what the library says; what the device says.
    ///
    /// # Panics
    /// When a part is not of this device's buffers.
    pub fn exchange(
        &self,
        what: &str,
        from: View,
        cuts: &[Range<usize>],
        into: &mut [Buffer],
        places: &[Place],
    ) -> Result<()> {
        let mut moves = Vec::with_capacity(2 * self.world());
        for (to, cut) in cuts.iter().enumerate().filter(|(_, cut)| !cut.is_empty()) {
            let part = from.at(cut.clone());
            moves.push(Move::Send { from: part.address(), bytes: bytes(part.len(), part.dtype()), to });
        }
        for (from, (buffer, part)) in places.iter().enumerate().filter(|(_, (_, part))| !part.is_empty()) {
            let mut part = into[*buffer].at_mut(part.clone());
            let bytes = bytes(part.len(), part.dtype());
            moves.push(Move::Receive { into: part.address(), bytes, from });
        }
        self.moved(what, &moves)
    }

    /// Brings every rank's part of `data` to all: `cuts[r]` is rank r's, and they lie end to end.
    ///
    /// # Errors
    /// As [`Nccl::exchange`].
    pub fn share(&self, what: &str, mut data: ViewMut, cuts: &[Range<usize>]) -> Result<()> {
        let (dtype, own) = (data.dtype(), cuts[self.rank()].clone());
        let from = data.view().at(own.clone()).address();
        if cuts.iter().all(|cut| cut.len() == own.len()) {
            let into = data.reborrow().at(cuts[0].clone()).address();
            return self.moved(what, &[Move::GatherAll { from, into, bytes: bytes(own.len(), dtype) }]);
        }
        let mut moves = Vec::with_capacity(2 * self.world());
        for (rank, cut) in cuts.iter().enumerate().filter(|(rank, _)| *rank != self.rank()) {
            if !own.is_empty() {
                moves.push(Move::Send { from, bytes: bytes(own.len(), dtype), to: rank });
            }
            if !cut.is_empty() {
                let into = data.reborrow().at(cut.clone()).address();
                moves.push(Move::Receive { into, bytes: bytes(cut.len(), dtype), from: rank });
            }
        }
        self.moved(what, &moves)
    }

    /// Sums `data` f32 over all ranks in NCCL's own order: then it holds where `cuts` of this rank are. A reduce-scatter where all
    /// are of one length, else an all-reduce.
    ///
    /// # Errors
    /// As [`Nccl::exchange`].
    pub fn sum(&self, what: &str, data: ViewMut, cuts: &[Range<usize>]) -> Result<()> {
        let (own, all) = (cuts[self.rank()].clone(), cuts[0].start..cuts[cuts.len() - 1].end);
        let from = data.view().at(all.clone()).address();
        if cuts.iter().all(|cut| cut.len() == own.len()) {
            let count = own.len();
            return self.moved(what, &[Move::SumScattered { from, into: data.at(own).address(), count }]);
        }
        let count = all.len();
        self.moved(what, &[Move::SumAll { from, into: data.at(all).address(), count }])
    }

    /// `pieces[r]`, of the host, goes to rank r; returns each rank's piece for this one, in their order.
    ///
    /// # Errors
    /// As [`Nccl::exchange`].
    pub fn all_to_all(&self, what: &str, pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner).all_to_all(self, what, pieces)
    }

    /// Ends what all ranks wait for: their collectives fail, this one's with `why`. From any thread.
    pub fn abort(&self, why: &str) {
        self.comm.abort(why);
    }

    /// Ends it in peace: every rank comes to this behind its last collective.
    pub fn finish(&self) {
        self.comm.finish();
    }
}

fn bytes(len: usize, dtype: DType) -> usize {
    len * dtype.size()
}
