//! What a step leaves on disk: a row of `metrics.jsonl`, and a line of `episodes.jsonl` for each episode.
//!
//! The one idea: every key is a result, the same bits on any machine of one kind, except those under `time/`, which measure
//! the work (seconds, tokens a second, tokens run and reused, pages, peak memory).

use crate::credit::importance::{EDGES, Histogram};
use crate::negotiate::metrics::{EpisodeFacts, Row, rows};
use crate::negotiate::{Cents, Outcome, Turn};
use crate::rollout::{Played, Rollout};
use crate::text::Transcript;
use crate::train::learner::Learned;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// A row of metrics: keys in a fixed order.
pub type Metrics = Map<String, Value>;

/// What the rows are made from.
pub struct StepFacts<'a> {
    /// The step, from 1.
    pub step: u64,
    /// The rollout.
    pub rollout: &'a Rollout,
    /// Facts of its episodes, in its order.
    pub facts: &'a [EpisodeFacts],
    /// Groups whose rewards were all the same.
    pub constant_groups: usize,
    /// What the learner did.
    pub learned: &'a Learned,
    /// Updates skipped since the run began.
    pub skipped_total: u64,
    /// True when the KL to the reference was computed.
    pub with_kl: bool,
    /// When the step began.
    pub began: Instant,
}

/// The step's row.
pub fn row(s: &StepFacts) -> Metrics {
    let by = rows("buyer", "seller", s.facts);
    let [all, mi, ci] = &by[..] else { return Map::new() };
    let mut row = Map::new();
    row.insert("step".into(), json!(s.step));
    game(&mut row, all, mi, ci, s.facts);
    policy(&mut row, s);
    times(&mut row, s);
    row
}

fn game(row: &mut Metrics, all: &Row, mi: &Row, ci: &Row, facts: &[EpisodeFacts]) {
    let kinds = all.interventions_by_kind;
    let deals: Vec<f64> = facts.iter().filter(|f| f.deal).map(|f| f.reward).collect();
    let given_deal = (!deals.is_empty()).then(|| deals.iter().sum::<f64>() / deals.len() as f64);
    for (key, value) in [
        ("reward/mean", json!(all.reward)),
        ("reward/no_penalty", json!(all.reward_without_penalties)),
        ("reward/deal", json!(given_deal)),
        ("reward/mi", json!((mi.n > 0).then_some(mi.reward))),
        ("reward/ci", json!((ci.n > 0).then_some(ci.reward))),
        ("deal_rate", json!(all.deal_rate)),
        ("deal_rate/mi", json!((mi.n > 0).then_some(mi.deal_rate))),
        ("deal_rate/ci", json!((ci.n > 0).then_some(ci.deal_rate))),
        ("bargained_ratio", json!(all.bargained_ratio)),
        ("first_offer_ratio", json!(all.first_offer_ratio)),
        ("overshoot_rate", json!(all.overshoot_rate)),
        ("format_error_rate", json!(all.format_error_rate)),
        ("seller_quit_rate", json!(all.seller_quit_rate)),
        ("turns", json!(all.turns)),
        ("interventions_per_episode", json!(all.interventions)),
        ("interventions/offer_lifted", json!(kinds.offer_lifted)),
        ("interventions/acceptance_voided", json!(kinds.acceptance_voided)),
        ("interventions/malformed", json!(kinds.malformed)),
        ("interventions/illegal", json!(kinds.illegal)),
        ("monotone_bids", json!(all.monotone_bid_share)),
        ("thought_action_agreement", json!(all.thought_action_agreement)),
        ("reason_rate", json!(all.reason_rate)),
    ] {
        row.insert(key.into(), value);
    }
}

/// What the learner did.
pub(crate) fn policy(row: &mut Metrics, s: &StepFacts) {
    let (l, rollout) = (s.learned, s.rollout);
    let [loss, pg_loss, kl, entropy, clipped, ratio_max_dev] = l.sums;
    for (key, value) in [
        ("rollout/logprob_max_abs_diff", json!(l.logprob_max_abs_diff)),
        ("rollout/episodes", json!(rollout.played.len())),
        ("rollout/constant_groups", json!(s.constant_groups)),
        ("rollout/buyer_tokens", json!(rollout.buyer.sampled_tok)),
        ("rollout/seller_tokens", json!(rollout.seller.sampled_tok)),
        ("policy/loss", json!(loss)),
        ("policy/pg_loss", json!(pg_loss)),
        ("policy/kl", json!(s.with_kl.then_some(kl))),
        ("policy/entropy", json!(entropy)),
        ("policy/clip_fraction", json!(clipped)),
        ("policy/ratio_max_dev", json!(ratio_max_dev)),
        ("policy/trained_tokens", json!(l.trained_tok)),
        ("policy/packed_tokens", json!(l.packed_tok)),
        ("grad_norm", json!(l.grad_norm)),
        ("lr", json!(l.lr)),
        ("updates", json!(l.applied)),
        ("updates_skipped", json!(l.skipped)),
        ("updates_skipped_total", json!(s.skipped_total)),
        ("not_finite", json!(l.not_finite)),
    ] {
        row.insert(key.into(), value);
    }
    importance(row, &l.importance);
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
pub(crate) fn times(row: &mut Metrics, s: &StepFacts) {
    let (l, rollout) = (s.learned, s.rollout);
    let sampled = (rollout.buyer.sampled_tok + rollout.seller.sampled_tok) as f64;
    let total_s = s.began.elapsed().as_secs_f64();
    for (key, value) in [
        ("step_s", total_s),
        ("rollout_s", rollout.total_s),
        ("prefill_s", rollout.buyer.prefill_s + rollout.seller.prefill_s),
        ("decode_s", rollout.buyer.decode_s + rollout.seller.decode_s),
        ("environment_s", rollout.environment_s),
        ("forward_s", l.forward_s),
        ("backward_s", l.backward_s),
        ("optimizer_s", l.optimizer_s),
        ("sampled_tokens_per_s", sampled / rollout.total_s.max(1e-9)),
        ("trained_tokens_per_s", l.packed_tok as f64 / (l.forward_s + l.backward_s + l.optimizer_s).max(1e-9)),
    ] {
        row.insert(format!("time/{key}"), json!(value));
    }
    // Work, not results: a resumed run begins with empty caches.
    for (key, of) in [("buyer", &rollout.buyer), ("seller", &rollout.seller)] {
        row.insert(format!("time/{key}_prefill_tokens"), json!(of.rows_prefill));
        row.insert(format!("time/{key}_reused_tokens"), json!(of.prefix_reused_tok));
        row.insert(format!("time/{key}_preemptions"), json!(of.preemptions));
        row.insert(format!("time/{key}_pages_peak"), json!(of.pages_peak));
        row.insert(format!("time/{key}_graph_steps"), json!(of.replays));
    }
    row.insert("time/peak_memory_bytes".into(), json!(peak_memory_bytes()));
}

/// The most resident memory this process ever had (`VmHWM`), in bytes; `None` where the system does not say.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A row without what was measured: the same bits wherever and however often a run is made.
pub fn without_times(row: &Metrics) -> Metrics {
    row.iter().filter(|(key, _)| !key.starts_with("time/")).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// One side's tokens of an episode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tokens {
    /// All ids.
    pub ids: Vec<i32>,
    /// The ranges `[start, end)` of ids that were sampled.
    pub sampled: Vec<[usize; 2]>,
    /// Logprobs of the sampled ids, in order.
    pub logprobs: Vec<f32>,
}

impl Tokens {
    /// The tokens of a transcript.
    pub fn of(transcript: &Transcript) -> Tokens {
        let marks = transcript.sampled();
        let mut sampled: Vec<[usize; 2]> = Vec::new();
        for i in (0..marks.len()).filter(|i| marks[*i]) {
            match sampled.last_mut() {
                Some(last) if last[1] == i => last[1] = i + 1,
                _ => sampled.push([i, i + 1]),
            }
        }
        let logprobs = transcript.logprobs().iter().zip(marks).filter(|(_, s)| **s).map(|(l, _)| *l).collect();
        Tokens { ids: transcript.ids().to_vec(), sampled, logprobs }
    }
}

/// A line of `episodes.jsonl`.
#[derive(Debug, Clone, Serialize)]
pub struct EpisodeLine {
    /// The training step, from 1.
    pub step: u64,
    /// The group: which product of the step.
    pub group: usize,
    /// Which rollout of the group.
    pub rollout: usize,
    /// The product's code.
    pub product: String,
    /// `mi` or `ci`.
    pub scenario: &'static str,
    /// List price in cents.
    pub list: Cents,
    /// The seller's cost in cents.
    pub cost: Cents,
    /// The buyer's budget in cents.
    pub budget: Cents,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The buyer's reward.
    pub reward: f64,
    /// The advantage of the buyer's tokens.
    pub advantage: f32,
    /// The dialogue.
    pub turns: Vec<Value>,
    /// The buyer's tokens.
    pub buyer: Option<Tokens>,
}

impl EpisodeLine {
    /// The line of episode `index` of a step whose groups have `group_size` rollouts.
    pub fn new(step: u64, index: usize, group_size: usize, played: &Played, advantage: f32) -> EpisodeLine {
        let episode = &played.episode;
        let product = episode.product();
        EpisodeLine {
            step,
            group: index / group_size,
            rollout: index % group_size,
            product: product.code.clone(),
            scenario: product.scenario().key(),
            list: product.list,
            cost: product.cost,
            budget: product.budget,
            outcome: episode.outcome(),
            reward: EpisodeFacts::of(episode).reward,
            advantage,
            turns: turns(played),
            buyer: played.buyer.as_ref().map(Tokens::of),
        }
    }
}

/// The dialogue, a list of turns.
pub fn turns(played: &Played) -> Vec<Value> {
    let episode = &played.episode;
    let line = |turn: &Turn| {
        let mut line = json!({
            "side": turn.side,
            "thought": turn.thought.clone().unwrap_or_default(),
            "talk": turn.talk,
            "action": turn.action.map(|a| a.render(episode.code())).unwrap_or_default(),
        });
        if turn.thought.is_none() || turn.intervention.is_some() {
            line["raw"] = json!(turn.raw);
        }
        for (key, value) in [("violation", json!(turn.violation)), ("intervention", json!(turn.intervention))] {
            if !value.is_null() {
                line[key] = value;
            }
        }
        line
    };
    episode.turns().iter().map(line).collect()
}

/// A dialogue for the report: `when` is `before` or `after` training.
pub fn sample_line(when: &str, played: &Played) -> Value {
    let episode = &played.episode;
    let product = episode.product();

    json!({
        "when": when,
        "code": product.code,
        "title": product.title,
        "scenario": product.scenario().key(),
        "list": product.list,
        "cost": product.cost,
        "budget": product.budget,
        "turns": turns(played),
        "outcome": episode.outcome(),
        "reward": EpisodeFacts::of(episode).reward,
    })
}
