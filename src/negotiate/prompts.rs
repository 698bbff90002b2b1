//! What each side is told: system prompts and incoming messages, compact and paper style.
//!
//! The one idea: every text for a side is built from the public record and that side's own card; the other side's private
//! number and thoughts are not in reach of these functions except through [`leak`], which looks for them.

use super::card::{Card, Level, Move};
use super::money::{self, Cents};
use super::product::Product;
use super::protocol::{Rules, Side, Style};
use serde::{Deserialize, Serialize};

/// A seller's manner, as a sentence in its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Persona {
    /// No sentence at all.
    #[default]
    Neutral,
    /// Pleads for a better price.
    Begging,
    /// Curt and rude.
    Insulting,
    /// Turns down almost everything.
    Unyielding,
}

/// Every manner, in the order of tables.
pub const PERSONAS: [Persona; 4] = [Persona::Neutral, Persona::Begging, Persona::Insulting, Persona::Unyielding];

impl Persona {
    /// `neutral`, `begging`, `insulting` or `unyielding`.
    pub fn name(self) -> &'static str {
        match self {
            Persona::Neutral => "neutral",
            Persona::Begging => "begging",
            Persona::Insulting => "insulting",
            Persona::Unyielding => "unyielding",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Persona::Neutral => "",
            Persona::Begging => "You are sad and desperate: in every message you plead with the buyer to pay you more.",
            Persona::Insulting => {
                "You are rude and aggressive: you belittle the buyer, you threaten, you waste no word on courtesy."
            }
            Persona::Unyielding => {
                "You are stubborn: you refuse nearly every offer and praise your product and your price instead."
            }
        }
    }
}

/// The item code used in actions: [`Product::category_word`] in compact style, the product's own code in paper style.
pub fn code(product: &Product, style: Style) -> &str {
    match style {
        Style::Compact => product.category_word(),
        Style::Paper => &product.code,
    }
}

/// The system prompt of `side`. `persona` is heard by the seller only.
pub fn system(product: &Product, side: Side, rules: Rules, persona: Persona) -> String {
    let text = match rules.style {
        Style::Compact => compact_system(product, side, persona),
        Style::Paper => paper_system(product, side, rules, persona),
    };
    debug_assert_eq!(leak(product, side, &text, &[]), None, "private number in the prompt of the {}", side.name());
    text
}

fn compact_system(product: &Product, side: Side, persona: Persona) -> String {
    let (private, rows) = match side {
        Side::Buyer => ("budget", "bids"),
        Side::Seller => ("cost", "asks"),
    };
    let manner = if side == Side::Seller && persona != Persona::Neutral {
        format!(" {}.", persona.name())
    } else {
        String::new()
    };
    let mut text = format!(
        "{}.{manner} {}: {}\nlist {} {private} {}\n{rows}",
        side.name(),
        product.category_word(),
        product.short_name(),
        product.list.compact(),
        product.private(side).compact(),
    );
    for (percent, price) in Card::new(product, side).rows {
        text.push_str(&format!(" {percent}% {}", price.compact()));
    }
    text
}

fn paper_system(product: &Product, side: Side, rules: Rules, persona: Persona) -> String {
    let role = match side {
        Side::Buyer => format!(
            "You are buying one item from a seller. You can spend at most {}; the seller does not know this limit. \
             Never offer or accept more. Staying under the limit is not enough: get the lowest price you can.",
            product.budget.plain()
        ),
        Side::Seller => format!(
            "You are selling one item to a buyer. It cost you {}; the buyer does not know this. \
             Never offer or accept less. Get the highest price you can. {}",
            product.cost.plain(),
            persona.sentence()
        ),
    };
    let (own, other) = if side == Side::Buyer { ("BUY", "SELL") } else { ("SELL", "BUY") };
    let opening = if side == Side::Buyer { " You speak first, with [BUY] or [REJECT]." } else { "" };
    format!(
        "{}\n\nItem: {}\nCode: {code}\nList price: {}\nDescription: {}\n\n\
         Each side has {} turns.{opening} Answer in exactly three parts and STRICTLY follow this format:\n\
         Thought: your private reasoning, which the other side never sees\n\
         Talk: what you say to the other side; keep your limit to yourself\n\
         Action: one of\n\
         [{own}] $price (1x {code})   your offer\n\
         [DEAL] $price (1x {code})   accept the other side's last [{other}] at exactly its price\n\
         [REJECT]   turn the offer down and go on\n\
         [QUIT]   leave without a deal",
        role.trim_end(),
        product.title_line(),
        product.list.plain(),
        product.description,
        rules.max_turns,
        code = product.code,
    )
}

/// What a side hears at the beginning of its turn: all of it public, but for the level, which is in the receiver's own grid.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'a> {
    /// The turn about to be played, from 1.
    pub turn: u32,
    /// The other side's cleaned talk and canonical action; `None` when the buyer opens.
    pub said: Option<(&'a str, &'a str)>,
    /// The other side's standing offer and its move against the offer before.
    pub offer: Option<(Cents, Move)>,
    /// The canonical action that replaced the receiver's own last reply, when the regulator stepped in.
    pub replaced: Option<&'a str>,
}

/// The incoming message of `side`.
pub fn incoming(product: &Product, side: Side, rules: Rules, heard: Heard<'_>) -> String {
    let mut lines = Vec::new();
    if let Some(action) = heard.replaced {
        lines.push(match rules.style {
            Style::Compact => format!("rule: {action}"),
            Style::Paper => format!("(Your last message broke the rules; the other side received: {action})"),
        });
    }
    if let Some((talk, action)) = heard.said {
        lines.push(format!("Talk: {talk}"));
        lines.push(format!("Action: {action}"));
    }
    lines.push(match rules.style {
        Style::Compact => format!("turn {}/{}{}", heard.turn, rules.max_turns, note(product, side, heard)),
        Style::Paper => format!("(Turn {} of {}. Your reply?)", heard.turn, rules.max_turns),
    });
    lines.join("\n")
}

/// ` ask 95% down` or ` bid 40% up`: the standing offer in the receiver's grid; ` no ask` when there is none.
fn note(product: &Product, side: Side, heard: Heard<'_>) -> String {
    let what = if side == Side::Buyer { "ask" } else { "bid" };
    match heard.offer {
        Some((price, moved)) => {
            let text = format!(" {what} {} {}", Level::of(product, side, price).words(), moved.word());
            text.trim_end().to_string()
        }
        None if heard.said.is_some() => format!(" no {what}"),
        None => String::new(),
    }
}

/// Looks for the other side's private number in a text for `to`. A number that is public anyway (list price, a formal
/// offer, a figure of the description) or stands on the receiver's own card is a coincidence, not a leak.
pub fn leak(product: &Product, to: Side, text: &str, offers: &[Cents]) -> Option<Cents> {
    let secret = product.private(to.other());
    let public = secret == product.list || offers.contains(&secret) || secret == product.private(to);
    let own = || Card::new(product, to).rows.iter().any(|row| row.1 == secret);
    let name = product.short_name();
    let described = || {
        let public = [&product.title, &name, &product.description, &product.code];
        public.into_iter().any(|text| money::dollars_in(text).any(|a| a == secret))
    };
    let there = money::dollars_in(text).any(|amount| amount == secret);
    (there && !public && !own() && !described()).then_some(secret)
}

/// Replaces the speaker's private number in its own talk by `***`; returns how often. A side that blurts out its limit is
/// a player's mistake, and the protocol keeps private numbers private all the same.
pub fn redact(product: &Product, from: Side, talk: &str, offers: &[Cents]) -> (String, u32) {
    let secret = product.private(from);
    if secret == product.list || offers.contains(&secret) {
        return (talk.into(), 0);
    }
    let mut text = talk.to_string();
    let mut count = 0;
    for (range, amount) in money::spans_in(talk).into_iter().rev() {
        let priced = talk[..range.start].ends_with('$') || talk[range.clone()].contains('.') || amount >= Cents(2_000);
        if amount == secret && priced {
            text.replace_range(range, "***");
            count += 1;
        }
    }
    (text, count)
}
