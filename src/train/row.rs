//! The trainer's part of a step's row: what the learner did, and what was measured.

use super::learner::Learned;
use crate::credit::importance::{EDGES, Histogram};
use crate::infer::Stats;
use crate::rollout::Rollout;
use crate::run::barren::Barren;
use crate::run::metrics::{Metrics, peak_memory_bytes};
use serde_json::json;
use std::time::Instant;

/// What a step's row is made from, beside the task's own part.
pub(super) struct StepFacts<'a> {
    /// The step, from 1.
    pub step: u64,
    /// The rollout.
    pub rollout: &'a Rollout,
    /// Episodes or replies that were credited.
    pub episodes: usize,
    /// Groups whose rewards were all the same.
    pub constant_groups: usize,
    /// Groups of the step.
    pub groups: usize,
    /// Seconds in credit.
    pub credit_s: f64,
    /// What the learner did.
    pub learned: &'a Learned,
    /// Tokens of each expert of each layer `[L, E]`, and E: 0 without experts.
    pub expert_load: (&'a [u64], usize),
    /// Updates skipped since the run began.
    pub skipped_total: u64,
    /// True when the KL to the reference was computed.
    pub with_kl: bool,
    /// When the step began.
    pub began: Instant,
    /// Bytes that this rank has sent to others since, and those of them that the formula of gradients and weights gives.
    pub sent_bytes: [u64; 2],
}

/// The step's row, the task's part of it given.
pub(super) fn row(task: Metrics, s: &StepFacts) -> Metrics {
    let mut row = Metrics::new();
    row.insert("step".into(), json!(s.step));
    row.extend(task);
    policy(&mut row, s);
    times(&mut row, s);
    if let Some(why) = Barren::of(&row) {
        row.insert("warning".into(), json!(why.key()));
    }
    row
}

/// What the engines of the learner and of the frozen model did: they are called buyer and seller in the row.
fn stats(rollout: &Rollout) -> [Stats; 2] {
    [0, 1].map(|seat| rollout.stats.get(seat).copied().unwrap_or_default())
}

/// What the learner did.
fn policy(row: &mut Metrics, s: &StepFacts) {
    let (l, [learner, frozen]) = (s.learned, stats(s.rollout));
    let [loss, pg_loss, kl, entropy, clipped, ratio_max_dev] = l.sums;
    // What did not happen has no figure: nothing was trained, nothing was applied.
    let trained = |x: f32| (l.trained_tok > 0).then_some(x);
    let [compared, same] = l.compared_tok.map(|n| n as f64);
    let bitwise = (compared > 0.0).then(|| same / compared);
    // Of the tokens that were learned from, those whose rows were another episode's.
    let shared = (l.packed_tok > 0).then(|| l.shared_tok as f64 / (l.packed_tok + l.shared_tok) as f64);
    let applied = |x: f32| (l.applied > 0).then_some(x);
    for (key, value) in [
        ("rollout/logprob_max_abs_diff", json!(trained(l.logprob_max_abs_diff))),
        ("rollout/bitwise_frac", json!(bitwise)),
        ("rollout/episodes", json!(s.episodes)),
        ("rollout/groups", json!(s.groups)),
        ("rollout/constant_groups", json!(s.constant_groups)),
        ("rollout/context_full", json!(s.rollout.context_full)),
        ("rollout/buyer_tokens", json!(learner.sampled_tok)),
        ("rollout/seller_tokens", json!(frozen.sampled_tok)),
        ("policy/loss", json!(trained(loss))),
        ("policy/pg_loss", json!(trained(pg_loss))),
        ("policy/kl", json!(trained(kl).filter(|_| s.with_kl))),
        ("policy/entropy", json!(trained(entropy))),
        ("policy/clip_fraction", json!(trained(clipped))),
        ("policy/ratio_max_dev", json!(trained(ratio_max_dev))),
        ("policy/trained_tokens", json!(l.trained_tok)),
        ("policy/packed_tokens", json!(l.packed_tok)),
        ("policy/shared_tokens", json!(l.shared_tok)),
        ("train/shared_frac", json!(shared)),
        ("grad_norm", json!(applied(l.grad_norm))),
        ("lr", json!(applied(l.lr))),
        ("updates", json!(l.applied)),
        ("updates_skipped", json!(l.skipped)),
        ("updates_skipped_total", json!(s.skipped_total)),
        ("not_finite", json!(l.not_finite)),
    ] {
        row.insert(key.into(), value);
    }
    importance(row, &l.importance);
    experts(row, s.expert_load);
}

/// How evenly the experts of each layer were used: the most and the least tokens of one, over its even share, of the layer
/// where that is furthest from 1; experts that got no token; and every expert's tokens, layer by layer.
fn experts(row: &mut Metrics, (load, count): (&[u64], usize)) {
    let layers = || load.chunks(count.max(1)).filter(|layer| layer.iter().sum::<u64>() > 0);
    let even = |layer: &[u64]| layer.iter().sum::<u64>() as f64 / layer.len() as f64;
    let most = layers().map(|l| l.iter().copied().max().unwrap_or(0) as f64 / even(l)).reduce(f64::max);
    let least = layers().map(|l| l.iter().copied().min().unwrap_or(0) as f64 / even(l)).reduce(f64::min);
    let (Some(most), Some(least)) = (most, least) else { return };
    row.insert("experts/load_max".into(), json!(most));
    row.insert("experts/load_min".into(), json!(least));
    row.insert("experts/idle".into(), json!(layers().flatten().filter(|n| **n == 0).count()));
    row.insert("experts/tokens".into(), json!(layers().collect::<Vec<_>>()));
}

/// Ratios to the sampling policy and the weights they became, when there is a correction.
fn importance(row: &mut Metrics, found: &Histogram) {
    let tokens = found.tokens() as f64;
    if tokens == 0.0 {
        return;
    }
    row.insert("importance/mean_weight".into(), json!(found.weights / tokens));
    row.insert("importance/not_one".into(), json!(found.not_one as f64 / tokens));
    row.insert("importance/bounded".into(), json!(found.bounded as f64 / tokens));
    for (i, n) in found.ratios.iter().enumerate() {
        let below = EDGES.get(i).map_or("up".into(), |edge| format!("below_{edge:.2}"));
        let key = if i == 5 { "one".into() } else { below };
        row.insert(format!("importance/ratio_{key}"), json!(*n as f64 / tokens));
    }
}

/// What was measured.
fn times(row: &mut Metrics, s: &StepFacts) {
    let (l, rollout, [learner, frozen]) = (s.learned, s.rollout, stats(s.rollout));
    let sampled = (learner.sampled_tok + frozen.sampled_tok) as f64;
    let total_s = s.began.elapsed().as_secs_f64();
    for (key, value) in [
        ("step_s", total_s),
        ("rollout_s", rollout.total_s),
        ("prefill_s", learner.prefill_s + frozen.prefill_s),
        ("decode_s", learner.decode_s + frozen.decode_s),
        ("environment_s", rollout.environment_s),
        ("credit_s", s.credit_s),
        ("forward_s", l.forward_s),
        ("backward_s", l.backward_s),
        ("optimizer_s", l.optimizer_s),
        ("sampled_tokens_per_s", sampled / rollout.total_s.max(1e-9)),
        ("trained_tokens_per_s", l.packed_tok as f64 / (l.forward_s + l.backward_s + l.optimizer_s).max(1e-9)),
    ] {
        row.insert(format!("time/{key}"), json!(value));
    }
    // Work, not results: a resumed run begins with empty caches.
    for (key, of) in [("buyer", learner), ("seller", frozen)] {
        row.insert(format!("time/{key}_prefill_tokens"), json!(of.rows_prefill));
        row.insert(format!("time/{key}_reused_tokens"), json!(of.prefix_reused_tok));
        row.insert(format!("time/{key}_preemptions"), json!(of.preemptions));
        row.insert(format!("time/{key}_pages_peak"), json!(of.pages_peak));
        row.insert(format!("time/{key}_graph_steps"), json!(of.replays));
    }
    let [slowest, fastest] = [f64::max, f64::min].map(|of| rollout.ranks_s.iter().copied().reduce(of));
    if let (Some(slowest), Some(fastest)) = (slowest, fastest) {
        row.insert("time/ranks".into(), json!(rollout.ranks_s.len()));
        row.insert("time/slowest_rank".into(), json!(rollout.ranks_s.iter().position(|s| *s == slowest)));
        row.insert("time/rollout_skew_s".into(), json!(slowest - fastest));
        row.insert("time/sent_bytes".into(), json!(s.sent_bytes[0]));
        row.insert("time/sent_bytes_formula".into(), json!(s.sent_bytes[1]));
    }
    if let Some(asked) = &rollout.remote {
        row.insert("time/seller_wait_s".into(), json!(asked.wait_s));
        row.insert("time/seller_requests".into(), json!(asked.requests));
        row.insert("time/seller_failures".into(), json!(asked.failures));
    }
    row.insert("time/peak_memory_bytes".into(), json!(peak_memory_bytes()));
}
