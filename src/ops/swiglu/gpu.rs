//! Launches of the SwiGLU kernels.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

/// See [`crate::ops::swiglu::swiglu_fwd`].
pub fn swiglu_fwd(gpu: &Gpu, gate: View, up: View, mut h: ViewMut) -> Result<()> {
    let n = gate.len();
    let dtype = by_dtype("swiglu_fwd", &[gate.dtype(), up.dtype(), h.dtype()])?;
    let width = vector_width(n, dtype, &[gate.address(), up.address(), h.address()]);
    let kernel = if dtype == DType::Bf16 { "swiglu_fwd_bf16" } else { "swiglu_fwd_f32" };
    gpu.launch_dependent(
        &Launch::elements(kernel, "swiglu_fwd", n, width, &format_args!("NF={n}")),
        &mut [Arg::In(gate), Arg::In(up), Arg::Out(h), Arg::I64(n as i64), Arg::I32((width > 1) as i32)],
    )
}

/// See [`crate::ops::swiglu::swiglu_bwd`].
pub fn swiglu_bwd(gpu: &Gpu, dh: View, gate: View, up: View, mut dgate: ViewMut, mut dup: ViewMut) -> Result<()> {
    let n = gate.len();
    let dtype = by_dtype("swiglu_bwd", &[dh.dtype(), gate.dtype(), up.dtype(), dgate.dtype(), dup.dtype()])?;
    let starts = [dh.address(), gate.address(), up.address(), dgate.address(), dup.address()];
    let width = vector_width(n, dtype, &starts);
    let kernel = if dtype == DType::Bf16 { "swiglu_bwd_bf16" } else { "swiglu_bwd_f32" };
    gpu.launch(
        &Launch::elements(kernel, "swiglu_bwd", n, width, &format_args!("NF={n}")),
        &mut [
            Arg::In(dh),
            Arg::In(gate),
            Arg::In(up),
            Arg::Out(dgate),
            Arg::Out(dup),
            Arg::I64(n as i64),
            Arg::I32((width > 1) as i32),
        ],
    )
}
