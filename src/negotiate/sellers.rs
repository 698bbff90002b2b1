//! Scripted sellers: time-dependent curves, tit-for-tat, regulated chance, three personas, four strangers, and the teacher.
//!
//! The one idea: every seller but the teacher is an aspiration (a share of the margin between cost and list) as a function of
//! what it has seen; one rule turns an aspiration into an offer or an acceptance. Used as unseen and stronger opponents.
//! Faratin, Sierra and Jennings 1998, "Negotiation decision functions for autonomous agents", for the curves.

use super::action::Action;
use super::episode::Episode;
use super::money::Cents;
use super::protocol::Side;
use super::reply;
use super::seller::Seller;
use super::strangers;
use super::talks;
use super::teacher_seller;
use crate::noise::Noise;

/// Opening and last aspiration of the curves, as shares of the margin.
const OPEN: f64 = 1.0;
const LAST: f64 = 0.15;

impl Seller {
    /// This seller's reply in `episode`. `noise` is the episode's; the turn has its own stream below it.
    pub fn reply(self, episode: &Episode, noise: Noise) -> String {
        let turn_noise = noise.child(2 * u64::from(episode.turn()) + 1);
        match self {
            Seller::Teacher => teacher_seller::reply(episode, noise),
            Seller::Random => random(episode, turn_noise),
            Seller::TitForTat => bargain(episode, tit_for_tat(episode), &self.talk(episode, turn_noise)),
            Seller::Insulting if insulted(episode) => leave(episode),
            Seller::Rejector => strangers::rejector(episode, turn_noise),
            Seller::Person => strangers::person(episode, turn_noise),
            Seller::Conceder
            | Seller::Linear
            | Seller::Boulware
            | Seller::Begging
            | Seller::Insulting
            | Seller::Unyielding
            | Seller::Chatterer
            | Seller::Injector => bargain(episode, self.curve(elapsed(episode)), &self.talk(episode, turn_noise)),
        }
    }

    /// Aspiration at elapsed share `t` of the game.
    fn curve(self, t: f64) -> f64 {
        let (open, last, exponent) = match self {
            Seller::Conceder => (OPEN, LAST, 0.5),
            Seller::Boulware | Seller::Injector => (OPEN, LAST, 4.0),
            Seller::Begging => (OPEN, LAST, 2.0),
            Seller::Insulting => (OPEN, 0.35, 1.0),
            Seller::Unyielding | Seller::Chatterer => (OPEN, 0.6, 1.0),
            _ => (OPEN, LAST, 1.0),
        };
        open - (open - last) * t.powf(exponent)
    }

    /// What it says beside an ask or an acceptance.
    fn talk(self, episode: &Episode, noise: Noise) -> String {
        let lines = match self {
            Seller::Chatterer => return strangers::chatter(noise),
            Seller::Injector => return strangers::orders(episode, noise),
            Seller::Begging => talks::BEGGING,
            Seller::Insulting => talks::INSULTING,
            Seller::Unyielding => talks::UNYIELDING,
            _ => talks::PLAIN,
        };
        lines[noise.below(7, lines.len())].into()
    }
}

/// What only sellers say: the lines of the scripts and of the teacher.
pub(super) fn lines() -> impl Iterator<Item = &'static str> {
    let own = [talks::BEGGING, talks::INSULTING, talks::UNYIELDING, talks::PLAIN];
    own.into_iter().flatten().chain(teacher_seller::lines())
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
fn bargain(episode: &Episode, aspiration: f64, talk: &str) -> String {
    let target = price_at(episode, aspiration).max(episode.product().cost);
    let ask = episode.standing(Side::Seller).map_or(target, |last| last.min(target));
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
