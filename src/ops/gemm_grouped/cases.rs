//! Cases of grouped products: few rows an expert, some, many; experts without rows, one expert, odd sizes, no row; set and
//! added to; weights in panels where the device has any.

use super::{cost, gemm_grouped_nn, gemm_grouped_nt, gemm_grouped_tn, oracle};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::case::{Dims, Floor, Stage, sum};
use crate::ops::gemm::{Matrix, Store, gemm_pack, panels_len};
use crate::ops::moe::oracle::moe_sort;

type Rows = fn(&Device, View, View, ViewMut, View, usize, usize, Store) -> Result<()>;
type Oracle = fn(&[f64], &[f64], &[i32], usize, usize) -> Vec<f64>;

const OF_ROWS: [(&str, Rows, Oracle); 2] = [
    (
        "gemm_grouped_nt",
        |dev, a, b, c, offsets, n, k, store| gemm_grouped_nt(dev, a, b, c, offsets, n, k, store),
        oracle::gemm_grouped_nt,
    ),
    ("gemm_grouped_nn", gemm_grouped_nn, oracle::gemm_grouped_nn),
];

/// R, E, N, K: tiles for few rows an expert, for some, for many, and as many experts as take the largest tile of gradients.
const FEW: [[usize; 4]; 4] = [[5, 8, 100, 72], [130, 4, 40, 24], [300, 2, 72, 104], [40, 140, 24, 8]];
const ODD: [[usize; 4]; 6] =
    [[1, 1, 1, 1], [3, 128, 65, 33], [37, 5, 1, 19], [70, 3, 47, 1], [9, 2, 33, 1500], [0, 3, 4, 5]];

const FLOOR: Floor = [1.3e-6, 3.2e-3];
/// Gradients of weights are f32 whatever the model is.
const FLOOR_TN: f64 = 4.7e-7;

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    // Decode, and a training batch, of an expert's two kinds of layers.
    let model = |m: Dims| {
        let of = |experts: crate::ops::case::Experts| {
            let layers = [[experts.mlp, m.width], [m.width, experts.mlp]];
            let rows = [64, 1, 4096].map(|n| n * experts.n_active);
            rows.iter().flat_map(|r| layers.map(|[n, k]| [*r, experts.n_experts, n, k])).collect()
        };
        m.experts.map_or(vec![], of)
    };
    for dims in s.shapes(&FEW, &ODD, model) {
        let stores = if s.times() { &[Store::Set][..] } else { &[Store::Set, Store::Add] };
        for store in stores {
            for of_rows in OF_ROWS {
                rows(s, of_rows, dims, *store)?;
            }
            weights(s, dims, *store)?;
        }
        packed(s, dims)?;
    }
    Ok(())
}

/// Offsets of R rows of E experts, some of which have none.
fn offsets(s: &mut Stage, r: usize, e: usize) -> Result<(crate::device::Buffer, Vec<i32>)> {
    let (_, experts) = s.indices(r, e)?;
    let offsets = moe_sort(&experts, e).2;
    Ok((s.dev.upload(&offsets)?, offsets))
}

fn rows(
    s: &mut Stage,
    (stem, op, oracle): (&'static str, Rows, Oracle),
    [r, e, n, k]: [usize; 4],
    store: Store,
) -> Result<()> {
    if !s.wants(&[stem]) {
        return Ok(());
    }
    let ((at, offsets), a, b) = (offsets(s, r, e)?, s.input(r * k)?, s.input(e * n * k)?);
    let adds = store == Store::Add;
    let mut c = if adds { s.input(r * n)? } else { s.tensor(&vec![f32::NAN; r * n], s.dtype)? };
    s.call(stem, &format!("E={e}"), cost::gemm_grouped([r, n, k], e, [s.dtype; 2], s.dtype, adds), |dev| {
        op(dev, a.buffer.view(), b.buffer.view(), c.buffer.view_mut(), at.view(), n, k, store)
    })?;
    s.holds(if adds { "c, added to" } else { "c" }, &c.buffer, FLOOR, || {
        let product = oracle(&a.values, &b.values, &offsets, n, k);
        if adds { sum(&product, &c.values) } else { product }
    });
    Ok(())
}

fn weights(s: &mut Stage, [r, e, m, n]: [usize; 4], store: Store) -> Result<()> {
    if !s.wants(&["gemm_grouped_tn"]) {
        return Ok(());
    }
    let ((at, offsets), a, b) = (offsets(s, r, e)?, s.input(r * m)?, s.input(r * n)?);
    let adds = store == Store::Add;
    let mut c = if adds { s.input_f32(e * m * n)? } else { s.tensor(&vec![f32::NAN; e * m * n], DType::F32)? };
    s.call("gemm_grouped_tn", &format!("E={e}"), cost::gemm_grouped_tn([r, m, n], e, [s.dtype; 2], adds), |dev| {
        gemm_grouped_tn(dev, a.buffer.view(), b.buffer.view(), c.buffer.view_mut(), at.view(), m, n, store)
    })?;
    s.holds(if adds { "f32 c, added to" } else { "f32 c" }, &c.buffer, [FLOOR_TN; 2], || {
        let product = oracle::gemm_grouped_tn(&a.values, &b.values, &offsets, m, n);
        if adds { sum(&product, &c.values) } else { product }
    });
    Ok(())
}

/// The forward with weights in panels, where the device has any.
fn packed(s: &mut Stage, [r, e, n, k]: [usize; 4]) -> Result<()> {
    let len = panels_len(&s.dev, n, k, s.dtype);
    if len == 0 || !s.wants(&["gemm_grouped_nt"]) {
        return Ok(());
    }
    let ((at, offsets), a, b) = (offsets(s, r, e)?, s.input(r * k)?, s.input(e * n * k)?);
    let (mut panels, mut c) = (s.dev.zeros(DType::F32, e * len)?, s.out(r * n)?);
    for e in 0..e {
        gemm_pack(&s.dev, b.buffer.at(e * n * k..(e + 1) * n * k), panels.at_mut(e * len..(e + 1) * len), n, k)?;
    }
    s.call(
        "gemm_grouped_nt",
        &format!("E={e}, packed"),
        cost::gemm_grouped([r, n, k], e, [s.dtype; 2], s.dtype, false),
        |dev| {
            let b = Matrix { rows: b.buffer.view(), panels: Some(panels.view()) };
            gemm_grouped_nt(dev, a.buffer.view(), b, c.view_mut(), at.view(), n, k, Store::Set)
        },
    )?;
    s.holds("c of panels", &c, FLOOR, || oracle::gemm_grouped_nt(&a.values, &b.values, &offsets, n, k));
    Ok(())
}
