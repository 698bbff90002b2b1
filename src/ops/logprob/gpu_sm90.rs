//! Launches of the head by Hopper's kernels: logits exist in registers alone, in memory stand the sums of their spans, and
//! a block of their gradient in bf16.
//!
//! Bits are those of the portable kernels in `logprob.rs`: blocks of tokens, once each of which dx is rounded, are the
//! same; sums of spans need no blocks.

use super::gpu_head::{COLS, Head, ROWS, merge, parts};
use crate::device::cpu::softmax::SPAN;
use crate::device::gpu::{Arg, Gpu, Launch};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::gpu::operand_map;
use crate::ops::gemm::tiles::SM90_128X256;
use crate::ops::gemm::{Store, gemm_nn, gemm_tn};

/// Rows whose sums exist at a time.
const FWD_ROWS: usize = 4096;
/// Rows whose gradients exist at a time; in bf16 dw is rounded once a block, and has the portable kernels'.
const BWD_ROWS: usize = 512;

/// Whether Hopper's kernels are asked for and take a head of C = `dim`.
pub(crate) fn takes(gpu: &Gpu, dim: usize, dtype: DType) -> bool {
    gpu.hopper() && dtype == DType::Bf16 && dim.is_multiple_of(8)
}

/// Whether forward has a kernel too: a row of one span is summed under the maximum of all its logits.
pub(crate) fn takes_fwd(gpu: &Gpu, vocab: usize, dim: usize, dtype: DType) -> bool {
    takes(gpu, dim, dtype) && vocab > SPAN
}

/// f32 elements of the workspace of forward: sums of spans, targets' logits.
pub(crate) fn fwd_workspace(vocab: usize) -> usize {
    FWD_ROWS * (vocab.div_ceil(SPAN) * 3 + 1)
}

/// f32 elements of the workspace of backward: a block of gradients of logits.
pub(crate) fn bwd_workspace(vocab: usize) -> usize {
    BWD_ROWS * vocab.min(COLS) / 2
}

/// See [`crate::ops::logprob::linear_logprob_fwd`].
pub(crate) fn linear_logprob_fwd(gpu: &Gpu, head: Head, mut out: [ViewMut; 3], mut work: ViewMut) -> Result<()> {
    let op = "linear_logprob_fwd";
    let (n, c) = (head.target.len(), head.dim);
    let v = head.w.len() / c;
    let (n_spans, hits_at) = (v.div_ceil(SPAN), FWD_ROWS * v.div_ceil(SPAN) * 3);
    let w = operand_map(gpu, op, head.w, [v, c], SM90_128X256.columns, false)?;
    for rows in parts(n, FWD_ROWS) {
        let m = rows.len();
        let x = head.x.at(rows.start * c..rows.end * c);
        let launch = Launch {
            kernel: "linear_logprob_spans_sm90_bf16",
            op,
            grid: [SM90_128X256.blocks_of(m.div_ceil(SM90_128X256.rows), n_spans) as u32, 1, 1],
            block: [SM90_128X256.threads(), 1, 1],
            shared_bytes: SM90_128X256.shared_bytes(),
            shape: &format_args!("N={n} C={c} V={v}, rows {rows:?}"),
        };
        let args = &mut [
            Arg::Map(operand_map(gpu, op, x, [m, c], SM90_128X256.rows, false)?),
            Arg::Map(w),
            Arg::In(head.target.at(rows.clone())),
            Arg::Out(work.reborrow()),
            Arg::I64(0),
            Arg::I64(hits_at as i64),
            Arg::I64(m as i64),
            Arg::I32(v as i32),
            Arg::I32(c as i32),
            Arg::F32(head.inv_temperature),
        ];
        gpu.launch(&launch, args)?;
        merge(gpu, head, &mut out, work.view(), rows, [0, hits_at])?;
    }
    Ok(())
}

/// See [`crate::ops::logprob::linear_logprob_bwd`].
pub(crate) fn linear_logprob_bwd(
    dev: &Device,
    gpu: &Gpu,
    head: Head,
    given: [View; 4],
    (mut dx, mut dw): (ViewMut, Option<ViewMut>),
    mut work: ViewMut,
) -> Result<()> {
    let op = "linear_logprob_bwd";
    let (n, c) = (head.target.len(), head.dim);
    let v = head.w.len() / c;
    let block_rows = if dw.as_ref().is_none_or(|dw| dw.dtype() == DType::F32) { BWD_ROWS } else { ROWS };
    for rows in parts(n, block_rows) {
        for cols in parts(v, COLS) {
            let (m, k) = (rows.len(), cols.len());
            let (of_rows, of_cols) = (rows.start * c..rows.end * c, cols.start * c..cols.end * c);
            let (x, w) = (head.x.at(of_rows.clone()), head.w.at(of_cols.clone()));
            let launch = Launch {
                kernel: "linear_logprob_bwd_sm90_bf16",
                op,
                grid: [SM90_128X256.blocks(m, k) as u32, 1, 1],
                block: [SM90_128X256.threads(), 1, 1],
                shared_bytes: SM90_128X256.shared_bytes(),
                shape: &format_args!("N={n} C={c} V={v}, rows {rows:?}, tokens {cols:?}"),
            };
            let [dlogprob, dentropy, lse, entropy] = given.map(|x| Arg::In(x.at(rows.clone())));
            let args = &mut [
                Arg::Map(operand_map(gpu, op, x, [m, c], SM90_128X256.rows, false)?),
                Arg::Map(operand_map(gpu, op, w, [k, c], SM90_128X256.columns, false)?),
                dlogprob,
                dentropy,
                Arg::In(head.target.at(rows.clone())),
                lse,
                entropy,
                Arg::Out(work.reborrow()),
                Arg::I64(m as i64),
                Arg::I32(k as i32),
                Arg::I32(cols.start as i32),
                Arg::I32(c as i32),
                Arg::F32(head.inv_temperature),
            ];
            gpu.launch(&launch, args)?;
            let dz = work.view().cast(DType::Bf16).at(0..m * k);
            let store = if cols.start == 0 { Store::Set } else { Store::Add };
            gemm_nn(dev, dz, w, dx.reborrow().at(of_rows), m, c, k, store)?;
            if let Some(dw) = &mut dw {
                gemm_tn(dev, dz, x, dw.reborrow().at(of_cols), k, c, m, Store::Add)?;
            }
        }
    }
    Ok(())
}
