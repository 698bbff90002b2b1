//! What CUDA's device language means, on the emulator: indices, lanes, barriers, atomics, mma, conversions.

use crate::support::tensor::{BF16, F16, HOPPER, dot};
use crate::support::{emus, normal, same};
use haggle::device::gpu::{Arg, Launch};
use haggle::device::{DType, Device};
use half::{bf16, f16};

fn launch(dev: &Device, kernel: &'static str, grid: [u32; 3], block: [u32; 3], args: &mut [Arg]) {
    let Device::Gpu(gpu) = dev else { panic!("not a device of kernels") };
    gpu.launch(&Launch { kernel, op: "probe", grid, block, shared_bytes: 0, shape: &"" }, args).unwrap();
}

#[test]
fn every_thread_knows_where_it_is() {
    for (name, dev) in emus() {
        let mut out = dev.zeros(DType::I32, 24 * 60).unwrap();
        launch(&dev, "probe_indices", [2, 3, 4], [5, 4, 3], &mut [Arg::Out(out.view_mut())]);
        let want: Vec<i32> = (0..24).flat_map(|block| (0..60).map(move |thread| block * 1000 + thread)).collect();
        assert_eq!(dev.to_vec::<i32>(out.view()), want, "{name}");
    }
}

/// The lane a shuffle reads, by the PTX manual's table.
fn shuffled(i: usize, f: impl Fn(usize) -> Option<usize>, width: usize) -> i32 {
    let (lane, warp) = (i % 32, i / 32 * 32);
    let first = lane / width * width;
    let from = f(lane - first).filter(|to| *to < width).map_or(lane, |to| first + to);
    (warp + from) as i32
}

#[test]
fn lanes_and_barriers_exchange_as_documented() {
    let n = 96;
    let rows: [&dyn Fn(usize) -> i32; 16] = [
        &|i| shuffled(i, |_| Some(5), 32),
        &|i| shuffled(i, |_| Some(5), 8),
        &|i| shuffled(i, |l| l.checked_sub(3), 32),
        &|i| shuffled(i, |l| l.checked_sub(3), 8),
        &|i| shuffled(i, |l| Some(l + 3), 32),
        &|i| shuffled(i, |l| Some(l + 3), 16),
        &|i| shuffled(i, |l| Some(l ^ 17), 32),
        &|i| (0..32).map(|l| ((i / 32 * 32 + l).is_multiple_of(3) as u32) << l).sum::<u32>() as i32,
        &|i| (i / 32 == 1) as i32,
        &|i| (i < 64) as i32,
        &|_| 20,
        &|_| 0,
        &|_| 1,
        &|i| (0x11111111u32 << (i % 4)) as i32,
        &|i| (if i % 32 < 16 { i ^ 1 } else { 2 * (i ^ 1) }) as i32,
        &|i| (i ^ 1) as i32,
    ];
    for (name, dev) in emus() {
        let mut y = dev.zeros(DType::I32, 16 * n).unwrap();
        launch(&dev, "probe_lanes", [1, 1, 1], [n as u32, 1, 1], &mut [Arg::Out(y.view_mut())]);
        let got: Vec<i32> = dev.to_vec(y.view());
        for (row, want) in rows.iter().enumerate() {
            let want: Vec<i32> = (0..n).map(want).collect();
            assert_eq!(got[row * n..(row + 1) * n], want, "row {row} on {name}");
        }
    }
}

#[test]
fn atomics_lose_nothing() {
    for (name, dev) in emus() {
        let (mut out, mut sum) = (dev.zeros(DType::I32, 8).unwrap(), dev.zeros(DType::F32, 1).unwrap());
        let args = &mut [Arg::Out(out.view_mut()), Arg::Out(sum.view_mut())];
        launch(&dev, "probe_atomics", [50, 1, 1], [128, 1, 1], args);
        let n = 50 * 128;
        assert_eq!(dev.to_vec::<i32>(out.view()), [n, n - 1, 1 - n, 7, (1 << 20) - 1, 2 * n, 0, 0], "{name}");
        assert_eq!(dev.to_vec::<f32>(sum.view()), [n as f32 / 2.0], "{name}");
    }
}

#[test]
fn powers_of_two_are_as_near_as_their_kernel_says() {
    let mut x: Vec<f32> = (0..1_300_000).map(|i| i as f32 * -1e-4).collect();
    x.extend([1e-4, 0.5, 3.0, 127.0, -126.0, -126.49, -127.0, -1e30, f32::NEG_INFINITY, f32::NAN, -f32::NAN]);
    let (name, dev) = emus().remove(0);
    let (from, mut to) = (dev.upload(&x).unwrap(), dev.zeros(DType::F32, x.len()).unwrap());
    let args = &mut [Arg::In(from.view()), Arg::Out(to.view_mut()), Arg::I32(x.len() as i32)];
    launch(&dev, "probe_exp2", [x.len().div_ceil(256) as u32, 1, 1], [256, 1, 1], args);
    for (x, y) in x.iter().zip(dev.to_vec::<f32>(to.view())) {
        let want = f64::from(*x).exp2();
        match *x {
            0.0 => assert_eq!(y, 1.0, "{name}"),
            x if x.is_nan() => assert!(y.is_nan(), "{name}: 2^{x} is {y}"),
            // Subnormal numbers have fewer digits.
            x if x < -125.0 => assert!((f64::from(y) - want).abs() < 1.2e-38, "{name}: 2^{x} is {y}"),
            x => assert!((f64::from(y) / want - 1.0).abs() < 1.7e-7, "{name}: 2^{x} is {y}"),
        }
    }
    let last = &dev.to_vec::<f32>(to.view())[x.len() - 6..];
    assert!(last[0] > 0.0 && last[1..4] == [0.0; 3], "{name}: {last:?}");
}

/// The product on Hopper's tensor cores; `least`: the least exponent of the operands' type.
fn product(a: &[f32], b: &[f32], c: &[f32], k: usize, least: i32) -> Vec<f32> {
    let column = |j| (0..k).map(|p| b[p * 8 + j]).collect::<Vec<f32>>();
    (0..16 * 8).map(|i| dot(HOPPER, &a[i / 8 * k..][..k], &column(i % 8), c[i], least)).collect()
}

#[test]
fn mma_of_16_bits_multiplies_as_a_tensor_core_does() {
    let (a, b, c) = (normal(256, 1), normal(128, 2), normal(128, 3));
    for (name, dev) in emus() {
        for kind in [0, 1] {
            let bits = |x: &f32| if kind == 0 { bf16::from_f32(*x).to_bits() } else { f16::from_f32(*x).to_bits() };
            let float = |x: &f32| if kind == 0 { bf16::from_f32(*x).to_f32() } else { f16::from_f32(*x).to_f32() };
            let floats = |x: &[f32]| x.iter().map(float).collect::<Vec<f32>>();
            let upload =
                |x: &[f32]| dev.upload(&x.iter().map(|x| bf16::from_bits(bits(x))).collect::<Vec<_>>()).unwrap();
            let want = product(&floats(&a), &floats(&b), &c, 16, if kind == 0 { BF16 } else { F16 });
            for through_shared in [0, 1] {
                let (a, b, c, mut d) =
                    (upload(&a), upload(&b), dev.upload(&c).unwrap(), dev.upload(&[f32::NAN; 128]).unwrap());
                let (kind, shared) = (Arg::I32(kind), Arg::I32(through_shared));
                let args = &mut [
                    Arg::In(a.view()),
                    Arg::In(b.view()),
                    Arg::In(c.view()),
                    Arg::Out(d.view_mut()),
                    kind,
                    shared,
                ];
                launch(&dev, "probe_mma_16", [1, 1, 1], [32, 1, 1], args);
                same("mma_m16n8k16", &name, &[16, 8], &want, &dev.to_vec(d.view()));
            }
        }
    }
}

#[test]
fn mma_of_tf32_reads_the_upper_19_bits() {
    let (a, b) = (normal(128, 1), normal(64, 2));
    let cut = |x: &[f32]| x.iter().map(|x| f32::from_bits(x.to_bits() & 0xFFFF_E000)).collect::<Vec<f32>>();
    let want = product(&cut(&a), &cut(&b), &[0.0; 128], 8, BF16);
    for (name, dev) in emus() {
        let (a, b, mut d) = (dev.upload(&a).unwrap(), dev.upload(&b).unwrap(), dev.upload(&[f32::NAN; 128]).unwrap());
        let args = &mut [Arg::In(a.view()), Arg::In(b.view()), Arg::Out(d.view_mut())];
        launch(&dev, "probe_mma_tf32", [1, 1, 1], [32, 1, 1], args);
        same("mma_m16n8k8 tf32", &name, &[16, 8], &want, &dev.to_vec(d.view()));
    }
}

/// Every exponent with edge mantissas, ties, subnormals of the small types, and noise.
fn floats() -> Vec<f32> {
    let mantissas = [0u32, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7FFFFF];
    let edges = (0..512).flat_map(|e| mantissas.map(|m| f32::from_bits(e << 23 | m)));
    let noise = normal(20_000, 9);
    edges.chain(noise.iter().map(|x| f32::from_bits(x.to_bits().wrapping_mul(2_654_435_761)))).collect()
}

#[test]
fn conversions_round_to_nearest_even_with_one_nan() {
    let (dev, x) = (emus().remove(1).1, floats());
    let n = x.len();
    let (input, mut out, mut back) =
        (dev.upload(&x).unwrap(), dev.zeros(DType::I32, 2 * n).unwrap(), dev.upload(&vec![0f32; 2 * n]).unwrap());
    let args = &mut [Arg::In(input.view()), Arg::Out(out.view_mut()), Arg::Out(back.view_mut()), Arg::I32(n as i32)];
    launch(&dev, "probe_convert", [n.div_ceil(128) as u32, 1, 1], [128, 1, 1], args);
    let (out, back) = (dev.to_vec::<i32>(out.view()), dev.to_vec::<f32>(back.view()));
    for (i, x) in x.iter().enumerate() {
        let nan = x.is_nan();
        let (b, h) = (bf16::from_f32(*x), f16::from_f32(*x));
        let want = if nan { [0x7FFF; 2] } else { [b.to_bits() as i32, h.to_bits() as i32] };
        assert_eq!(out[2 * i..2 * i + 2], want, "{x:e} ({:#x})", x.to_bits());
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        assert!(same(back[2 * i], b.to_f32()) && same(back[2 * i + 1], h.to_f32()), "{x:e} and back");
    }
}

/// CUDA documents 2 units in the last place for rsqrtf and exp2f.
#[test]
fn approximations_are_within_cuda_bounds() {
    let (dev, n) = (emus().remove(1).1, 4000);
    let x: Vec<f32> = normal(n, 4).iter().map(|x| (x * 8.0).abs() + 1e-3).collect();
    let (input, mut out) = (dev.upload(&x).unwrap(), dev.upload(&vec![0f32; 2 * n]).unwrap());
    let args = &mut [Arg::In(input.view()), Arg::Out(out.view_mut()), Arg::I32(n as i32)];
    launch(&dev, "probe_approximations", [n.div_ceil(128) as u32, 1, 1], [128, 1, 1], args);
    let out = dev.to_vec::<f32>(out.view());
    let ulps = |got: f32, want: f64| ((got as f64 - want) / (want * f32::EPSILON as f64)).abs();
    for (i, x) in x.iter().enumerate() {
        assert!(ulps(out[2 * i], 1.0 / (*x as f64).sqrt()) <= 2.0, "rsqrtf({x})");
        assert!(ulps(out[2 * i + 1], (*x as f64).exp2()) <= 2.0, "exp2f({x})");
    }
}
