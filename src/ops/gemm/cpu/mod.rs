//! Matrix products on the CPU.
//!
//! C is cut into blocks, one a task. A task packs its columns of B into panels of `nr` columns, unless [`gemm_pack`] has,
//! and its rows of A, where they cannot be read in place, into tiles of `mr` rows. A microkernel holds one `mr x nr` tile
//! of C in registers while it walks K in ascending order. K is walked in blocks of `KC` elements, which are as many steps or, where
//! an element is a pair, twice as many; between blocks the tile of C goes through memory. So each element is one chain of fused multiply-adds, and its bits depend on nothing but the row of A,
//! the column of B and what it is added to. Source of the blocking: Goto and van de Geijn 2008, "Anatomy of
//! high-performance matrix multiplication".
//!
//! At [`Precision::Medium`] A and B are rounded to bf16 as they are packed, or were by the op that wrote them; sums stay
//! f32. A CPU that multiplies pairs of bf16 does so (`avx512_bf16`), another one multiplies the rounded floats, in the
//! same order (`narrow`).

mod ahead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod groups;
mod narrow;
mod pack;
mod portable;
mod product;

use crate::device::Precision;
use crate::device::cpu::Cpu;
use crate::device::cpu::float::Narrow;
use crate::device::cpu::math::Isa;
use crate::device::cpu::pool::Shared;
use crate::device::cpu::rooms::Room;
use crate::ops::gemm::Store;
use ahead::{Ahead, Place};
pub(crate) use groups::run_groups;
use half::bf16;
use narrow::Rounded;
pub(crate) use product::{Factor, Product};
use std::ops::Range;

/// Elements of K walked between two visits to memory of a tile of C.
pub(crate) const KC: usize = 512;
/// Floats from row to row of a tile of A packed by rows; odd in cache lines, so that rows do not share cache sets.
pub(crate) const A_STRIDE: usize = KC + 16;
/// Columns of B a task packs at a time, of `KC` elements; of fewer more, up to `WIDE`.
const NC: usize = 128;
/// So wide that rows of C up to it are written whole: a row of tiles is then one stretch of memory, which `ahead` asks for.
const WIDE: usize = 512;
/// Rows of A that a task walks, about, where all threads have as many; twice as many where it packs B, which is spread over them.
const MC: usize = 256;
/// Rows a thread must have at least for rows to be cut.
const FEW: usize = 8;
/// Elements of a B that no second-level cache holds.
const LARGE: usize = 1 << 19;
/// Multiply-adds below which waking another thread costs more than it brings.
const INLINE: usize = 1 << 18;

/// `c += a b` on one tile: elements of K, A and the elements from row to row of it, packed panel of B (64-byte aligned),
/// C and the floats from row to row of it, whether C is read first (else the chain starts from zero), and what to fetch
/// on the way.
pub(crate) type Tile = unsafe fn(usize, *const f32, usize, *const f32, *mut f32, usize, bool, [Ahead; 2]);
/// Packs `(from, ld, width, kc, to)`.
pub(crate) type Pack<T = f32> = unsafe fn(*const T, usize, usize, usize, *mut f32);
/// Packs `kc` steps of one row: `(from, kc, to)`.
pub(crate) type PackRow<T> = unsafe fn(*const T, usize, *mut f32);

/// How factors stored as `T` are packed.
#[derive(Clone, Copy)]
pub(crate) struct Packs<T> {
    /// [`pack::transpose`] to `nr` columns: a panel of B that is stored `[N, K]`.
    pub transpose: Pack<T>,
    /// [`pack::copy`] to the steps that `cols` reads: a tile of A that is stored `[K, M]`.
    pub copy_a: Pack<T>,
    /// [`pack::copy`] to `nr` columns: a panel of B that is stored `[K, N]`.
    pub copy_b: Pack<T>,
    /// A row of A.
    pub row: PackRow<T>,
    /// Rows of A can be read where they are.
    pub in_place: bool,
}

/// The microkernels of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// Rows of a tile at most.
    pub mr: usize,
    /// Columns of a tile.
    pub nr: usize,
    /// Elements from step to step of a tile of A packed by steps.
    pub step: usize,
    /// Steps of K in an element.
    pub steps: usize,
    /// Panels of B hold bf16, two in an element, which the tile widens: half the bytes to read, the same products.
    pub halves: bool,
    /// By rows - 1, for A by rows.
    pub rows: &'static [Tile],
    /// By rows - 1, for A packed by steps.
    pub cols: &'static [Tile],
    /// Of floats.
    pub f32: Packs<f32>,
    /// Of bf16, which an op before has rounded to.
    pub bf16: Packs<bf16>,
}

impl Kernels {
    /// Elements in a row or column of `kc` steps.
    fn elements(&self, kc: usize) -> usize {
        kc.div_ceil(self.steps)
    }

    /// Steps of K walked between two visits to memory of a tile of C.
    fn kc(&self) -> usize {
        KC * self.steps
    }

    /// Elements of a panel of B of `kc` steps.
    fn panel_len(&self, kc: usize) -> usize {
        if self.halves { kc * self.nr / 2 } else { self.elements(kc) * self.nr }
    }
}

/// A set of kernels.
trait Set {
    const KERNELS: Kernels;
}

fn kernels(cpu: &Cpu) -> &'static Kernels {
    match (cpu.isa, cpu.precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Highest) => &avx512::F32::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Medium) if avx512_bf16::is_here() => &avx512_bf16::Pairs::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Medium) => &Rounded::<avx512::F32>::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Highest) => &avx2::F32::KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Medium) => &Rounded::<avx2::F32>::KERNELS,
        (_, Precision::Highest) => &portable::F32::KERNELS,
        (_, Precision::Medium) => &Rounded::<portable::F32>::KERNELS,
    }
}

/// The same for a B that is packed beforehand: in bf16 where it is held so, no precision is lost, and tiles can widen it.
fn kernels_of(cpu: &Cpu, packed_bf16: bool) -> &'static Kernels {
    match (cpu.isa, cpu.precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Highest) if packed_bf16 => &avx512::Widened::KERNELS,
        _ => kernels(cpu),
    }
}

/// [`pack::transpose`] to 32 columns.
pub(crate) fn turn_32(isa: Isa) -> Pack {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::transpose,
        _ => pack::transpose_32,
    }
}

/// How floats become pairs of bf16, for other products of pairs; none where the CPU multiplies no pairs.
pub(crate) fn pack_pairs(isa: Isa) -> Option<&'static Packs<f32>> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if avx512_bf16::is_here() => Some(&avx512_bf16::Pairs::KERNELS.f32),
        _ => None,
    }
}

/// What rounds floats to bf16 by an instruction, where there is one.
pub(crate) fn narrow(cpu: &Cpu) -> Narrow {
    pack_pairs(cpu.isa).map(|pairs| pairs.row)
}

/// Whether products are of pairs of bf16.
pub fn multiplies_pairs(cpu: &Cpu) -> bool {
    kernels(cpu).steps == 2
}

/// See [`crate::ops::gemm::gemm_nt`].
pub fn gemm_nt(
    cpu: &Cpu,
    a: Factor,
    b: Factor,
    panels: Option<&[f32]>,
    c: &mut [f32],
    m: usize,
    n: usize,
    k: usize,
    store: Store,
) {
    run(cpu, Product::nt(a, b, c, [m, n, k], store).panels(panels));
}

/// See [`crate::ops::gemm::panels_len`].
pub fn panels_len(cpu: &Cpu, n: usize, k: usize, is_bf16: bool) -> usize {
    let kernels = kernels_of(cpu, is_bf16);
    n.div_ceil(kernels.nr) * kernels.panel_len(k)
}

/// See [`crate::ops::gemm::gemm_pack`]: blocks of `KC` elements, in each its panels `[elements(kc), nr]`, side by side.
pub fn gemm_pack(cpu: &Cpu, b: Factor, panels: &mut [f32], n: usize, k: usize) {
    let is_bf16 = matches!(b, Factor::Bf16(_));
    let (kernels, to) = (kernels_of(cpu, is_bf16), Shared::new(panels));
    assert!(b.len() == n * k && to.len() == panels_len(cpu, n, k, is_bf16), "gemm_pack: sizes");
    let (n_panels, most) = (n.div_ceil(kernels.nr), kernels.kc());
    cpu.pool.run(n_panels * k.div_ceil(most), |task| {
        let (k0, j) = (task / n_panels * most, task % n_panels * kernels.nr);
        let (kc, width) = (most.min(k - k0), kernels.nr.min(n - j));
        let (mut room, len) = (Room::take(), kernels.panel_len(kc));
        let packed = pack::Scratch::new(&mut room).b;
        // SAFETY: `width` rows of B from j on, kc steps from k0 on; one panel fits the scratch; this task's own panel.
        unsafe {
            match b {
                Factor::F32(b) => (kernels.f32.transpose)(b.as_ptr().add(j * k + k0), k, width, kc, packed),
                Factor::Bf16(b) => (kernels.bf16.transpose)(b.as_ptr().add(j * k + k0), k, width, kc, packed),
            }
            to.ptr().add(panel_at(n_panels, kernels, k0, kc, j)).copy_from_nonoverlapping(packed, len);
        }
    });
}

/// Where, in the panels of a whole matrix, the one of column `j` and of the `kc` steps from `k0` on starts.
fn panel_at(n_panels: usize, kernels: &Kernels, k0: usize, kc: usize, j: usize) -> usize {
    kernels.panel_len(k0) * n_panels + j / kernels.nr * kernels.panel_len(kc)
}

/// See [`crate::ops::gemm::gemm_nn`].
pub fn gemm_nn(cpu: &Cpu, a: Factor, b: Factor, c: &mut [f32], m: usize, n: usize, k: usize, store: Store) {
    run(cpu, Product::nn(a, b, c, [m, n, k], store));
}

/// See [`crate::ops::gemm::gemm_tn`].
pub fn gemm_tn(cpu: &Cpu, a: Factor, b: Factor, c: &mut [f32], m: usize, n: usize, k: usize, store: Store) {
    run(cpu, Product::tn(a, b, c, [m, n, k], store));
}

/// Computes it.
pub(crate) fn run(cpu: &Cpu, p: Product) {
    assert!(p.fits(), "gemm: sizes");
    if p.m == 0 || p.n == 0 {
        return;
    }
    let kernels = kernels_of(cpu, p.packed_bf16());
    let threads = if p.m * p.n * p.k < INLINE { 1 } else { cpu.pool.threads() };
    let (rows, cols) = if p.a_by_k { split_evenly(p.m, p.n, kernels, threads) } else { split(&p, kernels, threads) };
    let (down, across) = (p.m.div_ceil(rows), p.n.div_ceil(cols));
    cpu.pool.run(down * across, |task| {
        let (i, j) = (task / across * rows, task % across * cols);
        block(&p, kernels, i..p.m.min(i + rows), j..p.n.min(j + cols));
    });
}

/// Rows and columns of the blocks of C. Rows are cut first: what an op makes of a row, the next op then finds on the same
/// core. Few rows are not worth the loads of B on every core: then columns are cut, and of a B that no cache holds sooner.
fn split(p: &Product, kernels: &Kernels, threads: usize) -> (usize, usize) {
    let (m, n) = (p.m, p.n);
    let few = if n * p.k >= LARGE { n / 8 } else { threads * FEW };
    if threads == 1 || m >= few {
        let most = if p.panels.is_some() { MC } else { 2 * MC };
        let rows = m.div_ceil((m / most).max(1).next_multiple_of(threads));
        return (if rows < MC / 2 { rows } else { rows.next_multiple_of(kernels.mr) }, n);
    }
    let panels = n.div_ceil(kernels.nr);
    let across = n.div_ceil(NC).next_multiple_of(threads).min(panels);
    (m, panels.div_ceil(across) * kernels.nr)
}

/// One block of C a thread, cut so that least is packed: here a block packs all it reads, rows and columns, and K is long.
fn split_evenly(m: usize, n: usize, kernels: &Kernels, threads: usize) -> (usize, usize) {
    let packed = |down: usize| threads / down * m + down * n;
    let cuts = (1..=threads).filter(|down| threads.is_multiple_of(*down));
    let down = cuts.min_by_key(|down| packed(*down)).unwrap_or(1);
    let rows = m.div_ceil(down).next_multiple_of(kernels.mr);
    (rows, n.div_ceil(threads / down).next_multiple_of(kernels.nr))
}

/// One block of C.
fn block(p: &Product, kernels: &Kernels, rows: Range<usize>, cols: Range<usize>) {
    let mut room = Room::take();
    let pack::Scratch { a, b, tiles } = pack::Scratch::new(&mut room);
    let tall = if p.a_by_k { pack::Tiles::most(kernels) * kernels.mr } else { rows.len().max(1) };
    let chunks = rows.clone().step_by(tall).map(|top| top..rows.end.min(top + tall));
    let most = kernels.kc();
    // A product over nothing is one empty block: it stores zeros, or what was there.
    for (rows, k0) in chunks.flat_map(|rows| (0..p.k.max(1)).step_by(most).map(move |k0| (rows.clone(), k0))) {
        let kc = most.min(p.k - k0);
        let wide = (NC * KC / kernels.elements(kc).max(1)).min(WIDE) / kernels.nr * kernels.nr;
        // Of columns that come in several parts, tiles of A are not packed for each.
        let again = p.a_by_k && cols.len() > wide;
        let whole = again.then(|| pack::Tiles::of(p, kernels, k0, kc, &rows, tiles));
        for j0 in cols.clone().step_by(wide) {
            let cols = j0..cols.end.min(j0 + wide);
            let b = match p.panels {
                Some(panels) => panels[panel_at(p.n.div_ceil(kernels.nr), kernels, k0, kc, j0)..].as_ptr(),
                None => {
                    // SAFETY: inside B; the panels of these columns and steps hold at most NC KC elements.
                    unsafe { pack::pack_b(p, kernels, k0, kc, cols.clone(), b) };
                    b.cast_const()
                }
            };
            let place = Place::new(k0, kc, rows.clone(), cols, kernels);
            for t in 0..place.tiles {
                let a = match &whole {
                    Some(tiles) => tiles.tile(t),
                    // SAFETY: inside A, at most mr rows and KC elements of each.
                    None => unsafe { pack::pack_a(p, kernels, k0, kc, place.tile(t), a) },
                };
                tile_row(p, kernels, &place, t, a, b);
            }
        }
    }
}

/// The tiles of one row of tiles.
fn tile_row(p: &Product, kernels: &Kernels, place: &Place, t: usize, (a, lda): (*const f32, usize), b: *const f32) {
    let (rows, cols, load) = (place.tile(t), &place.cols, place.k0 > 0 || p.store == Store::Add);
    let (nr, len, panel_len) = (kernels.nr, kernels.elements(place.kc), kernels.panel_len(place.kc));
    let tile = if p.a_by_k { kernels.cols[rows.len() - 1] } else { kernels.rows[rows.len() - 1] };
    for j in cols.clone().step_by(nr) {
        let ahead = place.ahead(p, kernels, t, j);
        // SAFETY: the panel of column j; in bounds of C, as rows and cols are; tasks hold disjoint blocks of C.
        let (panel, c) = unsafe { (b.add((j - cols.start) / nr * panel_len), p.c.ptr().add(rows.start * p.ldc + j)) };
        if j + nr <= cols.end {
            // SAFETY: A holds `len` elements of rows.len() rows, the panel `len nr`, and the tile is inside C.
            unsafe { tile(len, a, lda, panel, c, p.ldc, load, ahead) };
            continue;
        }
        // The last columns: through a tile of its own.
        let (width, mut edge) = (cols.end - j, [0f32; pack::MAX_MR * pack::MAX_NR]);
        for i in 0..rows.len() {
            // SAFETY: row i of this tile of C, which is this task's alone.
            let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * p.ldc), width) };
            edge[i * nr..][..width].copy_from_slice(c);
        }
        // SAFETY: as above, and edge holds mr nr floats.
        unsafe { tile(len, a, lda, panel, edge.as_mut_ptr(), nr, load, ahead) };
        for i in 0..rows.len() {
            // SAFETY: as above.
            let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * p.ldc), width) };
            c.copy_from_slice(&edge[i * nr..][..width]);
        }
    }
}
