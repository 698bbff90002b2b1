//! Scores become probabilities: the running softmax, a chunk of keys at a time.
//!
//! A query keeps the maximum m and the sum of what it has seen. A chunk may raise m to m'; its probabilities are
//! `exp(score - m')`, and what was gathered before is to be multiplied by `exp(m - m')`, which is what these functions
//! return. A chunk's sum is a tree, addends 16 apart, then 8, 4, 2, 1, whether lanes are queries ([`merge`]) or keys ([`merge_row`]): the same
//! bits. Source: Milakov and Gimelshein 2018, arXiv:1805.02867.
//!
//! Segments of keys become one by [`merge_segment`].

use super::{Queries, Scores};
use crate::device::cpu::math;
use crate::device::cpu::softmax::tree;
use crate::ops::attn::CHUNK;

/// Half the queries of a tile.
const HALF: usize = CHUNK / 2;

/// Which keys of a chunk the queries see. A call names one of these, so that each has code of its own.
#[derive(Clone, Copy)]
pub(super) enum Sees<'a> {
    /// Every query all of them.
    All,
    /// Query i those up to key i: the chunk on the diagonal.
    UpToOwn,
    /// Query i so many, from the first on.
    First(&'a [i32; CHUNK]),
}

impl Sees<'_> {
    /// Whether query i sees key j.
    #[inline(always)]
    fn key(self, j: usize, i: usize) -> bool {
        match self {
            Sees::All => true,
            Sees::UpToOwn => j <= i,
            Sees::First(n) => (j as i32) < n[i],
        }
    }

    /// Whether no query of the half from `first` on sees key j, where that needs no look at them.
    #[inline(always)]
    fn none_of_half(self, j: usize, first: usize) -> bool {
        matches!(self, Sees::UpToOwn) && j >= first + HALF
    }
}

/// `s [key, query]`, scores -> probabilities relative to the new maxima; returns the factors of what was gathered before.
/// What is not seen becomes 0; a query that sees no key of the chunk keeps what it had, exactly.
#[inline(always)]
pub(super) fn merge(s: &mut Scores, sees: Sees, max: &mut Queries, sum: &mut Queries, scale: f32) -> Queries {
    let mut new_max = *max;
    for (j, s) in s.0.iter_mut().enumerate() {
        for i in 0..CHUNK {
            let x = if sees.key(j, i) { s[i] * scale } else { f32::NEG_INFINITY };
            s[i] = x;
            new_max.0[i] = if x > new_max.0[i] { x } else { new_max.0[i] };
        }
    }
    let mut shrink = Queries([0.0; CHUNK]);
    for i in 0..CHUNK {
        shrink.0[i] = math::exp(max.0[i] - new_max.0[i]);
    }
    // The tree, in every lane; its first two levels as the addends come.
    let mut tree = [[0f32; CHUNK]; CHUNK / 4];
    for j in 0..CHUNK / 4 {
        for row in [j, j + 8, j + 16, j + 24] {
            for first in [0, HALF] {
                if sees.none_of_half(row, first) {
                    s.0[row][first..first + HALF].fill(0.0);
                    continue;
                }
                for i in first..first + HALF {
                    s.0[row][i] = math::exp(s.0[row][i] - new_max.0[i]);
                }
            }
        }
        for i in 0..CHUNK {
            tree[j][i] = (s.0[j][i] + s.0[j + 16][i]) + (s.0[j + 8][i] + s.0[j + 24][i]);
        }
    }
    for half in [4, 2, 1] {
        for j in 0..half {
            for i in 0..CHUNK {
                tree[j][i] += tree[j + half][i];
            }
        }
    }
    for i in 0..CHUNK {
        sum.0[i] = sum.0[i] * shrink.0[i] + tree[0][i];
    }
    *max = new_max;
    shrink
}

/// The same for one query, `s [key]`, that sees the first `keys` keys.
#[inline(always)]
pub(super) fn merge_row(s: &mut [f32; CHUNK], keys: usize, max: &mut f32, sum: &mut f32, scale: f32) -> f32 {
    let mut top = [0f32; CHUNK];
    for j in 0..CHUNK {
        s[j] = if j < keys { s[j] * scale } else { f32::NEG_INFINITY };
        top[j] = s[j];
    }
    let mut half = CHUNK / 2;
    while half > 0 {
        for j in 0..half {
            top[j] = if top[j + half] > top[j] { top[j + half] } else { top[j] };
        }
        half /= 2;
    }
    let new_max = if top[0] > *max { top[0] } else { *max };
    let shrink = math::exp(*max - new_max);
    for j in 0..CHUNK {
        s[j] = math::exp(s[j] - new_max);
    }
    *sum = *sum * shrink + tree(*s);
    *max = new_max;
    shrink
}

/// What a row has gathered: maximum, sum and `o sum [D]`.
pub(super) type Row<'a> = (&'a mut f32, &'a mut f32, &'a mut [f32]);

/// The segments so far of a row take the one behind them, which begins anew; the first stands as it is.
#[inline(always)]
pub(super) fn merge_segment((max, sum, acc): Row, (part_max, part_sum, part_acc): Row, first: bool) {
    if first {
        (*max, *sum) = (*part_max, *part_sum);
        acc.copy_from_slice(part_acc);
    } else {
        let top = if *part_max > *max { *part_max } else { *max };
        let [total, part] = [math::exp(*max - top), math::exp(*part_max - top)];
        *sum = part_sum.mul_add(part, *sum * total);
        *max = top;
        for (acc, x) in acc.iter_mut().zip(part_acc) {
            *acc = x.mul_add(part, *acc * total);
        }
    }
    (*part_max, *part_sum) = (f32::NEG_INFINITY, 0.0);
}
