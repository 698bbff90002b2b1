//! Views of the device over ranks: gradients summed in the tree of lanes, and every rank's part brought to all.
//!
//! The one idea: what is added goes to who adds it, in rounds of a fixed size, and is added there where it came to. All ranks
//! send and receive in every round, and no more memory is held however many they are.

use super::Ranks;
use super::join::Sum;
use super::lanes::Tree;
use crate::device::nccl::Place;
use crate::device::{Buffer, DType, Device, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::embed::{add, copy};
use std::ops::Range;

/// Elements of a buffer of scratch, at most: 64 MiB.
const MOST: usize = 16 << 20;

/// Elements of each buffer of scratch that a sum wants for a cut of `len`.
pub fn scratch_len(len: usize) -> usize {
    len.min(MOST)
}

/// How the pieces of `world` ranks go in rounds.
struct Rounds {
    /// Buffer and slot of each rank's piece.
    slots: Vec<(usize, usize)>,
    /// Slots of the fullest buffer.
    per: usize,
}

impl Rounds {
    fn of(world: usize, tree: Tree) -> Rounds {
        let slots = tree.places(world, tree.held(world).max(2));
        Rounds { per: slots.iter().map(|(_, slot)| slot + 1).max().unwrap_or(1), slots }
    }

    /// Elements of a cut that go in a round.
    fn chunk(&self, cut: &Range<usize>) -> usize {
        (scratch_len(cut.len()) / self.per).max(1)
    }

    /// How many rounds all cuts take.
    fn count(&self, cuts: &[Range<usize>]) -> usize {
        cuts.iter().map(|cut| cut.len().div_ceil(self.chunk(cut))).max().unwrap_or(0)
    }

    /// The part of a cut that goes in this round.
    fn part(&self, cut: &Range<usize>, round: usize) -> Range<usize> {
        let chunk = self.chunk(cut);
        cut.end.min(cut.start + round * chunk)..cut.end.min(cut.start + (round + 1) * chunk)
    }

    /// Where each rank's piece of `len` of this cut lies.
    fn places(&self, cut: &Range<usize>, len: usize) -> Vec<Place> {
        let chunk = self.chunk(cut);
        self.slots.iter().map(|(buffer, slot)| (*buffer, slot * chunk..slot * chunk + len)).collect()
    }
}

impl Ranks {
    /// Brings every rank's part of `data` to all: `cuts[r]` is rank r's, and they lie end to end.
    ///
    /// # Errors
    /// As [`super::Link::all_gather`]; what the device says.
    pub fn share(&self, what: &'static str, dev: &Device, data: ViewMut, cuts: &[Range<usize>]) -> Result<()> {
        let Some(link) = self.link.as_ref().filter(|link| link.world() > 1) else { return Ok(()) };
        let own = cuts[self.rank()].len() * data.dtype().size();
        let call = self.comes(what, own * (self.world() - 1));
        let told = link.share(&call, dev, data, cuts);
        self.leaves();
        told
    }

    /// Of `from`, `cuts[r]` goes to rank r; what rank r has for this one comes to `places[r]` of `into`: as many as it sends.
    ///
    /// # Errors
    /// As [`super::Link::all_to_all`]; what the device says.
    pub fn exchange(
        &self,
        what: &'static str,
        dev: &Device,
        (from, cuts): (View, &[Range<usize>]),
        (into, places): (&mut Buffer, &[Range<usize>]),
    ) -> Result<()> {
        let Some(link) = &self.link else {
            return Err(Error::Ranks { what: format!("{what}: one rank alone exchanges nothing") });
        };
        let sent = cuts.iter().map(Range::len).sum::<usize>() - cuts[self.rank()].len();
        let call = self.comes(what, sent * from.dtype().size());
        let places: Vec<Place> = places.iter().map(|place| (0, place.clone())).collect();
        let told = link.exchange(&call, dev, from, cuts, std::slice::from_mut(into), &places);
        self.leaves();
        told
    }

    /// The sum of what every rank has of a `tree`, where this rank's cut of it lies: `branch` `[N]` f32, of which `cuts[r]`
    /// becomes rank r's. `held`, as many as [`Tree::held`] of the ranks, is scratch; [`scratch_len`] of this rank's cut is long
    /// enough.
    ///
    /// # Errors
    /// As [`super::Link::all_to_all`]; what the device says.
    pub fn reduce(
        &self,
        what: &'static str,
        dev: &Device,
        (tree, mut branch): (Tree, ViewMut),
        cuts: &[Range<usize>],
        held: &mut [Buffer],
    ) -> Result<()> {
        let Some(link) = self.link.as_ref().filter(|link| link.world() > 1) else { return Ok(()) };
        if self.sum() == Sum::Nccl {
            let call = self.comes(what, ring_bytes(cuts, self.rank()));
            let told = link.sum(&call, branch, cuts);
            self.leaves();
            return told;
        }
        let (rounds, own) = (Rounds::of(self.world(), tree), &cuts[self.rank()]);
        let least = if own.is_empty() { 0 } else { rounds.per * rounds.chunk(own) };
        // A cut of fewer elements than there are ranks.
        let mut few = Vec::new();
        let held = if held.iter().all(|buffer| buffer.len() >= least) {
            held
        } else {
            few.extend(held.iter().map(|_| dev.zeros(DType::F32, least)).collect::<Result<Vec<_>>>()?);
            &mut few[..]
        };
        for round in 0..rounds.count(cuts) {
            let parts: Vec<Range<usize>> = cuts.iter().map(|cut| rounds.part(cut, round)).collect();
            let mine = parts[self.rank()].clone();
            let places = rounds.places(own, mine.len());
            let sent = parts.iter().map(Range::len).sum::<usize>() - mine.len();
            let call = self.comes(what, sent * size_of::<f32>());
            let told = link.exchange(&call, dev, branch.view(), &parts, held, &places);
            self.leaves();
            told?;
            if !mine.is_empty() {
                add_tree(dev, tree, held, &places, branch.reborrow().at(mine))?;
            }
        }
        Ok(())
    }
}

/// Bytes that a rank sends where a ring sums: all but its cut, and where cuts are of several lengths the whole sum goes round.
fn ring_bytes(cuts: &[Range<usize>], rank: usize) -> usize {
    let (own, all): (usize, usize) = (cuts[rank].len(), cuts.iter().map(Range::len).sum());
    let alike = cuts.iter().all(|cut| cut.len() == own);
    size_of::<f32>() * if alike { all - own } else { 2 * all * (cuts.len() - 1) / cuts.len() }
}

/// The sum of what lies at `places`, in the tree of as many leaves, added where it lies and copied `to`.
fn add_tree(dev: &Device, tree: Tree, held: &mut [Buffer], places: &[Place], to: ViewMut) -> Result<()> {
    let mut open: Vec<&Place> = Vec::new();
    for (i, place) in places.iter().enumerate() {
        open.push(place);
        for _ in 0..tree.merges(i, places.len()) {
            let (Some((b, from)), Some((a, onto))) = (open.pop(), open.last()) else { break };
            let Ok([a, b]) = held.get_disjoint_mut([*a, *b]) else {
                return Err(Error::Ranks { what: "two that are added lie in one buffer: a bug in haggle".into() });
            };
            add(dev, b.at(from.clone()), a.at_mut(onto.clone()))?;
        }
    }
    let (buffer, sum) = &places[0];
    copy(dev, held[*buffer].at(sum.clone()), to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_fits_the_scratch_and_all_rounds_are_the_whole_cut() {
        for (tree, world) in (2..=17).flat_map(|world| [(Tree::Runs, world), (Tree::Rounds, world)]) {
            let rounds = Rounds::of(world, tree);
            for len in [0, 1, 2, 7, 64, 1000, MOST + 5, 3 * MOST] {
                let cut = 10..10 + len;
                let n = rounds.count(std::slice::from_ref(&cut));
                let parts: Vec<Range<usize>> = (0..n).map(|round| rounds.part(&cut, round)).collect();
                assert_eq!(parts.iter().map(Range::len).sum::<usize>(), len);
                assert!(parts.windows(2).all(|two| two[0].end == two[1].start), "{parts:?}");
                let longest = rounds.per * rounds.chunk(&cut);
                assert!(longest <= len.min(MOST).max(rounds.per), "{world} {len}: {longest}");
                let places = rounds.places(&cut, rounds.chunk(&cut));
                assert!(places.iter().all(|(_, part)| part.end <= longest), "{world} {len}");
                assert!(rounds.part(&cut, n).is_empty());
            }
        }
    }
}
