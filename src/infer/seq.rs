//! A sequence in the engine: its tokens, its pages, its turn.

use super::lean::Leaning;
use super::likeliest::Told;
use crate::error::{Error, Result};

/// Names a sequence of one engine. Stale after its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId {
    pub(super) slot: u32,
    pub(super) birth: u64,
}

/// How a sequence's tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 is greedy (and logprobs are then at temperature 1).
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set whose probability reaches top_p; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below min_p times the likeliest; 0 keeps all.
    pub min_p: f32,
    /// A turn ends, truncated, after this many tokens.
    pub max_new_tokens: usize,
    /// A turn ends after this token; negative: never.
    pub stop: i32,
    /// Likeliest tokens told beside each sampled one, see [`Turn::likeliest`]; 0 tells none. Moves no sample.
    pub likeliest: usize,
}

impl Sampling {
    /// The policy's own distribution at `temperature`, at most `max_new_tokens` a turn, until `stop`.
    pub fn plain(temperature: f32, max_new_tokens: usize, stop: i32) -> Sampling {
        Sampling { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, max_new_tokens, stop, likeliest: 0 }
    }

    /// # Errors
    /// [`Error::Config`] that names every field out of its range.
    pub fn check(&self) -> Result<()> {
        let rules = [
            (self.temperature >= 0.0 && self.temperature.is_finite(), "temperature", "0 or more", self.temperature),
            (self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "above 0 and at most 1", self.top_p),
            (self.min_p >= 0.0 && self.min_p <= 1.0, "min_p", "between 0 and 1", self.min_p),
            (self.max_new_tokens > 0, "max_new_tokens", "1 or more", self.max_new_tokens as f32),
            (self.top_k <= i32::MAX as usize, "top_k", "below 2^31", self.top_k as f32),
        ];
        let wrong = rules.iter().filter(|(ok, ..)| !ok);
        let problems: Vec<_> =
            wrong.map(|(_, key, want, got)| format!("sampling: {key} must be {want}, is {got}")).collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::Config { problems }) }
    }
}

/// The noise a sequence is sampled with: token at position p draws number p of this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseKey {
    /// The run's seed.
    pub seed: u64,
    /// The episode and side.
    pub stream: u64,
}

/// A turn: a finished one, or what there is of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn<'a> {
    /// Whose.
    pub seq: SeqId,
    /// The sampled tokens, the stop token included.
    pub ids: &'a [i32],
    /// Their log-probabilities at the sampling temperature, under the whole softmax.
    pub logprobs: &'a [f32],
    /// Where [`Sampling::likeliest`] asks for them: the likeliest tokens at each sampled one, the likeliest first, with
    /// logprobs that are measured as those of sampled tokens are. Else empty.
    pub likeliest: &'a [Vec<(i32, f32)>],
    /// Where [`super::Engine::tell_prompt`] asks for it: of each token of the prompt but the first. Else empty.
    pub prompt: &'a [Told],
    /// Tokens before the turn that were not run for it because the prefix cache held them.
    pub reused: usize,
    /// True when max_new_tokens or the context ended the turn and not the stop token.
    pub truncated: bool,
}

/// What a sequence waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The slot is free.
    Free,
    /// The engine: tokens are to be run or sampled.
    Running,
    /// The caller: its turn is finished.
    Finished {
        /// See [`Turn::truncated`].
        truncated: bool,
    },
}

/// One slot. Tokens `0..cached` have their keys and values in `pages`; the rest is to be run.
#[derive(Debug)]
pub(super) struct Seq {
    pub birth: u64,
    pub state: State,
    pub ids: Vec<i32>,
    /// Of the tokens sampled in this turn.
    pub logprobs: Vec<f32>,
    /// See [`Turn::likeliest`].
    pub likeliest: Vec<Vec<(i32, f32)>>,
    /// See [`Turn::reused`]; none before the turn has pages.
    pub reused: Option<usize>,
    pub pages: Vec<u32>,
    pub cached: usize,
    /// Length of the prompt given to `add`.
    pub prompt: usize,
    /// Where this turn's sampled tokens start.
    pub turn: usize,
    pub sampling: Sampling,
    pub key: NoiseKey,
    /// Ids that may come next, a bit each; empty where all may.
    pub allowed: Vec<i32>,
    /// What moves its logits, where anything does.
    pub leaning: Option<Leaning>,
    /// Likeliest tokens to be told of each token of the prompt, where they are to be told.
    pub tells: Option<usize>,
    /// What is told of them, from the second on.
    pub told: Vec<Told>,
    /// The last step that runs or samples this sequence: while it is the present one its pages stay.
    pub step: u64,
}

impl Seq {
    pub fn empty(table_width: usize) -> Seq {
        Seq {
            birth: 0,
            state: State::Free,
            ids: vec![],
            logprobs: vec![],
            likeliest: vec![],
            reused: None,
            pages: Vec::with_capacity(table_width),
            cached: 0,
            prompt: 0,
            turn: 0,
            sampling: Sampling::plain(1.0, 1, -1),
            key: NoiseKey { seed: 0, stream: 0 },
            allowed: vec![],
            leaning: None,
            tells: None,
            told: vec![],
            step: 0,
        }
    }

    /// Tokens to run before the next one can be sampled.
    pub fn todo(&self) -> usize {
        self.ids.len() - self.cached
    }

    /// Starts a turn after all present tokens.
    pub fn begin_turn(&mut self, context: usize) {
        (self.state, self.turn) = (State::Running, self.ids.len());
        self.logprobs.clear();
        self.likeliest.clear();
        self.leaning.iter_mut().for_each(Leaning::restart);
        self.reused = (!self.pages.is_empty()).then_some(self.cached);
        self.reserve(context);
    }

    /// Room for the rest of the longest turn, so that no step allocates.
    pub fn reserve(&mut self, context: usize) {
        let room = self.sampling.max_new_tokens.min(context - self.ids.len());
        self.ids.reserve(room);
        self.logprobs.reserve(room);
    }

    /// True while tokens of the prompt are to be told.
    pub fn telling(&self) -> bool {
        self.tells.is_some() && self.told.len() + 1 < self.prompt
    }

    /// Counts its new tokens, where that moves the next one.
    pub fn count(&mut self) {
        if let Some(leaning) = &mut self.leaning {
            leaning.count(&self.ids, self.turn);
        }
    }

    /// Takes a sampled token; true when it ends the turn.
    pub fn take(&mut self, token: i32, logprob: f32, context: usize) -> bool {
        self.ids.push(token);
        self.logprobs.push(logprob);
        let stopped = token == self.sampling.stop;
        let full = self.logprobs.len() >= self.sampling.max_new_tokens || self.ids.len() == context;
        if stopped || full {
            self.state = State::Finished { truncated: !stopped };
        }
        stopped || full
    }
}
