//! Lanes: who adds what, and in which order sums are taken.
//!
//! The one idea: a tree of halves. Of `n = odd * 2^k` lanes each run of `2^k` is summed in a binary tree and the runs are added
//! in order. A rank that holds a power of two of them, one whole branch, sums it alone; what is left is the tree of the
//! branches. So `n` lanes give the same bits on every number of ranks that [`divides`] them.

use crate::error::{Error, Result};
use std::cmp::Reverse;

/// The lane of each load, by a rule of the loads alone: the heaviest first (of equals the first), each to the lane that has
/// the least so far (of equals the first).
pub fn deal(loads: &[usize], lanes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..loads.len()).collect();
    order.sort_by_key(|i| Reverse(loads[*i]));
    let (mut sums, mut dealt) = (vec![0; lanes.max(1)], vec![0; loads.len()]);
    for i in order {
        let least = (0..sums.len()).min_by_key(|lane| sums[*lane]).unwrap_or(0);
        dealt[i] = least;
        sums[least] += loads[i];
    }
    dealt
}

/// The order in which `n = odd * 2^k` leaves are summed, and so which lanes a rank has: for powers of two one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Each run of `2^k` leaves is a tree of halves, and the runs are added in order: a rank has neighbouring lanes.
    Runs,
    /// Each run of `odd` leaves is added in order, and the runs are a tree of halves: of N ranks one has every N-th lane, so
    /// that the lanes that all of them are at together are one branch.
    Rounds,
}

impl Tree {
    /// How often the last two of the sums held are added once the `i`-th of `n` leaves is among them: the whole tree.
    pub fn merges(self, i: usize, n: usize) -> usize {
        let run = 1 << n.trailing_zeros();
        match self {
            Tree::Runs => {
                let halves = (i % run + 1).trailing_zeros() as usize;
                // A whole run is added to those before it.
                halves + usize::from((i + 1).is_multiple_of(run) && i >= run)
            }
            Tree::Rounds => {
                let odd = n / run;
                let is_last = (i + 1).is_multiple_of(odd);
                let halves = if is_last { ((i + 1) / odd).trailing_zeros() as usize } else { 0 };
                halves + usize::from(!i.is_multiple_of(odd))
            }
        }
    }

    /// The most sums that are held at a time while `n` leaves are summed.
    pub fn held(self, n: usize) -> usize {
        let (mut now, mut most) = (0, 1);
        for i in 0..n {
            now += 1;
            most = most.max(now);
            now -= self.merges(i, n);
        }
        most
    }

    /// Where the `n` leaves lie in `buffers` (two at least) while they are summed in place, each a buffer and a slot of it: two
    /// that are added never in one buffer, and of a power of two about as many in each (odd runs are all added to the first).
    pub fn places(self, n: usize, buffers: usize) -> Vec<(usize, usize)> {
        let (mut places, mut used, mut open): (Vec<(usize, usize)>, _, Vec<usize>) = (vec![], vec![0; buffers], vec![]);
        for i in 0..n {
            open.push(i);
            // The last merge of a leaf adds it, and what was added to it, to the sum before.
            let onto = open.len().checked_sub(2).map(|before| places[open[before]].0);
            let (merges, held) = (self.merges(i, n), open.len());
            let best = (0..buffers).filter(|b| Some(*b) != onto).min_by_key(|b| used[*b]).unwrap_or(0);
            places.push((best, used[best]));
            used[best] += 1;
            open.truncate(held - merges);
        }
        places
    }

    /// The lanes of one of `world` ranks that share `lanes`, in their order.
    pub fn own(self, rank: usize, world: usize, lanes: usize) -> Vec<usize> {
        match self {
            Tree::Runs => (rank * lanes / world..(rank + 1) * lanes / world).collect(),
            Tree::Rounds => (rank..lanes).step_by(world).collect(),
        }
    }
}

/// True where each of `ranks` holds a whole branch of the tree of `lanes`.
pub fn divides(ranks: usize, lanes: usize) -> bool {
    let each = lanes / ranks.max(1);
    ranks == 1 || ranks > 1 && lanes.is_multiple_of(ranks) && each.is_power_of_two()
}

/// `Ok` where each of `ranks` holds a whole branch of the tree of `lanes`.
///
/// # Errors
/// [`Error::Config`] naming a number of lanes that works.
pub fn fit(ranks: usize, lanes: usize) -> Result<()> {
    if divides(ranks, lanes) {
        return Ok(());
    }
    let what = format!(
        "dist.lanes: {lanes} lanes are no tree that {ranks} ranks can share; set a multiple of {ranks} that is it times a power \
         of two, as {}",
        ranks * lanes.div_ceil(ranks).next_power_of_two()
    );
    Err(Error::Config { problems: vec![what] })
}

#[cfg(test)]
mod tests {
    use super::Tree::{Rounds, Runs};
    use super::*;

    /// The tree as text, of the leaves from `first`.
    fn tree(of: Tree, leaves: &[String]) -> String {
        let mut sums: Vec<String> = vec![];
        for (i, leaf) in leaves.iter().enumerate() {
            sums.push(leaf.clone());
            assert!(sums.len() <= of.held(leaves.len()));
            for _ in 0..of.merges(i, leaves.len()) {
                let (b, a) = (sums.pop().unwrap(), sums.pop().unwrap());
                sums.push(format!("({a}+{b})"));
            }
        }
        assert_eq!(sums.len(), 1, "one sum is left");
        sums.remove(0)
    }

    fn leaves(n: usize) -> Vec<String> {
        (0..n).map(|i| i.to_string()).collect()
    }

    #[test]
    fn the_tree_is_one_of_halves_and_odd_runs_are_added_in_order() {
        assert_eq!(tree(Runs, &leaves(1)), "0");
        assert_eq!(tree(Runs, &leaves(4)), "((0+1)+(2+3))");
        assert_eq!(tree(Runs, &leaves(3)), "((0+1)+2)");
        assert_eq!(tree(Runs, &leaves(6)), "(((0+1)+(2+3))+(4+5))");
        assert_eq!([1, 2, 4, 8, 3].map(|n| Runs.held(n)), [1, 2, 3, 4, 2]);
    }

    #[test]
    fn any_ranks_that_divide_the_lanes_sum_the_same_tree() {
        for lanes in 1..=24 {
            let whole = tree(Runs, &leaves(lanes));
            let able: Vec<usize> = (1..=lanes).filter(|ranks| divides(*ranks, lanes)).collect();
            assert!(able.contains(&1) && able.contains(&lanes), "{lanes}: {able:?}");
            for ranks in able {
                let branches: Vec<String> = leaves(lanes).chunks(lanes / ranks).map(|own| tree(Runs, own)).collect();
                assert_eq!(tree(Runs, &branches), whole, "{lanes} lanes on {ranks} ranks");
            }
        }
        assert!(!divides(2, 6) && !divides(4, 6) && !divides(16, 8) && divides(3, 6));
    }

    #[test]
    fn ranks_that_are_at_one_lane_each_are_a_branch_of_the_tree_of_rounds() {
        assert_eq!(tree(Rounds, &leaves(6)), "(((0+1)+2)+((3+4)+5))");
        assert_eq!(tree(Rounds, &leaves(3)), "((0+1)+2)");
        assert_eq!(tree(Rounds, &leaves(8)), tree(Runs, &leaves(8)));
        for lanes in 1..=48 {
            let whole = tree(Rounds, &leaves(lanes));
            for ranks in (1..=lanes).filter(|ranks| divides(*ranks, lanes)) {
                let own: Vec<Vec<usize>> = (0..ranks).map(|rank| Rounds.own(rank, ranks, lanes)).collect();
                let round = |i: usize| own.iter().map(|own| own[i].to_string()).collect::<Vec<_>>();
                let rounds: Vec<String> = (0..lanes / ranks).map(|i| tree(Rounds, &round(i))).collect();
                assert_eq!(tree(Rounds, &rounds), whole, "{lanes} lanes on {ranks} ranks");
            }
        }
        assert_eq!([Runs, Rounds].map(|tree| tree.own(1, 2, 4)), [[2, 3], [1, 3]]);
    }

    #[test]
    fn leaves_that_are_added_lie_in_two_buffers_and_about_as_many_in_each() {
        for (of, n) in [Runs, Rounds].into_iter().flat_map(|of| (2..=33).map(move |n| (of, n))) {
            let (buffers, mut open) = (of.held(n).max(2), vec![]);
            let places = of.places(n, buffers);
            for i in 0..n {
                open.push(i);
                for _ in 0..of.merges(i, n) {
                    let (b, a): (usize, usize) = (open.pop().unwrap(), *open.last().unwrap());
                    assert_ne!(places[a].0, places[b].0, "{a} + {b} of {n}");
                }
            }
            let fullest = places.iter().map(|(_, slot)| slot + 1).max().unwrap();
            let most = if n.is_power_of_two() { n.div_ceil(buffers) + 1 } else { n - 1 };
            assert!(fullest <= most, "{n} leaves in {buffers} buffers: {places:?}");
            assert_eq!(places.iter().collect::<std::collections::HashSet<_>>().len(), n, "no place twice");
        }
    }

    #[test]
    fn the_heaviest_goes_to_the_lane_that_has_the_least() {
        assert_eq!(deal(&[1, 9, 4, 4, 2], 2), [0, 0, 1, 1, 1]);
        assert_eq!(deal(&[5, 5, 5], 8), [0, 1, 2]);
        assert_eq!(deal(&[3, 2, 1], 1), [0; 3]);
        assert_eq!(deal(&[], 4), [0; 0]);
    }
}
