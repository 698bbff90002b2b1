//! The other ops of a layer, the embedding and the optimizer.

use super::Bench;
use crate::device::record::Keys;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::attn::{CHUNK, Paged, attn_bwd, attn_decode, attn_fwd, kv_append, kv_copy_page, pages_len};
use crate::ops::cost;
use crate::ops::embed::{copy, embed_bwd, embed_fwd, embed_order_len, fill};
use crate::ops::norm::{rmsnorm_bwd, rmsnorm_fwd, rmsnorm_parts_len};
use crate::ops::optim::{AdamW, GRAD_NORM_PARTS, adamw_step, grad_norm};
use crate::ops::rope::{rope_bwd, rope_fwd, table};
use crate::ops::swiglu::{swiglu_bwd, swiglu_fwd};

type Rope = fn(&Device, ViewMut, View, View, usize, usize) -> Result<()>;

/// Everything that is neither a product nor the head.
pub fn layers(bench: &mut Bench) -> Result<()> {
    for n in bench.sizes([64, 4096]) {
        rmsnorm(bench, n)?;
        swiglu(bench, n)?;
        rope(bench, n)?;
        embed(bench, n)?;
    }
    for t in bench.sizes([64, 256, 512, 4096]) {
        if bench.wants("attn_fwd") || bench.wants("attn_bwd") {
            attn(bench, if t == 64 || t == 4096 { 1 } else { 8 }, t)?;
        }
    }
    for t in bench.sizes([128, 512]) {
        if ["attn_decode", "kv_append", "kv_copy_page"].iter().any(|op| bench.wants(op)) {
            decode(bench, 64, t)?;
        }
    }
    for n in bench.sizes([1 << 16, 1 << 20]) {
        optimizer(bench, n)?;
    }
    Ok(())
}

fn rmsnorm(bench: &mut Bench, n: usize) -> Result<()> {
    let (c, dtype) = (bench.model.hidden_size, bench.dtype);
    let (x, w, dy, mut y) = (bench.noise(n * c)?, bench.noise(c)?, bench.noise(n * c)?, bench.zeros(n * c)?);
    let (mut rstd, mut dx, mut dw) = (bench.zeros_f32(n)?, bench.zeros(n * c)?, bench.zeros_f32(c)?);
    bench.op("rmsnorm_fwd", "", cost::rmsnorm_fwd(n, c, dtype, dtype), |dev| {
        rmsnorm_fwd(dev, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-6)
    })?;
    let mut parts = bench.zeros_f32(rmsnorm_parts_len(&bench.dev, n, c))?;
    bench.op("rmsnorm_bwd", "", cost::rmsnorm_bwd(n, c, dtype), |dev| {
        let (dx, dw, parts) = (dx.view_mut(), dw.view_mut(), parts.view_mut());
        rmsnorm_bwd(dev, dy.view(), x.view(), w.view(), rstd.view(), dx, dw, parts)
    })
}

fn swiglu(bench: &mut Bench, n: usize) -> Result<()> {
    let (nf, dtype) = (n * bench.model.intermediate_size, bench.dtype);
    let [gate, up, dh] = [bench.noise(nf)?, bench.noise(nf)?, bench.noise(nf)?];
    let [mut h, mut dgate, mut dup] = [bench.zeros(nf)?, bench.zeros(nf)?, bench.zeros(nf)?];
    bench.op("swiglu_fwd", "", cost::swiglu_fwd(nf, dtype, dtype), |dev| {
        swiglu_fwd(dev, gate.view(), up.view(), h.view_mut())
    })?;
    bench.op("swiglu_bwd", "", cost::swiglu_bwd(nf, dtype, dtype), |dev| {
        swiglu_bwd(dev, dh.view(), gate.view(), up.view(), dgate.view_mut(), dup.view_mut())
    })
}

fn rope(bench: &mut Bench, n: usize) -> Result<()> {
    let (h, d) = (bench.model.num_attention_heads, bench.model.head_dim);
    let mut x = bench.noise(n * h * d)?;
    let positions = bench.dev.upload(&(0..n as i32).collect::<Vec<i32>>())?;
    let angles = bench.dev.upload(&table(n, d, 1e4))?;
    let cost = cost::rope(n, h, d, bench.dtype);
    for (op, rope) in [("rope_fwd", rope_fwd as Rope), ("rope_bwd", rope_bwd)] {
        bench.op(op, "", cost, |dev| rope(dev, x.view_mut(), positions.view(), angles.view(), h, d))?;
    }
    Ok(())
}

fn embed(bench: &mut Bench, n: usize) -> Result<()> {
    let (c, v, dtype) = (bench.model.hidden_size, bench.model.vocab_size, bench.dtype);
    if !["embed_fwd", "embed_bwd", "copy", "fill"].iter().any(|op| bench.wants(op)) {
        return Ok(());
    }
    let ids = bench.dev.upload(&(0..n).map(|i| (i * 37 % v) as i32).collect::<Vec<i32>>())?;
    let (w, mut x, mut dw) = (bench.noise(v * c)?, bench.zeros(n * c)?, bench.zeros_f32(v * c)?);
    bench.op("embed_fwd", "", cost::embed_fwd(n, c, dtype), |dev| {
        embed_fwd(dev, ids.view(), w.view(), x.view_mut(), c)
    })?;
    let mut order = bench.dev.zeros(DType::I32, embed_order_len(&bench.dev, n))?;
    bench.op("embed_bwd", "", cost::embed_bwd(n, c, dtype, DType::F32), |dev| {
        embed_bwd(dev, ids.view(), x.view(), dw.view_mut(), order.view_mut(), c)
    })?;
    let (from, mut to) = (bench.noise_f32(n * c)?, bench.zeros_f32(n * c)?);
    bench.op("copy", "", cost::copy(n * c, DType::F32, DType::F32), |dev| copy(dev, from.view(), to.view_mut()))?;
    bench.op("fill", "", cost::fill(n * c, DType::F32), |dev| fill(dev, to.view_mut(), 0.0))
}

fn attn(bench: &mut Bench, b: usize, t: usize) -> Result<()> {
    let (heads, dtype) = (bench.model.heads(), bench.dtype);
    let (n, wide, narrow) = (b * t, heads.q * heads.dim, heads.kv * heads.dim);
    let offsets: Vec<i32> = (0..=b).map(|i| (i * t) as i32).collect();
    let (cu, keys) = (bench.dev.upload(&offsets)?, Keys::packed(&offsets));
    let (q, k, v) = (bench.noise(n * wide)?, bench.noise(n * narrow)?, bench.noise(n * narrow)?);
    let (d_o, mut o, mut lse) = (bench.noise(n * wide)?, bench.zeros(n * wide)?, bench.zeros_f32(n * heads.q)?);
    let (mut dq, mut dk, mut dv) = (bench.zeros(n * wide)?, bench.zeros(n * narrow)?, bench.zeros(n * narrow)?);
    let what = format!("B {b}");
    bench.op("attn_fwd", &what, cost::attn_fwd(n, heads, keys, dtype), |dev| {
        let (o, lse) = (o.view_mut(), lse.view_mut());
        attn_fwd(dev, q.view(), k.view(), v.view(), cu.view(), o, lse, heads)
    })?;
    bench.op("attn_bwd", &what, cost::attn_bwd(n, heads, keys, dtype), |dev| {
        let (q, k, v, o, lse) = (q.view(), k.view(), v.view(), o.view(), lse.view());
        let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        attn_bwd(dev, d_o.view(), q, k, v, o, lse, cu.view(), dq, dk, dv, heads)
    })
}

fn decode(bench: &mut Bench, b: usize, t: usize) -> Result<()> {
    let (heads, dtype, max_pages) = (bench.model.heads(), bench.dtype, t.div_ceil(CHUNK));
    let (len, wide, narrow) = (pages_len(b * max_pages, heads), heads.q * heads.dim, heads.kv * heads.dim);
    let pages = bench.dev.factor_dtype(dtype);
    let (mut k, mut v) = (bench.noise_of(pages, len)?, bench.noise_of(pages, len)?);
    let (q, mut o) = (bench.noise(b * wide)?, bench.zeros(b * wide)?);
    let (new_k, new_v) = (bench.noise(b * narrow)?, bench.noise(b * narrow)?);
    let (seqs, positions): (Vec<i32>, Vec<i32>) = ((0..b as i32).collect(), vec![t as i32 - 1; b]);
    let keys = Keys::paged(&seqs, &positions);
    let (seq, pos) = (bench.dev.upload(&seqs)?, bench.dev.upload(&positions)?);
    let table = bench.dev.upload(&(0..(b * max_pages) as i32).collect::<Vec<i32>>())?;
    let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages };
    bench.op("attn_decode", &format!("T {t}"), cost::attn_decode(b, heads, keys, dtype, pages), |dev| {
        attn_decode(dev, q.view(), k.view(), v.view(), at, o.view_mut(), heads)
    })?;
    bench.op("kv_append", "", cost::kv_append(b, heads, dtype, pages), |dev| {
        kv_append(dev, new_k.view(), new_v.view(), at, k.view_mut(), v.view_mut(), heads)
    })?;
    bench.op("kv_copy_page", "", cost::copy(pages_len(1, heads), pages, pages), |dev| {
        kv_copy_page(dev, k.view_mut(), 0, max_pages, heads)
    })
}

fn optimizer(bench: &mut Bench, n: usize) -> Result<()> {
    let (g, mut w) = (bench.noise_f32(n)?, bench.noise_f32(n)?);
    let (mut m, mut v) = (bench.zeros_f32(n)?, bench.zeros_f32(n)?);
    let (mut norm, mut parts) = (bench.zeros_f32(1)?, bench.dev.zeros(DType::U64, GRAD_NORM_PARTS)?);
    let how = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, grad_scale: 1.0, step: 9 };
    bench.op("grad_norm", "", cost::grad_norm(n), |dev| grad_norm(dev, g.view(), norm.view_mut(), parts.view_mut()))?;
    bench.op("adamw_step", "", cost::adamw_step(n, false), |dev| {
        adamw_step(dev, g.view(), w.view_mut(), m.view_mut(), v.view_mut(), None, how)
    })
}
