//! The five actions and their text: `[BUY] $M (1x code)`, `[SELL] ...`, `[DEAL] ...`, `[REJECT]`, `[QUIT]`.
//!
//! The one idea: what the other side sees is always the canonical rendering of a parsed action, never raw text.

use super::malformed::Malformed;
use super::money::Cents;
use serde::{Deserialize, Serialize};

/// What a side does in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "cents")]
pub enum Action {
    /// The buyer offers a price.
    Buy(Cents),
    /// The seller offers a price.
    Sell(Cents),
    /// Accepts the other side's standing offer at exactly its price.
    Deal(Cents),
    /// Turns the standing offer down without a new one.
    Reject,
    /// Leaves; the episode ends without a deal.
    Quit,
}

impl Action {
    /// The word in brackets.
    pub fn word(self) -> &'static str {
        match self {
            Action::Buy(_) => "BUY",
            Action::Sell(_) => "SELL",
            Action::Deal(_) => "DEAL",
            Action::Reject => "REJECT",
            Action::Quit => "QUIT",
        }
    }

    /// The price named by the action, if it names one.
    pub fn price(self) -> Option<Cents> {
        match self {
            Action::Buy(p) | Action::Sell(p) | Action::Deal(p) => Some(p),
            Action::Reject | Action::Quit => None,
        }
    }

    /// The canonical text with the item's code: `[BUY] $7.07 (1x books)`.
    pub fn render(self, code: &str) -> String {
        match self.price() {
            Some(price) => format!("[{}] {} (1x {code})", self.word(), price.compact()),
            None => format!("[{}]", self.word()),
        }
    }
}

/// Parses the last bracketed capital word of a text and what it needs behind it. Never panics.
pub fn parse_last(text: &str, code: &str) -> Result<Action, Malformed> {
    let (word, rest) = last_bracket(text, code).ok_or(Malformed::NoAction)?;
    match word {
        "REJECT" => Ok(Action::Reject),
        "QUIT" => Ok(Action::Quit),
        "BUY" => Ok(Action::Buy(parse_price(rest, code)?)),
        "SELL" => Ok(Action::Sell(parse_price(rest, code)?)),
        "DEAL" => Ok(Action::Deal(parse_price(rest, code)?)),
        _ => Err(Malformed::UnknownAction),
    }
}

/// The last `[WORD]` of ASCII capitals, and the text behind it. What stands inside `(1x code)` is the item's name, whatever
/// it looks like.
fn last_bracket<'t>(text: &'t str, code: &str) -> Option<(&'t str, &'t str)> {
    let mut names = Vec::new();
    if code.contains('[') {
        for item in [format!("(1x {code})"), format!("(1 {code})")] {
            names.extend(text.match_indices(&item).map(|(at, item)| at..at + item.len()));
        }
    }
    let outside = |open: &usize| !names.iter().any(|name: &std::ops::Range<usize>| name.contains(open));
    text.rmatch_indices('[').map(|(open, _)| open).filter(outside).find_map(|open| {
        let after = &text[open + 1..];
        let length = after.bytes().take_while(u8::is_ascii_uppercase).count();
        let rest = after[length..].strip_prefix(']')?;
        (length > 0).then_some((&after[..length], rest))
    })
}

/// ` $M (1x code)`: one space, a price above zero, the item in parentheses.
fn parse_price(rest: &str, code: &str) -> Result<Cents, Malformed> {
    let rest = rest.strip_prefix(' ').filter(|r| r.starts_with('$')).ok_or(Malformed::NoPrice)?;
    let (price, item) = rest.split_once(' ').ok_or(Malformed::WrongItem)?;
    let price = Cents::parse(price).filter(|p| p.0 > 0).ok_or(Malformed::BadPrice)?;
    let named = item.strip_prefix("(1x ").or_else(|| item.strip_prefix("(1 ")).ok_or(Malformed::WrongItem)?;
    let behind = named.strip_prefix(code).ok_or(Malformed::WrongItem)?;
    if behind.starts_with(')') { Ok(price) } else { Err(Malformed::WrongItem) }
}
