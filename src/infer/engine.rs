//! The engine: sequences in, finished turns out, one forward a step.
//!
//! What a sequence samples is a function of the weights, its tokens, its [`Sampling`] and its [`NoiseKey`] alone. Not
//! of what else runs, when it was added, how its prompt was cut into chunks, which pages it got or lost, or how many
//! threads work: so says the row rule of `ops`, and so say the tests. The engine waits for nobody: a caller adds and
//! extends sequences whenever it likes, and a finished turn is handed out after the step that ended it.
//!
//! **What crosses the bus a token.** Down: each row's token and logprob, 8 bytes, with the step's one wait: the scheduler
//! must know which turns have ended. Up: nothing while the same sequences go on decoding, because the device makes the next
//! step's ids and positions where it draws its tokens (`ops::sample::Rows`); the changed stretch of the page table when one
//! of them takes a page (every 32 tokens); and when a sequence joins or leaves, the rows, 24 bytes each, and how they are
//! sampled, 32 bytes each, in a copy each. The tests count it (tests/engine/transfers.rs).

use super::lean::{Lean, Leaning};
use super::schedule::Schedule;
use super::seq::{NoiseKey, Sampling, SeqId, State, Turn};
use super::sizes::EngineConfig;
use super::slate::Slate;
use super::stats::Stats;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, Plan, Weights};
use crate::ops::attn::CHUNK;
use std::time::Instant;

/// One model's sequences, their pages, and the buffers of a step.
pub struct Engine {
    schedule: Schedule,
    slate: Slate,
    /// Slots whose finished turn was not handed out yet.
    finished: Vec<u32>,
    births: u64,
    version: Option<u64>,
    context: usize,
    vocab: usize,
}

impl Engine {
    /// An engine for models of the shape `model`. Everything is allocated here.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is zero, [`Error::Memory`], [`Error::Device`] for graphs on the CPU.
    pub fn new(dev: &Device, model: &ModelConfig, config: EngineConfig) -> Result<Engine> {
        Engine::planned(&mut Plan::on(dev), model, config)
    }

    /// The same, through a plan.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn planned(plan: &mut Plan, model: &ModelConfig, config: EngineConfig) -> Result<Engine> {
        let EngineConfig { max_pages, max_rows, max_seqs, prefix_reuse, graphs } = config;
        let sizes = [("max_pages", max_pages), ("max_rows", max_rows), ("max_seqs", max_seqs)];
        let zero = sizes.iter().filter(|(_, n)| *n == 0);
        let problems: Vec<_> = zero.map(|(key, _)| format!("engine: {key} must be 1 or more")).collect();
        if !problems.is_empty() {
            return Err(Error::Config { problems });
        }
        let context = model.max_position_embeddings;
        let width = context.div_ceil(CHUNK).min(max_pages);
        let mut schedule = Schedule::new(max_pages, max_rows, max_seqs, width, prefix_reuse);
        if graphs {
            schedule.batch.add_padding_slot(max_pages);
        }
        Ok(Engine {
            schedule,
            slate: Slate::planned(plan, model, config, width)?,
            finished: Vec::with_capacity(max_seqs),
            births: 0,
            version: None,
            context,
            vocab: model.vocab_size,
        })
    }

    /// The same engine with room for [`Engine::allow`].
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn with_masks(mut self, plan: &mut Plan) -> Result<Engine> {
        self.schedule.batch.mask_words = self.slate.add_masks(plan, self.vocab)?;
        Ok(self)
    }

    /// The same engine with room for [`Engine::lean`].
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn with_leans(mut self, plan: &mut Plan) -> Result<Engine> {
        self.slate.add_leans(plan, self.vocab)?;
        Ok(self)
    }

    /// Moves the logits of a sequence from its present turn on: what is drawn is scored so, too.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Lean::check`], and when the engine has no room for it.
    ///
    /// # Panics
    /// If `id` was released.
    pub fn lean(&mut self, id: SeqId, lean: &Lean) -> Result<()> {
        let slot = self.slot(id);
        lean.check(self.vocab)?;
        if !lean.is_none() && !self.slate.leans() {
            return refuse("the engine has no room for biases and penalties".into());
        }
        self.schedule.seqs[slot].leaning = (!lean.is_none()).then(|| Leaning::new(lean));
        Ok(())
    }

    /// Tells of each token of a sequence's prompt but the first how likely it was, and the `likeliest` tokens there: see
    /// [`Turn::prompt`]. What is told is computed: nothing of the prompt is taken from the prefix cache. To be asked before the
    /// next step.
    ///
    /// # Panics
    /// If `id` was released.
    pub fn tell_prompt(&mut self, id: SeqId, likeliest: usize) {
        let slot = self.slot(id);
        self.schedule.seqs[slot].tells = Some(likeliest);
    }

    /// The ids that a sequence's next tokens are drawn from, and scored among, until it is told otherwise; none: all of them.
    /// `[ceil(V / 32)]`: bit id % 32 of word id / 32 is 1 where the id may come.
    ///
    /// # Errors
    /// [`Error::Config`] when none may come, or the engine has no room for masks.
    ///
    /// # Panics
    /// If `id` was released.
    pub fn allow(&mut self, id: SeqId, allowed: Option<&[i32]>) -> Result<()> {
        let (slot, words) = (self.slot(id), self.schedule.batch.mask_words);
        let seq = &mut self.schedule.seqs[slot];
        seq.allowed.clear();
        let Some(allowed) = allowed else { return Ok(()) };
        if words == 0 || allowed.len() != words {
            return refuse(format!("a mask of {} words, where the engine has room for {words}", allowed.len()));
        }
        if allowed.iter().all(|word| *word == 0) {
            return refuse("no token may come next".into());
        }
        seq.allowed.extend_from_slice(allowed);
        Ok(())
    }

    /// Adds a sequence; its first turn starts with the next step that has pages for it.
    ///
    /// # Errors
    /// [`Error::Config`], by name: an empty prompt, a token outside the vocabulary, a prompt that leaves no room in
    /// the context, one whose turn could never fit the page pool, more sequences than `max_seqs`, a bad `sampling`.
    pub fn add(&mut self, prompt: &[i32], sampling: Sampling, key: NoiseKey) -> Result<SeqId> {
        sampling.check()?;
        if prompt.is_empty() {
            return refuse("the prompt is empty: there is nothing to sample from".into());
        }
        self.check(prompt, 0, sampling)?;
        let slot = self.free_slot()?;
        let seq = &mut self.schedule.seqs[slot as usize];
        seq.ids.clear();
        seq.ids.extend_from_slice(prompt);
        seq.allowed.clear();
        seq.leaning = None;
        seq.tells = None;
        seq.told.clear();
        (seq.cached, seq.prompt, seq.sampling, seq.key) = (0, prompt.len(), sampling, key);
        seq.begin_turn(self.context);
        Ok(self.enter(slot))
    }

    /// Appends incoming tokens to a sequence whose turn is finished, and starts its next turn.
    ///
    /// # Errors
    /// [`Error::Config`] as for [`Engine::add`].
    ///
    /// # Panics
    /// If `id` was released or its turn is not finished.
    pub fn extend(&mut self, id: SeqId, incoming: &[i32]) -> Result<()> {
        let slot = self.slot(id);
        let seq = &self.schedule.seqs[slot];
        assert!(seq.state != State::Running, "extend: the turn is not finished");
        self.check(incoming, seq.ids.len(), seq.sampling)?;
        self.finished.retain(|s| *s as usize != slot);
        let seq = &mut self.schedule.seqs[slot];
        seq.ids.extend_from_slice(incoming);
        seq.begin_turn(self.context);
        Ok(())
    }

    /// A second sequence with the same tokens, turn and pages, sampled from here on with its own `sampling` and `key`.
    /// A finished turn is handed out for the first sequence only.
    ///
    /// # Errors
    /// [`Error::Config`] as for [`Engine::add`].
    ///
    /// # Panics
    /// If `id` was released.
    pub fn fork(&mut self, id: SeqId, sampling: Sampling, key: NoiseKey) -> Result<SeqId> {
        sampling.check()?;
        let from = self.slot(id);
        self.check(&[], self.schedule.seqs[from].ids.len(), sampling)?;
        let slot = self.free_slot()?;
        self.schedule.fork(from, slot as usize);
        let seq = &mut self.schedule.seqs[slot as usize];
        (seq.sampling, seq.key) = (sampling, key);
        seq.reserve(self.context);
        Ok(self.enter(slot))
    }

    /// Gives back a sequence's pages and its slot.
    ///
    /// # Panics
    /// If `id` was released before.
    pub fn release(&mut self, id: SeqId) {
        let slot = self.slot(id);
        self.schedule.drop_pages(slot);
        self.schedule.seqs[slot].state = State::Free;
        self.schedule.order.retain(|s| *s as usize != slot);
        self.finished.retain(|s| *s as usize != slot);
    }

    /// One forward over everything runnable, and one token for every sequence whose tokens have all been run. False
    /// when there was nothing to do. Pages filled under another version of the weights are run again.
    ///
    /// # Errors
    /// What the ops refuse; the engine then forgets all pages and can go on.
    pub fn step(&mut self, weights: &Weights) -> Result<bool> {
        if self.version.replace(weights.version) != Some(weights.version) {
            self.schedule.drop_all();
        }
        let start = Instant::now();
        if !self.schedule.next() {
            debug_assert!(self.n_running() == 0, "sequences are running and none can go on");
            return Ok(false);
        }
        if let Err(e) = self.slate.run(weights, &mut self.schedule.batch, &mut self.schedule.stats) {
            self.schedule.drop_all();
            return Err(e);
        }
        let batch = &self.schedule.batch;
        for (i, slot) in batch.samples.iter().enumerate() {
            let seq = &mut self.schedule.seqs[*slot as usize];
            if seq.sampling.likeliest > 0 {
                seq.likeliest.push(std::mem::take(&mut self.slate.likeliest[i]));
            }
            if seq.take(self.slate.token[i], self.slate.logprob[i], self.context) {
                self.finished.push(*slot);
            }
        }
        for ((slot, ..), told) in batch.tellers.iter().zip(self.slate.told.drain(..)) {
            self.schedule.seqs[*slot as usize].told.push(told);
        }
        self.schedule.account(start.elapsed().as_secs_f64());
        Ok(true)
    }

    /// A finished turn that was not handed out yet, those of earlier steps first. Its sequence stays, with its
    /// pages, until it is extended or released.
    pub fn next_finished(&mut self) -> Option<Turn<'_>> {
        if self.finished.is_empty() {
            return None;
        }
        let slot = self.finished.remove(0) as usize;
        Some(self.turn_in(slot))
    }

    /// A sequence's turn so far, finished or not. What it holds may be read while the turn goes on, and the sequence released
    /// before it ends.
    ///
    /// # Panics
    /// If `id` was released.
    pub fn turn(&self, id: SeqId) -> Turn<'_> {
        self.turn_in(self.slot(id))
    }

    fn turn_in(&self, slot: usize) -> Turn<'_> {
        let seq = &self.schedule.seqs[slot];
        let truncated = seq.state == State::Finished { truncated: true };
        let id = SeqId { slot: slot as u32, birth: seq.birth };
        let (likeliest, reused) = (&seq.likeliest[..], seq.reused.unwrap_or(0));
        Turn {
            seq: id,
            ids: &seq.ids[seq.turn..],
            logprobs: &seq.logprobs,
            likeliest,
            prompt: &seq.told,
            reused,
            truncated,
        }
    }

    /// All tokens of a sequence so far.
    ///
    /// # Panics
    /// If `id` was released.
    pub fn ids(&self, id: SeqId) -> &[i32] {
        &self.schedule.seqs[self.slot(id)].ids
    }

    /// Sequences that wait for the engine and not for their caller.
    pub fn n_running(&self) -> usize {
        self.schedule.seqs.iter().filter(|s| s.state == State::Running).count()
    }

    /// Sequences it holds at a time.
    pub fn seats(&self) -> usize {
        self.schedule.seqs.len()
    }

    /// Positions a sequence may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Pages there are.
    pub fn pages(&self) -> usize {
        self.schedule.pages.len()
    }

    /// Pages held by sequences and by the prefix cache.
    pub fn pages_used(&self) -> usize {
        self.schedule.pages.used()
    }

    /// Pages held by the prefix cache.
    pub fn pages_cached(&self) -> usize {
        self.schedule.prefix.len()
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.slate.dev
    }

    /// What was done since the last call; the peak of pages is of the engine's whole life.
    pub fn take_stats(&mut self) -> Stats {
        let pages_peak = self.schedule.pages.peak();
        Stats { pages_peak, ..std::mem::take(&mut self.schedule.stats) }
    }

    fn slot(&self, id: SeqId) -> usize {
        let seq = &self.schedule.seqs[id.slot as usize];
        assert!(seq.birth == id.birth && seq.state != State::Free, "sequence {id:?} was released");
        id.slot as usize
    }

    fn free_slot(&self) -> Result<u32> {
        let seqs = &self.schedule.seqs;
        match seqs.iter().position(|s| s.state == State::Free) {
            Some(slot) => Ok(slot as u32),
            None => refuse(format!("the engine holds max_seqs = {} sequences already", seqs.len())),
        }
    }

    fn enter(&mut self, slot: u32) -> SeqId {
        self.births += 1;
        self.schedule.order.push(slot);
        self.schedule.seqs[slot as usize].birth = self.births;
        SeqId { slot, birth: self.births }
    }

    /// Whether `new` tokens after `held` ones can be run, and a turn after them.
    fn check(&self, new: &[i32], held: usize, sampling: Sampling) -> Result<()> {
        let (n, context) = (held + new.len(), self.context);
        if let Some((at, id)) = new.iter().enumerate().find(|(_, id)| **id < 0 || **id as usize >= self.vocab) {
            return refuse(format!("token {id} at position {} is outside the vocabulary of {}", held + at, self.vocab));
        }
        if n >= context {
            return refuse(format!(
                "a prompt of {n} tokens leaves no room in the context of {context} (max_position_embeddings)"
            ));
        }
        // The last token of a turn is not run in it.
        let (longest, pool) = (context.min(n.saturating_add(sampling.max_new_tokens)) - 1, self.schedule.pages.len());
        if longest.div_ceil(CHUNK) > pool {
            let longest = longest + 1;
            return refuse(format!("a turn of up to {longest} tokens can never fit {pool} pages of {CHUNK} tokens"));
        }
        Ok(())
    }
}

fn refuse<T>(problem: String) -> Result<T> {
    Err(Error::Config { problems: vec![problem] })
}
