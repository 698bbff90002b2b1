//! A guided seat: each token drawn among those that may come next.
//!
//! The one idea: behind each step of the engine the reply's course takes what was drawn and sets what may come then. The
//! engine scores a token among those, so the distribution that is sampled is the one that is told.

use crate::error::{Error, Result};
use crate::guide::{Course, Guide};
use crate::infer::{Engine, SeqId};
use crate::text::Tokenizer;

/// A turn of a guided seat.
pub(super) struct Bound {
    course: Course,
    /// Tokens of the turn that the course has taken.
    taken: usize,
}

impl Bound {
    /// Binds the turn that a sequence has begun.
    ///
    /// # Errors
    /// As [`Engine::allow`].
    pub fn begin(engine: &mut Engine, seq: SeqId, guide: &Guide) -> Result<Bound> {
        let mut course = guide.begin();
        engine.allow(seq, Some(course.allowed()))?;
        Ok(Bound { course, taken: 0 })
    }

    /// Takes what a step has drawn for the sequence, if anything.
    ///
    /// # Errors
    /// [`Error::Data`] for a token that its mask forbids.
    pub fn follow(&mut self, engine: &mut Engine, tokenizer: &Tokenizer, seq: SeqId) -> Result<()> {
        let ids = engine.turn(seq).ids;
        if ids.len() == self.taken {
            return Ok(());
        }
        for id in &ids[self.taken..] {
            if !self.course.take(tokenizer, *id) {
                return Err(Error::data("model", format!("drew token {id}, which its mask forbids: a bug in haggle")));
            }
        }
        self.taken = ids.len();
        engine.allow(seq, Some(self.course.allowed()))
    }
}
