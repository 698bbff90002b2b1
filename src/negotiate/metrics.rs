//! Metrics of episodes: one row a group, split into all, mutual and conflicting interest.
//!
//! The one idea: an [`EpisodeFacts`] says everything about one ended episode that a table needs; a [`Row`] is nothing but
//! means over facts, so rollouts, evaluation and reports share one definition of each figure.

use super::action::Action;
use super::episode::{Episode, Outcome};
use super::money::Cents;
use super::product::Scenario;
use super::protocol::Side;
use super::reasons;
use super::regulator::INTERVENTIONS;
use super::reply;
use super::reward;
use super::sellers;
use super::stats::{self, Estimate};
use serde::{Deserialize, Serialize};

/// What one ended episode adds to the tables. An unended one counts as a deadlock; a void one is asked for none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeFacts {
    /// The product's code: the unit of pairing.
    pub product: String,
    /// Mutual or conflicting interest.
    pub scenario: Scenario,
    /// The buyer's reward.
    pub reward: f64,
    /// The reward with -1 penalties counted as 0.
    pub reward_without_penalties: f64,
    /// Whether it ended in a deal.
    pub deal: bool,
    /// (B - P) / (B - C) of a deal, not clipped.
    pub bargained: Option<f64>,
    /// The buyer's first price over its budget.
    pub first_offer: Option<f64>,
    /// The buyer named a price above budget.
    pub overshoot: bool,
    /// The buyer broke format or protocol.
    pub format_error: bool,
    /// The seller left.
    pub seller_quit: bool,
    /// Turns played, counted by the buyer's replies.
    pub turns: u32,
    /// Regulator interventions by kind, in the order of `INTERVENTIONS`.
    pub interventions: [u32; 4],
    /// The buyer's bids never went down; `None` with fewer than two bids.
    pub monotone: Option<bool>,
    /// Buyer's bids whose thought names a percentage, and how many of those equal the card's price of it.
    pub thoughts: [u32; 2],
    /// Buyer's replies, and how many gave a reason.
    pub reasons: [u32; 2],
    /// Buyer's bids under a standing ask, and how many were at or above it.
    #[serde(default)]
    pub crossed: [u32; 2],
    /// Buyer's bids behind a bid, and how many were below the one before.
    #[serde(default)]
    pub falling: [u32; 2],
    /// Buyer's replies, and how many said what only sellers say.
    #[serde(default)]
    pub other_words: [u32; 2],
}

impl EpisodeFacts {
    /// The facts of an episode.
    pub fn of(episode: &Episode) -> EpisodeFacts {
        let product = episode.product();
        let outcome = episode.outcome().unwrap_or(Outcome::Deadlock);
        let bids: Vec<Cents> = episode.offers(Side::Buyer).collect();
        let mut interventions = [0; 4];
        for kind in episode.turns().iter().filter_map(|t| t.intervention) {
            interventions[INTERVENTIONS.iter().position(|k| *k == kind).unwrap_or(0)] += 1;
        }
        let replies = episode.turns_of(Side::Buyer).count() as u32;
        let reasoned = episode.turns_of(Side::Buyer).filter(|t| reasons::reason_in(&t.talk).is_some()).count() as u32;
        EpisodeFacts {
            product: product.code.clone(),
            scenario: product.scenario(),
            reward: reward::reward(product, outcome),
            reward_without_penalties: reward::reward_without_penalties(product, outcome),
            deal: matches!(outcome, Outcome::Deal { .. }),
            bargained: match outcome {
                Outcome::Deal { price, .. } => Some(reward::share(product, price)),
                _ => None,
            },
            first_offer: bids.first().map(|b| b.0 as f64 / product.budget.0 as f64),
            overshoot: matches!(outcome, Outcome::Overshoot { .. }),
            format_error: matches!(outcome, Outcome::Violation { .. }),
            seller_quit: outcome == Outcome::Quit { by: Side::Seller },
            turns: replies,
            interventions,
            monotone: (bids.len() > 1).then(|| bids.windows(2).all(|w| w[0] <= w[1])),
            thoughts: thoughts(episode),
            reasons: [replies, reasoned],
            crossed: crossed(episode),
            falling: [bids.len().saturating_sub(1) as u32, bids.windows(2).filter(|w| w[1] < w[0]).count() as u32],
            other_words: [replies, other_words(episode)],
        }
    }
}

/// Bids that met a standing ask, and those at or above it.
fn crossed(episode: &Episode) -> [u32; 2] {
    let (mut ask, mut counts) = (None, [0, 0]);
    for turn in episode.turns() {
        match (turn.side, turn.action) {
            (Side::Seller, Some(Action::Sell(price))) => ask = Some(price),
            (Side::Buyer, Some(Action::Buy(bid))) => {
                counts[0] += u32::from(ask.is_some());
                counts[1] += u32::from(ask.is_some_and(|ask| bid >= ask));
            }
            _ => {}
        }
    }
    counts
}

/// Buyer's replies with a line of sellers in them, or with what this one's seller said before, where that is three words or more.
fn other_words(episode: &Episode) -> u32 {
    let mut heard: Vec<&str> = sellers::lines().collect();
    let mut count = 0;
    for turn in episode.turns() {
        match turn.side {
            Side::Seller if turn.talk.split(' ').count() > 2 => heard.push(&turn.talk),
            Side::Seller => {}
            Side::Buyer => count += u32::from(heard.iter().any(|line| turn.talk.contains(line))),
        }
    }
    count
}

/// Bids whose thought names a percentage on the card, and those whose price is that percentage's.
fn thoughts(episode: &Episode) -> [u32; 2] {
    let card = episode.card(Side::Buyer);
    let mut counts = [0, 0];
    for turn in episode.turns_of(Side::Buyer) {
        let said = turn.thought.as_deref().and_then(reply::percent_in).and_then(|p| card.price(p));
        if let (Some(Action::Buy(price)), Some(said)) = (turn.action, said) {
            counts[0] += 1;
            counts[1] += u32::from(price == said);
        }
    }
    counts
}

/// Regulator interventions per episode, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct InterventionRates {
    /// Offers below cost that were lifted.
    pub offer_lifted: f64,
    /// Acceptances below cost that were voided.
    pub acceptance_voided: f64,
    /// Replies that could not be parsed.
    pub malformed: f64,
    /// Actions that were not allowed.
    pub illegal: f64,
}

/// One row of a table: a buyer against a seller in one kind of scenario. The first eleven keys are those of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The buyer's name.
    pub buyer: String,
    /// The seller's name.
    pub seller: String,
    /// `all`, `mi` or `ci`.
    pub scenario: String,
    /// Episodes.
    pub n: usize,
    /// Mean reward.
    pub reward: f64,
    /// Half width of its 95 % interval over products; `null` with fewer than two.
    pub reward_ci95: Option<f64>,
    /// Share of episodes that ended in a deal.
    pub deal_rate: f64,
    /// Mean (B - P) / (B - C) over deals; `null` without deals.
    pub bargained_ratio: Option<f64>,
    /// Mean first price over budget; `null` when no episode had one.
    pub first_offer_ratio: Option<f64>,
    /// Share of episodes with a buyer's price above budget.
    pub overshoot_rate: f64,
    /// Share of episodes ended by a broken format or protocol.
    pub format_error_rate: f64,
    /// Mean reward with the -1 penalties counted as 0.
    pub reward_without_penalties: f64,
    /// Half width of the 95 % interval of the deal rate, over products; `null` with fewer than two.
    pub deal_rate_ci95: Option<f64>,
    /// Share of episodes the seller left.
    pub seller_quit_rate: f64,
    /// Mean number of the buyer's replies.
    pub turns: f64,
    /// Regulator interventions an episode.
    pub interventions: f64,
    /// The same by kind.
    pub interventions_by_kind: InterventionRates,
    /// Share of episodes (with two bids or more) whose bids never went down.
    pub monotone_bid_share: Option<f64>,
    /// Share of the buyer's bids at the very price its thought names in percent.
    pub thought_action_agreement: Option<f64>,
    /// Share of the buyer's replies that give a reason.
    pub reason_rate: f64,
    /// Share of the buyer's bids, where an ask stands, at or above it.
    #[serde(default)]
    pub crossed_bid_share: Option<f64>,
    /// Share of the buyer's later bids below the one before.
    #[serde(default)]
    pub falling_bid_share: Option<f64>,
    /// Share of the buyer's replies that say what only sellers say.
    #[serde(default)]
    pub other_words_share: Option<f64>,
}

/// The three rows `all`, `mi`, `ci` of a set of episodes.
pub fn rows(buyer: &str, seller: &str, facts: &[EpisodeFacts]) -> Vec<Row> {
    let of = |scenario: Option<Scenario>| -> Row {
        let chosen: Vec<&EpisodeFacts> = facts.iter().filter(|f| scenario.is_none_or(|s| f.scenario == s)).collect();
        row(buyer, seller, scenario.map_or("all", Scenario::key), &chosen)
    };
    vec![of(None), of(Some(Scenario::MutualInterest)), of(Some(Scenario::ConflictingInterest))]
}

/// One row over the given episodes.
pub fn row(buyer: &str, seller: &str, scenario: &str, facts: &[&EpisodeFacts]) -> Row {
    let n = facts.len();
    let rate = |holds: fn(&EpisodeFacts) -> bool| average(facts.iter().map(|f| f64::from(u8::from(holds(f)))));
    let over_products = |value: fn(&EpisodeFacts) -> f64| {
        stats::mean_by_product(&facts.iter().map(|f| (f.product.as_str(), value(f))).collect::<Vec<_>>())
    };
    let kind = |i: usize| average(facts.iter().map(|f| f64::from(f.interventions[i]))).unwrap_or(0.0);
    let total = |pair: fn(&EpisodeFacts) -> [u32; 2]| {
        let sums = facts.iter().map(|f| pair(f)).fold([0, 0], |s, p| [s[0] + p[0], s[1] + p[1]]);
        (sums[0] > 0).then(|| f64::from(sums[1]) / f64::from(sums[0]))
    };
    Row {
        buyer: buyer.into(),
        seller: seller.into(),
        scenario: scenario.into(),
        n,
        reward: average(facts.iter().map(|f| f.reward)).unwrap_or(0.0),
        reward_ci95: over_products(|f| f.reward).ci95,
        deal_rate: rate(|f| f.deal).unwrap_or(0.0),
        bargained_ratio: average(facts.iter().filter_map(|f| f.bargained)),
        first_offer_ratio: average(facts.iter().filter_map(|f| f.first_offer)),
        overshoot_rate: rate(|f| f.overshoot).unwrap_or(0.0),
        format_error_rate: rate(|f| f.format_error).unwrap_or(0.0),
        reward_without_penalties: average(facts.iter().map(|f| f.reward_without_penalties)).unwrap_or(0.0),
        deal_rate_ci95: over_products(|f| f64::from(u8::from(f.deal))).ci95,
        seller_quit_rate: rate(|f| f.seller_quit).unwrap_or(0.0),
        turns: average(facts.iter().map(|f| f64::from(f.turns))).unwrap_or(0.0),
        interventions: (0..4).map(kind).sum(),
        interventions_by_kind: InterventionRates {
            offer_lifted: kind(0),
            acceptance_voided: kind(1),
            malformed: kind(2),
            illegal: kind(3),
        },
        monotone_bid_share: average(facts.iter().filter_map(|f| f.monotone).map(|m| f64::from(u8::from(m)))),
        thought_action_agreement: total(|f| f.thoughts),
        reason_rate: total(|f| f.reasons).unwrap_or(0.0),
        crossed_bid_share: total(|f| f.crossed),
        falling_bid_share: total(|f| f.falling),
        other_words_share: total(|f| f.other_words),
    }
}

/// The difference of mean reward `a - b`, paired by product, with its 95 % interval.
pub fn reward_difference(a: &[EpisodeFacts], b: &[EpisodeFacts]) -> Estimate {
    stats::paired(&pairs(a), &pairs(b))
}

/// `(product, reward)` of every episode.
fn pairs(facts: &[EpisodeFacts]) -> Vec<(&str, f64)> {
    facts.iter().map(|f| (f.product.as_str(), f.reward)).collect()
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), v| (sum + v, n + 1));
    (n > 0).then(|| sum / n as f64)
}
