//! What a learner learns from: episodes with advantages, cut into updates and micro-batches.

use crate::text::Transcript;
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
}

impl<'a> Sample<'a> {
    /// One advantage for every sampled token.
    pub fn even(transcript: &'a Transcript, advantage: f32) -> Sample<'a> {
        Sample { transcript, advantage, per_token: &[] }
    }

    /// Number of trained tokens.
    pub fn n_trained(&self) -> usize {
        self.transcript.sampled().iter().filter(|s| **s).count()
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

/// Runs of whole episodes of at most `budget` tokens.
pub(super) fn micro_batches(samples: &[Sample], budget: usize) -> Vec<Range<usize>> {
    let mut cuts = vec![];
    let (mut start, mut tokens) = (0, 0);
    for (i, sample) in samples.iter().enumerate() {
        let n = sample.transcript.len();
        if tokens + n > budget && i > start {
            cuts.push(start..i);
            (start, tokens) = (i, 0);
        }
        tokens += n;
    }
    if start < samples.len() {
        cuts.push(start..samples.len());
    }
    cuts
}
