//! Launches of the head fused with the log-probability: blocks of logits that stay in the second-level cache, each a
//! matrix product and then its sums or its gradient.
//!
//! The product is the one decoding uses, so a training forward has the bits of sampling. Blocks are walked rows first,
//! then vocabulary; no bit depends on their size, but for dx in bf16, which is rounded once a block of tokens. x and w
//! are f32 or bf16, logits f32; the gradient of the logits is like x. With Hopper's kernels: `gpu_sm90.rs`. Those have no
//! masks: where a row has one, all rows of the call run here, with the same bits, in blocks that fit Hopper's workspace.

use super::gpu_head::{COLS, Head, ROWS, mask, merge, parts};
use super::gpu_sm90;
use crate::device::cpu::softmax::SPAN;
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};
use std::ops::Range;

/// f32 elements of the workspace: a block of logits, and behind it the sums of its rows' spans and their targets' logits,
/// or its gradient in bf16.
pub fn workspace(gpu: &Gpu, vocab: usize, dim: usize, dtype: DType) -> usize {
    let portable = |rows| {
        let sums = sums_at(rows, vocab);
        [hits_at(rows, vocab) + rows, sums + sums / 2]
    };
    let [fwd, bwd] = portable(ROWS);
    let fwd = if gpu_sm90::takes_fwd(gpu, vocab, dim, dtype) { gpu_sm90::fwd_workspace(vocab) } else { fwd };
    let bwd = if gpu_sm90::takes(gpu, dim, dtype) { gpu_sm90::bwd_workspace(vocab) } else { bwd };
    let masked = portable(block_rows(gpu, dim, dtype));
    masked.into_iter().fold(fwd.max(bwd), usize::max)
}

/// Rows of a block here: half as many where Hopper's kernels have the other rows, and the workspace is theirs. A row's bits do
/// not depend on it; a dw in bf16 is rounded once a block.
fn block_rows(gpu: &Gpu, dim: usize, dtype: DType) -> usize {
    if gpu_sm90::takes(gpu, dim, dtype) { ROWS / 2 } else { ROWS }
}

/// f32 elements that [`portable`] takes of the workspace.
pub(super) fn portable_workspace(gpu: &Gpu, vocab: usize, dim: usize, dtype: DType) -> usize {
    let rows = block_rows(gpu, dim, dtype);
    hits_at(rows, vocab) + rows
}

fn sums_at(rows: usize, vocab: usize) -> usize {
    rows * vocab.min(COLS)
}

fn hits_at(rows: usize, vocab: usize) -> usize {
    sums_at(rows, vocab) + rows * vocab.div_ceil(SPAN) * 3
}

/// See [`crate::ops::logprob::linear_logprob_fwd`].
pub fn linear_logprob_fwd(dev: &Device, gpu: &Gpu, head: Head, out: [ViewMut; 3], work: ViewMut) -> Result<()> {
    let v = head.w.len() / head.dim;
    for (name, x) in ["logprob", "lse", "entropy"].iter().zip(&out) {
        holds("linear_logprob_fwd", DType::F32, &[(name, x.dtype())])?;
    }
    holds("linear_logprob_fwd", DType::F32, &[("workspace", work.dtype())])?;
    holds("linear_logprob_fwd", DType::I32, &[("target", head.target.dtype())])?;
    if head.masks.is_none() && gpu_sm90::takes_fwd(gpu, v, head.dim, head.x.dtype()) {
        return gpu_sm90::linear_logprob_fwd(gpu, head, out, work);
    }
    portable(dev, gpu, head, out, work)
}

/// The same by the kernels of every card.
pub(super) fn portable(dev: &Device, gpu: &Gpu, head: Head, mut out: [ViewMut; 3], mut work: ViewMut) -> Result<()> {
    let (n, c) = (head.target.len(), head.dim);
    let v = head.w.len() / c;
    let block = block_rows(gpu, c, head.x.dtype());
    let (sums_at, hits_at) = (sums_at(block, v), hits_at(block, v));
    for rows in parts(n, block) {
        for cols in parts(v, COLS) {
            logits(dev, head, &mut work, rows.clone(), cols.clone())?;
            mask(gpu, "linear_logprob_fwd", head, &mut work, rows.clone(), cols.clone())?;
            let launch = Launch {
                kernel: "linear_logprob_spans",
                op: "linear_logprob_fwd",
                grid: [(rows.len() * cols.len().div_ceil(SPAN)).div_ceil(16) as u32, 1, 1],
                block: [256, 1, 1],
                shared_bytes: 0,
                shape: &format_args!("N={n} C={c} V={v}, rows {rows:?}, tokens {cols:?}"),
            };
            let args = &mut [
                Arg::Out(work.reborrow()),
                Arg::In(head.target.at(rows.clone())),
                Arg::I64(sums_at as i64),
                Arg::I64(hits_at as i64),
                Arg::I64(rows.len() as i64),
                Arg::I32(cols.len() as i32),
                Arg::I32(cols.start as i32),
                Arg::I32(v.div_ceil(SPAN) as i32),
                Arg::F32(head.inv_temperature),
            ];
            gpu.launch(&launch, args)?;
        }
        merge(gpu, head, &mut out, work.view(), rows, [sums_at, hits_at])?;
    }
    Ok(())
}

/// Raw logits of a block into the workspace.
fn logits(dev: &Device, head: Head, work: &mut ViewMut, rows: Range<usize>, cols: Range<usize>) -> Result<()> {
    let c = head.dim;
    let (x, w) = (head.x.at(rows.start * c..rows.end * c), head.w.at(cols.start * c..cols.end * c));
    let z = work.reborrow().at(0..rows.len() * cols.len());
    gemm_nt(dev, x, w, z, rows.len(), cols.len(), c, Store::Set)
}

/// See [`crate::ops::logprob::linear_logprob_bwd`].
pub fn linear_logprob_bwd(
    dev: &Device,
    gpu: &Gpu,
    head: Head,
    [dlogprob, dentropy, lse, entropy]: [View; 4],
    (mut dx, mut dw): (ViewMut, Option<ViewMut>),
    mut work: ViewMut,
) -> Result<()> {
    let (n, c) = (head.target.len(), head.dim);
    let v = head.w.len() / c;
    for x in [dlogprob, dentropy, lse, entropy, work.view()] {
        holds("linear_logprob_bwd", DType::F32, &[("an input of a row", x.dtype())])?;
    }
    holds("linear_logprob_bwd", DType::I32, &[("target", head.target.dtype())])?;
    let narrow = by_dtype("linear_logprob_bwd", &[head.x.dtype(), head.w.dtype(), dx.dtype()])? == DType::Bf16;
    if head.masks.is_none() && gpu_sm90::takes(gpu, c, head.x.dtype()) {
        return gpu_sm90::linear_logprob_bwd(dev, gpu, head, [dlogprob, dentropy, lse, entropy], (dx, dw), work);
    }
    let block = block_rows(gpu, c, head.x.dtype());
    let dz_at = if narrow { sums_at(block, v) } else { 0 };
    for rows in parts(n, block) {
        for cols in parts(v, COLS) {
            logits(dev, head, &mut work, rows.clone(), cols.clone())?;
            mask(gpu, "linear_logprob_bwd", head, &mut work, rows.clone(), cols.clone())?;
            let (m, k) = (rows.len(), cols.len());
            let launch = Launch {
                kernel: if narrow { "linear_logprob_bwd_bf16" } else { "linear_logprob_bwd_f32" },
                op: "linear_logprob_bwd",
                grid: [m as u32, k.div_ceil(1024) as u32, 1],
                block: [256, 1, 1],
                shared_bytes: 0,
                shape: &format_args!("N={n} C={c} V={v}, rows {rows:?}, tokens {cols:?}"),
            };
            let args = &mut [
                Arg::In(dlogprob.at(rows.clone())),
                Arg::In(dentropy.at(rows.clone())),
                Arg::In(head.target.at(rows.clone())),
                Arg::In(lse.at(rows.clone())),
                Arg::In(entropy.at(rows.clone())),
                Arg::Out(work.reborrow()),
                Arg::I64(dz_at as i64),
                Arg::I32(k as i32),
                Arg::I32(cols.start as i32),
                Arg::F32(head.inv_temperature),
            ];
            gpu.launch(&launch, args)?;
            let (of_rows, of_cols) = (rows.start * c..rows.end * c, cols.start * c..cols.end * c);
            let dz = work.view().at(dz_at..work.len()).cast(head.x.dtype()).at(0..m * k);
            let store = if cols.start == 0 { Store::Set } else { Store::Add };
            gemm_nn(dev, dz, head.w.at(of_cols.clone()), dx.reborrow().at(of_rows.clone()), m, c, k, store)?;
            if let Some(dw) = &mut dw {
                gemm_tn(dev, dz, head.x.at(of_rows), dw.reborrow().at(of_cols), k, c, m, Store::Add)?;
            }
        }
    }
    Ok(())
}
