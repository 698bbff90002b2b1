//! Cases of the embedding and of moves: one of everything, ids that come often, a table of either number type.

use super::{add, copy, cost, embed_bwd, embed_fwd, embed_order_len, fill, oracle, scale};
use crate::device::DType;
use crate::error::Result;
use crate::ops::case::{EXACT, Floor, Stage, sum};

const FLOOR_DTABLE: Floor = [4.3e-7, 3.0e-3];
const FLOOR_SCALED: Floor = [6.0e-8, 3.9e-3];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let odd = [[1, 1, 1], [7, 3, 5], [900, 11, 33], [40, 2000, 128]];
    for dims in s.shapes(&[[41, 50, 72]], &odd, |m| [64, 4096].map(|n| [n, m.vocab, m.width]).into()) {
        // The gradient of a bf16 model's embedding is f32.
        let tables = if s.dtype == DType::Bf16 { &[DType::F32, DType::Bf16][..] } else { &[DType::F32] };
        for table in &tables[..if s.times() { 1 } else { tables.len() }] {
            embed(s, dims, *table)?;
        }
    }
    for n in s.shapes(&[777], &[1, 30_000], |m| [64, 4096].map(|n| n * m.width).into()) {
        moves(s, n)?;
    }
    for n in s.shapes(&[777], &[1, 30_000], |m| vec![16 * m.width]) {
        scaled(s, n)?;
        added(s, n)?;
    }
    Ok(())
}

/// Gradients are added in f32, whatever the model computes in.
fn added(s: &mut Stage, n: usize) -> Result<()> {
    if !s.wants(&["add"]) {
        return Ok(());
    }
    let (x, mut y) = (s.input_as(n, DType::F32)?, s.input_as(n, DType::F32)?);
    s.call("add", "", cost::add(n), |dev| add(dev, x.buffer.view(), y.buffer.view_mut()))?;
    s.holds("y", &y.buffer, [FLOOR_SCALED[0]; 2], || oracle::add(&x.values, &y.values));
    Ok(())
}

/// By no power of two, in each pair of number types that there is.
fn scaled(s: &mut Stage, n: usize) -> Result<()> {
    const FACTOR: f32 = 0.7;
    let pairs = match s.dtype {
        DType::Bf16 => &[(DType::Bf16, DType::Bf16), (DType::F32, DType::Bf16)][..],
        _ => &[(DType::F32, DType::F32)],
    };
    if !s.wants(&["scale"]) {
        return Ok(());
    }
    for (from, to) in pairs {
        let (x, mut y) = (s.input_as(n, *from)?, s.out_as(n, *to)?);
        s.call("scale", "", cost::scale(n, *from, *to), |dev| scale(dev, x.buffer.view(), y.view_mut(), FACTOR))?;
        s.holds(from.name(), &y, FLOOR_SCALED, || oracle::scale(&x.values, FACTOR as f64));
    }
    Ok(())
}

fn embed(s: &mut Stage, [n, v, c]: [usize; 3], of_table: DType) -> Result<()> {
    if !s.wants(&["embed_fwd", "embed_bwd"]) {
        return Ok(());
    }
    let (dtype, (ids, host), rows, mut x) = (s.dtype, s.indices(n, v)?, s.input(v * c)?, s.out(n * c)?);
    s.call("embed_fwd", "", cost::embed_fwd(n, c, dtype), |dev| {
        embed_fwd(dev, ids.view(), rows.buffer.view(), x.view_mut(), c)
    })?;
    s.holds("x", &x, EXACT, || oracle::embed_fwd(&host, &rows.values, c));
    let (dx, mut table) = (s.input(n * c)?, s.input_as(v * c, of_table)?);
    // Scratch, full of what is no row.
    let mut order = s.dev.upload(&vec![i32::MIN; embed_order_len(&s.dev, n)])?;
    s.call("embed_bwd", "", cost::embed_bwd(n, c, dtype, of_table), |dev| {
        embed_bwd(dev, ids.view(), dx.buffer.view(), table.buffer.view_mut(), order.view_mut(), c)
    })?;
    let floor = if of_table == DType::F32 { [FLOOR_DTABLE[0]; 2] } else { FLOOR_DTABLE };
    s.holds("dtable", &table.buffer, floor, || sum(&oracle::embed_bwd(&host, &dx.values, v, c), &table.values));
    s.exactly("scratch ends where it says", |_| Ok(order.guard_intact()))
}

fn moves(s: &mut Stage, n: usize) -> Result<()> {
    if !s.wants(&["copy", "fill"]) {
        return Ok(());
    }
    let others = if s.dtype == DType::Bf16 && !s.times() { &[DType::Bf16, DType::F32][..] } else { &[DType::F32] };
    for to in others {
        let (from, to) = if s.times() { (DType::F32, DType::F32) } else { (s.dtype, *to) };
        let (x, mut y, mut back) = (s.input_as(n, from)?, s.out_as(n, to)?, s.out_as(n, from)?);
        let (there, again) = (format!("into {}", to.name()), format!("from {}", to.name()));
        s.call("copy", "", cost::copy(n, from, to), |dev| copy(dev, x.buffer.view(), y.view_mut()))?;
        s.holds(&there, &y, EXACT, || x.values.clone());
        if from != to {
            s.call("copy", "", cost::copy(n, to, from), |dev| copy(dev, y.view(), back.view_mut()))?;
            s.holds(&again, &back, EXACT, || x.values.clone());
        }
        s.call("fill", "", cost::fill(n, to), |dev| fill(dev, y.view_mut(), 1.5))?;
        s.holds(to.name(), &y, EXACT, || vec![1.5; n]);
    }
    Ok(())
}
