//! The rows of one forward, as host arrays of fixed capacity.

use super::lean::Leans;
use super::seq::Seq;
use std::ops::Range;

/// Rows to run, rows to sample from, pages to copy first.
#[derive(Debug)]
pub(super) struct Batch {
    /// `[N]` tokens.
    pub ids: Vec<i32>,
    /// `[N]` their positions.
    pub positions: Vec<i32>,
    /// `[N]` their sequences' slots: rows of the page table.
    pub slots: Vec<i32>,
    /// Decode rows stand first; how many.
    pub n_decode: usize,
    /// Rows at the end that nobody reads, see [`Batch::pad`].
    pub n_pads: usize,
    /// `[M]` rows to sample from; one row may serve several sequences with the same prompt.
    pub logit_rows: Vec<i32>,
    /// `[M]` the slots that sample.
    pub samples: Vec<u32>,
    /// `[M]`, see [`crate::ops::sample::Sampling`].
    pub temperature: Vec<f32>,
    /// `[M]`
    pub top_k: Vec<i32>,
    /// `[M]`
    pub top_p: Vec<f32>,
    /// `[M]`
    pub min_p: Vec<f32>,
    /// `[M]` likeliest tokens to be told, on the host's side alone.
    pub likeliest: Vec<usize>,
    /// `[M, W]` ids that may come next; empty where no row of the engine asks for it.
    pub allowed: Vec<i32>,
    /// Words of a row of `allowed`, 0 in an engine without masks.
    pub mask_words: usize,
    /// True when a row does ask.
    pub masked: bool,
    /// What moves the logits of rows that ask for it.
    pub leans: Leans,
    /// Rows that tell of the next token of a prompt: rows of logits behind those of samples. Slot, likeliest tokens, token.
    pub tellers: Vec<(u32, usize, i32)>,
    /// Their rows.
    teller_rows: Vec<i32>,
    /// `[M, 2]` seed, stream.
    pub key: Vec<u64>,
    /// Page copies (from, to), in order, before anything else.
    pub copies: Vec<(u32, u32)>,
    /// `[max_seqs, table_width]` pages of the slots; only rows of slots in the batch are up to date. With a padding slot one
    /// row more.
    pub tables: Vec<i32>,
    /// From the first to the last entry of `tables` that the device does not have yet.
    pub changed: Range<usize>,
    table_width: usize,
}

impl Batch {
    pub fn new(max_rows: usize, max_seqs: usize, table_width: usize, n_pages: usize) -> Batch {
        Batch {
            ids: Vec::with_capacity(max_rows),
            positions: Vec::with_capacity(max_rows),
            slots: Vec::with_capacity(max_rows),
            n_decode: 0,
            n_pads: 0,
            logit_rows: Vec::with_capacity(max_seqs),
            samples: Vec::with_capacity(max_seqs),
            temperature: Vec::with_capacity(max_seqs),
            top_k: Vec::with_capacity(max_seqs),
            top_p: Vec::with_capacity(max_seqs),
            min_p: Vec::with_capacity(max_seqs),
            likeliest: Vec::with_capacity(max_seqs),
            allowed: vec![],
            mask_words: 0,
            masked: false,
            leans: Leans::default(),
            tellers: vec![],
            teller_rows: vec![],
            key: Vec::with_capacity(2 * max_seqs),
            copies: Vec::with_capacity(max_seqs.max(n_pages)),
            tables: vec![0; max_seqs * table_width],
            changed: 0..max_seqs * table_width,
            table_width,
        }
    }

    /// True when every row decodes: row i samples from itself.
    pub fn decodes(&self) -> bool {
        let n = self.n_live();
        n > 0 && self.n_decode == n && self.samples.len() == n
    }

    /// One slot more, for [`Batch::pad`], of the one page `page`.
    pub fn add_padding_slot(&mut self, page: usize) {
        self.tables.resize(self.tables.len() + self.table_width, page as i32);
        self.changed = 0..self.tables.len();
    }

    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.slots.clear();
        (self.n_decode, self.n_pads) = (0, 0);
        self.logit_rows.clear();
        self.samples.clear();
        self.temperature.clear();
        self.top_k.clear();
        self.top_p.clear();
        self.min_p.clear();
        self.likeliest.clear();
        self.allowed.clear();
        self.masked = false;
        self.leans.clear();
        self.tellers.clear();
        self.teller_rows.clear();
        self.key.clear();
        self.copies.clear();
    }

    pub fn row(&mut self, slot: usize, pos: usize, id: i32) {
        self.ids.push(id);
        self.positions.push(pos as i32);
        self.slots.push(slot as i32);
    }

    /// The sequence in `slot` samples its next token from `row`.
    pub fn sample(&mut self, slot: usize, row: usize, seq: &Seq) {
        self.logit_rows.push(row as i32);
        self.samples.push(slot as u32);
        self.temperature.push(seq.sampling.temperature);
        self.top_k.push(seq.sampling.top_k as i32);
        self.top_p.push(seq.sampling.top_p);
        self.min_p.push(seq.sampling.min_p);
        self.likeliest.push(seq.sampling.likeliest);
        self.masked |= !seq.allowed.is_empty();
        if self.masked {
            // Rows before the first that asks may have any.
            self.allowed.resize((self.samples.len() - 1) * self.mask_words, -1);
            self.allowed.extend_from_slice(&seq.allowed);
            self.allowed.resize(self.samples.len() * self.mask_words, -1);
        }
        if let Some(leaning) = &seq.leaning {
            self.leans.push(self.samples.len() - 1, leaning);
        }
        debug_assert_eq!(
            self.positions[row] as usize + 1,
            seq.ids.len(),
            "the noise is that of the next token's position"
        );
        self.key.extend([seq.key.seed, seq.key.stream]);
    }

    /// The last row tells of token `id`, which follows it in the prompt in `slot`.
    pub fn tell(&mut self, slot: usize, likeliest: usize, id: i32) {
        self.teller_rows.push(self.ids.len() as i32 - 1);
        self.tellers.push((slot as u32, likeliest, id));
    }

    /// Puts rows that tell behind those that sample: nobody draws from them.
    pub fn close(&mut self) {
        for i in 0..self.teller_rows.len() {
            self.logit_rows.push(self.teller_rows[i]);
            self.unread();
        }
        if self.masked {
            self.allowed.resize(self.logit_rows.len() * self.mask_words, -1);
        }
    }

    /// How a row is drawn from that nobody reads: not scaled, the likeliest.
    fn unread(&mut self) {
        self.temperature.push(0.0);
        self.top_k.push(0);
        self.top_p.push(1.0);
        self.min_p.push(0.0);
        self.key.extend([0; 2]);
    }

    /// Rows that somebody reads.
    pub fn n_live(&self) -> usize {
        self.ids.len() - self.n_pads
    }

    /// Fills a batch of decode rows alone up to `rows` with rows of the sequence in `slot`, a page long, that nobody reads: all are
    /// its first token, and write the same to one place.
    pub fn pad(&mut self, rows: usize, slot: usize) {
        self.n_pads = rows - self.ids.len();
        for _ in 0..self.n_pads {
            self.logit_rows.push(self.ids.len() as i32);
            self.row(slot, 0, 0);
            self.unread();
        }
    }

    /// Writes a slot's pages into its row of the page table.
    pub fn table(&mut self, slot: usize, pages: &[u32]) {
        let start = slot * self.table_width;
        for (i, page) in pages.iter().enumerate() {
            if self.tables[start + i] != *page as i32 {
                self.tables[start + i] = *page as i32;
                let (first, end) = (start + i, start + i + 1);
                let Range { start, end: last } = self.changed.clone();
                self.changed = if start == last { first..end } else { start.min(first)..last.max(end) };
            }
        }
    }
}
