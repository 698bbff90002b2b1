//! The CPU's: one op after another. Rows are cut alike in all of them, so that what one makes of a row the next finds on the
//! same core.

use super::{Normed, Projection, columns};
use crate::device::cpu::Cpu;
use crate::device::{View, ViewMut};
use crate::ops::bias::cpu::bias_fwd;
use crate::ops::gemm::cpu::gemm_nt;
use crate::ops::gemm::{Matrix, Store};
use crate::ops::{norm, swiglu};

/// See [`super::gemm_qkv`].
pub(super) fn gemm_qkv(cpu: &Cpu, mut rows: Normed, parts: [Projection; 3], [m, k]: [usize; 2]) {
    norm::on_cpu(cpu, rows.x, rows.weight, &mut rows.h, &mut rows.rstd, rows.eps);
    for Projection { weight, bias, mut to } in parts {
        if let Some(bias) = bias {
            bias_fwd(cpu, bias.host(), to.host_mut());
        }
        let (store, n) = (if bias.is_some() { Store::Add } else { Store::Set }, columns(weight, k));
        product(cpu, rows.h.view(), weight, &mut to, [m, n, k], store);
    }
}

/// See [`super::gemm_swiglu`].
pub(super) fn gemm_swiglu(
    cpu: &Cpu,
    mut rows: Normed,
    weights: [Matrix; 2],
    mut pair: [ViewMut; 2],
    mut s: ViewMut,
    dims: [usize; 3],
) {
    norm::on_cpu(cpu, rows.x, rows.weight, &mut rows.h, &mut rows.rstd, rows.eps);
    for (weight, to) in weights.into_iter().zip(&mut pair) {
        product(cpu, rows.h.view(), weight, to, dims, Store::Set);
    }
    let [gate, up] = &pair;
    swiglu::on_cpu(cpu, gate.view(), up.view(), &mut s);
}

fn product(cpu: &Cpu, h: View, w: Matrix, to: &mut ViewMut, [m, n, k]: [usize; 3], store: Store) {
    gemm_nt(cpu, h.into(), w.rows.into(), w.panels.map(|p| p.host()), to.host_mut(), m, n, k, store);
}
