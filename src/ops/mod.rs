//! The ops: each checks its shapes in its own letters, then runs on the device its buffers live on.
//!
//! An op allocates nothing, waits for nothing, logs nothing; its outputs are named buffers of the caller's.
//! Letters: see the crate's head. What each op computes is written in plain f64 loops in its family's `oracle.rs`.
//!
//! **The row rule.** On the path from token to logprob a row's bits depend on that row alone: not on how many
//! rows share the call, in which order, on which pages, from a cached or a fresh prefix, on how many threads.

pub mod attn;
pub mod attn_step;
pub mod bias;
pub mod case;
pub mod credit;
pub mod embed;
pub mod gemm;
pub mod gemm_fused;
pub mod gemm_grouped;
pub mod ladder;
pub mod logprob;
pub mod loss;
pub mod moe;
pub mod noise;
pub mod norm;
pub mod optim;
pub mod qk_rope;
pub mod rope;
pub mod sample;
pub mod swiglu;

#[cfg(test)]
mod differences;
#[cfg(test)]
mod differences_moe;

use crate::device::DType;
use crate::device::record::Cost;
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

/// What an op must do at least, from its FLOPs and bytes and the letters and sizes of its shape. Profiler and benches divide
/// by it; each family states its formulas, the `Cost` lines of its kernels in code.
///
/// FLOPs are those of the mathematics: a multiply-add is two, exp and division count one each; of attention, the head and
/// products that norm or gate on their way only the products, as is usual, the second forward that their backwards make included where the op cannot do without.
/// Bytes are what must cross the memory once when the op runs alone: every input read, every output written (`+=` reads it
/// too), nothing twice. An op whose data lies in a cache may beat the memory's bandwidth.
pub fn cost(flops: usize, bytes: usize, letters: &'static str, dims: [usize; 3]) -> Cost {
    Cost { flops: flops as f64, bytes: bytes as f64, letters, dims }
}

/// Walks the cases of every family.
///
/// # Errors
/// What an op refuses: its message names the stem and the shape.
pub fn cases(s: &mut case::Stage) -> Result<()> {
    gemm::cases::all(s)?;
    logprob::cases::all(s)?;
    sample::cases::all(s)?;
    noise::cases::all(s)?;
    credit::cases::all(s)?;
    loss::cases::all(s)?;
    norm::cases::all(s)?;
    rope::cases::all(s)?;
    swiglu::cases::all(s)?;
    embed::cases::all(s)?;
    attn::cases::all(s)?;
    optim::cases::all(s)?;
    gemm_grouped::cases::all(s)?;
    moe::cases::all(s)?;
    bias::cases::all(s)?;
    qk_rope::cases::all(s)?;
    gemm_fused::cases::all(s)?;
    attn_step::cases::all(s)?;
    // The ladders are timed by themselves (`profile::ladder`), and are of bf16.
    if s.times() || s.dtype != DType::Bf16 {
        return Ok(());
    }
    gemm::cases::rungs(s)?;
    attn::cases::rungs(s)?;
    logprob::cases::rungs(s)
}
