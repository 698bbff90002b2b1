//! A negotiation's record: what may be told of it, and the hash chain over that.
//!
//! The one idea: a round is stored as the very text that is hashed: compact JSON, keys in the order they stand, with the hash of
//! the round before inside. Whoever holds the record can verify it, and nobody can change a round in its middle.

use super::settings::Settings;
use super::store::Round;
use crate::negotiate::{Action, Cents, Episode, Outcome, Side};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An action's kind, as it is told.
pub fn kind(action: Action) -> &'static str {
    match action {
        Action::Buy(_) | Action::Sell(_) => "offer",
        Action::Deal(_) => "accept",
        Action::Reject => "reject",
        Action::Quit => "quit",
    }
}

/// An action as JSON.
pub fn action_json(action: Action) -> Value {
    let kind = kind(action);
    match action.price() {
        Some(price) => json!({"kind": kind, "price_cents": price}),
        None => json!({"kind": kind}),
    }
}

/// Where a negotiation stands.
pub fn state(episode: &Episode, closed: bool) -> &'static str {
    match episode.outcome() {
        Some(_) => "ended",
        None if closed => "closed",
        None => "open",
    }
}

/// How it ended, where it has.
pub fn outcome_json(episode: &Episode, role: Side) -> Value {
    let who = |side: Side| if side == role { "us" } else { "you" };
    match episode.outcome() {
        None => Value::Null,
        Some(Outcome::Deal { price, by }) => json!({"kind": "deal", "price_cents": price, "accepted_by": who(by)}),
        Some(Outcome::Quit { by }) => json!({"kind": "quit", "by": who(by)}),
        Some(other) => json!({"kind": other.key()}),
    }
}

/// How far a side's last offer or acceptance gave in against its offer before; none without two of them.
pub fn concession(episode: &Episode, side: Side) -> Option<Cents> {
    let last = episode.turns_of(side).next_back()?.action?;
    let price = last.price()?;
    let mut offers = episode.offers(side).rev();
    let before = if matches!(last, Action::Deal(_)) { offers.next() } else { offers.nth(1) }?;
    Some(match side {
        Side::Buyer => Cents(price.0 - before.0),
        Side::Seller => Cents(before.0 - price.0),
    })
}

/// The hash of a round's text, as hexadecimal digits.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What may be told of a negotiation as a whole.
pub fn whole(
    id: &str,
    settings: &Settings,
    episode: &Episode,
    closed: bool,
    created_ms: u64,
    rounds: &[Round],
) -> Value {
    let product = episode.product();
    let next = match (state(episode, closed), episode.next_side()) {
        ("open", Some(side)) if side == settings.role => json!("us"),
        ("open", Some(_)) => json!("you"),
        _ => Value::Null,
    };
    let told = |round: &Round| json!({"record": serde_json::from_str::<Value>(&round.public).unwrap_or_default(), "hash": round.hash});
    json!({
        "id": id, "object": "negotiation", "role": settings.role,
        "product": {"title": product.title, "description": product.description, "category": product.category, "list_cents": product.list},
        "max_rounds": settings.max_rounds, "created_ms": created_ms, "expires_ms": created_ms + settings.expires_in_ms,
        "state": state(episode, closed), "next": next, "outcome": outcome_json(episode, settings.role),
        "rounds": rounds.iter().map(told).collect::<Vec<_>>(),
    })
}
