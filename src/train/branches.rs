//! The gradient of an update, summed as lanes and ranks say: see [`crate::dist::lanes::Tree::Runs`].
//!
//! The one idea: a lane's gradient is added to what is held as soon as it is there, so that the tree of a rank's lanes needs
//! as many gradients as it is high, and no more; what is left is one branch, which ranks sum in shards.

use super::optimizer::Optimizer;
use crate::device::{Buffer, Device, View};
use crate::dist::lanes::Tree;
use crate::dist::reduce::scratch_len;
use crate::error::Result;
use crate::model::Plan;
use crate::ops::embed::{add, fill};

/// The sums that are held while an update's gradient is made.
pub struct Branches {
    /// Of this rank's lanes, `[N]` each.
    lanes: Vec<Buffer>,
    /// Of ranks, each of a round of this rank's shard.
    shards: Vec<Buffer>,
    /// Lanes of this rank.
    own: usize,
    /// Lanes added so far, and sums held of them.
    done: usize,
    held: usize,
}

impl Branches {
    /// Room for the gradients of `n` parameters in so many lanes, of which each of the optimizer's ranks has its run.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(plan: &mut Plan, n: usize, lanes: usize, optimizer: &Optimizer) -> Result<Branches> {
        let (world, scratch) = (optimizer.ranks.world(), scratch_len(optimizer.kept().len()));
        let own = (lanes / world).max(1);
        let name = |i: usize| if i == 0 { "weights".into() } else { format!("weights, branch {i} of the lanes") };
        let of_lanes = (0..Tree::Runs.held(own)).map(|i| plan.f32("gradients", name(i), n)).collect::<Result<_>>()?;
        let sums = if world > 1 { Tree::Runs.held(world) } else { 0 };
        let of_ranks = (0..sums).map(|i| plan.f32("gradients", format!("shard, branch {i} of the ranks"), scratch));
        Ok(Branches { lanes: of_lanes, shards: of_ranks.collect::<Result<_>>()?, own, done: 0, held: 0 })
    }

    /// Begins a lane of this rank, which come in order from 0, from zero.
    ///
    /// # Errors
    /// What the device says.
    pub fn begin(&mut self, dev: &Device, lane: usize) -> Result<()> {
        self.done = lane;
        self.held = if lane == 0 { 0 } else { self.held };
        fill(dev, self.lanes[self.held].view_mut(), 0.0)
    }

    /// The gradient of the lane that was begun, `[N]`.
    pub fn lane(&mut self) -> &mut Buffer {
        &mut self.lanes[self.held]
    }

    /// Ends the lane that was begun: it is added to what the tree has it added to.
    ///
    /// # Errors
    /// What the device says.
    pub fn end(&mut self, dev: &Device) -> Result<()> {
        add_up(dev, &mut self.lanes, &mut self.held, Tree::Runs.merges(self.done, self.own))
    }

    /// The sum of all lanes of all ranks, of what this rank keeps; all ranks ask for it together.
    ///
    /// # Errors
    /// What the device and the ranks say.
    pub fn sum(&mut self, dev: &Device, optimizer: &Optimizer) -> Result<View<'_>> {
        for cuts in optimizer.cuts().stretches() {
            let branch = (Tree::Runs, self.lanes[0].view_mut());
            optimizer.ranks.reduce("gradients", dev, branch, cuts, &mut self.shards)?;
        }
        let own = optimizer.kept().parts().first().cloned().unwrap_or(0..0);
        Ok(self.lanes[0].at(own))
    }
}

/// One more sum is held, and the last two of those are added so often.
pub(super) fn add_up(dev: &Device, sums: &mut [Buffer], held: &mut usize, merges: usize) -> Result<()> {
    *held += 1;
    for _ in 0..merges {
        *held -= 1;
        let (left, right) = sums.split_at_mut(*held);
        add(dev, right[0].view(), left[*held - 1].view_mut())?;
    }
    Ok(())
}
