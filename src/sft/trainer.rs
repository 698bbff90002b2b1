//! Supervised training of a base model on generated dialogues.
//!
//! The one idea: the stream of dialogues is endless and a function of its seed, so a run is (config, seed, tokens) and
//! nothing else; no token is seen twice. A batch is dealt into lanes, which several ranks share, and each lane cut into
//! micro-batches that fit the caches; their gradients add up in order. Loss: the weighted mean of -logprob over the batch's
//! tokens that carry weight.

use crate::device::{Buffer, Device};
use crate::dist::lanes::Tree;
use crate::dist::packet::numbers;
use crate::dist::{Packet, Ranks, Shard, Unpack, lanes};
use crate::error::Result;
use crate::model::{self, Activations, ModelConfig, PackedBatch, Packing, Plan, Use, Weights};
use crate::sft::dialogues::{Dialogues, Sequence};
use crate::text::Chat;
use crate::train::optimizer::{Hyper, Optimizer, Part, Schedule, Update};
use crate::train::sums::Sums;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};

/// What a supervised run is, beside the model's shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Supervision {
    /// Seeds weights and dialogues.
    pub seed: u64,
    /// Tokens to train on, the other side's included; the run ends with the batch that reaches it.
    pub tokens: u64,
    /// Tokens of a batch: it is closed by the first dialogue that reaches this.
    pub batch_tokens: usize,
    /// Most tokens of one forward and backward.
    pub micro_tokens: usize,
    /// The optimizer.
    pub optim: Hyper,
}

impl Default for Supervision {
    fn default() -> Supervision {
        let optim = Hyper {
            lr: 3e-3,
            beta2: 0.98,
            weight_decay: 0.01,
            warmup_steps: 100,
            schedule: Schedule::Cosine,
            final_lr_ratio: 0.02,
            ..Hyper::default()
        };
        Supervision { seed: 1, tokens: 10_000_000, batch_tokens: 2_048, micro_tokens: 3_072, optim }
    }
}

impl Supervision {
    /// Updates the schedule is stretched over: batches overshoot their size by less than a dialogue.
    fn total_steps(&self) -> u64 {
        self.tokens.div_ceil(self.batch_tokens as u64)
    }
}

/// One row of a supervised run's log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// Updates so far.
    pub step: u64,
    /// Tokens so far.
    pub tokens: u64,
    /// Weighted mean -logprob of the batch's tokens, in nats.
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f32,
    /// Global gradient norm before clipping.
    pub grad_norm: f32,
}

/// A batch on the host.
struct Batch {
    /// The micro-batches of each lane of this rank.
    lanes: Vec<Vec<Micro>>,
    /// Micro-batches of the lane that has most, wherever it is.
    rounds: usize,
    /// The weight of all its tokens.
    total: f64,
    tokens: u64,
}

/// Who learns together: the lanes that a batch is summed in, and the ranks that share them.
#[derive(Debug, Clone)]
pub struct Among {
    /// See [`crate::dist::lanes`].
    pub lanes: usize,
    /// Each has its share of the lanes.
    pub ranks: Ranks,
    /// What they keep in parts.
    pub shard: Shard,
}

impl Among {
    /// One rank, one lane: a batch in its order.
    pub fn alone() -> Among {
        Among { lanes: 1, ranks: Ranks::alone(), shard: Shard::Moments }
    }
}

/// A micro-batch: packed sequences, and the loss weight of each target.
struct Micro {
    packing: Packing,
    weight: Vec<f32>,
}

/// A model under supervision, with every buffer it needs.
pub struct Trainer {
    /// The model.
    pub weights: Weights,
    /// What is trained, and for how long.
    pub how: Supervision,
    /// What updates it.
    pub optimizer: Optimizer,
    dev: Device,
    among: Among,
    grads: Sums,
    acts: Activations,
    batch: PackedBatch,
    dlogprob: Buffer,
    dentropy: Buffer,
    /// Tokens learned from.
    pub tokens: u64,
}

impl Trainer {
    /// A freshly initialised model of `config` and what trains it.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn new(dev: &Device, config: ModelConfig, how: Supervision) -> Result<Trainer> {
        Trainer::of(dev, Weights::init(dev, config, how.seed)?, how)
    }

    /// The same from weights that exist.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn of(dev: &Device, weights: Weights, how: Supervision) -> Result<Trainer> {
        Trainer::for_steps(dev, weights, how, how.total_steps())
    }

    /// The same, its schedule stretched over so many updates.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn for_steps(dev: &Device, weights: Weights, how: Supervision, steps: u64) -> Result<Trainer> {
        Trainer::planned(&mut Plan::on(dev), weights, how, steps)
    }

    /// The same of one of several ranks; its schedule is stretched over all that is to be learned.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn among(dev: &Device, weights: Weights, how: Supervision, among: Among) -> Result<Trainer> {
        Trainer::planned_among(&mut Plan::on(dev), weights, how, how.total_steps(), among)
    }

    /// The same through a plan.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(plan: &mut Plan, weights: Weights, how: Supervision, steps: u64) -> Result<Trainer> {
        Trainer::planned_among(plan, weights, how, steps, Among::alone())
    }

    /// The same of one of several ranks.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned_among(
        plan: &mut Plan,
        weights: Weights,
        how: Supervision,
        steps: u64,
        among: Among,
    ) -> Result<Trainer> {
        let parts = weights.trained().iter().map(|s| Part { range: s.range(), decays: s.decay });
        let parts = padded(parts.collect(), weights.n_trained());
        let c = &weights.config;
        let n = how.micro_tokens;
        let cuts = weights.cuts(among.shard, among.ranks.world());
        let optimizer = Optimizer::cut(plan, parts, how.optim, steps, (among.ranks.clone(), cuts))?;
        Ok(Trainer {
            dev: plan.device().clone(),
            grads: Sums::planned(plan, &weights, (among.shard, among.lanes), &optimizer)?,
            optimizer,
            among,
            acts: Activations::planned(plan, c, n, n, Use::Train)?,
            batch: PackedBatch::planned(plan, c, n, n)?,
            dlogprob: plan.f32("loss", "dlogprob", n)?,
            dentropy: plan.f32("loss", "dentropy", n)?,
            tokens: 0,
            how,
            weights,
        })
    }

    /// Trains to the end; `on_row` hears of every update and may look at the weights; false ends the run early.
    ///
    /// # Errors
    /// [`crate::Error::Training`] when too many updates in a row are not finite, [`crate::Error::Shape`] when a
    /// dialogue is longer than `micro_tokens` or than the context.
    pub fn run(&mut self, chat: &Chat, on_row: impl FnMut(&Row, &mut Trainer) -> Result<bool>) -> Result<()> {
        let stream = Dialogues::new(self.how.seed)?;
        self.run_on(|index| stream.sequences(chat, index), on_row)
    }

    /// The same on any endless stream: `stream` gives the sequences of its element of a number.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run_on(
        &mut self,
        stream: impl Fn(u64) -> Result<Vec<Sequence>> + Send,
        mut on_row: impl FnMut(&Row, &mut Trainer) -> Result<bool>,
    ) -> Result<()> {
        let (how, among) = (self.how, self.among.clone());
        std::thread::scope(|scope| {
            let (to, batches) = sync_channel(4);
            scope.spawn(move || {
                let mut next = 0;
                // Ends when the receiver is gone or a dialogue cannot be encoded; the receiver hears of the latter.
                while to.send(next_batch(&stream, &mut next, &how, &among)).is_ok() {}
            });
            self.consume(batches, &mut on_row)
        })
    }

    fn consume(
        &mut self,
        batches: Receiver<Result<Batch>>,
        on_row: &mut impl FnMut(&Row, &mut Trainer) -> Result<bool>,
    ) -> Result<()> {
        while self.tokens < self.how.tokens {
            let Ok(batch) = batches.recv() else { return Ok(()) };
            let row = self.step(&batch?)?;
            if !on_row(&row, self)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One update from these sequences; all ranks give the same ones.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn learn(&mut self, sequences: &[Sequence]) -> Result<Row> {
        self.step(&Batch::of(sequences, &self.how, &self.among))
    }

    /// One update from one batch.
    fn step(&mut self, batch: &Batch) -> Result<Row> {
        self.grads.begin(&self.dev)?;
        let losses = match self.grads.tree() {
            Tree::Runs => self.lane_by_lane(batch)?,
            Tree::Rounds => self.round_by_round(batch)?,
        };
        let loss = self.loss(&losses)?;
        self.tokens += batch.tokens;
        let grads = self.grads.sum(&self.dev, &self.optimizer)?;
        let update = self.optimizer.advance(&self.dev, &mut self.weights, grads, loss as f32)?;
        let (grad_norm, lr) = match update {
            Update::Applied { grad_norm, lr } => (grad_norm, lr),
            Update::Skipped { .. } => (f32::NAN, 0.0),
        };
        Ok(Row { step: self.optimizer.step, tokens: self.tokens, loss, lr, grad_norm })
    }

    /// The gradients of this rank's lanes, each lane's micro-batches added in order; returns each one's part of the loss.
    fn lane_by_lane(&mut self, batch: &Batch) -> Result<Vec<f64>> {
        let mut losses = vec![0.0; batch.lanes.len()];
        for (i, (lane, loss)) in batch.lanes.iter().zip(&mut losses).enumerate() {
            self.grads.begin_lane(&self.dev, i)?;
            for micro in lane {
                self.micro_batch(micro, batch.total, loss)?;
            }
            self.grads.end_lane(&self.dev)?;
        }
        Ok(losses)
    }

    /// The same of the first micro-batch of each lane, then of the second, to the last of the lane that has most.
    fn round_by_round(&mut self, batch: &Batch) -> Result<Vec<f64>> {
        let mut losses = vec![0.0; batch.lanes.len()];
        for round in 0..batch.rounds {
            for (i, (lane, loss)) in batch.lanes.iter().zip(&mut losses).enumerate() {
                self.grads.begin_lane(&self.dev, i)?;
                match lane.get(round) {
                    Some(micro) => self.micro_batch(micro, batch.total, loss)?,
                    None => model::no_backward(&self.dev, &self.weights, &mut self.acts, self.grads.target())?,
                }
                self.grads.end_lane(&self.dev)?;
            }
        }
        Ok(losses)
    }

    /// Adds a micro-batch's gradient, and its part of the loss.
    fn micro_batch(&mut self, micro: &Micro, total: f64, loss: &mut f64) -> Result<()> {
        self.batch.set(&self.dev, &micro.packing)?;
        let m = self.batch.n_loss();
        model::forward(&self.dev, &self.weights, &self.batch, &mut self.acts, 1.0)?;
        let logprobs = self.dev.download::<f32>(self.acts.logprob())?;
        *loss -= logprobs.iter().zip(&micro.weight).map(|(l, w)| *l as f64 * *w as f64).sum::<f64>() / total;
        let dlogprob: Vec<f32> = micro.weight.iter().map(|w| (-*w as f64 / total) as f32).collect();
        self.dev.write(self.dlogprob.at_mut(0..m), &dlogprob);
        let (dlogprob, dentropy) = (self.dlogprob.at(0..m), self.dentropy.at(0..m));
        let (w, acts, grads) = (&self.weights, &mut self.acts, self.grads.target());
        model::backward(&self.dev, w, &self.batch, acts, dlogprob, dentropy, grads, 1.0)
    }

    /// The loss of all lanes, added in their order, from this rank's.
    fn loss(&self, own: &[f64]) -> Result<f64> {
        let (ranks, tree) = (&self.among.ranks, self.grads.tree());
        let mut all = vec![0.0; own.len() * ranks.world()];
        for (rank, told) in ranks.gather("losses of lanes", bytemuck::cast_slice(own))?.iter().enumerate() {
            let lanes = tree.own(rank, ranks.world(), all.len());
            lanes.into_iter().zip(numbers::<f64>(told)).for_each(|(lane, loss)| all[lane] = loss);
        }
        Ok(all.into_iter().fold(0.0, |sum, loss| sum + loss))
    }

    /// The trained weights, whole at every rank: of what forwards read in bf16 each has the f32 parameters of its shard alone so
    /// far. All ranks come to it together.
    ///
    /// # Errors
    /// What the device and the ranks say.
    pub fn into_weights(mut self) -> Result<Weights> {
        let (dev, ranks) = (&self.dev, &self.among.ranks);
        let version = self.weights.version;
        let mut data = self.weights.data_mut();
        for cuts in self.optimizer.cuts().stretches() {
            ranks.share("taught weights", dev, data.reborrow(), cuts)?;
        }
        self.weights.version = version; // the same numbers, now everywhere
        Ok(self.weights)
    }

    /// Logprobs of the own tokens of sequences, one list a sequence; each rank finds its run of them.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when a sequence is longer than `micro_tokens` or than the context.
    pub fn score(&mut self, sequences: &[Sequence]) -> Result<Vec<Vec<f32>>> {
        let ranks = self.among.ranks.clone();
        let own: Vec<&Sequence> = sequences[ranks.dealt(sequences.len())].iter().collect();
        let mut packet = Packet::new();
        for found in self.own_score(&own)? {
            packet.put(&found);
        }
        let mut all = Vec::with_capacity(sequences.len());
        for (rank, told) in ranks.gather("logprobs", &packet.bytes)?.iter().enumerate() {
            let mut read = Unpack::of(told);
            for _ in ranks.dealt_to(rank, sequences.len()) {
                all.push(read.take()?);
            }
        }
        Ok(all)
    }

    fn own_score(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        let mut scored = Vec::new();
        for group in groups(sequences, self.how.micro_tokens) {
            let packing = pack(&sequences[group.clone()], |s, i| s.own[i]).packing;
            self.batch.set(&self.dev, &packing)?;
            model::forward(&self.dev, &self.weights, &self.batch, &mut self.acts, 1.0)?;
            let logprobs = self.dev.download::<f32>(self.acts.logprob())?;
            let mut rest = &logprobs[..];
            for s in &sequences[group] {
                let (own, more) = rest.split_at(s.own.iter().filter(|o| **o).count());
                scored.push(own.to_vec());
                rest = more;
            }
        }
        Ok(scored)
    }
}

/// Parts end to end: the gaps of the layout (always zero) join the tensor before them.
fn padded(mut parts: Vec<Part>, len: usize) -> Vec<Part> {
    for i in 0..parts.len() {
        parts[i].range.end = parts.get(i + 1).map_or(len, |next| next.range.start);
    }
    parts
}

/// The batch that begins with dialogue `next`, which moves to the first dialogue behind it.
fn next_batch(
    stream: &impl Fn(u64) -> Result<Vec<Sequence>>,
    next: &mut u64,
    how: &Supervision,
    among: &Among,
) -> Result<Batch> {
    let mut sequences = Vec::new();
    let mut tokens = 0;
    while tokens < how.batch_tokens {
        for s in stream(*next)? {
            tokens += s.ids.len();
            sequences.push(s);
        }
        *next += 1;
    }
    Ok(Batch::of(&sequences, how, among))
}

impl Batch {
    /// A batch of these sequences, dealt into lanes by their lengths; a lane keeps their order.
    fn of(sequences: &[Sequence], how: &Supervision, among: &Among) -> Batch {
        let loads: Vec<usize> = sequences.iter().map(|s| s.ids.len()).collect();
        let (lane_of, ranks, lanes) = (lanes::deal(&loads, among.lanes), &among.ranks, among.lanes.max(1));
        let of_lane = |lane: usize| -> Vec<&Sequence> {
            sequences.iter().zip(&lane_of).filter(|(_, of)| **of == lane).map(|(s, _)| s).collect()
        };
        let lane = |lane: usize| {
            let own = of_lane(lane);
            groups(&own, how.micro_tokens).into_iter().map(|group| pack(&own[group], carries)).collect()
        };
        let rounds = (0..lanes).map(|lane| groups(&of_lane(lane), how.micro_tokens).len());
        let weights = sequences
            .iter()
            .flat_map(|s| (1..s.ids.len()).filter(move |i| carries(s, *i)).map(move |i| s.weight[i] as f64));
        Batch {
            lanes: among.shard.tree().own(ranks.rank(), ranks.world(), lanes).into_iter().map(lane).collect(),
            rounds: rounds.max().unwrap_or(0),
            total: weights.sum(),
            tokens: loads.iter().sum::<usize>() as u64,
        }
    }
}

/// Whether there is loss on a token.
fn carries(sequence: &Sequence, i: usize) -> bool {
    sequence.weight[i] > 0.0
}

/// Neighbours that fit one micro-batch; a sequence that fits none is a group of its own, refused where it is set.
fn groups(sequences: &[&Sequence], most: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut size = 0;
    for (i, s) in sequences.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if size + s.ids.len() <= most => group.end = i + 1,
            _ => {
                groups.push(i..i + 1);
                size = 0;
            }
        }
        size += s.ids.len();
    }
    groups
}

fn pack(sequences: &[&Sequence], carries: impl Fn(&Sequence, usize) -> bool) -> Micro {
    let (mut packing, mut weight) = (Packing::default(), Vec::new());
    for s in sequences {
        packing.push(&s.ids, |i| carries(s, i));
        weight.extend((1..s.ids.len()).filter(|i| carries(s, *i)).map(|i| s.weight[i]));
    }
    Micro { packing, weight }
}
