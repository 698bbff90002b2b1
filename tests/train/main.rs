//! Training: what is learned, what is lost when it is killed, what is refused.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod disk;
mod guided;
mod guided_rollout;
mod kill;
mod learner;
mod memory;
mod rl;
mod rollout;
mod sft;
