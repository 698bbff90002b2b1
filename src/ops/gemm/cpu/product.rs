//! A product that is asked for: its factors as they are stored, its sizes, where C goes.

use crate::device::cpu::pool::Shared;
use crate::device::{DType, View};
use crate::ops::gemm::Store;
use half::bf16;
use std::ops::Range;

/// A factor as it is stored: in f32, or rounded already.
#[derive(Clone, Copy)]
pub enum Factor<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// What only products read, at medium precision.
    Bf16(&'a [bf16]),
}

impl<'a> From<View<'a>> for Factor<'a> {
    fn from(x: View<'a>) -> Factor<'a> {
        if x.dtype() == DType::Bf16 { Factor::Bf16(x.host()) } else { Factor::F32(x.host()) }
    }
}

impl<'a> Factor<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Factor::F32(x) => x.len(),
            Factor::Bf16(x) => x.len(),
        }
    }

    /// Its first byte, and the bytes of an element.
    pub(super) fn bytes(self) -> (*const u8, usize) {
        match self {
            Factor::F32(x) => (x.as_ptr().cast(), size_of::<f32>()),
            Factor::Bf16(x) => (x.as_ptr().cast(), size_of::<bf16>()),
        }
    }

    /// Part of it.
    pub fn at(self, range: Range<usize>) -> Factor<'a> {
        match self {
            Factor::F32(x) => Factor::F32(&x[range]),
            Factor::Bf16(x) => Factor::Bf16(&x[range]),
        }
    }
}

/// One product, `c [m, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(super) a: Factor<'a>,
    /// Numbers from row to row of A as it is stored.
    pub(super) lda: usize,
    /// A is stored `[K, M]` rather than `[M, K]`.
    pub(super) a_by_k: bool,
    pub(super) b: Factor<'a>,
    /// B from [`super::gemm_pack`].
    pub(super) panels: Option<&'a [f32]>,
    /// B is stored `[K, N]` rather than `[N, K]`.
    pub(super) b_by_k: bool,
    pub(super) c: Shared<f32>,
    /// Floats from row to row of C.
    pub(super) ldc: usize,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) store: Store,
}

impl<'a> Product<'a> {
    /// A `[M, K]`, B `[N, K]`.
    pub fn nt(a: Factor<'a>, b: Factor<'a>, c: &mut [f32], [m, n, k]: [usize; 3], store: Store) -> Product<'a> {
        let c = Shared::new(c);
        Product { a, lda: k, a_by_k: false, b, panels: None, b_by_k: false, c, ldc: n, m, n, k, store }
    }

    /// A `[M, K]`, B `[K, N]`.
    pub fn nn(a: Factor<'a>, b: Factor<'a>, c: &mut [f32], dims: [usize; 3], store: Store) -> Product<'a> {
        Product { b_by_k: true, ..Product::nt(a, b, c, dims, store) }
    }

    /// A `[K, M]`, B `[K, N]`.
    pub fn tn(a: Factor<'a>, b: Factor<'a>, c: &mut [f32], dims: [usize; 3], store: Store) -> Product<'a> {
        Product { lda: dims[0], a_by_k: true, ..Product::nn(a, b, c, dims, store) }
    }

    /// With B's panels, where there are.
    pub fn panels(self, panels: Option<&'a [f32]>) -> Product<'a> {
        Product { panels, ..self }
    }

    /// Into a C that others share.
    pub fn into_shared(self, c: Shared<f32>) -> Product<'a> {
        Product { c, ..self }
    }

    /// B has panels, and is held in bf16.
    pub(super) fn packed_bf16(&self) -> bool {
        self.panels.is_some() && matches!(self.b, Factor::Bf16(_))
    }

    /// Of an A whose rows, as it is stored, lie so far apart.
    pub fn lda(self, lda: usize) -> Product<'a> {
        Product { lda, ..self }
    }

    /// Into a C whose rows lie so far apart.
    pub fn ldc(self, ldc: usize) -> Product<'a> {
        Product { ldc, ..self }
    }

    /// The elements of A and C fit rows so far apart.
    pub(super) fn fits(&self) -> bool {
        let (rows, width) = if self.a_by_k { (self.k, self.m) } else { (self.m, self.k) };
        let spans = |len, rows: usize, width, ld| match width == ld {
            true => rows * width == len,
            false => rows == 0 || width < ld && (rows - 1) * ld + width <= len,
        };
        self.b.len() == self.n * self.k
            && spans(self.a.len(), rows, width, self.lda)
            && spans(self.c.len(), self.m, self.n, self.ldc)
    }
}
