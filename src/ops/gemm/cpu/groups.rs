//! Products that stand side by side, one a group, each with its own B: experts.
//!
//! Groups that have something to do are cut into as many columns as keep all threads busy, however few the groups; a task
//! is one block of one group. Bits are those of each product alone.

use super::{INLINE, Product, block, kernels_of};
use crate::device::cpu::Cpu;

/// Tasks a thread has at least: groups differ in rows, and who is done early takes another's.
const TASKS: usize = 4;

/// Computes `product(g)` of each of the groups `0..n_groups` that has one. All have as many columns, and a B of one kind.
pub(crate) fn run_groups<'a>(cpu: &Cpu, n_groups: usize, product: impl Fn(usize) -> Option<Product<'a>> + Sync) {
    let (mut n_products, mut n, mut work, mut packed_bf16) = (0, 0, 0, false);
    for p in (0..n_groups).filter_map(&product) {
        assert!(p.fits(), "gemm_grouped: sizes");
        (n_products, n, work) = (n_products + 1, p.n, work + p.m * p.n * p.k);
        packed_bf16 = p.packed_bf16();
    }
    if n_products == 0 || n == 0 {
        return;
    }
    let kernels = kernels_of(cpu, packed_bf16);
    let panels = n.div_ceil(kernels.nr);
    let across = (TASKS * cpu.pool.threads()).div_ceil(n_products).min(panels);
    let width = panels.div_ceil(across) * kernels.nr;
    let across = n.div_ceil(width);
    let task = |task: usize| {
        // Groups are found anew in each task: a list of them would be an allocation.
        if let Some(p) = (0..n_groups).filter_map(&product).nth(task / across) {
            let j = task % across * width;
            block(&p, kernels, 0..p.m, j..n.min(j + width));
        }
    };
    if work < INLINE { (0..n_products * across).for_each(task) } else { cpu.pool.run(n_products * across, task) }
}
