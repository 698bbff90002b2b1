//! Causal grouped-query attention: packed for training, paged for rollout and serving.
//!
//! The score matrix never exists. Every query walks its keys in chunks of [`CHUNK`] and merges the chunks in order (online
//! softmax). The walk begins from nothing every [`SEGMENT`] keys; what a segment gave is then merged into the total, segments
//! ascending, the first as it is. Both are counted from the start of the sequence, so that segments may be walked side by
//! side; packed and paged do so with the same arithmetic, and a token's bits are the same in training and in decode. A page
//! holds one chunk.
//! At medium precision (CPU) the factors of all products are rounded to bf16; softmax, its sums and the gradients' are f32.
//! Source: Dao et al. 2022, arXiv:2205.14135, alg. 1; Kwon et al. 2023, arXiv:2309.06180 (pages).

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub(crate) mod gpu_decode;
mod gpu_kv;
mod gpu_sm90;
pub mod ladder;
pub mod oracle;
mod packed;

pub use packed::{Packed, Sequence, Sequences};

use super::want;
use crate::device::record::Keys;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::{Error, Result};
use half::bf16;

/// Keys walked at a time, and slots of a page (S).
pub const CHUNK: usize = 32;

/// Keys after which the walk begins from nothing: see above.
pub const SEGMENT: usize = 512;

/// The widest head the ops take.
pub const MAX_DIM: usize = 256;

/// Heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads H.
    pub q: usize,
    /// Key/value heads Hk; H is a multiple.
    pub kv: usize,
    /// Head dim D.
    pub dim: usize,
    /// Factor of the scores, usually 1 / sqrt(D).
    pub scale: f32,
}

impl Heads {
    /// `Ok` when the ops take these heads.
    pub(crate) fn check(self, op: &'static str) -> Result<()> {
        for (rule, got) in [("H >= 1", self.q), ("Hk >= 1", self.kv), ("D >= 1", self.dim)] {
            want(op, rule, got.min(1), 1)?;
        }
        want(op, "H % Hk", self.q % self.kv, 0)?;
        match self.dim {
            d if d > MAX_DIM => Err(Error::Shape { op, rule: "D at most", want: MAX_DIM, got: d }),
            _ => Ok(()),
        }
    }
}

/// `o = softmax(scale q k^T) v`, causal inside each sequence; q, o `[N, H, D]`, k, v `[N, Hk, D]`, all packed; lse `[N, H]`
/// is saved for backward. A row's bits are those of its sequence alone, whether it shares its prefix or not.
pub fn attn_fwd(
    dev: &Device,
    q: View,
    k: View,
    v: View,
    seqs: Packed,
    mut o: ViewMut,
    mut lse: ViewMut,
    heads: Heads,
) -> Result<()> {
    heads.check("attn_fwd")?;
    let n = lse.len() / heads.q;
    want("attn_fwd", "lse [N, H]", lse.len(), n * heads.q)?;
    want("attn_fwd", "q [N, H, D]", q.len(), n * heads.q * heads.dim)?;
    want("attn_fwd", "o [N, H, D]", o.len(), n * heads.q * heads.dim)?;
    want("attn_fwd", "k [N, Hk, D]", k.len(), n * heads.kv * heads.dim)?;
    want("attn_fwd", "v [N, Hk, D]", v.len(), n * heads.kv * heads.dim)?;
    let _span = dev.op("attn_fwd", || cost::attn_fwd(n, heads, dev.keys(|| seqs.host().keys()), q.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            let seqs = seqs.host();
            seqs.check("attn_fwd", n)?;
            cpu::attn_fwd(cpu, q.host(), k.host(), v.host(), seqs, o.host_mut(), lse.host_mut(), heads)
        }
        Device::Gpu(gpu) => gpu::attn_fwd(gpu, q, k, v, seqs, o, lse, heads)?,
    }
    Ok(())
}

/// `dq = `, `dk = `, `dv = ` the gradients of [`attn_fwd`]; no float atomics: one order of every sum.
///
/// A key's gradient is a sum over the queries that see it: those of its own sequence, then those of the sequences on it in
/// their order; of each in tiles that begin at multiples of [`CHUNK`] positions, ascending, of each tile head by head of the
/// group, of each head query by query. So the sum depends on the family alone.
pub fn attn_bwd(
    dev: &Device,
    d_o: View,
    q: View,
    k: View,
    v: View,
    o: View,
    lse: View,
    seqs: Packed,
    mut dq: ViewMut,
    mut dk: ViewMut,
    mut dv: ViewMut,
    heads: Heads,
) -> Result<()> {
    heads.check("attn_bwd")?;
    let n = lse.len() / heads.q;
    want("attn_bwd", "lse [N, H]", lse.len(), n * heads.q)?;
    for (rule, got) in
        [("do [N, H, D]", d_o.len()), ("q [N, H, D]", q.len()), ("o [N, H, D]", o.len()), ("dq [N, H, D]", dq.len())]
    {
        want("attn_bwd", rule, got, n * heads.q * heads.dim)?;
    }
    for (rule, got) in
        [("k [N, Hk, D]", k.len()), ("v [N, Hk, D]", v.len()), ("dk [N, Hk, D]", dk.len()), ("dv [N, Hk, D]", dv.len())]
    {
        want("attn_bwd", rule, got, n * heads.kv * heads.dim)?;
    }
    let _span = dev.op("attn_bwd", || cost::attn_bwd(n, heads, dev.keys(|| seqs.host().keys()), q.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            let seqs = seqs.host();
            seqs.check("attn_bwd", n)?;
            let (dq, dk, dv) = (dq.host_mut(), dk.host_mut(), dv.host_mut());
            let (q, k, v, o, lse) = (q.host(), k.host(), v.host(), o.host(), lse.host());
            cpu::attn_bwd(cpu, d_o.host(), q, k, v, o, lse, seqs, dq, dk, dv, heads)
        }
        Device::Gpu(gpu) => gpu::attn_bwd(gpu, d_o, q, k, v, o, lse, seqs, dq, dk, dv, heads)?,
    }
    Ok(())
}

/// Where rows of a paged call live: row r is position `pos[r]` of the sequence whose pages are row `seq[r]` of
/// `table [B, max_pages]` (all i32).
#[derive(Clone, Copy)]
pub struct Paged<'a> {
    /// `[N]` row of the page table.
    pub seq: View<'a>,
    /// `[N]` position in the sequence.
    pub pos: View<'a>,
    /// `[B, max_pages]` page numbers.
    pub table: View<'a>,
    /// Columns of the page table.
    pub max_pages: usize,
    /// Keys that a row sees at most. It decides on how many blocks walk a row, and so on no bit; on a GPU a row that sees
    /// more of them may become NaN.
    pub longest: usize,
}

/// `Ok` when each row's own page is in its sequence's part of the table, and is a page.
pub(crate) fn check_pages(op: &'static str, at: cpu::Paged, n_pages: usize) -> Result<()> {
    let (seq, pos, table, max_pages) = at;
    let page_of = |row: usize| {
        let (seq, page) = (usize::try_from(seq[row]).ok()?, usize::try_from(pos[row]).ok()? / CHUNK);
        let page = if page < max_pages { *table.get(seq * max_pages + page)? } else { -1 };
        (0..n_pages as i32).contains(&page).then_some(())
    };
    let good = (0..pos.len()).filter(|row| page_of(*row).is_some()).count();
    want(op, "the page of the row is in the table and in the pool", good, pos.len())
}

/// `Ok` when pages have the type of a factor, [`Device::factor_dtype`], and pairs, where they hold some, are whole.
pub(crate) fn check_dtype(op: &'static str, dev: &Device, pages: [DType; 2], heads: Heads) -> Result<()> {
    if let Device::Cpu(_) = dev {
        let dtype = dev.factor_dtype(DType::F32);
        want(op, "pages of factor_dtype", pages.iter().filter(|got| **got == dtype).count(), 2)?;
        want(op, "D is even in pages of bf16", if dtype == DType::Bf16 { heads.dim % 2 } else { 0 }, 0)?;
    }
    Ok(())
}

/// Pages as the CPU's products take them: floats, or pairs of bf16 in the place of floats.
pub(crate) fn elements<'a>(pages: View<'a>) -> &'a [f32] {
    match pages.dtype() {
        DType::Bf16 => bytemuck::cast_slice(pages.host::<bf16>()),
        _ => pages.host(),
    }
}

/// The same, to write.
pub(crate) fn elements_mut<'a>(pages: &'a mut ViewMut) -> &'a mut [f32] {
    match pages.dtype() {
        DType::Bf16 => bytemuck::cast_slice_mut(pages.host_mut::<bf16>()),
        _ => pages.host_mut(),
    }
}

/// Elements of `n_pages` pages of keys or of values of one layer.
pub fn pages_len(n_pages: usize, heads: Heads) -> usize {
    n_pages * CHUNK * heads.kv * heads.dim
}

/// Writes the keys and values `[N, Hk, D]` of new rows into their pages, of [`Device::factor_dtype`]; the layout inside a page is the
/// device's.
pub fn kv_append(
    dev: &Device,
    k: View,
    v: View,
    at: Paged,
    mut k_pages: ViewMut,
    mut v_pages: ViewMut,
    heads: Heads,
) -> Result<()> {
    heads.check("kv_append")?;
    want("kv_append", "k [N, Hk, D]", k.len(), at.pos.len() * heads.kv * heads.dim)?;
    want("kv_append", "v [N, Hk, D]", v.len(), at.pos.len() * heads.kv * heads.dim)?;
    want("kv_append", "seq [N]", at.seq.len(), at.pos.len())?;
    want("kv_append", "values as many pages as keys", v_pages.len(), k_pages.len())?;
    check_dtype("kv_append", dev, [k_pages.dtype(), v_pages.dtype()], heads)?;
    let n_pages = k_pages.len() / pages_len(1, heads);
    let _span = dev.op("kv_append", || cost::kv_append(at.pos.len(), heads, k.dtype(), k_pages.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            let at = (at.seq.host(), at.pos.host(), at.table.host(), at.max_pages);
            check_pages("kv_append", at, n_pages)?;
            let (k_pages, v_pages) = (elements_mut(&mut k_pages), elements_mut(&mut v_pages));
            cpu::kv_append(cpu, k.host(), v.host(), at, k_pages, v_pages, heads)
        }
        Device::Gpu(gpu) => gpu_kv::kv_append(gpu, k, v, at, n_pages, k_pages, v_pages, heads)?,
    }
    Ok(())
}

/// Elements at the beginning of the workspace of [`attn_decode`] that say how many blocks of a row have come: 0 when it is first used,
/// and left so.
pub const TICKETS: usize = 1024;

/// f32 elements of the workspace that [`attn_decode`] takes for `n` rows, or fewer, of at most `longest` keys. With less of it
/// it is slower, with the same bits. Its first [`TICKETS`] elements must be 0 before its first use, and are left so.
pub fn attn_decode_workspace(dev: &Device, n: usize, longest: usize, heads: Heads) -> usize {
    match dev {
        Device::Cpu(_) => 0,
        Device::Gpu(_) => gpu_decode::workspace(n, longest, heads),
    }
}

/// Attention of rows over their sequences' pages, keys `0..=pos` each: decode, and prefill of any chunking.
/// q, o `[N, H, D]`. Bit for bit what [`attn_fwd`] gives the same token. workspace: see [`attn_decode_workspace`].
pub fn attn_decode(
    dev: &Device,
    q: View,
    k_pages: View,
    v_pages: View,
    at: Paged,
    mut o: ViewMut,
    workspace: ViewMut,
    heads: Heads,
) -> Result<()> {
    heads.check("attn_decode")?;
    want("attn_decode", "q [N, H, D]", q.len(), at.pos.len() * heads.q * heads.dim)?;
    want("attn_decode", "o [N, H, D]", o.len(), q.len())?;
    want("attn_decode", "seq [N]", at.seq.len(), at.pos.len())?;
    want("attn_decode", "values as many pages as keys", v_pages.len(), k_pages.len())?;
    check_dtype("attn_decode", dev, [k_pages.dtype(), v_pages.dtype()], heads)?;
    let n_pages = k_pages.len() / pages_len(1, heads);
    let keys = || dev.keys(|| Keys::paged(at.seq.host(), at.pos.host()));
    let _span = dev.op("attn_decode", || cost::attn_decode(at.pos.len(), heads, keys(), q.dtype(), k_pages.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            let at = (at.seq.host(), at.pos.host(), at.table.host(), at.max_pages);
            check_pages("attn_decode", at, n_pages)?;
            let (k_pages, v_pages) = (elements(k_pages), elements(v_pages));
            cpu::attn_decode(cpu, q.host(), k_pages, v_pages, at, o.host_mut(), heads)
        }
        Device::Gpu(gpu) => gpu_decode::attn_decode(gpu, q, k_pages, v_pages, at, n_pages, o, workspace, heads)?,
    }
    Ok(())
}

/// Copies page `from` onto page `to` in one layer's pages (copy on write of a shared, half-full page).
pub fn kv_copy_page(dev: &Device, mut pages: ViewMut, from: usize, to: usize, heads: Heads) -> Result<()> {
    let page = pages_len(1, heads);
    want("kv_copy_page", "pages [P, S, Hk, D]", pages.len() % page, 0)?;
    let _span = dev.op("kv_copy_page", || crate::ops::embed::cost::copy(page, pages.dtype(), pages.dtype()));
    match dev {
        Device::Cpu(_) if pages.dtype() == DType::Bf16 => {
            pages.host_mut::<bf16>().copy_within(from * page..(from + 1) * page, to * page)
        }
        Device::Cpu(_) => pages.host_mut::<f32>().copy_within(from * page..(from + 1) * page, to * page),
        Device::Gpu(gpu) => gpu_kv::kv_copy_page(gpu, pages, from, to, page)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use super::Heads;
    use crate::device::DType;
    use crate::device::record::{Cost, Keys};
    use crate::ops::cost;

    /// N rows that see `keys.pairs` keys: two products of 2 D FLOP for each pair and head.
    pub fn attn_fwd(n: usize, heads: Heads, keys: Keys, x: DType) -> Cost {
        let Heads { q: h, kv, dim: d, .. } = heads;
        let bytes = 2 * n * (h + kv) * d * x.size() + 4 * n * h;
        cost(4 * d * h * keys.pairs, bytes, "N H D", [n, h, d])
    }

    /// Five products a pair and head, one of them the scores again.
    pub fn attn_bwd(n: usize, heads: Heads, keys: Keys, x: DType) -> Cost {
        let Heads { q: h, kv, dim: d, .. } = heads;
        let bytes = 4 * n * (h + kv) * d * x.size() + 4 * n * h;
        cost(10 * d * h * keys.pairs, bytes, "N H D", [n, h, d])
    }

    /// As [`attn_fwd`], over pages; a key is read once for all rows of its sequence that stand together.
    pub fn attn_decode(n: usize, heads: Heads, keys: Keys, x: DType, pages: DType) -> Cost {
        let Heads { q: h, kv, dim: d, .. } = heads;
        let bytes = 2 * n * h * d * x.size() + 2 * keys.read * kv * d * pages.size() + 8 * n;
        cost(4 * d * h * keys.pairs, bytes, "N H D", [n, h, d])
    }

    /// Moves the keys and values of N rows.
    pub fn kv_append(n: usize, heads: Heads, x: DType, pages: DType) -> Cost {
        cost(0, 2 * n * heads.kv * heads.dim * (x.size() + pages.size()) + 8 * n, "N Hk D", [n, heads.kv, heads.dim])
    }
}
