//! Routing on the CPU.

use crate::device::cpu::Cpu;
use crate::device::cpu::math::exp;
use crate::device::cpu::pool::Shared;
use crate::device::cpu::softmax::softmax_sums;

/// Floats as integers of the same order; both zeros are one, NaN is last.
#[inline(always)]
fn rank(z: f32) -> i32 {
    let bits = (z + 0.0).to_bits() as i32;
    if z.is_nan() { i32::MIN } else { bits ^ ((bits >> 31) as u32 >> 1) as i32 }
}

/// The expert that comes after `(key, id)`: of the largest rank below, among equals the lowest; and its rank.
#[inline(always)]
fn next(z: &[f32], (key, id): (i32, i32)) -> (i32, i32) {
    let mut best = (i32::MIN, i32::MAX);
    for (i, z) in z.iter().enumerate() {
        let (own, i) = (rank(*z), i as i32);
        let comes_after = own < key || own == key && i > id;
        if comes_after && (own > best.0 || best.1 == i32::MAX) {
            best = (own, i);
        }
    }
    best
}

/// See [`crate::ops::moe::route_topk_fwd`].
pub(crate) fn route_topk_fwd(
    cpu: &Cpu,
    logits: &[f32],
    (probs, experts, gates): (&mut [f32], &mut [i32], &mut [f32]),
    [n_experts, n_active]: [usize; 2],
    normalise: bool,
) {
    let n = logits.len() / n_experts;
    let (probs, experts, gates) = (Shared::new(probs), Shared::new(experts), Shared::new(gates));
    cpu.rows(
        n,
        n_experts * (1 + n_active),
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                // SAFETY: each row is one task's.
                let probs = unsafe { probs.part(row * n_experts, n_experts) };
                // SAFETY: as above.
                let (experts, gates) =
                    unsafe { (experts.part(row * n_active, n_active), gates.part(row * n_active, n_active)) };
                let z = &logits[row * n_experts..][..n_experts];
                let (max, sum, _) = softmax_sums(z);
                let base = if max > f32::NEG_INFINITY { max } else { 0.0 };
                probs.iter_mut().zip(z).for_each(|(p, z)| *p = exp(z - base) / sum);
                let (mut last, mut total) = ((i32::MAX, -1), 0.0);
                for (expert, gate) in experts.iter_mut().zip(gates.iter_mut()) {
                    last = next(z, last);
                    (*expert, *gate) = (last.1, probs[last.1 as usize]);
                    total += *gate;
                }
                if normalise {
                    gates.iter_mut().for_each(|gate| *gate /= total);
                }
            }
        },
    );
}

/// See [`crate::ops::moe::route_topk_bwd`], and the derivation in `kernels/moe/route_topk_bwd.cu`.
pub(crate) fn route_topk_bwd(
    cpu: &Cpu,
    (dgates, probs, experts, gates): (&[f32], &[f32], &[i32], &[f32]),
    dlogits: &mut [f32],
    [n_experts, n_active]: [usize; 2],
    normalise: bool,
) {
    let dlogits = Shared::new(dlogits);
    cpu.rows(
        probs.len() / n_experts,
        n_experts,
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                // SAFETY: each row is one task's.
                let dlogits = unsafe { dlogits.part(row * n_experts, n_experts) };
                let own = row * n_active..(row + 1) * n_active;
                let (gates, dgates, experts) = (&gates[own.clone()], &dgates[own.clone()], &experts[own]);
                let dot = gates.iter().zip(dgates).fold(0f32, |sum, (gate, d)| gate.mul_add(*d, sum));
                let probs = &probs[row * n_experts..][..n_experts];
                for (d, p) in dlogits.iter_mut().zip(probs) {
                    *d = if normalise { 0.0 } else { *p } * (0.0 - dot);
                }
                for ((expert, gate), dgate) in experts.iter().zip(gates).zip(dgates) {
                    dlogits[*expert as usize] = gate * (dgate - dot);
                }
            }
        },
    );
}

/// See [`crate::ops::moe::moe_sort`].
pub(crate) fn moe_sort(experts: &[i32], order: &mut [i32], place: &mut [i32], offsets: &mut [i32]) {
    offsets.fill(0);
    // How many rows each expert has, one further on; then where its rows begin; then, row by row, where its next one goes.
    experts.iter().for_each(|e| offsets[*e as usize + 1] += 1);
    (1..offsets.len()).for_each(|e| offsets[e] += offsets[e - 1]);
    for (row, (expert, place)) in experts.iter().zip(place).enumerate() {
        let next = &mut offsets[*expert as usize];
        (*place, order[*next as usize]) = (*next, row as i32);
        *next += 1;
    }
    // Now each stands at the end of its rows, where the next one's begin.
    let last = offsets.len() - 1;
    offsets.copy_within(..last, 1);
    offsets[0] = 0;
}
