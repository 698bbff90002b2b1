//! Matrix products. Weights are stored `[out, in]`, as in Hugging Face files.
//!
//! Each output element is one chain of fused multiply-adds over K in ascending order, started from zero, or from
//! what stands in C when accumulating (so a residual add costs nothing); in bf16 a chain of a tensor core's steps, 16
//! products each (kernels/emu/tensor.h). The chain is the same for every M.

pub mod cases;
pub(crate) mod cpu;
pub mod gpu;
pub mod ladder;
pub mod oracle;
pub mod tiles;

use super::want;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;

/// Whether a product replaces its output or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// `c = a b`
    Set,
    /// `c += a b`
    Add,
}

/// The right side `[N, K]` of [`gemm_nt`].
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// As it is stored.
    pub rows: View<'a>,
    /// The same from [`gemm_pack`], where there is such a copy: it saves reordering the matrix in each product.
    pub panels: Option<View<'a>>,
}

impl<'a> From<View<'a>> for Matrix<'a> {
    fn from(rows: View<'a>) -> Matrix<'a> {
        Matrix { rows, panels: None }
    }
}

/// `c = a b^T` or `c += a b^T`; a `[M, K]`, b `[N, K]`, c `[M, N]`. The forward of a linear layer. Row rule in M.
/// Bits do not depend on whether b has panels.
pub fn gemm_nt<'b>(
    dev: &Device,
    a: View,
    b: impl Into<Matrix<'b>>,
    mut c: ViewMut,
    m: usize,
    n: usize,
    k: usize,
    store: Store,
) -> Result<()> {
    let Matrix { rows: b, panels } = b.into();
    check("gemm_nt", a, b, &c, m, n, k)?;
    if let Some(panels) = panels {
        want("gemm_nt", "panels of b", panels.len(), panels_len(dev, n, k, b.dtype()))?;
    }
    let _span = dev.op("gemm_nt", || cost::gemm(m, n, k, [a, b].map(|x| x.dtype()), c.dtype(), store == Store::Add));
    match dev {
        Device::Cpu(cpu) => {
            let panels = panels.map(|p| p.host());
            cpu::gemm_nt(cpu, a.into(), b.into(), panels, c.host_mut(), m, n, k, store)
        }
        Device::Gpu(gpu) => gpu::gemm_nt(gpu, a, b, c, m, n, k, store)?,
    }
    Ok(())
}

/// f32 elements of the panels of a matrix `[N, K]` of a number type; 0 on a device whose products read matrices as they are
/// stored.
pub fn panels_len(dev: &Device, n: usize, k: usize, dtype: DType) -> usize {
    match dev {
        Device::Cpu(cpu) => cpu::panels_len(cpu, n, k, dtype == DType::Bf16),
        Device::Gpu(_) => 0,
    }
}

/// b `[N, K]` in the order in which [`gemm_nt`] reads it; panels `[panels_len]`.
pub fn gemm_pack(dev: &Device, b: View, mut panels: ViewMut, n: usize, k: usize) -> Result<()> {
    want("gemm_pack", "b has N K elements", b.len(), n * k)?;
    want("gemm_pack", "panels of b", panels.len(), panels_len(dev, n, k, b.dtype()))?;
    let _span = dev.op("gemm_pack", || crate::ops::embed::cost::copy(panels.len(), b.dtype(), panels.dtype()));
    match dev {
        Device::Cpu(cpu) => cpu::gemm_pack(cpu, b.into(), panels.host_mut(), n, k),
        Device::Gpu(_) => {}
    }
    Ok(())
}

/// `c = a b` or `c += a b`; a `[M, K]`, b `[K, N]`, c `[M, N]`. The gradient of a linear layer's input. Row rule in M.
pub fn gemm_nn(
    dev: &Device,
    a: View,
    b: View,
    mut c: ViewMut,
    m: usize,
    n: usize,
    k: usize,
    store: Store,
) -> Result<()> {
    check("gemm_nn", a, b, &c, m, n, k)?;
    let _span = dev.op("gemm_nn", || cost::gemm(m, n, k, [a, b].map(|x| x.dtype()), c.dtype(), store == Store::Add));
    match dev {
        Device::Cpu(cpu) => cpu::gemm_nn(cpu, a.into(), b.into(), c.host_mut(), m, n, k, store),
        Device::Gpu(gpu) => gpu::gemm_nn(gpu, a, b, c, m, n, k, store)?,
    }
    Ok(())
}

/// `c = a^T b` or `c += a^T b`; a `[K, M]`, b `[K, N]`, c `[M, N]`. The gradient of a linear layer's weight
/// (K counts tokens).
pub fn gemm_tn(
    dev: &Device,
    a: View,
    b: View,
    mut c: ViewMut,
    m: usize,
    n: usize,
    k: usize,
    store: Store,
) -> Result<()> {
    check("gemm_tn", a, b, &c, m, n, k)?;
    let _span = dev.op("gemm_tn", || cost::gemm(m, n, k, [a, b].map(|x| x.dtype()), c.dtype(), store == Store::Add));
    match dev {
        Device::Cpu(cpu) => cpu::gemm_tn(cpu, a.into(), b.into(), c.host_mut(), m, n, k, store),
        Device::Gpu(gpu) => gpu::gemm_tn(gpu, a, b, c, m, n, k, store)?,
    }
    Ok(())
}

fn check(op: &'static str, a: View, b: View, c: &ViewMut, m: usize, n: usize, k: usize) -> Result<()> {
    want(op, "a has M K elements", a.len(), m * k)?;
    want(op, "b has N K elements", b.len(), n * k)?;
    want(op, "c has M N elements", c.len(), m * n)
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// `c [M, N]` of a and b with K terms a sum; `adds` when c is read too.
    pub fn gemm(m: usize, n: usize, k: usize, [a, b]: [DType; 2], c: DType, adds: bool) -> Cost {
        let bytes = a.size() * m * k + b.size() * n * k + c.size() * m * n * (1 + adds as usize);
        cost(2 * m * n * k, bytes, "M N K", [m, n, k])
    }
}
