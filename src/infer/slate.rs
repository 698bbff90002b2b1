//! The device's side of a step: page copies, forward, sampling, and the buffers they need.

use super::batch::Batch;
use super::graphs::Graphs;
use super::lean::MOST_BIASES;
use super::likeliest::{Told, likeliest, told};
use super::sampling_rows::SamplingRows;
use super::sizes::EngineConfig;
use super::stats::Stats;
use crate::device::{Buffer, DType, Device};
use crate::error::{Error, Result};
use crate::model::{Activations, KvPages, ModelConfig, PagedRows, Plan, Use, Weights, forward_paged, ready_paged};
use crate::ops::sample::{Leans, sample_lean, sample_mask};

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
    /// `[M]` the likeliest tokens of rows that ask for them.
    pub likeliest: Vec<Vec<(i32, f32)>>,
    /// What the rows that tell told, in their order.
    pub told: Vec<Told>,
    /// `[max_seqs, W]` ids that may come next, in an engine that has masks.
    masks: Option<Buffer>,
    /// Offsets `[M + 1]`, ids `[K]` and three numbers each, in an engine that takes biases and penalties.
    leans: Option<Buffer>,
    /// The same on the host.
    lean_words: Vec<i32>,
    /// `[V]` one row's scaled logits, for those.
    row: Vec<f32>,
}

impl Slate {
    pub fn planned(plan: &mut Plan, model: &ModelConfig, config: EngineConfig, table_width: usize) -> Result<Slate> {
        let EngineConfig { max_pages, max_rows, max_seqs, graphs, .. } = config;
        if graphs && matches!(plan.device(), Device::Cpu(_)) {
            let what = "launches no kernels: graphs of launches need emu or cuda".into();
            return Err(Error::Device { device: plan.device().name().into(), what });
        }
        // Rows that fill a bucket are of a sequence of their own, with a page of its own.
        let own = graphs as usize;
        Ok(Slate {
            dev: plan.device().clone(),
            kv: KvPages::planned(plan, model, max_pages + own)?,
            rows: PagedRows::planned(plan, model, max_rows, max_seqs + own, table_width, max_seqs)?,
            acts: Activations::planned(plan, model, max_rows, max_seqs, Use::Decode)?,
            sampling: SamplingRows::planned(plan, max_seqs)?,
            graphs: graphs.then(|| Graphs::new(max_rows.min(max_seqs))),
            max_seqs,
            context: model.max_position_embeddings,
            token: vec![0; max_seqs],
            logprob: vec![0.0; max_seqs],
            likeliest: vec![vec![]; max_seqs],
            told: vec![],
            masks: None,
            leans: None,
            lean_words: vec![],
            row: vec![],
        })
    }

    /// Takes room for masks; words of a row of them.
    pub fn add_masks(&mut self, plan: &mut Plan, vocab: usize) -> Result<usize> {
        let words = vocab.div_ceil(32);
        self.masks = Some(plan.buffer("sampling", "ids that may come next", DType::I32, words * self.max_seqs)?);
        Ok(words)
    }

    /// Takes room for biases and penalties of as many ids as a sequence can have.
    pub fn add_leans(&mut self, plan: &mut Plan, vocab: usize) -> Result<()> {
        let words = self.max_seqs + 1 + 4 * self.max_seqs * vocab.min(self.context + MOST_BIASES);
        self.leans = Some(plan.buffer("sampling", "biases and penalties", DType::I32, words)?);
        Ok(())
    }

    /// Whether it has that room.
    pub fn leans(&self) -> bool {
        self.leans.is_some()
    }

    /// Runs a batch; afterwards `token` and `logprob` hold a sample for each of `batch.samples`. Captures and replays are
    /// counted.
    pub fn run(&mut self, weights: &Weights, batch: &mut Batch, stats: &mut Stats) -> Result<()> {
        let done = self.try_run(weights, batch, stats);
        if done.is_err() {
            self.rows.forget();
            self.sampling.forget();
            batch.changed = 0..batch.tables.len();
        }
        done
    }

    fn try_run(&mut self, weights: &Weights, batch: &mut Batch, stats: &mut Stats) -> Result<()> {
        for (from, to) in &batch.copies {
            self.kv.copy_page(&self.dev, *from as usize, *to as usize)?;
        }
        if batch.ids.is_empty() {
            return Ok(());
        }
        let (dev, decodes) = (self.dev.clone(), batch.decodes());
        let _phase = dev.phase(if batch.n_decode == batch.ids.len() { "decode" } else { "prefill" });
        // What may come next, and how likely, is new in each step: it runs without a graph.
        let graphs = self.graphs.as_ref().filter(|_| !batch.masked && batch.leans.is_empty());
        let bucket = graphs.and_then(|graphs| graphs.bucket_of(&dev, batch));
        if let Some(rows) = bucket {
            batch.pad(rows, self.max_seqs);
        }
        self.send(batch)?;
        ready_paged(&dev, weights, &self.rows, &self.kv)?;
        let (rows, kv, acts, sampling) = (&mut self.rows, &mut self.kv, &mut self.acts, &mut self.sampling);
        let (m, n_seqs, longest) = (batch.logit_rows.len(), self.max_seqs, rows.longest());
        let mut masks = self.masks.as_mut().filter(|_| batch.masked);
        if let Some(masks) = &mut masks {
            dev.write(masks.at_mut(0..batch.allowed.len()), &batch.allowed);
        }
        let mut leans = self.leans.as_mut().filter(|_| !batch.leans.is_empty());
        if let Some(leans) = &mut leans {
            batch.leans.close(m);
            batch.leans.words(&mut self.lean_words);
            dev.write(leans.at_mut(0..self.lean_words.len()), &self.lean_words);
        }
        let mut work = || {
            forward_paged(&dev, weights, rows, kv, acts)?;
            if let Some(leans) = &leans {
                sample_lean(&dev, lists(leans, m, batch.leans.id.len()), acts.logits_mut(), weights.config.vocab_size)?;
            }
            if let Some(masks) = &masks {
                sample_mask(&dev, masks.at(0..batch.allowed.len()), acts.logits_mut(), weights.config.vocab_size)?;
            }
            let rows = if decodes { rows.to_decode(n_seqs)? } else { rows.to_sample() };
            sampling.sample(&dev, acts.logits_mut(), rows, m, &weights.config)
        };
        match (&mut self.graphs, bucket) {
            (Some(graphs), Some(rows)) => {
                let replayed = graphs.run(&dev, weights, [rows, longest], work)?;
                *if replayed { &mut stats.replays } else { &mut stats.captures } += 1;
            }
            _ => work()?,
        }
        let m = batch.samples.len();
        self.sampling.read(&dev, &mut self.token[..m], &mut self.logprob[..m])?;
        if decodes {
            self.rows.advanced(&self.token[..m]);
        }
        self.tell_likeliest(batch, &weights.config)
    }

    /// For rows that ask, and those that tell: a copy of the row's logits to the host, each.
    fn tell_likeliest(&mut self, batch: &Batch, model: &ModelConfig) -> Result<()> {
        let vocab = model.vocab_size;
        for (i, n) in batch.likeliest.iter().enumerate().filter(|(_, n)| **n > 0) {
            self.row.resize(vocab, 0.0);
            self.dev.read(self.acts.logits().at(i * vocab..(i + 1) * vocab), &mut self.row)?;
            self.likeliest[i] = likeliest(&self.row, *n, model.sampled_end());
        }
        self.told.clear();
        for (i, (_, n, id)) in batch.tellers.iter().enumerate() {
            let at = (batch.samples.len() + i) * vocab;
            self.row.resize(vocab, 0.0);
            self.dev.read(self.acts.logits().at(at..at + vocab), &mut self.row)?;
            self.told.push(told(&self.row, *id, *n, model.sampled_end()));
        }
        Ok(())
    }

    /// Everything that moves from step to step, to where the launches find it, unless it is there.
    fn send(&mut self, batch: &mut Batch) -> Result<()> {
        let Batch { ids, positions, slots, tables, changed, logit_rows, .. } = batch;
        self.rows.update(&self.dev, ids, positions, slots, tables, changed.clone(), logit_rows)?;
        batch.changed = 0..0;
        self.sampling.set(&self.dev, batch);
        Ok(())
    }
}

/// The lists of `m` rows with `k` entries in all, as [`super::lean::Leans::words`] lays them.
fn lists(words: &Buffer, m: usize, k: usize) -> Leans<'_> {
    let numbers = |i: usize| words.view().cast(DType::F32).at(m + 1 + i * k..m + 1 + (i + 1) * k);
    let id = words.at(m + 1..m + 1 + k);
    Leans { offsets: words.at(0..m + 1), id, bias: numbers(1), repeat: numbers(2), less: numbers(3) }
}
