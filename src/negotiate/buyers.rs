//! Scripted buyers: OG-Narrator's schedule, fixed concession, the naive teacher, the explorer, and the patient bargainer.
//!
//! The one idea: a buyer is a value, its reply a function of the episode and the noise. Prices come from its card or are
//! copied from the standing ask, and none goes over budget.

use super::action::Action;
use super::card::Level;
use super::episode::Episode;
use super::money::Cents;
use super::protocol::Side;
use super::reasons::{self, REASONS, Reason};
use super::reply;
use crate::noise::Noise;
use serde::{Deserialize, Serialize};

/// A scripted buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Buyer {
    /// OG-Narrator (Xia et al. 2024, arXiv:2402.15813): 0.5 B to B, linear over the turns; accepts the standing ask when it is
    /// within budget and no dearer than the next planned bid; in the last turn takes any ask within budget, else quits.
    OgNarrator,
    /// Opens at 60 % of budget and adds 5 points a turn; accepts an ask no dearer than its next bid, at the end any within budget.
    FixedConcession,
    /// The teacher whose buyer role the embedded model starts from: opens near its budget, concedes readily.
    Naive,
    /// Lowballs, jumps, insults, gives many reasons: shown to the seller in its supervision, never imitated.
    Explorer,
    /// Opens low, gives a fresh reason each turn, concedes slowly: shows what can be had.
    Patient,
    /// Bids a fifth of its budget for ever.
    Lowballer,
}

/// All scripted buyers, in the order of tables.
pub const BUYERS: [Buyer; 6] =
    [Buyer::OgNarrator, Buyer::FixedConcession, Buyer::Naive, Buyer::Explorer, Buyer::Patient, Buyer::Lowballer];

impl Buyer {
    /// The key in summaries: `og_narrator`, `fixed_concession`, ...
    pub fn key(self) -> &'static str {
        match self {
            Buyer::OgNarrator => "og_narrator",
            Buyer::FixedConcession => "fixed_concession",
            Buyer::Naive => "naive",
            Buyer::Explorer => "explorer",
            Buyer::Patient => "patient",
            Buyer::Lowballer => "lowballer",
        }
    }

    /// The buyer of a key.
    pub fn from_key(key: &str) -> Option<Buyer> {
        BUYERS.into_iter().find(|b| b.key() == key)
    }

    /// The buyers that a key of `eval.buyer` names: one, or all.
    pub fn named(key: &str) -> Vec<Buyer> {
        BUYERS.into_iter().filter(|buyer| key == "all" || buyer.key() == key).collect()
    }

    /// This buyer's reply in `episode`. `noise` is the episode's; the turn has its own stream below it.
    pub fn reply(self, episode: &Episode, noise: Noise) -> String {
        let sight = Sight::of(episode, noise);
        let play = match self {
            Buyer::OgNarrator => og_narrator(&sight),
            Buyer::FixedConcession => fixed_concession(&sight),
            Buyer::Naive => naive(&sight),
            Buyer::Explorer => explorer(&sight),
            Buyer::Patient => patient(&sight),
            Buyer::Lowballer => sight.bid(20),
        };
        reply::render(&play.thought, play.talk, play.action, episode.code())
    }
}

/// A reply before it is written down.
struct Play {
    thought: String,
    talk: &'static str,
    action: Action,
}

/// What a buyer sees of the game at its turn, and the turn's noise.
struct Sight<'a> {
    episode: &'a Episode,
    noise: Noise,
    /// The episode's noise, for what is drawn once an episode.
    whole: Noise,
    turn: u32,
    last_turn: bool,
    ask: Option<(Cents, Level)>,
    last_bid: Option<u32>,
}

const OPENING: [&str; 4] = ["I like this one.", "I want to buy this.", "Is this still there?", "Here is my offer."];
const RAISE: [&str; 4] =
    ["I can pay a bit more.", "How about this price?", "Let us meet here.", "This is my next offer."];
const AGREE: [&str; 3] = ["That works for me.", "Good, I take it.", "We have a deal."];
const NO: [&str; 3] = ["That is over my budget.", "I can not pay that.", "That is too much."];
const BYE: [&str; 2] = ["I have to pass, thanks.", "Then I will look around."];
const RUDE: [&str; 3] = ["Your price is a joke.", "Only a fool pays that.", "You are wasting my time."];

impl<'a> Sight<'a> {
    fn of(episode: &'a Episode, noise: Noise) -> Sight<'a> {
        let ask = episode.standing(Side::Seller).map(|p| (p, Level::of(episode.product(), Side::Buyer, p)));
        let card = episode.card(Side::Buyer);
        Sight {
            episode,
            noise: noise.child(2 * u64::from(episode.turn())),
            whole: noise,
            turn: episode.turn(),
            last_turn: episode.turn() >= episode.rules().max_turns,
            ask,
            last_bid: episode.standing(Side::Buyer).and_then(|p| card.percent(p)),
        }
    }

    /// A bid at a card percentage.
    fn bid(&self, percent: u32) -> Play {
        let card = self.episode.card(Side::Buyer);
        let percent = card.rows.iter().rev().find(|row| row.0 <= percent).unwrap_or(&card.rows[0]).0;
        let talks = if self.turn == 1 { &OPENING } else { &RAISE };
        let price = card.price_at_most(percent);
        let action = Action::Buy(price);
        Play {
            thought: format!("bid {percent}% {}", price.compact()),
            talk: talks[self.noise.below(90, talks.len())],
            action,
        }
    }

    /// Accepts the standing ask.
    fn accept(&self, ask: Cents, level: Level) -> Play {
        let talk = AGREE[self.noise.below(91, AGREE.len())];
        Play { thought: format!("accept {} {}", level.words(), ask.compact()), talk, action: Action::Deal(ask) }
    }

    fn quit(&self) -> Play {
        Play { thought: "over, quit".into(), talk: BYE[self.noise.below(92, BYE.len())], action: Action::Quit }
    }

    fn reject(&self) -> Play {
        Play { thought: "over, reject".into(), talk: NO[self.noise.below(93, NO.len())], action: Action::Reject }
    }

    /// The standing ask when it is within budget.
    fn affordable(&self) -> Option<(Cents, Level)> {
        self.ask.filter(|a| a.1 != Level::Over)
    }

    /// The reasons given so far.
    fn given(&self) -> Vec<Reason> {
        self.episode.turns_of(Side::Buyer).filter_map(|t| reasons::reason_in(&t.talk)).collect()
    }

    /// A sentence for a reason not given yet.
    fn fresh_reason(&self) -> Option<&'static str> {
        let given = self.given();
        let left: Vec<Reason> = REASONS.into_iter().filter(|r| !given.contains(r)).collect();
        let reason = left.get(self.noise.below(94, left.len().max(1)))?;
        Some(reason.sentences()[self.noise.below(95, 3)])
    }
}

/// Share of budget planned for turn `t` of `turns` (Xia et al. 2024): 0.5 B to B, linear.
fn og_share(t: u32, turns: u32) -> f64 {
    0.5 + 0.5 * f64::from(t.min(turns).saturating_sub(1)) / f64::from(turns.max(2) - 1)
}

fn og_narrator(sight: &Sight<'_>) -> Play {
    let turns = sight.episode.rules().max_turns;
    let share = og_share(sight.turn, turns);
    let product = sight.episode.product();
    let planned = Cents((product.budget.0 as f64 * share).floor() as i64).max(Cents(1));
    if let Some((ask, level)) = sight.affordable().filter(|a| a.0 <= planned || sight.last_turn) {
        return sight.accept(ask, level);
    }
    if sight.last_turn {
        return sight.quit();
    }
    let talk = if sight.turn == 1 { OPENING } else { RAISE };
    let talk = talk[sight.noise.below(90, talk.len())];
    Play { thought: "next on the schedule".into(), talk, action: Action::Buy(planned) }
}

fn fixed_concession(sight: &Sight<'_>) -> Play {
    let percent = 55 + 5 * sight.turn;
    let planned = sight.episode.card(Side::Buyer).price_at_most(percent);
    match sight.affordable() {
        Some((ask, level)) if ask <= planned || sight.last_turn => sight.accept(ask, level),
        _ => sight.bid(percent),
    }
}

fn naive(sight: &Sight<'_>) -> Play {
    let noise = sight.noise;
    let mut play = naive_move(sight);
    let offers = matches!(play.action, Action::Buy(_));
    if offers && noise.uniform(1) < 0.25 {
        play.talk = REASONS[noise.below(2, REASONS.len())].sentences()[noise.below(3, 3)];
    } else if offers && sight.ask.is_some_and(|a| a.1 == Level::Over) && noise.uniform(4) < 0.4 {
        play.talk = NO[noise.below(5, NO.len())];
    }
    if offers && sight.ask.is_some_and(|a| a.1 == Level::Over) {
        play.thought = format!("over, {}", play.thought);
    }
    play
}

fn naive_move(sight: &Sight<'_>) -> Play {
    let noise = sight.noise;
    if let Some((ask, level)) = sight.affordable() {
        if sight.last_turn || noise.uniform(6) < 0.85 {
            return sight.accept(ask, level);
        }
    } else if sight.ask.is_some() {
        let leaves = match (sight.last_turn, sight.last_bid) {
            (true, _) => [0.45, 0.25],
            (false, Some(100)) => [0.04, 0.12],
            _ => [0.0, 0.03],
        };
        match noise.uniform(7) {
            u if u < leaves[0] => return sight.quit(),
            u if u < leaves[0] + leaves[1] => return sight.reject(),
            _ => {}
        }
    }
    let Some(last) = sight.last_bid else { return sight.bid(naive_opening(noise)) };
    let raise = if noise.uniform(8) < 0.7 { 5 } else { 10 };
    sight.bid((last + raise).min(100))
}

/// Mostly 80 to 100 % of budget, a thin tail down to 40 %.
fn naive_opening(noise: Noise) -> u32 {
    let at = |counter, choices: &[u32]| choices[noise.below(counter, choices.len())];
    if noise.uniform(9) < 0.82 {
        at(10, &[80, 80, 85, 85, 90, 95, 100])
    } else {
        at(11, &[40, 45, 50, 55, 60, 65, 70, 75, 75])
    }
}

fn patient(sight: &Sight<'_>) -> Play {
    let percent = 50 + 5 * sight.turn;
    let planned = sight.episode.card(Side::Buyer).price_at_most(percent);
    if let Some((ask, level)) = sight.affordable().filter(|a| a.0 <= planned || sight.last_turn) {
        return sight.accept(ask, level);
    }
    let mut play = sight.bid(if sight.last_turn { 100 } else { percent });
    play.talk = sight.fresh_reason().unwrap_or(play.talk);
    play
}

/// Each episode draws its own opening, pace, temper and love of reasons.
fn explorer(sight: &Sight<'_>) -> Play {
    let (whole, noise) = (sight.whole.child(1_000), sight.noise);
    let open = [20, 20, 30, 40, 45, 50, 55, 60, 70, 80][whole.below(0, 10)];
    let pace = [0, 5, 5, 10, 10, 20][whole.below(1, 6)];
    let walks = whole.uniform(4) < 0.3;
    if let Some((ask, level)) = sight.affordable() {
        let cheap = matches!(level, Level::Percent(p) if p <= 50 + 10 * whole.below(2, 6) as u32);
        if cheap || (sight.last_turn && !walks) {
            return sight.accept(ask, level);
        }
    }
    if sight.last_turn && walks && sight.ask.is_some() {
        return if noise.uniform(0) < 0.5 { sight.quit() } else { sight.reject() };
    }
    if noise.uniform(1) < 0.04 {
        return sight.reject();
    }
    let jitter = if noise.uniform(2) < 0.2 { [0, 5, 10, 20][noise.below(3, 4)] } else { pace };
    let mut play = sight.bid(sight.last_bid.map_or(open, |last| (last + jitter).min(100)));
    let (reasons, rude) = ([0.1, 0.5, 0.9][whole.below(5, 3)], whole.uniform(6) < 0.15);
    if noise.uniform(4) < reasons {
        let repeat = REASONS[whole.below(7, 4)].sentences()[noise.below(5, 3)];
        play.talk = if noise.uniform(6) < 0.75 { sight.fresh_reason().unwrap_or(repeat) } else { repeat };
    } else if rude && sight.turn > 1 {
        play.talk = RUDE[noise.below(8, RUDE.len())];
    }
    play
}
