//! The prefix cache: pages by the tokens that filled them, so that a prompt is computed once.
//!
//! A trie with one page a node: a node's path from the root spells the tokens of its page and of all before it.
//! A prompt is looked up token by token (the last page may match in part; its sharer copies it before writing). Pages
//! are entered when the forward that fills them is put together, so that the other rollouts of a group find them in
//! the same step: layer by layer, keys are written before they are read. Equality is of tokens, never of hashes; the
//! cache belongs to one version of the weights and is cleared when another comes. The least recently used leaf that
//! no sequence holds goes first.

use super::pages::Pages;
use crate::ops::attn::CHUNK;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Number of its tokens, see [`Prefix::tokens`].
    len: usize,
    page: u32,
    parent: u32,
    child: u32,
    next: u32,
    /// Step of the last look-up or entry.
    used: u64,
    /// Step whose forward fills the page.
    filled: u64,
    /// Step and row of the last forward that computed the page's last token.
    row: (u64, u32),
}

/// What a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Tokens whose keys and values stand in the found pages.
    pub tokens: usize,
    /// When the whole prompt was found: the row of this step's forward that computes its last token.
    pub row: Option<u32>,
}

/// The trie of cached pages.
#[derive(Debug)]
pub struct Prefix {
    /// Node 0 is the root and holds no page.
    nodes: Vec<Node>,
    /// Tokens of each node; apart, because eviction walks the nodes only.
    tokens: Vec<[i32; CHUNK]>,
    free: Vec<u32>,
    /// Node of a page, or NONE.
    node_of: Vec<u32>,
}

impl Prefix {
    /// An empty cache over a pool of `n_pages`.
    pub fn new(n_pages: usize) -> Prefix {
        let empty = Node { len: 0, page: NONE, parent: NONE, child: NONE, next: NONE, used: 0, filled: 0, row: (0, 0) };
        Prefix {
            nodes: vec![empty; n_pages + 1],
            tokens: vec![[0; CHUNK]; n_pages + 1],
            free: (1..=n_pages as u32).rev().collect(),
            node_of: vec![NONE; n_pages],
        }
    }

    /// Pages in the cache.
    pub fn len(&self) -> usize {
        self.nodes.len() - 1 - self.free.len()
    }

    /// True when nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Finds the longest cached prefix of `ids`; its pages are shared onto `held`. At most `ids.len() - 1` tokens are
    /// given, because the last one must be run to sample from it, unless it is run in this step `now` already.
    pub fn lookup(&mut self, ids: &[i32], now: u64, pages: &mut Pages, held: &mut Vec<u32>) -> Hit {
        let (mut at, mut node) = (0, 0);
        loop {
            let Some((child, same)) = self.best_child(node, &ids[at..], now) else {
                return Hit { tokens: at, row: None };
            };
            let n = &mut self.nodes[child as usize];
            n.used = now;
            pages.share(n.page);
            held.push(n.page);
            at += same;
            if at == ids.len() {
                return Hit { tokens: at, row: Some(n.row.1) };
            }
            if same < CHUNK {
                return Hit { tokens: at, row: None };
            }
            node = child;
        }
    }

    /// The child that shares most tokens with `rest`, and how many of them may be used.
    fn best_child(&self, node: u32, rest: &[i32], now: u64) -> Option<(u32, usize)> {
        let mut best: Option<(u32, usize)> = None;
        let mut child = self.nodes[node as usize].child;
        while child != NONE {
            let n = &self.nodes[child as usize];
            let mut same = self.tokens_of(child).iter().zip(rest).take_while(|(a, b)| a == b).count();
            let whole = same == n.len;
            if same == rest.len() && !(whole && n.row.0 == now) {
                same -= same.min(1);
            }
            // A page filled in this very step cannot be copied yet: only who writes nothing into it may share it.
            let usable = n.filled < now || same == CHUNK || whole && same == rest.len();
            if usable && same > best.map_or(0, |b| b.1) {
                best = Some((child, same));
            }
            child = n.next;
        }
        best
    }

    /// Enters the pages `held` of the tokens `ids`, of which this step's forward computes those from `start` on, the
    /// first of them in row `row`. Tokens that are cached already keep their page.
    pub fn insert(&mut self, ids: &[i32], held: &[u32], start: usize, row: usize, now: u64, pages: &mut Pages) {
        let mut node = 0;
        for (k, chunk) in ids.chunks(CHUNK).enumerate() {
            let child = match self.same_child(node, chunk) {
                Some(child) => child,
                None if self.node_of[held[k] as usize] == NONE => self.enter(node, chunk, held[k], now, pages),
                None => return,
            };
            let last = k * CHUNK + chunk.len() - 1;
            let n = &mut self.nodes[child as usize];
            n.used = now;
            if last >= start {
                n.row = (now, (row + last - start) as u32);
            }
            node = child;
        }
    }

    fn tokens_of(&self, node: u32) -> &[i32] {
        &self.tokens[node as usize][..self.nodes[node as usize].len]
    }

    fn same_child(&self, node: u32, chunk: &[i32]) -> Option<u32> {
        let mut child = self.nodes[node as usize].child;
        while child != NONE {
            let n = &self.nodes[child as usize];
            if self.tokens_of(child) == chunk {
                return Some(child);
            }
            child = n.next;
        }
        None
    }

    fn enter(&mut self, parent: u32, chunk: &[i32], page: u32, now: u64, pages: &mut Pages) -> u32 {
        // As many nodes as pages, and a page stands in one node at most: there is always a free node.
        let Some(id) = self.free.pop() else { return parent };
        pages.share(page);
        self.node_of[page as usize] = id;
        let next = self.nodes[parent as usize].child;
        let row = (0, 0);
        self.nodes[id as usize] =
            Node { len: chunk.len(), page, parent, child: NONE, next, used: now, filled: now, row };
        self.tokens[id as usize][..chunk.len()].copy_from_slice(chunk);
        self.nodes[parent as usize].child = id;
        id
    }

    /// Drops the least recently used leaf that the cache alone holds; false when there is none.
    pub fn evict(&mut self, pages: &mut Pages) -> bool {
        let leaf = |n: &Node| n.page != NONE && n.child == NONE && pages.holds(n.page) == 1;
        let nodes = self.nodes.iter().enumerate().filter(|(_, n)| leaf(n));
        let Some((id, _)) = nodes.min_by_key(|(id, n)| (n.used, *id)) else { return false };
        self.remove(id as u32, pages);
        true
    }

    /// Gives up the cache's hold of `page`, if it is a leaf of the cache; true when it was.
    pub fn forget(&mut self, page: u32, pages: &mut Pages) -> bool {
        let id = self.node_of[page as usize];
        if id == NONE || self.nodes[id as usize].child != NONE {
            return false;
        }
        self.remove(id, pages);
        true
    }

    /// Drops everything: the weights have changed.
    pub fn clear(&mut self, pages: &mut Pages) {
        for id in 1..self.nodes.len() {
            let page = self.nodes[id].page;
            if page != NONE {
                self.nodes[id].page = NONE;
                self.node_of[page as usize] = NONE;
                self.free.push(id as u32);
                pages.release(page);
            }
        }
        self.nodes[0].child = NONE;
    }

    fn remove(&mut self, id: u32, pages: &mut Pages) {
        let Node { parent, next, page, .. } = self.nodes[id as usize];
        let first = self.nodes[parent as usize].child;
        if first == id {
            self.nodes[parent as usize].child = next;
        } else {
            let mut before = first;
            while self.nodes[before as usize].next != id {
                before = self.nodes[before as usize].next;
            }
            self.nodes[before as usize].next = next;
        }
        self.nodes[id as usize].page = NONE;
        self.node_of[page as usize] = NONE;
        self.free.push(id);
        pages.release(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(pages: &mut Pages, n_tokens: usize) -> Vec<u32> {
        (0..n_tokens.div_ceil(CHUNK)).map(|_| pages.alloc().unwrap()).collect()
    }

    fn ids(n: usize) -> Vec<i32> {
        (0..n as i32).collect()
    }

    #[test]
    fn a_prompt_is_found_but_for_its_last_token() {
        for n in [1, 2, 31, 32, 33, 64, 100] {
            let (mut pages, mut prefix) = (Pages::new(8), Prefix::new(8));
            let held = take(&mut pages, n);
            prefix.insert(&ids(n), &held, 0, 0, 1, &mut pages);
            let mut found = vec![];
            let hit = prefix.lookup(&ids(n), 2, &mut pages, &mut found);
            assert_eq!(hit, Hit { tokens: n - 1, row: None }, "{n} tokens");
            assert_eq!(found, held[..(n - 1).div_ceil(CHUNK)]);
        }
    }

    #[test]
    fn in_the_same_step_the_whole_prompt_is_found_with_the_row_of_its_last_token() {
        for n in [1, 31, 32, 33, 64, 100] {
            let (mut pages, mut prefix) = (Pages::new(8), Prefix::new(8));
            let held = take(&mut pages, n);
            prefix.insert(&ids(n), &held, 0, 5, 1, &mut pages);
            let mut found = vec![];
            let hit = prefix.lookup(&ids(n), 1, &mut pages, &mut found);
            assert_eq!(hit, Hit { tokens: n, row: Some(5 + n as u32 - 1) });
            assert_eq!(found, held);
        }
    }

    #[test]
    fn a_page_that_is_being_filled_is_shared_only_by_who_will_not_write_into_it() {
        let (mut pages, mut prefix) = (Pages::new(8), Prefix::new(8));
        let held = take(&mut pages, 70);
        prefix.insert(&ids(70), &held, 0, 0, 1, &mut pages);
        let mut other = ids(70);
        other[68] = -1;
        let mut found = vec![];
        let longer = ids(71);
        for (now, prompt, want) in [(1, &other, 64), (1, &longer, 64), (2, &other, 68), (2, &longer, 70)] {
            assert_eq!(prefix.lookup(prompt, now, &mut pages, &mut found).tokens, want);
            found.drain(..).for_each(|p| pages.release(p));
        }
    }

    #[test]
    fn the_least_recently_used_free_leaf_goes_first() {
        let (mut pages, mut prefix) = (Pages::new(8), Prefix::new(8));
        for (step, first) in [(1, 10), (2, 20), (3, 30)] {
            let held = take(&mut pages, 1);
            prefix.insert(&[first, 0], &held, 0, 0, step, &mut pages);
            held.iter().for_each(|p| pages.release(*p));
        }
        let mut found = vec![];
        prefix.lookup(&[10, 0, 0], 4, &mut pages, &mut found);
        assert!(prefix.evict(&mut pages));
        assert_eq!(prefix.lookup(&[20, 0], 5, &mut pages, &mut found).tokens, 0);
        assert!(prefix.evict(&mut pages));
        assert!(!prefix.evict(&mut pages), "page {found:?} is held by a sequence");
        prefix.clear(&mut pages);
        assert_eq!(pages.used(), 1);
    }

    proptest! {
        /// Random prompts over few tokens: what is found is a true prefix, and every page comes back.
        #[test]
        fn finds_only_what_was_entered_and_leaks_nothing(
            prompts in prop::collection::vec((prop::collection::vec(0..2i32, 1..3), 1usize..90), 1..40)
        ) {
            let (mut pages, mut prefix) = (Pages::new(16), Prefix::new(16));
            let mut content = vec![vec![]; 16];
            for (step, (pattern, n)) in prompts.iter().enumerate() {
                let (now, prompt) = (step as u64 + 1, pattern.iter().cycle().take(*n).copied().collect::<Vec<_>>());
                let mut held = vec![];
                let hit = prefix.lookup(&prompt, now, &mut pages, &mut held);
                for (k, page) in held.iter().enumerate() {
                    let to = hit.tokens.min((k + 1) * CHUNK);
                    prop_assert!(content[*page as usize].starts_with(&prompt[..to]), "page holds other tokens");
                }
                if hit.tokens % CHUNK != 0 {
                    pages.release(held.pop().unwrap());
                }
                while held.len() * CHUNK < prompt.len() {
                    match pages.alloc() {
                        Some(page) => {
                            content[page as usize] = prompt[..prompt.len().min((held.len() + 1) * CHUNK)].to_vec();
                            held.push(page);
                        }
                        None => prop_assert!(prefix.evict(&mut pages), "16 pages hold any prompt of 90 tokens"),
                    }
                }
                prefix.insert(&prompt, &held, hit.tokens, 0, now, &mut pages);
                held.iter().for_each(|p| pages.release(*p));
                prop_assert_eq!(prefix.len(), pages.used());
            }
            while prefix.evict(&mut pages) {}
            prop_assert_eq!(pages.used(), 0);
        }
    }
}
