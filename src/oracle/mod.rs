//! The oracle: what every op computes, in plain f64 loops. The specification of `ops`, and what tests hold it to.
//!
//! One file a family, one function an op, under the op's own stem; arguments in the op's order, outputs returned, a
//! gradient that the op adds to (`+=`) returned alone. Nothing here is fast, blocked or parallel, and nothing outside
//! of tests calls it. Backward functions are held to central differences of the forward ones.

pub mod attn;
pub mod credit;
pub mod embed;
pub mod gemm;
pub mod logprob;
pub mod loss;
pub mod norm;
pub mod optim;
pub mod rope;
pub mod sample;
pub mod swiglu;

#[cfg(test)]
mod differences;
