//! Fine-tuning a model on conversations of others: epochs over a file, a held-out share, checkpoints, and going on.
//!
//! The one idea: an update is a function of (settings, data, weights, step): the order of an epoch comes from the seed and
//! its number, so a run that was killed goes on to the same bits, like any other run. The run directory is one that every
//! command opens as a model: its latest checkpoint is a Hugging Face folder.

use super::dialogues::Sequence;
use super::lines::{Talk, first_of};
use super::talk;
use super::trainer::{Among, Supervision, Trainer};
use crate::config::Config;
use crate::device::Device;
use crate::disk::write_atomic;
use crate::dist::{Ranks, Shard, agree};
use crate::error::{Error, Result};
use crate::model::Plan;
use crate::noise::Noise;
use crate::run::checkpoint::{self, State};
use crate::run::metrics::Metrics;
use crate::run::run_dir::{Log, RunDir};
use crate::setup::base::{self, Base};
use crate::setup::lora;
use crate::text::Chat;
use crate::train::optimizer::{Hyper, Schedule};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The settings of a run, in its directory: what tells it from a run of `haggle train`.
pub const SETTINGS: &str = "sft.json";
/// Streams of noise below the run's seed: the order of an epoch, and who is held out.
const ORDER: u64 = 8;
const HELD_OUT: u64 = 9;
/// Share of the updates over which the learning rate rises.
const WARM_UP: f64 = 0.03;

/// What a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// The model it begins with.
    pub model: String,
    /// CRC-32C of its weights.
    pub model_crc: u32,
    /// The files, each with the CRC-32C of its bytes.
    pub data: Vec<(String, u32)>,
    /// Times that every conversation is learned from.
    pub epochs: usize,
    /// Conversations of an update.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f32,
    /// Share of the conversations that is held out.
    pub val: f32,
    /// Longest sequence; longer ones are left out.
    pub max_tokens: usize,
    /// Most tokens of one forward and backward, if no sequence is longer.
    pub micro_tokens: usize,
    /// Updates between checkpoints.
    pub save_every: usize,
    /// Checkpoints kept.
    pub keep: usize,
    /// Seeds the order and who is held out.
    pub seed: u64,
}

/// What a run learns from.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// Sequences to learn from, by conversation.
    pub train: Vec<Vec<Sequence>>,
    /// Those held out.
    pub held_out: Vec<Sequence>,
    /// Where the conversations stand that are too long.
    pub long: Vec<String>,
}

/// What a run tells while it goes on.
pub enum Told<'a> {
    /// Updates begin behind this many.
    Ready {
        /// Updates done before.
        step: u64,
        /// Updates in all.
        steps: u64,
    },
    /// An update is done.
    Step(&'a Metrics),
    /// A checkpoint is on disk.
    Saved(&'a Path),
}

/// Conversations as sequences: one that is longer than `max_tokens` is left out and named; the share `val` is held out.
///
/// # Errors
/// [`Error::Lines`] naming every conversation that the template refuses; [`Error::Config`] when nothing is left.
pub fn stock(chat: &Chat, talks: &[Talk], how: &Tuning) -> Result<Stock> {
    let (mut all, mut stock, mut problems) = (Vec::new(), Stock::default(), Vec::new());
    for Talk { place, messages } in talks {
        match talk::sequences(chat, messages) {
            Ok(found) if found.iter().any(|s| s.ids.len() > how.max_tokens) => stock.long.push(place.clone()),
            Ok(found) => all.push(found),
            Err(e) => problems.push(format!("{place}: {e}")),
        }
    }
    if !problems.is_empty() {
        return Err(Error::Lines { problems: first_of(problems) });
    }
    let held_out = if how.val > 0.0 { (how.val as f64 * all.len() as f64).ceil() as usize } else { 0 };
    if held_out >= all.len() {
        let (n, long) = (all.len(), stock.long.len());
        let what = format!(
            "{n} conversations leave none to learn from: {held_out} are held out (--val), {long} are longer than {} tokens \
             (--max-tokens)",
            how.max_tokens
        );
        return Err(Error::Config { problems: vec![what] });
    }
    let mut out = vec![false; all.len()];
    Noise::new(how.seed, HELD_OUT).shuffled(all.len())[..held_out].iter().for_each(|i| out[*i] = true);
    for (found, out) in all.into_iter().zip(out) {
        if out { stock.held_out.extend(found) } else { stock.train.push(found) }
    }
    Ok(stock)
}

impl Tuning {
    /// Updates of a run over `n` conversations.
    pub fn steps(&self, n: usize) -> u64 {
        (self.epochs * n.div_ceil(self.batch)) as u64
    }

    /// The conversations of an update, from 1: each once an epoch, in an order of its own.
    fn chosen(&self, step: u64, n: usize) -> Vec<usize> {
        let an_epoch = n.div_ceil(self.batch) as u64;
        let (epoch, at) = ((step - 1) / an_epoch, (step - 1) % an_epoch);
        let order = Noise::new(self.seed, ORDER).child(epoch).shuffled(n);
        order.chunks(self.batch).nth(at as usize).map_or(vec![], <[usize]>::to_vec)
    }

    /// How the trainer learns from a stock.
    fn supervision(&self, stock: &Stock) -> Supervision {
        let longest = stock.train.iter().flatten().chain(&stock.held_out).map(|s| s.ids.len()).max().unwrap_or(1);
        let warmup_steps = (WARM_UP * self.steps(stock.train.len()) as f64).ceil() as u64;
        let schedule = Schedule::Cosine;
        let optim = Hyper { lr: self.lr, warmup_steps, schedule, final_lr_ratio: 0.1, ..Hyper::default() };
        let micro_tokens = self.micro_tokens.max(longest);
        Supervision { seed: self.seed, micro_tokens, optim, ..Supervision::default() }
    }

    /// The settings of a run; none where it is no such run.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Data`] when they cannot be read.
    pub fn read(run: &Path) -> Result<Option<Tuning>> {
        let path = run.join(SETTINGS);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| Error::data(&path, e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(&path, e)),
        }
    }

    /// Says them in the run directory.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn write(&self, run: &Path) -> Result<()> {
        write_atomic(&run.join(SETTINGS), |f| writeln!(f, "{}", serde_json::to_string_pretty(self)?))
    }
}

/// Where a run stands, and what it writes to.
struct Running<'a> {
    how: &'a Tuning,
    dev: &'a Device,
    dir: &'a RunDir,
    chat: Chat,
    trainer: Trainer,
    state: State,
    metrics: Log,
    config_toml: String,
}

/// What tuning on a stock holds at one of these ranks.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn planned(how: &Tuning, stock: &Stock, config: &Config, ranks: &Ranks, plan: &mut Plan) -> Result<()> {
    // Without an adapter the base is gone before the optimizer comes.
    let mut gone = Plan::dry(plan.device());
    let held = if config.lora.rank == 0 { &mut gone } else { &mut *plan };
    let base = base::plan_frozen(held, "base", &config.model.base, config, &mut vec![])?;
    let weights = lora::trained(plan, config, &base, (ranks, Shard::of(&config.dist.shard)))?;
    Trainer::planned_among(plan, weights, how.supervision(stock), 1, among(config, ranks)).map(drop)
}

fn among(config: &Config, ranks: &Ranks) -> Among {
    Among { lanes: config.dist.lanes, ranks: ranks.clone(), shard: Shard::of(&config.dist.shard) }
}

/// Trains in a run directory, from its latest checkpoint where it has one: `base` is that, or what the run begins with.
/// `stop`, once true, saves and ends after the present update. True when all is done. All ranks call it together.
///
/// # Errors
/// [`Error::Training`] when too many updates in a row are not finite; what the ops, the disk and the ranks say.
pub fn run(
    how: &Tuning,
    stock: &Stock,
    dev: &Device,
    base: Base,
    (dir, config, ranks): (&RunDir, &Config, &Ranks),
    stop: &AtomicBool,
    told: &mut dyn FnMut(Told),
) -> Result<bool> {
    let steps = how.steps(stock.train.len());
    let chat = base.chat.clone();
    let begun = begin(how, stock, dev, base, (dir, config, ranks));
    let (trainer, state) = ranks.agree("the trainer", begun)?;
    let metrics = dir.log("metrics.jsonl", state.metrics_bytes)?;
    let mut run = Running { how, dev, dir, chat, trainer, state, metrics, config_toml: config.to_toml(true) };
    told(Told::Ready { step: run.state.step, steps });
    if run.state.step == 0 && !stock.held_out.is_empty() {
        let row = Metrics::from_iter([("step".into(), json!(0)), ("val_loss".into(), json!(run.val_loss(stock)?))]);
        run.metrics.append(&row)?;
        told(Told::Step(&row));
    }
    while run.state.step < steps {
        let stopping = ranks.any("stop", stop.load(Ordering::Relaxed))?;
        ranks.phase("learning");
        if !stopping {
            let row = run.step(stock, steps)?;
            told(Told::Step(&row));
        }
        if stopping || run.state.step.is_multiple_of(how.save_every as u64) || run.state.step == steps {
            run.save(told)?;
        }
        if stopping {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A trainer where the run stands.
fn begin(
    how: &Tuning,
    stock: &Stock,
    dev: &Device,
    base: Base,
    (dir, config, ranks): (&RunDir, &Config, &Ranks),
) -> Result<(Trainer, State)> {
    let (steps, shard) = (how.steps(stock.train.len()), Shard::of(&config.dist.shard));
    let mut weights = lora::trained(&mut Plan::on(dev), config, &base.weights, (ranks, shard))?;
    lora::begin(dev, &mut weights, &base)?;
    // Under an adapter the base lives on; else nothing reads it any more.
    drop(base);
    let plan = &mut Plan::on(dev);
    let mut trainer = Trainer::planned_among(plan, weights, how.supervision(stock), steps, among(config, ranks))?;
    let state = match checkpoint::latest(dir.path())? {
        None => State::start([how.model_crc, 0]),
        Some(at) => {
            let state = checkpoint::open_dealt(&at, ranks)?;
            // A frozen model may be held rounded; what trains goes on from every bit.
            base::restore(dev, &mut trainer.weights, &at)?;
            checkpoint::restore_optimizer(&at, &state, dev, &mut trainer.optimizer)?;
            state
        }
    };
    trainer.weights.pack(dev)?;
    Ok((trainer, state))
}

impl Running<'_> {
    /// One update, and its row.
    fn step(&mut self, stock: &Stock, steps: u64) -> Result<Metrics> {
        let start = Instant::now();
        let (n, step) = (stock.train.len(), self.state.step + 1);
        let chosen = self.how.chosen(step, n);
        let sequences: Vec<Sequence> = chosen.iter().flat_map(|i| stock.train[*i].iter().cloned()).collect();
        let row = self.trainer.learn(&sequences)?;
        self.state.step = step;
        let an_epoch = n.div_ceil(self.how.batch) as u64;
        let mut told = Metrics::from_iter([
            ("step".to_string(), json!(step)),
            ("epoch".into(), json!(step as f64 / an_epoch as f64)),
            ("loss".into(), json!(row.loss)),
            ("lr".into(), json!(row.lr)),
            ("grad_norm".into(), json!(row.grad_norm.is_finite().then_some(row.grad_norm))),
            ("tokens".into(), json!(sequences.iter().map(|s| s.ids.len()).sum::<usize>())),
            ("trained_tokens".into(), json!(sequences.iter().flat_map(|s| &s.own).filter(|own| **own).count())),
        ]);
        if !stock.held_out.is_empty() && (step.is_multiple_of(an_epoch) || step == steps) {
            told.insert("val_loss".into(), json!(self.val_loss(stock)?));
        }
        told.insert("time/step_s".into(), json!(start.elapsed().as_secs_f64()));
        self.metrics.append(&told)?;
        Ok(told)
    }

    /// Mean -logprob of the held-out assistants' tokens, in nats.
    fn val_loss(&mut self, stock: &Stock) -> Result<f64> {
        let scored = self.trainer.score(&stock.held_out)?;
        let (sum, n) = scored.iter().flatten().fold((0.0, 0), |(sum, n), lp| (sum - *lp as f64, n + 1));
        Ok(sum / n.max(1) as f64)
    }

    fn save(&mut self, told: &mut dyn FnMut(Told)) -> Result<()> {
        let (dev, Trainer { weights, optimizer, .. }) = (self.dev, &self.trainer);
        let ranks = &optimizer.ranks;
        ranks.phase("checkpoint");
        if let (true, Some(crc)) = (ranks.world() > 1, weights.read_crc(dev)?) {
            agree::same(ranks, "weights after this update", crc)?;
        }
        self.state.metrics_bytes = ranks.agree("the logs", self.metrics.sync())?;
        self.state.note(optimizer);
        let write_model = |at: &Path| base::save_among(dev, weights, optimizer, &self.chat, at);
        let (run, state, keep) = (self.dir.path(), self.state.clone(), self.how.keep);
        let at = checkpoint::save(run, keep, dev, optimizer, state, &self.config_toml, write_model)?;
        told(Told::Saved(&at));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_conversation_comes_once_an_epoch_in_an_order_of_its_own() {
        let how = Tuning {
            model: String::new(),
            model_crc: 0,
            data: vec![],
            epochs: 3,
            batch: 4,
            lr: 1e-4,
            val: 0.0,
            max_tokens: 9,
            micro_tokens: 9,
            save_every: 1,
            keep: 1,
            seed: 5,
        };
        assert_eq!(how.steps(10), 9);
        let epochs: Vec<Vec<usize>> =
            (0..3).map(|e| (1..=3).flat_map(|k| how.chosen(3 * e + k, 10)).collect()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        assert_eq!(how.chosen(3, 10).len(), 2, "the last of an epoch is what is left");
    }
}
