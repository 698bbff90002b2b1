//! The device's side of a step: page copies, forward, sampling, and the buffers they need.

use super::batch::Batch;
use super::engine::EngineConfig;
use super::graphs::Graphs;
use super::stats::Stats;
use crate::device::{Buffer, DType, Device};
use crate::error::{Error, Result};
use crate::model::{Activations, KvPages, ModelConfig, PagedRows, Plan, Use, Weights, forward_paged, ready_paged};
use crate::ops::sample::{Sampling, sample};

/// Buffers of one engine, sized once.
pub(super) struct Slate {
    pub dev: Device,
    kv: KvPages,
    rows: PagedRows,
    acts: Activations,
    sampling: SamplingRows,
    graphs: Option<Graphs>,
    max_seqs: usize,
    context: usize,
    /// `[M]` the last step's sampled tokens.
    pub token: Vec<i32>,
    /// `[M]` their logprobs.
    pub logprob: Vec<f32>,
}

/// What each sampled row is drawn by, and what is drawn, `[M]`.
struct SamplingRows {
    temperature: Buffer,
    top_k: Buffer,
    top_p: Buffer,
    min_p: Buffer,
    key: Buffer,
    token: Buffer,
    logprob: Buffer,
}

impl Slate {
    pub fn planned(plan: &mut Plan, model: &ModelConfig, config: EngineConfig, table_width: usize) -> Result<Slate> {
        let EngineConfig { max_pages, max_rows, max_seqs, graphs, .. } = config;
        if graphs && matches!(plan.device(), Device::Cpu(_)) {
            let what = "launches no kernels: engine.graphs = true needs emu or cuda".into();
            return Err(Error::Device { device: plan.device().name().into(), what });
        }
        // Rows that fill a bucket are of a sequence of their own, with a page of its own.
        let own = graphs as usize;
        Ok(Slate {
            dev: plan.device().clone(),
            kv: KvPages::planned(plan, model, max_pages + own)?,
            rows: PagedRows::planned(plan, model, max_rows, max_seqs + own, table_width, max_seqs)?,
            acts: Activations::planned(plan, model, max_rows, max_seqs, Use::Decode)?,
            sampling: SamplingRows {
                temperature: plan.f32("sampling", "temperature", max_seqs)?,
                top_k: plan.i32("sampling", "top_k", max_seqs)?,
                top_p: plan.f32("sampling", "top_p", max_seqs)?,
                min_p: plan.f32("sampling", "min_p", max_seqs)?,
                key: plan.buffer("sampling", "key", DType::U64, 3 * max_seqs)?,
                token: plan.i32("sampling", "token", max_seqs)?,
                logprob: plan.f32("sampling", "logprob", max_seqs)?,
            },
            graphs: graphs.then(|| Graphs::new(max_rows.min(max_seqs))),
            max_seqs,
            context: model.max_position_embeddings,
            token: vec![0; max_seqs],
            logprob: vec![0.0; max_seqs],
        })
    }

    /// Runs a batch; afterwards `token` and `logprob` hold a sample for each of `batch.samples`. Captures and replays are
    /// counted.
    pub fn run(&mut self, weights: &Weights, batch: &mut Batch, stats: &mut Stats) -> Result<()> {
        for (from, to) in &batch.copies {
            self.kv.copy_page(&self.dev, *from as usize, *to as usize)?;
        }
        if batch.ids.is_empty() {
            return Ok(());
        }
        let dev = self.dev.clone();
        let _phase = dev.phase(if batch.n_decode == batch.ids.len() { "decode" } else { "prefill" });
        let bucket = self.graphs.as_ref().and_then(|graphs| graphs.bucket_of(&dev, batch));
        if let Some(rows) = bucket {
            batch.pad(rows, self.max_seqs, self.context);
        }
        self.write(batch)?;
        let (rows, kv, acts, sampling) = (&self.rows, &mut self.kv, &mut self.acts, &mut self.sampling);
        ready_paged(&dev, weights, rows, kv)?;
        let m = batch.logit_rows.len();
        let mut work = || {
            forward_paged(&dev, weights, rows, kv, acts)?;
            sampling.sample(&dev, acts, m, weights.config.vocab_size)
        };
        match (&mut self.graphs, bucket) {
            (Some(graphs), Some(rows)) => {
                let replayed = graphs.run(&dev, weights, rows, work)?;
                *if replayed { &mut stats.replays } else { &mut stats.captures } += 1;
            }
            _ => work()?,
        }
        let m = batch.samples.len();
        dev.read(self.sampling.token.at(0..m), &mut self.token[..m]);
        dev.read(self.sampling.logprob.at(0..m), &mut self.logprob[..m]);
        Ok(())
    }

    /// Everything that moves from step to step, to where the launches find it.
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let Batch { ids, positions, slots, tables, logit_rows, .. } = batch;
        self.rows.set(&self.dev, ids, positions, slots, tables, logit_rows)?;
        let (dev, to, m) = (&self.dev, &mut self.sampling, logit_rows.len());
        dev.write(to.temperature.at_mut(0..m), &batch.temperature);
        dev.write(to.top_k.at_mut(0..m), &batch.top_k);
        dev.write(to.top_p.at_mut(0..m), &batch.top_p);
        dev.write(to.min_p.at_mut(0..m), &batch.min_p);
        dev.write(to.key.at_mut(0..3 * m), &batch.key);
        Ok(())
    }
}

impl SamplingRows {
    /// Samples from the logits of `m` rows.
    fn sample(&mut self, dev: &Device, acts: &mut Activations, m: usize, vocab: usize) -> Result<()> {
        let how = Sampling {
            temperature: self.temperature.at(0..m),
            top_k: self.top_k.at(0..m),
            top_p: self.top_p.at(0..m),
            min_p: self.min_p.at(0..m),
            key: self.key.at(0..3 * m),
        };
        let (token, logprob) = (self.token.at_mut(0..m), self.logprob.at_mut(0..m));
        sample(dev, acts.logits_mut(), how, token, logprob, vocab)
    }
}
