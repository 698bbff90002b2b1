//! What ranks send of gradients and weights: the formula that a dry run prints, and that runs report beside what they sent.
//!
//! The one idea: everything that is sent for is one of a few things, each of known bytes; so a formula is a count of them.

use super::{Cuts, Shard};

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
}

impl Done {
    /// What was done since.
    pub fn since(self, before: Done) -> Done {
        Done {
            sums: self.sums - before.sums,
            renewals: self.renewals - before.renewals,
            forwards: self.forwards - before.forwards,
            backwards: self.backwards - before.backwards,
        }
    }
}

/// Bytes that a rank sends for one of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// A gradient of every parameter, f32: all but what it keeps itself, a piece to each.
    pub gradient: u64,
    /// What forwards read of all that it keeps, to all others: on average, with a gradient, `2 (N - 1) / N` of both, as much as
    /// a ring sends.
    pub weights: u64,
    /// The same of all layers but the last: the backward finds that one, the head, and where it is tied the embedding.
    pub layers: u64,
}

impl Wire {
    /// Of a rank, where forwards read `weight_size` bytes of each parameter and a model has so many layers.
    pub fn of(cuts: &Cuts, rank: usize, weight_size: usize, layers: usize) -> Wire {
        let (own, others) = (cuts.kept(rank), weight_size * (cuts.world() - 1));
        let again = (1..layers.min(cuts.n_buckets())).map(|bucket| cuts.of_bucket(bucket, rank).len());
        Wire {
            gradient: (size_of::<f32>() * (cuts.n_elements() - own.len())) as u64,
            weights: (others * own.len()) as u64,
            layers: (others * again.sum::<usize>()) as u64,
        }
    }

    /// Bytes of all that was done: of gradients and of weights.
    pub fn bytes(&self, done: Done) -> [u64; 2] {
        [done.sums * self.gradient, (done.renewals + done.forwards) * self.weights + done.backwards * self.layers]
    }
}

/// The rank that keeps most, of equals the first: whose plan is the largest.
pub fn fullest(cuts: &Cuts) -> usize {
    let kept = |rank: usize| cuts.kept(rank).len();
    let most = (0..cuts.world()).map(kept).max();
    (0..cuts.world()).find(|rank| Some(kept(*rank)) == most).unwrap_or(0)
}

/// What the rank that sends most sends for what all do alike.
pub fn most_sent_bytes(cuts: &Cuts, weight_size: usize, layers: usize, done: Done) -> [u64; 2] {
    let of = |rank: usize| Wire::of(cuts, rank, weight_size, layers).bytes(done);
    (0..cuts.world()).map(of).max_by_key(|sent| sent.iter().sum::<u64>()).unwrap_or_default()
}

impl Shard {
    /// What is done in an update whose lanes have `rounds` micro-batches at most, `own` of them this rank's.
    pub fn done_in_update(self, rounds: u64, own: u64) -> Done {
        let sums = rounds * own;
        match self {
            Shard::Moments => Done { sums: 1, renewals: 1, ..Done::default() },
            Shard::Gradients => Done { sums, renewals: 1, ..Done::default() },
            Shard::Weights => Done { sums, renewals: 0, forwards: sums, backwards: sums },
        }
    }

    /// What is done for a rollout.
    pub fn done_to_play(self) -> Done {
        Done { renewals: u64::from(self == Shard::Weights), ..Done::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ranks_together_send_what_a_ring_sends_and_the_most_is_one_of_them() {
        let done = Done { sums: 1, renewals: 1, ..Done::default() };
        for (n, world, size) in [(1_000_003, 8, 2), (1_000_003, 3, 4), (64 * 1024, 4, 4), (5, 1, 4)] {
            for cuts in [Cuts::whole(n, world), Cuts::of(&[0..n / 3, n / 3..n / 2, n / 2..n], world)] {
                let each: Vec<[u64; 2]> = (0..world).map(|rank| Wire::of(&cuts, rank, size, 2).bytes(done)).collect();
                let all: u64 = each.iter().flatten().sum();
                assert_eq!(all, ((world - 1) * n * (4 + size)) as u64);
                let most = most_sent_bytes(&cuts, size, 2, done);
                assert!(each.contains(&most) && each.iter().all(|e| e.iter().sum::<u64>() <= most.iter().sum()));
                assert!((0..world).all(|rank| cuts.kept(rank).len() <= cuts.kept(fullest(&cuts)).len()));
            }
        }
    }

    #[test]
    fn a_backward_gathers_every_layer_but_the_last_again() {
        // Embedding, three layers, head.
        let cuts = Cuts::of(&[0..640, 640..1280, 1280..1920, 1920..2560, 2560..3200], 2);
        assert_eq!(Wire::of(&cuts, 0, 2, 3), Wire { gradient: 4 * 1600, weights: 2 * 1600, layers: 2 * 640 });
        let done = Shard::Weights.done_in_update(3, 2);
        assert_eq!(Wire::of(&cuts, 0, 2, 3).bytes(done), [6 * 6400, 6 * (3200 + 1280)]);
        assert_eq!(Shard::Moments.done_in_update(3, 2), Done { sums: 1, renewals: 1, ..Done::default() });
    }
}
