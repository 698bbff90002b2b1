//! Which tokens the rows of packed sequences are scored among.
//!
//! The one idea: the same few masks come back, row after row; each is kept, and sent to the device, once for all rows of a
//! batch that have it.

use super::Plan;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ops::logprob::Masks;
use crate::ops::want;
use crate::text::Mask;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Which tokens the rows that carry loss are scored among, on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RowMasks {
    /// Each once, in the order in which they came.
    each: Vec<Mask>,
    /// The mask of each row, -1 for none; empty where no row has one.
    of: Vec<i32>,
    /// Where each stands, by what it says.
    by_words: HashMap<Mask, i32>,
    /// The same of every copy that came, by where its words lie: a mask that is known is not read again.
    by_place: HashMap<InPlace, i32>,
}

/// A mask that is equal to itself alone.
#[derive(Debug, Clone)]
struct InPlace(Mask);

impl PartialEq for InPlace {
    fn eq(&self, other: &InPlace) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for InPlace {}

impl Hash for InPlace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_ptr().hash(state);
    }
}

impl RowMasks {
    /// None, with room for those of `n` rows.
    pub fn with_capacity(n: usize) -> RowMasks {
        let (by_words, by_place) = (HashMap::with_capacity(n), HashMap::with_capacity(n));
        RowMasks { each: Vec::with_capacity(n), of: Vec::with_capacity(n), by_words, by_place }
    }

    /// Removes all, keeping the memory.
    pub fn clear(&mut self) {
        self.each.clear();
        self.of.clear();
        self.by_words.clear();
        self.by_place.clear();
    }

    /// Gives a mask to row `row`.
    pub fn set(&mut self, row: usize, mask: &Mask) {
        let at = match self.by_place.get(&InPlace(mask.clone())) {
            Some(at) => *at,
            None => {
                let at = *self.by_words.entry(mask.clone()).or_insert(self.each.len() as i32);
                if at as usize == self.each.len() {
                    self.each.push(mask.clone());
                }
                self.by_place.insert(InPlace(mask.clone()), at);
                at
            }
        };
        self.rows(row + 1);
        self.of[row] = at;
    }

    /// There are `n` rows or more, those that were not there without a mask.
    pub fn rows(&mut self, n: usize) {
        if !self.each.is_empty() {
            self.of.resize(self.of.len().max(n), -1);
        }
    }

    /// `Ok` when they are masks of `vocab` tokens for rows of these targets, each of which allows its row's, and there is room.
    pub fn check(&self, targets: &[i32], vocab: usize, has_room: bool) -> Result<()> {
        if self.each.is_empty() {
            return Ok(());
        }
        want("model", "a batch made for masks", has_room as usize, 1)?;
        want("model", "mask of rows [M]", self.of.len(), targets.len())?;
        for mask in &self.each {
            want("model", "words of a mask", mask.len(), vocab.div_ceil(32))?;
        }
        for (target, at) in targets.iter().zip(&self.of).filter(|(_, at)| **at >= 0) {
            let word = self.each[*at as usize][*target as usize / 32];
            if word as u32 >> (*target % 32) & 1 == 0 {
                let what = format!("drew token {target} among tokens that it is none of: a bug in haggle");
                return Err(Error::data("model", what));
            }
        }
        Ok(())
    }
}

/// The same on the device.
pub(super) struct MaskBuffers {
    /// `[max_loss, ceil(V / 32)]`
    words: Buffer,
    /// `[max_loss]`
    of: Buffer,
    row: usize,
    /// How many masks there are.
    len: usize,
}

impl MaskBuffers {
    /// Room for a mask of `vocab` tokens for each of `max_loss` rows.
    pub fn planned(plan: &mut Plan, vocab: usize, max_loss: usize) -> Result<MaskBuffers> {
        let row = vocab.div_ceil(32);
        let words = plan.i32("batch", "masks of targets", max_loss * row)?;
        Ok(MaskBuffers { words, of: plan.i32("batch", "mask of rows", max_loss)?, row, len: 0 })
    }

    /// Replaces what was there by what was checked.
    pub fn write(&mut self, dev: &Device, masks: &RowMasks) {
        self.len = masks.each.len();
        if self.len == 0 {
            return;
        }
        for (i, mask) in masks.each.iter().enumerate() {
            dev.write(self.words.at_mut(i * self.row..(i + 1) * self.row), mask);
        }
        dev.write(self.of.at_mut(0..masks.of.len()), &masks.of);
    }

    /// Those of `n` rows; none where no row has one.
    pub fn at(&self, n: usize) -> Option<Masks<'_>> {
        let words = self.words.at(0..self.len * self.row);
        (self.len > 0).then(|| Masks { words, of: self.of.at(0..n) })
    }
}
