//! New keys and values into their pages.
//!
//! A page of one kv head holds keys `[elements(D), S]` (a chunk's keys side by side: lanes) and values `[elements(S), D]`.

use super::factors::{self, Tools};
use super::{Paged, page_at};
use crate::device::cpu::Cpu;
use crate::device::cpu::float::Float;
use crate::device::cpu::pool::Shared;
use crate::ops::attn::{CHUNK, Heads};
use half::bf16;

/// Rows of a task.
const TASK: usize = 32;

/// See [`crate::ops::attn::kv_append`]; pages hold elements, floats or pairs.
pub fn kv_append(cpu: &Cpu, k: &[f32], v: &[f32], at: Paged, k_pages: &mut [f32], v_pages: &mut [f32], heads: Heads) {
    let (seq, pos, table, max_pages) = at;
    let (d, tools) = (heads.dim, Tools::of(cpu));
    let (k_pages, v_pages) = (Shared::new(k_pages), Shared::new(v_pages));
    let append = |row: usize| {
        let (page, slot) = (pos[row] as usize / CHUNK, pos[row] as usize % CHUNK);
        let page = table[seq[row] as usize * max_pages + page];
        for kv in 0..heads.kv {
            let (to, from) = (page_at(tools, page, kv, heads), (row * heads.kv + kv) * d);
            let (k, v) = (&k[from..][..d], &v[from..][..d]);
            // SAFETY: rows of a call are different positions, so no other task writes this slot.
            unsafe {
                if tools.steps == 1 {
                    k.iter().enumerate().for_each(|(i, k)| k_pages.part(to + i * CHUNK + slot, 1)[0] = *k);
                    v_pages.part(to + slot * d, d).copy_from_slice(v);
                } else {
                    append_pairs(k, v, k_pages, v_pages, to, slot);
                }
            }
        }
    };
    let n = pos.len();
    cpu.pool.run(n.div_ceil(TASK), |task| (task * TASK..n.min((task + 1) * TASK)).for_each(append));
}

/// One key, whole pairs; one value, the halves of its slot: the other halves are another row's.
///
/// # Safety
/// No other task writes this slot of the page at `to`.
unsafe fn append_pairs(k: &[f32], v: &[f32], k_pages: Shared<f32>, v_pages: Shared<f32>, to: usize, slot: usize) {
    for (i, k) in k.as_chunks::<2>().0.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { k_pages.part(to + i * CHUNK + slot, 1)[0] = factors::pair(k[0], k[1]) };
    }
    let at = to + slot / 2 * v.len();
    assert!(at + v.len() <= v_pages.len(), "the page of the row");
    // SAFETY: the elements of this slot and its neighbour (above); of each, one half.
    let halves = unsafe { v_pages.ptr().add(at).cast::<bf16>().add(slot % 2) };
    for (i, v) in v.iter().enumerate() {
        // SAFETY: as above.
        unsafe { *halves.add(2 * i) = bf16::of(*v) };
    }
}
