//! The learner: episodes with advantages in, an optimizer update out.
//!
//! The one idea: every buffer is sized once, so an update allocates nothing on the device however the batch is cut.
//! Episodes are packed into micro-batches by a token budget, the prompt of a group once; the weight of a token is one over
//! all trained tokens of the update (token mean), so the cut changes nothing but the order of sums. That order is one of the
//! batch alone: see [`crate::dist::lanes`].

pub use super::learned::Learned;
pub use super::learning::Learning;
pub use super::samples::Sample;
use crate::credit::importance::{Correction, correct, sequence_ratio};
use crate::device::{Buffer, Device, alloc};
use crate::dist::lanes::Tree;
use crate::dist::sent::{Done, Sizes, Wire};
use crate::dist::{Packet, Shard, Unpack};
use crate::error::Result;
use crate::model::{self, Activations, PackedBatch, Packing, Phase, Plan, Weights};
use crate::ops;
use crate::ops::loss::POLICY_SUMS;
use crate::text::Transcript;

use super::dealt::{Dealt, Tally, fold};
use super::optimizer::{Optimizer, Part, Update};
use super::samples::{Placed, micro_batches, shares};
use super::sums::Sums;
use std::time::Instant;

/// The trained weights, their optimizer, and every buffer of an update.
pub struct Learner {
    dev: Device,
    how: Learning,
    /// The trained weights.
    pub weights: Weights,
    /// Their optimizer.
    pub optimizer: Optimizer,
    /// What is held of the gradients while they become one.
    grads: Sums,
    acts: Activations,
    batch: PackedBatch,
    tokens: TokenBuffers,
    host: Host,
    /// Tokens that each expert of each layer got in the last batch `[L, E]`; of models with experts.
    pub expert_load: Vec<u64>,
    /// A micro-batch has run: what ops size on first use is sized.
    warm: bool,
    /// What others were told of so far.
    pub done: Done,
    /// What there is room for, where that changes.
    phase: Phase,
}

/// What the loss reads and writes for each trained token, `[M]` each.
struct TokenBuffers {
    old: Buffer,
    reference: Buffer,
    advantage: Buffer,
    weight: Buffer,
    dlogprob: Buffer,
    dentropy: Buffer,
    sums: Buffer,
}

/// The same on the host, filled episode by episode.
struct Host {
    packing: Packing,
    old: Vec<f32>,
    advantage: Vec<f32>,
    weight: Vec<f32>,
    logprob: Vec<f32>,
    /// What the loss takes for the sampled logprobs where they are not those.
    stand_in: Vec<f32>,
    /// Trained tokens of each episode.
    lengths: Vec<usize>,
    /// Tokens of each expert of each layer.
    expert_counts: Vec<i32>,
}

/// The share of the batch that one update learns from.
#[derive(Debug, Clone, Copy)]
struct Share {
    sequences: usize,
    trained: usize,
}

impl Learner {
    /// A learner of `weights` through a plan.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(plan: &mut Plan, weights: Weights, optimizer: Optimizer, how: Learning) -> Result<Learner> {
        let c = weights.config.clone();
        let n = how.micro_batch_tok.max(c.max_position_embeddings);
        let how = Learning { micro_batch_tok: n, ..how };
        let experts = c.num_hidden_layers * c.experts.map_or(0, |experts| experts.count);
        let grads = Sums::planned(plan, &weights, (how.shard, how.lanes), &optimizer)?;
        let (acts, batch, tokens) = match how.shard {
            Shard::Moments | Shard::Gradients => buffers(plan, &weights, &how)?,
            Shard::Weights => plan.later(Phase::Learns, |plan| buffers(plan, &weights, &how))?,
        };
        Ok(Learner {
            dev: plan.device().clone(),
            how,
            weights,
            optimizer,
            grads,
            acts,
            batch,
            tokens,
            host: Host::new(n, experts, how.guided),
            expert_load: vec![0; experts],
            warm: false,
            done: Done::default(),
            phase: Phase::Always,
        })
    }

    /// Makes the weights ready for episodes that are played, or to learn from those: where ranks keep weights in parts they are
    /// whole in the first phase, and the buffers of an update there in the second. All ranks come to it together.
    ///
    /// # Errors
    /// [`crate::Error::Memory`]; what the ranks say.
    pub fn turns_to(&mut self, phase: Phase) -> Result<()> {
        if self.how.shard != Shard::Weights || self.phase == phase {
            return Ok(());
        }
        let mut plan = if phase == Phase::Learns { Plan::on(&self.dev) } else { Plan::dry(&self.dev) };
        self.weights.let_go(&mut plan)?;
        self.grads.make_room(&mut plan)?;
        (self.acts, self.batch, self.tokens) = buffers(&mut plan, &self.weights, &self.how)?;
        if phase == Phase::Plays {
            self.weights.bring_together(&self.dev)?;
            self.done.renewals += 1;
        }
        self.phase = phase;
        Ok(())
    }

    /// Learns from a batch: `updates` optimizer steps, each on its share of the episodes, in order; the ratio is taken to
    /// the logprobs stored in the transcripts. `reference` is read when there is a KL penalty.
    ///
    /// # Errors
    /// [`crate::Error::Training`] when too many updates in a row were not finite.
    pub fn learn(&mut self, samples: &[Sample], reference: Option<&Weights>) -> Result<Learned> {
        let dev = self.dev.clone();
        let _phase = dev.phase("learn");
        let mut learned = Learned::default();
        self.expert_load.fill(0);
        let shares = shares(samples.len(), self.how.updates);
        let dealt: Vec<Dealt> = shares.iter().map(|s| Dealt::of(&samples[s.clone()], &self.how)).collect();
        let tree = self.grads.tree();
        for share in dealt.iter().skip(1) {
            // Later shares are compared now, before the first update moves the weights.
            let tallies = self.compared(share)?;
            let tallies = Tally::of_all_ranks(&self.optimizer.ranks, tree, tallies)?;
            fold(&tallies, &mut learned, &mut self.expert_load);
        }
        for (i, share) in dealt.iter().enumerate() {
            self.update(share, reference, i == 0, &mut learned)?;
        }
        let applied = learned.applied.max(1) as f32;
        learned.grad_norm /= applied;
        let [loss, pg_loss, kl, entropy, clipped, _] = &mut learned.sums;
        [loss, pg_loss].into_iter().for_each(|sum| *sum /= shares.len().max(1) as f32);
        [kl, entropy, clipped].into_iter().for_each(|sum| *sum /= learned.trained_tok.max(1) as f32);
        Ok(learned)
    }

    /// The lanes of this rank compared with their rollout, nothing learned.
    fn compared(&mut self, share: &Dealt) -> Result<Vec<Tally>> {
        let lanes = share.own(&self.optimizer.ranks, self.grads.tree());
        let mut tallies = vec![Tally::default(); lanes.len()];
        for round in 0..share.rounds() {
            for (lane, tally) in lanes.iter().zip(&mut tallies) {
                let Some(micro) = lane.get(round) else {
                    self.no_forward()?;
                    continue;
                };
                self.pack(micro, Share { sequences: 1, trained: 1 })?;
                self.forward(None, tally)?;
                self.compare(tally)?;
            }
        }
        Ok(tallies)
    }

    /// What a forward does for other ranks, where this one has nothing to run it on.
    fn no_forward(&mut self) -> Result<()> {
        self.done.forwards += walked(&self.how);
        model::no_forward(&self.dev, &mut self.weights, &mut self.acts)?;
        self.done.note_rows(self.acts.take_sent_rows());
        Ok(())
    }

    /// One optimizer update on one share of the batch.
    fn update(&mut self, share: &Dealt, reference: Option<&Weights>, first: bool, learned: &mut Learned) -> Result<()> {
        if share.trained == 0 {
            return Ok(());
        }
        let tree = self.grads.tree();
        self.grads.begin(&self.dev)?;
        let tallies = match tree {
            Tree::Runs => self.lane_by_lane(share, reference, first)?,
            Tree::Rounds => self.round_by_round(share, reference, first)?,
        };
        let tallies = Tally::of_all_ranks(&self.optimizer.ranks, tree, tallies)?;
        let sums = fold(&tallies, learned, &mut self.expert_load);
        learned.trained_tok += share.trained;
        self.step(sums[0], learned)
    }

    /// Each lane of this rank after the other, its micro-batches in order; what became of each.
    fn lane_by_lane(&mut self, share: &Dealt, reference: Option<&Weights>, first: bool) -> Result<Vec<Tally>> {
        let mut tallies = Vec::new();
        for (i, lane) in share.own(&self.optimizer.ranks, Tree::Runs).into_iter().enumerate() {
            let mut tally = Tally::new(self.expert_load.len());
            self.grads.begin_lane(&self.dev, i)?;
            for micro in lane {
                let counted = alloc::count();
                self.micro_batch(micro, share, (reference, first), &mut tally)?;
                debug_assert!(!self.warm || alloc::count() == counted, "a micro-batch took memory from the heap");
                self.warm = true;
            }
            self.grads.end_lane(&self.dev)?;
            tallies.push(tally);
        }
        self.done.sums += 1;
        Ok(tallies)
    }

    /// The first micro-batch of each lane of this rank, then the second, to the last of the lane that has most, wherever it is;
    /// what became of each lane.
    fn round_by_round(&mut self, share: &Dealt, reference: Option<&Weights>, first: bool) -> Result<Vec<Tally>> {
        let lanes = share.own(&self.optimizer.ranks, Tree::Rounds);
        let mut tallies = vec![Tally::new(self.expert_load.len()); lanes.len()];
        for round in 0..share.rounds() {
            for (i, (lane, tally)) in lanes.iter().zip(&mut tallies).enumerate() {
                self.grads.begin_lane(&self.dev, i)?;
                if let Some(micro) = lane.get(round) {
                    self.micro_batch(micro, share, (reference, first), tally)?;
                } else {
                    self.no_forward()?;
                    model::no_backward(&self.dev, &mut self.weights, &mut self.acts, self.grads.target())?;
                }
                self.done.note_rows(self.acts.take_sent_rows());
                self.grads.end_lane(&self.dev)?;
                self.done.sums += 1;
                self.done.backwards += walked(&self.how);
            }
        }
        Ok(tallies)
    }

    /// Adds the gradient of a micro-batch of a share, and what became of it to its lane's tally.
    fn micro_batch(
        &mut self,
        micro: &[Placed],
        share: &Dealt,
        (reference, first): (Option<&Weights>, bool),
        tally: &mut Tally,
    ) -> Result<()> {
        self.pack(micro, Share { sequences: share.sequences, trained: share.trained })?;
        self.forward(reference, tally)?;
        if first {
            self.compare(tally)?;
        }
        self.correct(tally)?;
        self.acts.balance = self.how.balance * self.batch.n_tokens() as f32 / share.rows as f32;
        self.backward(tally)?;
        tally.packed_tok += self.batch.n_tokens();
        tally.shared_tok += micro.iter().map(|placed| placed.shared).sum::<usize>();
        Ok(())
    }

    /// The optimizer's step on the summed gradient.
    fn step(&mut self, loss: f32, learned: &mut Learned) -> Result<()> {
        let grads = self.grads.sum(&self.dev, &self.optimizer)?;
        let start = Instant::now();
        match self.optimizer.advance(&self.dev, &mut self.weights, grads, loss)? {
            Update::Applied { grad_norm, lr } => {
                self.done.renewals += u64::from(self.how.shard != Shard::Weights);
                learned.applied += 1;
                learned.grad_norm += grad_norm;
                learned.lr = lr;
            }
            Update::Skipped { what } => {
                learned.skipped += 1;
                learned.not_finite = Some(what);
            }
        }
        learned.optimizer_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Writes a micro-batch to the device. A token that was drawn among some is scored among those, by whatever weights.
    fn pack(&mut self, micro: &[Placed], share: Share) -> Result<()> {
        let _phase = self.dev.phase("pack");
        let host = &mut self.host;
        host.clear();
        for Placed { sample, shared } in micro {
            let (sampled, logprobs) = (sample.transcript.sampled(), sample.transcript.logprobs());
            match shared {
                0 => host.packing.push(sample.transcript.ids(), |i| sampled[i]),
                n => host.packing.push_on_stem(*n, sample.transcript.ids(), |i| sampled[i]),
            }
            for i in (1..sampled.len()).filter(|i| sampled[*i]) {
                if let Some(mask) = sample.transcript.mask(i) {
                    host.packing.score_among(host.old.len(), mask);
                }
                host.old.push(logprobs[i]);
            }
            let own = host.old.len() - host.advantage.len();
            match sample.per_token {
                [] => host.advantage.resize(host.old.len(), sample.advantage),
                each => {
                    assert_eq!(each.len(), own, "an advantage for each trained token");
                    host.advantage.extend_from_slice(each);
                }
            }
            host.weight.resize(host.old.len(), self.how.aggregation.weight(own, share.trained, share.sequences));
            host.lengths.push(own);
        }
        let m = host.old.len();
        host.logprob.resize(m, 0.0);
        self.batch.set(&self.dev, &host.packing)?;
        let t = &mut self.tokens;
        for (buffer, data) in
            [(&mut t.old, &host.old), (&mut t.advantage, &host.advantage), (&mut t.weight, &host.weight)]
        {
            self.dev.write(buffer.at_mut(0..m), data);
        }
        Ok(())
    }

    /// Logprobs of the packed episodes under the weights, and before that under the reference when there is one.
    fn forward(&mut self, reference: Option<&Weights>, tally: &mut Tally) -> Result<()> {
        let _phase = self.dev.phase("forward");
        let start = Instant::now();
        let m = self.batch.n_loss();
        if let Some(reference) = reference {
            model::forward(&self.dev, reference, &self.batch, &mut self.acts, 1.0 / self.how.temperature)?;
            ops::embed::copy(&self.dev, self.acts.logprob(), self.tokens.reference.at_mut(0..m))?;
        }
        let inv_temperature = 1.0 / self.how.temperature;
        model::forward(&self.dev, &mut self.weights, &self.batch, &mut self.acts, inv_temperature)?;
        self.done.forwards += walked(&self.how);
        self.done.note_rows(self.acts.take_sent_rows());
        tally.forward_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Compares the forward's logprobs with those of the rollout.
    fn compare(&mut self, tally: &mut Tally) -> Result<()> {
        self.dev.read(self.acts.logprob(), &mut self.host.logprob)?;
        self.host.logprob.iter().zip(&self.host.old).for_each(|(a, b)| tally.compare(*a, *b));
        Ok(())
    }

    /// Puts the sequence ratio or the importance weights where the loss reads them; nothing in plain GRPO.
    fn correct(&mut self, tally: &mut Tally) -> Result<()> {
        let (correction, level) = self.how.importance;
        if correction == Correction::None && !self.how.sequence_ratio {
            return Ok(());
        }
        let (host, m) = (&mut self.host, self.batch.n_loss());
        self.dev.read(self.acts.logprob(), &mut host.logprob)?;
        host.stand_in.resize(m, 0.0);
        let mut start = 0;
        for own in &host.lengths {
            let at = start..start + own;
            let (now, sampled) = (&host.logprob[at.clone()], &host.old[at.clone()]);
            if correction == Correction::None {
                sequence_ratio(now, sampled, &mut host.stand_in[at]);
            } else {
                correct(now, sampled, correction, level, &mut host.weight[at.clone()], &mut tally.importance);
                host.stand_in[at].copy_from_slice(now);
            }
            start += own;
        }
        self.dev.write(self.tokens.old.at_mut(0..m), &host.stand_in);
        self.dev.write(self.tokens.weight.at_mut(0..m), &host.weight);
        Ok(())
    }

    /// Bytes of gradients, weights and rows of experts that this rank sent for what was done since, by the formula: see [`Wire`].
    pub fn sent_bytes(&self, before: Done) -> u64 {
        let (optimizer, c) = (&self.optimizer, &self.weights.config);
        let rows = [self.dev.factor_dtype(c.compute), c.compute].map(|dtype| c.hidden_size * dtype.size());
        let sizes = Sizes { weight: self.weights.renewed().size(), layers: c.num_hidden_layers, rows };
        let wire = Wire::of(optimizer.cuts(), optimizer.ranks.rank(), sizes);
        wire.bytes(self.done.since(before)).into_iter().sum()
    }

    /// Logprobs of each transcript's sampled tokens under `of`, or under the trained weights; each rank finds its run of them.
    ///
    /// # Errors
    /// What the ops refuse.
    pub fn logprobs(&mut self, of: Option<&Weights>, transcripts: &[&Transcript]) -> Result<Vec<Vec<f32>>> {
        let ranks = self.optimizer.ranks.clone();
        let dealt = |rank: usize| &transcripts[ranks.dealt_to(rank, transcripts.len())];
        let own = self.own_logprobs(of, dealt(ranks.rank()))?;
        if of.is_none() && self.goes_in_step() {
            // Ranks go through the weights as often as the one that has most to run.
            let micros = |rank: usize| micro_batches(&spoken(dealt(rank)), self.how.micro_batch_tok, false).len();
            let most = (0..ranks.world()).map(micros).max().unwrap_or(0);
            (micros(ranks.rank())..most).try_for_each(|_| self.no_forward())?;
        }
        if ranks.world() == 1 {
            return Ok(own);
        }
        let mut packet = Packet::new();
        for found in &own {
            packet.put(found);
        }
        let told = ranks.gather("logprobs", &packet.bytes)?;
        let mut all = Vec::new();
        for (rank, bytes) in told.iter().enumerate() {
            let mut read = Unpack::of(bytes);
            for _ in ranks.dealt_to(rank, transcripts.len()) {
                all.push(read.take()?);
            }
        }
        Ok(all)
    }

    /// True where a forward of one rank is one of all.
    fn goes_in_step(&self) -> bool {
        self.how.shard == Shard::Weights || self.weights.is_spread()
    }

    fn own_logprobs(&mut self, of: Option<&Weights>, transcripts: &[&Transcript]) -> Result<Vec<Vec<f32>>> {
        let inv_temperature = 1.0 / self.how.temperature;
        let mut found = Vec::new();
        for micro in micro_batches(&spoken(transcripts), self.how.micro_batch_tok, false) {
            self.pack(&micro, Share { sequences: 1, trained: 1 })?;
            match of {
                Some(weights) => model::forward(&self.dev, weights, &self.batch, &mut self.acts, inv_temperature)?,
                None => {
                    model::forward(&self.dev, &mut self.weights, &self.batch, &mut self.acts, inv_temperature)?;
                    self.done.forwards += walked(&self.how);
                    self.done.note_rows(self.acts.take_sent_rows());
                }
            }
            self.dev.read(self.acts.logprob(), &mut self.host.logprob)?;
            let mut rest = &self.host.logprob[..];
            for own in &self.host.lengths {
                let (head, tail) = rest.split_at(*own);
                found.push(head.to_vec());
                rest = tail;
            }
        }
        let (mut found, speaks) = (found.into_iter(), |t: &&Transcript| Sample::even(t, 0.0).n_trained() > 0);
        let one = |t| if speaks(t) { found.next().unwrap_or_default() } else { vec![] };
        Ok(transcripts.iter().map(one).collect())
    }

    /// Loss and gradients of the packed episodes; adds to the lane's gradient and to its tally.
    fn backward(&mut self, tally: &mut Tally) -> Result<()> {
        let _phase = self.dev.phase("backward");
        let start = Instant::now();
        let (m, t) = (self.batch.n_loss(), &mut self.tokens);
        ops::loss::policy_loss(
            &self.dev,
            self.acts.logprob(),
            t.old.at(0..m),
            t.reference.at(0..m),
            t.advantage.at(0..m),
            t.weight.at(0..m),
            self.acts.entropy(),
            t.dlogprob.at_mut(0..m),
            t.dentropy.at_mut(0..m),
            t.sums.view_mut(),
            self.how.loss,
        )?;
        model::backward(
            &self.dev,
            &mut self.weights,
            &self.batch,
            &mut self.acts,
            t.dlogprob.at(0..m),
            t.dentropy.at(0..m),
            self.grads.target(),
            1.0 / self.how.temperature,
        )?;
        self.acts.add_expert_load(&self.dev, &mut self.host.expert_counts, &mut tally.expert_load)?;
        let mut micro = [0f32; POLICY_SUMS.len()];
        self.dev.read(t.sums.view(), &mut micro)?;
        tally.add_sums(&micro);
        tally.backward_s += start.elapsed().as_secs_f64();
        Ok(())
    }
}

/// How often others hear of it when one goes through the weights.
fn walked(how: &Learning) -> u64 {
    u64::from(how.shard == Shard::Weights)
}

/// The buffers of an update, gradients aside.
fn buffers(plan: &mut Plan, w: &Weights, how: &Learning) -> Result<(Activations, PackedBatch, TokenBuffers)> {
    let (n, c) = (how.micro_batch_tok, &w.config);
    let acts = Activations::training(plan, w, n, how.checkpoint)?;
    let mut batch = PackedBatch::planned(plan, c, n, n)?;
    if how.guided {
        batch = batch.with_masks(plan)?;
    }
    let mut b = |name: &str, len| plan.f32("loss", name, len);
    let tokens = TokenBuffers {
        old: b("old", n)?,
        reference: b("reference", n)?,
        advantage: b("advantage", n)?,
        weight: b("weight", n)?,
        dlogprob: b("dlogprob", n)?,
        dentropy: b("dentropy", n)?,
        sums: b("sums", POLICY_SUMS.len())?,
    };
    Ok((acts, batch, tokens))
}

/// Transcripts that say anything, in their order, so that none shares another's rows.
fn spoken<'a>(transcripts: &[&'a Transcript]) -> Vec<Sample<'a>> {
    transcripts.iter().map(|t| Sample::even(t, 0.0)).filter(|sample| sample.n_trained() > 0).collect()
}

impl Host {
    fn new(n: usize, experts: usize, guided: bool) -> Host {
        let (reals, packing) = (|| Vec::with_capacity(n), Packing::with_capacity(n));
        Host {
            packing: if guided { packing.with_masks(n) } else { packing },
            old: reals(),
            advantage: reals(),
            weight: reals(),
            logprob: reals(),
            stand_in: reals(),
            lengths: Vec::with_capacity(n),
            expert_counts: vec![0; experts],
        }
    }

    fn clear(&mut self) {
        self.packing.clear();
        for part in [&mut self.old, &mut self.advantage, &mut self.weight, &mut self.logprob] {
            part.clear();
        }
        self.stand_in.clear();
        self.lengths.clear();
    }
}

/// The optimizer's parts of a model, end to end: the gaps of the layout (always zero) join the tensor before them.
pub fn parts(weights: &Weights) -> Vec<Part> {
    let specs = weights.trained();
    let end = |i: usize| specs.get(i + 1).map_or(weights.n_trained(), |next| next.offset);
    specs.iter().enumerate().map(|(i, s)| Part { range: s.offset..end(i), decays: s.decay }).collect()
}
