//! GRPO, end to end: rollout -> credit -> loss -> backward -> update, again and again, with nothing lost on the way.
//!
//! The one idea: [`Trainer::step`] is the algorithm on one screen, and a function of (config, weights, moments, step)
//! alone; so a run that was killed goes on to the same bits. Everything slow says so through [`Event`]s; nothing prints.
//!
//! Source: Shao et al. 2024, arXiv:2402.03300 (GRPO); Liu et al. 2026, arXiv:2604.09855 (the game).

use crate::config::Config;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval::{self, Report};
use crate::infer::Engine;
use crate::model::plan::PlanRow;
use crate::model::{ModelConfig, Plan, Weights};
use crate::negotiate::metrics::EpisodeFacts;
use crate::negotiate::{Persona, Product};
use crate::noise::Noise;
use crate::ops::want;
use crate::rollout::{self, Job, Played, Player, Rollout, Voice};
use crate::run::checkpoint::{self, State};
use crate::run::metrics::{self, EpisodeLine, Metrics, StepFacts};
use crate::run::run_dir::{Log, RunDir};
use crate::setup::base;
use crate::setup::memory;
use crate::setup::{Setup, engine_config};
use crate::sft::teach;
use crate::tasks::game::credit::{self, Credited};
use crate::tasks::sets::Task;
use crate::tasks::sets::table;
use crate::text::Transcript;
use crate::train::learner::{self, Learner, Learning, Sample};
use crate::train::optimizer::{Hyper, Optimizer};
use std::path::{Path, PathBuf};
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
    /// A step is done; its row of metrics.
    Step(&'a Metrics),
    /// A checkpoint is on disk.
    Saved(&'a Path),
    /// Episodes of the final evaluation have ended.
    Evaluation {
        /// The buyer.
        buyer: &'a str,
        /// The seller.
        seller: &'a str,
        /// Episodes ended.
        done: usize,
        /// Episodes of this pair.
        of: usize,
    },
}

/// How a run ended.
pub struct Finished {
    /// The run directory.
    pub run: PathBuf,
    /// Steps done.
    pub step: u64,
    /// The final table; `None` when it was interrupted, and then it can be resumed.
    pub report: Option<Report>,
}

/// Streams of noise below the run's seed.
const ORDER: u64 = 1;
const ROLLOUT: u64 = 2;
const RESAMPLE: u64 = 4;

/// Trains as a config says, in the run directory `run`, and evaluates at the end. `resume` continues a run from its
/// latest checkpoint (from its beginning when it has none); `stop`, once true, saves and ends the run after the present
/// step.
///
/// # Errors
/// Everything that can go wrong, by name; the last checkpoint is whole whatever happens.
pub fn run(
    config: &Config,
    run: &Path,
    resume: bool,
    stop: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<Finished> {
    // Before anything is read: a device it does not fit is found in an instant.
    let dev = config.open_device()?;
    memory::fit(&dev, config, &memory::of_training)?;
    let mut setup = Setup::open_on(dev, config)?;
    teach::prepare(&mut setup, run, resume, events)?;
    let (mut trainer, plan) = Trainer::new(&setup)?;
    let toml = config.to_toml(true);
    let dir = if resume { RunDir::reopen(run)? } else { RunDir::create(run, &toml)? };
    let mut state = trainer.restore(&setup, dir.path(), resume)?;
    teach::keep(&setup, dir.path())?;
    let mut metrics = dir.log("metrics.jsonl", state.metrics_bytes)?;
    let mut episodes = dir.log("episodes.jsonl", state.episodes_bytes)?;
    let steps = config.grpo.steps as u64;
    events(Event::Ready { run: dir.path(), plan: &plan, step: state.step, steps });
    while state.step < steps {
        let stopping = stop.load(Ordering::Relaxed);
        if !stopping {
            let row = trainer.step(&setup, state.step + 1, &mut episodes, events)?;
            metrics.append(&row)?;
            state.step += 1;
            events(Event::Step(&row));
        }
        let due = state.step.is_multiple_of(config.run.checkpoint_every as u64) || state.step == steps;
        if due || stopping {
            trainer.save(&setup, dir.path(), &toml, &mut state, &mut metrics, &mut episodes, events)?;
        }
        if stopping {
            return Ok(Finished { run: dir.path().into(), step: state.step, report: None });
        }
    }
    let weights = trainer.into_weights();
    if let Some(task) = Task::named(&config.task.name) {
        table::evaluate(&setup, task, &weights, dir.path())?;
        return Ok(Finished { run: dir.path().into(), step: state.step, report: Some(Report::default()) });
    }
    let report = eval::after_training(&setup, &weights, &mut |buyer, seller, done, of| {
        events(Event::Evaluation { buyer, seller, done, of })
    })?;
    report.write(dir.path())?;
    Ok(Finished { run: dir.path().into(), step: state.step, report: Some(report) })
}

/// Every buffer a run would allocate.
///
/// # Errors
/// What is wrong with the device or the models' shapes.
pub fn plan(config: &Config) -> Result<Plan> {
    let mut plan = Plan::dry(&config.open_device()?);
    memory::of_training(config, &mut plan)?;
    Ok(plan)
}

/// The learner, and the two engines that play.
pub struct Trainer {
    /// The trained weights, their optimizer, and the buffers of an update.
    pub learner: Learner,
    pub(crate) buyer: Engine,
    pub(crate) seller: Engine,
}

impl Trainer {
    /// A trainer at step 0, and the plan of its buffers.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is zero, [`Error::Memory`].
    pub fn new(setup: &Setup) -> Result<(Trainer, Plan)> {
        let mut plan = Plan::on(&setup.dev);
        let (base, seller) = (&setup.base.weights, &setup.seller.weights);
        for (name, weights) in [("reference", base), ("frozen seller", seller)] {
            plan.rows.push(PlanRow { group: "weights", name: name.into(), bytes: weights.size_bytes() });
        }
        let shapes = [base.config.clone(), seller.config.clone()];
        let mut trainer = Trainer::planned(&mut plan, &setup.config, shapes, setup.hyper(), setup.learning())?;
        trainer.learner.weights.copy_from(&setup.dev, base)?;
        Ok((trainer, plan))
    }

    /// A trainer of zeros through a plan, for a base and a seller of these shapes.
    pub(crate) fn planned(
        plan: &mut Plan,
        config: &Config,
        [base, seller]: [ModelConfig; 2],
        hyper: Hyper,
        how: Learning,
    ) -> Result<Trainer> {
        let weights = Weights::planned(plan, "trained", base.clone())?;
        let updates = config.grpo.steps * config.grpo.optimizer_steps_per_batch;
        let optimizer = Optimizer::planned(plan, learner::parts(&weights), hyper, updates as u64)?;
        let buyer = Engine::planned(plan, &base, engine_config(config, &base))?;
        let seller = Engine::planned(plan, &seller, engine_config(config, &seller))?;
        let learner = Learner::planned(plan, weights, optimizer, how)?;
        Ok(Trainer { learner, buyer, seller })
    }

    /// One step of GRPO; appends the step's episodes to their log and returns its row of metrics.
    ///
    /// # Errors
    /// [`Error::Training`] when too many updates in a row were not finite; what the ops and the disk say.
    pub fn step(&mut self, setup: &Setup, step: u64, log: &mut Log, events: &mut dyn FnMut(Event)) -> Result<Metrics> {
        if let Some(task) = Task::named(&setup.config.task.name) {
            return self.step_sets(setup, task, step, log);
        }
        let began = Instant::now();
        let (grpo, group) = (&setup.config.grpo, setup.config.rollout.group_size);
        let jobs = jobs(setup, step);
        let mut hear = |done| events(Event::Rollout { step, done, of: jobs.len() });
        let mut rollout = self.rollout(setup, &jobs, &mut hear)?;
        self.resample(setup, step, &mut rollout)?;
        let facts: Vec<EpisodeFacts> = rollout.played.iter().map(|p| EpisodeFacts::of(&p.episode)).collect();
        let kl = self.kl_in_reward(setup, &rollout.played)?;
        let credited = credit::credit(&setup.config, &rollout.played, &facts, &kl);
        let transcripts: Vec<&Transcript> = rollout.played.iter().filter_map(|p| p.buyer.as_ref()).collect();
        let samples = samples(&transcripts, &credited, group, grpo.skip_constant_groups);
        let with_kl = grpo.kl > 0.0 && kl.is_empty();
        let learned = self.learner.learn(&samples, with_kl.then_some(&setup.base.weights))?;
        setup.dev.wait()?;
        let Credited { advantage, constant_groups, .. } = credited;
        for (i, (played, advantage)) in rollout.played.iter().zip(&advantage).enumerate() {
            log.append(&EpisodeLine::new(step, i, group, played, *advantage))?;
        }
        let skipped_total = self.learner.optimizer.skipped;
        let (rollout, facts, learned) = (&rollout, &facts[..], &learned);
        Ok(metrics::row(&StepFacts { step, rollout, facts, constant_groups, learned, skipped_total, with_kl, began }))
    }

    /// What the reference takes off each reward, when the config puts the KL there; else empty.
    fn kl_in_reward(&mut self, setup: &Setup, played: &[Played]) -> Result<Vec<f64>> {
        if setup.config.loss.kl_in != "reward" {
            return Ok(vec![]);
        }
        let transcripts: Vec<_> = played.iter().filter_map(|p| p.buyer.as_ref()).collect();
        self.learner.kl_to(&setup.base.weights, &transcripts)
    }

    /// Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2): groups whose rewards are all the same give way to groups of
    /// other products, at most `credit.resample_rounds` times.
    fn resample(&mut self, setup: &Setup, step: u64, rollout: &mut Rollout) -> Result<()> {
        let group = setup.config.rollout.group_size;
        for round in 0..setup.config.credit.resample_rounds as u64 {
            let reward = |p: &Played| EpisodeFacts::of(&p.episode).reward;
            let same = |g: &[Played]| g.iter().all(|p| reward(p) == reward(&g[0]));
            let constant = rollout.played.chunks(group).enumerate().filter(|(_, g)| same(g)).map(|(i, _)| i);
            let constant: Vec<usize> = constant.collect();
            if constant.is_empty() {
                return Ok(());
            }
            let again = self.rollout(setup, &other_jobs(setup, step, round, constant.len()), &mut |_| ())?;
            rollout.replace(&constant, group, again);
        }
        Ok(())
    }

    fn rollout(&mut self, setup: &Setup, jobs: &[Job], progress: &mut dyn FnMut(usize)) -> Result<Rollout> {
        let mut buyer = Player::Model(Voice {
            weights: &self.learner.weights,
            engine: &mut self.buyer,
            chat: &setup.base.chat,
            sampling: setup.buyer_sampling(&setup.base.chat),
        });
        let mut seller = Player::Model(Voice {
            weights: &setup.seller.weights,
            engine: &mut self.seller,
            chat: &setup.seller.chat,
            sampling: setup.seller_sampling(),
        });
        rollout::play(jobs, &mut buyer, &mut seller, jobs.len(), progress)
    }

    /// Puts a trainer where a run's latest checkpoint stands, or at step 0.
    fn restore(&mut self, setup: &Setup, run: &Path, resume: bool) -> Result<State> {
        let crcs = [base::crc(&setup.dev, &setup.base.weights)?, base::crc(&setup.dev, &setup.seller.weights)?];
        let Some(at) = checkpoint::latest(run)?.filter(|_| resume) else { return Ok(State::start(crcs)) };
        let state = checkpoint::open(&at)?;
        let (path, toml) = checkpoint::config_toml(&at)?;
        let theirs = Config::parse(&path.display().to_string(), &toml, &[])?;
        let mut problems: Vec<String> = setup.config.differences(&theirs);
        for (key, mine, saved) in [("model.base", crcs[0], state.base_crc), ("model.seller", crcs[1], state.seller_crc)]
        {
            if mine != saved {
                problems.push(format!("{key}: names other weights than those the run began with"));
            }
        }
        if !problems.is_empty() {
            let head = format!("{}: is a checkpoint of another config; resume with its own:", at.display());
            problems.insert(0, head);
            return Err(Error::Config { problems });
        }
        // Through the host: no second copy of the weights on the device.
        let host = Device::open("cpu", 1)?;
        let saved = Weights::load(&host, &at)?;
        let l = &mut self.learner;
        want("resume", "parameters of the checkpoint", saved.layout.len, l.weights.layout.len)?;
        setup.dev.write(l.weights.data_mut(), &host.download::<f32>(saved.data())?);
        l.weights.pack(&setup.dev)?;
        checkpoint::restore_optimizer(&at, &state, &setup.dev, &mut l.optimizer)?;
        Ok(state)
    }

    fn save(
        &self,
        setup: &Setup,
        run: &Path,
        toml: &str,
        state: &mut State,
        metrics: &mut Log,
        episodes: &mut Log,
        events: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let (l, dev) = (&self.learner, &setup.dev);
        state.metrics_bytes = metrics.sync()?;
        state.episodes_bytes = episodes.sync()?;
        state.note(&l.optimizer);
        let write_model = |at: &Path| base::save(dev, &l.weights, &setup.base.chat, at);
        let keep = setup.config.run.keep;
        let at = checkpoint::save(run, keep, dev, &l.optimizer, state.clone(), toml, write_model)?;
        events(Event::Saved(&at));
        Ok(())
    }

    /// The trained weights; the buffers are given back.
    pub fn into_weights(self) -> Weights {
        self.learner.weights
    }
}

/// The episodes of a step: its products, `group_size` rollouts each, groups first.
fn jobs(setup: &Setup, step: u64) -> Vec<Job> {
    let r = &setup.config.rollout;
    let noise = Noise::new(setup.config.seed, ROLLOUT).child(step);
    let chosen = order(setup.config.seed, step, r.products_per_step, setup.train.len());
    let job = |(slot, product): (usize, usize), g: usize| Job {
        product: setup.train[product].clone(),
        rules: setup.rules,
        persona: Persona::Neutral,
        noise: noise.child(slot as u64).child(g as u64),
    };
    chosen.into_iter().enumerate().flat_map(|p| (0..r.group_size).map(move |g| job(p, g))).collect()
}

/// Groups that stand in for `n` constant ones: any products, their own noise.
fn other_jobs(setup: &Setup, step: u64, round: u64, n: usize) -> Vec<Job> {
    let noise = Noise::new(setup.config.seed, RESAMPLE).child(step).child(round);
    let job = |slot: usize, g: usize| Job {
        product: setup.train[noise.below(slot as u64, setup.train.len())].clone(),
        rules: setup.rules,
        persona: Persona::Neutral,
        noise: noise.child(slot as u64).child(g as u64),
    };
    (0..n)
        .flat_map(|slot| (0..setup.config.rollout.group_size).map(move |g| (slot, g)))
        .map(|(s, g)| job(s, g))
        .collect()
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

/// The episodes to learn from; without constant groups when `skip_constant`.
pub(crate) fn samples<'a>(
    transcripts: &[&'a Transcript],
    credited: &'a Credited,
    group: usize,
    skip_constant: bool,
) -> Vec<Sample<'a>> {
    let Credited { advantage, per_token, .. } = credited;
    let own = |i: usize| per_token.get(i).map_or(&[][..], |each| each);
    let moves = |i: usize| advantage[i] != 0.0 || own(i).iter().any(|a| *a != 0.0);
    let teaches = |i: usize| (i / group * group..i / group * group + group).any(moves);
    let chosen = transcripts.iter().enumerate().filter(|(i, _)| !skip_constant || teaches(*i));
    chosen.map(|(i, transcript)| Sample { transcript, advantage: advantage[i], per_token: own(i) }).collect()
}

/// The products of a step, one a group.
pub(crate) fn products_of(setup: &Setup, step: u64) -> Vec<Arc<Product>> {
    let chosen = order(setup.config.seed, step, setup.config.rollout.products_per_step, setup.train.len());
    chosen.into_iter().map(|i| setup.train[i].clone()).collect()
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
