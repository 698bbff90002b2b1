//! What ranks send of gradients, weights and rows of experts: the formula that a dry run prints, and that runs report beside what
//! they sent.
//!
//! The one idea: everything that is sent for is one of a few things, each of known bytes; so a formula is a count of them.

use super::{Cuts, Shard};
use std::ops::Range;

/// How often a rank has done what others are told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// A gradient of every parameter went to those who keep it: once an update, or once each micro-batch.
    pub sums: u64,
    /// What forwards read was renewed at every rank, or brought together for a rollout.
    pub renewals: u64,
    /// Weights were brought together layer by layer for a forward.
    pub forwards: u64,
    /// And again for its backward.
    pub backwards: u64,
    /// Rows that went to an expert at another rank.
    pub rows: u64,
    /// Rows that went back from one.
    pub rows_back: u64,
}

impl Done {
    /// Notes rows that went to experts elsewhere, and back.
    pub fn note_rows(&mut self, [there, back]: [u64; 2]) {
        self.rows += there;
        self.rows_back += back;
    }

    /// What was done since.
    pub fn since(self, before: Done) -> Done {
        Done {
            sums: self.sums - before.sums,
            renewals: self.renewals - before.renewals,
            forwards: self.forwards - before.forwards,
            backwards: self.backwards - before.backwards,
            rows: self.rows - before.rows,
            rows_back: self.rows_back - before.rows_back,
        }
    }
}

/// Bytes that a rank sends for one of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// A gradient of every parameter that all sum, f32: all but what it keeps itself, a piece to each.
    pub gradient: u64,
    /// What forwards read of all that it keeps, to all others: on average, with a gradient, `2 (N - 1) / N` of both, as much as
    /// a ring sends.
    pub weights: u64,
    /// The same of what all bring together for a forward: not of experts that are spread.
    pub forward: u64,
    /// Of that all layers but the last: the backward finds that one, the head, and where it is tied the embedding.
    pub layers: u64,
    /// A row to an expert, and back.
    pub rows: [u64; 2],
}

/// Sizes of what goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes that forwards read of a parameter.
    pub weight: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Bytes of a row to an expert, and back.
    pub rows: [usize; 2],
}

impl Wire {
    /// Of a rank.
    pub fn of(cuts: &Cuts, rank: usize, sizes: Sizes) -> Wire {
        let others = sizes.weight * (cuts.world() - 1);
        let gathered = |buckets: Range<usize>| buckets.flat_map(|bucket| cuts.gathered(bucket));
        let own = |buckets| gathered(buckets).map(|cuts| cuts[rank].len()).sum::<usize>();
        let (all, again) = (0..cuts.n_buckets(), 1..sizes.layers.min(cuts.n_buckets()));
        let summed: usize = gathered(all.clone()).flatten().map(Range::len).sum();
        Wire {
            gradient: (size_of::<f32>() * (summed - own(all.clone()))) as u64,
            weights: (others * cuts.kept(rank).len()) as u64,
            forward: (others * own(all)) as u64,
            layers: (others * own(again)) as u64,
            rows: sizes.rows.map(|bytes| bytes as u64),
        }
    }

    /// Bytes of all that was done: of gradients, of weights, and of rows of experts.
    pub fn bytes(&self, done: Done) -> [u64; 3] {
        [
            done.sums * self.gradient,
            done.renewals * self.weights + done.forwards * self.forward + done.backwards * self.layers,
            done.rows * self.rows[0] + done.rows_back * self.rows[1],
        ]
    }
}

/// The rank that keeps most, of equals the first: whose plan is the largest.
pub fn fullest(cuts: &Cuts) -> usize {
    let kept = |rank: usize| cuts.kept(rank).len();
    let most = (0..cuts.world()).map(kept).max();
    (0..cuts.world()).find(|rank| Some(kept(*rank)) == most).unwrap_or(0)
}

/// What the rank that sends most sends for what all do alike.
pub fn most_sent_bytes(cuts: &Cuts, sizes: Sizes, done: Done) -> [u64; 3] {
    let of = |rank: usize| Wire::of(cuts, rank, sizes).bytes(done);
    (0..cuts.world()).map(of).max_by_key(|sent| sent.iter().sum::<u64>()).unwrap_or_default()
}

impl Shard {
    /// What is done in an update whose lanes have `rounds` micro-batches at most, `own` of them this rank's.
    pub fn done_in_update(self, rounds: u64, own: u64) -> Done {
        let sums = rounds * own;
        match self {
            Shard::Moments => Done { sums: 1, renewals: 1, ..Done::default() },
            Shard::Gradients => Done { sums, renewals: 1, ..Done::default() },
            Shard::Weights => Done { sums, forwards: sums, backwards: sums, ..Done::default() },
        }
    }

    /// What is done for a rollout.
    pub fn done_to_play(self) -> Done {
        Done { renewals: u64::from(self == Shard::Weights), ..Done::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Experts, Stretch};
    use super::*;

    fn sizes(weight: usize, layers: usize) -> Sizes {
        Sizes { weight, layers, rows: [10, 20] }
    }

    fn plain<const N: usize>(buckets: [Range<usize>; N]) -> Vec<Vec<Stretch>> {
        buckets.map(|bucket| vec![Stretch::plain(bucket)]).into()
    }

    #[test]
    fn all_ranks_together_send_what_a_ring_sends_and_the_most_is_one_of_them() {
        let done = Done { sums: 1, renewals: 1, ..Done::default() };
        for (n, world, size) in [(1_000_003, 8, 2), (1_000_003, 3, 4), (64 * 1024, 4, 4), (5, 1, 4)] {
            let buckets = plain([0..n / 3, n / 3..n / 2, n / 2..n]);
            for cuts in [Cuts::whole(n, world), Cuts::of(&buckets, world, Experts::Everywhere)] {
                let each: Vec<_> = (0..world).map(|rank| Wire::of(&cuts, rank, sizes(size, 2)).bytes(done)).collect();
                let all: u64 = each.iter().flatten().sum();
                assert_eq!(all, ((world - 1) * n * (4 + size)) as u64);
                let most = most_sent_bytes(&cuts, sizes(size, 2), done);
                assert!(each.contains(&most) && each.iter().all(|e| e.iter().sum::<u64>() <= most.iter().sum()));
                assert!((0..world).all(|rank| cuts.kept(rank).len() <= cuts.kept(fullest(&cuts)).len()));
            }
        }
    }

    #[test]
    fn a_backward_gathers_every_layer_but_the_last_again() {
        // Embedding, three layers, head.
        let buckets = plain([0..640, 640..1280, 1280..1920, 1920..2560, 2560..3200]);
        let wire = Wire::of(&Cuts::of(&buckets, 2, Experts::Everywhere), 0, sizes(2, 3));
        let weights = 2 * 1600;
        assert_eq!(wire, Wire { gradient: 4 * 1600, weights, forward: weights, layers: 2 * 640, rows: [10, 20] });
        let done = Shard::Weights.done_in_update(3, 2);
        assert_eq!(wire.bytes(done), [6 * 6400, 6 * (3200 + 1280), 0]);
        assert_eq!(Shard::Moments.done_in_update(3, 2), Done { sums: 1, renewals: 1, ..Done::default() });
    }

    #[test]
    fn of_experts_that_are_spread_rows_go_and_nothing_else_but_for_a_rollout() {
        let layer = |start: usize| {
            vec![Stretch::plain(start..start + 128), Stretch { range: start + 128..start + 1152, experts: 4 }]
        };
        let buckets = vec![vec![Stretch::plain(0..640)], layer(640), layer(1792)];
        let cuts = Cuts::of(&buckets, 2, Experts::Spread);
        let wire = Wire::of(&cuts, 0, sizes(2, 2));
        let (dense, all) = (320 + 2 * 64, 320 + 2 * (64 + 512));
        let want = Wire { gradient: 4 * dense, weights: 2 * all, forward: 2 * dense, layers: 2 * 64, rows: [10, 20] };
        assert_eq!(wire, want);
        let done = Done { rows: 7, rows_back: 5, renewals: 1, ..Shard::Weights.done_in_update(1, 1) };
        assert_eq!(wire.bytes(done), [4 * dense, 2 * all + 2 * dense + 2 * 64, 7 * 10 + 5 * 20]);
    }
}
