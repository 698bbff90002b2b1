//! Counter-based noise on the device; what it is stands in `crate::noise`.

pub mod cases;
pub(crate) mod gpu;
pub mod oracle;

use super::cost;
use crate::device::{Device, ViewMut};
use crate::error::Result;
use crate::noise::Noise;

/// bits `[N]` u64: those of `noise` at the counters `first`, `first + 1`, ...
pub fn noise_bits(dev: &Device, mut bits: ViewMut, noise: Noise, first: u64) -> Result<()> {
    let _span = dev.op("noise_bits", || cost::noise_bits(bits.len()));
    match dev {
        Device::Cpu(_) => {
            for (i, bits) in bits.host_mut::<u64>().iter_mut().enumerate() {
                *bits = noise.bits(first.wrapping_add(i as u64));
            }
        }
        Device::Gpu(gpu) => gpu::noise_bits(gpu, bits, noise, first)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// Writes N numbers.
    pub fn noise_bits(n: usize) -> Cost {
        cost(0, 8 * n, "N", [n, 0, 0])
    }
}
