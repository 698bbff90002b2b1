//! The teacher seller: the fair opponent from whose play the embedded seller is supervised.
//!
//! The one idea: it decides from what a model in its place can see and compute (its own card, the note on the bid, the
//! reasons in the talk, its own mood spoken in its first thought) plus a coin, so its play can be imitated from the text.
//! It opens near list, concedes with time, with the buyer's concessions and with fresh reasons, holds out against low bids,
//! walks away from repeated far-too-low ones, and never goes under its mood's last ask.

use super::action::Action;
use super::card::{Level, Move};
use super::episode::Episode;
use super::money::Cents;
use super::prompts::Persona;
use super::protocol::Side;
use super::reasons::{self, Reason};
use super::reply;
use super::talks;
use crate::noise::Noise;

/// How hard a seller bargains; spoken in its first thought and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Concedes slowly, keeps more of its margin.
    Firm,
    /// In between.
    Fair,
    /// Concedes readily.
    Easy,
    /// Hardly moves; only the unyielding persona has it.
    Iron,
}

impl Mood {
    /// The word in the first thought.
    pub fn word(self) -> &'static str {
        match self {
            Mood::Firm => "firm",
            Mood::Fair => "fair",
            Mood::Easy => "easy",
            Mood::Iron => "iron",
        }
    }

    fn said_in(thought: &str) -> Option<Mood> {
        [Mood::Firm, Mood::Fair, Mood::Easy, Mood::Iron].into_iter().find(|m| thought.contains(m.word()))
    }

    fn habits(self) -> Habits {
        match self {
            Mood::Firm => Habits { open: [1.0, 0.7], time: 0.45, echo: 0.35, more: 0.2, last_ask: 30, patience: 10 },
            Mood::Fair => Habits { open: [0.6, 0.35], time: 0.7, echo: 0.55, more: 0.4, last_ask: 20, patience: 0 },
            Mood::Easy => Habits { open: [0.2, 0.1], time: 0.85, echo: 0.7, more: 0.6, last_ask: 10, patience: -10 },
            Mood::Iron => Habits { open: [1.0, 1.0], time: 0.2, echo: 0.15, more: 0.05, last_ask: 60, patience: 30 },
        }
    }
}

/// A mood's numbers.
struct Habits {
    /// Chances to open at 100 %: without and with a reason in the buyer's opening.
    open: [f32; 2],
    /// Chance of a step with time alone.
    time: f32,
    /// Chance of a step for a raised bid.
    echo: f32,
    /// Chance of a second step for a fresh reason.
    more: f32,
    /// Percent of margin under which it never asks.
    last_ask: i32,
    /// Added to the percent of margin at which a bid is accepted.
    patience: i32,
}

/// What the seller sees of the game at its turn.
struct Sight {
    turn: u32,
    last_turn: u32,
    ask: Option<i32>,
    bid: Option<(Level, Move, Cents)>,
    reason: Option<(Reason, bool)>,
    far_bids: u32,
    stalls: u32,
}

/// What it decided: the thought's tail, and the action as a percent to ask, an acceptance, or a walk.
enum Choice {
    Open(i32),
    Ask(i32),
    Hold(i32),
    Accept(i32, Cents),
    Walk,
}

const NEUTRAL: [&str; 3] = ["It is a good item.", "That is a fair price.", "It is worth the price."];
const LOWER: [&str; 3] = ["I can come down a little.", "I can do a bit better.", "I can meet you there."];
const STAY: [&str; 3] = ["That is too low.", "I can not go lower.", "You must offer more."];
const THANKS: [&str; 2] = ["We have a deal.", SOLD];
/// The sentence of [`THANKS`] that is a seller's alone.
const SOLD: &str = "Fine, it is yours.";
const LEAVE: [&str; 2] = ["This goes nowhere, goodbye.", "I will sell to others."];

/// What only it says: buyers too say that they have a deal.
pub(super) fn lines() -> impl Iterator<Item = &'static str> {
    [NEUTRAL, LOWER, STAY].into_iter().flatten().chain(LEAVE).chain([SOLD])
}

/// The teacher's reply as the seller of `episode`. `noise` is the episode's; the turn has its own stream below it.
pub fn reply(episode: &Episode, noise: Noise) -> String {
    let noise = noise.child(2 * u64::from(episode.turn()) + 1);
    let first = episode.turns_of(Side::Seller).next();
    let mood =
        first.and_then(|t| t.thought.as_deref()).and_then(Mood::said_in).unwrap_or(pick_mood(episode.persona(), noise));
    let sight = look(episode);
    let choice = decide(mood, &sight, noise);
    let opening = if first.is_none() { format!("{}, ", mood.word()) } else { String::new() };
    let heard = match sight.reason {
        Some((reason, true)) => format!("{}, ", reason.word()),
        Some((_, false)) => "again, ".into(),
        None => String::new(),
    };
    write(episode, &format!("{opening}{heard}"), choice, noise)
}

fn pick_mood(persona: Persona, noise: Noise) -> Mood {
    match (persona, noise.uniform(0)) {
        (Persona::Unyielding, _) => Mood::Iron,
        (Persona::Insulting, _) => Mood::Firm,
        (_, u) if u < 0.25 => Mood::Firm,
        (_, u) if u < 0.75 => Mood::Fair,
        _ => Mood::Easy,
    }
}

/// What a persona says, whatever it does.
fn persona_talk(persona: Persona) -> Option<[&'static str; 3]> {
    match persona {
        Persona::Neutral => None,
        Persona::Begging => Some(talks::BEGGING),
        Persona::Insulting => Some(talks::INSULTING),
        Persona::Unyielding => Some(talks::UNYIELDING),
    }
}

fn look(episode: &Episode) -> Sight {
    let product = episode.product();
    let bids: Vec<Cents> = episode.offers(Side::Buyer).collect();
    let last = episode.turns_of(Side::Buyer).next_back();
    let bid = last.and_then(|t| t.action).and_then(|action| match action {
        Action::Buy(price) => {
            let before = bids.len().checked_sub(2).map(|i| bids[i]);
            Some((Level::of(product, Side::Seller, price), Move::of(before, price), price))
        }
        _ => None,
    });
    let earlier = episode.turns_of(Side::Buyer).count().saturating_sub(1);
    let given: Vec<Option<Reason>> = episode.turns_of(Side::Buyer).map(|t| reasons::reason_in(&t.talk)).collect();
    let reason = given.last().copied().flatten().map(|r| (r, !given[..earlier].contains(&Some(r))));
    let card = episode.card(Side::Seller);
    let levels = bids.iter().map(|b| Level::of(product, Side::Seller, *b));
    Sight {
        turn: episode.turn(),
        last_turn: episode.rules().max_turns,
        ask: episode.standing(Side::Seller).and_then(|p| card.percent(p)).map(|p| p as i32),
        bid,
        reason,
        far_bids: levels.filter(|l| *l == Level::FarBelow).count() as u32,
        stalls: bids.windows(2).rev().take_while(|w| w[1] <= w[0]).count() as u32,
    }
}

fn decide(mood: Mood, sight: &Sight, noise: Noise) -> Choice {
    let habits = mood.habits();
    let worth = match sight.bid {
        Some((Level::Percent(percent), _, price)) => Some((percent as i32, price)),
        _ => None,
    };
    if let Some((percent, price)) = worth.filter(|w| w.0 >= accept_from(&habits, sight, noise)) {
        return Choice::Accept(percent, price);
    }
    let Some(ask) = sight.ask else {
        let reasoned = usize::from(sight.reason.is_some());
        return Choice::Open(if noise.uniform(1) < habits.open[reasoned] { 100 } else { 90 });
    };
    if noise.uniform(2) < walk_chance(sight) {
        return Choice::Walk;
    }
    let next = (ask - 10 * steps(&habits, sight, noise)).max(habits.last_ask).min(ask);
    match worth {
        Some((percent, price)) if percent >= next => Choice::Accept(percent, price),
        _ if next < ask => Choice::Ask(next),
        _ => Choice::Hold(ask),
    }
}

/// Percent of margin from which a bid is good enough now: falls with the turns, one notch lower one time in four.
fn accept_from(habits: &Habits, sight: &Sight, noise: Noise) -> i32 {
    let left = sight.last_turn.saturating_sub(sight.turn) as i32;
    let yielding = if noise.uniform(3) < 0.25 { 10 } else { 0 };
    (20 + 10 * left.min(6) + habits.patience + if left > 3 { 10 } else { 0 } - yielding).max(10)
}

/// Far-too-low bids and stalling wear patience out.
fn walk_chance(sight: &Sight) -> f32 {
    let far = match sight.far_bids {
        0 | 1 => 0.0,
        2 => 0.1,
        3 => 0.3,
        _ => 0.5,
    };
    let stalled = if sight.stalls >= 2 { 0.15 * (sight.stalls - 1) as f32 } else { 0.0 };
    match sight.bid {
        Some((Level::FarBelow, Move::Up, _)) => far * 0.5,
        Some((Level::FarBelow, _, _)) => f32::max(far, stalled),
        _ => stalled * 0.5,
    }
}

/// Ten-point steps down from the last ask.
fn steps(habits: &Habits, sight: &Sight, noise: Noise) -> i32 {
    let Some((level, moved, _)) = sight.bid else { return i32::from(noise.uniform(4) < habits.time * 0.5) };
    if level == Level::FarBelow {
        return 0;
    }
    let stalled = if moved == Move::Up || moved == Move::First { 1.0 } else { 0.35 };
    let low = if level == Level::Below { 0.8 } else { 1.0 };
    let time = i32::from(noise.uniform(4) < habits.time * stalled * low);
    let echo = i32::from(moved == Move::Up && noise.uniform(5) < habits.echo);
    let reason = match sight.reason {
        Some((_, true)) => 1 + i32::from(noise.uniform(6) < habits.more),
        Some((_, false)) => i32::from(noise.uniform(6) < 0.1),
        None => 0,
    };
    time + echo + reason
}

fn write(episode: &Episode, lead: &str, choice: Choice, noise: Noise) -> String {
    let card = episode.card(Side::Seller);
    let at = |percent: i32| Action::Sell(card.price_at_most(percent as u32));
    let priced =
        |verb: &str, percent: i32| format!("{lead}{verb} {percent}% {}", card.price_at_most(percent as u32).compact());
    let (thought, talks, action): (String, &[&str], Action) = match choice {
        Choice::Open(p) => (priced("ask", p), &NEUTRAL, at(p)),
        Choice::Ask(p) => (priced("ask", p), &LOWER, at(p)),
        Choice::Hold(p) => (priced("hold", p), &STAY, at(p)),
        Choice::Accept(p, price) => (format!("{lead}accept {p}% {}", price.compact()), &THANKS, Action::Deal(price)),
        Choice::Walk => (format!("{lead}walk"), &LEAVE, Action::Quit),
    };
    let manner = persona_talk(episode.persona());
    let talks = manner.as_ref().map_or(talks, |m| &m[..]);
    reply::render(&thought, talks[noise.below(7, talks.len())], action, episode.code())
}
