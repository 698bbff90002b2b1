//! Shards: which rank keeps the moments of which parameters.
//!
//! The one idea: a rank has whole parts of the gradient's norm, so that each part is summed by one rank and the parts, told to
//! all, are added in their order: the norm of one rank, to the bit.
//!
//! Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, stage 1).

use super::packet::numbers;
use crate::ops::optim::{GRAD_NORM_PARTS, part_len};
use bytemuck::Pod;
use std::ops::Range;

/// The elements of each of `world` ranks, of `n`: end to end, some of them perhaps none.
pub fn shards(n: usize, world: usize) -> Vec<Range<usize>> {
    let end = |rank: usize| n.min(rank * GRAD_NORM_PARTS / world * part_len(n));
    (0..world).map(|rank| end(rank)..if rank + 1 == world { n } else { end(rank + 1) }).collect()
}

/// Elements of the longest shard.
pub fn longest(n: usize, world: usize) -> usize {
    shards(n, world).iter().map(Range::len).max().unwrap_or(0)
}

/// Bytes that a rank sends in an update of `n` parameters: of f32 gradients all but its own shard, one piece to each; of what
/// forwards read of the weights, `weight_size` bytes each, its own shard to all others. On average `2 (N - 1) / N` of both, as
/// much as a ring sends.
pub fn sent_bytes(n: usize, world: usize, rank: usize, weight_size: usize) -> [usize; 2] {
    let own = shards(n, world)[rank].len();
    [size_of::<f32>() * (n - own), weight_size * own * (world - 1)]
}

/// The rank of the longest shard, of equals the first: whose plan is the largest.
pub fn fullest(n: usize, world: usize) -> usize {
    let most = longest(n, world);
    shards(n, world).iter().position(|shard| shard.len() == most).unwrap_or(0)
}

/// What the rank that sends most sends in an update, as [`sent_bytes`] counts it.
pub fn most_sent_bytes(n: usize, world: usize, weight_size: usize) -> [usize; 2] {
    let all = (0..world).map(|rank| sent_bytes(n, world, rank, weight_size));
    all.max_by_key(|sent| sent.iter().sum::<usize>()).unwrap_or_default()
}

/// Numbers that ranks keep in shards, brought together: `[N]`, end to end, as each of them told its own.
pub struct Gathered {
    told: Vec<Vec<u8>>,
}

impl Gathered {
    /// What each rank told, in their order.
    pub fn of(told: Vec<Vec<u8>>) -> Gathered {
        Gathered { told }
    }

    /// These of the numbers.
    pub fn numbers<T: Pod>(&self, range: Range<usize>) -> Vec<T> {
        let (mut found, mut start) = (Vec::with_capacity(range.len()), 0);
        for part in &self.told {
            let end = start + part.len() / size_of::<T>();
            let own = range.start.max(start)..range.end.min(end);
            if !own.is_empty() {
                found.extend(numbers::<T>(
                    &part[size_of::<T>() * (own.start - start)..size_of::<T>() * (own.end - start)],
                ));
            }
            start = end;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_shards_are_read_across_their_bounds() {
        let told = [&[0f32, 1.0, 2.0][..], &[], &[3.0], &[4.0, 5.0]].map(|part| bytemuck::cast_slice(part).to_vec());
        let all = Gathered::of(told.into());
        for (start, end) in (0..=6).flat_map(|start| (start..=6).map(move |end| (start, end))) {
            let want: Vec<f32> = (start..end).map(|i| i as f32).collect();
            assert_eq!(all.numbers::<f32>(start..end), want);
        }
    }

    #[test]
    fn shards_lie_end_to_end_and_each_is_whole_parts_of_the_norm() {
        for n in [1, 63, 64 * 1024, 64 * 1024 + 1, 1_000_003] {
            for world in [1, 2, 3, 4, 8, 16] {
                let all = shards(n, world);
                assert_eq!((all.len(), all[0].start, all[world - 1].end), (world, 0, n));
                assert!(all.windows(2).all(|two| two[0].end == two[1].start));
                assert!(all.iter().all(|s| s.start == n || s.start % part_len(n) == 0), "{n} {world}: {all:?}");
                assert_eq!(all.iter().map(Range::len).max(), Some(longest(n, world)));
                assert_eq!(all[fullest(n, world)].len(), longest(n, world));
            }
        }
    }
    #[test]
    fn all_ranks_together_send_what_a_ring_sends_and_the_most_is_one_of_them() {
        for (n, world, size) in [(1_000_003, 8, 2), (1_000_003, 3, 4), (64 * 1024, 4, 4), (5, 1, 4)] {
            let each: Vec<[usize; 2]> = (0..world).map(|rank| sent_bytes(n, world, rank, size)).collect();
            let all: usize = each.iter().flatten().sum();
            assert_eq!(all, (world - 1) * n * (4 + size));
            let most = most_sent_bytes(n, world, size);
            assert!(each.contains(&most) && each.iter().all(|e| e.iter().sum::<usize>() <= most.iter().sum()));
        }
    }
}
