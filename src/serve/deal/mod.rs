//! Negotiations: the product's own API, from a private limit to a deal.
//!
//! The one idea: a negotiation is its list of rounds. Each is played from the record alone (so any replica may go on with it),
//! stored before it is acknowledged, and chained by hash to the one before. What leaves is the record's public half: the limit
//! and the thoughts stay in the private one.

mod clock;
mod play;
mod postgres;
mod record;
pub(super) mod routes;
mod settings;
mod sqlite;
mod store;
pub(super) mod turn;

pub use clock::Clock;
pub use postgres::Postgres;
pub use sqlite::Sqlite;
pub use store::{Kept, Once, Round, Store};

use super::refusal::Refusal;
use crate::guide::Manner;
use crate::infer::Sampling;
use crate::negotiate::{Cents, Rules};
use crate::text::Chat;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What negotiating needs beside a model's name.
pub struct Negotiator {
    /// Tokenizer and template, as games are played.
    pub chat: Chat,
    /// How it is guided.
    pub manner: Manner,
    /// How its prompts are worded, and its usual number of rounds.
    pub rules: Rules,
    /// How its replies are drawn.
    pub sampling: Sampling,
    /// Positions of a sequence.
    pub context: usize,
    /// The dearest list price that it can copy.
    pub dearest: Cents,
    /// Where negotiations are kept.
    pub store: Box<dyn Store>,
    /// Negotiations in which a turn is being played.
    pub busy: Busy,
    /// When they were made, and whether they have expired.
    pub clock: Clock,
}

impl Negotiator {
    /// Tokens of any reply, about: its free parts, and the fixed ones byte by byte.
    fn most_tokens(&self) -> usize {
        const FIXED: usize = 80;
        self.manner.caps.thought + self.manner.caps.talk + FIXED
    }
}

/// The negotiations that someone writes to.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<Mutex<HashSet<String>>>);

/// The right to write to one; given back when it is dropped.
pub struct Turn {
    busy: Busy,
    id: String,
}

impl Busy {
    /// Takes the right to write to a negotiation.
    ///
    /// # Errors
    /// 409 while another has it.
    pub fn take(&self, id: &str) -> Result<Turn, Refusal> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.into()) {
            true => Ok(Turn { busy: self.clone(), id: id.into() }),
            false => Err(Refusal::conflict("another message to this negotiation is being answered", "busy")),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
