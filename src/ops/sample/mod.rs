//! Sampling: one token a row, and its log-probability, in one pass.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::want;
use crate::device::{Device, View, ViewMut};
use crate::error::Result;

/// How rows are sampled; every field `[N]`, except `key`.
#[derive(Clone, Copy)]
pub struct Sampling<'a> {
    /// f32; 0 is greedy (and logprobs are then at temperature 1).
    pub temperature: View<'a>,
    /// i32; keep the k likeliest, 0 keeps all.
    pub top_k: View<'a>,
    /// f32; keep the smallest set whose probability reaches top_p, 1 keeps all.
    pub top_p: View<'a>,
    /// f32; drop tokens below min_p times the likeliest, 0 keeps all.
    pub min_p: View<'a>,
    /// u64 `[N, 3]`: seed, stream (the episode's side), position. The noise is a function of these alone.
    pub key: View<'a>,
}

/// The next decode step's rows from this one's: `ids = token`, positions and the position of the noise's key one further.
/// token `[N]` i32; rows `[6, N]` i32: ids, positions, seq, logit rows, and these rows' positions and seq, where row i
/// samples from itself; key `[N, 3]` u64. Rows whose seq is `n_seqs` or above stay as they are.
pub fn decode_next(dev: &Device, token: View, mut rows: ViewMut, mut key: ViewMut, n_seqs: usize) -> Result<()> {
    let n = token.len();
    want("decode_next", "rows [6, N]", rows.len(), 6 * n)?;
    want("decode_next", "key [N, 3]", key.len(), 3 * n)?;
    let _span = dev.op("decode_next", || cost::decode_next(n));
    match dev {
        Device::Cpu(_) => cpu::decode_next(token.host(), rows.host_mut(), key.host_mut(), n_seqs),
        Device::Gpu(gpu) => gpu::decode_next(gpu, token, rows, key, n_seqs)?,
    }
    Ok(())
}

/// Puts the logits `[N, V]` of ids that may not come next at minus infinity: what is drawn then is drawn, and scored, among
/// the others. allowed `[N, ceil(V / 32)]` i32: bit id % 32 of word id / 32 is 1 where the id may come; a row allows one or
/// more. Row rule in N. Willard and Louf 2023, arXiv:2307.09702.
pub fn sample_mask(dev: &Device, allowed: View, mut logits: ViewMut, vocab: usize) -> Result<()> {
    let n = logits.len() / vocab.max(1);
    want("sample_mask", "logits [N, V]", logits.len(), n * vocab)?;
    want("sample_mask", "allowed [N, ceil(V / 32)]", allowed.len(), n * vocab.div_ceil(32))?;
    let _span = dev.op("sample_mask", || cost::sample_mask(n, vocab));
    match dev {
        Device::Cpu(cpu) => cpu::sample_mask(cpu, allowed.host(), logits.host_mut(), vocab),
        Device::Gpu(gpu) => gpu::sample_mask(gpu, allowed, logits, vocab)?,
    }
    Ok(())
}

/// What logits are moved by, at the ids that each row names.
#[derive(Clone, Copy)]
pub struct Leans<'a> {
    /// i32 `[N + 1]`: entries of row n from `offsets[n]` to `offsets[n + 1]`.
    pub offsets: View<'a>,
    /// i32 `[K]`, distinct within a row.
    pub id: View<'a>,
    /// f32 `[K]`, added.
    pub bias: View<'a>,
    /// f32 `[K]`: then what is above 0 is divided by it, what is not is multiplied; 1 changes nothing.
    pub repeat: View<'a>,
    /// f32 `[K]`, taken off at last.
    pub less: View<'a>,
}

/// Moves the logits `[N, V]` of ids that a row names: biases, and penalties of ids that came before. What is drawn then is
/// scored so, too. Row rule in N. Keskar et al. 2019, arXiv:1909.05858, section 4.1, for `repeat`.
pub fn sample_lean(dev: &Device, leans: Leans, mut logits: ViewMut, vocab: usize) -> Result<()> {
    let (n, k) = (leans.offsets.len().saturating_sub(1), leans.id.len());
    want("sample_lean", "logits [N, V]", logits.len(), n * vocab)?;
    for (rule, got) in
        [("bias [K]", leans.bias.len()), ("repeat [K]", leans.repeat.len()), ("less [K]", leans.less.len())]
    {
        want("sample_lean", rule, got, k)?;
    }
    let _span = dev.op("sample_lean", || cost::sample_lean(n, k));
    match dev {
        Device::Cpu(_) => {
            let entries = [leans.bias.host(), leans.repeat.host(), leans.less.host()];
            cpu::sample_lean(leans.offsets.host(), leans.id.host(), entries, logits.host_mut(), vocab)
        }
        Device::Gpu(gpu) => gpu::sample_lean(gpu, leans, logits, vocab)?,
    }
    Ok(())
}

/// Draws token `[N]` i32 from logits `[N, V]` by inverse CDF with counter-based noise, and returns its logprob `[N]`
/// under the whole softmax at this temperature (the policy's own distribution, also when truncated sampling chose it).
/// Ids from `end` on stand for no token (V where all do): they are never drawn, and no filter sees them. logits are scaled in
/// place. Row rule in N.
pub fn sample(
    dev: &Device,
    mut logits: ViewMut,
    how: Sampling,
    mut token: ViewMut,
    mut logprob: ViewMut,
    vocab: usize,
    end: usize,
) -> Result<()> {
    let n = token.len();
    want("sample", "end in 1..=V", end.clamp(1, vocab), end)?;
    // Its histograms count in integers that a longer row would overflow.
    want("sample", "V below 2^26", vocab.min((1 << 26) - 1), vocab)?;
    want("sample", "logits [N, V]", logits.len(), n * vocab)?;
    want("sample", "logprob [N]", logprob.len(), n)?;
    for (rule, got) in [
        ("temperature [N]", how.temperature.len()),
        ("top_k [N]", how.top_k.len()),
        ("top_p [N]", how.top_p.len()),
        ("min_p [N]", how.min_p.len()),
        ("key [N, 3]", how.key.len() / 3),
    ] {
        want("sample", rule, got, n)?;
    }
    let _span = dev.op("sample", || cost::sample(n, vocab));
    match dev {
        Device::Cpu(cpu) => {
            let rows = cpu::Rows {
                temperature: how.temperature.host(),
                top_k: how.top_k.host(),
                top_p: how.top_p.host(),
                min_p: how.min_p.host(),
                key: how.key.host(),
            };
            cpu::sample(cpu, logits.host_mut(), rows, token.host_mut(), logprob.host_mut(), vocab, end)
        }
        Device::Gpu(gpu) => gpu::sample(gpu, logits, how, token, logprob, vocab, end)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N rows of V logits, scaled in place.
    pub fn sample(n: usize, v: usize) -> Cost {
        cost(5 * n * v, 8 * n * v, "N V", [n, v, 0])
    }

    /// N rows of V logits, and a bit each.
    pub fn sample_mask(n: usize, v: usize) -> Cost {
        cost(0, 8 * n * v + 4 * n * v.div_ceil(32), "N V", [n, v, 0])
    }

    /// N rows with K entries in all: offset, id, three numbers, and a logit read and written.
    pub fn sample_lean(n: usize, k: usize) -> Cost {
        cost(3 * k, 24 * k + 4 * n, "N K", [n, k, 0])
    }

    /// N rows: token, id, two positions, seq, key's position read, all but token and seq written.
    pub fn decode_next(n: usize) -> Cost {
        cost(0, 44 * n, "N", [n, 0, 0])
    }
}
