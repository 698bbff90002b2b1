//! What the products of attention multiply: floats where they lie, or pairs of bf16 made of them.
//!
//! At [`Precision::Medium`] every factor is rounded to the nearest bf16, ties to even (below 2^-126: to zero), and an
//! element holds two consecutive steps of a sum; of these the odd one is added first (`mm`). An odd number of steps ends
//! in a pair with zero.

use super::Scores;
use super::operands::{Left, Right};
use crate::device::Precision;
use crate::device::cpu::float::Float;
use crate::device::cpu::{Cpu, mm};
use crate::ops::attn::{CHUNK, MAX_DIM};
use crate::ops::gemm::cpu as gemm;
use half::bf16;
use std::ops::Range;

/// Heads that walk together at most.
pub(super) const HEADS: usize = 8;

/// What is compiled for an instruction set of its own.
#[derive(Clone, Copy)]
pub(super) struct Tools {
    /// Steps of a sum in an element: 1, a float, or 2, a pair of bf16.
    pub steps: usize,
    /// The product of elements.
    pub mm: mm::Mm,
    turn: gemm::Pack,
    /// What makes pairs, where the CPU does.
    pairs: Option<&'static gemm::Packs<f32>>,
}

impl Tools {
    pub fn of(cpu: &Cpu) -> Tools {
        const { assert!(CHUNK == 32) };
        let turn = gemm::turn_32(cpu.isa);
        match cpu.precision {
            Precision::Highest => Tools { steps: 1, mm: mm::mm(cpu.isa), turn, pairs: None },
            Precision::Medium => Tools { steps: 2, mm: mm::mm_pairs(cpu.isa), turn, pairs: gemm::pack_pairs(cpu.isa) },
        }
    }

    /// Elements of `n` steps.
    #[inline(always)]
    pub fn elements(self, n: usize) -> usize {
        n.div_ceil(self.steps)
    }

    /// Heads of a group that walk together: keys and values are made to pairs once for all of them.
    #[inline(always)]
    pub fn heads(self, group: usize, dim: usize) -> usize {
        if self.steps == 1 { 1 } else { group.min(MAX_DIM / dim).min(HEADS) }
    }
}

/// Rows of `dim` steps, `stride` floats apart, as a left factor; pairs go into `room [rows, elements(dim)]`.
#[inline(always)]
pub(super) fn by_rows<'a>(
    tools: Tools,
    from: &'a [f32],
    stride: usize,
    rows: usize,
    dim: usize,
    room: &'a mut [f32],
) -> Left<'a> {
    if tools.steps == 1 {
        return Left { at: from, row: stride, step: 1 };
    }
    let len = tools.elements(dim);
    if stride == dim && dim.is_multiple_of(2) {
        // Rows without a gap are one long row.
        narrow(tools, &from[..rows * dim], room);
        return Left { at: room, row: len, step: 1 };
    }
    for i in 0..rows {
        narrow(tools, &from[i * stride..][..dim], &mut room[i * len..][..len]);
    }
    Left { at: room, row: len, step: 1 }
}

/// Rows of `dim` columns, `stride` floats apart, as a right factor over rows; pairs go into `room`, panels of 32 columns
/// `[elements(CHUNK), 32]`.
#[inline(always)]
pub(super) fn by_steps<'a>(
    tools: Tools,
    from: &'a [f32],
    stride: usize,
    rows: usize,
    dim: usize,
    room: &'a mut [f32],
) -> Right<'a> {
    if tools.steps == 1 {
        return Right::rows(from, stride);
    }
    const PANEL: usize = CHUNK / 2 * CHUNK;
    for (j, to) in (0..dim).step_by(CHUNK).zip(room.chunks_exact_mut(PANEL)) {
        weave(tools, &from[j..], stride, rows, CHUNK.min(dim - j), to);
    }
    Right { at: room, row: CHUNK, panel: PANEL }
}

/// Floats that [`by_steps`] has room for.
pub(super) fn panels_len(dim: usize) -> usize {
    dim.next_multiple_of(CHUNK) * CHUNK / 2
}

/// The columns of `x` as a left factor over `rows` rows; pairs go into `room [CHUNK / 2, CHUNK]`.
#[inline(always)]
pub(super) fn columns<'a>(tools: Tools, x: &'a Scores, rows: usize, room: &'a mut [f32]) -> Left<'a> {
    if tools.steps == 1 {
        return Left { at: x.0.as_flattened(), row: 1, step: CHUNK };
    }
    weave(tools, x.0.as_flattened(), CHUNK, rows, CHUNK, room);
    Left { at: room, row: 1, step: CHUNK }
}

/// `to [D, CHUNK] = ` rows of `from` (`stride` apart) turned, the first one into the first of `lanes`; 0 elsewhere.
#[inline(always)]
pub(super) fn turn(tools: Tools, from: &[f32], stride: usize, lanes: Range<usize>, dim: usize, to: &mut [f32]) {
    assert!((lanes.len() - 1) * stride + dim <= from.len() && dim * CHUNK <= to.len(), "rows of a tile");
    if lanes.start == 0 {
        // SAFETY: as many rows are there, and so is the room (above).
        return unsafe { (tools.turn)(from.as_ptr(), stride, lanes.len(), dim, to.as_mut_ptr()) };
    }
    to[..dim * CHUNK].fill(0.0);
    for (j, lane) in lanes.enumerate() {
        for (x, to) in from[j * stride..][..dim].iter().zip(to.as_chunks_mut::<CHUNK>().0) {
            to[lane] = *x;
        }
    }
}

/// What [`turn`] made, as elements `[elements(D), CHUNK]` in its place.
#[inline(always)]
pub(super) fn pair_turned(tools: Tools, x: &mut [f32], dim: usize) {
    if tools.steps == 1 {
        return;
    }
    assert!(dim * CHUNK <= x.len(), "floats of a tile");
    let x = x.as_mut_ptr();
    // SAFETY: x is [D, CHUNK] (above); pairs of a step lie at or before its floats.
    unsafe { weave_at(tools, x, CHUNK, dim, CHUNK, x) }
}

/// `to [n / 2, 32]`: pairs of `n` rows of `width` floats, zero in other columns.
#[inline(always)]
fn weave(tools: Tools, from: &[f32], stride: usize, n: usize, width: usize, to: &mut [f32]) {
    assert!(n > 0 && (n - 1) * stride + width <= from.len() && n.div_ceil(2) * CHUNK <= to.len(), "rows of pairs");
    // SAFETY: the rows are there, and so is the room (above).
    unsafe { weave_at(tools, from.as_ptr(), stride, n, width, to.as_mut_ptr()) }
}

/// # Safety
/// `from` holds `n` rows, `to` their pairs; they may overlap where a pair lies at or before its floats.
#[inline(always)]
unsafe fn weave_at(tools: Tools, from: *const f32, stride: usize, n: usize, width: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(pairs) = tools.pairs {
            return (pairs.copy_b)(from, stride, width, n, to);
        }
        for q in (0..n).step_by(2) {
            for j in 0..CHUNK {
                let at = |q: usize| if q < n && j < width { *from.add(q * stride + j) } else { 0.0 };
                *to.add(q / 2 * CHUNK + j) = pair(at(q), at(q + 1));
            }
        }
    }
}

/// Pairs of a row of floats.
#[inline(always)]
pub(super) fn narrow(tools: Tools, from: &[f32], to: &mut [f32]) {
    assert!(to.len() >= from.len().div_ceil(2), "pairs of a row");
    if let Some(pairs) = tools.pairs {
        // SAFETY: there is room for the pairs (above).
        return unsafe { (pairs.row)(from.as_ptr(), from.len(), to.as_mut_ptr()) };
    }
    let (twos, last) = from.as_chunks::<2>();
    for (x, to) in twos.iter().zip(&mut *to) {
        *to = pair(x[0], x[1]);
    }
    if let [x] = last {
        to[twos.len()] = pair(*x, 0.0);
    }
}

/// Two steps in one element.
#[inline(always)]
pub(super) fn pair(even: f32, odd: f32) -> f32 {
    f32::from_bits(bf16::of(even).to_bits() as u32 | (bf16::of(odd).to_bits() as u32) << 16)
}

/// The element without its odd step.
#[inline(always)]
pub(super) fn even_only(pair: f32) -> f32 {
    f32::from_bits(pair.to_bits() & 0xFFFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::math::Isa;

    #[test]
    fn pairs_are_the_same_on_every_instruction_set() {
        let from: Vec<f32> = (0..33 * 40).map(|i| ((i * 37 % 1009) as f32 - 500.0) / 31.0).collect();
        for (rows, dim) in [(1, 1), (5, 7), (32, 32), (31, 40), (32, 33), (17, 20)] {
            let on = |isa| {
                let tools = Tools::of(&Cpu::with_isa(1, isa).with_precision(Precision::Medium));
                let (mut a, mut b) = (vec![0.0; 32 * 20], vec![0.0; panels_len(dim)]);
                let mut c = vec![0.0; CHUNK * dim];
                by_rows(tools, &from, 40, rows, dim, &mut a);
                by_steps(tools, &from, 40, rows, dim, &mut b);
                turn(tools, &from, 40, 0..rows, dim, &mut c);
                pair_turned(tools, &mut c, dim);
                c.truncate(tools.elements(dim) * CHUNK);
                [a, b, c].map(|x| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            };
            let want = on(Isa::Portable);
            let bits = |x: f32| bf16::from_f32(x).to_bits() as u32;
            assert_eq!(want[0][0] & 0xFFFF, bits(from[0]));
            assert_eq!(want[0][0] >> 16, if dim > 1 { bits(from[1]) } else { 0 });
            assert_eq!(want[1][0] >> 16, if rows > 1 { bits(from[40]) } else { 0 });
            for isa in [Isa::Avx2, Isa::Avx512] {
                assert_eq!(on(isa), want, "{isa:?} {rows} {dim}");
            }
        }
    }
}
