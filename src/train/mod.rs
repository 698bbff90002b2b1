//! Training: rollout, credit, loss, backward, update; and what a run leaves on disk.

pub mod base;
pub mod checkpoint;
pub mod credit;
pub mod dialogues;
pub mod eval;
pub mod learner;
pub mod memory;
pub mod menu_rollout;
pub mod metrics;
pub mod optimizer;
pub mod probe;
pub mod rl;
pub mod rollout;
pub mod run_dir;
pub mod set_rollout;
pub mod set_steps;
pub mod sets;
pub mod setup;
pub mod sft;
pub mod teach;
pub mod tensorboard;
