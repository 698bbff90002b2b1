//! Norms, rotations, activations, embedding, moves.

use super::Tester;
use crate::device::DType;
use crate::error::Result;
use crate::ops::embed::{copy, embed_bwd, embed_fwd, embed_order_len, fill};
use crate::ops::norm::{rmsnorm_bwd, rmsnorm_fwd, rmsnorm_parts_len};
use crate::ops::rope::{rope_bwd, rope_fwd, table};
use crate::ops::swiglu::{swiglu_bwd, swiglu_fwd};

const THETA: f64 = 1e4;

pub(super) fn all(t: &mut Tester) -> Result<()> {
    rmsnorm(t, 37, 96)?;
    rope(t, 29, 3, 64)?;
    swiglu(t, 700)?;
    embed(t, 41, 50, 72, t.dtype)?;
    if t.dtype == DType::Bf16 {
        // The gradient of a bf16 model's embedding is f32.
        embed(t, 41, 50, 72, DType::F32)?;
    }
    moves(t, 777)
}

fn rmsnorm(t: &mut Tester, n: usize, c: usize) -> Result<()> {
    let (x, w, dy) = (t.input(n * c)?, t.input(c)?, t.input(n * c)?);
    let (mut y, mut rstd) = (t.out(n * c)?, t.out_f32(n)?);
    rmsnorm_fwd(t.dev, x.buffer.view(), w.buffer.view(), y.view_mut(), rstd.view_mut(), 1e-6)?;
    let (want_y, want_rstd) = crate::ops::norm::oracle::rmsnorm_fwd(&x.values, &w.values, 1e-6);
    let shape = format!("N {n} C {c}");
    t.holds("rmsnorm_fwd", "y", &shape, &want_y, &y);
    t.holds("rmsnorm_fwd", "rstd", &shape, &want_rstd, &rstd);
    let (dx0, dw0) = (t.input(n * c)?, t.input_f32(c)?);
    let (mut dx, mut dw) = (dx0.buffer, dw0.buffer);
    let (dy_view, w_view) = (dy.buffer.view(), w.buffer.view());
    let mut parts = t.out_f32(rmsnorm_parts_len(t.dev, n, c))?;
    let (dx_view, dw_view, parts) = (dx.view_mut(), dw.view_mut(), parts.view_mut());
    rmsnorm_bwd(t.dev, dy_view, x.buffer.view(), w_view, rstd.view(), dx_view, dw_view, parts)?;
    let (want_dx, want_dw) = crate::ops::norm::oracle::rmsnorm_bwd(&dy.values, &x.values, &w.values, 1e-6);
    t.holds("rmsnorm_bwd", "dx", &shape, &sum(&want_dx, &dx0.values), &dx);
    t.holds("rmsnorm_bwd", "dw", &shape, &sum(&want_dw, &dw0.values), &dw);
    Ok(())
}

fn rope(t: &mut Tester, n: usize, h: usize, d: usize) -> Result<()> {
    let positions: Vec<i32> = (0..n as i32).map(|i| i * 7 % 128).collect();
    let (on_device, angles) = (t.dev.upload(&positions)?, t.dev.upload(&table(128, d, THETA))?);
    let shape = format!("N {n} H {h} D {d}");
    let mut x = t.input(n * h * d)?;
    rope_fwd(t.dev, x.buffer.view_mut(), on_device.view(), angles.view(), h, d)?;
    t.holds(
        "rope_fwd",
        "x",
        &shape,
        &crate::ops::rope::oracle::rope_fwd(&x.values, &positions, h, d, THETA),
        &x.buffer,
    );
    let mut dx = t.input(n * h * d)?;
    rope_bwd(t.dev, dx.buffer.view_mut(), on_device.view(), angles.view(), h, d)?;
    t.holds(
        "rope_bwd",
        "dx",
        &shape,
        &crate::ops::rope::oracle::rope_bwd(&dx.values, &positions, h, d, THETA),
        &dx.buffer,
    );
    Ok(())
}

fn swiglu(t: &mut Tester, n: usize) -> Result<()> {
    let (gate, up, dh) = (t.input(n)?, t.input(n)?, t.input(n)?);
    let (mut h, mut dgate, mut dup) = (t.out(n)?, t.out(n)?, t.out(n)?);
    let (g, u, shape) = (gate.buffer.view(), up.buffer.view(), format!("NF {n}"));
    swiglu_fwd(t.dev, g, u, h.view_mut())?;
    t.holds("swiglu_fwd", "h", &shape, &crate::ops::swiglu::oracle::swiglu_fwd(&gate.values, &up.values), &h);
    swiglu_bwd(t.dev, dh.buffer.view(), g, u, dgate.view_mut(), dup.view_mut())?;
    let (want_gate, want_up) = crate::ops::swiglu::oracle::swiglu_bwd(&dh.values, &gate.values, &up.values);
    t.holds("swiglu_bwd", "dgate", &shape, &want_gate, &dgate);
    t.holds("swiglu_bwd", "dup", &shape, &want_up, &dup);
    Ok(())
}

fn embed(t: &mut Tester, n: usize, v: usize, c: usize, of_table: DType) -> Result<()> {
    let ids: Vec<i32> = (0..n).map(|i| (i * 31 % v) as i32).collect();
    let (on_device, rows, mut x) = (t.dev.upload(&ids)?, t.input(v * c)?, t.out(n * c)?);
    let shape = format!("N {n} V {v} C {c}");
    embed_fwd(t.dev, on_device.view(), rows.buffer.view(), x.view_mut(), c)?;
    t.holds("embed_fwd", "x", &shape, &crate::ops::embed::oracle::embed_fwd(&ids, &rows.values, c), &x);
    let (dx, start) = (t.input(n * c)?, t.input_as(v * c, of_table)?);
    let mut dtable = start.buffer;
    let mut order = t.dev.zeros(DType::I32, embed_order_len(t.dev, n))?;
    embed_bwd(t.dev, on_device.view(), dx.buffer.view(), dtable.view_mut(), order.view_mut(), c)?;
    let want = sum(&crate::ops::embed::oracle::embed_bwd(&ids, &dx.values, v, c), &start.values);
    t.holds("embed_bwd", "dtable", &shape, &want, &dtable);
    Ok(())
}

fn moves(t: &mut Tester, n: usize) -> Result<()> {
    let (x, shape) = (t.input(n)?, format!("N {n}"));
    let others: &[DType] = if t.dtype == DType::Bf16 { &[DType::Bf16, DType::F32] } else { &[DType::F32] };
    for to in others {
        let mut y = t.dev.zeros(*to, n)?;
        copy(t.dev, x.buffer.view(), y.view_mut())?;
        t.holds_within("copy", &format!("into {}", to.name()), &shape, &x.values, &y, 0.0);
        if *to != t.dtype {
            let mut back = t.out(n)?;
            copy(t.dev, y.view(), back.view_mut())?;
            t.holds_within("copy", &format!("from {}", to.name()), &shape, &x.values, &back, 0.0);
        }
    }
    let mut filled = t.out(n)?;
    fill(t.dev, filled.view_mut(), -1.5)?;
    t.holds_within("fill", "x", &shape, &vec![-1.5; n], &filled, 0.0);
    Ok(())
}

pub(super) fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
