//! A linear layer in both directions: the one place that knows whether it has a bias.

use super::{Linear, Weights};
use crate::device::{Buffer, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::bias::{bias_bwd, bias_fwd, bias_parts_len};
use crate::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};

/// `y = x W^T + b`; x `[N, in]`, y `[N, out]`. The sum of a product begins at the bias, so it is rounded once.
pub(super) fn linear_fwd(dev: &Device, w: &Weights, l: &Linear, x: View, mut y: ViewMut) -> Result<()> {
    let n = y.len() / l.n_out;
    let store = match l.bias {
        None => Store::Set,
        Some(bias) => {
            bias_fwd(dev, w.get(bias), y.reborrow())?;
            Store::Add
        }
    };
    gemm_nt(dev, x, w.matrix(l.weight), y, n, l.n_out, l.n_in, store)
}

/// `y += x W^T`: what a layer without a bias adds to the residual stream.
pub(super) fn linear_add(dev: &Device, w: &Weights, l: &Linear, x: View, y: ViewMut) -> Result<()> {
    let n = y.len() / l.n_out;
    gemm_nt(dev, x, w.matrix(l.weight), y, n, l.n_out, l.n_in, Store::Add)
}

/// The gradients: `dW += dy^T x`, `db += ` the sum of dy's rows, `dx = dy W` or `dx += ` it. `dw` is laid out like the
/// weights; `parts`, of [`bias_parts_len`], is scratch.
pub(super) fn linear_bwd(
    dev: &Device,
    w: &Weights,
    l: &Linear,
    [x, dy]: [View; 2],
    dx: ViewMut,
    dw: &mut Buffer,
    parts: &mut Buffer,
    store: Store,
) -> Result<()> {
    let n = dy.len() / l.n_out;
    gemm_tn(dev, dy, x, w.layout.of_mut(dw, l.weight), l.n_out, l.n_in, n, Store::Add)?;
    if let Some(bias) = l.bias {
        let parts = parts.at_mut(0..bias_parts_len(n, l.n_out));
        bias_bwd(dev, dy, w.layout.of_mut(dw, bias), parts)?;
    }
    gemm_nn(dev, dy, w.get(l.weight), dx, n, l.n_in, l.n_out, store)
}
