//! What the machine can do at most: bytes a second of memory and of a cache, FLOPs a second of a matrix product.
//!
//! On the CPU (and the emulator, which runs on it) they are measured: a copy, and chains of multiply-adds in registers on
//! all threads. On a GPU they are those of its data sheet; of a card without one here, those of a copy and of our own
//! gemm_nt at a large size, which are only a floor under what the hardware can do.

use super::data_sheet;
use crate::device::cpu::{Cpu, peak};
use crate::device::gpu::Gpu;
use crate::device::{DType, Device};
use crate::error::Result;
use crate::ops::embed::copy;
use crate::ops::gemm::cpu::multiplies_pairs;
use crate::ops::gemm::{Store, gemm_nt};
use std::time::Instant;

/// The ceilings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Bytes a second of memory, read and written.
    pub bytes_per_s: f64,
    /// The same of what stays in a cache: the cores' own on a CPU, the L2 of a GPU. What is faster than memory was read there.
    pub cache_bytes_per_s: f64,
    /// Floating-point operations a second.
    pub flops_per_s: f64,
}

impl Peaks {
    /// Those of the device, for products of `dtype`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn measure(dev: &Device, dtype: DType) -> Result<Peaks> {
        match dev {
            Device::Cpu(cpu) => Ok(Peaks::of_cpu(cpu)),
            Device::Gpu(gpu) => match &**gpu {
                Gpu::Emu(emu) => Ok(Peaks::of_cpu(&Cpu::new(emu.threads()))),
                Gpu::Cuda(cuda) => match data_sheet::of_card(cuda.gpu_name(), dtype) {
                    Some([bytes_per_s, flops_per_s]) => {
                        Ok(Peaks { bytes_per_s, cache_bytes_per_s: of_l2(dev)?.max(bytes_per_s), flops_per_s })
                    }
                    None => Peaks::of_gpu(dev, dtype),
                },
            },
        }
    }

    /// Of this machine's cores.
    pub fn of_cpu(cpu: &Cpu) -> Peaks {
        let bytes_per_s = peak::copy_rate(cpu);
        Peaks {
            bytes_per_s,
            cache_bytes_per_s: peak::cache_rate(cpu).max(bytes_per_s),
            flops_per_s: peak::fma_rate(cpu, multiplies_pairs(cpu)),
        }
    }

    fn of_gpu(dev: &Device, dtype: DType) -> Result<Peaks> {
        let n = 256 << 20;
        let (x, mut y) = (dev.zeros(DType::F32, n)?, dev.zeros(DType::F32, n)?);
        let copy_s = median(dev, 9, || copy(dev, x.view(), y.view_mut()))?;
        let k = 8192;
        let noise = crate::noise::Noise::new(3, 3);
        // A product of zeros draws less power, and runs faster than any other.
        let host: Vec<f32> = (0..k * k).map(|i| noise.uniform(i as u64) - 0.5).collect();
        let upload = || match dtype {
            DType::Bf16 => dev.upload(&host.iter().map(|x| half::bf16::from_f32(*x)).collect::<Vec<_>>()),
            _ => dev.upload(&host),
        };
        let (a, b, mut c) = (upload()?, upload()?, dev.zeros(dtype, k * k)?);
        let gemm_s = median(dev, 5, || gemm_nt(dev, a.view(), b.view(), c.view_mut(), k, k, k, Store::Set))?;
        let bytes_per_s = 8.0 * n as f64 / copy_s;
        let cache_bytes_per_s = of_l2(dev)?.max(bytes_per_s);
        Ok(Peaks { bytes_per_s, cache_bytes_per_s, flops_per_s: 2.0 * (k as f64).powi(3) / gemm_s })
    }

    /// Seconds this much work takes at least.
    pub fn floor_s(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops_per_s).max(bytes / self.bytes_per_s)
    }

    /// The share of what the roofline allows that `ns` nanoseconds for this much work are.
    pub fn share(&self, flops: f64, bytes: f64, ns: u64) -> f64 {
        self.floor_s(flops, bytes) * 1e9 / ns.max(1) as f64
    }

    /// True when the memory, not the arithmetic, sets that floor.
    pub fn is_memory_bound(&self, flops: f64, bytes: f64) -> bool {
        bytes / self.bytes_per_s >= flops / self.flops_per_s
    }
}

/// Bytes a second of a copy that an L2 holds, launches behind each other.
fn of_l2(dev: &Device) -> Result<f64> {
    const CALLS: usize = 64;
    let n = 2 << 20;
    let (x, mut y) = (dev.zeros(DType::F32, n)?, dev.zeros(DType::F32, n)?);
    let seconds = median(dev, 9, || (0..CALLS).try_for_each(|_| copy(dev, x.view(), y.view_mut())))?;
    Ok((8 * n * CALLS) as f64 / seconds)
}

/// Seconds of the median of `n` calls, after one to warm up.
fn median(dev: &Device, n: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    dev.wait()?;
    let mut seconds = Vec::with_capacity(n);
    for _ in 0..n {
        let start = Instant::now();
        call()?;
        dev.wait()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[n / 2])
}
