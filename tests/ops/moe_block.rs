//! A whole mixture of experts, router to residual stream and back: slopes, the oracle on every device, the row rule.

use crate::block::{Inputs, Sizes, loss, oracle, run};
use crate::support::*;
use haggle::device::{DType, Device};

/// Inputs of N tokens, weights so scaled that numbers stay about 1.
fn inputs(n: usize, Sizes { e, c, f, .. }: Sizes) -> Inputs<f32> {
    let by =
        |len, stream, by: usize| -> Vec<f32> { normal(len, stream).iter().map(|x| x / (by as f32).sqrt()).collect() };
    Inputs {
        x: by(n * c, 1, 1),
        residual: by(n * c, 2, 1),
        dy: by(n * c, 3, 1),
        router: by(e * c, 4, c),
        gate: by(e * f * c, 5, c),
        up: by(e * f * c, 6, c),
        down: by(e * c * f, 7, f),
    }
}

/// Every tensor of the inputs through `f`.
fn map<T, U>(i: &Inputs<T>, f: impl Fn(&[T]) -> Vec<U>) -> Inputs<U> {
    Inputs {
        x: f(&i.x),
        residual: f(&i.residual),
        dy: f(&i.dy),
        router: f(&i.router),
        gate: f(&i.gate),
        up: f(&i.up),
        down: f(&i.down),
    }
}

#[test]
fn the_oracles_backward_has_the_slopes_of_its_forward() {
    let sizes = Sizes { e: 5, a: 2, c: 6, f: 4, balance: 0.5 };
    let i = map(&inputs(7, sizes), wide);
    let out = oracle(&i, sizes);
    type Field = fn(&mut Inputs<f64>) -> &mut Vec<f64>;
    let fields: [(&str, Field); 5] = [
        ("dx", |i| &mut i.x),
        ("drouter", |i| &mut i.router),
        ("dgate", |i| &mut i.gate),
        ("dup", |i| &mut i.up),
        ("ddown", |i| &mut i.down),
    ];
    for (name, field) in fields {
        let (gradient, scale) = (&out[name], out[name].iter().fold(0f64, |m, g| m.max(g.abs())));
        assert!(scale > 1e-2, "{name}: a gradient to compare with");
        for (at, want) in gradient.iter().enumerate() {
            let moved = |step: f64| {
                let mut i = i.clone();
                field(&mut i)[at] += step;
                loss(&i, sizes)
            };
            let h = 1e-4;
            let slope = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h);
            assert!((slope - want).abs() < 1e-6 * scale, "{name}[{at}]: slope {slope}, gradient {want}");
        }
    }
}

/// N, and sizes: whole vectors and not, few rows an expert and many.
const BLOCKS: [(usize, Sizes); 3] = [
    (37, Sizes { e: 6, a: 2, c: 40, f: 24, balance: 0.5 }),
    (9, Sizes { e: 128, a: 8, c: 33, f: 17, balance: 2.0 }),
    (150, Sizes { e: 4, a: 2, c: 64, f: 48, balance: 0.1 }),
];

/// Largest errors measured, in f32, and with factors or everything in bf16.
const FLOORS: [(&str, [f64; 2]); 8] = [
    ("gates", [1.1e-7, 1.1e-7]),
    ("y", [1.6e-7, 4.5e-3]),
    ("loss", [1.4e-7, 1.4e-7]),
    ("dx", [5.1e-7, 8.0e-3]),
    ("drouter", [4.3e-7, 7.1e-3]),
    ("dgate", [3.6e-7, 3.3e-3]),
    ("dup", [4.3e-7, 3.8e-3]),
    ("ddown", [3.0e-7, 6.9e-3]),
];

/// Devices, the number type of their tensors, and whether factors are bf16.
fn everywhere() -> Vec<(String, Device, DType, bool)> {
    let of = |devices: Vec<(String, Device)>, dtype: DType, rounds| {
        devices.into_iter().map(move |(name, dev)| (format!("{name}, {}", dtype.name()), dev, dtype, rounds))
    };
    let kernels = || kernel_devices().into_iter().skip(1).collect();
    of(devices(), DType::F32, false)
        .chain(of(medium_devices(), DType::F32, true))
        .chain(of(kernels(), DType::F32, false))
        .chain(of(kernels(), DType::Bf16, true))
        .collect()
}

#[test]
fn the_block_is_as_near_to_the_oracle_as_it_was_measured_on_every_device() {
    for (n, sizes) in BLOCKS {
        // What bf16 holds, everywhere: so that all start from the same numbers.
        let i = map(&inputs(n, sizes), |x| floats(&round(x)));
        let want = oracle(&map(&i, wide), sizes);
        let dims = [n, sizes.e, sizes.a, sizes.c, sizes.f];
        for (name, dev, dtype, rounds) in everywhere() {
            let got = run(&dev, dtype, &i, sizes);
            assert_eq!(wide(&got["experts"]), want["experts"], "{name}: {dims:?}");
            for (output, floors) in FLOORS {
                near_all(&format!("{name} {output}"), &dims, &want[output], &got[output], floors[rounds as usize]);
            }
        }
    }
}

/// [`near`] for outputs whose coordinates nobody needs.
#[track_caller]
fn near_all(what: &str, dims: &[usize], want: &[f64], got: &[f32], floor: f64) {
    println!("{dims:?}");
    near(what, &[want.len()], want, got, floor);
}

/// Bits are those of the CPU in f32, and on all that run kernels the same in bf16.
#[test]
fn the_block_has_the_same_bits_everywhere() {
    for (n, sizes) in BLOCKS {
        let i = inputs(n, sizes);
        let mut first: [Option<_>; 3] = [None, None, None];
        for (name, dev, dtype, rounds) in everywhere() {
            let kind = rounds as usize + (dtype == DType::Bf16) as usize;
            let got = run(&dev, dtype, &i, sizes);
            for (output, want) in first[kind].get_or_insert_with(|| got.clone()) {
                same(output, &name, &[n, want.len() / n], want, &got[output]);
            }
        }
    }
}

#[test]
fn a_token_alone_equals_it_in_any_batch_bit_for_bit() {
    for (n, sizes) in BLOCKS {
        // The balance is of a batch, by what it means.
        let (sizes, i) = (Sizes { balance: 0.0, ..sizes }, inputs(n, sizes));
        for (name, dev, dtype, _) in everywhere() {
            let whole = run(&dev, dtype, &i, sizes);
            for tokens in [vec![0], vec![n - 1], vec![n / 2, 0, n / 2], (n / 3..n).rev().collect()] {
                let part = run(&dev, dtype, &rows(&i, &tokens, sizes.c), sizes);
                for (output, width) in [("experts", sizes.a), ("gates", sizes.a), ("y", sizes.c), ("dx", sizes.c)] {
                    let want = pick(&whole[output], &tokens, width);
                    let what = format!("{name}, tokens {tokens:?} of {n}");
                    same(output, &what, &[tokens.len(), width], &want, &part[output]);
                }
            }
        }
    }
}

/// The same layer for some of the tokens.
fn rows(i: &Inputs<f32>, tokens: &[usize], c: usize) -> Inputs<f32> {
    let [x, residual, dy] = [&i.x, &i.residual, &i.dy].map(|x| pick(x, tokens, c));
    Inputs { x, residual, dy, ..i.clone() }
}

fn pick(x: &[f32], tokens: &[usize], width: usize) -> Vec<f32> {
    tokens.iter().flat_map(|t| &x[t * width..][..width]).copied().collect()
}
