//! Training: rollout, credit, loss, backward, update; and what a run leaves on disk.

pub mod optimizer;
pub mod tensorboard;
