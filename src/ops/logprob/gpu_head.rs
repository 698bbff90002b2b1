//! What the portable launches of the head and Hopper's have in common.

use crate::device::cpu::softmax::SPAN;
use crate::device::gpu::{Arg, Gpu, Launch};
use crate::device::{View, ViewMut};
use crate::error::Result;
use std::ops::Range;

/// Rows of a block.
pub(crate) const ROWS: usize = 256;
/// Tokens of a block: whole spans.
pub(crate) const COLS: usize = 8 * SPAN;

/// A head and what it is asked.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// `[N, C]`
    pub x: View<'a>,
    /// `[V, C]`
    pub w: View<'a>,
    /// `[N]` i32
    pub target: View<'a>,
    /// C
    pub dim: usize,
    /// Factor of the logits.
    pub inv_temperature: f32,
}

/// `0..n` in parts of `part`.
pub(crate) fn parts(n: usize, part: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(part).map(move |at| at..n.min(at + part))
}

/// logprob, lse, entropy of rows from the sums of their spans and their targets' logits, which stand in the workspace.
pub(crate) fn merge(
    gpu: &Gpu,
    head: Head,
    [logprob, lse, entropy]: &mut [ViewMut; 3],
    work: View,
    rows: Range<usize>,
    [sums_at, hits_at]: [usize; 2],
) -> Result<()> {
    let (n, c) = (head.target.len(), head.dim);
    let v = head.w.len() / c;
    let launch = Launch {
        kernel: "linear_logprob_fwd",
        op: "linear_logprob_fwd",
        grid: [rows.len().div_ceil(128) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        shape: &format_args!("N={n} C={c} V={v}, rows {rows:?}"),
    };
    let args = &mut [
        Arg::In(work),
        Arg::Out(logprob.reborrow().at(rows.clone())),
        Arg::Out(lse.reborrow().at(rows.clone())),
        Arg::Out(entropy.reborrow().at(rows.clone())),
        Arg::I64(sums_at as i64),
        Arg::I64(hits_at as i64),
        Arg::I64(rows.len() as i64),
        Arg::I32(v.div_ceil(SPAN) as i32),
    ];
    gpu.launch(&launch, args)
}
