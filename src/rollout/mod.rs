//! Rollouts: many episodes at once, each side a model or a script.

mod play;

pub use play::*;
