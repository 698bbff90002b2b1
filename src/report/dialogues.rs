//! Dialogues on a page: the same product played by two buyers, side by side; and those against each seller, to be opened.

use super::files::Sample;
use super::parts::escape;
use crate::negotiate::Cents;
use serde_json::Value;

/// Products shown at once.
const SHOWN: usize = 3;

/// What the letters mean.
const THOUGHTS: &str =
    "<p class=\"lead\">In italics what a side thinks, which the other does not hear; in a box what it does.</p>\n";

/// The same products before and after training, against the first seller.
pub fn first(samples: &[Sample]) -> String {
    let seller = samples.first().map_or("", |sample| sample.seller.as_str());
    let pairs = pairs(samples, seller);
    let both = pairs.iter().filter(|games| games.len() == 2).take(SHOWN);
    let shown: String = both.map(|games| product(games, &["Before", "After"])).collect();
    match shown.is_empty() {
        true => shown,
        false => format!("<h2>The same products, before and after training</h2>\n{THOUGHTS}{shown}"),
    }
}

/// Every dialogue that is kept, a part a seller.
pub fn by_seller(samples: &[Sample]) -> String {
    let mut sellers: Vec<&str> = samples.iter().map(|sample| sample.seller.as_str()).collect();
    sellers.dedup();
    let part = |seller: &&str| {
        let games = pairs(samples, seller);
        let shown: String = games
            .iter()
            .map(|games| product(games, &games.iter().map(|game| game.buyer.as_str()).collect::<Vec<_>>()))
            .collect();
        format!(
            "<details><summary>against {}: {} products</summary>\n{shown}</details>\n",
            escape(if seller.is_empty() { "the seller" } else { seller }),
            games.len()
        )
    };
    match samples.is_empty() {
        true => String::new(),
        false => format!("<h2>Dialogues</h2>\n{THOUGHTS}{}", sellers.iter().map(part).collect::<String>()),
    }
}

/// The games against a seller, those over one product together, in the order they were played.
fn pairs<'a>(samples: &'a [Sample], seller: &str) -> Vec<Vec<&'a Sample>> {
    let mut pairs: Vec<Vec<&Sample>> = vec![];
    for sample in samples.iter().filter(|sample| sample.seller == seller) {
        match pairs.iter_mut().find(|games| games[0].code == sample.code && games[0].title == sample.title) {
            Some(games) => games.push(sample),
            None => pairs.push(vec![sample]),
        }
    }
    pairs
}

/// The games over one product, beside each other.
fn product(games: &[&Sample], names: &[&str]) -> String {
    let about = games[0];
    let title = if about.title.is_empty() { &about.code } else { &about.title };
    let case = match about.scenario.as_str() {
        "ci" => " · the budget does not cover the cost: no deal is right",
        _ => "",
    };
    format!(
        "<h3>{} <small>list {} · seller's cost {} · buyer's budget {}{case}</small></h3>\n<div class=\"pair\">{}</div>\n",
        escape(title),
        Cents(about.list).compact(),
        Cents(about.cost).compact(),
        Cents(about.budget).compact(),
        games.iter().zip(names).map(|(game, name)| dialogue(name, game)).collect::<String>()
    )
}

fn dialogue(title: &str, sample: &Sample) -> String {
    let mut html = format!(
        "<section><h4>{}: {}, reward {:.2}</h4>\n",
        escape(title),
        escape(&outcome(&sample.outcome)),
        sample.reward
    );
    for turn in &sample.turns {
        let thought = match turn.thought.trim() {
            "" => String::new(),
            thought => format!("<i title=\"what it thought; the other side does not hear it\">{}</i>", escape(thought)),
        };
        let note =
            turn.intervention.as_ref().map(|why| format!("<em>regulated: {}</em>", escape(why))).unwrap_or_default();
        html += &format!(
            "<p class=\"{}\"><b>{}</b> {thought} {} <code>{}</code> {note}</p>\n",
            if turn.side == "buyer" { "buyer" } else { "seller" },
            escape(&turn.side),
            escape(turn.talk.trim()),
            escape(turn.action.trim())
        );
    }
    html + "</section>"
}

fn outcome(value: &Value) -> String {
    let kind = value.as_str().or_else(|| value.get("kind").and_then(Value::as_str)).unwrap_or("ended");
    match value.get("price").and_then(Value::as_i64) {
        Some(cents) => format!("{kind} at {}", Cents(cents).compact()),
        None => kind.replace('_', " "),
    }
}
