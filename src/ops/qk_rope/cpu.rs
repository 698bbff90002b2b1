//! Norm and rotation of heads on the CPU: a head is turned while it is in the first cache.

use super::Turn;
use crate::device::ViewMut;
use crate::device::cpu::Cpu;
use crate::device::cpu::pool::Shared;
use crate::ops::attn::cpu::{Paged, Slots};
use crate::ops::attn::{Heads, MAX_DIM};
use crate::ops::norm::cpu::norm_row;
use crate::ops::rope::cpu::turn_head;

/// Queries or keys of rows, of `[heads, D]`; see [`crate::ops::qk_rope::qk_rope_fwd`]. Returns them.
pub(crate) fn turn<'a>(
    cpu: &Cpu,
    x: Turn<'a>,
    positions: &[i32],
    table: &[f32],
    [n_heads, d]: [usize; 2],
    eps: f32,
) -> ViewMut<'a> {
    let width = n_heads * d;
    let (norm, rstd, mut to) = match x {
        Turn::InPlace(x) => (None, None, x),
        Turn::Normed { raw, weight, rstd, to } => (Some((raw.host::<f32>(), weight.host::<f32>())), rstd, to),
    };
    let (mut rstd, turned) = (rstd, Shared::new(to.host_mut::<f32>()));
    let rstd = rstd.as_mut().map(|rstd| Shared::new(rstd.host_mut::<f32>()));
    cpu.rows(
        positions.len(),
        width,
        #[inline(always)]
        |first, rows| {
            for head in first * n_heads..(first + rows) * n_heads {
                let angles = &table[positions[head / n_heads] as usize * d..][..d];
                // SAFETY: each row is one task's.
                let to = unsafe { turned.part(head * d, d) };
                if let Some((raw, weight)) = norm {
                    let r = norm_row(&raw[head * d..][..d], weight, to, eps);
                    if let Some(rstd) = rstd {
                        // SAFETY: as above.
                        unsafe { rstd.part(head, 1)[0] = r };
                    }
                }
                turn_head(to, angles, 1.0);
            }
        },
    );
    to
}

/// Keys and values of new rows into their slots; see [`crate::ops::qk_rope::qk_rope_append`].
pub(crate) fn append(
    cpu: &Cpu,
    [k, v]: [&[f32]; 2],
    norm: Option<&[f32]>,
    at: Paged,
    table: &[f32],
    [k_pages, v_pages]: [&mut [f32]; 2],
    heads: Heads,
    eps: f32,
) {
    let (pos, d, slots) = (at.1, heads.dim, Slots::new(cpu, at, k_pages, v_pages, heads));
    cpu.rows(
        pos.len(),
        2 * heads.kv * d,
        #[inline(always)]
        |first, rows| {
            let mut turned = [0f32; MAX_DIM];
            let turned = &mut turned[..d];
            for row in first..first + rows {
                let angles = &table[pos[row] as usize * d..][..d];
                for kv in 0..heads.kv {
                    let from = (row * heads.kv + kv) * d;
                    let (k, v) = (&k[from..][..d], &v[from..][..d]);
                    match norm {
                        Some(weight) => drop(norm_row(k, weight, turned, eps)),
                        None => turned.copy_from_slice(k),
                    }
                    turn_head(turned, angles, 1.0);
                    // SAFETY: rows of a call are different positions, and each is one task's.
                    unsafe { slots.put(row, kv, turned, v) };
                }
            }
        },
    );
}
