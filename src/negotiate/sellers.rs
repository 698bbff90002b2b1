//! Scripted sellers: time-dependent curves, tit-for-tat, regulated chance, three personas, and the teacher.
//!
//! The one idea: every seller but the teacher is an aspiration (a share of the margin between cost and list) as a function of
//! what it has seen; one rule turns an aspiration into an offer or an acceptance. Used as unseen and stronger opponents.
//! Faratin, Sierra and Jennings 1998, "Negotiation decision functions for autonomous agents", for the curves.

use super::action::Action;
use super::episode::Episode;
use super::money::Cents;
use super::protocol::Side;
use super::reply;
use super::talks;
use super::teacher_seller;
use crate::noise::Noise;
use serde::{Deserialize, Serialize};

/// A scripted seller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seller {
    /// The fair opponent the embedded seller is supervised from.
    Teacher,
    /// Concedes most at once (concave curve, exponent 1/2).
    Conceder,
    /// Concedes evenly.
    Linear,
    /// Holds nearly to the end (convex curve, exponent 4).
    Boulware,
    /// Gives what it is given: concedes the share of its margin by which the buyer raised.
    TitForTat,
    /// Speaks at random and breaks rules; the regulator holds it.
    Random,
    /// Pleads, asks high, and gives in at the end.
    Begging,
    /// Insults, concedes little, leaves when bids stay low.
    Insulting,
    /// Hardly moves and praises itself.
    Unyielding,
}

/// All scripted sellers, in the order of tables.
pub const SELLERS: [Seller; 9] = [
    Seller::Teacher,
    Seller::Conceder,
    Seller::Linear,
    Seller::Boulware,
    Seller::TitForTat,
    Seller::Random,
    Seller::Begging,
    Seller::Insulting,
    Seller::Unyielding,
];

/// Opening and last aspiration of the curves, as shares of the margin.
const OPEN: f64 = 1.0;
const LAST: f64 = 0.15;

impl Seller {
    /// The key in summaries: `teacher`, `tit_for_tat`, ...
    pub fn key(self) -> &'static str {
        match self {
            Seller::Teacher => "teacher",
            Seller::Conceder => "conceder",
            Seller::Linear => "linear",
            Seller::Boulware => "boulware",
            Seller::TitForTat => "tit_for_tat",
            Seller::Random => "random",
            Seller::Begging => "begging",
            Seller::Insulting => "insulting",
            Seller::Unyielding => "unyielding",
        }
    }

    /// The seller of a key.
    pub fn from_key(key: &str) -> Option<Seller> {
        SELLERS.into_iter().find(|s| s.key() == key)
    }

    /// This seller's reply in `episode`. `noise` is the episode's; the turn has its own stream below it.
    pub fn reply(self, episode: &Episode, noise: Noise) -> String {
        let turn_noise = noise.child(2 * u64::from(episode.turn()) + 1);
        match self {
            Seller::Teacher => teacher_seller::reply(episode, noise),
            Seller::Random => random(episode, turn_noise),
            Seller::TitForTat => bargain(episode, tit_for_tat(episode), self, turn_noise),
            Seller::Insulting if insulted(episode) => leave(episode),
            _ => bargain(episode, self.curve(elapsed(episode)), self, turn_noise),
        }
    }

    /// Aspiration at elapsed share `t` of the game.
    fn curve(self, t: f64) -> f64 {
        let (open, last, exponent) = match self {
            Seller::Conceder => (OPEN, LAST, 0.5),
            Seller::Boulware => (OPEN, LAST, 4.0),
            Seller::Begging => (OPEN, LAST, 2.0),
            Seller::Insulting => (OPEN, 0.35, 1.0),
            Seller::Unyielding => (OPEN, 0.6, 1.0),
            _ => (OPEN, LAST, 1.0),
        };
        open - (open - last) * t.powf(exponent)
    }

    fn talks(self) -> [&'static str; 3] {
        match self {
            Seller::Begging => talks::BEGGING,
            Seller::Insulting => talks::INSULTING,
            Seller::Unyielding => talks::UNYIELDING,
            _ => talks::PLAIN,
        }
    }
}

/// Share of the seller's turns behind it: 0 in the first, 1 in the last.
fn elapsed(episode: &Episode) -> f64 {
    f64::from(episode.turn() - 1) / f64::from(episode.rules().max_turns.max(2) - 1)
}

/// The price at a share of the margin, rounded up to the cent.
fn price_at(episode: &Episode, aspiration: f64) -> Cents {
    let product = episode.product();
    let margin = (product.list.0 - product.cost.0) as f64;
    Cents(product.cost.0 + (margin * aspiration.clamp(0.0, 1.0)).ceil() as i64)
}

/// Accepts a standing bid at or above the aspiration, else asks for it; never asks more than before.
fn bargain(episode: &Episode, aspiration: f64, seller: Seller, noise: Noise) -> String {
    let target = price_at(episode, aspiration).max(episode.product().cost);
    let ask = episode.standing(Side::Seller).map_or(target, |last| last.min(target));
    let talks = seller.talks();
    let talk = talks[noise.below(7, talks.len())];
    let percent = (aspiration * 10.0).round() as u32 * 10;
    match episode.standing(Side::Buyer).filter(|bid| *bid >= ask) {
        Some(bid) => reply::render(&format!("accept {percent}%"), talk, Action::Deal(bid), episode.code()),
        None => reply::render(&format!("ask {percent}%"), talk, Action::Sell(ask), episode.code()),
    }
}

/// One minus the share of the margin by which the buyer raised since its first bid; a still buyer gets nothing.
fn tit_for_tat(episode: &Episode) -> f64 {
    let product = episode.product();
    let mut bids = episode.offers(Side::Buyer);
    let first = bids.next().map_or(0, |b| b.0);
    let raised = (bids.next_back().map_or(first, |b| b.0) - first).max(0);
    // Twice the raise: the buyer's range is the narrower one, and an exact echo would rarely meet.
    (1.0 - 2.0 * raised as f64 / (product.list.0 - product.cost.0).max(1) as f64).clamp(0.05, 1.0)
}

/// Whether the last three bids all stood under cost.
fn insulted(episode: &Episode) -> bool {
    let low = episode.offers(Side::Buyer).rev().take_while(|b| *b < episode.product().cost).count();
    low >= 3
}

fn leave(episode: &Episode) -> String {
    reply::render("walk", "Get out of my shop.", Action::Quit, episode.code())
}

/// Anything: offers below cost and above list, acceptances, refusals, broken text. Only the regulator makes it playable.
fn random(episode: &Episode, noise: Noise) -> String {
    let list = episode.product().list.0;
    let price = Cents((list as f64 * (0.2 + noise.uniform_f64(1))) as i64).max(Cents(1));
    let action = match noise.below(0, 10) {
        0 => return "Thought: hm\nI sell it.".into(),
        1 => Action::Reject,
        2 | 3 => Action::Deal(episode.standing(Side::Buyer).unwrap_or(price)),
        4 => Action::Deal(price),
        _ => Action::Sell(price),
    };
    reply::render("chance", "Let us see.", action, episode.code())
}
