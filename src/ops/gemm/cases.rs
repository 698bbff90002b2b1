//! Cases of matrix products: ones, odd sizes, one row, one column, a thin and a long sum; set and added to, in the model's
//! type and into f32; by every tile that a device has kernels of; weights in panels where the device has any.

use super::gpu;
use super::ladder::{self, gemm_nt_naive};
use super::{Matrix, Store, cost, gemm_nn, gemm_nt, gemm_pack, gemm_tn, oracle, panels_len};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::case::{Dims, EXACT, Floor, Stage, sum};

type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> Result<()>;
type Oracle = fn(&[f64], &[f64], usize, usize, usize) -> Vec<f64>;

const OPS: [(&str, Gemm, Oracle, &gpu::Op); 3] = [
    ("gemm_nt", |dev, a, b, c, m, n, k, store| gemm_nt(dev, a, b, c, m, n, k, store), oracle::gemm_nt, &gpu::NT),
    ("gemm_nn", gemm_nn, oracle::gemm_nn, &gpu::NN),
    ("gemm_tn", gemm_tn, oracle::gemm_tn, &gpu::TN),
];

/// Few rows, and many.
const FEW: [[usize; 3]; 2] = [[5, 100, 72], [72, 104, 72]];
const ODD: [[usize; 3]; 6] = [[1, 1, 1], [1, 65, 33], [37, 1, 19], [13, 47, 1], [65, 130, 128], [9, 33, 3000]];
/// More than one of the largest tile, in lines of whole vectors, as Hopper's kernels want them; bf16 alone.
const LARGE: [usize; 3] = [136, 264, 72];
/// For the ladder: more than one of its tiles, and of no tile a multiple; a slot and a part of one.
const LADDER: [[usize; 3]; 2] = [[1, 8, 8], [70, 100, 72]];

const FLOOR_OF_ONE: f64 = 6.0e-8;
const FLOOR_OF_SOME: f64 = 3.7e-7;
const FLOOR_OF_MANY: f64 = 1.9e-6;
const FLOOR_BF16: f64 = 3.5e-3;

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    if s.times() {
        return timed(s);
    }
    let shapes = s.shapes(&FEW, &ODD, |_| vec![]);
    for (stem, gemm, oracle, op) in OPS {
        for dims in &shapes {
            for store in [Store::Set, Store::Add] {
                product(s, stem, gemm, oracle, *dims, s.dtype, store)?;
            }
        }
        if s.dtype == DType::Bf16 {
            // Into f32: logits, and gradients of weights; there is no such gemm_nn.
            let into = if stem == "gemm_nn" { &[DType::Bf16][..] } else { &[DType::Bf16, DType::F32] };
            for out in into {
                for dims in FEW {
                    product(s, stem, gemm, oracle, dims, *out, Store::Set)?;
                }
                every_tile(s, stem, op, oracle, *out)?;
            }
        }
    }
    for dims in shapes {
        forward(s, dims)?;
    }
    Ok(())
}

/// The ladder at few shapes.
///
/// # Errors
/// What a rung refuses.
pub fn rungs(s: &mut Stage) -> Result<()> {
    LADDER.into_iter().try_for_each(|dims| climb(s, dims))
}

/// Every rung of the ladder that the device has, on the same numbers; bf16, K % 8 == 0. Nothing on the CPU.
///
/// # Errors
/// What a rung refuses.
pub fn climb(s: &mut Stage, [m, n, k]: [usize; 3]) -> Result<()> {
    let Device::Gpu(gpu) = s.dev.clone() else { return Ok(()) };
    let (a, b) = (s.input(m * k)?, s.input(n * k)?);
    for (rung, how) in ladder::RUNGS.iter().filter(|(rung, _)| rung.runs_on(&gpu)) {
        let mut c = s.out(m * n)?;
        s.call(rung.stem, "", cost::gemm(m, n, k, [s.dtype; 2], s.dtype, false), |_| {
            ladder::gemm_nt(&gpu, how, [a.buffer.view(), b.buffer.view()], c.view_mut(), [m, n, k])
        })?;
        s.holds("c", &c, floor(k, s.dtype), || oracle::gemm_nt(&a.values, &b.values, m, n, k));
    }
    Ok(())
}

/// Decode at 1 to 128 rows, then a training batch: forward, gradient of the input, gradient of the weight.
fn timed(s: &mut Stage) -> Result<()> {
    // (out, in) of the linear layers, the head last.
    let layers = |m: Dims| {
        let (q, kv) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
        [(q, m.width), (kv, m.width), (m.mlp, m.width), (m.width, m.mlp), (m.vocab, m.width)]
    };
    let of = |rows: &[usize], m: Dims| -> Vec<[usize; 3]> {
        rows.iter().flat_map(|r| layers(m).map(|(n, k)| [*r, n, k])).collect()
    };
    for rows in [16, 1, 4, 64, 128] {
        for dims in s.shapes(&[], &[], |m| of(&[rows], m)) {
            forward(s, dims)?;
        }
    }
    let ([_, nn, tn], dtype) = (OPS, s.dtype);
    for [n_tok, n, k] in s.shapes(&[], &[], |m| of(&[64, 4096], m)) {
        forward(s, [n_tok, n, k])?;
        product(s, nn.0, nn.1, nn.2, [n_tok, k, n], dtype, Store::Set)?;
        // The gradient of a weight is f32 whatever the model is.
        product(s, tn.0, tn.1, tn.2, [n, k, n_tok], DType::F32, Store::Set)?;
    }
    Ok(())
}

/// As a model runs it, weights in panels where the device has any; and the naive rung, where kernels are ours.
fn forward(s: &mut Stage, [m, n, k]: [usize; 3]) -> Result<()> {
    if !s.wants(&["gemm_nt", "gemm_nt_naive", "gemm_pack"]) {
        return Ok(());
    }
    let (a, b) = (s.input(m * k)?, s.input(n * k)?);
    let (mut c, len) = (s.out(m * n)?, panels_len(&s.dev, n, k, s.dtype));
    let cost = cost::gemm(m, n, k, [s.dtype; 2], s.dtype, false);
    let want = || oracle::gemm_nt(&a.values, &b.values, m, n, k);
    // What benchmarks compare with: a kernel, but no op.
    if let Device::Gpu(gpu) = s.dev.clone() {
        let (mut start, floor) = (s.input(m * n)?, floor(k, s.dtype));
        s.call("gemm_nt_naive", "", cost, |_| {
            gemm_nt_naive(&gpu, a.buffer.view(), b.buffer.view(), start.buffer.view_mut(), [m, n, k])
        })?;
        s.holds("c", &start.buffer, floor, want);
    }
    let mut panels = s.dev.zeros(s.dtype, len)?;
    let packed = crate::ops::embed::cost::copy(len, s.dtype, s.dtype);
    if len > 0 || s.times() {
        s.call("gemm_pack", "", packed, |dev| gemm_pack(dev, b.buffer.view(), panels.view_mut(), n, k))?;
        s.exactly("panels end where they say", |_| Ok(panels.guard_intact()))?;
    }
    let floor = floor(k, s.dtype);
    s.call("gemm_nt", "", cost, |dev| {
        let b = Matrix { rows: b.buffer.view(), panels: (len > 0).then(|| panels.view()) };
        gemm_nt(dev, a.buffer.view(), b, c.view_mut(), m, n, k, Store::Set)
    })?;
    s.holds("c of panels", &c, floor, want);
    Ok(())
}

fn product(
    s: &mut Stage,
    stem: &'static str,
    gemm: Gemm,
    oracle: Oracle,
    [m, n, k]: [usize; 3],
    out: DType,
    store: Store,
) -> Result<()> {
    if !s.wants(&[stem]) {
        return Ok(());
    }
    let (a, b, start) = (s.input(m * k)?, s.input(n * k)?, s.input_as(m * n, out)?);
    let mut c =
        if store == Store::Add { s.tensor(&host(s, &start.buffer)?, out)?.buffer } else { s.out_as(m * n, out)? };
    let (adds, floor) = (store == Store::Add, floor(k, out));
    let added = if adds { "added to" } else { "" };
    s.call(stem, added, cost::gemm(m, n, k, [s.dtype; 2], out, adds), |dev| {
        gemm(dev, a.buffer.view(), b.buffer.view(), c.view_mut(), m, n, k, store)
    })?;
    let what = format!("{} c{}", out.name(), if adds { ", added to" } else { "" });
    s.holds(&what, &c, floor, || {
        let product = oracle(&a.values, &b.values, m, n, k);
        if adds { sum(&product, &start.values) } else { product }
    });
    Ok(())
}

/// By every tile of the op that this device has, whichever it would choose; on the same numbers, however many tiles there are.
fn every_tile(s: &mut Stage, stem: &'static str, op: &gpu::Op, oracle: Oracle, out: DType) -> Result<()> {
    let Device::Gpu(gpu) = s.dev.clone() else { return Ok(()) };
    let ([m, n, k], hopper) = (LARGE, gpu.hopper());
    let (a, b) = (s.input(m * k)?, s.input(n * k)?);
    for tile in op.tiles(hopper) {
        let mut c = s.out_as(m * n, out)?;
        s.call(stem, "", cost::gemm(m, n, k, [s.dtype; 2], out, false), |_| {
            let (factors, c) = ([a.buffer.view(), b.buffer.view()], c.view_mut());
            gpu::by_tile(&gpu, op, tile, factors, c, LARGE, Store::Set)
        })?;
        let what = format!("{} c by a tile of {} x {}", out.name(), tile.rows, tile.columns);
        s.holds(&what, &c, floor(k, out), || oracle(&a.values, &b.values, m, n, k));
    }
    Ok(())
}

/// A buffer's numbers as f32.
fn host(s: &Stage, buffer: &crate::device::Buffer) -> Result<Vec<f32>> {
    Ok(match buffer.dtype() {
        DType::Bf16 => s.dev.download::<half::bf16>(buffer.view())?.iter().map(|x| x.to_f32()).collect(),
        _ => s.dev.download(buffer.view())?,
    })
}

/// The longer the sum, the larger the error; what is stored in f32 was rounded nowhere on the way.
fn floor(k: usize, out: DType) -> Floor {
    let f32 = if k == 1 {
        FLOOR_OF_ONE
    } else if k > 1000 {
        FLOOR_OF_MANY
    } else {
        FLOOR_OF_SOME
    };
    if out == DType::F32 { [f32; 2] } else { [EXACT[0], FLOOR_BF16] }
}
