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
    /// u64 `[N, 2]`: seed, stream (the episode's side). The noise is a function of these and of the position of the token that
    /// is drawn, alone.
    pub key: View<'a>,
}

/// Where the rows stand whose next tokens are drawn.
#[derive(Debug)]
pub enum Rows<'a> {
    /// Their positions `[N]`, i32.
    Stay(View<'a>),
    /// The rows of a decode step, which become those of the next: `ids = token`, positions one further.
    MoveOn {
        /// i32 `[6, N]`: ids, positions, seq, logit rows, and these rows' positions and seq, where row i samples from itself.
        rows: ViewMut<'a>,
        /// Rows whose seq is this or above are padding, and stay as they are.
        n_seqs: usize,
    },
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
/// place. The noise is that of the token's position, one more than its row's. Row rule in N.
pub fn sample(
    dev: &Device,
    mut logits: ViewMut,
    how: Sampling,
    mut rows: Rows,
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
        ("key [N, 2]", how.key.len() / 2),
    ] {
        want("sample", rule, got, n)?;
    }
    match &rows {
        Rows::Stay(pos) => want("sample", "positions [N]", pos.len(), n)?,
        Rows::MoveOn { rows, .. } => want("sample", "rows [6, N]", rows.len(), 6 * n)?,
    }
    let moves = matches!(rows, Rows::MoveOn { .. });
    let _span = dev.op("sample", || cost::sample(n, vocab, moves));
    match dev {
        Device::Cpu(cpu) => {
            let pos = match &rows {
                Rows::Stay(pos) => pos.host(),
                Rows::MoveOn { rows, .. } => rows.view().at(4 * n..5 * n).host(),
            };
            let asked = cpu::Asked {
                temperature: how.temperature.host(),
                top_k: how.top_k.host(),
                top_p: how.top_p.host(),
                min_p: how.min_p.host(),
                key: how.key.host(),
                pos,
            };
            cpu::sample(cpu, logits.host_mut(), asked, token.host_mut(), logprob.host_mut(), vocab, end);
            if let Rows::MoveOn { rows, n_seqs } = &mut rows {
                cpu::move_on(token.view().host(), rows.host_mut(), *n_seqs);
            }
        }
        Device::Gpu(gpu) => gpu::sample(gpu, logits, how, rows, token, logprob, vocab, end)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N rows of V logits, scaled in place; of a decode step seq, two positions read, id and positions written.
    pub fn sample(n: usize, v: usize, moves: bool) -> Cost {
        cost(5 * n * v, 8 * n * v + if moves { 24 * n } else { 0 }, "N V", [n, v, 0])
    }

    /// N rows of V logits, and a bit each.
    pub fn sample_mask(n: usize, v: usize) -> Cost {
        cost(0, 8 * n * v + 4 * n * v.div_ceil(32), "N V", [n, v, 0])
    }

    /// N rows with K entries in all: offset, id, three numbers, and a logit read and written.
    pub fn sample_lean(n: usize, k: usize) -> Cost {
        cost(3 * k, 24 * k + 4 * n, "N K", [n, k, 0])
    }
}
