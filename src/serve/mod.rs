//! The server: what a model says, over HTTP, as OpenAI's clients ask for it.
//!
//! The one idea: one thread owns the device and the engine ([`work`]), and whoever asks is a sequence among others in its
//! continuous batch; connections wait beside it and never touch a tensor. An answer is the one that `haggle generate` gives for
//! the same prompt, sampling and seed, to the bit, whatever else is being served: the row rule carries it. What a request asks
//! for and we do not compute is refused by its name, never passed over.

mod answer;
mod asked;
mod collector;
mod connections;
pub mod deal;
mod fields;
mod http;
mod keys;
mod metrics;
mod openai;
mod progress;
mod prompt;
mod rates;
mod refusal;
mod reload;
mod sure;
mod tools;
mod traces;
mod worker;

pub use collector::Collector;
pub use http::{Limits, listen};
pub use keys::Keys;
pub use metrics::Metrics;
pub use progress::Progress;
pub use reload::{Loader, Reloads};
pub use traces::Traces;
pub use worker::{Bench, work};

use crate::generate::Defaults;
use crate::guide::Schemas;
use crate::text::Prompts;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// What connections know of the model.
pub struct Model {
    /// Its name in requests.
    pub name: String,
    /// Tokenizer and template.
    pub prompts: Prompts,
    /// What its folder says of sampling.
    pub defaults: Defaults,
    /// Tokens that end an answer.
    pub ends: Vec<i32>,
    /// Positions of a sequence.
    pub context: usize,
    /// Ids of prompts lie below this.
    pub vocab: usize,
    /// Answers it computes at a time.
    pub seats: usize,
    /// What the page offers to bargain over, as JSON: both sides' numbers too, for whoever plays one of them.
    pub products: serde_json::Value,
    /// What holds answers to schemas, or why it cannot.
    pub schemas: Result<Schemas, String>,
    /// What negotiates, or why it cannot.
    pub negotiator: Result<deal::Negotiator, String>,
}

/// What every connection shares.
#[derive(Clone)]
struct Shared {
    model: Arc<Model>,
    orders: SyncSender<worker::Order>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    traces: Traces,
    reloads: Arc<Reloads>,
    keys: Arc<Keys>,
    rates: Arc<rates::Rates>,
    limits: Limits,
}
