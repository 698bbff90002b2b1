//! The ops: each checks its shapes in its own letters, then runs on the device its buffers live on.
//!
//! An op allocates nothing, waits for nothing, logs nothing; its outputs are named buffers of the caller's.
//! Letters: see the crate's head. What each op computes is written in plain f64 loops in its family's `oracle.rs`.
//!
//! **The row rule.** On the path from token to logprob a row's bits depend on that row alone: not on how many
//! rows share the call, in which order, on which pages, from a cached or a fresh prefix, on how many threads.

pub mod attn;
pub mod cost;
pub mod credit;
pub mod embed;
pub mod gemm;
pub mod logprob;
pub mod loss;
pub mod noise;
pub mod norm;
pub mod optim;
pub mod rope;
pub mod sample;
pub mod swiglu;

#[cfg(test)]
mod differences;

use crate::error::{Error, Result};

/// `Ok` when a size is what the op's rule asks for.
pub(crate) fn want(op: &'static str, rule: &'static str, got: usize, want: usize) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::Shape { op, rule, want, got }) }
}

/// `Ok` when every index of a host slice lies in `0..n`.
pub(crate) fn below(op: &'static str, rule: &'static str, indices: &[i32], n: usize) -> Result<()> {
    match indices.iter().find(|i| **i < 0 || **i as usize >= n) {
        Some(i) => Err(Error::Shape { op, rule, want: n, got: *i as usize }),
        None => Ok(()),
    }
}
