//! Episodes as lines the AmazonHistoryPrice evaluator reads (Xia et al. 2024, arXiv:2402.15813).
//!
//! The one idea: a line records what counted, so that the evaluator counts what we count, deal by deal. A regulated seller's
//! action is the effective one. A buyer's reply that broke format or protocol has an empty action, which is a wrong action
//! there; its words stay in `raw_text`. The evaluator's smallest zone is a dollar, and where |B - C| is less it moves the
//! budget; we divide by a dollar and leave the budget, so such a line's cost lies a dollar from the budget. A code keeps
//! the characters that the evaluator's pattern of an action reads back. Two readings differ by design: that evaluator knows
//! no overshoot (to it a price above budget that was accepted is a deal with a negative ratio: `summary.json` has the rate
//! of all overshoots), and its `time` is empty here, so that the same run writes the same bytes.

use super::action::Action;
use super::episode::{Episode, Outcome, Turn};
use super::money::Cents;
use super::product::{Product, Scenario};
use super::protocol::Side;
use super::reward;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// The file name the evaluator takes apart at each `+`: `{buyer}+{seller}+F0.8+haggle.jsonl`; the third part is the budget
/// over the list price. It skips names that hold `test`, `_copy` or `Eval_`, so `test` becomes `held_out`; what is
/// neither a letter, a digit, nor one of `_-.` becomes `-`.
pub fn file_name(buyer: &str, seller: &str) -> String {
    let clean =
        |name: &str| plain(name).replace("test", "held_out").replace("_copy", "-copy").replace("Eval_", "eval-");
    format!("{}+{}+F0.8+haggle.jsonl", clean(buyer), clean(seller))
}

/// A name without what takes names and actions apart.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "_-.".contains(c) { c } else { '-' }).collect()
}

/// Writes one line an episode.
pub fn write<'a>(
    path: &Path,
    buyer: &str,
    seller: &str,
    episodes: impl IntoIterator<Item = &'a Episode>,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(path, format!("cannot be written: {e}"));
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(failed)?);
    for (index, episode) in episodes.into_iter().enumerate() {
        writeln!(file, "{}", line(episode, index, buyer, seller)).map_err(failed)?;
    }
    file.flush().map_err(failed)
}

/// One ended episode as the evaluator's record.
pub fn line(episode: &Episode, index: usize, buyer: &str, seller: &str) -> Value {
    let product = episode.product();
    let code = plain(&product.code);
    let history: Vec<Vec<Value>> =
        episode.turns().chunks(2).map(|pair| pair.iter().map(|turn| record(turn, &code)).collect()).collect();
    json!({
        "memo": "",
        "time": "",
        "index": index,
        "errormsg": ending(episode),
        "history": history,
        "buyer": buyer,
        "seller": seller,
        "inv": { &code: [product.title, product.description, dollars(product.list), dollars(counted_cost(product))] },
        "need": [{ "codename": code, "title": product.title, "quantity": 1, "budget": dollars(product.budget) }],
    })
}

/// One message. Actions name the data set's code whatever the style they were played in.
fn record(turn: &Turn, code: &str) -> Value {
    let counted = turn.action.filter(|_| turn.side == Side::Seller || turn.violation.is_none());
    json!({
        "turn": turn.turn - 1,
        "role": turn.side.name(),
        "thought": turn.thought.as_deref().unwrap_or_default(),
        "talk": turn.talk,
        "action": counted.map(|a: Action| a.render(code)).unwrap_or_default(),
        "input_message": turn.incoming,
        "raw_text": turn.raw,
    })
}

fn ending(episode: &Episode) -> String {
    let by = |side: Side, what: &str| format!("{}:{what}", side.name().to_uppercase());
    match episode.outcome() {
        Some(Outcome::Deal { by: side, .. }) => by(side, "deal"),
        Some(Outcome::Quit { by: side }) => by(side, "quit"),
        Some(Outcome::Violation { .. }) => by(Side::Buyer, "action error"),
        Some(Outcome::Overshoot { .. }) => by(Side::Buyer, "over budget"),
        Some(Outcome::Deadlock) | None => "turn limit".into(),
    }
}

/// The cost that makes the evaluator's zone ours: at least a dollar from the budget, on the same side of it.
fn counted_cost(product: &Product) -> Cents {
    match product.scenario() {
        Scenario::MutualInterest => Cents(product.budget.0 - reward::zone(product)),
        Scenario::ConflictingInterest => Cents(product.budget.0 + reward::zone(product)),
    }
}

fn dollars(price: Cents) -> f64 {
    price.0 as f64 / 100.0
}
