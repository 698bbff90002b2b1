//! The oracle: what every op computes, in plain f64 loops. The specification of `ops`, and what tests hold it to.
//!
//! One file a family, one function an op, under the op's own stem; arguments in the op's order, outputs returned.
//! Nothing here is fast, blocked or parallel, and nothing outside of tests calls it.

pub mod attn;
