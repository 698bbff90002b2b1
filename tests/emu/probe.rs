//! The tensor cores of a card against the emulator's model of them: products by mma.sync, and with HAGGLE_SM90=1 by wgmma, have
//! the emulator's bits over random tiles of every kind, in one step over K and in chains of hundreds.
//!
//! Everything that is said here of "an H100's bits" stands on this: it is the first thing that a card is asked.
//! `HAGGLE_PROBE_TILES=N` sets how many tiles of 16 x 8 each kind has (200). Without a card the emulator's portable kernels are
//! held against its Hopper ones.

use haggle::device::gpu::Gpu;
use haggle::device::gpu::emu::{Emu, TensorCores};
use haggle::device::{DType, Device};
use haggle::noise::Noise;
use haggle::ops::gemm::{Store, gemm_nt};
use half::bf16;
use std::sync::Arc;

/// How a kind's numbers are drawn from 64 bits.
type Kind = (&'static str, fn(u64) -> bf16);

/// A number of a sign, an exponent from `least` over `span` values, and any fraction.
fn of_exponents(bits: u64, least: u64, span: u64) -> bf16 {
    let exponent = least + (bits >> 32) % span;
    bf16::from_bits((bits & 0x807f) as u16 | (exponent << 7) as u16)
}

const KINDS: [Kind; 5] = [
    ("near one", |bits| of_exponents(bits, 124, 5)),
    // Products of these and their sums stay finite.
    ("wide exponents", |bits| of_exponents(bits, 70, 110)),
    ("subnormals and small", |bits| of_exponents(bits, 0, 12)),
    ("products that are subnormal", |bits| of_exponents(bits, 56, 12)),
    ("mostly zeros of both signs", |bits| match bits >> 60 {
        0..4 => of_exponents(bits, 110, 30),
        _ => bf16::from_bits((bits & 0x8000) as u16),
    }),
];

/// Steps of 16 over K.
const STEPS: [usize; 3] = [1, 5, 256];
/// Rows and columns of a product: by few rows, by many, and in whole tiles of either.
const SIZES: [[usize; 2]; 3] = [[8, 64], [64, 64], [128, 256]];

fn tiles() -> usize {
    std::env::var("HAGGLE_PROBE_TILES").map_or(200, |n| n.parse().unwrap())
}

fn emulator(hopper: bool, cores: TensorCores) -> Device {
    Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, 0).unwrap().with_tensor_cores(cores).with_hopper(hopper))))
}

/// The card, and whose sums it has; none without one.
fn card() -> Option<(Device, TensorCores)> {
    let dev = crate::support::cuda()?;
    let Gpu::Cuda(cuda) = crate::support::gpu(&dev) else { unreachable!("cuda:0 is a card") };
    let cores = match cuda.capability() {
        [9, 0] => TensorCores::Hopper,
        [8, _] => TensorCores::Ampere,
        [major, minor] => panic!("nothing is known of the tensor cores of sm_{major}{minor}"),
    };
    Some((dev, cores))
}

/// c [M, N] of a [M, K] and b [N, K], as bits.
fn product(dev: &Device, a: &[bf16], b: &[bf16], [m, n]: [usize; 2], k: usize) -> Vec<u32> {
    let (a, b, mut c) = (dev.upload(a).unwrap(), dev.upload(b).unwrap(), dev.zeros(DType::F32, m * n).unwrap());
    gemm_nt(dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set).unwrap();
    dev.to_vec::<f32>(c.view()).into_iter().map(f32::to_bits).collect()
}

#[test]
fn tensor_cores_have_the_bits_of_the_emulators_model() {
    let (other, cores) = card().unwrap_or_else(|| (emulator(true, TensorCores::Hopper), TensorCores::Hopper));
    let model = emulator(false, cores);
    let mut held = 0;
    for (which, (kind, draw)) in KINDS.into_iter().enumerate() {
        for steps in STEPS {
            // As many products as have the tiles that are asked for; a chain counts by its length.
            let (mut left, mut round) = (tiles() as isize / STEPS.len() as isize, 0);
            while left > 0 {
                let [m, n] = SIZES[round % SIZES.len()];
                let (k, noise) = (16 * steps, Noise::new(which as u64, (steps * 1000 + round) as u64));
                let numbers = |label: u64, len: usize| -> Vec<bf16> {
                    (0..len as u64).map(|i| draw(noise.child(label).bits(i))).collect()
                };
                let (a, b) = (numbers(1, m * k), numbers(2, n * k));
                let want = product(&model, &a, &b, [m, n], k);
                let got = product(&other, &a, &b, [m, n], k);
                let differing = want.iter().zip(&got).filter(|(x, y)| x != y).count();
                let first = want.iter().zip(&got).position(|(x, y)| x != y).unwrap_or(0);
                assert!(
                    differing == 0,
                    "{kind}, M {m} N {n} K {k}: {differing} of {} elements differ, the first at {first}: the model has {:08x}, {} \
                     has {:08x}",
                    want.len(),
                    want[first],
                    other.name(),
                    got[first]
                );
                held += m * n / 128 * steps;
                left -= (m * n / 128 * steps) as isize;
                round += 1;
            }
        }
    }
    println!("{held} steps of 16 x 8 x 16 on {}: the model's bits", other.name());
    assert!(held >= KINDS.len() * tiles() / STEPS.len());
}
