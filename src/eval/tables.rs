//! The tables of an evaluation as cells of text, the first row its head: a terminal shows as many columns as it is wide, a page
//! all of them.

use super::{Difference, model_of};
use crate::negotiate::metrics::Row;
use serde_json::Value;

/// Products below which an interval says too little for a verdict.
const FEW: usize = 8;

/// What a mark behind a difference means.
pub const VERDICT: &str = "* the interval leaves out 0; below 8 products nothing is marked.";

/// Cells, a list a row.
pub type Cells = Vec<Vec<String>>;

/// A figure of a row.
pub struct Column {
    /// Its head in a terminal.
    pub short: &'static str,
    /// Its head on a page.
    pub long: &'static str,
    /// The figure as text.
    pub cell: fn(&Row) -> String,
}

const fn column(short: &'static str, long: &'static str, cell: fn(&Row) -> String) -> Column {
    Column { short, long, cell }
}

/// How buyers played, the figures that matter most first.
pub const CONDUCT: [Column; 16] = [
    column("n", "games", |row| row.n.to_string()),
    column("reward", "reward", |row| figure(row.reward, row.reward_ci95)),
    column("deals", "deals", |row| format!("{:.2}", row.deal_rate)),
    column("share", "share of the gain", |row| share(row.bargained_ratio)),
    column("1st", "first bid / budget", |row| share(row.first_offer_ratio)),
    column("over", "over budget", |row| percent(row.overshoot_rate)),
    column("broke", "broken replies", |row| percent(row.format_error_rate)),
    column("cross", "crossed bids", |row| known(row.crossed_bid_share)),
    column("fall", "falling bids", |row| known(row.falling_bid_share)),
    column("word", "seller's words", |row| known(row.other_words_share)),
    column("quit", "seller left", |row| percent(row.seller_quit_rate)),
    column("turns", "turns", |row| format!("{:.1}", row.turns)),
    column("whole", "reward, losses as 0", |row| format!("{:+.3}", row.reward_without_penalties)),
    column("said", "bids as thought", |row| known(row.thought_action_agreement)),
    column("why", "replies with a reason", |row| percent(row.reason_rate)),
    column("fixed", "seller corrected, a game", |row| format!("{:.2}", row.interventions)),
];

/// How many of [`CONDUCT`] 80 characters have room for.
pub const LEAST: usize = 10;

/// The rows over all products.
pub fn whole(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.scenario == "all" && row.n > 0)
}

/// What rows are called, each once, in their order.
pub fn names(rows: &[Row], of: fn(&Row) -> &String) -> Vec<&str> {
    let mut names: Vec<&str> = vec![];
    for row in whole(rows) {
        let name = of(row).as_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Mean reward, a row a seller and a column a buyer.
pub fn matrix(rows: &[Row]) -> Cells {
    let (sellers, buyers) = (names(rows, |row| &row.seller), names(rows, |row| &row.buyer));
    let mut cells: Cells = vec![["seller"].iter().chain(&buyers).map(|name| (*name).into()).collect()];
    for seller in sellers {
        let mut line = vec![seller.to_string()];
        line.extend(buyers.iter().map(|buyer| {
            let row = whole(rows).find(|row| row.seller == seller && row.buyer == *buyer);
            row.map_or_else(|| "-".into(), |row| figure(row.reward, row.reward_ci95))
        }));
        cells.push(line);
    }
    cells
}

/// How buyers played, in these columns: every buyer against one seller, or the model against each of several.
pub fn conduct(rows: &[Row], columns: &[Column], head: fn(&Column) -> &'static str) -> Cells {
    let (sellers, model) = (names(rows, |row| &row.seller), model_of(rows));
    let several = sellers.len() > 1;
    let first = match (several, model, sellers.first()) {
        (true, Some(model), _) => format!("{model} against"),
        (false, _, Some(seller)) => format!("against {seller}"),
        _ => String::new(),
    };
    let heads = columns.iter().map(|column| head(column).to_string());
    let mut cells: Cells = vec![std::iter::once(first).chain(heads).collect()];
    for row in whole(rows).filter(|row| !several || model == Some(&row.buyer)) {
        let name = if several { row.seller.clone() } else { row.buyer.clone() };
        cells.push(std::iter::once(name).chain(columns.iter().map(|column| (column.cell)(row))).collect());
    }
    cells
}

/// The model's reward where the budget covers the cost, and where it does not, a line each.
pub fn cases(rows: &[Row]) -> impl Iterator<Item = String> {
    let model = model_of(rows);
    let of = |case: &str| rows.iter().rfind(|row| row.scenario == case && row.n > 0 && model == Some(&row.buyer));
    let line = |row: &Row, what: &str| {
        let reward = figure(row.reward, row.reward_ci95);
        format!("{}, {} against {}: {reward} in {} games{what}", row.scenario, row.buyer, row.seller, row.n)
    };
    let mi = of("mi").map(|row| line(row, " whose budget covers the cost"));
    let ci = of("ci").map(|row| line(row, " where none is right to buy"));
    mi.into_iter().chain(ci)
}

/// Paired differences of reward over all products: a row a seller, a column a buyer that is beaten or not; none where nothing
/// was compared.
pub fn differences(all: &[Difference]) -> Cells {
    let all: Vec<&Difference> = all.iter().filter(|one| one.scenario == "all").collect();
    if all.is_empty() {
        return vec![];
    }
    let (mut sellers, mut others): (Vec<&str>, Vec<&str>) = (vec![], vec![]);
    for one in &all {
        for (list, name) in [(&mut sellers, &one.seller), (&mut others, &one.minus)] {
            if !list.contains(&name.as_str()) {
                list.push(name);
            }
        }
    }
    let heads = ["seller".into(), "products".into()].into_iter().chain(others.iter().map(|other| format!("- {other}")));
    let mut cells: Cells = vec![heads.collect()];
    for seller in sellers {
        let of = |other: &str| all.iter().find(|one| one.seller == seller && one.minus == other);
        let n = others.iter().filter_map(|other| of(other)).map(|one| one.n).max().unwrap_or(0);
        let mut line = vec![seller.to_string(), n.to_string()];
        line.extend(
            others.iter().map(|other| of(other).map_or_else(|| "-".into(), |one| marked(one.n, one.mean, one.ci95))),
        );
        cells.push(line);
    }
    cells
}

/// The table of a set task, a row a model, of `sets.json`.
pub fn sets(sets: &Value) -> Cells {
    let figures =
        ["replies", "worth", "best", "candidate", "malformed", "distinct", "size"].map(|key| (key, key == "malformed"));
    let mut cells: Cells =
        vec![std::iter::once("model").chain(figures.map(|(key, _)| key)).map(String::from).collect()];
    for row in sets.as_array().into_iter().flatten() {
        let cell = |(key, is_share): (&str, bool)| match &row["row"][key] {
            Value::Number(n) if n.is_u64() => n.to_string(),
            Value::Number(n) if is_share => percent(n.as_f64().unwrap_or(0.0)),
            Value::Number(n) => format!("{:.3}", n.as_f64().unwrap_or(0.0)),
            _ => "-".into(),
        };
        let name = row["model"].as_str().unwrap_or_default().to_string();
        cells.push(std::iter::once(name).chain(figures.map(cell)).collect());
    }
    cells
}

/// A difference over `n` products with its interval, marked where that leaves out 0 and stands on more than a handful.
pub fn marked(n: usize, mean: f64, half: Option<f64>) -> String {
    let sure = n >= FEW && half.is_some_and(|half| mean.abs() > half);
    format!("{}{}", figure(mean, half), if sure { "*" } else { " " })
}

/// A mean and its interval.
pub fn figure(mean: f64, half: Option<f64>) -> String {
    format!("{mean:+.3}{}", spread(half, 3))
}

/// The half width behind a mean, where it is known.
pub fn spread(half: Option<f64>, digits: usize) -> String {
    half.map_or_else(String::new, |half| format!(" ±{half:.digits$}"))
}

/// Four characters, whatever the share.
fn percent(share: f64) -> String {
    if share < 0.0995 { format!("{:.1}%", 100.0 * share) } else { format!("{:.0}%", 100.0 * share) }
}

fn known(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), percent)
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |x| format!("{x:.2}"))
}
