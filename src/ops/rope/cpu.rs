//! Rotary position embedding on the CPU.

use crate::device::cpu::Cpu;
use crate::device::cpu::pool::Shared;

/// One head by `sign` times the angles of its position: cosines, then sines.
#[inline(always)]
pub(crate) fn turn_head(x: &mut [f32], angles: &[f32], sign: f32) {
    let half = x.len() / 2;
    let ((cos, sin), (a, b)) = (angles.split_at(half), x.split_at_mut(half));
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (u, v, s) = (*a, *b, sin * sign);
        *a = u * cos - v * s;
        *b = v * cos + u * s;
    }
}

/// Rotates by `sign` times the angle; see [`crate::ops::rope`].
pub fn rope(cpu: &Cpu, x: &mut [f32], positions: &[i32], table: &[f32], n_heads: usize, head_dim: usize, sign: f32) {
    let width = n_heads * head_dim;
    let x = Shared::new(x);
    cpu.rows(
        positions.len(),
        width,
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                let angles = &table[positions[row] as usize * head_dim..][..head_dim];
                // SAFETY: each row is one task's.
                let x = unsafe { x.part(row * width, width) };
                x.chunks_exact_mut(head_dim).for_each(
                    #[inline(always)]
                    |x| turn_head(x, angles, sign),
                );
            }
        },
    );
}
