//! A reply on its way through its grammar.

use super::grammar::{Caps, Grammar, State};
use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::text::{Chat, Mask, Tokenizer};
use std::collections::HashMap;
use std::sync::Arc;

/// How a model is guided, whatever it replies to.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Its tokens.
    pub vocabulary: Arc<Vocabulary>,
    /// Tokens of the free parts of a reply.
    pub caps: Caps,
}

impl Manner {
    /// Of a model with `vocab` rows whose thought and talk share `max_reply_tokens` evenly.
    ///
    /// # Errors
    /// As [`Vocabulary::new`].
    pub fn new(chat: &Chat, vocab: usize, max_reply_tokens: usize) -> Result<Manner> {
        let vocabulary = Arc::new(Vocabulary::new(&chat.tokenizer, vocab, chat.end())?);
        Ok(Manner { vocabulary, caps: Caps { thought: max_reply_tokens / 2, talk: max_reply_tokens / 2 } })
    }

    /// Tokens after which every reply of a grammar has ended, whichever tokens spell it, the one that ends it included.
    pub fn most_tokens(&self, grammar: &Grammar) -> usize {
        // A part that is closing may still finish a character.
        self.caps.thought + self.caps.talk + 2 * 3 + grammar.fixed_bytes() + 1
    }
}

/// How a reply is to be made.
#[derive(Debug, Clone)]
pub struct Guide {
    grammar: Arc<Grammar>,
    manner: Manner,
}

impl Guide {
    /// Replies of a grammar, by a model of this manner.
    pub fn new(manner: &Manner, grammar: Grammar) -> Guide {
        Guide { grammar: Arc::new(grammar), manner: manner.clone() }
    }

    /// See [`Manner::most_tokens`].
    pub fn most_tokens(&self) -> usize {
        self.manner.most_tokens(&self.grammar)
    }

    /// A reply of which nothing was said.
    pub fn begin(&self) -> Course {
        Course { guide: self.clone(), state: self.grammar.start(), in_part: 0, made: HashMap::new() }
    }
}

/// A reply so far.
#[derive(Debug, Clone)]
pub struct Course {
    guide: Guide,
    state: State,
    /// Tokens of the free part it is in.
    in_part: usize,
    /// Masks that were made, by state and whether its part was closing: free text comes back to the same few, and each costs a
    /// walk over the vocabulary.
    made: HashMap<(State, bool), Mask>,
}

impl Course {
    /// The tokens that may come next: see [`crate::infer::Engine::allow`]. Never none.
    pub fn allowed(&mut self) -> &[i32] {
        self.mask()
    }

    /// The same, to be kept.
    pub fn mask(&mut self) -> &Mask {
        let (at, grammar, vocabulary) =
            ((self.state, self.closing()), &self.guide.grammar, &self.guide.manner.vocabulary);
        self.made.entry(at).or_insert_with(|| vocabulary.allowed(grammar, at.0, at.1).into())
    }

    /// Takes the next token. False for one that may not come: then nothing is taken.
    pub fn take(&mut self, tokenizer: &Tokenizer, id: i32) -> bool {
        if self.state == State::End {
            return id == self.guide.manner.vocabulary.end();
        }
        let next = self.guide.grammar.walk(self.state, &tokenizer.bytes(id), self.closing());
        let Some(next) = next else { return false };
        self.in_part = if part(next) == part(self.state) { self.in_part + 1 } else { 0 };
        self.state = next;
        true
    }

    fn closing(&self) -> bool {
        let Caps { thought, talk } = self.guide.manner.caps;
        match self.state {
            State::Thought(_) => self.in_part >= thought,
            State::Talk(..) => self.in_part >= talk,
            _ => false,
        }
    }
}

/// Which of the free parts.
fn part(state: State) -> usize {
    match state {
        State::Thought(_) => 1,
        State::Talk(..) => 2,
        _ => 0,
    }
}
