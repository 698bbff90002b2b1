//! Launches of the optimizer's kernels.

use super::cpu::part_len;
use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::optim::{AdamW, GRAD_NORM_PARTS};

/// See [`crate::ops::optim::grad_norm`].
pub fn grad_norm(gpu: &Gpu, g: View, out: ViewMut, mut workspace: ViewMut) -> Result<()> {
    let n = g.len();
    holds("grad_norm", DType::F32, &[("out", out.dtype())])?;
    grad_norm_parts(gpu, g, workspace.reborrow(), part_len(n))?;
    let shape = &format_args!("N={n}");
    let sum =
        Launch { kernel: "grad_norm", op: "grad_norm", grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, shape };
    gpu.launch(&sum, &mut [Arg::In(workspace.view()), Arg::Out(out)])
}

/// See [`crate::ops::optim::grad_norm_parts`]; parts of `part` elements.
pub fn grad_norm_parts(gpu: &Gpu, g: View, workspace: ViewMut, part: usize) -> Result<()> {
    let n = g.len();
    holds("grad_norm", DType::F32, &[("g", g.dtype())])?;
    holds("grad_norm", DType::U64, &[("workspace", workspace.dtype())])?;
    let parts = Launch {
        kernel: "grad_norm_parts",
        op: "grad_norm",
        grid: [GRAD_NORM_PARTS as u32, 1, 1],
        block: [64, 1, 1],
        shared_bytes: 0,
        shape: &format_args!("N={n}"),
    };
    gpu.launch(&parts, &mut [Arg::In(g), Arg::Out(workspace), Arg::I64(n as i64), Arg::I64(part as i64)])
}

/// See [`crate::ops::optim::adamw_step`].
pub fn adamw_step(
    gpu: &Gpu,
    g: View,
    w: ViewMut,
    m: ViewMut,
    v: ViewMut,
    w_bf16: Option<ViewMut>,
    how: AdamW,
) -> Result<()> {
    let (n, (c1, c2)) = (g.len(), how.corrections());
    holds("adamw_step", DType::F32, &[("g", g.dtype()), ("w", w.dtype())])?;
    let kernel = if m.dtype() == DType::Bf16 { "adamw_step_bf16" } else { "adamw_step_f32" };
    holds("adamw_step", DType::Bf16, &[("w_bf16", w_bf16.as_ref().map_or(DType::Bf16, ViewMut::dtype))])?;
    gpu.launch(
        &Launch {
            kernel,
            op: "adamw_step",
            grid: [n.div_ceil(256) as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n}"),
        },
        &mut [
            Arg::In(g),
            Arg::Out(w),
            Arg::Out(m),
            Arg::Out(v),
            w_bf16.map_or(Arg::Null, Arg::Out),
            Arg::I64(n as i64),
            Arg::F32(how.lr),
            Arg::F32(how.beta1),
            Arg::F32(how.beta2),
            Arg::F32(how.eps),
            Arg::F32(how.weight_decay),
            Arg::F32(how.grad_scale),
            Arg::F32(c1),
            Arg::F32(c2),
            Arg::U64(how.step),
            Arg::U64(how.element),
        ],
    )
}
