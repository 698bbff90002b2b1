//! What launches on the emulator did, counted: sectors, requests, bank conflicts, products, barriers, blocks.
//!
//! The counted build of the kernels calls the emulator before every access (kernels/emu/count.h). Builds for development and
//! tests have it, a release where `HAGGLE_EMU_COUNT=1` says so; it costs nothing where it is not asked for.

use super::launch::{Launch, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a sector: what global memory is read and written in.
pub const SECTOR_BYTES: u64 = 32;

/// Counts of a launch; see `Counts` in kernels/emu/runtime.h. A request is one instruction of a warp.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Loads from global memory, copies to shared memory among them.
    pub read_requests: u64,
    /// The sectors they ask for: 4 a request when 32 lanes read 4 bytes each, side by side.
    pub read_sectors: u64,
    /// Stores and atomics to global memory.
    pub write_requests: u64,
    /// Their sectors.
    pub write_sectors: u64,
    /// Accesses to shared memory.
    pub shared_requests: u64,
    /// Cycles they take: more than `shared_ideal` where lanes ask one bank for different words.
    pub shared_wavefronts: u64,
    /// Cycles they would take without conflicts.
    pub shared_ideal: u64,
    /// Floating-point operations of `mma.sync`.
    pub mma_flops: u64,
    /// Floating-point operations of `wgmma`.
    pub wgmma_flops: u64,
    /// Barriers of blocks.
    pub barriers: u64,
    /// Bytes that asynchronous copies read, `cp.async` and the copy engine's.
    pub copied_bytes: u64,
    /// Bytes of those, and of prefetches, that are asked for before the launches before have ended (`griddepcontrol.wait`).
    pub early_bytes: u64,
    /// The most words of one bank that one access asks for: 2 is a 2-way conflict.
    pub worst_conflict: u64,
    /// Shared memory of a block, in bytes.
    pub shared_bytes: u64,
    /// Bytes that a block's asynchronous copies have under way at once, at most.
    pub flight_bytes: u64,
}

impl Counts {
    /// The same with what is added up made larger, and what is the most of any block left.
    pub(crate) fn scaled(self, whole: impl Fn(u64) -> u64) -> Counts {
        Counts {
            read_requests: whole(self.read_requests),
            read_sectors: whole(self.read_sectors),
            write_requests: whole(self.write_requests),
            write_sectors: whole(self.write_sectors),
            shared_requests: whole(self.shared_requests),
            shared_wavefronts: whole(self.shared_wavefronts),
            shared_ideal: whole(self.shared_ideal),
            mma_flops: whole(self.mma_flops),
            wgmma_flops: whole(self.wgmma_flops),
            barriers: whole(self.barriers),
            copied_bytes: whole(self.copied_bytes),
            early_bytes: whole(self.early_bytes),
            ..self
        }
    }

    /// Cycles lost to bank conflicts.
    pub fn conflicts(&self) -> u64 {
        self.shared_wavefronts - self.shared_ideal
    }
}

/// One launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counted {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Blocks.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// What its blocks did; where only some of them ran ([`super::emu::Emu::spread_blocks`]), what those did, times what they are
    /// of all.
    pub counts: Counts,
    /// Different sectors read, and written, by the launch: what must come from memory, and go there, at least once. Where only
    /// some blocks ran, of each argument in proportion, and not more than it has.
    pub touched: [u64; 2],
}

/// Sectors of an argument: how many it has, read, written.
type Touched = [u64; 3];

/// The launches since counting began, when it has.
#[derive(Default)]
pub(super) struct Counter {
    launches: Mutex<Option<Vec<Counted>>>,
}

impl Counter {
    /// From now on.
    pub fn start(&self) {
        *self.lock() = Some(Vec::new());
    }

    /// Up to now.
    pub fn stop(&self) -> Vec<Counted> {
        self.lock().take().unwrap_or_default()
    }

    pub fn is_on(&self) -> bool {
        self.lock().is_some()
    }

    /// What `ran` of a launch's blocks did, where anybody counts.
    pub fn add(&self, launch: &Launch, counts: Counts, touched: impl Iterator<Item = Touched>, ran: u64) {
        let mut all = self.lock();
        let Some(all) = all.as_mut() else { return };
        let (blocks, threads) =
            (launch.grid.iter().map(|n| u64::from(*n)).product::<u64>(), launch.block.iter().product());
        let whole = |part: u64| (u128::from(part) * u128::from(blocks) / u128::from(ran.max(1))) as u64;
        let touched = touched.fold([0, 0], |sum, [has, read, written]| {
            [sum[0] + whole(read).min(has), sum[1] + whole(written).min(has)]
        });
        all.push(Counted { kernel: launch.kernel, blocks, threads, counts: counts.scaled(whole), touched });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Counted>>> {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sectors that a range begins, holds or ends in.
fn sectors(range: &Range) -> usize {
    range.end / SECTOR_BYTES as usize - range.start / SECTOR_BYTES as usize + 1
}

/// A mark for each sector of these ranges.
pub(super) fn marks(ranges: &[Range]) -> Vec<u8> {
    vec![0; ranges.iter().map(sectors).sum()]
}

/// What the marks say of each range.
pub(super) fn touched<'a>(ranges: &'a [Range], marks: &'a [u8]) -> impl Iterator<Item = Touched> + 'a {
    let mut rest = marks;
    ranges.iter().map_while(move |range| {
        let (own, others) = rest.split_at_checked(sectors(range))?;
        rest = others;
        let with = |bit: u8| own.iter().filter(|mark| **mark & bit != 0).count() as u64;
        Some([own.len() as u64, with(1), with(2)])
    })
}
