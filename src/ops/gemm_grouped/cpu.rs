//! Grouped products on the CPU: the packed products of [`crate::ops::gemm::cpu`], one an expert that has rows.

use crate::device::cpu::Cpu;
use crate::device::cpu::pool::Shared;
use crate::error::{Error, Result};
use crate::ops::gemm::Store;
use crate::ops::gemm::cpu::{Factor, Product, panels_len, run_groups};
use std::ops::Range;

/// The offsets, when they ascend from 0 to R.
pub(crate) fn offsets<'a>(op: &'static str, offsets: &'a [i32], r: usize) -> Result<&'a [i32]> {
    let rule = "offsets [E + 1] ascend from 0 to R";
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    match offsets.windows(2).find(|pair| pair[0] > pair[1]) {
        Some(pair) => Err(Error::Shape { op, rule, want: pair[0] as usize, got: pair[1] as usize }),
        None if first != 0 => Err(Error::Shape { op, rule, want: 0, got: first as usize }),
        None if last as usize != r => Err(Error::Shape { op, rule, want: r, got: last as usize }),
        None => Ok(offsets),
    }
}

/// The rows of expert e.
fn rows(offsets: &[i32], e: usize) -> Range<usize> {
    offsets[e] as usize..offsets[e + 1] as usize
}

/// `from..to` times the width of a row.
fn of(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// See [`crate::ops::gemm_grouped::gemm_grouped_nt`].
pub(crate) fn gemm_grouped_nt(
    cpu: &Cpu,
    a: Factor,
    b: Factor,
    panels: Option<&[f32]>,
    c: &mut [f32],
    offsets: &[i32],
    n: usize,
    k: usize,
    store: Store,
) {
    let (c, len) = (Shared::new(c), panels_len(cpu, n, k, matches!(b, Factor::Bf16(_))));
    run_groups(cpu, offsets.len() - 1, |e| {
        let rows = rows(offsets, e);
        let (a, b) = (a.at(of(&rows, k)), b.at(e * n * k..(e + 1) * n * k));
        let product =
            Product::nt(a, b, &mut [], [rows.len(), n, k], store).panels(panels.map(|p| &p[e * len..][..len]));
        (!rows.is_empty()).then(|| product.into_shared(c.at(rows.start * n, rows.len() * n)))
    });
}

/// See [`crate::ops::gemm_grouped::gemm_grouped_nn`].
pub(crate) fn gemm_grouped_nn(
    cpu: &Cpu,
    a: Factor,
    b: Factor,
    c: &mut [f32],
    offsets: &[i32],
    n: usize,
    k: usize,
    store: Store,
) {
    let c = Shared::new(c);
    run_groups(cpu, offsets.len() - 1, |e| {
        let rows = rows(offsets, e);
        let (a, b) = (a.at(of(&rows, k)), b.at(e * n * k..(e + 1) * n * k));
        let product = Product::nn(a, b, &mut [], [rows.len(), n, k], store);
        (!rows.is_empty()).then(|| product.into_shared(c.at(rows.start * n, rows.len() * n)))
    });
}

/// See [`crate::ops::gemm_grouped::gemm_grouped_tn`].
pub(crate) fn gemm_grouped_tn(
    cpu: &Cpu,
    a: Factor,
    b: Factor,
    c: &mut [f32],
    offsets: &[i32],
    m: usize,
    n: usize,
    store: Store,
) {
    let c = Shared::new(c);
    run_groups(cpu, offsets.len() - 1, |e| {
        let rows = rows(offsets, e);
        let product = Product::tn(a.at(of(&rows, m)), b.at(of(&rows, n)), &mut [], [m, n, rows.len()], store);
        // A sum over no rows is zero, and adds nothing.
        (store == Store::Set || !rows.is_empty()).then(|| product.into_shared(c.at(e * m * n, m * n)))
    });
}
