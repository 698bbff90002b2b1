//! The products of attention: two factors, and of a tile on the diagonal no more than is read.
//!
//! A factor is a view of elements, floats or pairs (`factors`): rows of keys, columns of probabilities, turned queries are
//! all multiplied where they lie. Lengths are checked here, once a product; `mm` multiplies.

use super::Scores;
use super::factors::Tools;
use super::operands::{Left, Right};
use crate::ops::attn::CHUNK;
use std::ops::Range;

/// `c = a b`, or `c += a b` when `load`: `[rows, n]` sums over `k` elements, rows of C `ldc` apart.
///
/// # Safety
/// C is valid to read and write, by this thread alone.
#[inline(always)]
pub(super) unsafe fn product(
    tools: Tools,
    a: Left,
    b: Right,
    c: *mut f32,
    ldc: usize,
    [rows, n, k]: [usize; 3],
    load: bool,
) {
    if rows * n * k == 0 && load {
        return;
    }
    let last = |x: usize| x.saturating_sub(1);
    let width = if b.panel == CHUNK { n } else { CHUNK };
    assert!(last(rows) * a.row + last(k) * a.step < a.at.len(), "left factor");
    let last_panel = last(n) / width;
    assert!(last_panel * b.panel + last(k) * b.row + n - last_panel * width <= b.at.len(), "right factor");
    for j in (0..n).step_by(width) {
        let (b_at, n) = (&b.at[j / width * b.panel..], width.min(n - j));
        // SAFETY: rows, columns and steps are inside A and B (above); C is the caller's promise.
        unsafe { (tools.mm)(a.at.as_ptr(), a.row, a.step, b_at.as_ptr(), b.row, c.add(j), ldc, rows, n, k, load) };
    }
}

/// `s [keys, CHUNK] = k q`, for queries turned; on the diagonal, where query i sees keys up to i, not the quarter that
/// none of its queries sees.
#[inline(always)]
pub(super) fn scores(tools: Tools, k: Left, q: Right, s: &mut Scores, keys: usize, dim: usize, diagonal: bool) {
    const HALF: usize = CHUNK / 2;
    let (n, whole) = (tools.elements(dim), if diagonal { keys.min(HALF) } else { keys });
    let s = s.0[..keys].as_flattened_mut();
    // SAFETY: s holds `keys` rows of CHUNK.
    unsafe {
        product(tools, k, q, s.as_mut_ptr(), CHUNK, [whole, CHUNK, n], false);
        if keys > whole {
            let (k, q) = (Left { at: &k.at[HALF * k.row..], ..k }, Right { at: &q.at[HALF..], ..q });
            let s = s[HALF * CHUNK + HALF..].as_mut_ptr();
            product(tools, k, q, s, CHUNK, [keys - HALF, HALF, n], false);
        }
    }
}

/// `c[i] = a[i] b`, or `+=` when `load`, for queries i of `lanes` over `keys` keys; on the diagonal only over those a
/// query sees. Eight queries share the keys that any of them sees: what one does not see has a factor 0, and a product
/// with 0 leaves a sum as it is.
///
/// # Safety
/// C, of which row `lanes.start` is the first, is valid to read and write, by this thread alone.
#[inline(always)]
pub(super) unsafe fn over_keys(
    tools: Tools,
    a: Left,
    b: Right,
    c: *mut f32,
    ldc: usize,
    lanes: Range<usize>,
    [keys, n]: [usize; 2],
    load: bool,
    diagonal: bool,
) {
    let rows = if diagonal { 8 } else { CHUNK };
    let mut next = lanes.start;
    while next < lanes.end {
        // Groups begin at multiples, wherever the lanes do: no group lies in both halves of the diagonal.
        let (first, end) = (next, lanes.end.min((next / rows + 1) * rows));
        next = end;
        let (a, keys) = (Left { at: &a.at[first * a.row..], ..a }, if diagonal { end } else { keys });
        // SAFETY: the caller's promise.
        unsafe {
            let c = c.add((first - lanes.start) * ldc);
            product(tools, a, b, c, ldc, [end - first, n, tools.elements(keys)], load);
        }
    }
}

/// The same for keys, over the `queries` queries of a tile; on the diagonal only over those that see one of eight keys.
///
/// # Safety
/// As there; C starts with key 0.
#[inline(always)]
pub(super) unsafe fn over_queries(
    tools: Tools,
    a: Left,
    b: Right,
    c: *mut f32,
    ldc: usize,
    [keys, queries, n]: [usize; 3],
    load: bool,
    diagonal: bool,
) {
    let rows = if diagonal { 8 } else { CHUNK };
    for first in (0..keys).step_by(rows) {
        let skip = first / tools.steps;
        let dims = [rows.min(keys - first), n, tools.elements(queries) - skip];
        let a = Left { at: &a.at[first * a.row + skip * a.step..], ..a };
        let b = Right { at: &b.at[skip * b.row..], ..b };
        // SAFETY: the caller's promise.
        unsafe { product(tools, a, b, c.add(first * ldc), ldc, dims, load) };
    }
}
