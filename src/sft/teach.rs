//! Teaching a base the format of a set task, from demonstrations that choose at random.
//!
//! The one idea: a base that has never seen the format cannot be rewarded for it, so it imitates a scripted player that knows
//! the format and little else; what to choose is left to training. `haggle init --task` makes such a base once for many
//! runs; a run that teaches its own keeps it in its directory, so that it is taught once however often it is resumed.

use super::dialogues::Sequence;
use super::trainer::{Among, Supervision, Trainer};
use crate::config::Config;
use crate::config::paths::spelled;
use crate::device::Device;
use crate::dist::{Ranks, Shard};
use crate::error::{Error, Result};
use crate::model::{Plan, Weights};
use crate::negotiate::Side;
use crate::noise::Noise;
use crate::setup::Setup;
use crate::setup::base::{self, Base};
use crate::setup::{lora, memory};
use crate::tasks::{self, Task};
use crate::text::Transcript;
use crate::train::optimizer::{Hyper, Schedule};
use crate::train::rl;
use std::path::Path;

/// The stream of demonstrations below the run's seed.
const DEMONSTRATIONS: u64 = 5;
/// Where a run keeps the base it taught: a Hugging Face folder.
pub const TAUGHT: &str = "taught";

/// Teaches the base of a run its task's format, when it has one and the config asks for it, and keeps the taught base in the
/// run directory; a run that is resumed takes what it kept. `progress` hears tokens learned, and of how many.
///
/// # Errors
/// As [`teach`]; a taught base that cannot be read or written.
pub fn prepare(setup: &mut Setup, run: &Path, resume: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let tokens = setup.config.task.supervised_tokens as u64;
    let task = tasks::named(&setup.config.task.name)?;
    if tokens == 0 || !task.teaches() {
        return Ok(());
    }
    let (kept, unfinished) = (run.join(TAUGHT), run.join(format!("{TAUGHT}.unfinished")));
    if setup.ranks.any("the taught base", resume && kept.is_dir())? {
        setup.replace_base(base::open_beside(&setup.dev, &spelled(&kept), &setup.config, &[&setup.base])?);
        return Ok(());
    }
    teach(setup, &*task, tokens, progress)?;
    // Ranks have learned together; one keeps what all have.
    let keep = || {
        base::save(&setup.dev, &setup.base.weights, &setup.base.chat, &unfinished)?;
        std::fs::rename(&unfinished, &kept).map_err(|e| Error::io(&kept, format!("cannot rename: {e}")))
    };
    setup.ranks.agree("the taught base", if setup.ranks.is_first() { keep() } else { Ok(()) })
}

/// Removes the base that a run taught: it begins again under another config.
///
/// # Errors
/// [`Error::Io`] when it cannot be removed.
pub fn forget(run: &Path) -> Result<()> {
    let kept = run.join(TAUGHT);
    match std::fs::remove_dir_all(&kept) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&kept, format!("cannot remove: {e}"))),
        _ => Ok(()),
    }
}

/// What teaching a config's base holds, beside its frozen seller; its evaluation holds less.
///
/// # Errors
/// What is wrong with the models' shapes.
pub fn planned(config: &Config, plan: &mut Plan) -> Result<()> {
    planned_on(&Ranks::alone(), config, plan)
}

/// The same at one of several ranks.
///
/// # Errors
/// As [`planned`].
pub fn planned_on(ranks: &Ranks, config: &Config, plan: &mut Plan) -> Result<()> {
    let mut held = vec![];
    let base = base::plan_frozen(plan, "base", &config.model.base, config, &mut held)?;
    if base::shapes(config)?.1.is_some() && !base::is_its_own_seller(config) {
        base::plan_frozen(plan, "frozen seller", base::seller_name(config), config, &mut held)?;
    }
    // What is taught is read in f32 too: every rank keeps all of it.
    let weights = lora::trained(plan, config, &base, (&Ranks::alone(), Shard::Moments))?;
    let how = supervision(config.seed, 1, &weights);
    Trainer::planned_among(plan, weights, how, 1, among(config, ranks)).map(drop)
}

/// `Ok`, with the plan of this rank's training, when what is free is enough for it, and for the demonstrations before it.
///
/// # Errors
/// As [`memory::fit`].
pub fn fits(dev: &Device, config: &Config, ranks: &Ranks) -> Result<Plan> {
    if config.task.supervised_tokens > 0 && tasks::named(&config.task.name)?.teaches() {
        memory::fit_beside(dev, config, &|config, plan| planned_on(ranks, config, plan), ranks.local_world())?;
    }
    memory::fit_beside(dev, config, &|config, plan| rl::planned_on(ranks, config, plan), ranks.local_world())
}

/// Who learns demonstrations: a batch is dealt into lanes, which ranks share.
fn among(config: &Config, ranks: &Ranks) -> Among {
    Among { lanes: config.dist.lanes, ranks: ranks.clone(), shard: Shard::Moments }
}

/// How demonstrations are learned.
fn supervision(seed: u64, tokens: u64, weights: &Weights) -> Supervision {
    let optim = Hyper { lr: 1e-3, beta2: 0.98, warmup_steps: 10, schedule: Schedule::Cosine, ..Hyper::default() };
    let micro_tokens = weights.config.max_position_embeddings.max(3_072);
    Supervision { seed, tokens, micro_tokens, optim, ..Supervision::default() }
}

/// Teaches the base of a setup on about `tokens` tokens of demonstrations; a function of config and base alone. All ranks come to
/// it together.
///
/// # Errors
/// As [`Trainer::run_on`]; [`Error::Config`] for a task that has no format to teach.
pub fn teach(setup: &mut Setup, task: &dyn Task, tokens: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let (plan, alone) = (&mut Plan::on(&setup.dev), (&Ranks::alone(), Shard::Moments));
    let mut weights = lora::trained(plan, &setup.config, &setup.base.weights, alone)?;
    lora::begin(&setup.dev, &mut weights, &setup.base)?;
    let seed = setup.config.seed;
    let how = supervision(seed, tokens, &weights);
    let mut trainer = Trainer::among(&setup.dev, weights, how, among(&setup.config, &setup.ranks))?;
    let noise = Noise::new(seed, DEMONSTRATIONS);
    let shared = &*setup;
    trainer.run_on(
        |index| Ok(vec![demonstration(shared, task, noise.child(index))?]),
        |row, _| {
            progress(row.tokens.min(tokens), tokens);
            Ok(true)
        },
    )?;
    let weights = trainer.into_weights()?;
    setup.replace_base(Base { weights, chat: setup.base.chat.clone(), root: setup.base.root.clone() });
    setup.base.weights.pack(&setup.dev)
}

/// One demonstration of a task as a training sequence.
///
/// # Errors
/// As [`Transcript::new`]; [`Error::Config`] for a task that has no format to teach.
pub fn demonstration(setup: &Setup, task: &dyn Task, noise: Noise) -> Result<Sequence> {
    let chat = &setup.base.chat;
    let no_format = || Error::Config { problems: vec!["task.name: the task has no format to teach".into()] };
    let (prompt, reply) = task.demonstration(setup, noise)?.ok_or_else(no_format)?;
    let mut transcript = Transcript::new(chat, &prompt.system)?;
    transcript.push_incoming(chat, &prompt.incoming)?;
    let mut reply = chat.tokenizer.encode(&reply)?;
    reply.push(chat.end());
    transcript.push_sampled(&reply, &vec![0.0; reply.len()]);
    // What is longer than the context is learned as far as it goes.
    let n = transcript.len().min(setup.base.weights.config.max_position_embeddings);
    let own = transcript.sampled()[..n].to_vec();
    let weight = own.iter().map(|own| if *own { 1.0 } else { 0.0 }).collect();
    Ok(Sequence { side: Side::Buyer, ids: transcript.ids()[..n].to_vec(), own, weight, imitated: true })
}
