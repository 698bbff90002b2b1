//! What each op must do at least: the formulas of the kernels' `Cost` lines, in code. Profiler and benches divide by them.
//!
//! FLOPs are those of the mathematics: a multiply-add is two, exp and division count one each; of attention and the head
//! only the products, as is usual, the second forward that their backwards make included where the op cannot do without.
//! Bytes are what must cross the memory once when the op runs alone: every input read, every output written (`+=` reads it
//! too), nothing twice. An op whose data lies in a cache may beat the memory's bandwidth.

use super::attn::Heads;
use crate::device::DType;
use crate::device::record::{Cost, Keys};

fn cost(flops: usize, bytes: usize, letters: &'static str, dims: [usize; 3]) -> Cost {
    Cost { flops: flops as f64, bytes: bytes as f64, letters, dims }
}

/// `c [M, N]` of a and b with K terms a sum; `adds` when c is read too.
pub fn gemm(m: usize, n: usize, k: usize, [a, b]: [DType; 2], c: DType, adds: bool) -> Cost {
    let bytes = a.size() * m * k + b.size() * n * k + c.size() * m * n * (1 + adds as usize);
    cost(2 * m * n * k, bytes, "M N K", [m, n, k])
}

/// Moves N rows of C.
pub fn embed_fwd(n: usize, c: usize, x: DType) -> Cost {
    cost(0, 2 * n * c * x.size() + 4 * n, "N C", [n, c, 0])
}

/// Adds N rows of C to rows of a table.
pub fn embed_bwd(n: usize, c: usize, dx: DType, table: DType) -> Cost {
    cost(n * c, n * c * (dx.size() + 2 * table.size()) + 4 * n, "N C", [n, c, 0])
}

/// Writes N elements.
pub fn fill(n: usize, x: DType) -> Cost {
    cost(0, n * x.size(), "N", [n, 0, 0])
}

/// Reads and writes N elements.
pub fn copy(n: usize, x: DType, y: DType) -> Cost {
    cost(0, n * (x.size() + y.size()), "N", [n, 0, 0])
}

/// N rows of C: square and add, scale, weigh.
pub fn rmsnorm_fwd(n: usize, c: usize, x: DType, y: DType) -> Cost {
    cost(4 * n * c, n * c * (x.size() + y.size()) + c * x.size() + 4 * n, "N C", [n, c, 0])
}

/// dx and dw: reads dy, x, dx, w, rstd and dw, writes dx and dw.
pub fn rmsnorm_bwd(n: usize, c: usize, x: DType) -> Cost {
    cost(10 * n * c, (4 * n * c + c) * x.size() + 4 * n + 8 * c, "N C", [n, c, 0])
}

/// N rows of H heads of D: four products and two sums a pair; a row of the table a position.
pub fn rope(n: usize, h: usize, d: usize, x: DType) -> Cost {
    cost(3 * n * h * d, 2 * n * h * d * x.size() + 4 * n * d + 4 * n, "N H D", [n, h, d])
}

/// N F elements: the sigmoid, and two products.
pub fn swiglu_fwd(nf: usize, x: DType, h: DType) -> Cost {
    cost(5 * nf, nf * (2 * x.size() + h.size()), "NF", [nf, 0, 0])
}

/// N F elements: the sigmoid again, and both gradients.
pub fn swiglu_bwd(nf: usize, x: DType, dx: DType) -> Cost {
    cost(11 * nf, nf * (3 * x.size() + 2 * dx.size()), "NF", [nf, 0, 0])
}

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

/// N rows against V tokens: the product; logits and their sums stay in the cache.
pub fn linear_logprob_fwd(n: usize, c: usize, v: usize, x: DType) -> Cost {
    cost(2 * n * c * v, (n + v) * c * x.size() + 16 * n, "N C V", [n, c, v])
}

/// The logits again, dx, and dw, which is added to.
pub fn linear_logprob_bwd(n: usize, c: usize, v: usize, x: DType) -> Cost {
    cost(6 * n * c * v, (2 * n + v) * c * x.size() + 8 * v * c + 20 * n, "N C V", [n, c, v])
}

/// N rows of V logits, scaled in place.
pub fn sample(n: usize, v: usize) -> Cost {
    cost(5 * n * v, 8 * n * v, "N V", [n, v, 0])
}

/// N rows: token, id, two positions, seq, key's position read, all but token and seq written.
pub fn decode_next(n: usize) -> Cost {
    cost(0, 44 * n, "N", [n, 0, 0])
}

/// N tokens: six inputs, two outputs.
pub fn policy_loss(n: usize) -> Cost {
    cost(60 * n, 32 * n, "N", [n, 0, 0])
}

/// Squares of N elements.
pub fn grad_norm(n: usize) -> Cost {
    cost(2 * n, 4 * n, "N", [n, 0, 0])
}

/// N weights, their gradients and moments; a copy in bf16 when there is one.
pub fn adamw_step(n: usize, has_copy: bool) -> Cost {
    cost(17 * n, (28 + 2 * has_copy as usize) * n, "N", [n, 0, 0])
}

/// n groups of G rewards.
pub fn group_advantage(n: usize, g: usize) -> Cost {
    cost(5 * n * g, 8 * n * g + 4 * n, "n G", [n, g, 0])
}

/// n sets of K: ranks by K comparisons a candidate.
pub fn shapley_max(n: usize, k: usize) -> Cost {
    cost(n * k * k, 8 * n * k, "n K", [n, k, 0])
}

/// n games of K by their tables.
pub fn shapley_table(n: usize, k: usize) -> Cost {
    cost(3 * n * k * (1 << k) / 2, 4 * n * (1 << k) + 4 * n * k, "n K", [n, k, 0])
}

/// Writes N numbers.
pub fn noise_bits(n: usize) -> Cost {
    cost(0, 8 * n, "N", [n, 0, 0])
}
