//! A guided seat: each token drawn among those that may come next.
//!
//! The one idea: behind each step of the engine the reply's course takes what was drawn and sets what may come then. The
//! engine scores a token among those, so the distribution that is sampled is the one that is told; what each token was drawn
//! among is kept with it, the very words that the engine was given, so training scores it among the same.

use crate::error::{Error, Result};
use crate::guide::{Course, Guide};
use crate::infer::{Engine, SeqId};
use crate::text::{Mask, Tokenizer};
use std::collections::HashSet;

/// Masks that were given in any turn: equal ones are kept once, for they stay with the episodes.
#[derive(Default)]
pub(super) struct Given(HashSet<Mask>);

impl Given {
    /// A mask, or the equal one that was given before.
    fn one(&mut self, mask: &Mask) -> Mask {
        if let Some(known) = self.0.get(mask) {
            return known.clone();
        }
        self.0.insert(mask.clone());
        mask.clone()
    }
}

/// A turn of a guided seat.
pub(super) struct Bound {
    course: Course,
    /// What each token of the turn that the course has taken was drawn among.
    masks: Vec<Mask>,
    /// What the next one is drawn among.
    next: Mask,
}

impl Bound {
    /// Binds the turn that a sequence has begun.
    ///
    /// # Errors
    /// As [`Engine::allow`].
    pub fn begin(engine: &mut Engine, seq: SeqId, guide: &Guide, given: &mut Given) -> Result<Bound> {
        let mut course = guide.begin();
        let next = given.one(course.mask());
        engine.allow(seq, Some(&next))?;
        Ok(Bound { course, masks: vec![], next })
    }

    /// Takes what a step has drawn for the sequence, if anything.
    ///
    /// # Errors
    /// [`Error::Data`] for a token that its mask forbids, or that was drawn before it had one.
    pub fn follow(&mut self, engine: &mut Engine, tokenizer: &Tokenizer, seq: SeqId, given: &mut Given) -> Result<()> {
        let id = match engine.turn(seq).ids[self.masks.len()..] {
            [] => return Ok(()),
            [id] => id,
            [..] => return Err(Error::data("model", "drew tokens without a mask between them: a bug in haggle")),
        };
        if !self.course.take(tokenizer, id) {
            return Err(Error::data("model", format!("drew token {id}, which its mask forbids: a bug in haggle")));
        }
        self.masks.push(std::mem::replace(&mut self.next, given.one(self.course.mask())));
        engine.allow(seq, Some(&self.next))
    }

    /// What each token of the turn was drawn among.
    pub fn into_masks(self) -> Vec<Mask> {
        self.masks
    }
}
