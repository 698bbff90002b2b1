//! Every case of every op against the oracle, on the CPU, the emulator and, where there is one, a GPU, in f32 and bf16.

use crate::support::*;
use haggle::device::{DType, Device};
use haggle::ops::case::{Purpose, Stage};
use std::collections::BTreeMap;

/// Devices that compute differently: the CPU, the kernels in a shuffled thread order, Hopper's kernels.
fn everywhere() -> Vec<(String, Device)> {
    let cpu = ("cpu".to_string(), cpu(2));
    let kernels = kernel_devices().into_iter().skip(2);
    let hopper = haggle::device::gpu::emu::Emu::new(2).unwrap().with_hopper(true);
    let hopper = Device::Gpu(std::sync::Arc::new(haggle::device::gpu::Gpu::Emu(hopper)));
    std::iter::once(cpu).chain(kernels).chain([("emu, Hopper's kernels".into(), hopper)]).collect()
}

#[test]
fn every_case_is_as_near_to_the_oracle_as_it_was_measured() {
    let (mut wrong, mut worst) = (Vec::new(), BTreeMap::<String, f64>::new());
    for (name, dev) in everywhere() {
        let types = if matches!(dev, Device::Cpu(_)) { &[DType::F32][..] } else { &[DType::F32, DType::Bf16] };
        for dtype in types {
            let mut stage = Stage::new(&dev, *dtype, Purpose::Odd);
            haggle::ops::cases(&mut stage).unwrap();
            assert!(stage.checks.len() > 60, "{name}: {} checks", stage.checks.len());
            for check in stage.checks {
                let output = check.what.split(',').next().unwrap_or_default();
                let seen = worst.entry(format!("{} {} {output}", dtype.name(), check.stem)).or_default();
                *seen = seen.max(check.error);
                if !check.passed() {
                    wrong.push(format!("{name}: {check:?}"));
                }
            }
        }
    }
    for (output, error) in worst {
        println!("{output}: {error:.1e}");
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
