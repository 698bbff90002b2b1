//! Cases of the rows that routing moves: gathered, combined, and both backwards.

use super::{cost, moe_combine_bwd, moe_combine_fwd, moe_gather_bwd, moe_gather_fwd, oracle};
use crate::device::Buffer;
use crate::error::Result;
use crate::ops::case::{EXACT, Floor, Stage, Tensor};
use crate::ops::gemm::Store;

const FLOOR_DX: Floor = [2.0e-7, 3.7e-3];
const FLOOR_Y: Floor = [1.7e-7, 3.1e-3];
const FLOOR_DOUT: Floor = [5.0e-8, 3.3e-3];
const FLOOR_DGATES: Floor = [1.3e-7; 2];

/// A routed batch: what the other ops read.
pub(super) struct Routed {
    pub dims: [usize; 4],
    pub probs: Tensor,
    pub experts: (Buffer, Vec<i32>),
    pub gates: Tensor,
}

/// All of them, of one routed batch.
pub(super) fn all(s: &mut Stage, routed: &Routed) -> Result<()> {
    let ([_, e, ..], ids) = (routed.dims, &routed.experts.1);
    let (order, place, _) = oracle::moe_sort(ids, e);
    gather(s, routed, &order, &place)?;
    combine(s, routed, &order, &place)
}

fn gather(s: &mut Stage, routed: &Routed, order: &[i32], place: &[i32]) -> Result<()> {
    if !s.wants(&["moe_gather_fwd", "moe_gather_bwd"]) {
        return Ok(());
    }
    let ([n, _, a, c], r, dtype) = (routed.dims, order.len(), s.dtype);
    let (at, to) = (s.dev.upload(order)?, s.dev.upload(place)?);
    let (x, mut xs) = (s.input(n * c)?, s.out(r * c)?);
    s.call("moe_gather_fwd", "", cost::moe_gather_fwd(n, r, c, dtype), |dev| {
        moe_gather_fwd(dev, x.buffer.view(), [at.view(), to.view()], xs.view_mut(), c)
    })?;
    s.holds("xs", &xs, EXACT, || oracle::moe_gather_fwd(&x.values, order, a, c));
    for store in [Store::Set, Store::Add] {
        let (dxs, adds) = (s.input(r * c)?, store == Store::Add);
        let mut dx = if adds { s.input(n * c)? } else { s.tensor(&vec![f32::NAN; n * c], dtype)? };
        s.call("moe_gather_bwd", "", cost::moe_gather_bwd(n, r, c, dtype, adds), |dev| {
            moe_gather_bwd(dev, dxs.buffer.view(), to.view(), dx.buffer.view_mut(), c, store)
        })?;
        let output = if adds { "dx, added to" } else { "dx" };
        s.holds(output, &dx.buffer, FLOOR_DX, || oracle::moe_gather_bwd(&dxs.values, place, &dx.values, a, c, store));
    }
    Ok(())
}

fn combine(s: &mut Stage, routed: &Routed, order: &[i32], place: &[i32]) -> Result<()> {
    if !s.wants(&["moe_combine_fwd", "moe_combine_bwd"]) {
        return Ok(());
    }
    let ([n, _, a, c], r, dtype, gates) = (routed.dims, order.len(), s.dtype, &routed.gates);
    let (at, to) = (s.dev.upload(order)?, s.dev.upload(place)?);
    let (out, mut y) = (s.input(r * c)?, s.input(n * c)?);
    s.call("moe_combine_fwd", "", cost::moe_combine_fwd(n, r, c, dtype), |dev| {
        moe_combine_fwd(dev, out.buffer.view(), gates.buffer.view(), to.view(), y.buffer.view_mut(), c)
    })?;
    s.holds("y", &y.buffer, FLOOR_Y, || oracle::moe_combine_fwd(&out.values, &gates.values, place, &y.values, a, c));
    let (dy, mut dout, mut dgates) = (s.input(n * c)?, s.out(r * c)?, s.out_f32(r)?);
    s.call("moe_combine_bwd", "", cost::moe_combine_bwd(n, r, c, dtype, dtype), |dev| {
        let (dy, out, gates) = (dy.buffer.view(), out.buffer.view(), gates.buffer.view());
        moe_combine_bwd(dev, dy, out, gates, [at.view(), to.view()], dout.view_mut(), dgates.view_mut(), c)
    })?;
    let want = || oracle::moe_combine_bwd(&dy.values, &out.values, &gates.values, place, a, c);
    s.holds("dout", &dout, FLOOR_DOUT, || want().0);
    s.holds("dgates", &dgates, FLOOR_DGATES, || want().1);
    Ok(())
}
