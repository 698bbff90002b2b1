//! What lies on disk: the run directory, its checkpoints, its rows of metrics, TensorBoard's events.

pub mod barren;
pub mod checkpoint;
pub mod logs;
pub mod metrics;
mod moments;
pub mod run_dir;
pub mod tensorboard;
