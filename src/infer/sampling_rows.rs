//! What each sampled row is drawn by, on the device, and what is drawn.
//!
//! One buffer, one copy: of M rows `[4 M]` words of 64 bits, keys `[M, 2]`, then temperatures, top_k, top_p and min_p of 32
//! bits each. Nothing of it moves from token to token: the noise goes on with the rows' positions. What the buffer holds is
//! known here, so what it holds already is not sent.

use super::batch::Batch;
use crate::device::{Buffer, DType, Device, ViewMut};
use crate::error::Result;
use crate::model::{ModelConfig, Plan};
use crate::ops::sample::{Rows, Sampling, sample};

/// 64-bit words of a row.
const WORDS: usize = 4;

pub(super) struct SamplingRows {
    how: Buffer,
    /// What `how` is to hold, and what it holds.
    wanted: Vec<u64>,
    held: Vec<u64>,
    token: Buffer,
    logprob: Buffer,
}

impl SamplingRows {
    pub fn planned(plan: &mut Plan, max_seqs: usize) -> Result<SamplingRows> {
        Ok(SamplingRows {
            how: plan.buffer("sampling", "keys, temperature, top_k, top_p, min_p", DType::U64, WORDS * max_seqs)?,
            wanted: Vec::with_capacity(WORDS * max_seqs),
            held: Vec::with_capacity(WORDS * max_seqs),
            token: plan.i32("sampling", "token", max_seqs)?,
            logprob: plan.f32("sampling", "logprob", max_seqs)?,
        })
    }

    /// Sends a batch's rows, unless they are there.
    pub fn set(&mut self, dev: &Device, batch: &Batch) {
        let m = batch.logit_rows.len();
        self.wanted.clear();
        self.wanted.extend(&batch.key);
        self.wanted.resize(WORDS * m, 0);
        let bits = |x: &f32| x.to_bits();
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut self.wanted[2 * m..]);
        let all = batch.temperature.iter().map(bits).chain(batch.top_k.iter().map(|k| *k as u32));
        let all = all.chain(batch.top_p.iter().map(bits)).chain(batch.min_p.iter().map(bits));
        words.iter_mut().zip(all).for_each(|(word, x)| *word = x);
        if self.wanted != self.held {
            dev.write(self.how.at_mut(0..WORDS * m), &self.wanted);
            self.held.clone_from(&self.wanted);
        }
    }

    /// Samples from the logits of `m` rows, of the ids that are tokens.
    pub fn sample(&mut self, dev: &Device, logits: ViewMut, rows: Rows, m: usize, model: &ModelConfig) -> Result<()> {
        let words = |dtype, i: usize| self.how.view().cast(dtype).at((4 + i) * m..(5 + i) * m);
        let how = Sampling {
            temperature: words(DType::F32, 0),
            top_k: words(DType::I32, 1),
            top_p: words(DType::F32, 2),
            min_p: words(DType::F32, 3),
            key: self.how.at(0..2 * m),
        };
        let (token, logprob) = (self.token.at_mut(0..m), self.logprob.at_mut(0..m));
        sample(dev, logits, how, rows, token, logprob, model.vocab_size, model.sampled_end())
    }

    /// Takes nothing for held: what is on the device is not known.
    pub fn forget(&mut self) {
        self.held.clear();
    }

    /// Tokens and logprobs of the first rows, with one wait.
    pub fn read(&self, dev: &Device, token: &mut [i32], logprob: &mut [f32]) -> Result<()> {
        let m = token.len();
        dev.read_both((self.token.at(0..m), token), (self.logprob.at(0..m), logprob))
    }
}
