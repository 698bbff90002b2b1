//! A share of a batch, dealt into lanes, and what became of each lane.
//!
//! The one idea: who is in which lane, and in which micro-batch of it, is a function of the share alone. A group stays in one
//! lane, for its episodes share the rows of their prompt.

use super::learned::Learned;
use super::learning::Learning;
use super::samples::{Placed, Sample, micro_batches, sorted};
use crate::credit::importance::Histogram;
use crate::dist::lanes::Tree;
use crate::dist::{Packet, Ranks, Unpack, lanes};
use crate::error::Result;
use crate::ops::loss::POLICY_SUMS;
use std::collections::BTreeMap;

/// What one update learns from.
pub(super) struct Dealt<'a> {
    /// Each lane's micro-batches, in order.
    pub lanes: Vec<Vec<Vec<Placed<'a>>>>,
    /// Episodes, those with nothing to train on too.
    pub sequences: usize,
    /// Trained tokens.
    pub trained: usize,
    /// Rows of all micro-batches.
    pub rows: usize,
}

impl<'a> Dealt<'a> {
    /// Deals a share of a batch.
    pub fn of(share: &[Sample<'a>], how: &Learning) -> Dealt<'a> {
        let all = sorted(share);
        let mut number: BTreeMap<usize, usize> = BTreeMap::new();
        let mut loads: Vec<usize> = vec![];
        for sample in &all {
            let at = *number.entry(sample.group).or_insert(loads.len());
            loads.resize(loads.len().max(at + 1), 0);
            loads[at] += sample.transcript.len();
        }
        let lane_of = lanes::deal(&loads, how.lanes);
        let cut = |lane| {
            let own: Vec<Sample> = all.iter().filter(|s| lane_of[number[&s.group]] == lane).copied().collect();
            micro_batches(&own, how.micro_batch_tok, how.share_prefix)
        };
        let lanes: Vec<_> = (0..how.lanes.max(1)).map(cut).collect();
        let rows = lanes.iter().flatten().flatten().map(Placed::rows).sum();
        Dealt { rows, lanes, sequences: share.len(), trained: all.iter().map(Sample::n_trained).sum() }
    }

    /// The lanes of this rank.
    pub fn own(&self, ranks: &Ranks, tree: Tree) -> Vec<&[Vec<Placed<'a>>]> {
        let own = tree.own(ranks.rank(), ranks.world(), self.lanes.len());
        own.into_iter().map(|lane| &self.lanes[lane][..]).collect()
    }

    /// Micro-batches of the lane that has most.
    pub fn rounds(&self) -> usize {
        self.lanes.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// What the micro-batches of a lane came to, added in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// See [`Learned::sums`].
    pub sums: [f32; POLICY_SUMS.len()],
    /// See [`Learned::logprob_max_abs_diff`].
    pub logprob_max_abs_diff: f32,
    /// See [`Learned::compared_tok`].
    pub compared_tok: [usize; 2],
    /// See [`Learned::importance`].
    pub importance: Histogram,
    /// See [`Learned::packed_tok`].
    pub packed_tok: usize,
    /// See [`Learned::shared_tok`].
    pub shared_tok: usize,
    /// Tokens that each expert of each layer got.
    pub expert_load: Vec<u64>,
    /// Seconds in forwards.
    pub forward_s: f64,
    /// Seconds in loss and backward.
    pub backward_s: f64,
}

impl Tally {
    /// Of nothing; `experts` of all layers.
    pub fn new(experts: usize) -> Tally {
        Tally { expert_load: vec![0; experts], ..Tally::default() }
    }

    /// Every lane, in order, from this rank's of a tree. Seconds are not told: each rank counts its own.
    pub fn of_all_ranks(ranks: &Ranks, tree: Tree, own: Vec<Tally>) -> Result<Vec<Tally>> {
        if ranks.world() == 1 {
            return Ok(own);
        }
        let mut packet = Packet::new();
        own.iter().for_each(|tally| tally.write(&mut packet));
        let told = ranks.gather("sums of lanes", &packet.bytes)?;
        let lanes = own.len() * ranks.world();
        let mut all = vec![Tally::default(); lanes];
        for (rank, bytes) in told.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
            let mut read = Unpack::of(bytes);
            for (lane, own) in tree.own(rank, ranks.world(), lanes).into_iter().zip(&own) {
                let mut tally = Tally::read(&mut read)?;
                if rank == ranks.rank() {
                    (tally.forward_s, tally.backward_s) = (own.forward_s, own.backward_s);
                }
                all[lane] = tally;
            }
        }
        Ok(all)
    }

    fn write(&self, to: &mut Packet) {
        let found = &self.importance;
        to.put(&self.sums).put(&[self.logprob_max_abs_diff]).put(&found.ratios).put(&[found.weights]);
        to.put(&[found.bounded, found.not_one]).put(&self.compared_tok.map(|n| n as u64));
        to.put(&[self.packed_tok, self.shared_tok].map(|n| n as u64)).put(&self.expert_load);
    }

    fn read(from: &mut Unpack) -> Result<Tally> {
        let (sums, [logprob_max_abs_diff], ratios, [weights]) =
            (from.exactly()?, from.exactly()?, from.exactly()?, from.exactly()?);
        let ([bounded, not_one], compared) = (from.exactly()?, from.exactly::<u64, 2>()?);
        let [packed_tok, shared_tok] = from.exactly::<u64, 2>()?.map(|n| n as usize);
        Ok(Tally {
            sums,
            logprob_max_abs_diff,
            compared_tok: compared.map(|n| n as usize),
            importance: Histogram { ratios, weights, bounded, not_one },
            packed_tok,
            shared_tok,
            expert_load: from.take()?,
            forward_s: 0.0,
            backward_s: 0.0,
        })
    }

    /// Adds a micro-batch's sums.
    pub fn add_sums(&mut self, sums: &[f32; POLICY_SUMS.len()]) {
        add_sums(&mut self.sums, sums);
    }

    /// Notes how far a token's two logprobs are from each other.
    pub fn compare(&mut self, a: f32, b: f32) {
        self.compared_tok[0] += 1;
        self.compared_tok[1] += usize::from(a.to_bits() == b.to_bits());
        widest(&mut self.logprob_max_abs_diff, (a - b).abs());
    }
}

/// Adds the lanes of an update, in their order. Returns the sums of that update alone.
pub(super) fn fold(lanes: &[Tally], into: &mut Learned, expert_load: &mut [u64]) -> [f32; POLICY_SUMS.len()] {
    let mut sums = [0f32; POLICY_SUMS.len()];
    for lane in lanes {
        add_sums(&mut sums, &lane.sums);
        widest(&mut into.logprob_max_abs_diff, lane.logprob_max_abs_diff);
        into.compared_tok.iter_mut().zip(lane.compared_tok).for_each(|(all, n)| *all += n);
        into.importance.add(&lane.importance);
        into.packed_tok += lane.packed_tok;
        into.shared_tok += lane.shared_tok;
        into.forward_s += lane.forward_s;
        into.backward_s += lane.backward_s;
        expert_load.iter_mut().zip(&lane.expert_load).for_each(|(all, n)| *all += n);
    }
    add_sums(&mut into.sums, &sums);
    sums
}

/// Adds what [`POLICY_SUMS`] names; the last one is a maximum.
fn add_sums(to: &mut [f32; POLICY_SUMS.len()], sums: &[f32; POLICY_SUMS.len()]) {
    for (i, (total, sum)) in to.iter_mut().zip(sums).enumerate() {
        *total = if i + 1 == POLICY_SUMS.len() { total.max(*sum) } else { *total + sum };
    }
}

/// The larger of two; a NaN must not pass for small.
fn widest(to: &mut f32, difference: f32) {
    if difference.is_nan() || difference > *to {
        *to = difference;
    }
}
