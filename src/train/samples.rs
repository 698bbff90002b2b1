//! What a learner learns from: episodes with advantages, cut into updates and micro-batches.
//!
//! Episodes of a group begin alike: with the prompt. Those rows are run once for all that stand in one micro-batch: an
//! episode is the stem, each other one stands on as many of its first tokens as are its own too and carry no loss in either.

use crate::text::Transcript;
use std::collections::VecDeque;
use std::ops::Range;

/// An episode to learn from.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// The trained side's tokens, with the logprobs they had when sampled.
    pub transcript: &'a Transcript,
    /// The advantage of each sampled token, where `per_token` is empty.
    pub advantage: f32,
    /// The advantage of each sampled token, each its own, in order; or empty.
    pub per_token: &'a [f32],
    /// The group whose episodes may share its prompt's rows; what they share is found from their tokens.
    pub group: usize,
}

impl<'a> Sample<'a> {
    /// One advantage for every sampled token; of group 0.
    pub fn even(transcript: &'a Transcript, advantage: f32) -> Sample<'a> {
        Sample { transcript, advantage, per_token: &[], group: 0 }
    }

    /// Number of trained tokens.
    pub fn n_trained(&self) -> usize {
        self.transcript.sampled().iter().filter(|s| **s).count()
    }

    /// Tokens before the first that carries loss.
    fn n_before_loss(&self) -> usize {
        self.transcript.sampled().iter().take_while(|s| !**s).count()
    }

    /// First tokens that are those of `stem` too and carry no loss in either.
    fn shared(&self, stem: &Sample) -> usize {
        let most = self.n_before_loss().min(stem.n_before_loss());
        let pairs = self.transcript.ids().iter().zip(stem.transcript.ids());
        pairs.take(most).take_while(|(mine, its)| mine == its).count()
    }
}

/// An episode in a micro-batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub sample: Sample<'a>,
    /// Its first tokens whose rows are those of the last episode before it that shares none.
    pub shared: usize,
}

impl Placed<'_> {
    /// Rows it adds to the micro-batch.
    pub fn rows(&self) -> usize {
        self.sample.transcript.len() - self.shared
    }
}

/// `n` episodes cut into `updates` shares of nearly the same number, in order; no share is empty.
pub(super) fn shares(n: usize, updates: usize) -> Vec<Range<usize>> {
    let updates = updates.clamp(1, n.max(1));
    (0..updates).map(|i| i * n / updates..(i + 1) * n / updates).filter(|r| !r.is_empty()).collect()
}

/// Those with trained tokens (a side that its context left no room to speak has none), longest first, then in order: a
/// fixed order that packs well.
pub(super) fn sorted<'a>(samples: &[Sample<'a>]) -> Vec<Sample<'a>> {
    let mut sorted: Vec<Sample> = samples.iter().filter(|s| s.n_trained() > 0).copied().collect();
    sorted.sort_by_key(|s| std::cmp::Reverse(s.transcript.len()));
    sorted
}

/// Micro-batches of at most `budget` rows, of whole episodes, as long as none is longer. A group's episodes stand together
/// where they fit one; where not, each piece has rows of the prompt of its own. Without `share` every episode is alone.
pub(super) fn micro_batches<'a>(samples: &[Sample<'a>], budget: usize, share: bool) -> Vec<Vec<Placed<'a>>> {
    let mut all = Packer { budget, done: vec![], open: vec![], rows: 0 };
    let mut rest: VecDeque<Sample> = samples.iter().copied().collect();
    while let Some(stem) = rest.pop_front() {
        let shared = |s: &Sample| if share && s.group == stem.group { s.shared(&stem) } else { 0 };
        let on_it: Vec<Placed> =
            rest.iter().map(|s| Placed { sample: *s, shared: shared(s) }).filter(|p| p.shared > 0).collect();
        rest.retain(|s| shared(s) == 0);
        let left = all.family(Placed { sample: stem, shared: 0 }, on_it);
        left.into_iter().rev().for_each(|p| rest.push_front(p.sample));
    }
    all.close();
    all.done
}

struct Packer<'a> {
    budget: usize,
    done: Vec<Vec<Placed<'a>>>,
    open: Vec<Placed<'a>>,
    rows: usize,
}

impl<'a> Packer<'a> {
    /// Packs a stem and as many of those on it as fit; returns the others.
    fn family(&mut self, stem: Placed<'a>, on_it: Vec<Placed<'a>>) -> Vec<Placed<'a>> {
        let all = stem.rows() + on_it.iter().map(Placed::rows).sum::<usize>();
        if self.rows + all > self.budget {
            self.close();
        }
        self.push(stem);
        let mut left = on_it.into_iter();
        let mut next = left.next();
        while let Some(placed) = next.filter(|placed| self.rows + placed.rows() <= self.budget) {
            self.push(placed);
            next = left.next();
        }
        next.into_iter().chain(left).collect()
    }

    fn push(&mut self, placed: Placed<'a>) {
        self.rows += placed.rows();
        self.open.push(placed);
    }

    fn close(&mut self) {
        self.rows = 0;
        if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    /// Transcripts `(system, reply)` of groups.
    fn transcripts(of: &[(&str, usize)]) -> Vec<Transcript> {
        let chat = embedded::chat().unwrap();
        let transcript = |(said, n): &(&str, usize)| {
            let mut t = Transcript::new(&chat, "buyer.").unwrap();
            t.push_incoming(&chat, said).unwrap();
            t.push_sampled(&vec![7; *n], &vec![-1.0; *n]);
            t
        };
        of.iter().map(transcript).collect()
    }

    fn cut(all: &[Transcript], groups: &[usize], budget: usize, share: bool) -> Vec<Vec<[usize; 2]>> {
        let samples: Vec<Sample> =
            all.iter().zip(groups).map(|(t, group)| Sample { group: *group, ..Sample::even(t, 1.0) }).collect();
        let of = |p: &Placed| [p.rows(), p.shared];
        micro_batches(&samples, budget, share).iter().map(|micro| micro.iter().map(of).collect()).collect()
    }

    #[test]
    fn a_group_shares_what_its_tokens_share_before_the_first_that_carries_loss() {
        let all = transcripts(&[("turn 1/6", 4), ("turn 1/6", 3), ("turn 1/6", 3), ("offer 5", 2)]);
        let [a, other] = [0, 3].map(|i| all[i].sampled().iter().take_while(|s| !**s).count());
        let same = all[0].ids().iter().zip(all[3].ids()).take_while(|(a, b)| a == b).count();
        assert!(same < a.min(other) && same > 0);
        // Replies are equal too, and are not shared: they carry loss.
        assert_eq!(cut(&all, &[0; 4], 999, true), [[[a + 4, 0], [3, a], [3, a], [other + 2 - same, same]]]);
        assert_eq!(cut(&all, &[0, 1, 0, 1], 999, true)[0].iter().filter(|p| p[1] == 0).count(), 2);
        let apart = cut(&all, &[0; 4], 999, false);
        assert_eq!(apart, [[[a + 4, 0], [a + 3, 0], [a + 3, 0], [other + 2, 0]]]);
    }

    #[test]
    fn a_group_stands_together_where_it_fits_and_is_split_where_not() {
        let all = transcripts(&[("turn 1/6", 9), ("turn 1/6", 8), ("turn 1/6", 7), ("turn 1/6", 6)]);
        let a = all[0].len() - 9;
        // Two groups: the second does not fit behind the first.
        let budget = a + 17;
        assert_eq!(cut(&all, &[0, 0, 1, 1], budget, true), [[[a + 9, 0], [8, a]], [[a + 7, 0], [6, a]]]);
        // One group that fits no budget: each piece has the prompt.
        assert_eq!(cut(&all, &[0; 4], budget, true), [[[a + 9, 0], [8, a]], [[a + 7, 0], [6, a]]]);
        // An episode longer than the budget is alone.
        assert_eq!(cut(&all, &[0; 4], 1, true).len(), 4);
    }
}
