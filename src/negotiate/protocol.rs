//! The protocol's vocabulary and legality: sides, styles, rules, what counts as a violation.
//!
//! The one idea: legality is one pure function of (side, action, standing offers); episodes and tests share it.

use super::action::Action;
use super::money::Cents;
use super::reply::Malformed;
use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Opens every episode; holds the budget.
    Buyer,
    /// Answers; holds the cost.
    Seller,
}

impl Side {
    /// The other side.
    pub fn other(self) -> Side {
        match self {
            Side::Buyer => Side::Seller,
            Side::Seller => Side::Buyer,
        }
    }

    /// `buyer` or `seller`.
    pub fn name(self) -> &'static str {
        match self {
            Side::Buyer => "buyer",
            Side::Seller => "seller",
        }
    }
}

/// How prompts and messages are worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// A few words, a price card, notes in percent: for the tiny model.
    Compact,
    /// Full instructions, full title and description: for pretrained chat models.
    Paper,
}

/// The rules of an episode that a config may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Turns a side; the episode deadlocks after the seller's last one.
    pub max_turns: u32,
    /// Wording of prompts and messages.
    pub style: Style,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { max_turns: 6, style: Style::Compact }
    }
}

/// An action that is well formed but not allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Illegal {
    /// A buyer sent `[SELL]` or a seller `[BUY]`.
    #[error("that action belongs to the other side")]
    WrongSide,
    /// `[DEAL]` before the other side made a formal offer.
    #[error("[DEAL] needs an offer of the other side")]
    NothingToAccept,
    /// `[DEAL]` at a price that is not the standing offer's.
    #[error("[DEAL] must copy the standing offer to the cent")]
    DealPriceDiffers,
    /// The buyer opened with something else than `[BUY]` or `[REJECT]`.
    #[error("the buyer's first action must be [BUY] or [REJECT]")]
    BadOpening,
}

/// Why a reply broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// The reply has not the required form.
    #[error("{0}")]
    Format(#[from] Malformed),
    /// The action is not allowed now.
    #[error("{0}")]
    Protocol(#[from] Illegal),
}

/// Whether `side` may take `action` now. `first` says it is the side's first action; `opposing` is the other side's standing offer.
pub fn check(side: Side, action: Action, first: bool, opposing: Option<Cents>) -> Result<(), Illegal> {
    let opening = matches!(action, Action::Buy(_) | Action::Reject);
    match (side, action) {
        (Side::Buyer, Action::Sell(_)) | (Side::Seller, Action::Buy(_)) => Err(Illegal::WrongSide),
        (Side::Buyer, _) if first && !opening => Err(Illegal::BadOpening),
        (_, Action::Deal(price)) => match opposing {
            None => Err(Illegal::NothingToAccept),
            Some(offer) if offer != price => Err(Illegal::DealPriceDiffers),
            Some(_) => Ok(()),
        },
        _ => Ok(()),
    }
}
