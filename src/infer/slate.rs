//! The device's side of a step: page copies, forward, sampling, and the buffers they need.

use super::batch::Batch;
use super::engine::EngineConfig;
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::model::{Activations, KvPages, ModelConfig, PagedRows, Plan, Use, Weights, forward_paged};
use crate::ops::sample::{Sampling, sample};

/// Buffers of one engine, sized once.
pub(super) struct Slate {
    pub dev: Device,
    kv: KvPages,
    rows: PagedRows,
    acts: Activations,
    temperature: Buffer,
    top_k: Buffer,
    top_p: Buffer,
    min_p: Buffer,
    key: Buffer,
    token_out: Buffer,
    logprob_out: Buffer,
    vocab: usize,
    /// `[M]` the last step's sampled tokens.
    pub token: Vec<i32>,
    /// `[M]` their logprobs.
    pub logprob: Vec<f32>,
}

impl Slate {
    pub fn planned(plan: &mut Plan, model: &ModelConfig, config: EngineConfig, table_width: usize) -> Result<Slate> {
        let EngineConfig { max_pages, max_rows, max_seqs, .. } = config;
        Ok(Slate {
            dev: plan.device().clone(),
            kv: KvPages::planned(plan, model, max_pages)?,
            rows: PagedRows::planned(plan, model, max_rows, max_seqs, table_width, max_seqs)?,
            acts: Activations::planned(plan, model, max_rows, max_seqs, Use::Decode)?,
            temperature: plan.f32("sampling", "temperature", max_seqs)?,
            top_k: plan.i32("sampling", "top_k", max_seqs)?,
            top_p: plan.f32("sampling", "top_p", max_seqs)?,
            min_p: plan.f32("sampling", "min_p", max_seqs)?,
            key: plan.buffer("sampling", "key", DType::U64, 3 * max_seqs)?,
            token_out: plan.i32("sampling", "token", max_seqs)?,
            logprob_out: plan.f32("sampling", "logprob", max_seqs)?,
            vocab: model.vocab_size,
            token: vec![0; max_seqs],
            logprob: vec![0.0; max_seqs],
        })
    }

    /// Runs a batch; afterwards `token` and `logprob` hold a sample for each of `batch.samples`.
    pub fn run(&mut self, weights: &Weights, batch: &Batch) -> Result<()> {
        for (from, to) in &batch.copies {
            self.kv.copy_page(&self.dev, *from as usize, *to as usize)?;
        }
        if batch.ids.is_empty() {
            return Ok(());
        }
        let dev = self.dev.clone();
        let _phase = dev.phase(if batch.n_decode == batch.ids.len() { "decode" } else { "prefill" });
        let Batch { ids, positions, slots, tables, logit_rows, .. } = batch;
        self.rows.set(&self.dev, ids, positions, slots, tables, logit_rows)?;
        forward_paged(&self.dev, weights, &self.rows, &mut self.kv, &mut self.acts)?;
        self.sample(batch)
    }

    fn sample(&mut self, batch: &Batch) -> Result<()> {
        let (dev, m) = (&self.dev, batch.samples.len());
        dev.write(self.temperature.at_mut(0..m), &batch.temperature);
        dev.write(self.top_k.at_mut(0..m), &batch.top_k);
        dev.write(self.top_p.at_mut(0..m), &batch.top_p);
        dev.write(self.min_p.at_mut(0..m), &batch.min_p);
        dev.write(self.key.at_mut(0..3 * m), &batch.key);
        let how = Sampling {
            temperature: self.temperature.at(0..m),
            top_k: self.top_k.at(0..m),
            top_p: self.top_p.at(0..m),
            min_p: self.min_p.at(0..m),
            key: self.key.at(0..3 * m),
        };
        let (token, logprob) = (self.token_out.at_mut(0..m), self.logprob_out.at_mut(0..m));
        sample(dev, self.acts.logits_mut(), how, token, logprob, self.vocab)?;
        dev.read(self.token_out.at(0..m), &mut self.token[..m]);
        dev.read(self.logprob_out.at(0..m), &mut self.logprob[..m]);
        Ok(())
    }
}
