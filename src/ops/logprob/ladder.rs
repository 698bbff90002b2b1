//! The ladder of `linear_logprob_fwd` in bf16: from all logits in memory to none. See [`crate::ops::ladder`].

use super::gpu_head::Head;
use super::{gpu, gpu_sm90};
use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::{Store, gemm_nt};
use crate::ops::ladder::{Rung, gpu_of};
use crate::ops::want;

/// How a rung is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// All logits, then a warp a row.
    Logits,
    /// The product's kernels of every card: a block of logits at a time.
    Blocks,
    /// Hopper's: logits in registers.
    Registers,
}

/// Rows of a block of the first rung.
const ROWS: usize = 4;

/// From the ground up.
pub const RUNGS: [(Rung, How); 3] = [
    (Rung::new("lab_head_v1_logits", "lab/head/v1_logits.cu", "all logits in memory, then a warp a row"), How::Logits),
    (
        Rung::new(
            "lab_head_v2_blocks",
            "logprob/linear_logprob_spans.cu",
            "a block of logits at a time, summed and overwritten",
        ),
        How::Blocks,
    ),
    (
        Rung::hopper(
            "lab_head_v3_registers",
            "logprob/linear_logprob_spans_sm90.cu",
            "sums are taken where the product leaves logits: in registers",
        ),
        How::Registers,
    ),
];

/// f32 elements that a rung keeps in memory beside its inputs and outputs, of N rows, V tokens, width C.
pub fn scratch(gpu: &Gpu, how: How, [n, v, c]: [usize; 3]) -> usize {
    match how {
        How::Logits => n * v,
        How::Blocks => gpu::portable_workspace(gpu, v, c, DType::Bf16),
        How::Registers => gpu_sm90::fwd_workspace(v),
    }
}

/// logprob, lse, entropy `[N]` by one rung: see [`super::linear_logprob_fwd`]; x `[N, C]`, w `[V, C]` bf16, target `[N]` i32,
/// `work` as [`scratch`] says. The last rung wants V above one span, 2048. Row rule in N.
///
/// # Errors
/// [`crate::Error::Shape`] for lengths that do not fit; what the device refuses.
pub fn linear_logprob_fwd(
    dev: &Device,
    how: How,
    [x, w, target]: [View; 3],
    out: [ViewMut; 3],
    mut work: ViewMut,
    dim: usize,
    inv_temperature: f32,
) -> Result<()> {
    let (gpu, op, n, v) = (gpu_of(dev)?, "lab_head", target.len(), w.len() / dim);
    want(op, "x [N, C]", x.len(), n * dim)?;
    want(op, "w [V, C]", w.len() % dim, 0)?;
    want(op, "C % 8", dim % 8, 0)?;
    want(op, "workspace", work.len(), scratch(gpu, how, [n, v, dim]))?;
    out.iter().try_for_each(|out| want(op, "logprob, lse, entropy [N]", out.len(), n))?;
    holds(op, DType::Bf16, &[("x", x.dtype()), ("w", w.dtype())])?;
    let head = Head { x, w, target, masks: None, dim, inv_temperature };
    match how {
        How::Blocks => return gpu::portable(dev, gpu, head, out, work),
        How::Registers => return gpu_sm90::linear_logprob_fwd(gpu, head, out, work),
        How::Logits => gemm_nt(dev, x, w, work.reborrow(), n, v, dim, Store::Set)?,
    }
    let launch = Launch {
        kernel: "lab_head_v1_logits",
        op,
        grid: [n.div_ceil(ROWS) as u32, 1, 1],
        block: [32 * ROWS as u32, 1, 1],
        shared_bytes: 0,
        shape: &format_args!("N={n} C={dim} V={v}"),
    };
    let [logprob, lse, entropy] = out.map(Arg::Out);
    let [n, v, scale] = [Arg::I64(n as i64), Arg::I32(v as i32), Arg::F32(inv_temperature)];
    gpu.launch(&launch, &mut [Arg::In(work.view()), Arg::In(target), logprob, lse, entropy, n, v, scale])
}
