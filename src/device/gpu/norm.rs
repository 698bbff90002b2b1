//! Launches of the norm kernels.

use super::{Arg, Gpu, Launch};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

/// Threads of a block, and rows: half a warp a row.
const THREADS: u32 = 128;
const ROWS: usize = THREADS as usize / 16;

/// See [`crate::ops::norm::rmsnorm_fwd`].
pub fn rmsnorm_fwd(gpu: &Gpu, x: View, w: View, y: ViewMut, rstd: ViewMut, eps: f32) -> Result<()> {
    let (n, c) = (rstd.len(), w.len());
    gpu.launch(
        &Launch {
            kernel: if x.dtype() == DType::Bf16 { "rmsnorm_fwd_bf16" } else { "rmsnorm_fwd_f32" },
            op: "rmsnorm_fwd",
            grid: [n.div_ceil(ROWS) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} C={c}"),
        },
        &mut [
            Arg::In(x),
            Arg::In(w),
            Arg::Out(y),
            Arg::Out(rstd),
            Arg::I64(n as i64),
            Arg::I32(c as i32),
            Arg::F32(eps),
        ],
    )
}
