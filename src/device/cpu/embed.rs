//! Rows by index on the CPU.

use super::Cpu;

/// See [`crate::ops::embed::embed_fwd`].
pub fn embed_fwd(_cpu: &Cpu, ids: &[i32], table: &[f32], x: &mut [f32], dim: usize) {
    for (row, &id) in ids.iter().enumerate() {
        x[row * dim..][..dim].copy_from_slice(&table[id as usize * dim..][..dim]);
    }
}

/// See [`crate::ops::embed::embed_bwd`].
pub fn embed_bwd(_cpu: &Cpu, ids: &[i32], dx: &[f32], dtable: &mut [f32], dim: usize) {
    for (row, &id) in ids.iter().enumerate() {
        let to = &mut dtable[id as usize * dim..][..dim];
        for (t, d) in to.iter_mut().zip(&dx[row * dim..][..dim]) {
            *t += d;
        }
    }
}
