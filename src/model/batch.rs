//! What goes into a forward of packed sequences. Device buffers sized once; paged rows: [`super::paged`], masks:
//! [`super::masks`].

use super::masks::{MaskBuffers, RowMasks};
use super::{ModelConfig, Plan};
use crate::device::record::Keys;
use crate::device::{Buffer, Device, View};
use crate::error::{Error, Result};
use crate::ops::attn::{Packed, Sequences};
use crate::ops::logprob::Targets;
use crate::ops::want;
use crate::text::Mask;

/// Sequences packed one after another on the host, before they are written to a [`PackedBatch`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packing {
    /// Token ids `[N]`.
    pub ids: Vec<i32>,
    /// Position of each token in its sequence `[N]`.
    pub positions: Vec<i32>,
    /// Where the own tokens of sequences begin and end `[B + 1]`; empty before the first.
    pub cu_seqlens: Vec<i32>,
    /// What each sequence begins with `[B, 2]`: a row, and how many from there on; see [`Packed`].
    pub prefixes: Vec<i32>,
    /// Row whose hidden state predicts the target `[M]`.
    pub loss_rows: Vec<i32>,
    /// The token predicted there `[M]`.
    pub targets: Vec<i32>,
    /// Which tokens each is scored among.
    masks: RowMasks,
    /// First row of the last sequence that shares nothing.
    stem: i32,
}

impl Packing {
    /// Nothing, with room for `n` tokens.
    pub fn with_capacity(n: usize) -> Packing {
        let room = |n| Vec::with_capacity(n);
        Packing {
            ids: room(n),
            positions: room(n),
            cu_seqlens: room(n + 1),
            prefixes: room(2 * n),
            loss_rows: room(n),
            targets: room(n),
            masks: RowMasks::default(),
            stem: 0,
        }
    }

    /// The same with room for masks of them all.
    pub fn with_masks(self, n: usize) -> Packing {
        Packing { masks: RowMasks::with_capacity(n), ..self }
    }

    /// Removes all sequences, keeping the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.cu_seqlens.clear();
        self.prefixes.clear();
        self.loss_rows.clear();
        self.targets.clear();
        self.masks.clear();
    }

    /// Appends a sequence. Token i, for i from 1, carries loss when `loss(i)`: row i - 1 predicts it.
    pub fn push(&mut self, ids: &[i32], loss: impl Fn(usize) -> bool) {
        self.stem = self.ids.len() as i32;
        self.push_on_stem(0, ids, loss);
    }

    /// The same of a sequence whose first `shared` tokens are those of the last [`Packing::push`]: their rows are not run
    /// again. None of them carries loss here.
    pub fn push_on_stem(&mut self, shared: usize, ids: &[i32], loss: impl Fn(usize) -> bool) {
        let (start, stem, shared) = (self.ids.len() as i32, self.stem, shared as i32);
        if self.cu_seqlens.is_empty() {
            self.cu_seqlens.push(0);
        }
        let (own, n) = (&ids[shared as usize..], ids.len() as i32);
        self.ids.extend_from_slice(own);
        self.positions.extend(shared..n);
        self.cu_seqlens.push(self.ids.len() as i32);
        self.prefixes.extend([if shared > 0 { stem } else { start }, shared]);
        for i in (shared.max(1)..n).filter(|i| loss(*i as usize)) {
            let before = i - 1;
            self.loss_rows.push(if before < shared { stem + before } else { start + before - shared });
            self.targets.push(ids[i as usize]);
        }
        self.masks.rows(self.targets.len());
    }

    /// Scores target `at`, of those pushed so far, among the tokens of a mask; others are scored among all.
    pub fn score_among(&mut self, at: usize, mask: &Mask) {
        self.masks.set(at, mask);
        self.masks.rows(self.targets.len());
    }
}

/// Packed sequences on the device: ids, positions `[N]`, cu_seqlens `[B + 1]`, prefixes `[B, 2]`, loss_rows, targets `[M]`,
/// all i32.
pub struct PackedBatch {
    ids: Buffer,
    positions: Buffer,
    cu_seqlens: Buffer,
    prefixes: Buffer,
    shares: bool,
    loss_rows: Buffer,
    targets: Buffer,
    masks: Option<MaskBuffers>,
    n_tokens: usize,
    n_seqs: usize,
    n_loss: usize,
    max_loss: usize,
    vocab: usize,
    max_positions: usize,
}

impl PackedBatch {
    /// Room for `max_tokens` tokens in any number of sequences, `max_loss` of them carrying loss.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new(dev: &Device, c: &ModelConfig, max_tokens: usize, max_loss: usize) -> Result<PackedBatch> {
        PackedBatch::planned(&mut Plan::on(dev), c, max_tokens, max_loss)
    }

    /// The same, through a plan.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn planned(plan: &mut Plan, c: &ModelConfig, max_tokens: usize, max_loss: usize) -> Result<PackedBatch> {
        let mut b = |name: &str, len| plan.i32("batch", name, len);
        Ok(PackedBatch {
            ids: b("ids", max_tokens)?,
            positions: b("positions", max_tokens)?,
            cu_seqlens: b("cu_seqlens", max_tokens + 1)?,
            prefixes: b("prefixes", 2 * max_tokens)?,
            shares: false,
            loss_rows: b("loss_rows", max_loss)?,
            targets: b("targets", max_loss)?,
            masks: None,
            n_tokens: 0,
            n_seqs: 0,
            n_loss: 0,
            max_loss,
            vocab: c.vocab_size,
            max_positions: c.max_position_embeddings,
        })
    }

    /// The same batch with room for [`Packing::score_among`]: a mask for each of its rows that carry loss.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn with_masks(self, plan: &mut Plan) -> Result<PackedBatch> {
        let masks = MaskBuffers::planned(plan, self.vocab, self.max_loss)?;
        Ok(PackedBatch { masks: Some(masks), ..self })
    }

    /// Writes sequences to the device, replacing what was there.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit, or when an id, position or row lies outside its range; [`Error::Data`] for a target
    /// that its mask forbids.
    pub fn set(&mut self, dev: &Device, p: &Packing) -> Result<()> {
        let n = p.ids.len();
        at_most("N <= max_tokens", n, self.ids.len())?;
        at_most("B <= max_tokens", p.cu_seqlens.len(), self.cu_seqlens.len())?;
        at_most("M <= max_loss", p.loss_rows.len(), self.loss_rows.len())?;
        want("model", "positions [N]", p.positions.len(), n)?;
        want("model", "targets [M]", p.targets.len(), p.loss_rows.len())?;
        // What a kernel would walk by: nothing later looks at it on the host.
        if !(p.cu_seqlens.is_empty() && n == 0) {
            Sequences { cu: &p.cu_seqlens, prefixes: &p.prefixes }.check("model", n)?;
        }
        below("ids < V", &p.ids, self.vocab)?;
        below("targets < V", &p.targets, self.vocab)?;
        below("positions < max_position_embeddings", &p.positions, self.max_positions)?;
        below("loss_rows < N", &p.loss_rows, n)?;
        p.masks.check(&p.targets, self.vocab, self.masks.is_some())?;
        dev.note_keys(|| Keys::packed(&p.cu_seqlens, &p.prefixes));
        write(dev, &mut self.ids, &p.ids);
        write(dev, &mut self.positions, &p.positions);
        write(dev, &mut self.cu_seqlens, &p.cu_seqlens);
        self.shares = p.prefixes.as_chunks::<2>().0.iter().any(|[_, len]| *len > 0);
        if self.shares {
            write(dev, &mut self.prefixes, &p.prefixes);
        }
        write(dev, &mut self.loss_rows, &p.loss_rows);
        write(dev, &mut self.targets, &p.targets);
        if let Some(masks) = &mut self.masks {
            masks.write(dev, &p.masks);
        }
        (self.n_tokens, self.n_seqs, self.n_loss) = (n, p.cu_seqlens.len().saturating_sub(1), p.loss_rows.len());
        Ok(())
    }

    /// Tokens N.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Rows M that carry loss.
    pub fn n_loss(&self) -> usize {
        self.n_loss
    }

    pub(super) fn ids(&self) -> View<'_> {
        self.ids.at(0..self.n_tokens)
    }

    pub(super) fn positions(&self) -> View<'_> {
        self.positions.at(0..self.n_tokens)
    }

    pub(super) fn sequences(&self) -> Packed<'_> {
        let prefixes = self.shares.then(|| self.prefixes.at(0..2 * self.n_seqs));
        Packed { cu_seqlens: self.cu_seqlens.at(0..self.n_seqs + 1), prefixes }
    }

    pub(super) fn loss_rows(&self) -> View<'_> {
        self.loss_rows.at(0..self.n_loss)
    }

    pub(super) fn targets(&self) -> Targets<'_> {
        let masks = self.masks.as_ref().and_then(|masks| masks.at(self.n_loss));
        Targets { ids: self.targets.at(0..self.n_loss), masks }
    }
}

fn write(dev: &Device, to: &mut Buffer, data: &[i32]) {
    dev.write(to.at_mut(0..data.len()), data);
}

pub(super) fn at_most(rule: &'static str, got: usize, most: usize) -> Result<()> {
    if got <= most { Ok(()) } else { Err(Error::Shape { op: "model", rule, want: most, got }) }
}

/// Every entry in `0..end`; the error shows the first that is not.
pub(super) fn below(rule: &'static str, entries: &[i32], end: usize) -> Result<()> {
    match entries.iter().find(|e| **e < 0 || **e as usize >= end) {
        None => Ok(()),
        Some(e) => Err(Error::Shape { op: "model", rule, want: end, got: *e as usize }),
    }
}
