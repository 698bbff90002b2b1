//! The page pool: which pages of the key/value memory are held, and by how many.
//!
//! A page is [`CHUNK`](crate::ops::attn::CHUNK) slots in every layer. It is held by sequences and by the prefix
//! cache, each hold counted; at zero holds it is free again. The pool knows numbers only, not the memory behind them.

/// Pages by number, with the count of their holders.
#[derive(Debug)]
pub struct Pages {
    holds: Vec<u32>,
    free: Vec<u32>,
    peak: usize,
}

impl Pages {
    /// `n_pages` free pages.
    pub fn new(n_pages: usize) -> Pages {
        Pages { holds: vec![0; n_pages], free: (0..n_pages as u32).rev().collect(), peak: 0 }
    }

    /// A free page, now held once; `None` when all are held.
    pub fn alloc(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        debug_assert_eq!(self.holds[page as usize], 0);
        self.holds[page as usize] = 1;
        self.peak = self.peak.max(self.used());
        Some(page)
    }

    /// One more holder of `page`.
    pub fn share(&mut self, page: u32) {
        assert!(self.holds[page as usize] > 0, "page {page} is free and cannot be shared");
        self.holds[page as usize] += 1;
    }

    /// One holder less; at zero the page is free.
    pub fn release(&mut self, page: u32) {
        let holds = &mut self.holds[page as usize];
        assert!(*holds > 0, "page {page} is released twice");
        *holds -= 1;
        if *holds == 0 {
            self.free.push(page);
        }
    }

    /// Number of holders of `page`.
    pub fn holds(&self, page: u32) -> u32 {
        self.holds[page as usize]
    }

    /// Pages in all.
    pub fn len(&self) -> usize {
        self.holds.len()
    }

    /// True when the pool has no pages at all.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// Pages held now.
    pub fn used(&self) -> usize {
        self.holds.len() - self.free.len()
    }

    /// The most pages ever held at a time.
    pub fn peak(&self) -> usize {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_is_free_again_after_its_last_holder() {
        let mut pages = Pages::new(1);
        let page = pages.alloc().unwrap();
        pages.share(page);
        pages.release(page);
        assert_eq!(pages.alloc(), None);
        pages.release(page);
        assert_eq!((pages.alloc(), pages.peak()), (Some(page), 1));
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_second_release_is_refused() {
        let mut pages = Pages::new(2);
        let page = pages.alloc().unwrap();
        pages.release(page);
        pages.release(page);
    }

    proptest! {
        /// Sequences fork, extend and release at random: holds always equal the number of sequences that hold.
        #[test]
        fn holds_equal_holders(ops in prop::collection::vec((0u8..4, any::<u16>()), 1..300)) {
            let mut pages = Pages::new(24);
            let mut seqs: Vec<Vec<u32>> = vec![];
            for (op, pick) in ops {
                let at = if seqs.is_empty() { 0 } else { pick as usize % seqs.len() };
                match op {
                    0 => seqs.push(vec![]),
                    1 if !seqs.is_empty() => seqs[at].extend(pages.alloc()),
                    2 if !seqs.is_empty() => {
                        let fork = seqs[at].clone();
                        fork.iter().for_each(|p| pages.share(*p));
                        seqs.push(fork);
                    }
                    3 if !seqs.is_empty() => seqs.swap_remove(at).iter().for_each(|p| pages.release(*p)),
                    _ => {}
                }
                let mut held = vec![0; pages.len()];
                seqs.iter().flatten().for_each(|p| held[*p as usize] += 1);
                prop_assert!((0..pages.len()).all(|p| held[p] == pages.holds(p as u32)));
                prop_assert_eq!(pages.used(), held.iter().filter(|h| **h > 0).count());
            }
            seqs.iter().flatten().for_each(|p| pages.release(*p));
            prop_assert_eq!(pages.used(), 0);
        }
    }
}
