//! The fused head and log-probability on the CPU: logits of a block of rows, then each row's sums or gradient.

use super::targets::{self, forbidden};
use crate::device::Precision;
use crate::device::View;
use crate::device::cpu::Cpu;
use crate::device::cpu::float::Float;
use crate::device::cpu::math::{Isa, exp, ln};
use crate::device::cpu::pool::Shared;
use crate::device::cpu::softmax::softmax_sums;
use crate::ops::gemm::Store;
use crate::ops::gemm::cpu::{self as gemm, Factor, Product};
use half::bf16;

/// Logits that exist at a time, about; in f32 elements. They stay in the second-level caches.
const BLOCK: usize = 1 << 18;
/// Their gradients at medium precision, in bf16: more rows, for the head is packed, and dw read and written, once for all of
/// them; 64 MiB.
const NARROW_BLOCK: usize = 1 << 25;
/// Logits a task works on, about.
const TASK: usize = 1 << 13;

/// Rows whose logits exist at a time. Results do not depend on it.
fn block_rows(vocab: usize) -> usize {
    (BLOCK / vocab.max(1)).clamp(64, 512)
}

/// Rows whose gradients of logits exist at a time, where they are bf16: whole blocks of logits.
fn narrow_rows(vocab: usize) -> usize {
    let rows = block_rows(vocab);
    (NARROW_BLOCK / vocab.max(1)).clamp(rows, 512) / rows * rows
}

/// Numbers from row to row of logits: rows a multiple of 4 KiB apart would share their cache sets.
fn row_len(vocab: usize) -> usize {
    vocab.next_multiple_of(32) + 32
}

/// f32 elements of the workspace: logits, and at medium precision their gradients.
pub fn workspace_len(cpu: &Cpu, vocab: usize) -> usize {
    let narrow = if cpu.precision == Precision::Medium { narrow_rows(vocab) / 2 } else { 0 };
    (block_rows(vocab) + narrow) * row_len(vocab)
}

/// The taken tokens, and which tokens rows are scored among; see [`crate::ops::logprob::Targets`].
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    ids: &'a [i32],
    masks: Option<(&'a [i32], &'a [i32])>,
}

impl<'a> From<targets::Targets<'a>> for Targets<'a> {
    fn from(of: targets::Targets<'a>) -> Targets<'a> {
        Targets { ids: of.ids.host(), masks: of.masks.map(|masks| (masks.words.host(), masks.of.host())) }
    }
}

impl Targets<'_> {
    /// Puts the raw logits of what row `n` may not take at `low`.
    fn forbid(self, n: usize, z: &mut [f32], low: f32) {
        let Some((words, of)) = self.masks else { return };
        let Ok(mask) = usize::try_from(of[n]) else { return };
        let w = z.len().div_ceil(32);
        for (z, word) in z.chunks_mut(32).zip(&words[mask * w..][..w]) {
            let may = |bit: usize| *word as u32 >> bit & 1 == 1;
            z.iter_mut().enumerate().filter(|(bit, _)| !may(*bit)).for_each(|(_, z)| *z = low);
        }
    }
}

/// The head's matrix `[V, C]`, and perhaps its panels.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    w: Factor<'a>,
    panels: Option<&'a [f32]>,
}

impl<'a> Head<'a> {
    /// Of views.
    pub fn new(w: View<'a>, panels: Option<View<'a>>) -> Head<'a> {
        Head { w: w.into(), panels: panels.map(|p| p.host()) }
    }

    /// V.
    fn vocab(self, dim: usize) -> usize {
        self.w.len() / dim
    }

    /// Calls `row(r, z)` for the logits of each row of x, in parallel.
    fn each_row(
        self,
        cpu: &Cpu,
        x: Factor,
        z: &mut [f32],
        [n, dim]: [usize; 2],
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (v, w) = (self.vocab(dim), self.w);
        let ldc = row_len(v);
        gemm::run(cpu, Product::nt(x, w, z, [n, v, dim], Store::Set).panels(self.panels).ldc(ldc));
        let (rows, z) = ((TASK / v).max(1), Shared::new(z));
        cpu.pool.run(n.div_ceil(rows), |task| {
            for r in task * rows..n.min((task + 1) * rows) {
                // SAFETY: each row belongs to one task.
                row(r, unsafe { z.part(r * ldc, v) });
            }
        });
    }
}

/// (lse, entropy, logprob of `target`) of a row of raw logits, which is scaled in place.
fn row_logprob(isa: Isa, z: &mut [f32], inv_temperature: f32, target: usize) -> (f32, f32, f32) {
    let (max, sum, dot) = isa.run(
        #[inline(always)]
        || {
            if inv_temperature != 1.0 {
                z.iter_mut().for_each(|z| *z *= inv_temperature);
            }
            softmax_sums(z)
        },
    );
    let log_sum = ln(sum);
    let lse = max + log_sum;
    (lse, log_sum - dot / sum, z[target] - lse)
}

/// See [`crate::ops::logprob::linear_logprob_fwd`].
pub fn linear_logprob_fwd(
    cpu: &Cpu,
    x: Factor,
    head: Head,
    target: Targets,
    logprob: &mut [f32],
    lse: &mut [f32],
    entropy: &mut [f32],
    workspace: &mut [f32],
    dim: usize,
    inv_temperature: f32,
) {
    let v = head.vocab(dim);
    let (logprob, lse, entropy) = (Shared::new(logprob), Shared::new(lse), Shared::new(entropy));
    let (len, low) = (target.ids.len(), forbidden(inv_temperature));
    for start in (0..len).step_by(block_rows(v)) {
        let rows = block_rows(v).min(len - start);
        let x = x.at(start * dim..(start + rows) * dim);
        head.each_row(cpu, x, workspace, [rows, dim], |r, z| {
            let n = start + r;
            target.forbid(n, z, low);
            let (l, h, p) = row_logprob(cpu.isa, z, inv_temperature, target.ids[n] as usize);
            // SAFETY: element n of each belongs to the task of row n.
            unsafe { (lse.part(n, 1)[0], entropy.part(n, 1)[0], logprob.part(n, 1)[0]) = (l, h, p) };
        });
    }
}

/// What the gradient of a row of logits is made of.
#[derive(Clone, Copy)]
struct Given<'a> {
    dlogprob: &'a [f32],
    dentropy: &'a [f32],
    target: Targets<'a>,
    lse: &'a [f32],
    entropy: &'a [f32],
    inv_temperature: f32,
}

/// See [`crate::ops::logprob::linear_logprob_bwd`]. With p = softmax(z), H its entropy:
/// `dz = dlogprob (1[target] - p) - dentropy p (log p + H)`, `dx = dz w`, `dw += dz^T x`, all times the inverse
/// temperature; no dw of a frozen head. dz is written over z, or at medium precision, where products alone read it, beside it in bf16.
pub fn linear_logprob_bwd(
    cpu: &Cpu,
    dlogprob: &[f32],
    dentropy: &[f32],
    x: Factor,
    head: Head,
    target: Targets,
    lse: &[f32],
    entropy: &[f32],
    dx: &mut [f32],
    mut dw: Option<&mut [f32]>,
    workspace: &mut [f32],
    dim: usize,
    inv_temperature: f32,
) {
    let (v, w) = (head.vocab(dim), head.w);
    let given = Given { dlogprob, dentropy, target, lse, entropy, inv_temperature };
    let (block, lda) = (block_rows(v), row_len(v));
    let (z, dz) = workspace.split_at_mut(block * lda);
    let narrow = cpu.precision == Precision::Medium;
    let most = if narrow { narrow_rows(v) } else { block };
    let len = target.ids.len();
    for start in (0..len).step_by(most) {
        let rows = most.min(len - start);
        let of = |n: usize, rows: usize| n * dim..(n + rows) * dim;
        let dz = if narrow {
            let dz = bytemuck::cast_slice_mut::<f32, bf16>(dz);
            for first in (0..rows).step_by(block) {
                let (n, to) = (block.min(rows - first), Shared::new(&mut dz[first * lda..]));
                head.each_row(cpu, x.at(of(start + first, n)), z, [n, dim], |r, z| {
                    given.row(cpu.isa, start + first + r, z);
                    // SAFETY: row r belongs to one task.
                    bf16::put(gemm::narrow(cpu), z, unsafe { to.part(r * lda, v) });
                });
            }
            Factor::Bf16(dz)
        } else {
            head.each_row(cpu, x.at(of(start, rows)), z, [rows, dim], |r, z| given.row(cpu.isa, start + r, z));
            Factor::F32(z)
        };
        let dx = &mut dx[of(start, rows)];
        gemm::run(cpu, Product::nn(dz, w, dx, [rows, dim, v], Store::Set).lda(lda));
        if let Some(dw) = dw.as_deref_mut() {
            gemm::run(cpu, Product::tn(dz, x.at(of(start, rows)), dw, [v, dim, rows], Store::Add).lda(lda));
        }
    }
}

impl Given<'_> {
    /// From raw logits of row n to their gradient.
    fn row(self, isa: Isa, n: usize, z: &mut [f32]) {
        let (dlogprob, dentropy, lse, entropy) = (self.dlogprob[n], self.dentropy[n], self.lse[n], self.entropy[n]);
        let inv_temperature = self.inv_temperature;
        self.target.forbid(n, z, forbidden(inv_temperature));
        isa.run(
            #[inline(always)]
            || {
                for z in z.iter_mut() {
                    let log_p = *z * inv_temperature - lse;
                    *z = -inv_temperature * exp(log_p) * dentropy.mul_add(log_p + entropy, dlogprob);
                }
            },
        );
        z[self.target.ids[n] as usize] += inv_temperature * dlogprob;
    }
}
