//! What becomes of heads between their projections and attention, in one pass: queries and keys are normed, in families that
//! norm heads, and turned by their positions; over pages new keys and values go to their slots on the way.
//!
//! The arithmetic and the roundings are those of [`rmsnorm_fwd`](super::norm::rmsnorm_fwd),
//! [`rope_fwd`](super::rope::rope_fwd) and [`kv_append`](super::attn::kv_append) one after another: the same bits.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::attn::{self, Heads, Paged, pages_len};
use super::{below, want};
use crate::device::cpu::Cpu;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;

/// Queries or keys of rows, `[N, heads, D]`.
pub enum Turn<'a> {
    /// Turned where they are, in families that do not norm heads.
    InPlace(ViewMut<'a>),
    /// Normed, then turned.
    Normed {
        /// As they were projected.
        raw: View<'a>,
        /// The norm's weight `[D]`.
        weight: View<'a>,
        /// Where the norm's `1 / rms` goes `[N, heads]`, where backward needs it.
        rstd: Option<ViewMut<'a>>,
        /// Where they go.
        to: ViewMut<'a>,
    },
}

impl Turn<'_> {
    fn len(&self) -> usize {
        match self {
            Turn::InPlace(x) => x.len(),
            Turn::Normed { to, .. } => to.len(),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Turn::InPlace(x) => x.dtype(),
            Turn::Normed { to, .. } => to.dtype(),
        }
    }

    fn weight(&self) -> Option<View<'_>> {
        match self {
            Turn::InPlace(_) => None,
            Turn::Normed { weight, .. } => Some(*weight),
        }
    }

    /// `Ok` when they are n rows of so many heads of `d`.
    fn check(&self, op: &'static str, [n, heads, d]: [usize; 3]) -> Result<()> {
        want(op, "queries and keys [N, heads, D]", self.len(), n * heads * d)?;
        let Turn::Normed { raw, weight, rstd, .. } = self else { return Ok(()) };
        want(op, "raw [N, heads, D]", raw.len(), n * heads * d)?;
        want(op, "weight [D]", weight.len(), d)?;
        want(op, "rstd [N, heads]", rstd.as_ref().map_or(n * heads, ViewMut::len), n * heads)
    }
}

/// New rows of sequences over pages: queries, keys and values as they were projected, and where the rows live.
pub struct NewRows<'a> {
    /// Queries `[N, H, D]`.
    pub q: Turn<'a>,
    /// Keys `[N, Hk, D]`.
    pub k: View<'a>,
    /// Values `[N, Hk, D]`.
    pub v: View<'a>,
    /// The norm of keys `[D]`, if queries have one.
    pub k_norm: Option<View<'a>>,
    /// Their sequences, positions and pages.
    pub at: Paged<'a>,
    /// Cosines and sines `[T, D]`, see [`rope::table`](super::rope::table).
    pub table: View<'a>,
    /// The norms'.
    pub eps: f32,
}

impl NewRows<'_> {
    /// Pages P; `Ok` when these rows fit the heads and have pages of the device's type.
    pub(crate) fn check(&self, op: &'static str, dev: &Device, pages: [&ViewMut; 2], heads: Heads) -> Result<usize> {
        let (n, [k_pages, v_pages]) = (self.at.pos.len(), pages);
        check(op, &self.q, self.k_norm, heads)?;
        self.q.check(op, [n, heads.q, heads.dim])?;
        want(op, "weight [D]", self.k_norm.map_or(heads.dim, |w| w.len()), heads.dim)?;
        want(op, "k [N, Hk, D]", self.k.len(), n * heads.kv * heads.dim)?;
        want(op, "v [N, Hk, D]", self.v.len(), n * heads.kv * heads.dim)?;
        want(op, "seq [N]", self.at.seq.len(), n)?;
        want(op, "values as many pages as keys", v_pages.len(), k_pages.len())?;
        attn::check_dtype(op, dev, [k_pages.dtype(), v_pages.dtype()], heads)?;
        Ok(k_pages.len() / pages_len(1, heads))
    }

    /// `Ok` when every position has an angle and a page; where rows live, as the CPU's ops take it.
    pub(crate) fn host(&self, op: &'static str, n_pages: usize, heads: Heads) -> Result<attn::cpu::Paged<'_>> {
        let Paged { seq, pos, table, max_pages, .. } = self.at;
        below(op, "positions below T", pos.host(), self.table.len() / heads.dim)?;
        let rows = (seq.host(), pos.host(), table.host(), max_pages);
        attn::check_pages(op, rows, n_pages)?;
        Ok(rows)
    }
}

/// `q, k = ` themselves turned by the angles of `positions [N]` (i32), normed before in families that do: see [`Turn`].
/// `table [T, D]`: see [`rope::table`](super::rope::table); `eps` is the norms'.
///
/// Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4; Su et al. 2021, arXiv:2104.09864, eq. 34.
pub fn qk_rope_fwd(dev: &Device, q: Turn, k: Turn, positions: View, table: View, heads: Heads, eps: f32) -> Result<()> {
    let (op, n) = ("qk_rope_fwd", positions.len());
    check(op, &q, k.weight(), heads)?;
    q.check(op, [n, heads.q, heads.dim])?;
    k.check(op, [n, heads.kv, heads.dim])?;
    let _span = dev.op("qk_rope_fwd", || cost::qk_rope_fwd(n, heads, q.weight().is_some(), q.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below(op, "positions below T", positions.host(), table.len() / heads.dim)?;
            for (turn, n_heads) in [(q, heads.q), (k, heads.kv)] {
                let _ = cpu::turn(cpu, turn, positions.host(), table.host(), [n_heads, heads.dim], eps);
            }
        }
        Device::Gpu(gpu) => gpu::qk_rope_fwd(gpu, q, k, positions, table, heads, eps)?,
    }
    Ok(())
}

/// The same of new rows over pages: `q = ` itself normed and turned; keys, normed and turned, and values go to the rows' slots, of
/// [`Device::factor_dtype`], and nowhere else.
///
/// Source: as [`qk_rope_fwd`]; Kwon et al. 2023, arXiv:2309.06180 (pages).
pub fn qk_rope_append(dev: &Device, rows: NewRows, mut pages: [ViewMut; 2], heads: Heads) -> Result<()> {
    let op = "qk_rope_append";
    let n_pages = rows.check(op, dev, pages.each_ref(), heads)?;
    let (n, normed, dtypes) = (rows.at.pos.len(), rows.k_norm.is_some(), [rows.k.dtype(), pages[0].dtype()]);
    let _span = dev.op("qk_rope_append", || cost::qk_rope_append(n, heads, normed, dtypes));
    match dev {
        Device::Cpu(cpu) => {
            rows.host(op, n_pages, heads)?;
            let _ = on_cpu(cpu, rows, &mut pages, heads);
        }
        Device::Gpu(gpu) => gpu::qk_rope_append(gpu, rows, n_pages, pages, heads)?,
    }
    Ok(())
}

/// The CPU's, of rows that are looked at; the queries.
pub(crate) fn on_cpu<'a>(cpu: &Cpu, rows: NewRows<'a>, pages: &mut [ViewMut; 2], heads: Heads) -> ViewMut<'a> {
    let NewRows { q, k, v, k_norm, at, table, eps } = rows;
    let (rows, table) = ((at.seq.host(), at.pos.host(), at.table.host(), at.max_pages), table.host());
    let q = cpu::turn(cpu, q, at.pos.host(), table, [heads.q, heads.dim], eps);
    let [k_pages, v_pages] = pages.each_mut().map(attn::elements_mut);
    cpu::append(cpu, [k.host(), v.host()], k_norm.map(|w| w.host()), rows, table, [k_pages, v_pages], heads, eps);
    q
}

fn check(op: &'static str, q: &Turn, k_norm: Option<View>, heads: Heads) -> Result<()> {
    heads.check(op)?;
    want(op, "D is even", heads.dim % 2, 0)?;
    want(op, "norms of both or of neither", q.weight().is_some().into(), k_norm.is_some().into())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::attn::Heads;
    use crate::ops::cost;

    /// FLOPs and bytes besides heads: a norm's square and add, scale, weigh, and a rotation's; weights, angles, positions.
    fn of_heads(n: usize, Heads { q, kv, dim: d, .. }: Heads, normed: bool, x: DType) -> [usize; 2] {
        let per_element = if normed { 7 } else { 3 };
        [per_element * n * (q + kv) * d, 4 * n * d + 4 * n + if normed { 2 * d * x.size() } else { 0 }]
    }

    /// N rows of H and Hk heads of D, read and written; with norms, their rstd is written too.
    pub fn qk_rope_fwd(n: usize, heads: Heads, normed: bool, x: DType) -> Cost {
        let ([flops, bytes], all) = (of_heads(n, heads, normed, x), n * (heads.q + heads.kv));
        let rstd = if normed { 4 * all } else { 0 };
        cost(flops, bytes + rstd + 2 * all * heads.dim * x.size(), "N H D", [n, heads.q, heads.dim])
    }

    /// N rows of H and Hk heads of D and as many values as keys, read and written.
    pub fn qk_rope_append(n: usize, heads: Heads, normed: bool, [x, pages]: [DType; 2]) -> Cost {
        let ([flops, bytes], d) = (of_heads(n, heads, normed, x), heads.dim);
        let moved = 2 * heads.q * x.size() + 2 * heads.kv * (x.size() + pages.size());
        cost(flops, bytes + 4 * n + n * d * moved, "N H D", [n, heads.q, d])
    }
}
