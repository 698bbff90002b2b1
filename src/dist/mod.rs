//! Many ranks, the same bits.
//!
//! The one idea: what is added is added in an order that the batch alone decides, so that who adds it does not matter. Samples
//! are dealt into lanes, lanes are summed in a fixed tree ([`lanes`]); everything else that ranks tell each other is a copy.
//! Every rank runs the same program: what is not dealt, each computes for itself, to the same bits.

pub mod agree;
pub mod board;
pub mod cuts;
pub mod join;
pub mod lanes;
pub mod launch;
mod meeting;
mod mpi;
pub mod nccl;
pub mod packet;
mod paper;
pub mod reduce;
pub mod sent;
pub mod shards;
pub mod threads;

pub use cuts::{Cuts, Experts, Kept, Shard, Stretch};
pub use packet::{Packet, Unpack};

use self::board::Board;
use self::join::Sum;
use self::launch::Seat;
use crate::device::nccl::Place;
use crate::device::{Buffer, DType, Device, Element, View, ViewMut};
use crate::error::{Error, Result};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What ranks of one kind need to work together. All of them call the same collectives in the same order.
pub trait Link: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world(&self) -> usize;

    /// `pieces[r]` goes to rank r; returns the piece that each rank had for this one, in their order.
    ///
    /// # Errors
    /// [`Error::Ranks`] naming who is missing, or what the transport says.
    fn all_to_all(&self, call: &Call, pieces: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>;

    /// Each rank's bytes, of any number, in the order of ranks.
    ///
    /// # Errors
    /// As [`Link::all_to_all`].
    fn all_gather(&self, call: &Call, mine: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The device whose memory it moves itself; none where views go as bytes of the host.
    fn device(&self) -> Option<Device> {
        None
    }

    /// Of `from`, `cuts[r]` goes to rank r; what rank r has for this one comes to `places[r]` of `into`.
    ///
    /// # Errors
    /// As [`Link::all_to_all`]; what the device says.
    fn exchange(
        &self,
        call: &Call,
        dev: &Device,
        from: View,
        cuts: &[Range<usize>],
        into: &mut [Buffer],
        places: &[Place],
    ) -> Result<()> {
        let pieces = cuts.iter().map(|cut| bytes_of(dev, from.at(cut.clone()))).collect::<Result<_>>()?;
        let told = self.all_to_all(call, pieces)?;
        for (bytes, (buffer, part)) in told.iter().zip(places).filter(|(_, (_, part))| !part.is_empty()) {
            write_bytes(dev, into[*buffer].at_mut(part.clone()), bytes);
        }
        Ok(())
    }

    /// Brings every rank's part of `data` to all: `cuts[r]` is rank r's, and they lie end to end.
    ///
    /// # Errors
    /// As [`Link::exchange`].
    fn share(&self, call: &Call, dev: &Device, mut data: ViewMut, cuts: &[Range<usize>]) -> Result<()> {
        let told = self.all_gather(call, &bytes_of(dev, data.view().at(cuts[self.rank()].clone()))?)?;
        for (rank, bytes) in told.iter().enumerate().filter(|(rank, _)| *rank != self.rank()) {
            write_bytes(dev, data.reborrow().at(cuts[rank].clone()), bytes);
        }
        Ok(())
    }

    /// True where it can sum, in an order of its own.
    fn sums(&self) -> bool {
        false
    }

    /// Sums `data` f32 over all ranks in an order of its own: then it holds where `cuts` of this rank are.
    ///
    /// # Errors
    /// As [`Link::exchange`]; [`Error::Ranks`] where it cannot sum.
    fn sum(&self, call: &Call, _data: ViewMut, _cuts: &[Range<usize>]) -> Result<()> {
        Err(Error::Ranks { what: format!("{call}: {} sums nothing", self.transport()) })
    }

    /// Ends what every rank waits for: they fail with `why`, or their processes end with this code.
    fn abort(&self, code: u8, why: &str);

    /// What it is, for people.
    fn transport(&self) -> String;

    /// The last collective is done: every rank comes to this.
    fn finish(&self) {}
}

/// A collective, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 1: the same at every rank.
    pub number: u64,
    /// What is told.
    pub what: &'static str,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "collective {} ({})", self.number, self.what)
    }
}

/// The ranks of a run, and which of them this is.
#[derive(Clone)]
pub struct Ranks {
    link: Option<Arc<dyn Link>>,
    calls: Arc<AtomicU64>,
    sent_bytes: Arc<AtomicU64>,
    seat: Seat,
    board: Option<Arc<Board>>,
    sum: Sum,
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.world())
    }
}

impl Ranks {
    /// One rank: nothing is told to anybody.
    pub fn alone() -> Ranks {
        let (calls, sent_bytes) = (Arc::default(), Arc::default());
        Ranks { link: None, calls, sent_bytes, seat: Seat::ALONE, board: None, sum: Sum::Tree }
    }

    /// A rank of so many that are not there: to plan what it holds; whatever it would ask the others is refused.
    pub fn on_paper(rank: usize, world: usize) -> Ranks {
        if world > 1 { Ranks::linked(paper::Paper { rank, world }) } else { Ranks::alone() }
    }

    /// The ranks of a link.
    pub fn linked(link: impl Link + 'static) -> Ranks {
        Ranks { link: Some(Arc::new(link)), ..Ranks::alone() }
    }

    /// The same, whose gradients are added so.
    ///
    /// # Errors
    /// [`Error::Config`] where these ranks cannot.
    pub fn summing(self, sum: Sum) -> Result<Ranks> {
        if sum == Sum::Nccl && !self.link.as_ref().is_some_and(|link| link.sums()) {
            let what =
                format!("dist.sum: nccl adds for ranks that meet over NCCL, these: {}; set tree", self.transport());
            return Err(Error::Config { problems: vec![what] });
        }
        Ok(Ranks { sum, ..self })
    }

    /// Who adds gradients.
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// The same, watched: a rank that waits too long for another ends the run. For ranks that are processes.
    pub fn watched(self) -> Ranks {
        Ranks { board: self.link.as_ref().map(Board::watched), ..self }
    }

    /// From here on ranks write what they are at into the run directory, and wait for each other so long at most.
    pub fn board(&self, run: &Path, limit: Duration) {
        self.board.iter().for_each(|board| board.place(run, limit));
    }

    /// What this rank does now, for those who miss it.
    pub fn phase(&self, phase: &'static str) {
        self.board.iter().for_each(|board| board.phase(phase));
    }

    /// The same ranks, this one with its seat on its machine.
    pub fn seated(self, seat: Seat) -> Ranks {
        Ranks { seat, ..self }
    }

    /// This rank among those of its machine.
    pub fn seat(&self) -> Seat {
        self.seat
    }

    /// How many of these ranks, this one among them, share a machine.
    pub fn local_world(&self) -> usize {
        self.seat.local_world
    }

    /// The device that ranks tell each other's memory of, where their transport does that.
    pub fn device(&self) -> Option<Device> {
        self.link.as_ref().and_then(|link| link.device())
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.rank())
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.world())
    }

    /// What ranks talk over.
    pub fn transport(&self) -> String {
        self.link.as_ref().map_or("none: no launcher started more than one rank".into(), |link| link.transport())
    }

    /// True for the rank that prints and writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Bytes that this rank has sent to others.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// This rank's run of `n` things in order: [`Ranks::dealt_to`] it.
    pub fn dealt(&self, n: usize) -> Range<usize> {
        self.dealt_to(self.rank(), n)
    }

    /// A rank's run of `n` things in order, as even as it goes.
    pub fn dealt_to(&self, rank: usize, n: usize) -> Range<usize> {
        cuts::dealt(rank, self.world(), n)
    }

    /// Ends the run at every rank, with this exit code where they are processes.
    pub fn abort(&self, code: u8, why: &str) {
        if let Some(link) = &self.link {
            link.abort(code, why);
        }
    }

    /// Nothing will be told any more: every rank comes to this, once.
    pub fn finish(&self) {
        if let Some(link) = &self.link {
            link.finish();
        }
    }

    /// Comes to the next collective, in which this rank sends so many bytes.
    fn comes(&self, what: &'static str, bytes: usize) -> Call {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let call = Call { number: self.calls.fetch_add(1, Ordering::Relaxed) + 1, what };
        self.board.iter().for_each(|board| board.comes(call));
        call
    }

    fn leaves(&self) {
        self.board.iter().for_each(|board| board.leaves());
    }

    /// Each rank's bytes, of any number, in the order of ranks.
    ///
    /// # Errors
    /// As [`Link::all_gather`].
    pub fn gather(&self, what: &'static str, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(link) = &self.link else { return Ok(vec![mine.to_vec()]) };
        let call = self.comes(what, mine.len() * (self.world() - 1));
        let told = link.all_gather(&call, mine);
        self.leaves();
        told
    }

    /// Each rank's bytes, of any number, at the first rank in the order of ranks; at the others nothing.
    ///
    /// # Errors
    /// As [`Link::all_to_all`].
    pub fn bring(&self, what: &'static str, mine: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let mut pieces = vec![Vec::new(); self.world()];
        pieces[0] = mine;
        self.tell(what, pieces)
    }

    /// `pieces[r]` goes to rank r; returns what each rank had for this one, in their order.
    ///
    /// # Errors
    /// As [`Link::all_to_all`].
    pub fn tell(&self, what: &'static str, pieces: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let Some(link) = &self.link else { return Ok(pieces) };
        let sent: usize = pieces.iter().map(Vec::len).sum::<usize>() - pieces[self.rank()].len();
        let call = self.comes(what, sent);
        let told = link.all_to_all(&call, pieces);
        self.leaves();
        told
    }

    /// Waits until every rank is here.
    ///
    /// # Errors
    /// As [`Link::all_gather`].
    pub fn meet(&self, what: &'static str) -> Result<()> {
        self.gather(what, &[]).map(drop)
    }

    /// True where any rank says so.
    ///
    /// # Errors
    /// As [`Link::all_gather`].
    pub fn any(&self, what: &'static str, mine: bool) -> Result<bool> {
        Ok(self.gather(what, &[u8::from(mine)])?.iter().any(|theirs| theirs == &[1]))
    }

    /// What this rank did, once every rank has done it: an error anywhere is an error at every rank.
    ///
    /// # Errors
    /// This rank's own; else the first other rank's, named.
    pub fn agree<T>(&self, what: &'static str, mine: Result<T>) -> Result<T> {
        let told = self.gather(what, &Packet::of_outcome(mine.as_ref().err()))?;
        let mine = mine?;
        for (rank, bytes) in told.iter().enumerate() {
            Unpack::of(bytes).outcome(rank)?;
        }
        Ok(mine)
    }
}

/// The bytes of a view.
///
/// # Errors
/// What the device met since.
pub fn bytes_of(dev: &Device, view: View) -> Result<Vec<u8>> {
    fn of<T: Element>(dev: &Device, view: View) -> Result<Vec<u8>> {
        Ok(bytemuck::cast_slice(&dev.download::<T>(view)?).to_vec())
    }
    match view.dtype() {
        DType::F32 => of::<f32>(dev, view),
        DType::Bf16 => of::<half::bf16>(dev, view),
        DType::I32 => of::<i32>(dev, view),
        DType::U64 => of::<u64>(dev, view),
    }
}

/// Writes the bytes of a view.
///
/// # Panics
/// When there are not as many as it holds.
pub fn write_bytes(dev: &Device, view: ViewMut, bytes: &[u8]) {
    fn to<T: Element>(dev: &Device, view: ViewMut, bytes: &[u8]) {
        dev.write(view, &packet::numbers::<T>(bytes));
    }
    match view.dtype() {
        DType::F32 => to::<f32>(dev, view, bytes),
        DType::Bf16 => to::<half::bf16>(dev, view, bytes),
        DType::I32 => to::<i32>(dev, view, bytes),
        DType::U64 => to::<u64>(dev, view, bytes),
    }
}

/// What a rank failed at, told by another.
pub(crate) fn failed(rank: usize, what: &str) -> Error {
    Error::Ranks { what: format!("rank {rank} failed: {what}") }
}
