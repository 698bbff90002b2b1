//! Matrix products at the shapes of a model's linear layers.

use super::Bench;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::cost;
use crate::ops::gemm::gpu::gemm_nt_naive;
use crate::ops::gemm::{Matrix, Store, gemm_nn, gemm_nt, gemm_pack, gemm_tn, panels_len};

type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> Result<()>;

/// Decode at 1 to 128 rows, then a training batch: forward, gradient of the input, gradient of the weight.
pub fn gemm(bench: &mut Bench) -> Result<()> {
    let c = &bench.model;
    let (width, f, q, kv) = (c.hidden_size, c.intermediate_size, c.q_dim(), c.kv_dim());
    // (out, in) of the linear layers, the head last.
    let layers = [(q, width), (kv, width), (f, width), (width, f), (c.vocab_size, width)];
    let dtype = bench.dtype;
    for m in bench.sizes([16, 1, 4, 64, 128]) {
        for (n, k) in layers {
            forward(bench, [m, n, k])?;
        }
    }
    for n_tok in bench.sizes([64, 4096]) {
        for (n, k) in layers {
            forward(bench, [n_tok, n, k])?;
            product(bench, "gemm_nn", gemm_nn, [n_tok, k, n], dtype)?;
            // The gradient of a weight is f32 whatever the model is.
            product(bench, "gemm_tn", gemm_tn, [n, k, n_tok], DType::F32)?;
        }
    }
    Ok(())
}

/// As a model runs it: weights in panels, where the device has any.
fn forward(bench: &mut Bench, [m, n, k]: [usize; 3]) -> Result<()> {
    if !bench.wants("gemm_nt") {
        return Ok(());
    }
    let (a, b, mut c) = (bench.noise(m * k)?, bench.noise(n * k)?, bench.zeros(m * n)?);
    let len = panels_len(&bench.dev, n, k);
    let mut panels = bench.zeros(len)?;
    gemm_pack(&bench.dev, b.view(), panels.view_mut(), n, k)?;
    let cost = cost::gemm(m, n, k, [bench.dtype; 2], bench.dtype, false);
    // The naive rung, where kernels are ours.
    if let Device::Gpu(gpu) = bench.dev.clone() {
        bench.op("gemm_nt_naive", "", cost, |_| gemm_nt_naive(&gpu, a.view(), b.view(), c.view_mut(), [m, n, k]))?;
    }
    bench.op("gemm_nt", "", cost, |dev| {
        let b = Matrix { rows: b.view(), panels: (len > 0).then(|| panels.view()) };
        gemm_nt(dev, a.view(), b, c.view_mut(), m, n, k, Store::Set)
    })
}

fn product(bench: &mut Bench, op: &'static str, gemm: Gemm, [m, n, k]: [usize; 3], out: DType) -> Result<()> {
    if !bench.wants(op) {
        return Ok(());
    }
    let (a, b, mut c) = (bench.noise(m * k)?, bench.noise(n * k)?, bench.dev.zeros(out, m * n)?);
    let cost = cost::gemm(m, n, k, [bench.dtype; 2], out, false);
    bench.op(op, "", cost, |dev| gemm(dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set))
}
