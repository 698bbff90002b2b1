//! Every op against its oracle on the device at hand, in seconds: what `haggle doctor` runs.
//!
//! The one idea: the few shapes of [`crate::ops::cases`] that reach every kernel, each held to the f64 oracle on the very
//! numbers it was given. The tests of the repository look closer; this asks whether this binary computes rightly on this
//! machine. Which kernels ran
//! is not claimed but recorded.

use crate::device::record::Kind;
use crate::device::{DType, Device};
use crate::error::Result;
pub use crate::ops::case::Check;
use crate::ops::case::{Purpose, Stage};
use crate::ops::cases;
use std::collections::BTreeSet;

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
        let mut stage = Stage::new(dev, *dtype, Purpose::Few);
        ran = ran.and_then(|()| cases(&mut stage));
        checks.extend(stage.checks);
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
    let asked_for = |name: &&str| hopper || !name.contains("_sm90");
    let product = |name: &&str| !["probe_", "planted_"].iter().any(|p| name.starts_with(p));
    let not_run = kernels.into_iter().filter(product).filter(asked_for).filter(|k| !launched.contains(k)).collect();
    Ok(Findings { checks, not_run, n_run: launched.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

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
