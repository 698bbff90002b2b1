//! Attention of new rows: heads normed and turned, then softmax over the keys before and the row's own.

use crate::ops::attn::oracle::attn_fwd;
use crate::ops::attn::{Heads, Sequences};
use crate::ops::qk_rope::oracle::qk_rope_append;

/// Returns o `[B, H, D]` of the last row of each sequence of `lens` rows: q `[B, H, D]`, k, v `[B, Hk, D]` are the new rows'; of the
/// rows before, keys and values `[sum(lens - 1), Hk, D]` are as they stand in their pages.
pub fn attn_step(
    [q, k, v]: [&[f64]; 3],
    [k_before, v_before]: [&[f64]; 2],
    norms: [Option<&[f64]>; 2],
    lens: &[usize],
    heads: Heads,
    theta: f64,
    eps: f64,
) -> Vec<f64> {
    let positions: Vec<i32> = lens.iter().map(|len| *len as i32 - 1).collect();
    let [q, k] = qk_rope_append([q, k], norms, &positions, [heads.q, heads.kv], theta, eps);
    let (wide, narrow, mut from) = (heads.q * heads.dim, heads.kv * heads.dim, 0);
    let each = lens.iter().enumerate().flat_map(|(row, len)| {
        let before = from * narrow..(from + len - 1) * narrow;
        from += len - 1;
        let with = |before: &[f64], new: &[f64]| [before, &new[row * narrow..][..narrow]].concat();
        let (keys, values) = (with(&k_before[before.clone()], &k), with(&v_before[before], v));
        let queries = [vec![0.0; (len - 1) * wide], q[row * wide..][..wide].to_vec()].concat();
        let o = attn_fwd(&queries, &keys, &values, Sequences::apart(&[0, *len as i32]), heads).0;
        o[(len - 1) * wide..].to_vec()
    });
    each.collect()
}
