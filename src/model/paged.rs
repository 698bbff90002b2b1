//! Rows of a paged forward on the device, and what is not sent twice.

use super::batch::{at_most, below};
use super::{ModelConfig, Plan};
use crate::device::record::Keys;
use crate::device::{Buffer, Device, View};
use crate::error::Result;
use crate::ops::attn::{CHUNK, Paged, SEGMENT};
use crate::ops::sample::Rows;
use crate::ops::want;
use std::ops::Range;

/// Rows of a paged forward on the device, all i32: ids, positions, seq `[N]` (row of the page table), logit_rows `[M]`
/// (rows whose logits are wanted), these rows' own positions and seq `[M]`, one after another in one buffer; and the page
/// table `[B, max_pages]`.
///
/// What the buffer holds is known here: rows that are there already are not sent. After a decode step that is what
/// [`crate::ops::sample::sample`] made of them.
pub struct PagedRows {
    rows: Buffer,
    table: Buffer,
    /// What `rows` is to hold, and what it holds.
    wanted: Vec<i32>,
    held: Vec<i32>,
    keys_read: Keys,
    longest: usize,
    n_rows: usize,
    n_seqs: usize,
    n_logits: usize,
    all_sample: bool,
    apart: bool,
    /// One more than the first row of each sequence, scratch of [`apart`].
    first_of: Vec<usize>,
    max_rows: usize,
    max_logits: usize,
    max_pages: usize,
    /// One more than the highest page of the table.
    end_page: usize,
    vocab: usize,
    max_positions: usize,
}

impl PagedRows {
    /// Room for `max_rows` rows of `max_seqs` sequences of `max_pages` pages each; `max_logits` rows give logits.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn new(
        dev: &Device,
        c: &ModelConfig,
        max_rows: usize,
        max_seqs: usize,
        max_pages: usize,
        max_logits: usize,
    ) -> Result<PagedRows> {
        PagedRows::planned(&mut Plan::on(dev), c, max_rows, max_seqs, max_pages, max_logits)
    }

    /// The same, through a plan.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(
        plan: &mut Plan,
        c: &ModelConfig,
        max_rows: usize,
        max_seqs: usize,
        max_pages: usize,
        max_logits: usize,
    ) -> Result<PagedRows> {
        let len = 3 * (max_rows + max_logits);
        Ok(PagedRows {
            rows: plan.i32("rows", "ids, positions, seq; logit rows, theirs", len)?,
            table: plan.i32("rows", "page table", max_seqs * max_pages)?,
            wanted: Vec::with_capacity(len),
            held: Vec::with_capacity(len),
            keys_read: Keys::default(),
            longest: 0,
            n_rows: 0,
            n_seqs: 0,
            n_logits: 0,
            all_sample: false,
            apart: false,
            first_of: Vec::with_capacity(max_seqs),
            max_rows,
            max_logits,
            max_pages,
            end_page: 0,
            vocab: c.vocab_size,
            max_positions: c.max_position_embeddings,
        })
    }

    /// Writes rows to the device, replacing what was there; `table` is `[n_seqs, max_pages]`, unused entries any
    /// valid page.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when they do not fit, or when an id, position, row or sequence lies outside its range.
    pub fn set(
        &mut self,
        dev: &Device,
        ids: &[i32],
        positions: &[i32],
        seq: &[i32],
        table: &[i32],
        logit_rows: &[i32],
    ) -> Result<()> {
        self.end_page = 0;
        self.update(dev, ids, positions, seq, table, 0..table.len(), logit_rows)
    }

    /// The same when of the table only the entries `changed` are others than those of the last call.
    ///
    /// # Errors
    /// As [`PagedRows::set`].
    pub fn update(
        &mut self,
        dev: &Device,
        ids: &[i32],
        positions: &[i32],
        seq: &[i32],
        table: &[i32],
        changed: Range<usize>,
        logit_rows: &[i32],
    ) -> Result<()> {
        let (n, n_seqs) = (ids.len(), table.len() / self.max_pages);
        at_most("N <= max_rows", n, self.max_rows)?;
        at_most("M <= max_logits", logit_rows.len(), self.max_logits)?;
        at_most("page table fits", table.len(), self.table.len())?;
        want("model", "positions [N]", positions.len(), n)?;
        want("model", "seq [N]", seq.len(), n)?;
        want("model", "page table [B, max_pages]", table.len() % self.max_pages, 0)?;
        below("ids < V", ids, self.vocab)?;
        below("positions < max_position_embeddings", positions, self.max_positions)?;
        below("positions < max_pages S", positions, self.max_pages * CHUNK)?;
        below("seq < B", seq, n_seqs)?;
        // How many pages there are, the forward knows.
        let new = &table[changed.clone()];
        below("page table >= 0", new, i32::MAX as usize)?;
        self.end_page = new.iter().map(|page| *page as usize + 1).fold(self.end_page, usize::max);
        below("logit_rows < N", logit_rows, n)?;
        dev.note_keys(|| Keys::paged(seq, positions));
        self.wanted.clear();
        [ids, positions, seq, logit_rows].iter().for_each(|part| self.wanted.extend_from_slice(part));
        for all in [positions, seq] {
            self.wanted.extend(logit_rows.iter().map(|row| all[*row as usize]));
        }
        let (logit_positions, logit_seq) = self.wanted[3 * n + logit_rows.len()..].split_at(logit_rows.len());
        self.keys_read = Keys::paged(logit_seq, logit_positions);
        if !new.is_empty() {
            dev.write(self.table.at_mut(changed), new);
        }
        if self.wanted != self.held {
            dev.write(self.rows.at_mut(0..self.wanted.len()), &self.wanted);
            self.held.clone_from(&self.wanted);
        }
        (self.n_rows, self.n_seqs, self.n_logits) = (n, n_seqs, logit_rows.len());
        self.all_sample = logit_rows.iter().copied().eq(0..n as i32);
        self.apart = apart(&mut self.first_of, n_seqs, ids, positions, seq);
        let segments = positions.iter().max().map_or(1, |last| *last as usize / SEGMENT + 1);
        self.longest = (segments.next_power_of_two() * SEGMENT).min(self.max_positions);
        Ok(())
    }

    /// Where the logit rows stand, to sample from them.
    pub fn to_sample(&self) -> Rows<'_> {
        Rows::Stay(self.of_logits(1))
    }

    /// The same of a decode step, of which sampling makes the next one on the device; rows of sequences from `n_seqs` on stay.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when not every row samples from itself.
    pub fn to_decode(&mut self, n_seqs: usize) -> Result<Rows<'_>> {
        want("sample", "every row of a decode step samples from itself", self.all_sample as usize, 1)?;
        Ok(Rows::MoveOn { rows: self.rows.at_mut(0..6 * self.n_rows), n_seqs })
    }

    /// Notes what sampling from [`PagedRows::to_decode`] made of the first rows, of which these are the tokens.
    pub fn advanced(&mut self, tokens: &[i32]) {
        let (n, live) = (self.n_rows, tokens.len());
        self.held[..live].copy_from_slice(tokens);
        for first in [n, 4 * n] {
            self.held[first..first + live].iter_mut().for_each(|position| *position += 1);
        }
    }

    /// Takes nothing for held: what is on the device is not known.
    pub fn forget(&mut self) {
        self.held.clear();
    }

    /// Rows N.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// `Ok` when every page of the table is one of `n_pages`.
    pub(super) fn fit(&self, n_pages: usize) -> Result<()> {
        at_most("page table entries < P", self.end_page, n_pages)
    }

    /// Rows M that give logits.
    pub fn n_logits(&self) -> usize {
        self.n_logits
    }

    /// Whether every row gives logits, in its own order, as in decode: then the logit rows are the rows.
    pub(super) fn all_sample(&self) -> bool {
        self.all_sample
    }

    /// Whether each row is of a sequence of its own, as in decode, or the same as another.
    pub(super) fn apart(&self) -> bool {
        self.apart
    }

    pub(super) fn ids(&self) -> View<'_> {
        self.of_rows(0)
    }

    pub(super) fn positions(&self) -> View<'_> {
        self.of_rows(1)
    }

    pub(super) fn logit_rows(&self) -> View<'_> {
        self.of_logits(0)
    }

    /// Where all rows live.
    pub(super) fn at(&self) -> Paged<'_> {
        self.paged(self.of_rows(2), self.positions())
    }

    /// Where the logit rows live.
    pub(super) fn at_logits(&self) -> Paged<'_> {
        self.paged(self.of_logits(2), self.of_logits(1))
    }

    fn of_rows(&self, i: usize) -> View<'_> {
        self.rows.at(i * self.n_rows..(i + 1) * self.n_rows)
    }

    fn of_logits(&self, i: usize) -> View<'_> {
        let (start, m) = (3 * self.n_rows, self.n_logits);
        self.rows.at(start + i * m..start + (i + 1) * m)
    }

    fn paged<'a>(&'a self, seq: View<'a>, pos: View<'a>) -> Paged<'a> {
        let table = self.table.at(0..self.n_seqs * self.max_pages);
        Paged { seq, pos, table, max_pages: self.max_pages, longest: self.longest }
    }

    /// Keys that a row sees at most, up to the next of [`SEGMENT`] times a power of two: launches of rows are the same where
    /// it is.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// What the logit rows see.
    pub(super) fn keys_read(&self) -> Keys {
        self.keys_read
    }
}

/// Whether no two rows are of one of `n_seqs` sequences, unless they are the same row.
fn apart(first_of: &mut Vec<usize>, n_seqs: usize, ids: &[i32], positions: &[i32], seq: &[i32]) -> bool {
    first_of.clear();
    first_of.resize(n_seqs, 0);
    seq.iter().enumerate().all(|(row, seq)| {
        let first = &mut first_of[*seq as usize];
        let is_new = *first == 0;
        *first = if is_new { row + 1 } else { *first };
        is_new || (ids[*first - 1], positions[*first - 1]) == (ids[row], positions[row])
    })
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn rows_of_sequences_of_their_own_are_apart_and_padding_is_one_row() {
        let of = |ids: &[i32], positions: &[i32], seq: &[i32]| apart(&mut vec![9; 7], 4, ids, positions, seq);
        assert!(of(&[], &[], &[]) && of(&[5, 6, 7], &[1, 2, 3], &[2, 0, 1]));
        assert!(of(&[5, 0, 0], &[1, 0, 0], &[0, 3, 3]), "the same row twice");
        assert!(!of(&[5, 6], &[1, 2], &[1, 1]) && !of(&[5, 6], &[1, 1], &[1, 1]) && !of(&[5, 5], &[1, 2], &[1, 1]));
    }
}
