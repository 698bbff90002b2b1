//! Teaching a base the format of a set task, from demonstrations that choose at random.
//!
//! The one idea: a base that has never seen the format cannot be rewarded for it, so it imitates a scripted player that knows
//! the format and little else; what to choose is left to training. `haggle init --task` makes such a base once for many
//! runs; a run that teaches its own keeps it in its directory, so that it is taught once however often it is resumed.

use crate::error::{Error, Result};
use crate::model::Weights;
use crate::negotiate::Side;
use crate::noise::Noise;
use crate::run::checkpoint;
use crate::setup::base;
use crate::setup::{BASE_VERSION, Setup};
use crate::sft::dialogues::Sequence;
use crate::sft::trainer::{self, Supervision};
use crate::tasks::sets::credit::{self, Case};
use crate::tasks::sets::{Task, render};
use crate::text::Transcript;
use crate::train::optimizer::{Hyper, Schedule};
use crate::train::rl::Event;
use std::path::Path;

/// The stream of demonstrations below the run's seed.
const DEMONSTRATIONS: u64 = 5;
/// Where a run keeps the base it taught: a Hugging Face folder.
pub const TAUGHT: &str = "taught";

/// Teaches the base of a run its task when the config asks for it; nothing for the game. A run that is resumed from a
/// checkpoint takes the base it taught before.
///
/// # Errors
/// As [`teach`]; a taught base that cannot be read.
pub fn prepare(setup: &mut Setup, run: &Path, resume: bool, events: &mut dyn FnMut(Event)) -> Result<()> {
    let tokens = setup.config.task.supervised_tokens as u64;
    let Some(task) = Task::named(&setup.config.task.name).filter(|_| tokens > 0) else { return Ok(()) };
    let kept = run.join(TAUGHT);
    if resume && kept.is_dir() && checkpoint::latest(run)?.is_some() {
        setup.base = base::open(&setup.dev, &kept.display().to_string(), setup.config.compute())?;
        setup.base.weights.version = BASE_VERSION;
        return setup.base.weights.pack(&setup.dev);
    }
    teach(setup, task, tokens, events)
}

/// Keeps the taught base in the run directory; nothing when the run taught none or has it already.
///
/// # Errors
/// What the disk says.
pub fn keep(setup: &Setup, run: &Path) -> Result<()> {
    let task = &setup.config.task;
    if Task::named(&task.name).is_none() || task.supervised_tokens == 0 || run.join(TAUGHT).is_dir() {
        return Ok(());
    }
    let (whole, unfinished) = (run.join(TAUGHT), run.join(format!("{TAUGHT}.unfinished")));
    base::save(&setup.dev, &setup.base.weights, &setup.base.chat, &unfinished)?;
    std::fs::rename(&unfinished, &whole).map_err(|e| Error::io(&whole, format!("cannot rename: {e}")))
}

/// Teaches the base of a setup on about `tokens` tokens of demonstrations; a function of config and base alone.
///
/// # Errors
/// As [`trainer::Trainer::run`].
pub fn teach(setup: &mut Setup, task: Task, tokens: u64, events: &mut dyn FnMut(Event)) -> Result<()> {
    let mut weights = Weights::zeros(&setup.dev, setup.base.weights.config.clone())?;
    weights.copy_from(&setup.dev, &setup.base.weights)?;
    let context = weights.config.max_position_embeddings;
    let optim = Hyper { lr: 1e-3, beta2: 0.98, warmup_steps: 10, schedule: Schedule::Cosine, ..Hyper::default() };
    let seed = setup.config.seed;
    let how = Supervision { seed, tokens, micro_tokens: context.max(3_072), optim, ..Supervision::default() };
    let mut trainer = trainer::Trainer::of(&setup.dev, weights, how)?;
    let noise = Noise::new(seed, DEMONSTRATIONS);
    let shared = &*setup;
    trainer.run_on(
        |index| Ok(vec![demonstration(shared, task, noise.child(index))?]),
        |row, _| {
            events(Event::Supervised { done: row.tokens.min(tokens), of: tokens });
            Ok(true)
        },
    )?;
    setup.base.weights = trainer.weights;
    setup.base.weights.version = BASE_VERSION;
    setup.base.weights.pack(&setup.dev)
}

/// One demonstration as a training sequence.
///
/// # Errors
/// As [`Transcript::new`].
pub fn demonstration(setup: &Setup, task: Task, noise: Noise) -> Result<Sequence> {
    let (chat, k) = (&setup.base.chat, setup.config.task.candidates);
    let product = &setup.train[noise.below(0, setup.train.len())];
    let case = match task {
        Task::Menu => credit::scripted_menu(product, setup, noise.child(1)),
        _ => Case::new(task, product, setup, noise.child(1)),
    };
    let (prompt, (thought, candidates)) = (case.prompt(k), case.demonstration(k, noise.child(2)));
    let mut transcript = Transcript::new(chat, &prompt.system)?;
    transcript.push_incoming(chat, &prompt.incoming)?;
    let mut reply = chat.tokenizer.encode(&render(&thought, &candidates))?;
    reply.push(chat.end());
    transcript.push_sampled(&reply, &vec![0.0; reply.len()]);
    let own = transcript.sampled().to_vec();
    let weight = own.iter().map(|own| if *own { 1.0 } else { 0.0 }).collect();
    Ok(Sequence { side: Side::Buyer, ids: transcript.ids().to_vec(), own, weight, imitated: true })
}
