//! What the portable launches of the head and Hopper's have in common.

use super::targets::{Masks, Targets, forbidden};
use crate::device::cpu::softmax::SPAN;
use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, View, ViewMut};
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
    /// Which tokens its rows are scored among.
    pub masks: Option<Masks<'a>>,
    /// C
    pub dim: usize,
    /// Factor of the logits.
    pub inv_temperature: f32,
}

impl<'a> Head<'a> {
    /// A head and its targets.
    pub fn new(x: View<'a>, w: View<'a>, target: Targets<'a>, dim: usize, inv_temperature: f32) -> Head<'a> {
        Head { x, w, target: target.ids, masks: target.masks, dim, inv_temperature }
    }
}

/// Puts the raw logits of a block that its rows may not take where they count for nothing; see [`forbidden`].
pub(crate) fn mask(
    gpu: &Gpu,
    op: &'static str,
    head: Head,
    work: &mut ViewMut,
    rows: Range<usize>,
    cols: Range<usize>,
) -> Result<()> {
    let Some(Masks { words, of }) = head.masks else { return Ok(()) };
    holds(op, DType::I32, &[("masks", words.dtype()), ("mask of rows", of.dtype())])?;
    let v = head.w.len() / head.dim;
    let launch = Launch {
        kernel: "linear_logprob_mask",
        op,
        grid: [rows.len() as u32, cols.len().div_ceil(1024) as u32, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        shape: &format_args!("V={v}, rows {rows:?}, tokens {cols:?}"),
    };
    let args = &mut [
        Arg::In(words),
        Arg::In(of.at(rows.clone())),
        Arg::Out(work.reborrow()),
        Arg::I32(cols.len() as i32),
        Arg::I32(cols.start as i32),
        Arg::I32(v.div_ceil(32) as i32),
        Arg::F32(forbidden(head.inv_temperature)),
    ];
    gpu.launch(&launch, args)
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
