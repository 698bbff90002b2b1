//! Inference: paged key/value memory, prefix reuse, continuous batching, sampling.
//!
//! Way in: [`Engine`]. The same engine plays the rollouts of training and answers in serving.

mod batch;
mod engine;
mod graphs;
mod lean;
mod likeliest;
mod pages;
mod prefix;
mod sampling_rows;
mod schedule;
mod seq;
mod sizes;
mod slate;
mod stats;

pub use engine::Engine;
pub use graphs::bucket;
pub use lean::{Lean, MOST_BIASES};
pub use likeliest::Told;
pub use pages::Pages;
pub use prefix::{Hit, Prefix};
pub use seq::{NoiseKey, Sampling, SeqId, Turn};
pub use sizes::EngineConfig;
pub use stats::Stats;
