//! How parameters are cut over ranks: into buckets, end to end, and each bucket into a cut for each rank.
//!
//! The one idea: whoever keeps a part of something keeps whole cuts of it, end to end, and finds an element by counting. With
//! one bucket a rank has one run of all parameters; with a bucket a layer it has its part of every layer, so that a layer is
//! gathered from all ranks alike and no one of them waits for another's wire.

use super::lanes::Tree;
use super::shards::shards;
use crate::ops::optim::part_len;
use std::ops::Range;

/// What ranks keep in parts: `dist.shard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shard {
    /// Moments, and f32 parameters where forwards read bf16 (ZeRO-1).
    #[default]
    Moments,
    /// Gradients too, summed layer by layer (ZeRO-2).
    Gradients,
    /// Weights too, gathered layer by layer (ZeRO-3): the same order of sums.
    Weights,
}

impl Shard {
    /// The words, in the order of the variants.
    pub const WORDS: &'static [&'static str] = &["moments", "gradients", "weights"];

    /// What a word means.
    ///
    /// # Panics
    /// For a word that is none of these.
    pub fn of(word: &str) -> Shard {
        match word {
            "moments" => Shard::Moments,
            "gradients" => Shard::Gradients,
            "weights" => Shard::Weights,
            other => panic!("`{other}` is none of {:?}", Shard::WORDS),
        }
    }

    /// The tree in which lanes are summed, which says whose they are.
    pub fn tree(self) -> Tree {
        match self {
            Shard::Moments => Tree::Runs,
            Shard::Gradients | Shard::Weights => Tree::Rounds,
        }
    }

    /// The cuts of what is laid out in `buckets`, end to end.
    pub fn cuts(self, buckets: &[Range<usize>], world: usize) -> Cuts {
        match self {
            Shard::Moments => Cuts::whole(buckets.last().map_or(0, |bucket| bucket.end), world),
            Shard::Gradients | Shard::Weights => Cuts::of(buckets, world),
        }
    }
}

/// The cuts of N elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuts {
    /// By bucket and rank, of the whole.
    buckets: Vec<Vec<Range<usize>>>,
}

impl Cuts {
    /// Of one bucket.
    pub fn whole(n: usize, world: usize) -> Cuts {
        Cuts { buckets: vec![shards(n, world)] }
    }

    /// Of buckets, end to end from 0: a rank has whole parts of each bucket's norm, about as many as any other.
    pub fn of(buckets: &[Range<usize>], world: usize) -> Cuts {
        let cut = |bucket: &Range<usize>| {
            let (n, part) = (bucket.len(), part_len(bucket.len()));
            let end = |rank: usize| bucket.start + n.min(rank * n.div_ceil(part) / world * part);
            (0..world).map(|rank| end(rank)..if rank + 1 == world { bucket.end } else { end(rank + 1) }).collect()
        };
        Cuts { buckets: buckets.iter().map(cut).collect() }
    }

    /// Elements of all.
    pub fn n_elements(&self) -> usize {
        self.buckets.last().and_then(|cuts| cuts.last()).map_or(0, |cut| cut.end)
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.buckets.first().map_or(1, Vec::len)
    }

    /// How many buckets there are.
    pub fn n_buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Each bucket's cuts, by rank.
    pub fn buckets(&self) -> impl Iterator<Item = &[Range<usize>]> {
        self.buckets.iter().map(Vec::as_slice)
    }

    /// A bucket.
    pub fn bucket(&self, bucket: usize) -> Range<usize> {
        let cuts = &self.buckets[bucket];
        cuts[0].start..cuts[cuts.len() - 1].end
    }

    /// A rank's cut of a bucket.
    pub fn of_bucket(&self, bucket: usize, rank: usize) -> Range<usize> {
        self.buckets[bucket][rank].clone()
    }

    /// A bucket's cuts, by rank, counted from where it begins.
    pub fn within(&self, bucket: usize) -> Vec<Range<usize>> {
        let cuts = &self.buckets[bucket];
        cuts.iter().map(|cut| cut.start - cuts[0].start..cut.end - cuts[0].start).collect()
    }

    /// The bucket that an element lies in.
    pub fn bucket_of(&self, element: usize) -> usize {
        self.buckets.partition_point(|cuts| cuts[cuts.len() - 1].end <= element)
    }

    /// What a rank keeps.
    pub fn kept(&self, rank: usize) -> Kept {
        Kept::of(self.buckets.iter().map(|cuts| cuts[rank].clone()))
    }

    /// Elements of the longest bucket that is none of `ends`, and of the longest of those.
    pub fn longest_buckets(&self, ends: &[usize]) -> [usize; 2] {
        let longest = |is_end: bool| {
            let buckets = (0..self.n_buckets()).filter(|bucket| ends.contains(bucket) == is_end);
            buckets.map(|bucket| self.bucket(bucket).len()).max().unwrap_or(0)
        };
        [longest(false), longest(true)]
    }

    /// Elements of the longest cut.
    pub fn longest(&self) -> usize {
        self.buckets.iter().flatten().map(Range::len).max().unwrap_or(0)
    }

    /// Parts of the gradient's norm that a rank has of a bucket.
    pub fn norm_parts(&self, bucket: usize, rank: usize) -> usize {
        self.buckets[bucket][rank].len().div_ceil(part_len(self.bucket(bucket).len()))
    }

    /// Adds every rank's parts of the gradient's norm, bucket by bucket, each in its order.
    pub fn fold_norm(&self, told: &[Vec<f64>]) -> f64 {
        let mut rests: Vec<&[f64]> = told.iter().map(Vec::as_slice).collect();
        let mut sum = 0f64;
        for bucket in 0..self.buckets.len() {
            for (rank, rest) in rests.iter_mut().enumerate() {
                let (own, more) = rest.split_at(self.norm_parts(bucket, rank).min(rest.len()));
                sum = own.iter().fold(sum, |sum, part| sum + part);
                *rest = more;
            }
        }
        sum
    }
}

/// Parts of something, in order, held end to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    parts: Vec<Range<usize>>,
}

impl Kept {
    /// Everything of `n` elements.
    pub fn all(n: usize) -> Kept {
        Kept::of(std::iter::once(0..n))
    }

    /// These parts, in ascending order; what is empty is left out, neighbours are one.
    pub fn of(parts: impl IntoIterator<Item = Range<usize>>) -> Kept {
        let mut kept: Vec<Range<usize>> = Vec::new();
        for part in parts.into_iter().filter(|part| part.start < part.end) {
            match kept.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => kept.push(part),
            }
        }
        Kept { parts: kept }
    }

    /// Elements that are held.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Range::len).sum()
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    /// What is held of `range`: where it lies in the whole, and where among what is held.
    pub fn of_range(&self, range: &Range<usize>) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let (range, mut next) = (range.clone(), 0);
        self.parts.iter().filter_map(move |part| {
            let (at, both) = (next, part.start.max(range.start)..part.end.min(range.end));
            next += part.len();
            let held = at + both.start - part.start;
            (both.start < both.end).then(|| (both.clone(), held..held + both.len()))
        })
    }

    /// Where a run of elements lies, all of which are held, as one run.
    ///
    /// # Panics
    /// When they are not.
    pub fn run(&self, range: &Range<usize>) -> Range<usize> {
        let mut found = self.of_range(range);
        match (found.next(), found.next()) {
            (Some((whole, held)), None) if whole == *range => held,
            _ => panic!("{range:?} is no run of {:?}", self.parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKETS: [Range<usize>; 3] = [0..100_003, 100_003..100_010, 100_010..300_000];

    #[test]
    fn cuts_of_buckets_are_the_whole_and_every_rank_finds_its_own() {
        for world in [1, 2, 3, 4, 8] {
            let cuts = Cuts::of(&BUCKETS, world);
            assert_eq!((cuts.n_elements(), cuts.n_buckets()), (300_000, 3));
            let kept: Vec<Kept> = (0..world).map(|rank| cuts.kept(rank)).collect();
            assert_eq!(kept.iter().map(Kept::len).sum::<usize>(), 300_000);
            for (bucket, range) in BUCKETS.iter().enumerate() {
                assert_eq!((cuts.bucket(bucket), cuts.bucket_of(range.start)), (range.clone(), bucket));
                assert_eq!(cuts.bucket_of(range.end - 1), bucket);
                let mut all: Vec<_> = kept.iter().flat_map(|kept| kept.of_range(range)).collect();
                all.sort_by_key(|(whole, _)| whole.start);
                assert_eq!(all.iter().map(|(whole, _)| whole.len()).sum::<usize>(), range.len());
                assert!(all.windows(2).all(|two| two[0].0.end == two[1].0.start), "{all:?}");
            }
            // What is held lies end to end.
            let held: Vec<_> = kept[0].of_range(&(0..300_000)).map(|(_, held)| held).collect();
            assert_eq!((held[0].start, held.last().unwrap().end), (0, kept[0].len()));
        }
        assert_eq!(Cuts::of(&BUCKETS, 1).kept(0), Kept::all(300_000), "neighbours are one");
    }

    #[test]
    fn parts_of_the_norm_are_added_in_one_order_however_many_tell_them() {
        let value = |part: usize| 1.0 / (1.0 + part as f64);
        let sums: Vec<u64> = [1, 2, 4, 8]
            .map(|world| {
                let cuts = Cuts::of(&BUCKETS, world);
                let mut next = 0;
                let mut told = vec![vec![]; world];
                for bucket in 0..3 {
                    for (rank, told) in told.iter_mut().enumerate() {
                        let n = cuts.norm_parts(bucket, rank);
                        told.extend((next..next + n).map(value));
                        next += n;
                    }
                }
                cuts.fold_norm(&told).to_bits()
            })
            .into();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    }
}
