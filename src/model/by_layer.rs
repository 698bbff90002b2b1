//! Weights of which each rank keeps a part: what forwards read of them is brought together for a layer, or, while episodes are
//! played, for all of them.
//!
//! The one idea: training goes through the layers in order, so room for one layer is enough, gathered before its forward and
//! again before its backward. A rollout goes through all layers for every token, at a pace of its own at each rank: then the
//! whole is brought together once, where training has its buffers otherwise. Of experts that are spread a rank reads its own.
//!
//! Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, stage 3).

use super::plan::Phase;
use super::slots::Slots;
use super::{Layout, Plan};
use crate::device::{Buffer, DType, Device, View};
use crate::dist::cuts::counted;
use crate::dist::{Cuts, Kept, Ranks};
use crate::error::Result;
use crate::ops::embed::copy;
use std::ops::Range;

/// The group of weights in a plan.
pub(super) const GROUP: &str = "weights";

/// What forwards read of weights in parts.
pub(super) struct ByLayer {
    ranks: Ranks,
    cuts: Cuts,
    /// What of each bucket is here while it is learned from.
    here: Vec<Kept>,
    /// The type they read.
    dtype: DType,
    slots: Slots<Slot>,
    whole: Option<Buffer>,
}

/// Room for a bucket.
struct Slot {
    data: Buffer,
    holds: Option<usize>,
}

impl ByLayer {
    /// Room for a layer while it is learned from, and for all while episodes are played: neither is there yet.
    pub(super) fn planned(
        plan: &mut Plan,
        name: &str,
        layout: &Layout,
        dtype: DType,
        (ranks, cuts): (Ranks, Cuts),
    ) -> Result<ByLayer> {
        let head = layout.bucket_of_head();
        let whole = format!("{name}, together");
        plan.later(Phase::Plays, |plan| plan.buffer(GROUP, whole, dtype, cuts.n_elements()))?;
        let here: Vec<Kept> = (0..cuts.n_buckets()).map(|bucket| cuts.here(bucket, ranks.rank())).collect();
        let slots = plan.later(Phase::Learns, |plan| slots(plan, &here, head, dtype))?;
        Ok(ByLayer { ranks, cuts, here, dtype, slots, whole: None })
    }

    /// Makes room for a layer; of a dry plan it gives it back.
    pub(super) fn make_room(&mut self, plan: &mut Plan) -> Result<()> {
        self.slots = slots(plan, &self.here, self.slots.head(), self.dtype)?;
        Ok(())
    }

    /// Brings all parameters together, of which this rank has `data`.
    pub(super) fn bring(&mut self, dev: &Device, data: &Buffer, kept: &Kept) -> Result<()> {
        let mut whole = dev.zeros(self.dtype, self.cuts.n_elements())?;
        for (at, held) in kept.of_range(&(0..self.cuts.n_elements())) {
            copy(dev, data.at(held), whole.at_mut(at))?;
        }
        for cuts in self.cuts.stretches() {
            self.ranks.share("all weights", dev, whole.view_mut(), cuts)?;
        }
        self.whole = Some(whole);
        Ok(())
    }

    /// Gives back what was brought together.
    pub(super) fn let_go(&mut self) {
        self.whole = None;
    }

    /// True where all parameters are here.
    pub(super) fn is_together(&self) -> bool {
        self.whole.is_some()
    }

    /// Takes nothing for what is there: parameters may have changed.
    pub(super) fn forget(&mut self) {
        self.slots.both_mut().into_iter().for_each(|slot| slot.holds = None);
    }

    /// Brings a bucket together, where it is not.
    pub(super) fn enter(&mut self, dev: &Device, data: &Buffer, kept: &Kept, bucket: usize) -> Result<()> {
        let slot = self.slots.of_mut(bucket);
        if self.whole.is_some() || slot.holds == Some(bucket) {
            return Ok(());
        }
        let here = &self.here[bucket];
        for (held, at) in kept.common(here) {
            copy(dev, data.at(held), slot.data.at_mut(at))?;
        }
        for cuts in self.cuts.gathered(bucket) {
            let whole = slot.data.at_mut(here.run(&(cuts[0].start..cuts[cuts.len() - 1].end)));
            self.ranks.share("weights of a layer", dev, whole, &counted(cuts))?;
        }
        slot.holds = Some(bucket);
        Ok(())
    }

    /// These parameters, as forwards read them.
    ///
    /// # Panics
    /// When their bucket was not entered, or they are not here.
    pub(super) fn at(&self, range: Range<usize>) -> View<'_> {
        if let Some(whole) = &self.whole {
            return whole.at(range);
        }
        let bucket = self.cuts.bucket_of(range.start);
        let slot = self.slots.of(bucket);
        assert_eq!(slot.holds, Some(bucket), "a bucket is read that was not entered");
        slot.data.at(self.here[bucket].run(&range))
    }

    /// Bytes of everything that is there.
    pub(super) fn size_bytes(&self) -> usize {
        let whole = self.whole.as_ref().map_or(0, Buffer::size_bytes);
        self.slots.both().into_iter().map(|slot| slot.data.size_bytes()).sum::<usize>() + whole
    }
}

fn slots(plan: &mut Plan, here: &[Kept], head: usize, dtype: DType) -> Result<Slots<Slot>> {
    let lens: Vec<usize> = here.iter().map(Kept::len).collect();
    Slots::planned(plan, &lens, head, |plan, name, len| {
        Ok(Slot { data: plan.buffer(GROUP, format!("trained, {name}"), dtype, len)?, holds: None })
    })
}
