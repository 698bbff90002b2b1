//! What games leave on disk: the game's part of a row of `metrics.jsonl`, a line of `episodes.jsonl` for each game, and
//! the sample dialogues of the report.

use crate::eval::Kept;
use crate::negotiate::metrics::{EpisodeFacts, rows};
use crate::negotiate::{Cents, Episode, Outcome, Seller, Turn};
use crate::run::metrics::{Metrics, Tokens};
use crate::text::Transcript;
use serde::Serialize;
use serde_json::{Value, json};

/// The game's part of a step's row.
pub(super) fn row(facts: &[EpisodeFacts]) -> Metrics {
    let by = rows("buyer", "seller", facts);
    let mut row = Metrics::new();
    let [all, mi, ci] = &by[..] else { return row };
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
        ("bids/crossed", json!(all.crossed_bid_share)),
        ("bids/falling", json!(all.falling_bid_share)),
        ("other_sides_words", json!(all.other_words_share)),
        ("thought_action_agreement", json!(all.thought_action_agreement)),
        ("reason_rate", json!(all.reason_rate)),
    ] {
        // Of no games nothing is known.
        row.insert(key.into(), if all.n > 0 { value } else { Value::Null });
    }
    row
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
    /// The script that sold, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seller: Option<&'static str>,
    /// How it ended; none of a void one.
    pub outcome: Option<Outcome>,
    /// Why it is void, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    /// The buyer's reward; none of a void one.
    pub reward: Option<f64>,
    /// The advantage of the buyer's tokens.
    pub advantage: f32,
    /// The dialogue.
    pub turns: Vec<Value>,
    /// The buyer's tokens.
    pub buyer: Option<Tokens>,
    /// The advantage of each sampled token, where each has its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advantages: Vec<f32>,
}

impl EpisodeLine {
    /// The line of episode `index` of a step whose groups have `group_size` rollouts.
    pub fn new(
        step: u64,
        index: usize,
        group_size: usize,
        episode: &Episode,
        buyer: Option<&Transcript>,
        advantage: f32,
        advantages: &[f32],
    ) -> EpisodeLine {
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
            seller: episode.script().map(Seller::key),
            outcome: episode.outcome(),
            void: episode.void().map(String::from),
            reward: episode.void().is_none().then(|| EpisodeFacts::of(episode).reward),
            advantage,
            turns: turns(episode),
            buyer: buyer.map(Tokens::of),
            advantages: advantages.to_vec(),
        }
    }
}

/// The dialogue, a list of turns.
fn turns(episode: &Episode) -> Vec<Value> {
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

/// A dialogue of a buyer against a seller for the report: `when` is `before` or `after` training.
pub(super) fn sample_line(when: &str, of: &Kept, episode: &Episode) -> Value {
    let product = episode.product();

    json!({
        "when": when,
        "buyer": of.buyer,
        "seller": of.seller,
        "code": product.code,
        "title": product.title,
        "scenario": product.scenario().key(),
        "list": product.list,
        "cost": product.cost,
        "budget": product.budget,
        "turns": turns(episode),
        "outcome": episode.outcome(),
        "reward": EpisodeFacts::of(episode).reward,
    })
}
