//! Rollouts of K-candidate replies: each sampled once, by the engine that samples episodes, and scored.
//!
//! The one idea: a step's groups are its cases. A menu's case goes on behind the best draft of its first rollout, so a game
//! is several cases, one a turn.

use crate::error::Result;
use crate::infer::{Engine, NoiseKey, Sampling, SeqId};
use crate::model::Weights;
use crate::negotiate::Product;
use crate::noise::Noise;
use crate::setup::Setup;
use crate::tasks::menu::branches::Root;
use crate::tasks::sets::credit::{Case, Reply, candidates};
use crate::tasks::sets::{Scored, Task};
use crate::tasks::summary;
use crate::text::Transcript;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The models and sizes of set rollouts.
pub struct Table<'a> {
    /// The run's setup.
    pub setup: &'a Setup,
    /// The task.
    pub task: Task,
    /// The weights that reply.
    pub weights: &'a Weights,
    /// Their engine.
    pub buyer: &'a mut Engine,
    /// The frozen seller's engine.
    pub seller: &'a mut Engine,
}

impl Table<'_> {
    /// The replies of a step: `rollouts` to each case, cases first, with what their candidates are worth. A product is one
    /// case; in a menu one more for each turn its game goes on, up to `task.rounds`.
    ///
    /// # Errors
    /// What the engines refuse.
    pub fn play(
        &mut self,
        products: &[Arc<Product>],
        rollouts: usize,
        noise: Noise,
    ) -> Result<(Vec<Case>, Vec<Reply>)> {
        let case = |(i, product)| Case::new(self.task, product, self.setup, noise.child(i as u64));
        let mut cases: Vec<Case> = products.iter().enumerate().map(case).collect();
        if self.task != Task::Menu {
            let replies = self.scored(&cases, rollouts, noise.child(1 << 40))?;
            return Ok((cases, replies));
        }
        let mut roots: Vec<Option<Root>> = self.openings(&mut cases, noise)?;
        let (mut all_cases, mut all_replies) = (vec![], vec![]);
        for round in 0..self.setup.config.task.rounds as u64 {
            let mut replies = self.scored(&cases, rollouts, noise.child(1 << 40 | round))?;
            let next = self.play_on(&cases, roots, &mut replies, rollouts, noise.child(2 << 40 | round))?;
            all_cases.append(&mut cases);
            all_replies.append(&mut replies);
            (cases, roots) = next.into_iter().map(|(case, root)| (case, Some(root))).unzip();
            if cases.is_empty() {
                break;
            }
        }
        Ok((all_cases, all_replies))
    }

    /// Samples `rollouts` replies to each case and scores their candidates; a menu's stand at -1 until they are played on.
    fn scored(&mut self, cases: &[Case], rollouts: usize, noise: Noise) -> Result<Vec<Reply>> {
        let mut replies = self.sample(cases, rollouts, noise)?;
        for (i, reply) in replies.iter_mut().enumerate() {
            let texts = reply.candidates.iter().flatten().map(|c| &c.text);
            reply.scored = match &cases[i / rollouts] {
                Case::Menu(_) => texts.map(|_| Scored { utility: -1.0, covers: 0 }).collect(),
                Case::Recommend(case) => texts.map(|t| case.score(t)).collect(),
                Case::Summary(product) => texts.map(|t| summary::score(product, t)).collect(),
            };
        }
        Ok(replies)
    }

    /// Samples `rollouts` replies to each case.
    fn sample(&mut self, cases: &[Case], rollouts: usize, noise: Noise) -> Result<Vec<Reply>> {
        let (chat, k) = (&self.setup.base.chat, self.setup.config.task.candidates);
        let plain = self.setup.buyer_sampling(chat);
        let sampling = Sampling { max_new_tokens: plain.max_new_tokens * k, ..plain };
        let mut asked: Vec<(SeqId, Transcript)> = Vec::new();
        for (i, case) in cases.iter().enumerate() {
            let prompt = case.prompt(k);
            for r in 0..rollouts {
                let mut transcript = Transcript::new(chat, &prompt.system)?;
                transcript.push_incoming(chat, &prompt.incoming)?;
                let seq = self.buyer.add(transcript.ids(), sampling, key(noise.child(i as u64).child(r as u64)))?;
                asked.push((seq, transcript));
            }
        }
        let said = drain(self.buyer, self.weights)?;
        let reply = |(i, (seq, mut transcript)): (usize, (SeqId, Transcript))| -> Result<Reply> {
            self.buyer.release(seq);
            let turn = &said[&seq];
            transcript.push_sampled(&turn.ids, &turn.logprobs);
            Ok(Reply {
                candidates: candidates(chat, &turn.ids, k, turn.cut),
                text: chat.reply_text(&turn.ids)?,
                transcript,
                scored: vec![],
                facts: cases[i / rollouts].facts(),
            })
        };
        asked.into_iter().enumerate().map(reply).collect()
    }
}

/// A turn that ended, taken out of its engine.
pub(crate) struct Said {
    pub(crate) ids: Vec<i32>,
    pub(crate) logprobs: Vec<f32>,
    pub(crate) cut: bool,
}

/// Steps an engine until nothing runs; what its sequences said.
pub(crate) fn drain(engine: &mut Engine, weights: &Weights) -> Result<BTreeMap<SeqId, Said>> {
    let mut said = BTreeMap::new();
    while engine.step(weights)? {
        while let Some(turn) = engine.next_finished() {
            let of = Said { ids: turn.ids.to_vec(), logprobs: turn.logprobs.to_vec(), cut: turn.truncated };
            said.insert(turn.seq, of);
        }
    }
    Ok(said)
}

pub(crate) fn key(noise: Noise) -> NoiseKey {
    NoiseKey { seed: noise.seed, stream: noise.stream }
}
