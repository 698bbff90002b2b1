//! Whether every product's prompts leave the models room to speak, found before a run begins.
//!
//! The one idea: what a model is told first has a length that is known; with a whole reply behind it, it must fit the model's
//! context. What grows later, turn by turn, is cut at the limit and counted (`rollout/context_full`).

use super::{Prompt, Task, named};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::negotiate::Product;
use crate::rollout::Episode;
use crate::setup::Setup;
use crate::setup::base::Base;
use crate::text::{Chat, Transcript};
use std::sync::Arc;

/// What a model is told first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its seat.
    pub seat: usize,
    /// What the seat is called.
    pub name: &'static str,
    /// What it is told.
    pub prompt: Prompt,
}

impl Told {
    /// What a seat is told where an episode stands.
    pub fn of(episode: &dyn Episode, seat: usize) -> Told {
        let prompt = Prompt { system: episode.system_prompt(seat), incoming: episode.view(seat) };
        Told { seat, name: episode.seat_name(seat), prompt }
    }

    /// The same of the seat that speaks next.
    pub fn next(episode: &dyn Episode) -> Option<Told> {
        episode.next_seat().map(|seat| Told::of(episode, seat))
    }
}

/// Refuses a run over products that its models have no room for.
///
/// # Errors
/// As [`fit`].
pub fn fit_run(setup: &Setup) -> Result<()> {
    let mut task = named(&setup.config.task.name)?;
    fit(setup, &mut *task, &[&setup.base], true, &[&setup.train, &setup.held_out])
}

/// Refuses a task over products whose prompts do not fit `learners` or, where one plays, the frozen model; what a server has room for is not known.
///
/// # Errors
/// [`Error::Config`] naming the first of them, how many more there are, and what can be done.
pub fn fit(
    setup: &Setup,
    task: &mut dyn Task,
    learners: &[&Base],
    frozen_plays: bool,
    products: &[&[Arc<Product>]],
) -> Result<()> {
    let (learner, own, reply) =
        (task.learner(), task.sampling(setup).max_new_tokens, setup.config.rollout.max_reply_tokens);
    let mut problems = Vec::new();
    for product in products.iter().copied().flatten() {
        for Told { seat, name, prompt } in task.first_told(setup, product)? {
            let (models, room) = match seat == learner {
                true => (learners.to_vec(), own),
                // The other side's first words come on top.
                false => (setup.seller_model().into_iter().filter(|_| frozen_plays).collect(), 2 * reply),
            };
            for base in models {
                if let Err(why) = fits(&base.chat, &base.weights.config, &prompt, room)? {
                    problems.push(format!("the {name}'s prompt for {} does not fit: {why}", product.code));
                }
            }
        }
    }
    let Some(first) = problems.first() else { return Ok(()) };
    let more = if problems.len() > 1 { format!(" (and {} more)", problems.len() - 1) } else { String::new() };
    let what = format!(
        "{first}{more}; lower rollout.max_reply_tokens, set game.prompt_style=compact, take a model with a longer context, or \
         leave such products out"
    );
    Err(Error::Config { problems: vec![what] })
}

/// Whether a prompt and `room` tokens behind it fit a model's context; why not.
///
/// # Errors
/// As [`Transcript::new`].
pub fn fits(chat: &Chat, model: &ModelConfig, prompt: &Prompt, room: usize) -> Result<std::result::Result<(), String>> {
    let mut transcript = Transcript::new(chat, &prompt.system)?;
    transcript.push_incoming(chat, &prompt.incoming)?;
    let (n, context) = (transcript.len(), model.max_position_embeddings);
    Ok(if n.saturating_add(room) <= context {
        Ok(())
    } else {
        Err(format!("{n} tokens, and {room} for replies, in a context of {context} (max_position_embeddings)"))
    })
}
