//! Tasks: what can be trained on, a folder each.
//!
//! The one idea: the trainer knows no game. A [`Task`] says what a step's episodes are, what each sampled token earned, its
//! row of metrics, its lines in `episodes.jsonl`, how its format is taught and how it is evaluated; the trainer plays, learns
//! and writes. A task's state is one draw: what is being played now.

pub mod credit;
mod fit;
pub mod game;
pub mod menu;
pub mod recommend;
pub mod sets;
pub mod summary;

use crate::error::{Error, Result};
use crate::eval::{Progress, Report};
use crate::infer::{Engine, Sampling};
use crate::model::Weights;
use crate::negotiate::Product;
use crate::noise::Noise;
use crate::rollout::{self, Episode, Job, Player, Rollout, Spoken, Voice};
use crate::run::metrics::Metrics;
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::text::{Chat, Transcript};
use credit::Credited;
pub use fit::{Told, fit, fit_run, fits};
use std::sync::Arc;

/// The task of a name.
///
/// # Errors
/// [`Error::Config`] naming those there are.
pub fn named(name: &str) -> Result<Box<dyn Task>> {
    Ok(match name {
        "game" => Box::new(game::Game::default()),
        "menu" => Box::new(menu::Menu::default()),
        "recommend" => Box::new(recommend::Recommend::default()),
        "summary" => Box::new(summary::Summary::default()),
        _ => {
            let known = crate::config::TASKS.join(", ");
            return Err(Error::Config { problems: vec![format!("task.name: no task `{name}`; use {known}")] });
        }
    })
}

/// What is drawn to be played together: groups of `rollouts` over one product each.
#[derive(Debug, Clone)]
pub struct Draw {
    /// The training step, from 1; 0 in evaluation.
    pub step: u64,
    /// A product a group.
    pub products: Vec<Arc<Product>>,
    /// Rollouts a group, G.
    pub rollouts: usize,
    /// The draw's noise.
    pub noise: Noise,
}

impl Default for Draw {
    fn default() -> Draw {
        Draw { step: 0, products: vec![], rollouts: 1, noise: Noise::new(0, 0) }
    }
}

/// What a model is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The system prompt.
    pub system: String,
    /// The message it answers.
    pub incoming: String,
}

/// A model that is evaluated.
#[derive(Clone, Copy)]
pub struct Entrant<'a> {
    /// The name of its rows.
    pub name: &'a str,
    /// Its weights.
    pub weights: &'a Weights,
    /// Its tokenizer and template.
    pub chat: &'a Chat,
    /// How it speaks in a game.
    pub speaks: Speaks,
}

/// How a model speaks in a game.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// A reply a turn.
    Replies,
    /// A menu of so many drafts a turn, one of which is played.
    Menus(usize),
}

/// Engines that are there already, as large as an evaluation's own.
pub struct Engines<'a> {
    /// The learner's.
    pub learner: &'a mut Engine,
    /// The frozen one's; none for a seller behind a server.
    pub frozen: &'a mut Option<Engine>,
}

/// Logprobs of each transcript's sampled tokens, under given weights or under those that learn.
pub type Logprobs<'a> = dyn FnMut(Option<&Weights>, &[&Transcript]) -> Result<Vec<Vec<f32>>> + 'a;

/// A task. Of its two seats one is the learning model's ([`Task::learner`]), the other the frozen one's.
pub trait Task: Sync {
    /// The stream of a step's noise below the run's seed.
    fn stream(&self) -> u64;

    /// The seat whose tokens are trained on, 0 or 1.
    fn learner(&self) -> usize {
        0
    }

    /// How the learner is sampled in training.
    fn sampling(&self, setup: &Setup) -> Sampling {
        setup.buyer_sampling(&setup.base.chat)
    }

    /// Begins a draw; what was played before is forgotten.
    ///
    /// # Errors
    /// What the game refuses.
    fn begin(&mut self, setup: &Setup, draw: Draw) -> Result<()>;

    /// What the models are told first of a product: by default, by the first wave. A task that can say more
    /// before it is played says it here, for what does not fit a model's context is refused before a run.
    ///
    /// # Errors
    /// What the game refuses.
    fn first_told(&mut self, setup: &Setup, product: &Arc<Product>) -> Result<Vec<Told>> {
        let noise = Noise::new(setup.config.seed, self.stream());
        self.begin(setup, Draw { products: vec![product.clone()], noise, ..Draw::default() })?;
        Ok(self.wave(setup).iter().filter_map(|job| Told::next(&*job.episode)).collect())
    }

    /// The episodes to be played next, all at once; none when the draw is played out.
    fn wave(&mut self, setup: &Setup) -> Vec<Job<'_, dyn Episode>>;

    /// Takes what the wave's episodes said, in its order.
    ///
    /// # Errors
    /// What the game and the tokenizer refuse.
    fn played(&mut self, setup: &Setup, spoken: Vec<Spoken>) -> Result<()>;

    /// The learner's tokens of the draw, groups first.
    fn transcripts(&self) -> Vec<&Transcript>;

    /// What each of them earned.
    ///
    /// # Errors
    /// What the ops refuse.
    fn credit(&mut self, setup: &Setup, logprobs: &mut Logprobs) -> Result<Credited>;

    /// The task's part of the step's row.
    fn row(&self, setup: &Setup, credited: &Credited) -> Metrics;

    /// Appends the lines of the draw to `episodes.jsonl`.
    ///
    /// # Errors
    /// What the disk says.
    fn log(&self, credited: &Credited, log: &mut Log) -> Result<()>;

    /// True when the task has demonstrations, which a base is taught before it trains.
    fn teaches(&self) -> bool {
        true
    }

    /// A demonstration of the task's format, its prompt and a reply; none when a base needs none.
    ///
    /// # Errors
    /// What the game refuses.
    fn demonstration(&self, setup: &Setup, noise: Noise) -> Result<Option<(Prompt, String)>>;

    /// Holds models beside each other and the task's baselines on the held-out products; the one that is to be beaten comes
    /// first.
    ///
    /// # Errors
    /// What the engines refuse: a prompt that does not fit the context, by the product's name.
    fn evaluate(&mut self, setup: &Setup, models: &[Entrant], progress: &mut Progress) -> Result<Report>;

    /// One model's rows of the same table, which are the same in any other table: evaluation during training. The task's draw
    /// is gone then.
    ///
    /// # Errors
    /// As [`Task::evaluate`].
    fn look(&mut self, setup: &Setup, model: Entrant, engines: Engines, progress: &mut Progress) -> Result<Report>;
}

/// Plays a draw out, wave by wave, the learner in its seat; `progress` hears how many episodes of a wave have ended, and of how
/// many. In the result's stats the learner comes first, wherever it sits.
///
/// # Errors
/// What the engines and the game refuse.
pub fn play<'a, T: Task + ?Sized>(
    setup: &Setup,
    task: &mut T,
    learner: Voice<'a>,
    frozen: Player<'a, dyn Episode>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rollout> {
    let mut all = Rollout::default();
    let mut players = [Player::Model(learner), frozen];
    players.rotate_right(task.learner());
    loop {
        let jobs = task.wave(setup);
        let n = jobs.len();
        if n == 0 {
            let seat = task.learner().min(all.stats.len());
            all.stats.rotate_left(seat);
            return Ok(all);
        }
        let (together, live) = (setup.config.rollout.group_size, setup.episodes_a_step());
        let hear = &mut |done| progress(done, n);
        let wave = rollout::play_dealt(&setup.ranks, together, jobs, &mut players, live, hear)?;
        all.add_cost(&wave);
        task.played(setup, wave.spoken)?;
    }
}

/// One of a list.
pub(crate) fn pick<T>(noise: Noise, counter: u64, from: &[T]) -> &T {
    &from[noise.below(counter, from.len())]
}
