//! Products of rows that stand group by group, each group's with its own matrix: the linear layers of experts.
//!
//! `offsets [E + 1]`, of [`moe_sort`](crate::ops::moe::moe_sort), say where each expert's rows begin; on a GPU they are read
//! there, so that nobody waits to learn how many rows an expert got. Each row has the bits of the plain op on that row
//! alone, each expert's gradient those of the plain op on its rows.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::gemm::{Matrix, Store, panels_len};
use super::want;
use crate::device::{Device, View, ViewMut};
use crate::error::Result;

/// `c_r = a_r b_e^T` or `c_r += a_r b_e^T`, e the expert of row r; a `[R, K]`, b `[E, N, K]`, c `[R, N]`. The forward of
/// experts' linear layers. Row rule in R. Panels of b are those of its matrices, one after the other. On the CPU b may be bf16,
/// of weights that are held so.
pub fn gemm_grouped_nt<'b>(
    dev: &Device,
    a: View,
    b: impl Into<Matrix<'b>>,
    mut c: ViewMut,
    offsets: View,
    n: usize,
    k: usize,
    store: Store,
) -> Result<()> {
    let (op, Matrix { rows: b, panels }, e) = ("gemm_grouped_nt", b.into(), groups(offsets));
    let r = check(op, a, b, &c, [e, n, k])?;
    if let Some(panels) = panels {
        want(op, "panels of each matrix of b", panels.len(), e * panels_len(dev, n, k, b.dtype()))?;
    }
    let (adds, of) = (store == Store::Add, [a, b].map(|x| x.dtype()));
    let _span = dev.op("gemm_grouped_nt", || cost::gemm_grouped([r, n, k], e, of, c.dtype(), adds));
    match dev {
        Device::Cpu(cpu) => {
            let offsets = cpu::offsets(op, offsets.host(), r)?;
            cpu::gemm_grouped_nt(cpu, a.into(), b.into(), panels.map(|p| p.host()), c.host_mut(), offsets, n, k, store)
        }
        Device::Gpu(gpu) => gpu::gemm_grouped_nt(gpu, a, b, c, offsets, n, k, store)?,
    }
    Ok(())
}

/// `c_r = a_r b_e` or `c_r += a_r b_e`, e the expert of row r; a `[R, K]`, b `[E, K, N]`, c `[R, N]`. The gradient of the
/// input of experts' linear layers. Row rule in R.
pub fn gemm_grouped_nn(
    dev: &Device,
    a: View,
    b: View,
    mut c: ViewMut,
    offsets: View,
    n: usize,
    k: usize,
    store: Store,
) -> Result<()> {
    let (op, e) = ("gemm_grouped_nn", groups(offsets));
    let r = check(op, a, b, &c, [e, n, k])?;
    let (adds, of) = (store == Store::Add, [a, b].map(|x| x.dtype()));
    let _span = dev.op("gemm_grouped_nn", || cost::gemm_grouped([r, n, k], e, of, c.dtype(), adds));
    match dev {
        Device::Cpu(cpu) => {
            let offsets = cpu::offsets(op, offsets.host(), r)?;
            cpu::gemm_grouped_nn(cpu, a.into(), b.into(), c.host_mut(), offsets, n, k, store)
        }
        Device::Gpu(gpu) => gpu::gemm_grouped_nn(gpu, a, b, c, offsets, n, k, store)?,
    }
    Ok(())
}

/// `c_e = sum_r a_r^T b_r` or `c_e += ` the same, over the rows r of expert e in ascending order; a `[R, M]`, b `[R, N]`,
/// c `[E, M, N]` f32. The gradient of the weights of experts' linear layers.
pub fn gemm_grouped_tn(
    dev: &Device,
    a: View,
    b: View,
    mut c: ViewMut,
    offsets: View,
    m: usize,
    n: usize,
    store: Store,
) -> Result<()> {
    let (op, e) = ("gemm_grouped_tn", groups(offsets));
    let r = a.len() / m.max(1);
    want(op, "a has R M elements", a.len(), r * m)?;
    want(op, "b has R N elements", b.len(), r * n)?;
    want(op, "c has E M N elements", c.len(), e * m * n)?;
    let (adds, of) = (store == Store::Add, [a, b].map(|x| x.dtype()));
    let _span = dev.op("gemm_grouped_tn", || cost::gemm_grouped_tn([r, m, n], e, of, adds));
    match dev {
        Device::Cpu(cpu) => {
            let offsets = cpu::offsets(op, offsets.host(), r)?;
            cpu::gemm_grouped_tn(cpu, a.into(), b.into(), c.host_mut(), offsets, m, n, store)
        }
        Device::Gpu(gpu) => gpu::gemm_grouped_tn(gpu, a, b, c, offsets, m, n, store)?,
    }
    Ok(())
}

/// Experts E.
fn groups(offsets: View) -> usize {
    offsets.len().saturating_sub(1)
}

/// The rows R.
fn check(op: &'static str, a: View, b: View, c: &ViewMut, [e, n, k]: [usize; 3]) -> Result<usize> {
    let r = a.len() / k.max(1);
    want(op, "a has R K elements", a.len(), r * k)?;
    want(op, "b has E N K elements", b.len(), e * n * k)?;
    want(op, "c has R N elements", c.len(), r * n)?;
    Ok(r)
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// R rows with K terms a sum; of E matrices as many as rows may need, for who had rows the host does not know; `adds` when c
    /// is read too.
    pub fn gemm_grouped([r, n, k]: [usize; 3], e: usize, [a, b]: [DType; 2], c: DType, adds: bool) -> Cost {
        let bytes = a.size() * r * k + b.size() * e.min(r) * n * k + c.size() * r * n * (1 + adds as usize);
        cost(2 * r * n * k, bytes, "R N K", [r, n, k])
    }

    /// Matrices `[M, N]` in f32 of R rows: of E experts all, or, when it `adds`, those that may have rows.
    pub fn gemm_grouped_tn([r, m, n]: [usize; 3], e: usize, [a, b]: [DType; 2], adds: bool) -> Cost {
        let matrices = if adds { 2 * e.min(r) } else { e };
        cost(2 * r * m * n, a.size() * r * m + b.size() * r * n + 4 * matrices * m * n, "R M N", [r, m, n])
    }
}
