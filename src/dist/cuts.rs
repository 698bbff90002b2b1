//! How parameters are cut over ranks: into buckets, end to end, each bucket into stretches, and each stretch into a cut for each
//! rank.
//!
//! The one idea: whoever keeps a part of something keeps whole cuts of it, end to end, and finds an element by counting. With
//! one bucket a rank has one run of all parameters; with a bucket a layer it has its part of every layer, so that a layer is
//! gathered from all ranks alike and no one of them waits for another's wire. Experts that are spread are cut between their
//! matrices, and nobody gathers them while it is learned: each stays where its cut is.

use super::lanes::Tree;
use super::shards::shards;
use crate::ops::optim::{GRAD_NORM_PARTS, part_len};
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
    pub fn cuts(self, buckets: &[Vec<Stretch>], world: usize, experts: Experts) -> Cuts {
        match self {
            Shard::Moments => {
                let end = |stretches: &Vec<Stretch>| stretches.last().map_or(0, |last| last.range.end);
                Cuts::whole(buckets.last().map_or(0, end), world)
            }
            Shard::Gradients | Shard::Weights => Cuts::of(buckets, world, experts),
        }
    }
}

/// Where the experts of a model are while it is learned: `dist.experts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Experts {
    /// At every rank, as all other parameters.
    #[default]
    Everywhere,
    /// Each at one rank, to which others send its rows.
    Spread,
}

impl Experts {
    /// The words, in the order of the variants.
    pub const WORDS: &'static [&'static str] = &["everywhere", "spread"];

    /// What a word means.
    ///
    /// # Panics
    /// For a word that is none of these.
    pub fn of(word: &str) -> Experts {
        match word {
            "everywhere" => Experts::Everywhere,
            "spread" => Experts::Spread,
            other => panic!("`{other}` is none of {:?}", Experts::WORDS),
        }
    }
}

/// The share of `n` things in order that a rank has: as even as it goes.
pub fn dealt(rank: usize, world: usize, n: usize) -> Range<usize> {
    rank * n / world..(rank + 1) * n / world
}

/// Elements of a bucket that are cut as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Which.
    pub range: Range<usize>,
    /// How many experts' matrices they are, all of one length; 0 for anything else.
    pub experts: usize,
}

impl Stretch {
    /// Elements of no expert.
    pub fn plain(range: Range<usize>) -> Stretch {
        Stretch { range, experts: 0 }
    }

    /// Elements of a part of the gradient's norm: an expert's matrix is whole parts, so that it is never in two ranks' parts.
    fn part(&self) -> usize {
        let Some(matrix) = self.range.len().checked_div(self.experts) else { return part_len(self.range.len()) };
        let mut parts = 1;
        while 2 * parts * self.experts <= GRAD_NORM_PARTS && matrix.is_multiple_of(2 * parts) {
            parts *= 2;
        }
        matrix / parts
    }

    /// Whole parts, about as many for each rank as for any other.
    fn cut_evenly(&self, world: usize) -> Vec<Range<usize>> {
        let (Range { start, end }, n, part) = (self.range.clone(), self.range.len(), self.part());
        let at = |rank: usize| if rank == world { end } else { start + n.min(rank * n.div_ceil(part) / world * part) };
        (0..world).map(|rank| at(rank)..at(rank + 1)).collect()
    }

    /// Whole matrices.
    fn cut_by_experts(&self, world: usize) -> Vec<Range<usize>> {
        let (start, matrix) = (self.range.start, self.range.len() / self.experts);
        let at = |own: Range<usize>| start + own.start * matrix..start + own.end * matrix;
        (0..world).map(|rank| at(dealt(rank, world, self.experts))).collect()
    }
}

/// A stretch, cut.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    /// Each rank's cut, end to end.
    by_rank: Vec<Range<usize>>,
    /// Elements of a part of the norm.
    part: usize,
    /// Each cut stays where it is while it is learned.
    stays: bool,
}

impl Cut {
    fn range(&self) -> Range<usize> {
        self.by_rank[0].start..self.by_rank[self.by_rank.len() - 1].end
    }
}

/// The cuts of N elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuts {
    /// By bucket, its stretches in order.
    buckets: Vec<Vec<Cut>>,
}

impl Cuts {
    /// Of one bucket.
    pub fn whole(n: usize, world: usize) -> Cuts {
        Cuts { buckets: vec![vec![Cut { by_rank: shards(n, world), part: part_len(n), stays: false }]] }
    }

    /// Of buckets, end to end from 0. How the norm is summed is the same wherever experts are.
    pub fn of(buckets: &[Vec<Stretch>], world: usize, experts: Experts) -> Cuts {
        let cut = |stretch: &Stretch| {
            let stays = experts == Experts::Spread && stretch.experts > 0 && world > 1;
            let by_rank = if stays { stretch.cut_by_experts(world) } else { stretch.cut_evenly(world) };
            Cut { by_rank, part: stretch.part(), stays }
        };
        Cuts { buckets: buckets.iter().map(|stretches| stretches.iter().map(cut).collect()).collect() }
    }

    fn all(&self) -> impl Iterator<Item = &Cut> {
        self.buckets.iter().flatten()
    }

    /// Elements of all.
    pub fn n_elements(&self) -> usize {
        self.all().last().map_or(0, |cut| cut.range().end)
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.all().next().map_or(1, |cut| cut.by_rank.len())
    }

    /// How many buckets there are.
    pub fn n_buckets(&self) -> usize {
        self.buckets.len()
    }

    /// How many stretches they have.
    pub fn n_stretches(&self) -> usize {
        self.all().count()
    }

    /// Each stretch's cuts, by rank, in the order of stretches.
    pub fn stretches(&self) -> impl Iterator<Item = &[Range<usize>]> {
        self.all().map(|cut| cut.by_rank.as_slice())
    }

    /// The bucket that an element lies in.
    pub fn bucket_of(&self, element: usize) -> usize {
        self.buckets.partition_point(|cuts| cuts.last().is_none_or(|last| last.range().end <= element))
    }

    /// The cuts of those stretches of a bucket that all ranks bring together while it is learned, by rank.
    pub fn gathered(&self, bucket: usize) -> impl Iterator<Item = &[Range<usize>]> {
        self.buckets[bucket].iter().filter(|cut| !cut.stays).map(|cut| cut.by_rank.as_slice())
    }

    /// The elements of those stretches.
    pub fn together(&self, bucket: usize) -> Kept {
        Kept::of(self.buckets[bucket].iter().filter(|cut| !cut.stays).map(Cut::range))
    }

    /// A rank's cuts of those stretches that stay where they are.
    pub fn at_home(&self, bucket: usize, rank: usize) -> Kept {
        Kept::of(self.buckets[bucket].iter().filter(|cut| cut.stays).map(|cut| cut.by_rank[rank].clone()))
    }

    /// What a rank has of a bucket while it is learned from.
    pub fn here(&self, bucket: usize, rank: usize) -> Kept {
        let of = |cut: &Cut| if cut.stays { cut.by_rank[rank].clone() } else { cut.range() };
        Kept::of(self.buckets[bucket].iter().map(of))
    }

    /// What a rank keeps.
    pub fn kept(&self, rank: usize) -> Kept {
        Kept::of(self.all().map(|cut| cut.by_rank[rank].clone()))
    }

    /// Elements of the longest cut that is gathered.
    pub fn longest(&self) -> usize {
        self.all().filter(|cut| !cut.stays).flat_map(|cut| &cut.by_rank).map(Range::len).max().unwrap_or(0)
    }

    /// A rank's cut of each stretch, how many parts of the gradient's norm it is, and of how many elements.
    pub fn norm_parts(&self, rank: usize) -> impl Iterator<Item = (&Range<usize>, usize, usize)> {
        self.all().map(move |cut| (&cut.by_rank[rank], cut.by_rank[rank].len().div_ceil(cut.part), cut.part))
    }

    /// Adds every rank's parts of the gradient's norm, stretch by stretch, each in its order.
    pub fn fold_norm(&self, told: &[Vec<f64>]) -> f64 {
        let mut rests: Vec<&[f64]> = told.iter().map(Vec::as_slice).collect();
        let mut sum = 0f64;
        for cut in self.all() {
            for (own, rest) in cut.by_rank.iter().zip(&mut rests) {
                let (parts, more) = rest.split_at(own.len().div_ceil(cut.part).min(rest.len()));
                sum = parts.iter().fold(sum, |sum, part| sum + part);
                *rest = more;
            }
        }
        sum
    }
}

/// Cuts counted from where they begin.
pub fn counted(cuts: &[Range<usize>]) -> Vec<Range<usize>> {
    cuts.iter().map(|cut| cut.start - cuts[0].start..cut.end - cuts[0].start).collect()
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

    /// What both hold: where it lies among what this one holds, and among the other's.
    pub fn common(&self, other: &Kept) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        other.parts.iter().flat_map(|part| self.of_range(part).map(|(both, held)| (held, other.run(&both))))
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

    /// Three buckets, of which the second has six experts' matrices between others, two projections of them.
    fn buckets() -> Vec<Vec<Stretch>> {
        let experts = |range| Stretch { range, experts: 6 };
        vec![
            vec![Stretch::plain(0..100_003)],
            vec![
                Stretch::plain(100_003..100_010),
                experts(100_010..106_010),
                experts(106_010..112_010),
                Stretch::plain(112_010..112_020),
            ],
            vec![Stretch::plain(112_020..300_000)],
        ]
    }

    /// Every number of ranks, and where experts are.
    fn every_cut() -> Vec<(usize, Cuts)> {
        let of = |world, experts| (world, Cuts::of(&buckets(), world, experts));
        [1, 2, 3, 4, 6].into_iter().flat_map(|n| [of(n, Experts::Everywhere), of(n, Experts::Spread)]).collect()
    }

    #[test]
    fn cuts_of_buckets_are_the_whole_and_every_rank_finds_its_own() {
        for (world, cuts) in every_cut() {
            assert_eq!((cuts.n_elements(), cuts.n_buckets(), cuts.n_stretches()), (300_000, 3, 6));
            let kept: Vec<Kept> = (0..world).map(|rank| cuts.kept(rank)).collect();
            assert_eq!(kept.iter().map(Kept::len).sum::<usize>(), 300_000);
            for (bucket, stretches) in buckets().iter().enumerate() {
                let range = stretches[0].range.start..stretches.last().unwrap().range.end;
                assert_eq!([range.start, range.end - 1].map(|at| cuts.bucket_of(at)), [bucket; 2]);
                let mut all: Vec<_> = kept.iter().flat_map(|kept| kept.of_range(&range)).collect();
                all.sort_by_key(|(whole, _)| whole.start);
                assert_eq!(all.iter().map(|(whole, _)| whole.len()).sum::<usize>(), range.len());
                assert!(all.windows(2).all(|two| two[0].0.end == two[1].0.start), "{all:?}");
            }
            // What is held lies end to end.
            let held: Vec<_> = kept[0].of_range(&(0..300_000)).map(|(_, held)| held).collect();
            assert_eq!((held[0].start, held.last().unwrap().end), (0, kept[0].len()));
        }
        assert_eq!(Cuts::of(&buckets(), 1, Experts::Spread).kept(0), Kept::all(300_000), "neighbours are one");
    }

    #[test]
    fn spread_experts_are_whole_at_one_rank_and_all_else_is_gathered() {
        let cuts = Cuts::of(&buckets(), 4, Experts::Spread);
        assert_eq!(cuts.together(1), Kept::of([100_003..100_010, 112_010..112_020]));
        let home = |rank| cuts.at_home(1, rank).parts().to_vec();
        assert_eq!(home(0), [100_010..101_010, 106_010..107_010]);
        assert_eq!(home(3), [104_010..106_010, 110_010..112_010], "six over four, as even as it goes");
        assert_eq!(cuts.here(1, 0).len(), 17 + 2_000);
        assert_eq!(cuts.gathered(1).count(), 2);
        let (kept, here) = (cuts.kept(1), cuts.here(1, 1));
        let both: Vec<_> = kept.common(&here).collect();
        let home = cuts.at_home(1, 1).len();
        assert!(
            both.iter().map(|(held, _)| held.len()).sum::<usize>() >= home
                && both.iter().all(|(a, b)| a.len() == b.len())
        );
        let everywhere = Cuts::of(&buckets(), 4, Experts::Everywhere);
        assert!(everywhere.at_home(1, 0).is_empty() && everywhere.here(1, 2).len() == 12_017);
    }

    #[test]
    fn parts_of_the_norm_are_added_in_one_order_however_many_tell_them_and_wherever_experts_are() {
        // A part's sum is a function of its elements.
        let value = |part: Range<usize>| 1.0 / (1.0 + part.start as f64) + 1e-7 * part.len() as f64;
        let sum = |(world, cuts): (usize, Cuts)| {
            let told = |rank| {
                let parts = |(own, n, len): (&Range<usize>, usize, usize)| -> Vec<f64> {
                    assert!(n <= GRAD_NORM_PARTS);
                    let part = |i: usize| own.start + i * len..own.end.min(own.start + (i + 1) * len);
                    (0..n).map(|i| value(part(i))).collect()
                };
                cuts.norm_parts(rank).flat_map(parts).collect()
            };
            cuts.fold_norm(&(0..world).map(told).collect::<Vec<_>>()).to_bits()
        };
        let sums: Vec<u64> = every_cut().into_iter().map(sum).collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    }
}
