//! Shards: which rank keeps the moments of which parameters.
//!
//! The one idea: a rank has whole parts of the gradient's norm, so that each part is summed by one rank and the parts, told to
//! all, are added in their order: the norm of one rank, to the bit.
//!
//! Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, stage 1).

use crate::ops::optim::{GRAD_NORM_PARTS, part_len};
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_lie_end_to_end_and_each_is_whole_parts_of_the_norm() {
        for n in [1, 63, 64 * 1024, 64 * 1024 + 1, 1_000_003] {
            for world in [1, 2, 3, 4, 8, 16] {
                let all = shards(n, world);
                assert_eq!((all.len(), all[0].start, all[world - 1].end), (world, 0, n));
                assert!(all.windows(2).all(|two| two[0].end == two[1].start));
                assert!(all.iter().all(|s| s.start == n || s.start % part_len(n) == 0), "{n} {world}: {all:?}");
                assert_eq!(all.iter().map(Range::len).max(), Some(longest(n, world)));
            }
        }
    }
}
