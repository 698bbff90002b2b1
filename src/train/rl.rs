//! GRPO, end to end: rollout -> credit -> learn -> log -> row, again and again, with nothing lost on the way.
//!
//! The one idea: [`Trainer::step`] is the algorithm on one screen, whatever the task, and a function of (config, weights,
//! moments, step) alone; so a run that was killed goes on to the same bits. Everything slow says so through [`Event`]s;
//! nothing prints.
//!
//! Source: Shao et al. 2024, arXiv:2402.03300 (GRPO); Liu et al. 2026, arXiv:2604.09855 (the game).

use super::held_out;
use super::learner::{self, Learner, Learning, Sample};
use super::optimizer::{Hyper, Optimizer};
use super::row::{self, StepFacts};
use crate::config::Config;
use crate::config::choice::KlIn;
use crate::dist::{Ranks, Shard, agree};
use crate::error::{Error, Result};
use crate::guide::Manner;
use crate::infer::Engine;
use crate::model::plan::PlanRow;
use crate::model::{ModelConfig, Phase, Plan, Weights};
use crate::noise::Noise;
use crate::rollout::{Rollout, Voice};
use crate::run::checkpoint::{self, State};
use crate::run::metrics::Metrics;
use crate::run::run_dir::{Log, RunDir};
use crate::setup::{Frozen, Setup, base, engine_config, lora, moments};
use crate::tasks::credit::Credited;
use crate::tasks::{self, Draw, Engines, Entrant, Speaks, Task};
use crate::text::Transcript;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a run tells while it goes on.
pub enum Event<'a> {
    /// Everything is open and allocated; steps begin.
    Ready {
        /// The run directory.
        run: &'a Path,
        /// Every buffer.
        plan: &'a Plan,
        /// Steps done before (resumed).
        step: u64,
        /// Steps in all.
        steps: u64,
    },
    /// Tokens of demonstrations were learned.
    Supervised {
        /// Tokens so far.
        done: u64,
        /// Tokens in all.
        of: u64,
    },
    /// Episodes of the step's rollout have ended.
    Rollout {
        /// The step, from 1.
        step: u64,
        /// Episodes ended.
        done: usize,
        /// Episodes of the step.
        of: usize,
    },
    /// The step's episodes have all ended, and it learns from them.
    Learning {
        /// The step, from 1.
        step: u64,
        /// Episodes of the step.
        of: usize,
    },
    /// Episodes of the evaluation after a step have ended.
    HeldOut {
        /// The step, from 1.
        step: u64,
        /// Whom the policy meets.
        seller: &'a str,
        /// Episodes ended.
        done: usize,
        /// Episodes of this pair.
        of: usize,
    },
    /// A step is done; its row of metrics.
    Step(&'a Metrics),
    /// A checkpoint is on disk.
    Saved(&'a Path),
    /// Episodes of the final evaluation have ended.
    Evaluation {
        /// The model, or the script.
        buyer: &'a str,
        /// Whom it meets.
        seller: &'a str,
        /// Episodes ended.
        done: usize,
        /// Episodes of this pair.
        of: usize,
    },
}

/// Stream of noise below the run's seed.
const ORDER: u64 = 1;

/// How a run's training ended.
pub struct Trained {
    /// Steps done.
    pub step: u64,
    /// The trained weights; none when it was interrupted, and then it can be resumed.
    pub weights: Option<Weights>,
}

/// Trains as a setup says, in a run directory. `resume` goes on from its latest checkpoint (from the beginning when it has
/// none); `stop`, once true, saves and ends after the present step.
///
/// # Errors
/// Everything that can go wrong, by name; the last checkpoint is whole whatever happens. With [`Error::Seller`] there is one of
/// every step that was done.
pub fn run(
    setup: &Setup,
    dir: &RunDir,
    resume: bool,
    stop: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<Trained> {
    let ranks = &setup.ranks;
    let (mut trainer, plan) = ranks.agree("the trainer", Trainer::new(setup))?;
    let restored = trainer.restore(setup, dir.path(), resume);
    let mut state = ranks.agree("the checkpoint to go on from", restored)?;
    let mut metrics = dir.log("metrics.jsonl", state.metrics_bytes)?;
    let mut episodes = dir.log("episodes.jsonl", state.episodes_bytes)?;
    let steps = setup.config.grpo.steps as u64;
    events(Event::Ready { run: dir.path(), plan: &plan, step: state.step, steps });
    while state.step < steps {
        let stopping = ranks.any("stop", stop.load(Ordering::Relaxed))?;
        let mut best = false;
        if !stopping {
            best = match trainer.advance(setup, &mut state, &mut metrics, &mut episodes, events) {
                Err(lost @ Error::Seller { .. }) => {
                    trainer.save(setup, dir.path(), &mut state, &mut metrics, &mut episodes, events)?;
                    return Err(lost);
                }
                best => best?,
            };
        }
        let due = best || state.step.is_multiple_of(setup.config.run.checkpoint_every as u64) || state.step == steps;
        if due || stopping {
            trainer.save(setup, dir.path(), &mut state, &mut metrics, &mut episodes, events)?;
        }
        if stopping {
            return Ok(Trained { step: state.step, weights: None });
        }
    }
    trainer.learner.turns_to(Phase::Plays)?;
    Ok(Trained { step: state.step, weights: Some(trainer.learner.weights) })
}

/// What the reference is called in a plan, where the frozen seller is a model apart and where it is the same.
fn reference(apart: bool) -> &'static str {
    if apart { "reference" } else { "reference and frozen seller" }
}

/// What a run of training holds while it trains. Demonstrations before it are taught with their own buffers
/// (`sft::teach::planned`); the evaluation behind it holds less.
///
/// # Errors
/// What is wrong with the models' shapes.
pub fn planned(config: &Config, plan: &mut Plan) -> Result<()> {
    planned_on(&Ranks::alone(), config, plan)
}

/// The same of a rank of several, which need not be there.
///
/// # Errors
/// As [`planned`].
pub fn planned_on(ranks: &Ranks, config: &Config, plan: &mut Plan) -> Result<()> {
    let (mut held, seller) = (vec![], base::shapes(config)?.1);
    // A base that is taught first leaves the seller behind: an adapter's base is one for both.
    let taught = config.task.supervised_tokens > 0 && tasks::named(&config.task.name)?.teaches();
    let apart = !base::is_its_own_seller(config) || taught;
    let base = base::plan_frozen(plan, reference(apart), &config.model.base, config, &mut held)?;
    if taught && config.lora.rank > 0 {
        lora::trained(plan, config, &base, (ranks, Shard::of(&config.dist.shard)))?;
    } else if taught {
        held.clear();
    }
    if seller.is_some() && apart {
        base::plan_frozen(plan, "frozen seller", base::seller_name(config), config, &mut held)?;
    }
    let (micro_batch_tok, checkpoint) = (config.grpo.micro_batch_tokens, config.checkpoint());
    let (lanes, guided) = (config.dist.lanes, config.rollout.constrain);
    let shard = Shard::of(&config.dist.shard);
    let how = Learning { micro_batch_tok, checkpoint, lanes, shard, guided, ..Learning::default() };
    let hyper = Hyper { moments: moments(config), ..Hyper::default() };
    Trainer::planned(plan, config, (&base, seller), hyper, how, ranks.clone()).map(drop)
}

/// The learner, the task, and the two engines that play.
pub struct Trainer {
    /// The trained weights, their optimizer, and the buffers of an update.
    pub learner: Learner,
    /// What is trained on.
    pub task: Box<dyn Task>,
    buyer: Engine,
    /// How the learner's replies are guided, where they are.
    manner: Option<Manner>,
    /// None for a seller behind a server.
    seller: Option<Engine>,
}

impl Trainer {
    /// A trainer at step 0, and the plan of its buffers.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is zero, [`Error::Memory`].
    pub fn new(setup: &Setup) -> Result<(Trainer, Plan)> {
        let mut plan = Plan::on(&setup.dev);
        let (base, seller) = (&setup.base.weights, setup.seller_model().map(|seller| &seller.weights));
        let apart = !matches!(setup.seller, Frozen::Base);
        let own = seller.filter(|_| apart).map(|own| ("frozen seller", own));
        for (name, weights) in [(reference(apart), base)].into_iter().chain(own) {
            // What the base holds already, the seller does not hold again.
            let again = name != reference(apart) && is_same(weights.base(), base.base());
            let bytes = if again { weights.own_bytes() } else { weights.size_bytes() };
            plan.rows.push(PlanRow { group: "weights", name: name.into(), bytes, phase: Phase::Always });
        }
        let models = (base, seller.map(|seller| seller.config.clone()));
        let (hyper, how, ranks) = (setup.hyper(), Learning::of(setup), setup.ranks.clone());
        let mut trainer = Trainer::planned(&mut plan, &setup.config, models, hyper, how, ranks)?;
        lora::begin(&setup.dev, &mut trainer.learner.weights, &setup.base)?;
        trainer.manner = setup.manner(&setup.base.chat, &base.config)?;
        Ok((trainer, plan))
    }

    /// A trainer through a plan, for a base and a seller of this shape; its weights are yet to begin.
    fn planned(
        plan: &mut Plan,
        config: &Config,
        (base, seller): (&Weights, Option<ModelConfig>),
        hyper: Hyper,
        how: Learning,
        ranks: Ranks,
    ) -> Result<Trainer> {
        let weights = lora::trained(plan, config, base, (&ranks, how.shard))?;
        let updates = config.grpo.steps * config.grpo.optimizer_steps_per_batch;
        let cuts = weights.cuts(how.shard, ranks.world());
        let optimizer = Optimizer::cut(plan, learner::parts(&weights), hyper, updates as u64, (ranks, cuts))?;
        let sizes = |plan: &Plan, model: &ModelConfig| engine_config(config, plan.device(), model);
        let mut buyer = Engine::planned(plan, &weights.config, sizes(plan, &weights.config))?;
        if config.rollout.constrain {
            buyer = buyer.with_masks(plan)?;
        }
        let seller = seller.map(|s| Engine::planned(plan, &s, sizes(plan, &s))).transpose()?;
        let learner = Learner::planned(plan, weights, optimizer, how)?;
        Ok(Trainer { learner, task: tasks::named(&config.task.name)?, buyer, manner: None, seller })
    }

    /// A step and what follows it; whether the policy is the best so far. A step that is broken off has changed nothing, and one
    /// whose evaluation is broken off is done without it.
    fn advance(
        &mut self,
        setup: &Setup,
        state: &mut State,
        metrics: &mut Log,
        episodes: &mut Log,
        events: &mut dyn FnMut(Event),
    ) -> Result<bool> {
        let mut row = self.step(setup, state.step + 1, episodes, events)?;
        state.step += 1;
        let looks = held_out::is_due(&setup.config, state.step);
        let best = if looks { self.look(setup, state, &mut row, events) } else { Ok(false) };
        metrics.append(&row)?;
        events(Event::Step(&row));
        best
    }

    /// Evaluates the policy after a step, in the engines of training; whether it is the best so far.
    fn look(
        &mut self,
        setup: &Setup,
        state: &mut State,
        row: &mut Metrics,
        events: &mut dyn FnMut(Event),
    ) -> Result<bool> {
        let (began, step) = (Instant::now(), state.step);
        setup.ranks.phase("evaluation");
        self.learner.turns_to(Phase::Plays)?;
        let (weights, chat) = (&self.learner.weights, &setup.base.chat);
        let model = Entrant { name: "trained", weights, chat, speaks: Speaks::Replies };
        let engines = Engines { learner: &mut self.buyer, frozen: &mut self.seller };
        let hear = &mut |_: &str, seller: &str, done, of| events(Event::HeldOut { step, seller, done, of });
        let found = self.task.look(setup, model, engines, hear)?.figures();
        Ok(held_out::note(found, began.elapsed().as_secs_f64(), state, row))
    }

    /// One step of GRPO: rollout, credit, learn, log, row.
    ///
    /// # Errors
    /// [`Error::Training`] when too many updates in a row were not finite; what the ops and the disk say.
    pub fn step(&mut self, setup: &Setup, step: u64, log: &mut Log, events: &mut dyn FnMut(Event)) -> Result<Metrics> {
        let (began, sent, done) = (Instant::now(), setup.ranks.sent_bytes(), self.learner.done);
        let grpo = &setup.config.grpo;
        setup.ranks.phase("rollout");
        let rollout = self.rollout(setup, step, events)?;
        setup.ranks.phase("learning");
        self.learner.turns_to(Phase::Learns)?;

        events(Event::Learning { step, of: self.task.transcripts().len() });
        let crediting = Instant::now();
        let learner = &mut self.learner;
        let credited = self.task.credit(setup, &mut |of, transcripts| learner.logprobs(of, transcripts))?;
        let credit_s = crediting.elapsed().as_secs_f64();

        let samples = samples(&self.task.transcripts(), &credited, &setup.config);
        let with_kl = grpo.kl > 0.0 && KlIn::of(&setup.config.loss.kl_in) == KlIn::Loss;
        let learned = self.learner.learn(&samples, with_kl.then_some(&setup.base.weights))?;
        setup.dev.wait()?;

        self.task.log(&credited, log)?;
        let left_out = credited.left_out.iter().filter(|left_out| **left_out).count();
        let (episodes, constant_groups) = (credited.advantage.len() - left_out, credited.constant_groups);
        let (rollout, learned, skipped_total) = (&rollout, &learned, self.learner.optimizer.skipped);
        let mine = self.task.row(setup, &credited);
        let experts = self.learner.weights.config.experts.map_or(0, |experts| experts.count);
        let expert_load = (&self.learner.expert_load[..], experts);
        let facts = StepFacts {
            step,
            rollout,
            episodes,
            constant_groups,
            groups: setup.config.rollout.products_per_step,
            credit_s,
            learned,
            expert_load,
            skipped_total,
            with_kl,
            began,
            sent_bytes: [setup.ranks.sent_bytes() - sent, self.learner.sent_bytes(done)],
        };
        Ok(row::row(mine, &facts))
    }

    /// Plays a step's draw: its products, `group_size` rollouts each.
    fn rollout(&mut self, setup: &Setup, step: u64, events: &mut dyn FnMut(Event)) -> Result<Rollout> {
        let (seed, r) = (setup.config.seed, &setup.config.rollout);
        let chosen = order(seed, step, r.products_per_step, setup.train.len());
        let products = chosen.into_iter().map(|i| setup.train[i].clone()).collect();
        let noise = Noise::new(seed, self.task.stream()).child(step);
        self.task.begin(setup, Draw { step, products, rollouts: r.group_size, noise })?;
        self.learner.turns_to(Phase::Plays)?;
        let (weights, sampling) = (&self.learner.weights, self.task.sampling(setup));
        let (chat, manner) = (&setup.base.chat, self.manner.clone());
        let learner = Voice { weights, engine: &mut self.buyer, chat, sampling, manner };
        let frozen = setup.seller_player(&mut self.seller)?;
        let hear = &mut |done, of| events(Event::Rollout { step, done, of });
        tasks::play(setup, &mut *self.task, learner, frozen, hear)
    }

    /// Puts a trainer where a run's latest checkpoint stands, or at step 0.
    fn restore(&mut self, setup: &Setup, run: &Path, resume: bool) -> Result<State> {
        let crcs = [setup.base.weights.crc(&setup.dev)?, setup.seller_crc()?];
        let Some(at) = checkpoint::latest(run)?.filter(|_| resume) else { return Ok(State::start(crcs)) };
        let state = checkpoint::open_dealt(&at, &setup.ranks)?;
        // Configs were compared before (setup::resume); these weights may have been taught since.
        let pairs = [("model.base", crcs[0], state.base_crc), ("model.seller", crcs[1], state.seller_crc)];
        let other = pairs.into_iter().filter(|(_, mine, saved)| mine != saved);
        let problems: Vec<String> =
            other.map(|(key, ..)| format!("{key}: not the weights that {} began with", at.display())).collect();
        if !problems.is_empty() {
            return Err(Error::Config { problems });
        }
        let l = &mut self.learner;
        base::restore(&setup.dev, &mut l.weights, &at)?;
        checkpoint::restore_optimizer(&at, &state, &setup.dev, &mut l.optimizer)?;
        Ok(state)
    }

    /// Saves a checkpoint of what all ranks hold: see [`checkpoint::save`].
    fn save(
        &mut self,
        setup: &Setup,
        run: &Path,
        state: &mut State,
        metrics: &mut Log,
        episodes: &mut Log,
        events: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let (dev, ranks, l) = (&setup.dev, &setup.ranks, &self.learner);
        ranks.phase("checkpoint");
        if let (true, Some(crc)) = (ranks.world() > 1, l.weights.read_crc(dev)?) {
            // A device that computes wrongly is known by its name before its weights are kept.
            agree::same(ranks, "weights after this step", crc)?;
        }
        state.note(&l.optimizer);
        let mut synced = || Ok((metrics.sync()?, episodes.sync()?));
        (state.metrics_bytes, state.episodes_bytes) = ranks.agree("the logs", synced())?;
        let write_model = |at: &Path| base::save_among(dev, &l.weights, &l.optimizer, &setup.base.chat, at);
        let (keep, toml) = (setup.config.run.keep, setup.config.to_toml(true));
        let at = checkpoint::save(run, keep, dev, &l.optimizer, state.clone(), &toml, write_model)?;
        if ranks.is_first() {
            events(Event::Saved(&at));
        }
        Ok(())
    }
}

/// True when two read one copy.
fn is_same(a: Option<&Arc<Weights>>, b: Option<&Arc<Weights>>) -> bool {
    a.zip(b).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
}

/// Indices of a step's products: an endless row of shuffles of all `n`, cut into steps. A function of its arguments.
fn order(seed: u64, step: u64, per_step: usize, n: usize) -> Vec<usize> {
    let mut epoch: Option<(u64, Vec<usize>)> = None;
    let first = (step - 1) * per_step as u64;
    let at = |place: u64| -> usize {
        let which = place / n as u64;
        if epoch.as_ref().is_none_or(|e| e.0 != which) {
            epoch = Some((which, Noise::new(seed, ORDER).child(which).shuffled(n)));
        }
        epoch.as_ref().map_or(0, |e| e.1[(place % n as u64) as usize])
    };
    (first..first + per_step as u64).map(at).collect()
}

/// The episodes to learn from; without constant groups when the config says so.
fn samples<'a>(transcripts: &[&'a Transcript], credited: &'a Credited, config: &Config) -> Vec<Sample<'a>> {
    let (group, skip_constant) = (config.rollout.group_size, config.grpo.skip_constant_groups);
    let Credited { advantage, per_token, left_out, .. } = credited;
    let own = |i: usize| per_token.get(i).map_or(&[][..], |each| each);
    let moves = |i: usize| advantage[i] != 0.0 || own(i).iter().any(|a| *a != 0.0);
    let teaches = |i: usize| (i / group * group..i / group * group + group).any(moves);
    let counts = |i: usize| left_out.get(i) != Some(&true) && (!skip_constant || teaches(i));
    let chosen = transcripts.iter().enumerate().filter(|(i, _)| counts(*i));
    let sample = |i, transcript| Sample { transcript, advantage: advantage[i], per_token: own(i), group: i / group };
    chosen.map(|(i, transcript)| sample(i, *transcript)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_comes_once_an_epoch_and_a_step_is_a_function_of_its_number() {
        let steps: Vec<usize> = (1..=7).flat_map(|s| order(3, s, 4, 14)).collect();
        for epoch in steps.chunks(14) {
            let mut sorted = epoch.to_vec();
            sorted.sort();
            assert_eq!(sorted, (0..14).collect::<Vec<_>>());
        }
        assert_ne!(steps[..14], steps[14..]);
        assert_eq!(order(3, 5, 4, 14), steps[16..20]);
        assert_eq!(order(3, 1, 5, 2).len(), 5);
    }
}
