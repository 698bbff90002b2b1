//! What tiles fetch while they multiply: factors that are packed or read next, and lines of C that are written next.
//!
//! Packing does nothing but read and write: without this it waits for memory while nothing multiplies.

use super::{Kernels, Product};
use std::ops::Range;

/// Memory that is read soon: its next line, and the bytes from there to the one after it. A tile asks for one line every
/// two elements of K; what it computes does not depend on it.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub at: *const u8,
    pub step: usize,
}

/// Bytes of a line.
const LINE: usize = 64;

/// Part of a block of C: steps of K and columns, for all its rows.
pub(super) struct Place {
    pub k0: usize,
    pub kc: usize,
    rows: Range<usize>,
    pub cols: Range<usize>,
    /// Rows of tiles.
    pub tiles: usize,
    /// Steps of K in a part that is no last one.
    most: usize,
    /// Lines that a tile asks for in a stream: one every two elements of K.
    turns: usize,
    /// Panels across.
    panels: usize,
}

impl Place {
    pub(super) fn new(k0: usize, kc: usize, rows: Range<usize>, cols: Range<usize>, kernels: &Kernels) -> Place {
        let (tiles, panels) = (rows.len().div_ceil(kernels.mr), cols.len().div_ceil(kernels.nr));
        Place { k0, kc, rows, cols, tiles, most: kernels.kc(), turns: kernels.elements(kc) / 2, panels }
    }

    /// Rows of a row of tiles. All are of about equal height: a thin last one would waste a panel's loads.
    pub(super) fn tile(&self, t: usize) -> Range<usize> {
        let top = |t| self.rows.start + self.rows.len() * t / self.tiles;
        top(t)..top(t + 1)
    }

    /// Two streams for the tile at column `j` of row of tiles `t`.
    pub(super) fn ahead(&self, p: &Product, kernels: &Kernels, t: usize, j: usize) -> [Ahead; 2] {
        let (panel, here) = ((j - self.cols.start) / kernels.nr, p.a.bytes());
        let streams = if p.a_by_k {
            let part = t * self.panels + panel;
            let next = |x, ld, of| self.next_steps(p, x, ld, of, part);
            [next(here, p.lda, &self.rows), next(p.b.bytes(), p.n, &self.cols)]
        } else {
            let next = |x, ld, whole: bool| whole.then(|| self.next_rows(p, x, ld, t, panel)).flatten();
            let c = (p.c.ptr().cast_const().cast(), size_of::<f32>());
            [next(here, p.lda, self.kc == p.lda), next(c, p.ldc, self.cols.len() == p.ldc)]
        };
        streams.map(|stream| stream.unwrap_or(Ahead { at: here.0, step: 0 }))
    }

    /// The same rows or columns over the next steps of K: each part one line of `turns` steps.
    fn next_steps(
        &self,
        p: &Product,
        (x, size): (*const u8, usize),
        ld: usize,
        of: &Range<usize>,
        part: usize,
    ) -> Option<Ahead> {
        let across = (of.len() * size).div_ceil(LINE);
        let k = self.k0 + self.most + part / across * self.turns;
        let at = x.wrapping_add((k * ld + of.start) * size + part % across * LINE);
        (k < p.k.min(self.k0 + 2 * self.most)).then_some(Ahead { at, step: ld * size })
    }

    /// The rows of the next row of tiles: each panel's part of them.
    fn next_rows(
        &self,
        p: &Product,
        (x, size): (*const u8, usize),
        ld: usize,
        t: usize,
        panel: usize,
    ) -> Option<Ahead> {
        let (rows, ld) = (self.tile(t), ld * size);
        let (from, part) = (rows.end * ld, panel * self.turns * LINE);
        (part < rows.len() * ld && from + part < p.m * ld)
            .then(|| Ahead { at: x.wrapping_add(from + part), step: LINE })
    }
}
