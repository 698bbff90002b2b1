//! Counter-based noise on the device; what it is stands in `crate::noise`.

pub(crate) mod gpu;

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
