//! Attention of new rows, each of a sequence of its own, as in decode: heads are normed and turned, the new key and value go to
//! their slot, and the row attends, by one launch.
//!
//! The arithmetic and the roundings are those of [`qk_rope_append`](super::qk_rope::qk_rope_append) and
//! [`attn_decode`](super::attn::attn_decode) one after the other: the same bits.

pub mod cases;
pub(crate) mod gpu;
pub mod oracle;

use super::attn::{self, Heads};
use super::qk_rope::{self, NewRows};
use super::want;
use crate::device::record::Keys;
use crate::device::{Device, ViewMut};
use crate::error::Result;

/// `o [N, H, D] = ` attention of new rows over their sequences' pages, keys `0..=pos` each, after their own key and value have gone
/// there. No two rows are of one sequence, and no row's slot is another's. Queries may be left as they are, or turned.
/// workspace: see [`attn_decode_workspace`](super::attn::attn_decode_workspace).
///
/// Source: as [`qk_rope_append`](super::qk_rope::qk_rope_append) and [`attn_decode`](super::attn::attn_decode).
pub fn attn_step(
    dev: &Device,
    rows: NewRows,
    mut pages: [ViewMut; 2],
    mut o: ViewMut,
    workspace: ViewMut,
    heads: Heads,
) -> Result<()> {
    let (op, at) = ("attn_step", rows.at);
    let n_pages = rows.check(op, dev, pages.each_ref(), heads)?;
    want(op, "o [N, H, D]", o.len(), at.pos.len() * heads.q * heads.dim)?;
    let (normed, dtypes) = (rows.k_norm.is_some(), [rows.k.dtype(), pages[0].dtype()]);
    let keys = || dev.keys(|| Keys::paged(at.seq.host(), at.pos.host()));
    let _span = dev.op("attn_step", || cost::attn_step(at.pos.len(), heads, keys(), normed, dtypes));
    match dev {
        Device::Cpu(cpu) => {
            rows.host(op, n_pages, heads)?;
            let q = qk_rope::on_cpu(cpu, rows, &mut pages, heads);
            let at = (at.seq.host(), at.pos.host(), at.table.host(), at.max_pages);
            let [k_pages, v_pages] = pages.each_ref().map(|pages| attn::elements(pages.view()));
            attn::cpu::attn_decode(cpu, q.view().host(), k_pages, v_pages, at, o.host_mut(), heads)
        }
        Device::Gpu(gpu) => gpu::attn_step(gpu, rows, n_pages, pages, o, workspace, heads)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::{Cost, Keys};
    use crate::ops::attn::{self, Heads};
    use crate::ops::{cost, qk_rope};

    /// The products of attention; both ops' bytes, without the queries' way through memory: each is written by one and read by the
    /// other. The new keys are written, and read as those that were there.
    pub fn attn_step(n: usize, heads: Heads, keys: Keys, normed: bool, [x, pages]: [DType; 2]) -> Cost {
        let before = qk_rope::cost::qk_rope_append(n, heads, normed, [x, pages]);
        let attends = attn::cost::attn_decode(n, heads, keys, x, pages);
        let (queries, rows) = (2 * n * heads.q * heads.dim * x.size(), 8 * n);
        let bytes = (before.bytes + attends.bytes) as usize - queries - rows;
        cost(attends.flops as usize, bytes, "N H D", [n, heads.q, heads.dim])
    }
}
