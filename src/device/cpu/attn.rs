//! Causal grouped-query attention on the CPU.

use super::Cpu;
use crate::ops::attn::{CHUNK, Heads};

/// Row, position, table, columns of the table: where rows of a paged call live.
pub type Paged<'a> = (&'a [i32], &'a [i32], &'a [i32], usize);

/// One query over keys `0..n_keys`, given by `k(j)` and `v(j)`; returns the log-sum-exp.
fn query<'a>(
    q: &[f32],
    n_keys: usize,
    k: impl Fn(usize, usize) -> f32,
    v: impl Fn(usize) -> &'a [f32],
    o: &mut [f32],
    scale: f32,
) -> f32 {
    let (mut max, mut sum) = (f32::NEG_INFINITY, 0f32);
    o.fill(0.0);
    for chunk in (0..n_keys).step_by(CHUNK) {
        let keys = CHUNK.min(n_keys - chunk);
        let mut s = [f32::NEG_INFINITY; CHUNK];
        for j in 0..keys {
            s[j] = (0..q.len()).fold(0f32, |a, d| q[d].mul_add(k(chunk + j, d), a)) * scale;
        }
        let new_max = s.iter().fold(max, |a, b| a.max(*b));
        let shrink = (max - new_max).exp();
        sum *= shrink;
        o.iter_mut().for_each(|x| *x *= shrink);
        for j in 0..keys {
            let p = (s[j] - new_max).exp();
            sum += p;
            for (x, y) in o.iter_mut().zip(v(chunk + j)) {
                *x = p.mul_add(*y, *x);
            }
        }
        max = new_max;
    }
    o.iter_mut().for_each(|x| *x /= sum);
    max + sum.ln()
}

/// See [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(_cpu: &Cpu, q: &[f32], k: &[f32], v: &[f32], cu: &[i32], o: &mut [f32], lse: &mut [f32], heads: Heads) {
    let (h, hk, d) = (heads.q, heads.kv, heads.dim);
    for seq in cu.windows(2) {
        let (start, end) = (seq[0] as usize, seq[1] as usize);
        for row in start..end {
            for head in 0..h {
                let kv = head / (h / hk);
                let at = |j: usize| ((start + j) * hk + kv) * d;
                lse[row * h + head] = query(
                    &q[(row * h + head) * d..][..d],
                    row - start + 1,
                    |j, i| k[at(j) + i],
                    |j| &v[at(j)..][..d],
                    &mut o[(row * h + head) * d..][..d],
                    heads.scale,
                );
            }
        }
    }
}

/// See [`crate::ops::attn::attn_bwd`].
pub fn attn_bwd(
    _cpu: &Cpu,
    d_o: &[f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: &[f32],
    lse: &[f32],
    cu: &[i32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    heads: Heads,
) {
    let (h, hk, d) = (heads.q, heads.kv, heads.dim);
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    for seq in cu.windows(2) {
        let (start, end) = (seq[0] as usize, seq[1] as usize);
        for row in start..end {
            for head in 0..h {
                let at = (row * h + head) * d;
                let (q, o, d_o) = (&q[at..][..d], &o[at..][..d], &d_o[at..][..d]);
                let delta: f32 = (0..d).map(|i| o[i] * d_o[i]).sum();
                for key in start..=row {
                    let to = (key * hk + head / (h / hk)) * d;
                    let s = (0..d).fold(0f32, |a, i| q[i].mul_add(k[to + i], a)) * heads.scale;
                    let p = (s - lse[row * h + head]).exp();
                    let dp: f32 = (0..d).map(|i| d_o[i] * v[to + i]).sum();
                    let ds = p * (dp - delta) * heads.scale;
                    for i in 0..d {
                        dv[to + i] += p * d_o[i];
                        dk[to + i] += ds * q[i];
                        dq[at + i] += ds * k[to + i];
                    }
                }
            }
        }
    }
}

/// Offset of (page, kv head): keys lie `[D, S]` (a chunk's keys side by side), values `[S, D]`.
fn page_at(page: i32, kv: usize, heads: Heads) -> usize {
    (page as usize * heads.kv + kv) * heads.dim * CHUNK
}

/// See [`crate::ops::attn::kv_append`].
pub fn kv_append(_cpu: &Cpu, k: &[f32], v: &[f32], at: Paged, k_pages: &mut [f32], v_pages: &mut [f32], heads: Heads) {
    let (seq, pos, table, max_pages) = at;
    let d = heads.dim;
    for row in 0..pos.len() {
        let (page, slot) = (pos[row] as usize / CHUNK, pos[row] as usize % CHUNK);
        let page = table[seq[row] as usize * max_pages + page];
        for kv in 0..heads.kv {
            let to = page_at(page, kv, heads);
            let from = (row * heads.kv + kv) * d;
            for i in 0..d {
                k_pages[to + i * CHUNK + slot] = k[from + i];
                v_pages[to + slot * d + i] = v[from + i];
            }
        }
    }
}

/// See [`crate::ops::attn::attn_decode`].
pub fn attn_decode(_cpu: &Cpu, q: &[f32], k_pages: &[f32], v_pages: &[f32], at: Paged, o: &mut [f32], heads: Heads) {
    let (seq, pos, table, max_pages) = at;
    let (h, hk, d) = (heads.q, heads.kv, heads.dim);
    for row in 0..pos.len() {
        for head in 0..h {
            let page = |j: usize| page_at(table[seq[row] as usize * max_pages + j / CHUNK], head / (h / hk), heads);
            query(
                &q[(row * h + head) * d..][..d],
                pos[row] as usize + 1,
                |j, i| k_pages[page(j) + i * CHUNK + j % CHUNK],
                |j| &v_pages[page(j) + j % CHUNK * d..][..d],
                &mut o[(row * h + head) * d..][..d],
                heads.scale,
            );
        }
    }
}
