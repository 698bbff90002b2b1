//! The final tables: buyers on held-out products with 95 % intervals, and paired differences.

use super::out;
use crate::eval::Difference;
use crate::eval::protocol::{Beside, comparable};
use crate::negotiate::metrics::Row;
use serde_json::Value;

/// The rows of buyers; one block a seller.
pub fn rows(rows: &[Row]) -> String {
    let head =
        "buyer|seller|case|n|reward|no penalty|deals|bargained|1st bid|over|broken|fixed|rising|as thought|reasons";
    let mut cells: Vec<Vec<String>> = vec![head.split('|').map(String::from).collect()];
    for row in rows.iter().filter(|row| row.n > 0) {
        cells.push(vec![
            row.buyer.clone(),
            row.seller.clone(),
            row.scenario.clone(),
            row.n.to_string(),
            format!("{:+.3}{}", row.reward, spread(row.reward_ci95, 3)),
            format!("{:+.3}", row.reward_without_penalties),
            format!("{:.2}{}", row.deal_rate, spread(row.deal_rate_ci95, 2)),
            share(row.bargained_ratio),
            share(row.first_offer_ratio),
            format!("{:.1} %", 100.0 * row.overshoot_rate),
            format!("{:.1} %", 100.0 * row.format_error_rate),
            format!("{:.2}", row.interventions),
            share(row.monotone_bid_share),
            share(row.thought_action_agreement),
            format!("{:.2}", row.reason_rate),
        ]);
    }
    out::columns(&cells)
}

/// What the columns mean, under the table.
pub const LEGEND: &str = "\
± is the 95 % interval over products, where there are two or more. case: mi, the budget covers the cost; ci, it does not. no penalty: -1 counted as 0.
over: named a price above budget. broken: broke format or protocol. fixed: regulator's corrections of the seller an episode.
rising: episodes whose bids never fell. as thought: bids at the price the thought names. reasons: replies that gave one.";

/// A line for each buyer whose every game ended on a broken reply: such a row says nothing of how it bargains.
pub fn broken(rows: &[Row]) -> Vec<String> {
    let all = rows.iter().filter(|row| row.scenario == "all" && row.n > 0 && row.format_error_rate == 1.0);
    let line = |row: &Row| {
        format!("warning: every game of {} against {} ended on a reply that breaks the protocol", row.buyer, row.seller)
    };
    all.map(line).collect()
}

/// A line for each pair whose games were left void by the seller's server: how many, and why the first.
pub fn void(games: &[Value]) -> Vec<String> {
    let text = |game: &Value, key: &str| game[key].as_str().unwrap_or_default().to_string();
    let same = |a: &Value, b: &Value| a["buyer"] == b["buyer"] && a["seller"] == b["seller"];
    let line = |pair: &[Value]| {
        let (first, n) = (&pair[0], pair.len());
        format!(
            "warning: {n} games of {} against {} are void and in no row: the seller's server left them without a reply (the \
             first, over {}: {})",
            text(first, "buyer"),
            text(first, "seller"),
            text(first, "product"),
            text(first, "why")
        )
    };
    games.chunk_by(same).map(line).collect()
}

/// Paired differences of reward.
pub fn differences(all: &[Difference]) -> String {
    let mut cells = vec![["difference of reward", "seller", "case", "products", "mean", ""].map(String::from).to_vec()];
    for one in all {
        let certain = match one.ci95 {
            None => "one product: no interval",
            Some(half) if one.mean - half > 0.0 => "above 0",
            Some(half) if one.mean + half < 0.0 => "below 0",
            Some(_) => "unclear",
        };
        cells.push(vec![
            format!("{} - {}", one.buyer, one.minus),
            one.seller.clone(),
            one.scenario.to_string(),
            one.n.to_string(),
            format!("{:+.3}{}", one.mean, spread(one.ci95, 3)),
            certain.to_string(),
        ]);
    }
    out::columns(&cells)
}

/// The table of a published protocol, with its own row under ours, and in what the two differ.
pub fn protocol(rows: &[Row], beside: &Beside) -> String {
    let head = "buyer|seller|reward|deals|bargained|over budget";
    let mut cells: Vec<Vec<String>> = vec![head.split('|').map(String::from).collect()];
    for row in comparable(rows) {
        cells.push(vec![
            row.buyer.clone(),
            row.seller.clone(),
            format!("{:.4}{}", row.reward, spread(row.reward_ci95, 4)),
            format!("{:.2} %", 100.0 * row.deal_rate),
            row.bargained_ratio.map_or_else(|| "-".into(), |x| format!("{x:.4}")),
            format!("{:.2} %", 100.0 * row.overshoot_rate),
        ]);
    }
    let own = &beside.published;
    cells.push(vec![
        "published".into(),
        "another".into(),
        format!("{:.4}", own.reward),
        format!("{:.2} %", 100.0 * own.deal_rate),
        format!("{:.4}", own.bargained_ratio),
        format!("{:.2} %", 100.0 * own.overshoot_rate),
    ]);
    let differs: Vec<String> = beside.differs.iter().map(|what| format!("  {what}")).collect();
    format!(
        "as {} evaluates ({}):\n{}\npublished: {}, against another seller ({}): a mark, no opponent. What differs from its protocol:\n{}\n",
        beside.protocol,
        beside.source,
        out::columns(&cells),
        own.buyer,
        own.seller,
        differs.join("\n")
    )
}

/// The half width behind a mean, where it is known.
fn spread(half: Option<f64>, digits: usize) -> String {
    half.map_or_else(String::new, |half| format!(" ±{half:.digits$}"))
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |x| format!("{x:.2}"))
}
