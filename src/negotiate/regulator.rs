//! The regulator: a frozen seller model can never sell below its cost, and never stalls the game with a broken reply.
//!
//! The one idea: it never concedes. Whatever it replaces becomes the seller's standing ask again (the list price when there
//! is none), so a seller gains nothing by breaking rules and a buyer gains nothing by making it break them.
//! The floor is the cost in the seller's own prompt: the same number, read from the same product.

use super::action::Action;
use super::money::Cents;
use super::product::Product;
use super::protocol::{self, Side, Violation};
use super::reply::{Malformed, Reply};
use serde::{Deserialize, Serialize};

/// Why the regulator replaced a seller's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intervention {
    /// An offer below cost was lifted.
    OfferLifted,
    /// An acceptance below cost was voided.
    AcceptanceVoided,
    /// A reply that could not be parsed was replaced.
    Malformed,
    /// An action that is not allowed now was replaced.
    Illegal,
}

/// All kinds, in the order of reports.
pub const INTERVENTIONS: [Intervention; 4] =
    [Intervention::OfferLifted, Intervention::AcceptanceVoided, Intervention::Malformed, Intervention::Illegal];

impl Intervention {
    /// The key in reports: `offer_lifted`, `acceptance_voided`, `malformed`, `illegal`.
    pub fn key(self) -> &'static str {
        match self {
            Intervention::OfferLifted => "offer_lifted",
            Intervention::AcceptanceVoided => "acceptance_voided",
            Intervention::Malformed => "malformed",
            Intervention::Illegal => "illegal",
        }
    }
}

/// A seller's reply after regulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// What the buyer hears.
    pub talk: String,
    /// What counts.
    pub action: Action,
    /// Why it was replaced, when it was.
    pub intervention: Option<Intervention>,
    /// The rule that was broken, for the two kinds that break one.
    pub violation: Option<Violation>,
}

/// Talk of a replaced reply.
pub const COUNTER_TALK: &str = "That is my price.";

/// Rules on a seller's parsed reply: `standing_ask` is its own last effective offer, `standing_bid` the buyer's.
pub fn rule(
    product: &Product,
    parsed: &Result<Reply, Malformed>,
    standing_ask: Option<Cents>,
    standing_bid: Option<Cents>,
) -> Ruling {
    let counter = Action::Sell(standing_ask.unwrap_or(product.list));
    let replaced = |intervention, violation| Ruling {
        talk: COUNTER_TALK.into(),
        action: counter,
        intervention: Some(intervention),
        violation,
    };
    let reply = match parsed {
        Ok(reply) => reply,
        Err(fault) => return replaced(Intervention::Malformed, Some(Violation::Format(*fault))),
    };
    if let Err(fault) = protocol::check(Side::Seller, reply.action, standing_ask.is_none(), standing_bid) {
        return replaced(Intervention::Illegal, Some(Violation::Protocol(fault)));
    }
    match reply.action {
        Action::Sell(price) if price < product.cost => replaced(Intervention::OfferLifted, None),
        Action::Deal(price) if price < product.cost => replaced(Intervention::AcceptanceVoided, None),
        action => Ruling { talk: reply.talk.clone(), action, intervention: None, violation: None },
    }
}
