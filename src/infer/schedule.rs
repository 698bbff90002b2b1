//! Which rows the next forward runs, and on which pages: admission, prefix reuse, copy on write, preemption.
//!
//! Device-free. A step runs one row for every sequence that only lacks its last token (decode), then fills the row
//! budget with prompts and incoming turns, oldest first (Agrawal et al. 2024, arXiv:2403.02310). When pages run
//! short, cached prompts go first, then the pages of sequences whose turn is finished, then those of the youngest
//! running one: it is run again later, to the same bits. The oldest can always take pages from all others, and no
//! sequence is taken in that could not run alone: so there is no deadlock.

use super::batch::Batch;
use super::pages::Pages;
use super::prefix::Prefix;
use super::seq::{Seq, State};
use super::stats::Stats;
use crate::ops::attn::CHUNK;

/// All sequences of an engine, their pages, and the batch of the present step.
#[derive(Debug)]
pub(super) struct Schedule {
    pub seqs: Vec<Seq>,
    /// Taken slots, oldest first.
    pub order: Vec<u32>,
    pub pages: Pages,
    pub prefix: Prefix,
    pub batch: Batch,
    pub stats: Stats,
    pub reuse: bool,
    pub step: u64,
    max_rows: usize,
    /// Slots that decode in the present step.
    ready: Vec<u32>,
    /// Rows of logits in the present step beyond one for each sequence that runs.
    spare: usize,
}

impl Schedule {
    pub fn new(n_pages: usize, max_rows: usize, max_seqs: usize, table_width: usize, reuse: bool) -> Schedule {
        Schedule {
            seqs: (0..max_seqs).map(|_| Seq::empty(table_width)).collect(),
            order: Vec::with_capacity(max_seqs),
            pages: Pages::new(n_pages),
            prefix: Prefix::new(n_pages),
            batch: Batch::new(max_rows, max_seqs, table_width, n_pages),
            stats: Stats::default(),
            reuse,
            step: 0,
            max_rows,
            ready: Vec::with_capacity(max_seqs),
            spare: 0,
        }
    }

    /// Puts the next step's batch together; false when nothing is runnable.
    pub fn next(&mut self) -> bool {
        self.step += 1;
        self.batch.clear();
        let running = self.order.iter().filter(|slot| self.seqs[**slot as usize].state == State::Running).count();
        self.spare = self.seqs.len() - running;
        self.decode();
        let mut admitting = true;
        for i in 0..self.order.len() {
            let slot = self.order[i] as usize;
            let seq = &self.seqs[slot];
            if self.budget() == 0 || seq.state != State::Running || seq.step == self.step {
                continue;
            }
            if !seq.pages.is_empty() {
                if self.cover(slot, true) {
                    self.prefill(slot);
                }
            } else if admitting {
                admitting = self.admit(slot);
            }
        }
        self.batch.close();
        !self.batch.ids.is_empty() || !self.batch.copies.is_empty()
    }

    /// A row for every sequence that only lacks its last token. Pages are given to the oldest first; rows stand by
    /// first page, so that attention finds sequences of one prompt side by side.
    fn decode(&mut self) {
        self.ready.clear();
        for i in 0..self.order.len() {
            let slot = self.order[i] as usize;
            let seq = &self.seqs[slot];
            let decode = seq.state == State::Running && !seq.pages.is_empty() && seq.todo() == 1;
            if decode && self.ready.len() < self.max_rows && self.cover(slot, true) {
                self.seqs[slot].step = self.step;
                self.ready.push(slot as u32);
            }
        }
        self.ready.sort_unstable_by_key(|slot| (self.seqs[*slot as usize].pages[0], *slot));
        for i in 0..self.ready.len() {
            self.run(self.ready[i] as usize, 1);
        }
        self.batch.n_decode = self.batch.ids.len();
    }

    /// Counts a step that took `seconds`.
    pub fn account(&mut self, seconds: f64) {
        let (n, decode) = (self.batch.n_live(), self.batch.n_decode);
        let share = if n == 0 { 0.0 } else { decode as f64 / n as f64 };
        self.stats.steps += 1;
        self.stats.sampled_tok += self.batch.samples.len() as u64;
        self.stats.rows_decode += decode as u64;
        self.stats.rows_prefill += (n - decode) as u64;
        self.stats.decode_s += seconds * share;
        self.stats.prefill_s += seconds * (1.0 - share);
    }

    /// Gives the free slot `to` the tokens of `from`, and a share in its pages.
    pub fn fork(&mut self, from: usize, to: usize) {
        let [from, to] = match self.seqs.get_disjoint_mut([from, to]) {
            Ok(pair) => pair,
            Err(_) => return,
        };
        to.ids.clone_from(&from.ids);
        to.logprobs.clone_from(&from.logprobs);
        to.likeliest.clone_from(&from.likeliest);
        to.allowed.clone_from(&from.allowed);
        to.leaning.clone_from(&from.leaning);
        to.tells = None;
        to.told.clear();
        to.reused = from.reused;
        to.pages.clear();
        to.pages.extend(&from.pages[..from.cached.div_ceil(CHUNK)]);
        to.pages.iter().for_each(|p| self.pages.share(*p));
        (to.cached, to.prompt, to.turn, to.state) = (from.cached, from.prompt, from.turn, from.state);
    }

    fn budget(&self) -> usize {
        self.max_rows - self.batch.ids.len()
    }

    /// Gives a sequence without pages its first ones, the cached ones of its prefix included; false when it must wait.
    fn admit(&mut self, slot: usize) -> bool {
        let seq = &mut self.seqs[slot];
        let mut row = None;
        // What is told is computed.
        if self.reuse && !seq.telling() {
            let hit = self.prefix.lookup(&seq.ids, self.step, &mut self.pages, &mut seq.pages);
            (seq.cached, row) = (hit.tokens, hit.row);
        }
        let (reused, copies) = (seq.cached, self.batch.copies.len());
        if row.is_none() && !self.cover(slot, false) {
            self.batch.copies.truncate(copies);
            self.drop_pages(slot);
            return false;
        }
        self.stats.prefix_reused_tok += reused as u64;
        self.seqs[slot].reused.get_or_insert(reused);
        match row {
            Some(row) => {
                self.seqs[slot].step = self.step;
                self.seqs[slot].count();
                self.batch.sample(slot, row as usize, &self.seqs[slot]);
            }
            None => self.prefill(slot),
        }
        true
    }

    /// As many of a sequence's rows as the budget allows; its prompt is entered in the prefix cache.
    fn prefill(&mut self, slot: usize) {
        let (first, start) = (self.batch.ids.len(), self.seqs[slot].cached);
        let mut n = self.seqs[slot].todo().min(self.budget());
        if self.seqs[slot].telling() {
            n = n.min(1 + self.spare);
            self.spare -= n - 1;
        }
        self.run(slot, n);
        let seq = &self.seqs[slot];
        if self.reuse && start < seq.prompt {
            // A page that this prompt will go on to fill is entered only when it is full or the prompt ends in it.
            let done = seq.prompt.min(start + n);
            let done = if done == seq.prompt { done } else { done / CHUNK * CHUNK };
            self.prefix.insert(&seq.ids[..done], &seq.pages, start, first, self.step, &mut self.pages);
        }
    }

    /// Adds rows for the next `n` tokens, and a sample when they are the last ones.
    fn run(&mut self, slot: usize, n: usize) {
        let seq = &mut self.seqs[slot];
        seq.step = self.step;
        for pos in seq.cached..seq.cached + n {
            self.batch.row(slot, pos, seq.ids[pos]);
            if let Some(likeliest) = seq.tells.filter(|_| pos + 1 < seq.prompt && pos >= seq.told.len()) {
                self.batch.tell(slot, likeliest, seq.ids[pos + 1]);
            }
        }
        seq.cached += n;
        if seq.cached == seq.ids.len() {
            seq.count();
            self.batch.sample(slot, self.batch.ids.len() - 1, &self.seqs[slot]);
        }
        self.batch.table(slot, &self.seqs[slot].pages);
    }

    /// Makes sure that a sequence has pages for all its tokens and that it alone holds those it will write.
    fn cover(&mut self, slot: usize, preempt: bool) -> bool {
        let cached = self.seqs[slot].cached;
        let (at, inside) = (cached / CHUNK, !cached.is_multiple_of(CHUNK));
        if inside && self.pages.holds(self.seqs[slot].pages[at]) > 1 && !self.own(slot, at, preempt) {
            return false;
        }
        while self.seqs[slot].pages.len() * CHUNK < self.seqs[slot].ids.len() {
            match self.take_page(slot, preempt) {
                Some(page) => self.seqs[slot].pages.push(page),
                None => return false,
            }
        }
        true
    }

    /// Replaces a shared page by a copy of it; or makes the cache give it up when there is no page for a copy.
    fn own(&mut self, slot: usize, at: usize, preempt: bool) -> bool {
        let shared = self.seqs[slot].pages[at];
        match self.take_page(slot, preempt) {
            // Taking the page may have preempted the other holders.
            Some(page) => {
                self.batch.copies.push((shared, page));
                self.seqs[slot].pages[at] = page;
                self.pages.release(shared);
                true
            }
            None => {
                self.prefix.forget(shared, &mut self.pages);
                self.pages.holds(shared) == 1
            }
        }
    }

    /// A page for `slot`: a free one, else a cached one, else one of a finished turn, else (with `preempt`) one of
    /// the youngest running sequence that is younger than `slot`. Nothing is taken from who is in this step's batch.
    fn take_page(&mut self, slot: usize, preempt: bool) -> Option<u32> {
        loop {
            if let Some(page) = self.pages.alloc() {
                return Some(page);
            }
            if self.prefix.evict(&mut self.pages) {
                continue;
            }
            let birth = self.seqs[slot].birth;
            let may = |s: &&u32, running: bool| {
                let s = &self.seqs[**s as usize];
                let kind =
                    if running { s.state == State::Running && s.birth > birth } else { s.state != State::Running };
                kind && !s.pages.is_empty() && s.step != self.step && s.birth != birth
            };
            let finished = self.order.iter().rev().find(|s| may(s, false));
            let victim = finished.or_else(|| self.order.iter().rev().find(|s| preempt && may(s, true)))?;
            self.drop_pages(*victim as usize);
            self.stats.preemptions += 1;
        }
    }

    /// Lets go of a sequence's pages; what stood in them must be run again.
    pub fn drop_pages(&mut self, slot: usize) {
        let seq = &mut self.seqs[slot];
        seq.pages.drain(..).for_each(|p| self.pages.release(p));
        seq.cached = 0;
    }

    /// Lets go of all pages: the weights have changed, or a step failed half way.
    pub fn drop_all(&mut self) {
        for i in 0..self.order.len() {
            self.drop_pages(self.order[i] as usize);
        }
        self.prefix.clear(&mut self.pages);
    }
}
