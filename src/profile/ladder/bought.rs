//! What a rung bought against the one before, and what that costs: in words made of their numbers.

use super::{Climbed, Did, Sums};

/// A ratio below this is no difference.
const LEAST: f64 = 1.1;
/// Conflicts, over cycles without, that are as good as none.
const FEW: f64 = 0.05;

/// What got better, and what got worse.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bought {
    /// `144x fewer bytes asked for`, ...
    pub gains: Vec<String>,
    /// The same of what it costs.
    pub costs: Vec<String>,
}

/// Of a rung against the one before.
pub fn bought(before: &Climbed, after: &Climbed) -> Bought {
    let [was, is] = [before, after].map(|rung| rung.scratch_bytes as f64);
    let mut changes = vec![Change { what: "memory kept beside inputs and outputs", was, is, less: true }];
    match (&before.did, &after.did) {
        (Did::Counted(was), Did::Counted(is)) => counted(&mut changes, was, is),
        (Did::Timed(was), Did::Timed(is)) => {
            changes.push(Change { what: "time, measured", was: *was, is: *is, less: true });
        }
        _ => {}
    }
    let (gains, costs): (Vec<Change>, Vec<Change>) =
        changes.into_iter().filter(|change| change.ratio() >= LEAST).partition(Change::is_gain);
    let said = |changes: Vec<Change>| changes.iter().map(Change::text).collect();
    Bought { gains: said(gains), costs: said(costs) }
}

fn counted(changes: &mut Vec<Change>, was: &Sums, is: &Sums) {
    let mut add = |what, number: fn(&Sums) -> f64, less| {
        changes.push(Change { what, was: number(was), is: number(is), less });
    };
    let on_tensor_cores: fn(&Sums) -> f64 = |s| (s.counts.mma_flops + s.counts.wgmma_flops) as f64;
    add("bytes asked for", |s| s.sectors() as f64, true);
    // That there are any is a gain; more of them are products of what lies outside the op.
    add("FLOP on tensor cores", on_tensor_cores, on_tensor_cores(was) > 0.0);
    add("cycles lost to bank conflicts", |s| if s.conflicts() < FEW { 0.0 } else { s.counts.conflicts() as f64 }, true);
    add("cycles of shared memory by threads", |s| s.counts.shared_wavefronts as f64, true);
    add("bytes that a block has under way", |s| s.counts.flight_bytes as f64, false);
    add("launches", |s| s.launches as f64, true);
    add("time at this shape, predicted", |s| s.us, true);
    add("time on a busy card, predicted", |s| s.busy.us, true);
}

/// A number that may have changed.
struct Change {
    what: &'static str,
    was: f64,
    is: f64,
    /// Whether less of it is better.
    less: bool,
}

impl Change {
    /// How many times the smaller the larger is.
    fn ratio(&self) -> f64 {
        let (low, high) = (self.was.min(self.is), self.was.max(self.is));
        if high <= 0.0 { 1.0 } else { high / low }
    }

    fn is_gain(&self) -> bool {
        (self.is < self.was) == self.less
    }

    fn text(&self) -> String {
        let Change { what, was, is, .. } = self;
        let ratio = self.ratio();
        let times = if ratio < 9.95 { format!("{ratio:.1}x") } else { format!("{ratio:.0}x") };
        let fewer = if what.starts_with("time") || what.starts_with("memory") { "less" } else { "fewer" };
        match (*was == 0.0, *is == 0.0) {
            (_, true) => format!("no {what} any more"),
            (true, _) => format!("{what}, where there were none"),
            _ if is < was => format!("{times} {fewer} {what}"),
            _ => format!("{times} the {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::counts::{Counted, Counts};
    use crate::device::record::Cost;
    use crate::ops::gemm::ladder::RUNGS;

    fn climbed(did: Did, scratch_bytes: usize) -> Climbed {
        Climbed { rung: RUNGS[0].0, shape: String::new(), cost: Cost::default(), scratch_bytes, did }
    }

    fn counted(read_sectors: u64, shared_wavefronts: u64, mma_flops: u64) -> Did {
        let counts = Counts { read_sectors, shared_wavefronts, shared_ideal: 8, mma_flops, ..Counts::default() };
        Did::Counted(Sums::of(&[Counted { kernel: "k", blocks: 1, threads: 32, counts, touched: [1, 1] }], 1.0))
    }

    #[test]
    fn gains_are_told_and_what_they_cost_is_not_kept_silent() {
        let (plain, tensor) = (climbed(counted(288, 8, 0), 0), climbed(counted(2, 64, 4096), 0));
        let Bought { gains, costs } = bought(&plain, &tensor);
        assert_eq!(gains[..2], ["144x fewer bytes asked for", "FLOP on tensor cores, where there were none"]);
        assert_eq!(
            costs[..2],
            ["cycles lost to bank conflicts, where there were none", "8.0x the cycles of shared memory by threads"]
        );
        let back = bought(&tensor, &plain);
        assert!(back.gains.contains(&"no cycles lost to bank conflicts any more".into()), "{back:?}");
        assert_eq!(back.costs[0], "144x the bytes asked for");
    }

    #[test]
    fn what_stayed_as_it_was_is_not_bought() {
        let same = climbed(counted(288, 8, 0), 0);
        assert_eq!(bought(&same, &same), Bought::default());
    }

    #[test]
    fn on_a_gpu_it_is_time_and_memory() {
        let Bought { gains, costs } = bought(&climbed(Did::Timed(30.0), 1 << 20), &climbed(Did::Timed(12.0), 0));
        assert_eq!(gains, ["no memory kept beside inputs and outputs any more", "2.5x less time, measured"]);
        assert!(costs.is_empty());
    }
}
