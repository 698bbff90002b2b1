//! Tasks whose reply is a set: K candidates in one reply, each checked by rule, the set worth what its credit says.
//!
//! The one idea: a task is a prompt, a rule that scores one candidate, and demonstrations of the format. No device, no
//! model. The format is the same in all: thinking, then lines `1) ...`, `2) ...`, each a candidate.

pub mod credit;

pub mod reply;
pub mod rollout;
pub mod table;

use crate::noise::Noise;

/// A task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// K drafts of the buyer's next reply, each played on against the seller.
    Menu,
    /// K products for a shopper whose needs are partly told.
    Recommend,
    /// K one-line pitches of a product.
    Summary,
}

impl Task {
    /// The task of a config's name; `None` for the game, whose replies are no sets.
    pub fn named(name: &str) -> Option<Task> {
        match name {
            "menu" => Some(Task::Menu),
            "recommend" => Some(Task::Recommend),
            "summary" => Some(Task::Summary),
            _ => None,
        }
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

/// What one candidate is worth by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Its utility.
    pub utility: f64,
    /// The needs or facts it meets, as bits.
    pub covers: u64,
}

/// A reply in the format: the thought, then the candidates, numbered from 1.
pub fn render(thought: &str, candidates: &[String]) -> String {
    let line = |(i, text): (usize, &String)| format!("\n{}) {text}", i + 1);
    format!("Thought: {thought}") + &candidates.iter().enumerate().map(line).collect::<String>()
}

/// One of a list.
pub(crate) fn pick<T>(noise: Noise, counter: u64, from: &[T]) -> &T {
    &from[noise.below(counter, from.len())]
}
