//! The gradient of an update, summed layer by layer into shards: see [`crate::dist::lanes::Tree::Rounds`].
//!
//! The one idea: a round is one micro-batch of every lane. As soon as a layer's backward is done its gradient is summed over
//! the lanes that all ranks are at, at whoever keeps each part of it; what a rank holds is one layer's gradient and its shard of
//! the sum. The order is this mode's own: lanes are summed in their tree within a round, and rounds are added one after
//! another. A lane without a micro-batch in a round adds zero, wherever it is. Of experts that are spread each rank makes the
//! gradients of its own, a lane after the other, and sums them in the same tree without telling anybody.
//!
//! Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, stage 2).

use super::branches::add_up;
use super::optimizer::Optimizer;
use crate::device::{Buffer, Device, View, ViewMut};
use crate::dist::cuts::counted;
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
    /// Of each bucket what all ranks sum, and what is made and summed here alone.
    buckets: Vec<[Kept; 2]>,
    room: Room,
    /// This rank's shard of the sum of all rounds so far.
    sum: Buffer,
    /// Of the lanes of this rank, what their tree holds of a round: none where it has one lane.
    lanes: Vec<Buffer>,
    /// Lanes of this rank, the one it is at, and sums held of them.
    own: usize,
    lane: usize,
    held: usize,
    /// Sums held of the gradients of this rank's experts.
    experts: usize,
}

/// Room for what passes.
struct Room {
    /// The gradient of the bucket that is made: that of a head of its own lies where the embedding's does, which comes last.
    made: Slots<Buffer>,
    /// What the tree of the ranks' lanes holds of the gradients of this rank's experts in a layer.
    experts: Vec<Buffer>,
    /// Sums of ranks, of a round of one cut.
    scratch: Vec<Buffer>,
}

/// Its group in a plan.
const GROUP: &str = "gradients";

impl Room {
    fn planned(plan: &mut Plan, cuts: &Cuts, buckets: &[[Kept; 2]], head: usize) -> Result<Room> {
        let world = cuts.world();
        let (sums, each) = (if world > 1 { Tree::Rounds.held(world) } else { 0 }, scratch_len(cuts.longest()));
        let [together, at_home] = [0, 1].map(|of| buckets.iter().map(|both| both[of].len()).collect::<Vec<_>>());
        let own = at_home.into_iter().max().unwrap_or(0);
        let of_experts = if own > 0 { sums } else { 0 };
        let mut branches = |n, what, each| -> Result<Vec<Buffer>> {
            (0..n).map(|i| plan.f32(GROUP, format!("{what}, branch {i} of the ranks"), each)).collect()
        };
        Ok(Room {
            scratch: branches(sums, "a cut", each)?,
            experts: branches(of_experts, "a layer's experts", own)?,
            made: Slots::planned(plan, &together, head, |plan, name, len| plan.f32(GROUP, name, len))?,
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
        let of = |bucket| [cuts.together(bucket), cuts.at_home(bucket, ranks.rank())];
        let buckets: Vec<[Kept; 2]> = (0..cuts.n_buckets()).map(of).collect();
        let room = match phase {
            Phase::Always => Room::planned(plan, &cuts, &buckets, head)?,
            Phase::Plays | Phase::Learns => plan.later(phase, |plan| Room::planned(plan, &cuts, &buckets, head))?,
        };
        let sum = plan.f32(GROUP, "shard", kept.len())?;
        let held = if own > 1 { Tree::Rounds.held(own) } else { 0 };
        let of_lanes = (0..held).map(|i| plan.f32(GROUP, format!("shard, branch {i} of the lanes"), kept.len()));
        let of_lanes = of_lanes.collect::<Result<_>>()?;
        Ok(Rounds { ranks, cuts, kept, buckets, room, sum, lanes: of_lanes, own, lane: 0, held: 0, experts: 0 })
    }

    /// Makes room for what passes; of a dry plan gives it back.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn make_room(&mut self, plan: &mut Plan) -> Result<()> {
        self.room = Room::planned(plan, &self.cuts, &self.buckets, self.room.made.head())?;
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
        add_up(dev, &mut self.lanes, &mut self.held, Tree::Rounds.merges(self.lane, self.own))?;
        if self.lane + 1 == self.own { add(dev, self.lanes[0].view(), self.sum.view_mut()) } else { Ok(()) }
    }

    /// The sum of all rounds, of what this rank keeps.
    pub fn sum(&self) -> View<'_> {
        self.sum.view()
    }

    /// Where a bucket's gradient is made, but those of experts that are at home.
    fn bucket_mut(&mut self, bucket: usize) -> ViewMut<'_> {
        self.room.made.of_mut(bucket).at_mut(0..self.buckets[bucket][0].len())
    }
}

impl Gradient for Rounds {
    fn n_elements(&self) -> usize {
        self.cuts.n_elements()
    }

    fn part_mut(&mut self, range: Range<usize>) -> ViewMut<'_> {
        let bucket = self.cuts.bucket_of(range.start);
        let [together, at_home] = &self.buckets[bucket];
        if at_home.of_range(&range).next().is_some() {
            return self.room.experts[self.experts].at_mut(at_home.run(&range));
        }
        self.room.made.of_mut(bucket).at_mut(together.run(&range))
    }

    fn begins(&mut self, dev: &Device, bucket: usize) -> Result<()> {
        fill(dev, self.bucket_mut(bucket), 0.0)
    }

    fn begins_rows_of(&mut self, dev: &Device, rank: usize) -> Result<()> {
        self.experts = if rank == 0 { 0 } else { self.experts };
        fill(dev, self.room.experts[self.experts].view_mut(), 0.0)
    }

    /// Adds the lane that a rank is at to the branch of the tree that it ends.
    fn ends_rows_of(&mut self, dev: &Device, rank: usize) -> Result<()> {
        let merges = Tree::Rounds.merges(rank, self.ranks.world());
        add_up(dev, &mut self.room.experts, &mut self.experts, merges)
    }

    /// Sums a bucket over the lanes that all ranks are at, and adds this rank's cuts to the round's sum.
    fn ends(&mut self, dev: &Device, bucket: usize) -> Result<()> {
        let [together, at_home] = &self.buckets[bucket];
        let made = self.room.made.of_mut(bucket);
        for cuts in self.cuts.gathered(bucket) {
            let stretch = made.at_mut(together.run(&(cuts[0].start..cuts[cuts.len() - 1].end)));
            let summed = (Tree::Rounds, stretch);
            self.ranks.reduce("gradients of a layer", dev, summed, &counted(cuts), &mut self.room.scratch)?;
        }
        let (made, experts) = (&*made, self.room.experts.first());
        let both = [Some((together, made)), experts.map(|experts| (at_home, experts))];
        for (summed, from) in both.into_iter().flatten() {
            for (held, at) in self.kept.common(summed) {
                match self.own {
                    1 => add(dev, from.at(at), self.sum.at_mut(held))?,
                    _ => copy(dev, from.at(at), self.lanes[self.held].at_mut(held))?,
                }
            }
        }
        Ok(())
    }
}
