//! Matrix products: every tile, every mix of number types.

use super::{Tester, layers::sum};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::gpu::gemm_nt_naive;
use crate::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};

type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> Result<()>;
type Oracle = fn(&[f64], &[f64], usize, usize, usize) -> Vec<f64>;

const OPS: [(&str, Gemm, Oracle); 3] = [
    (
        "gemm_nt",
        |dev, a, b, c, m, n, k, store| gemm_nt(dev, a, b, c, m, n, k, store),
        crate::ops::gemm::oracle::gemm_nt,
    ),
    ("gemm_nn", gemm_nn, crate::ops::gemm::oracle::gemm_nn),
    ("gemm_tn", gemm_tn, crate::ops::gemm::oracle::gemm_tn),
];

/// Few rows, many, and enough for the largest tile; the latter in lines of whole vectors, as Hopper's kernels want them.
const SHAPES: [[usize; 3]; 3] = [[5, 100, 72], [72, 104, 72], [1504, 1456, 8]];

pub(super) fn all(t: &mut Tester) -> Result<()> {
    for (stem, gemm, oracle) in OPS {
        for dims in SHAPES {
            if dims[0] > 1000 && t.dtype == DType::F32 {
                continue;
            }
            product(t, stem, gemm, oracle, dims, t.dtype, Store::Set)?;
            // A product of bf16 into f32: logits, and gradients of weights.
            if t.dtype == DType::Bf16 && stem != "gemm_nn" {
                product(t, stem, gemm, oracle, dims, DType::F32, Store::Set)?;
            }
        }
        product(t, stem, gemm, oracle, SHAPES[1], t.dtype, Store::Add)?;
    }
    naive(t, SHAPES[1])
}

/// What benchmarks compare with: a kernel, but no op.
fn naive(t: &mut Tester, [m, n, k]: [usize; 3]) -> Result<()> {
    let Device::Gpu(gpu) = t.dev else { return Ok(()) };
    let (a, b, start) = (t.input(m * k)?, t.input(n * k)?, t.input(m * n)?);
    let mut c = start.buffer;
    gemm_nt_naive(gpu, a.buffer.view(), b.buffer.view(), c.view_mut(), [m, n, k])?;
    let want = crate::ops::gemm::oracle::gemm_nt(&a.values, &b.values, m, n, k);
    t.holds("gemm_nt_naive", "Set", &format!("M {m} N {n} K {k}"), &want, &c);
    Ok(())
}

fn product(
    t: &mut Tester,
    stem: &'static str,
    gemm: Gemm,
    oracle: Oracle,
    [m, n, k]: [usize; 3],
    out: DType,
    store: Store,
) -> Result<()> {
    let (a, b, start) = (t.input(m * k)?, t.input(n * k)?, t.input_as(m * n, out)?);
    let mut c = start.buffer;
    gemm(t.dev, a.buffer.view(), b.buffer.view(), c.view_mut(), m, n, k, store)?;
    let want = oracle(&a.values, &b.values, m, n, k);
    let want = if store == Store::Add { sum(&want, &start.values) } else { want };
    t.holds(stem, &format!("{store:?} into {}", out.name()), &format!("M {m} N {n} K {k}"), &want, &c);
    Ok(())
}
