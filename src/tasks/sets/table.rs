//! Training on K-candidate replies: the step, and the table at the end.
//!
//! The one idea: beside its rollout and its credit a step on sets is a step of GRPO, with the same learner, logs and
//! checkpoints.

use crate::credit::set::Worth;
use crate::credit::shaping::{Likelihood, likelihood};
use crate::disk::write_atomic;
use crate::error::{Error, Result};
use crate::infer::Engine;
use crate::model::Weights;
use crate::noise::Noise;
use crate::rollout::Rollout;
use crate::run::metrics::{self, Metrics, StepFacts, Tokens};
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::tasks::sets::Task;
use crate::tasks::sets::credit::{self, Case, Reply};
use crate::tasks::sets::rollout::Table;
use crate::text::Transcript;
use crate::train::rl::{self, Trainer};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Streams of noise below the run's seed.
const ROLLOUT: u64 = 6;
const EVAL: u64 = 7;

impl Trainer {
    /// One step on sets; appends the step's replies to their log and returns its row of metrics.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub(crate) fn step_sets(&mut self, setup: &Setup, task: Task, step: u64, log: &mut Log) -> Result<Metrics> {
        let began = Instant::now();
        let (config, group) = (&setup.config, setup.config.rollout.group_size);
        let noise = Noise::new(config.seed, ROLLOUT).child(step);
        let products = rl::products_of(setup, step);
        for engine in [&mut self.buyer, &mut self.seller] {
            engine.take_stats();
        }
        let mut table =
            Table { setup, task, weights: &self.learner.weights, buyer: &mut self.buyer, seller: &mut self.seller };
        let (cases, replies) = table.play(&products, group, noise)?;
        let rollout = Rollout {
            played: vec![],
            buyer: self.buyer.take_stats(),
            seller: self.seller.take_stats(),
            environment_s: 0.0,
            total_s: began.elapsed().as_secs_f64(),
        };
        let credit_began = Instant::now();
        let mut rewards = credit::rewards(config, &replies);
        let worths = rewards.clone();
        let likelihood = self.likelihood(setup, &cases, &replies)?;
        rewards.iter_mut().zip(&likelihood).for_each(|(r, l)| *r += config.reward.likelihood as f64 * l);
        let credited = credit::credit(config, &replies, &rewards, noise.child(1))?;
        let credit_s = credit_began.elapsed().as_secs_f64();
        let transcripts: Vec<&Transcript> = replies.iter().map(|r| &r.transcript).collect();
        let samples = rl::samples(&transcripts, &credited, group, config.grpo.skip_constant_groups);
        let with_kl = config.grpo.kl > 0.0;
        let learned = self.learner.learn(&samples, with_kl.then_some(&setup.base.weights))?;
        for (i, reply) in replies.iter().enumerate() {
            log.append(&line(step, i, group, &cases[i / group], reply, rewards[i], credited.advantage[i]))?;
        }
        let found = Summary::of(&replies, &worths);
        let worst = credit::worst_in_best(group, &replies, &rewards, &credited);
        let skipped_total = self.learner.optimizer.skipped;
        let constant_groups = credited.constant_groups;
        let (rollout, learned) = (&rollout, &learned);
        let facts = StepFacts { step, rollout, facts: &[], constant_groups, learned, skipped_total, with_kl, began };
        let mut row = found.row(step);
        row.insert("credit/worst_in_best".into(), json!(worst));
        if !likelihood.is_empty() {
            row.insert("reward/likelihood".into(), json!(likelihood.iter().sum::<f64>() / likelihood.len() as f64));
        }
        metrics::policy(&mut row, &facts);
        metrics::times(&mut row, &facts);
        row.insert("rollout/episodes".into(), json!(replies.len()));
        row.insert("rollout/groups".into(), json!(cases.len()));
        row.insert("time/credit_s".into(), json!(credit_s));
        Ok(row)
    }
}

impl Trainer {
    /// The likelihood of each case's reference answer as the first candidate behind the reply's own thought, 0 for a
    /// malformed reply; empty when the config gives it no weight.
    ///
    /// # Errors
    /// What the ops refuse.
    pub fn likelihood(&mut self, setup: &Setup, cases: &[Case], replies: &[Reply]) -> Result<Vec<f64>> {
        let (reward, group) = (&setup.config.reward, setup.config.rollout.group_size);
        if reward.likelihood == 0.0 {
            return Ok(vec![]);
        }
        let how = if reward.likelihood_of == "sum" { Likelihood::Sum } else { Likelihood::Mean };
        let chat = &setup.base.chat;
        let mut asked: Vec<(Transcript, usize)> = Vec::new();
        for (i, reply) in replies.iter().enumerate() {
            let case = &cases[i / group];
            let (Ok(candidates), Some(answer)) = (&reply.candidates, case.reference()) else { continue };
            let prompt = case.prompt(setup.config.task.candidates);
            let mut transcript = Transcript::new(chat, &prompt.system)?;
            transcript.push_incoming(chat, &prompt.incoming)?;
            let at = transcript.len();
            let answer = chat.tokenizer.encode(&format!(" {answer}"))?;
            let thought = reply.transcript.ids()[at..at + candidates[0].tokens.start].iter();
            let ids: Vec<i32> = thought.chain(&answer).copied().collect();
            transcript.push_sampled(&ids, &vec![0.0; ids.len()]);
            asked.push((transcript, answer.len()));
        }
        let transcripts: Vec<&Transcript> = asked.iter().map(|(t, _)| t).collect();
        let found = self.learner.logprobs(None, &transcripts)?;
        let mut found = found.iter().zip(&asked).map(|(lp, (_, n))| likelihood(&lp[lp.len() - n..], how));
        let of = |reply: &Reply| if reply.candidates.is_ok() { found.next().unwrap_or(0.0) } else { 0.0 };
        Ok(replies.iter().map(of).collect())
    }
}

/// Means over replies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Replies.
    pub replies: usize,
    /// Mean worth of a reply under the config, malformed ones at their penalty.
    pub worth: f64,
    /// Mean of the best candidate's utility, malformed replies at their penalty.
    pub best: f64,
    /// Mean utility of a candidate.
    pub candidate: f64,
    /// Share of replies that are no set.
    pub malformed: f64,
    /// Mean share of candidates that say something no earlier one says.
    pub distinct: f64,
    /// Mean number of candidates of a set.
    pub size: f64,
}

impl Summary {
    /// The means over replies of a worth each.
    pub fn of(replies: &[Reply], rewards: &[f64]) -> Summary {
        let n = replies.len().max(1) as f64;
        let sets: Vec<_> = replies.iter().filter(|r| r.candidates.is_ok()).map(Reply::set).collect();
        let good = sets.len() as f64;
        let mean = |of: f64, n: f64| if n > 0.0 { of / n } else { 0.0 };
        let candidates: usize = sets.iter().map(|s| s.utility.len()).sum();
        let best: f64 = sets.iter().map(|s| s.worth(Worth::Max, s.all())).sum();
        let distinct = |same: &[usize]| same.iter().enumerate().filter(|(i, s)| i == *s).count() as f64;
        Summary {
            replies: replies.len(),
            worth: rewards.iter().sum::<f64>() / n,
            best: (best + (n - good) * credit::MALFORMED) / n,
            candidate: mean(sets.iter().flat_map(|s| &s.utility).sum(), candidates as f64),
            malformed: 1.0 - good / n,
            distinct: mean(sets.iter().map(|s| distinct(&s.same) / s.same.len() as f64).sum(), good),
            size: mean(candidates as f64, good),
        }
    }

    fn row(&self, step: u64) -> Metrics {
        let mut row = Metrics::new();
        row.insert("step".into(), json!(step));
        for (key, value) in [
            ("reward/mean", self.worth),
            ("sets/best", self.best),
            ("sets/candidate", self.candidate),
            ("sets/malformed", self.malformed),
            ("sets/distinct", self.distinct),
            ("sets/size", self.size),
        ] {
            row.insert(key.into(), json!(value));
        }
        row
    }
}

/// A line of `episodes.jsonl`.
fn line(step: u64, i: usize, group: usize, case: &Case, reply: &Reply, reward: f64, advantage: f32) -> Value {
    let product = match case {
        Case::Menu(episode) => episode.product().code.clone(),
        Case::Summary(product) => product.code.clone(),
        Case::Recommend(_) => String::new(),
    };
    let candidates: Vec<Value> = reply
        .candidates
        .iter()
        .flatten()
        .zip(&reply.scored)
        .map(|(c, s)| json!({ "text": c.text, "tokens": [c.tokens.start, c.tokens.end], "utility": s.utility }))
        .collect();
    json!({
        "step": step,
        "group": i / group,
        "rollout": i % group,
        "product": product,
        "reply": reply.text,
        "malformed": reply.candidates.as_ref().err().map(|why| why.key()),
        "candidates": candidates,
        "reward": reward,
        "advantage": advantage,
        "buyer": Tokens::of(&reply.transcript),
    })
}

/// The table at the end of a run on sets: `sets.json`, the base and the trained weights on held-out products.
///
/// # Errors
/// What the engines refuse and the disk says.
pub fn evaluate(setup: &Setup, task: Task, trained: &Weights, run: &Path) -> Result<Vec<(&'static str, Summary)>> {
    let mut rows = Vec::new();
    for (name, weights) in [("untrained", &setup.base.weights), ("trained", trained)] {
        rows.push((name, held_out(setup, task, weights)?));
    }
    let table: Vec<Value> =
        rows.iter().map(|(name, row)| json!({ "model": name, "task": setup.config.task.name, "row": row })).collect();
    let path = run.join("sets.json");
    let text = serde_json::to_string_pretty(&table).map_err(|e| Error::data(&path, e))?;
    write_atomic(&path, |f| f.write_all(text.as_bytes()))?;
    Ok(rows)
}

/// The means of a model on the held-out products, `eval.rollouts` replies each.
///
/// # Errors
/// What the engines refuse.
pub fn held_out(setup: &Setup, task: Task, weights: &Weights) -> Result<Summary> {
    let engine = |weights: &Weights| Engine::new(&setup.dev, &weights.config, setup.engine_config(&weights.config));
    let (mut buyer, mut seller) = (engine(weights)?, engine(&setup.seller.weights)?);
    let mut table = Table { setup, task, weights, buyer: &mut buyer, seller: &mut seller };
    let rollouts = setup.config.eval.rollouts;
    let at_a_time = setup.config.rollout.products_per_step.min(setup.episodes_a_step() / rollouts).max(1);
    let mut all = Vec::new();
    for (i, products) in setup.held_out.chunks(at_a_time).enumerate() {
        let noise = Noise::new(setup.config.seed, EVAL).child(i as u64);
        all.extend(table.play(products, rollouts.min(setup.episodes_a_step()), noise)?.1);
    }
    Ok(Summary::of(&all, &credit::rewards(&setup.config, &all)))
}
