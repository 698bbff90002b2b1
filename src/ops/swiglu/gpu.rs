//! Launches of the SwiGLU kernels.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

const THREADS: u32 = 256;

/// See [`crate::ops::swiglu::swiglu_fwd`].
pub fn swiglu_fwd(gpu: &Gpu, gate: View, up: View, h: ViewMut) -> Result<()> {
    let n = gate.len();
    let dtype = by_dtype("swiglu_fwd", &[gate.dtype(), up.dtype(), h.dtype()])?;
    gpu.launch(
        &Launch {
            kernel: if dtype == DType::Bf16 { "swiglu_fwd_bf16" } else { "swiglu_fwd_f32" },
            op: "swiglu_fwd",
            grid: [n.div_ceil(THREADS as usize) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("NF={n}"),
        },
        &mut [Arg::In(gate), Arg::In(up), Arg::Out(h), Arg::I64(n as i64)],
    )
}

/// See [`crate::ops::swiglu::swiglu_bwd`].
pub fn swiglu_bwd(gpu: &Gpu, dh: View, gate: View, up: View, dgate: ViewMut, dup: ViewMut) -> Result<()> {
    let n = gate.len();
    let dtype = by_dtype("swiglu_bwd", &[dh.dtype(), gate.dtype(), up.dtype(), dgate.dtype(), dup.dtype()])?;
    gpu.launch(
        &Launch {
            kernel: if dtype == DType::Bf16 { "swiglu_bwd_bf16" } else { "swiglu_bwd_f32" },
            op: "swiglu_bwd",
            grid: [n.div_ceil(THREADS as usize) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("NF={n}"),
        },
        &mut [Arg::In(dh), Arg::In(gate), Arg::In(up), Arg::Out(dgate), Arg::Out(dup), Arg::I64(n as i64)],
    )
}
