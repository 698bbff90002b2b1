//! Episodes as lines the AmazonHistoryPrice evaluator reads (Xia et al. 2024, arXiv:2402.15813).
//!
//! The one idea: a line records what counted. A regulated seller's action is the effective one; a buyer's reply that could
//! not be parsed has an empty action, which the evaluator calls a wrong action. Prices are dollars there, so floats here.
//! Two readings differ by design: that evaluator knows no overshoot (a deal above budget is a deal with a negative ratio
//! to it), and its `time` is empty here, so that the same run writes the same bytes.

use super::action::Action;
use super::episode::{Episode, Outcome, Turn};
use super::money::Cents;
use super::product::Product;
use super::protocol::Side;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// The file name the evaluator takes apart: `{buyer}+{seller}+F0.8.jsonl`. It skips names that hold `test`, `_copy` or
/// `Eval_`, so `test` becomes `held_out`; `+` and `/` become `-`.
pub fn file_name(buyer: &str, seller: &str) -> String {
    let clean = |name: &str| name.replace(['+', '/', ':'], "-").replace("test", "held_out").replace("_copy", "-copy");
    format!("{}+{}+F0.8.jsonl", clean(buyer), clean(seller)).replace("Eval_", "eval-")
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
    let history: Vec<Vec<Value>> =
        episode.turns().chunks(2).map(|pair| pair.iter().map(|turn| record(turn, product)).collect()).collect();
    json!({
        "memo": "",
        "time": "",
        "index": index,
        "errormsg": ending(episode),
        "history": history,
        "buyer": buyer,
        "seller": seller,
        "inv": { product.code.clone(): [product.title, product.description, dollars(product.list), dollars(product.cost)] },
        "need": [{ "codename": product.code, "title": product.title, "quantity": 1, "budget": dollars(product.budget) }],
    })
}

/// One message. Actions name the data set's code whatever the style they were played in.
fn record(turn: &Turn, product: &Product) -> Value {
    json!({
        "turn": turn.turn - 1,
        "role": turn.side.name(),
        "thought": turn.thought.as_deref().unwrap_or_default(),
        "talk": turn.talk,
        "action": turn.action.map(|a: Action| a.render(&product.code)).unwrap_or_default(),
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

fn dollars(price: Cents) -> f64 {
    price.0 as f64 / 100.0
}
