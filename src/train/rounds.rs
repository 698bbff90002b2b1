//! The gradient of an update, summed layer by layer into shards: see [`crate::dist::lanes::Tree::Rounds`].
//!
//! The one idea: a round is one micro-batch of every lane. As soon as a layer's backward is done its gradient is summed over
//! the lanes that all ranks are at, at whoever keeps each part of it; what a rank holds is one layer's gradient and its shard of
//! the sum. The order is this mode's own: lanes are summed in their tree within a round, and rounds are added one after
//! another. A lane without a micro-batch in a round adds zero, wherever it is.
//!
//! Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, stage 2).

use super::optimizer::Optimizer;
use crate::device::{Buffer, Device, View, ViewMut};
use crate::dist::lanes::Tree;
use crate::dist::reduce::scratch_len;
use crate::dist::{Cuts, Kept, Ranks};
use crate::error::Result;
use crate::model::{Gradient, Layout, Phase, Plan, Slots};
use crate::ops::embed::{add, copy, fill};
use std::ops::Range;

/// The sums that are held while an update's gradient is made.
pub struct Rounds {
    ranks: Ranks,
    cuts: Cuts,
    kept: Kept,
    room: Room,
    /// This rank's shard of the sum of all rounds so far.
    sum: Buffer,
    /// Of the lanes of this rank, what their tree holds of a round: none where it has one lane.
    lanes: Vec<Buffer>,
    /// Lanes of this rank, the one it is at, and sums held of them.
    own: usize,
    lane: usize,
    held: usize,
}

/// Room for what passes.
struct Room {
    /// The gradient of the bucket that is made: that of a head of its own lies where the embedding's does, which comes last.
    made: Slots<Buffer>,
    /// Sums of ranks, of a round of one cut.
    scratch: Vec<Buffer>,
}

/// Its group in a plan.
const GROUP: &str = "gradients";

impl Room {
    fn planned(plan: &mut Plan, cuts: &Cuts, head: usize) -> Result<Room> {
        let world = cuts.world();
        let (sums, each) = (if world > 1 { Tree::Rounds.held(world) } else { 0 }, scratch_len(cuts.longest()));
        Ok(Room {
            made: Slots::planned(plan, cuts, head, |plan, name, len| plan.f32(GROUP, name, len))?,
            scratch: (0..sums)
                .map(|i| plan.f32(GROUP, format!("a cut, branch {i} of the ranks"), each))
                .collect::<Result<_>>()?,
        })
    }
}

impl Rounds {
    /// Room for the gradients of what a layout lays out in so many lanes, of which each of the optimizer's ranks has every N-th;
    /// in a `phase` that is not always, what passes has its room in that phase alone ([`Rounds::make_room`]).
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(
        plan: &mut Plan,
        layout: &Layout,
        (lanes, phase): (usize, Phase),
        optimizer: &Optimizer,
    ) -> Result<Rounds> {
        let (ranks, cuts, kept) = (optimizer.ranks.clone(), optimizer.cuts().clone(), optimizer.kept().clone());
        let (own, head) = ((lanes / ranks.world()).max(1), layout.bucket_of_head());
        let room = match phase {
            Phase::Always => Room::planned(plan, &cuts, head)?,
            Phase::Plays | Phase::Learns => plan.later(phase, |plan| Room::planned(plan, &cuts, head))?,
        };
        let sum = plan.f32(GROUP, "shard", kept.len())?;
        let held = if own > 1 { Tree::Rounds.held(own) } else { 0 };
        let of_lanes = (0..held).map(|i| plan.f32(GROUP, format!("shard, branch {i} of the lanes"), kept.len()));
        let of_lanes = of_lanes.collect::<Result<_>>()?;
        Ok(Rounds { ranks, cuts, kept, room, sum, lanes: of_lanes, own, lane: 0, held: 0 })
    }

    /// Makes room for what passes; of a dry plan gives it back.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn make_room(&mut self, plan: &mut Plan) -> Result<()> {
        self.room = Room::planned(plan, &self.cuts, self.room.made.head())?;
        Ok(())
    }

    /// Begins an update's gradient, from zero.
    ///
    /// # Errors
    /// What the device says.
    pub fn begin(&mut self, dev: &Device) -> Result<()> {
        fill(dev, self.sum.view_mut(), 0.0)
    }

    /// Begins a micro-batch of a lane of this rank; lanes come in order from 0, round after round.
    pub fn at_lane(&mut self, lane: usize) {
        self.lane = lane;
        self.held = if lane == 0 { 0 } else { self.held };
    }

    /// Ends it: behind the last lane the round is added to the sum.
    ///
    /// # Errors
    /// What the device says.
    pub fn end_lane(&mut self, dev: &Device) -> Result<()> {
        if self.own == 1 {
            return Ok(()); // every cut has been added already
        }
        self.held += 1;
        for _ in 0..Tree::Rounds.merges(self.lane, self.own) {
            self.held -= 1;
            let (left, right) = self.lanes.split_at_mut(self.held);
            add(dev, right[0].view(), left[self.held - 1].view_mut())?;
        }
        if self.lane + 1 == self.own { add(dev, self.lanes[0].view(), self.sum.view_mut()) } else { Ok(()) }
    }

    /// The sum of all rounds, of what this rank keeps.
    pub fn sum(&self) -> View<'_> {
        self.sum.view()
    }

    /// Where a bucket's gradient is made.
    fn bucket_mut(&mut self, bucket: usize) -> ViewMut<'_> {
        self.room.made.of_mut(bucket).at_mut(0..self.cuts.bucket(bucket).len())
    }
}

impl Gradient for Rounds {
    fn n_elements(&self) -> usize {
        self.cuts.n_elements()
    }

    fn part_mut(&mut self, range: Range<usize>) -> ViewMut<'_> {
        let bucket = self.cuts.bucket_of(range.start);
        let start = self.cuts.bucket(bucket).start;
        self.bucket_mut(bucket).at(range.start - start..range.end - start)
    }

    fn begins(&mut self, dev: &Device, bucket: usize) -> Result<()> {
        fill(dev, self.bucket_mut(bucket), 0.0)
    }

    /// Sums a bucket over the lanes that all ranks are at, and adds this rank's cut to the round's sum.
    fn ends(&mut self, dev: &Device, bucket: usize) -> Result<()> {
        let (range, cuts) = (self.cuts.bucket(bucket), self.cuts.within(bucket));
        let made = self.room.made.of_mut(bucket);
        let summed = (Tree::Rounds, made.at_mut(0..range.len()));
        self.ranks.reduce("gradients of a layer", dev, summed, &cuts, &mut self.room.scratch)?;
        for (whole, held) in self.kept.of_range(&range) {
            let cut = made.at(whole.start - range.start..whole.end - range.start);
            match self.own {
                1 => add(dev, cut, self.sum.at_mut(held))?,
                _ => copy(dev, cut, self.lanes[self.held].at_mut(held))?,
            }
        }
        Ok(())
    }
}
