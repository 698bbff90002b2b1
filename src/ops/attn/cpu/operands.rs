//! The two factors of a product, as they lie in memory.

use crate::ops::attn::CHUNK;

/// The left factor of a product: element (i, q) is `at[i row + q step]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub at: &'a [f32],
    pub row: usize,
    pub step: usize,
}

/// The right one: element (q, j) is `at[j / 32 panel + q row + j % 32]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub at: &'a [f32],
    pub row: usize,
    pub panel: usize,
}

impl<'a> Right<'a> {
    /// Rows of elements, so many apart.
    #[inline(always)]
    pub fn rows(at: &'a [f32], row: usize) -> Right<'a> {
        Right { at, row, panel: CHUNK }
    }
}
