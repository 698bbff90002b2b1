//! Training: rollout, credit, loss, backward, update; and what a run leaves on disk.

pub mod checkpoint;
pub mod dialogues;
pub mod optimizer;
pub mod probe;
pub mod run_dir;
pub mod sft;
pub mod tensorboard;
