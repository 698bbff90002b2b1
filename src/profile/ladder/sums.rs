//! What the launches of one call did, added up.

use crate::device::gpu::counts::{Counted, Counts, SECTOR_BYTES};
use crate::device::record::Cost;
use crate::profile::predict::{H100, predict};
use serde_json::{Value, json};

/// Copies of a launch that fill a card many times over.
const MANY: u64 = 1 << 20;

/// The launches of a call, added up; times are predicted, never measured.
#[derive(Debug, Clone)]
pub struct Sums {
    /// The kernel of the launch that takes longest.
    pub kernel: &'static str,
    /// Its blocks.
    pub blocks: u64,
    /// Launches.
    pub launches: usize,
    /// Of all of them; what is not added up is the most.
    pub counts: Counts,
    /// Different sectors that each reads and writes.
    pub touched: u64,
    /// Microseconds on an H100, of this shape.
    pub us: f64,
    /// What the longest launch is bound by.
    pub bound: &'static str,
    /// The same on a card that is busy with nothing else.
    pub busy: Busy,
}

/// What a call takes of a card that is full of such calls, their operands in its caches: the rate that the kernel itself allows,
/// where its shape is no limit.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    /// Microseconds of the whole card.
    pub us: f64,
    /// What the longest launch is bound by.
    pub bound: &'static str,
}

impl Sums {
    /// Of launches that compute `flops` together by their formula.
    pub fn of(launches: &[Counted], flops: f64) -> Sums {
        // Where tensor cores do the products, what is left beside them is no product.
        let by_tensor_cores = launches.iter().any(|l| l.counts.mma_flops + l.counts.wgmma_flops > 0);
        let sectors = |l: &Counted| l.counts.read_sectors + l.counts.write_sectors;
        let most = launches.iter().map(sectors).max().unwrap_or(0);
        let mut sums = Sums {
            kernel: "",
            blocks: 0,
            launches: launches.len(),
            counts: Counts::default(),
            touched: 0,
            us: 0.0,
            bound: "",
            busy: Busy { us: 0.0, bound: "" },
        };
        let (mut longest, mut longest_busy) = (0.0, 0.0);
        for launch in launches {
            let plain = if sectors(launch) == most && !by_tensor_cores { flops } else { 0.0 };
            let (here, busy) = (predict(&H100, launch, plain), predict(&H100, &many(launch), plain * MANY as f64));
            if here.us > longest {
                longest = here.us;
                (sums.kernel, sums.blocks, sums.bound) = (launch.kernel, launch.blocks, here.bound);
            }
            if busy.us > longest_busy {
                longest_busy = busy.us;
                sums.busy.bound = busy.bound;
            }
            sums.us += here.us;
            sums.busy.us += busy.us / MANY as f64;
            sums.touched += launch.touched[0] + launch.touched[1];
            sums.counts = added(&sums.counts, &launch.counts);
        }
        sums
    }

    /// Sectors asked for.
    pub fn sectors(&self) -> u64 {
        self.counts.read_sectors + self.counts.write_sectors
    }

    /// Bytes asked for, and touched at least once, over the formula's.
    pub fn bytes_of_formula(&self, cost: Cost) -> [f64; 2] {
        [self.sectors(), self.touched].map(|sectors| (sectors * SECTOR_BYTES) as f64 / cost.bytes.max(1.0))
    }

    /// FLOPs of `mma.sync` and of `wgmma` over the formula's.
    pub fn flops_of_formula(&self, cost: Cost) -> [f64; 2] {
        [self.counts.mma_flops, self.counts.wgmma_flops].map(|flops| flops as f64 / cost.flops.max(1.0))
    }

    /// Cycles lost to bank conflicts over those without.
    pub fn conflicts(&self) -> f64 {
        self.counts.conflicts() as f64 / self.counts.shared_ideal.max(1) as f64
    }

    /// For machines.
    pub(super) fn json(&self, cost: Cost) -> Value {
        let c = &self.counts;
        json!({
            "kernel": self.kernel, "blocks": self.blocks, "launches": self.launches, "read_sectors": c.read_sectors,
            "read_requests": c.read_requests, "write_sectors": c.write_sectors, "write_requests": c.write_requests,
            "touched_sectors": self.touched, "shared_wavefronts": c.shared_wavefronts, "conflicts": c.conflicts(),
            "worst_conflict": c.worst_conflict, "mma_flops": c.mma_flops, "wgmma_flops": c.wgmma_flops,
            "flight_bytes": c.flight_bytes, "predicted_us": self.us, "bound": self.bound,
            "busy_card_us": self.busy.us, "busy_card_tflop_per_s": cost.flops / self.busy.us / 1e6,
            "busy_card_bound": self.busy.bound,
        })
    }
}

/// So many copies of a launch, their operands in a cache.
fn many(launch: &Counted) -> Counted {
    let counts = launch.counts.scaled(|n| n * MANY);
    Counted { blocks: launch.blocks * MANY, counts, touched: [0, 0], ..*launch }
}

fn added(a: &Counts, b: &Counts) -> Counts {
    Counts {
        read_requests: a.read_requests + b.read_requests,
        read_sectors: a.read_sectors + b.read_sectors,
        write_requests: a.write_requests + b.write_requests,
        write_sectors: a.write_sectors + b.write_sectors,
        shared_requests: a.shared_requests + b.shared_requests,
        shared_wavefronts: a.shared_wavefronts + b.shared_wavefronts,
        shared_ideal: a.shared_ideal + b.shared_ideal,
        mma_flops: a.mma_flops + b.mma_flops,
        wgmma_flops: a.wgmma_flops + b.wgmma_flops,
        barriers: a.barriers + b.barriers,
        copied_bytes: a.copied_bytes + b.copied_bytes,
        early_bytes: a.early_bytes + b.early_bytes,
        worst_conflict: a.worst_conflict.max(b.worst_conflict),
        shared_bytes: a.shared_bytes.max(b.shared_bytes),
        flight_bytes: a.flight_bytes.max(b.flight_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(kernel: &'static str, blocks: u64, counts: Counts) -> Counted {
        Counted { kernel, blocks, threads: 128, counts, touched: [3, 1] }
    }

    #[test]
    fn launches_are_added_up_and_the_longest_names_the_call() {
        let product = Counts { wgmma_flops: 989_400_000, worst_conflict: 2, ..Counts::default() };
        let walk = Counts { read_sectors: 40, shared_wavefronts: 3, shared_ideal: 2, ..Counts::default() };
        let sums = Sums::of(&[launch("walk", 1, walk), launch("product", 132, product)], 989_400_000.0);
        assert_eq!((sums.kernel, sums.blocks, sums.launches, sums.bound), ("product", 132, 2, "tensor cores"));
        assert_eq!((sums.sectors(), sums.touched, sums.counts.worst_conflict, sums.conflicts()), (40, 8, 2, 0.5));
    }

    /// Alone two blocks use a 66th of the card; full of such launches it has the rate of its tensor cores.
    #[test]
    fn a_busy_card_does_not_wait_for_blocks_that_are_not_there() {
        let counts = Counts { wgmma_flops: 989_400_000, ..Counts::default() };
        let sums = Sums::of(&[launch("k", 2, counts)], 989_400_000.0);
        assert!((sums.us - 66.0).abs() < 1e-6 && (sums.busy.us - 1.0).abs() < 1e-3, "{sums:?}");
    }
}
