//! The algorithm: a step of GRPO, the learner, its optimizer. It knows no task.

pub mod branches;
mod dealt;
pub mod held_out;
pub mod learned;
pub mod learner;
pub mod learning;
pub mod optimizer;
pub mod rl;
pub mod rounds;
mod row;
pub mod samples;
pub mod sums;
