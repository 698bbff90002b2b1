//! How the gradients of an update become one: the two orders there are, as a learner meets them.

use super::branches::Branches;
use super::optimizer::Optimizer;
use super::rounds::Rounds;
use crate::device::{Device, View};
use crate::dist::Shard;
use crate::dist::lanes::Tree;
use crate::error::Result;
use crate::model::{Gradient, Phase, Plan, Weights};

/// The sums of an update, by what ranks keep in parts.
pub enum Sums {
    /// Lane after lane, whole: each lane's micro-batches are added in order, then lanes in their tree.
    Lanes(Branches),
    /// Round after round, a layer at a time: each round's lanes are summed in their tree, then rounds in order.
    Rounds(Box<Rounds>),
}

impl Sums {
    /// Room for them.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(
        plan: &mut Plan,
        weights: &Weights,
        (shard, lanes): (Shard, usize),
        optimizer: &Optimizer,
    ) -> Result<Sums> {
        let rounds = |phase, plan: &mut Plan| -> Result<Sums> {
            let rounds = Rounds::planned(plan, &weights.layout, (lanes, phase), optimizer)?;
            Ok(Sums::Rounds(Box::new(rounds)))
        };
        Ok(match shard {
            Shard::Moments => Sums::Lanes(Branches::planned(plan, weights.n_trained(), lanes, optimizer)?),
            Shard::Gradients => rounds(Phase::Always, plan)?,
            Shard::Weights => rounds(Phase::Learns, plan)?,
        })
    }

    /// The tree in which lanes are summed: see [`Shard::tree`].
    pub fn tree(&self) -> Tree {
        match self {
            Sums::Lanes(_) => Tree::Runs,
            Sums::Rounds(_) => Tree::Rounds,
        }
    }

    /// Begins an update.
    ///
    /// # Errors
    /// What the device says.
    pub fn begin(&mut self, dev: &Device) -> Result<()> {
        match self {
            Sums::Lanes(_) => Ok(()),
            Sums::Rounds(rounds) => rounds.begin(dev),
        }
    }

    /// Begins a lane of this rank, or the micro-batch of a round that it has.
    ///
    /// # Errors
    /// What the device says.
    pub fn begin_lane(&mut self, dev: &Device, lane: usize) -> Result<()> {
        match self {
            Sums::Lanes(branches) => branches.begin(dev, lane),
            Sums::Rounds(rounds) => {
                rounds.at_lane(lane);
                Ok(())
            }
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// What the device says.
    pub fn end_lane(&mut self, dev: &Device) -> Result<()> {
        match self {
            Sums::Lanes(branches) => branches.end(dev),
            Sums::Rounds(rounds) => rounds.end_lane(dev),
        }
    }

    /// The sum of all lanes of all ranks, of what this rank keeps; all ranks ask for it together.
    ///
    /// # Errors
    /// What the device and the ranks say.
    pub fn sum(&mut self, dev: &Device, optimizer: &Optimizer) -> Result<View<'_>> {
        match self {
            Sums::Lanes(branches) => branches.sum(dev, optimizer),
            Sums::Rounds(rounds) => Ok(rounds.sum()),
        }
    }

    /// Makes room for gradients that pass, where they have it while it is learned alone; of a dry plan gives it back.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn make_room(&mut self, plan: &mut Plan) -> Result<()> {
        match self {
            Sums::Lanes(_) => Ok(()),
            Sums::Rounds(rounds) => rounds.make_room(plan),
        }
    }

    /// What a backward adds to.
    pub fn target(&mut self) -> &mut dyn Gradient {
        match self {
            Sums::Lanes(branches) => branches.lane(),
            Sums::Rounds(rounds) => &mut **rounds,
        }
    }
}
