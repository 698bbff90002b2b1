//! Launches of the noise kernels.

use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, ViewMut};
use crate::error::Result;
use crate::noise::Noise;

/// See [`crate::ops::noise::noise_bits`].
pub fn noise_bits(gpu: &Gpu, bits: ViewMut, noise: Noise, first: u64) -> Result<()> {
    let n = bits.len();
    holds("noise_bits", DType::U64, &[("bits", bits.dtype())])?;
    gpu.launch(
        &Launch {
            kernel: "noise_bits",
            op: "noise_bits",
            grid: [n.div_ceil(256) as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n}"),
        },
        &mut [Arg::Out(bits), Arg::I64(n as i64), Arg::U64(noise.seed), Arg::U64(noise.stream), Arg::U64(first)],
    )
}
