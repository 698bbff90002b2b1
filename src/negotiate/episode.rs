//! One negotiation as a state machine: who is next, what it is shown, what its reply does.
//!
//! The one idea: an episode is its list of turns. Standing offers, views and outcome follow from the turns' effective
//! actions, so an episode can be rebuilt from its transcript alone. No device, no model, no clock, no randomness.

use super::action::Action;
use super::card::{Card, Move};
use super::money::Cents;
use super::product::Product;
use super::prompts::{self, Heard, Persona};
use super::protocol::{self, Rules, Side, Violation};
use super::regulator::{self, Intervention};
use super::reply::{self, Reply};
use super::seller::Seller;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// Sold at `price`; `by` accepted.
    Deal {
        /// The price in cents.
        price: Cents,
        /// Who said `[DEAL]`.
        by: Side,
    },
    /// `by` left.
    Quit {
        /// Who left.
        by: Side,
    },
    /// The turn limit passed without a deal.
    Deadlock,
    /// The buyer offered or accepted a price above its budget.
    Overshoot {
        /// The price in cents.
        price: Cents,
    },
    /// The buyer broke format or protocol.
    Violation {
        /// The rule.
        why: Violation,
    },
}

impl Outcome {
    /// The word for logs: `deal`, `quit`, `deadlock`, `overshoot`, `violation`.
    pub fn key(self) -> &'static str {
        match self {
            Outcome::Deal { .. } => "deal",
            Outcome::Quit { .. } => "quit",
            Outcome::Deadlock => "deadlock",
            Outcome::Overshoot { .. } => "overshoot",
            Outcome::Violation { .. } => "violation",
        }
    }
}

/// One side's reply and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who spoke.
    pub side: Side,
    /// Its turn number, from 1.
    pub turn: u32,
    /// The message the side was shown before it spoke.
    pub incoming: String,
    /// The reply as sampled or typed.
    pub raw: String,
    /// The private thought, when the reply could be parsed.
    pub thought: Option<String>,
    /// What the other side hears.
    pub talk: String,
    /// The action that counts; `None` for a buyer's reply that ended the episode unparsed.
    pub action: Option<Action>,
    /// The rule the reply broke, if it broke one.
    pub violation: Option<Violation>,
    /// Why the regulator replaced it (seller only).
    pub intervention: Option<Intervention>,
    /// How often the side's private number was struck from its talk.
    pub redactions: u32,
}

/// One negotiation over one product.
#[derive(Debug, Clone)]
pub struct Episode {
    product: Arc<Product>,
    rules: Rules,
    persona: Persona,
    script: Option<Seller>,
    turns: Vec<Turn>,
    outcome: Option<Outcome>,
    void: Option<String>,
}

impl Episode {
    /// A new episode; the buyer opens.
    pub fn new(product: Arc<Product>, rules: Rules, persona: Persona) -> Episode {
        Episode { product, rules, persona, script: None, turns: Vec::new(), outcome: None, void: None }
    }

    /// The same with a script as its seller, whoever else plays one.
    pub fn against(self, script: Seller) -> Episode {
        Episode { script: Some(script), ..self }
    }

    /// The script that plays its seller, where one does.
    pub fn script(&self) -> Option<Seller> {
        self.script
    }

    /// The product negotiated over.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// The rules it is played by.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The seller's persona.
    pub fn persona(&self) -> Persona {
        self.persona
    }

    /// All turns so far, in order of play.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The turns of one side.
    pub fn turns_of(&self, side: Side) -> impl DoubleEndedIterator<Item = &Turn> {
        self.turns.iter().filter(move |t| t.side == side)
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Ends the episode without an outcome, for a reason that lies outside of it: a side's reply is lost. Nothing is won or
    /// lost by it, so it belongs in no mean. One that has ended stays as it ended.
    pub fn abandon(&mut self, why: &str) {
        if self.outcome.is_none() {
            self.void = Some(why.into());
        }
    }

    /// Why it was abandoned, where it was.
    pub fn void(&self) -> Option<&str> {
        self.void.as_deref()
    }

    /// The item code actions must name.
    pub fn code(&self) -> &str {
        prompts::code(&self.product, self.rules.style)
    }

    /// The price card of a side.
    pub fn card(&self, side: Side) -> Card {
        Card::new(&self.product, side)
    }

    /// Who replies next; `None` after the end.
    pub fn next_side(&self) -> Option<Side> {
        if self.outcome.is_some() || self.void.is_some() {
            return None;
        }
        Some(self.turns.last().map_or(Side::Buyer, |t| t.side.other()))
    }

    /// The number of the turn being played, from 1.
    pub fn turn(&self) -> u32 {
        self.turns.len() as u32 / 2 + 1
    }

    /// Every formal price offer of a side, in order. A buyer's offer that ended the episode is not among them.
    pub fn offers(&self, side: Side) -> impl DoubleEndedIterator<Item = Cents> + '_ {
        self.turns_of(side).filter(|t| t.violation.is_none() || t.intervention.is_some()).filter_map(|t| {
            match t.action {
                Some(Action::Buy(price) | Action::Sell(price)) => Some(price),
                _ => None,
            }
        })
    }

    /// A side's standing offer: its last one. A later `[REJECT]` does not withdraw it.
    pub fn standing(&self, side: Side) -> Option<Cents> {
        self.offers(side).next_back()
    }

    /// The system prompt of a side.
    pub fn system_prompt(&self, side: Side) -> String {
        prompts::system(&self.product, side, self.rules, self.persona)
    }

    /// The incoming message for `side`'s next turn. Holds nothing private of the other side (checked in debug builds).
    pub fn view(&self, side: Side) -> String {
        let code = self.code();
        let said = self.turns.last().filter(|t| t.side != side);
        let action = said.and_then(|t| t.action).map(|a| a.render(code)).unwrap_or_default();
        let own = self.turns_of(side).next_back().filter(|t| t.intervention.is_some()).and_then(|t| t.action);
        let replaced = own.map(|a| a.render(code));
        let mut offers = self.offers(side.other()).rev();
        let offer = offers.next().map(|now| (now, self.standing_move(side.other(), offers.next(), now)));
        let heard = Heard {
            turn: self.turn(),
            said: said.map(|t| (t.talk.as_str(), action.as_str())),
            offer,
            replaced: replaced.as_deref(),
        };
        let text = prompts::incoming(&self.product, side, self.rules, heard);
        let public: Vec<Cents> = self.offers(Side::Buyer).chain(self.offers(Side::Seller)).collect();
        debug_assert_eq!(
            prompts::leak(&self.product, side, &text, &public),
            None,
            "leak to the {}: {text}",
            side.name()
        );
        text
    }

    /// The move of the standing offer: a turn without a new offer left it the same.
    fn standing_move(&self, side: Side, before: Option<Cents>, now: Cents) -> Move {
        let renewed =
            self.turns_of(side).next_back().is_some_and(|t| matches!(t.action, Some(Action::Buy(_) | Action::Sell(_))));
        if renewed { Move::of(before, now) } else { Move::Same }
    }

    /// Plays `side`'s reply: parses it, checks legality, regulates a seller, ends the episode where the rules say so.
    /// Any text is a valid input. Fails only when it is not `side`'s turn.
    pub fn submit(&mut self, side: Side, raw: &str) -> Result<&Turn> {
        let parsed = reply::parse(raw, self.code());
        self.submit_parsed(side, raw, parsed)
    }

    /// Plays a reply that was cut off at its token limit: malformed, whatever it says.
    pub fn submit_cut(&mut self, side: Side, raw: &str) -> Result<&Turn> {
        self.submit_parsed(side, raw, Err(reply::Malformed::TooLong))
    }

    fn submit_parsed(
        &mut self,
        side: Side,
        raw: &str,
        parsed: std::result::Result<Reply, reply::Malformed>,
    ) -> Result<&Turn> {
        if self.next_side() != Some(side) {
            let state = if self.next_side().is_none() { "the episode is over" } else { "it is the other side's turn" };
            return Err(Error::Turn { side: side.name(), state });
        }
        let mut turn = Turn {
            side,
            turn: self.turn(),
            incoming: self.view(side),
            raw: raw.into(),
            thought: None,
            talk: String::new(),
            action: None,
            violation: None,
            intervention: None,
            redactions: 0,
        };
        turn.thought = parsed.as_ref().ok().map(|r| r.thought.clone());
        match side {
            Side::Buyer => self.play_buyer(&mut turn, parsed),
            Side::Seller => self.play_seller(&mut turn, parsed),
        }
        self.strike_private(&mut turn);
        self.turns.push(turn);
        Ok(&self.turns[self.turns.len() - 1])
    }

    fn play_buyer(&mut self, turn: &mut Turn, parsed: std::result::Result<Reply, reply::Malformed>) {
        let checked = parsed.map_err(Violation::Format).and_then(|r| {
            let first = self.turns.is_empty();
            let legal = protocol::check(Side::Buyer, r.action, first, self.standing(Side::Seller));
            turn.talk = r.talk;
            turn.action = Some(r.action);
            legal.map(|()| r.action).map_err(Violation::Protocol)
        });
        // A price above budget is an overshoot whatever else is wrong with the action.
        let price = turn.action.and_then(Action::price).filter(|p| *p > self.product.budget);
        self.outcome = match (price, checked) {
            (Some(price), _) => Some(Outcome::Overshoot { price }),
            (None, Err(why)) => {
                turn.violation = Some(why);
                Some(Outcome::Violation { why })
            }
            (None, Ok(action)) => Episode::ended_by(Side::Buyer, action),
        };
    }

    fn play_seller(&mut self, turn: &mut Turn, parsed: std::result::Result<Reply, reply::Malformed>) {
        let ruling = regulator::rule(&self.product, &parsed, self.standing(Side::Seller), self.standing(Side::Buyer));
        turn.talk = ruling.talk;
        turn.action = Some(ruling.action);
        turn.violation = ruling.violation;
        turn.intervention = ruling.intervention;
        self.outcome = Episode::ended_by(Side::Seller, ruling.action);
        if self.outcome.is_none() && turn.turn >= self.rules.max_turns {
            self.outcome = Some(Outcome::Deadlock);
        }
    }

    fn ended_by(side: Side, action: Action) -> Option<Outcome> {
        match action {
            Action::Deal(price) => Some(Outcome::Deal { price, by: side }),
            Action::Quit => Some(Outcome::Quit { by: side }),
            _ => None,
        }
    }

    fn strike_private(&self, turn: &mut Turn) {
        let said = turn.action.and_then(Action::price);
        let offers: Vec<Cents> = self.offers(Side::Buyer).chain(self.offers(Side::Seller)).chain(said).collect();
        (turn.talk, turn.redactions) = prompts::redact(&self.product, turn.side, &turn.talk, &offers);
    }

    /// One side's dialogue as `(incoming message, own reply)` pairs: what a chat model of that side saw and wrote.
    pub fn dialogue(&self, side: Side) -> Vec<(&str, &str)> {
        self.turns_of(side).map(|t| (t.incoming.as_str(), t.raw.as_str())).collect()
    }
}
