//! Launches of the matrix products.

use super::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::Store;

/// Rows up to which the tile for few rows is used: decode.
const FEW: usize = 16;
/// Rows of a tile, rows of a tile for few rows, columns of both.
const TILE_F32: [usize; 3] = [64, 16, 64];

/// One product `c [M, N]`, with K.
struct Product<'a> {
    op: &'static str,
    a: View<'a>,
    b: View<'a>,
    c: ViewMut<'a>,
    dims: [usize; 3],
    store: Store,
}

/// See [`crate::ops::gemm::gemm_nt`].
pub fn gemm_nt(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = ["gemm_nt_f32", "gemm_nt_few_f32"];
    run(gpu, Product { op: "gemm_nt", a, b, c, dims: [m, n, k], store }, kernels)
}

/// See [`crate::ops::gemm::gemm_nn`].
pub fn gemm_nn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = ["gemm_nn_f32", "gemm_nn_few_f32"];
    run(gpu, Product { op: "gemm_nn", a, b, c, dims: [m, n, k], store }, kernels)
}

/// See [`crate::ops::gemm::gemm_tn`].
pub fn gemm_tn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = ["gemm_tn_f32", "gemm_tn_few_f32"];
    run(gpu, Product { op: "gemm_tn", a, b, c, dims: [m, n, k], store }, kernels)
}

/// `kernels`: for many rows and for few.
fn run(gpu: &Gpu, p: Product, kernels: [&'static str; 2]) -> Result<()> {
    let [m, n, k] = p.dims;
    if by_dtype(p.op, &[p.a.dtype(), p.b.dtype(), p.c.dtype()])? != DType::F32 {
        return gpu.no_kernel(p.op);
    }
    let few = m <= FEW;
    let [many_rows, few_rows, columns] = TILE_F32;
    let rows = if few { few_rows } else { many_rows };
    gpu.launch(
        &Launch {
            kernel: kernels[few as usize],
            op: p.op,
            grid: [m.div_ceil(rows) as u32, n.div_ceil(columns) as u32, 1],
            block: [(rows / 4 * columns / 4) as u32, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("M={m} N={n} K={k}"),
        },
        &mut [
            Arg::In(p.a),
            Arg::In(p.b),
            Arg::Out(p.c),
            Arg::I64(m as i64),
            Arg::I64(n as i64),
            Arg::I64(k as i64),
            Arg::I32((p.store == Store::Add) as i32),
        ],
    )
}
