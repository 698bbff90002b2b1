//! Every op against its oracle on the device at hand, in seconds: what `haggle doctor` runs.
//!
//! The one idea: small shapes that reach every kernel, each held to the f64 oracle on the very numbers it was given. The
//! tests of the repository look closer; this asks whether this binary computes rightly on this machine. Which kernels ran
//! is not claimed but recorded.

mod attn;
mod credit;
mod head;
mod layers;
mod products;

use crate::device::record::Kind;
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::noise::Noise;
use half::bf16;
use std::collections::BTreeSet;

/// One output of one op at one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The op's stem.
    pub stem: &'static str,
    /// Number type, output and shape.
    pub what: String,
    /// Largest error, relative to the largest number; infinite when something is not finite.
    pub error: f64,
    /// What it may be.
    pub limit: f64,
}

impl Check {
    /// True when the op computed rightly.
    pub fn passed(&self) -> bool {
        self.error <= self.limit
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Every output that was looked at.
    pub checks: Vec<Check>,
    /// Kernels of this device that were not launched.
    pub not_run: Vec<&'static str>,
    /// Kernels that were.
    pub n_run: usize,
}

/// Twice the largest error of an f32 output on the CPU and the emulator: 8.9e-7, of dk at 200 dims.
const F32: f64 = 1.8e-6;
/// Twice that of a bf16 output: 5.0e-3, of dq, whose probabilities are rounded to bf16 on the way.
const BF16: f64 = 1e-2;

/// Runs everything the device has: f32, and bf16 where it computes in it.
///
/// # Errors
/// What an op refuses: its message names the stem and the shape.
pub fn run(dev: &Device) -> Result<Findings> {
    let mut checks = Vec::new();
    dev.start_recording(1 << 14)?;
    let dtypes: &[DType] = if matches!(dev, Device::Cpu(_)) { &[DType::F32] } else { &[DType::F32, DType::Bf16] };
    let mut ran = Ok(());
    for dtype in dtypes {
        let mut tester = Tester { dev, dtype: *dtype, checks: &mut checks, streams: 0 };
        ran = ran.and_then(|()| all(&mut tester));
    }
    let recording = dev.stop_recording();
    ran?;
    let launched: BTreeSet<&str> =
        recording?.events.iter().filter(|e| e.kind == Kind::Kernel).map(|e| e.name).collect();
    // Hopper's own kernels run where they are asked for.
    let (kernels, hopper) = match dev {
        Device::Cpu(_) => (vec![], false),
        Device::Gpu(gpu) => (gpu.kernels(), gpu.hopper()),
    };
    let asked_for = |name: &&str| hopper || !name.contains("_sm90_");
    let product =
        |name: &&str| !["probe_", "planted_"].iter().any(|p| name.starts_with(p)) && !name.ends_with("_checked");
    let not_run = kernels.into_iter().filter(product).filter(asked_for).filter(|k| !launched.contains(k)).collect();
    Ok(Findings { checks, not_run, n_run: launched.len() })
}

fn all(t: &mut Tester) -> Result<()> {
    layers::all(t)?;
    products::all(t)?;
    attn::all(t)?;
    head::all(t)?;
    if t.dtype == DType::F32 { credit::all(t) } else { Ok(()) }
}

/// A device, a number type, and what was found on it so far.
struct Tester<'a> {
    dev: &'a Device,
    dtype: DType,
    checks: &'a mut Vec<Check>,
    streams: u64,
}

/// A tensor on the device, and the very same numbers on the host.
struct Tensor {
    buffer: Buffer,
    values: Vec<f64>,
}

impl Tester<'_> {
    /// `len` normal numbers of the tester's type.
    fn input(&mut self, len: usize) -> Result<Tensor> {
        self.input_as(len, self.dtype)
    }

    /// `len` normal numbers, f32 whatever the tester's type.
    fn input_f32(&mut self, len: usize) -> Result<Tensor> {
        self.input_as(len, DType::F32)
    }

    fn input_as(&mut self, len: usize, dtype: DType) -> Result<Tensor> {
        self.streams += 1;
        let noise = Noise::new(21, self.streams);
        let host: Vec<f32> = (0..len as u64).map(|i| noise.normal(i) as f32).collect();
        self.tensor(&host, dtype)
    }

    /// These numbers, as they are in `dtype`.
    fn tensor(&self, host: &[f32], dtype: DType) -> Result<Tensor> {
        if dtype == DType::Bf16 {
            let rounded: Vec<bf16> = host.iter().map(|x| bf16::from_f32(*x)).collect();
            let values = rounded.iter().map(|x| x.to_f64()).collect();
            return Ok(Tensor { buffer: self.dev.upload(&rounded)?, values });
        }
        Ok(Tensor { buffer: self.dev.upload(host)?, values: host.iter().map(|x| *x as f64).collect() })
    }

    /// An output of the tester's type, full of NaN.
    fn out(&self, len: usize) -> Result<Buffer> {
        match self.dtype {
            DType::Bf16 => self.dev.upload(&vec![bf16::NAN; len]),
            _ => self.out_f32(len),
        }
    }

    /// An output in f32, full of NaN.
    fn out_f32(&self, len: usize) -> Result<Buffer> {
        self.dev.upload(&vec![f32::NAN; len])
    }

    /// Holds an output to the oracle.
    fn holds(&mut self, stem: &'static str, output: &str, shape: &str, want: &[f64], got: &Buffer) {
        // What is f32 among the outputs of an op on bf16 was rounded nowhere on the way.
        let limit = if got.dtype() == DType::Bf16 { BF16 } else { F32 };
        self.holds_within(stem, output, shape, want, got, limit);
    }

    /// The same with a limit of its own.
    fn holds_within(&mut self, stem: &'static str, output: &str, shape: &str, want: &[f64], got: &Buffer, limit: f64) {
        let got = match got.dtype() {
            DType::Bf16 => self.dev.download::<bf16>(got.view()).map(|x| x.iter().map(|x| x.to_f64()).collect()),
            _ => self.dev.download::<f32>(got.view()).map(|x| x.iter().map(|x| *x as f64).collect()),
        };
        // Nothing holds of what cannot be read; the next op says why.
        let got: Vec<f64> = got.unwrap_or_default();
        let what = format!("{} {output}, {shape}", self.dtype.name());
        self.checks.push(Check { stem, what, error: error(want, &got), limit });
    }

    /// Notes something that holds or does not.
    fn exactly(&mut self, stem: &'static str, output: &str, shape: &str, is_right: bool) {
        let what = format!("{} {output}, {shape}", self.dtype.name());
        let error = if is_right { 0.0 } else { f64::INFINITY };
        self.checks.push(Check { stem, what, error, limit: 0.0 });
    }
}

/// The largest error over the largest number.
fn error(want: &[f64], got: &[f64]) -> f64 {
    if want.len() != got.len() || got.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let scale = want.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    want.iter().zip(got).fold(0f64, |m, (w, g)| m.max((w - g).abs())) / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_relative_and_nan_is_infinite() {
        assert_eq!(error(&[4.0, 1.0], &[4.0, 2.0]), 0.25);
        assert_eq!(error(&[1.0], &[f64::NAN]), f64::INFINITY);
        assert_eq!(error(&[1.0, 1.0], &[1.0]), f64::INFINITY);
    }

    #[test]
    fn a_cpu_passes_and_every_kernel_runs_on_the_emulator() {
        for name in ["cpu", "emu"] {
            let found = run(&Device::open(name, 2).unwrap()).unwrap();
            let wrong: Vec<_> = found.checks.iter().filter(|c| !c.passed()).collect();
            assert!(wrong.is_empty(), "{name}: {wrong:#?}");
            assert!(found.checks.len() > 50, "{name}: {}", found.checks.len());
            assert_eq!(found.not_run, [""; 0], "{name}");
            for check in &found.checks {
                println!("{name} {}: {}: {:.1e}", check.stem, check.what, check.error);
            }
        }
    }

    #[test]
    fn with_hopper_asked_for_its_kernels_run_too() {
        let emu = crate::device::gpu::emu::Emu::new(2).unwrap().with_hopper(true);
        let found = run(&Device::Gpu(std::sync::Arc::new(crate::device::gpu::Gpu::Emu(emu)))).unwrap();
        let wrong: Vec<_> = found.checks.iter().filter(|c| !c.passed()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        // Not their twins, whose shapes they take.
        let twins = ["gemm_", "linear_logprob_bwd_bf16", "attn_fwd_bf16_", "attn_bwd_dq_bf16_", "attn_bwd_dkv_bf16_"];
        let twin = |k: &&str| twins.iter().any(|part| k.starts_with(part)) && !k.contains("_sm90_");
        assert!(found.not_run.iter().all(twin), "{:?}", found.not_run);
    }
}
