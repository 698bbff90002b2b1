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

/// Where new keys and values go: pages of elements, floats or pairs, which nobody else touches while there are tasks.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    k_pages: Shared<f32>,
    v_pages: Shared<f32>,
    at: Paged<'a>,
    heads: Heads,
    tools: Tools,
}

impl<'a> Slots<'a> {
    pub(crate) fn new(cpu: &Cpu, at: Paged<'a>, k_pages: &mut [f32], v_pages: &mut [f32], heads: Heads) -> Slots<'a> {
        Slots { k_pages: Shared::new(k_pages), v_pages: Shared::new(v_pages), at, heads, tools: Tools::of(cpu) }
    }

    /// Writes the key and the value `[D]` of one kv head of a row.
    ///
    /// # Safety
    /// No other task writes the row's slot: rows of a call are different positions.
    pub(crate) unsafe fn put(&self, row: usize, kv: usize, k: &[f32], v: &[f32]) {
        let ((seq, pos, table, max_pages), d) = (self.at, self.heads.dim);
        let (page, slot) = (pos[row] as usize / CHUNK, pos[row] as usize % CHUNK);
        let to = page_at(self.tools, table[seq[row] as usize * max_pages + page], kv, self.heads);
        let (k_pages, v_pages) = (self.k_pages, self.v_pages);
        // SAFETY: the caller's promise.
        unsafe {
            if self.tools.steps == 1 {
                k.iter().enumerate().for_each(|(i, k)| k_pages.part(to + i * CHUNK + slot, 1)[0] = *k);
                v_pages.part(to + slot * d, d).copy_from_slice(v);
            } else {
                append_pairs(k, v, k_pages, v_pages, to, slot);
            }
        }
    }
}

/// See [`crate::ops::attn::kv_append`]; pages hold elements, floats or pairs.
pub fn kv_append(cpu: &Cpu, k: &[f32], v: &[f32], at: Paged, k_pages: &mut [f32], v_pages: &mut [f32], heads: Heads) {
    let (n, d, slots) = (at.1.len(), heads.dim, Slots::new(cpu, at, k_pages, v_pages, heads));
    let append = |row: usize| {
        for kv in 0..heads.kv {
            let from = (row * heads.kv + kv) * d;
            // SAFETY: each row is one task's.
            unsafe { slots.put(row, kv, &k[from..][..d], &v[from..][..d]) };
        }
    };
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
