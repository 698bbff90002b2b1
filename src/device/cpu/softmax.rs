//! The sums of a softmax row, in the one order that the head and sampling share.
//!
//! A row is cut into spans of 2048; where it has several, each span into pieces of 256, the tokens of a tile of the
//! head's product on Hopper. Inside a piece, or the one span, element i belongs to lane i % 16; each lane adds its elements
//! in ascending order; the lanes are added as a tree of halves; then pieces, and then spans, in ascending order. So the
//! bits depend on the row alone, sixteen lanes are one vector where there is AVX-512, and a GPU sums the spans side by side.
//! All functions are `#[inline(always)]`: they are compiled for the vectors of the caller, see [`Isa::run`].
//!
//! [`Isa::run`]: super::math::Isa::run

use super::math::exp;

/// Lanes of a sum.
pub const LANES: usize = 16;

/// Elements of a span.
pub const SPAN: usize = 2048;

/// Elements of a piece of a span.
pub const PIECE: usize = 256;

/// Maximum, sum of `exp(z - max)`, and sum of `exp(z - max) (z - max)`.
type Sums = (f32, f32, f32);

/// Maximum, sum of `exp(z - max)`, and sum of `exp(z - max) (z - max)` of a row: the distance and not z, for entropy is
/// small beside z. NaN makes the sums NaN.
#[inline(always)]
pub fn softmax_sums(z: &[f32]) -> Sums {
    if z.len() <= SPAN {
        return piece_sums(z);
    }
    let mut row = (row_max(z), 0.0, 0.0);
    for span in z.chunks(SPAN) {
        let (mut parts, mut whole) = ([(0f32, 0f32, 0f32); SPAN / PIECE], (f32::NEG_INFINITY, 0.0, 0.0));
        let mut n_parts = 0;
        for piece in span.chunks(PIECE) {
            parts[n_parts] = piece_sums(piece);
            whole.0 = parts[n_parts].0.max(whole.0);
            n_parts += 1;
        }
        for part in &parts[..n_parts] {
            whole = add_part(whole, *part);
        }
        row = add_part(row, whole);
    }
    row
}

/// The sums of a whole whose maximum is known, with those of one more part.
#[inline(always)]
fn add_part((max, sum, dot): Sums, (own, s, d): Sums) -> Sums {
    let below = own - if max > f32::NEG_INFINITY { max } else { 0.0 };
    let share = exp(below);
    (max, s.mul_add(share, sum), share.mul_add(s.mul_add(below, d), dot))
}

/// Of a row or a part of one, under its own maximum: its sums need no other part.
#[inline(always)]
fn piece_sums(z: &[f32]) -> Sums {
    let max = row_max(z);
    let (sum, dot) = base_sums(z, if max > f32::NEG_INFINITY { max } else { 0.0 });
    (max, sum, dot)
}

/// Sum of `exp(z - base)`, and of `exp(z - base) (z - base)`, of a piece.
#[inline(always)]
fn base_sums(z: &[f32], base: f32) -> (f32, f32) {
    let (mut sum, mut dot) = ([0f32; LANES], [0f32; LANES]);
    let (chunks, rest) = z.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            let below = chunk[l] - base;
            let p = exp(below);
            sum[l] += p;
            dot[l] = p.mul_add(below, dot[l]);
        }
    }
    for l in 0..rest.len() {
        let below = rest[l] - base;
        let p = exp(below);
        sum[l] += p;
        dot[l] = p.mul_add(below, dot[l]);
    }
    (tree(sum), tree(dot))
}

/// Largest element, NaN aside.
#[inline(always)]
pub fn row_max(z: &[f32]) -> f32 {
    let mut max = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = z.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            max[l] = chunk[l].max(max[l]);
        }
    }
    for l in 0..rest.len() {
        max[l] = rest[l].max(max[l]);
    }
    max.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// Sum of `f(i, z[i])` over a row.
#[inline(always)]
pub fn lane_sum(z: &[f32], f: impl Fn(usize, f32) -> f32) -> f32 {
    let mut total = 0f32;
    for (s, span) in z.chunks(SPAN).enumerate() {
        let mut sum = [0f32; LANES];
        let (chunks, rest) = span.as_chunks::<LANES>();
        for (c, chunk) in chunks.iter().enumerate() {
            for l in 0..LANES {
                sum[l] += f(s * SPAN + c * LANES + l, chunk[l]);
            }
        }
        for l in 0..rest.len() {
            sum[l] += f(s * SPAN + chunks.len() * LANES + l, rest[l]);
        }
        total += tree(sum);
    }
    total
}

/// Sum of the lanes, a power of two: halves added to each other.
#[inline(always)]
pub fn tree<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}
