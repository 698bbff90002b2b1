//! The algorithm: a step of GRPO, the learner, its optimizer.

pub mod learner;
pub mod optimizer;
pub mod rl;
