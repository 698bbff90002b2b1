//! The final tables: buyers on held-out products with 95 % intervals, and paired differences.

use super::out;
use crate::eval::protocol::{Beside, comparable};
use crate::eval::{Difference, model_of};
use crate::negotiate::metrics::Row;
use serde_json::Value;

/// Products below which an interval says too little for a verdict.
const FEW: usize = 8;

/// The final tables of an evaluation, 80 columns wide: who earned what against whom, how the buyers played, and by how much the
/// model is ahead.
pub fn all(rows: &[Row], differences: &[Difference]) -> String {
    let conduct = format!("{}{}\n", conduct(rows), LEGEND);
    let sellers = names(rows, |row| &row.seller);
    let reward =
        if sellers.len() > 1 { format!("reward by seller and buyer\n{}\n", matrix(rows)) } else { String::new() };
    let cases: String = cases(rows).filter(|_| sellers.len() == 1).map(|line| format!("{line}\n")).collect();
    format!("{reward}{conduct}{cases}\n{}", self::differences(differences))
}

/// The rows over all products.
fn whole(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.scenario == "all" && row.n > 0)
}

/// What rows are called, each once, in their order.
fn names(rows: &[Row], of: fn(&Row) -> &String) -> Vec<&str> {
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
fn matrix(rows: &[Row]) -> String {
    let (sellers, buyers) = (names(rows, |row| &row.seller), names(rows, |row| &row.buyer));
    let mut cells: Vec<Vec<String>> = vec![["seller"].iter().chain(&buyers).map(|name| (*name).into()).collect()];
    for seller in sellers {
        let mut line = vec![seller.to_string()];
        line.extend(buyers.iter().map(|buyer| {
            let row = whole(rows).find(|row| row.seller == seller && row.buyer == *buyer);
            row.map_or_else(|| "-".into(), |row| format!("{:+.3}{}", row.reward, spread(row.reward_ci95, 3)))
        }));
        cells.push(line);
    }
    out::columns(&cells)
}

/// How buyers played: every buyer against one seller, or the model against each of several.
fn conduct(rows: &[Row]) -> String {
    let (sellers, model) = (names(rows, |row| &row.seller), model_of(rows));
    let several = sellers.len() > 1;
    let of = |row: &&Row| !several || model == Some(&row.buyer);
    let head = "|n|reward|deals|share|1st|over|broke|cross|fall|word";
    let mut cells: Vec<Vec<String>> = vec![head.split('|').map(String::from).collect()];
    cells[0][0] = match (several, model, sellers.first()) {
        (true, Some(model), _) => format!("{model} against"),
        (false, _, Some(seller)) => format!("against {seller}"),
        _ => String::new(),
    };
    for row in whole(rows).filter(of) {
        // Four characters, whatever the share.
        let percent = |share: f64| {
            if share < 0.0995 { format!("{:.1}%", 100.0 * share) } else { format!("{:.0}%", 100.0 * share) }
        };
        let known = |share: Option<f64>| share.map_or_else(|| "-".into(), percent);
        cells.push(vec![
            if several { row.seller.clone() } else { row.buyer.clone() },
            row.n.to_string(),
            format!("{:+.3}{}", row.reward, if several { String::new() } else { spread(row.reward_ci95, 3) }),
            format!("{:.2}", row.deal_rate),
            share(row.bargained_ratio),
            share(row.first_offer_ratio),
            percent(row.overshoot_rate),
            percent(row.format_error_rate),
            known(row.crossed_bid_share),
            known(row.falling_bid_share),
            known(row.other_words_share),
        ]);
    }
    out::columns(&cells)
}

/// The model's reward where the budget covers the cost, and where it does not, a line each.
fn cases(rows: &[Row]) -> impl Iterator<Item = String> {
    let model = model_of(rows);
    let of = |case: &str| rows.iter().rfind(|row| row.scenario == case && row.n > 0 && model == Some(&row.buyer));
    let line = |row: &Row, what: &str| {
        let spread = spread(row.reward_ci95, 3);
        format!("{}, {} against {}: {:+.3}{spread} in {} games", row.scenario, row.buyer, row.seller, row.reward, row.n)
            + what
    };
    let mi = of("mi").map(|row| line(row, " whose budget covers the cost"));
    let ci = of("ci").map(|row| line(row, " where none is right to buy"));
    mi.into_iter().chain(ci)
}

/// What the columns mean, under the table.
pub const LEGEND: &str = "\
± is the 95 % interval over products, where there are two or more.
share: of what there was to gain. 1st: first bid over budget. over, broke: games
lost on a price above budget, on a broken reply. cross, fall: bids at or above
the ask, below the bid before. word: replies that say what only sellers say.";

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

/// Paired differences of reward over all products: a row a seller, a column a buyer that is beaten or not.
pub fn differences(all: &[Difference]) -> String {
    let all: Vec<&Difference> = all.iter().filter(|one| one.scenario == "all").collect();
    let Some(first) = all.first() else { return String::new() };
    let (mut sellers, mut others): (Vec<&str>, Vec<&str>) = (vec![], vec![]);
    for one in &all {
        for (list, name) in [(&mut sellers, &one.seller), (&mut others, &one.minus)] {
            if !list.contains(&name.as_str()) {
                list.push(name);
            }
        }
    }
    let heads = ["seller".into(), "products".into()].into_iter().chain(others.iter().map(|other| format!("- {other}")));
    let mut cells: Vec<Vec<String>> = vec![heads.collect()];
    for seller in sellers {
        let of = |other: &str| all.iter().find(|one| one.seller == seller && one.minus == other);
        let n = others.iter().filter_map(|other| of(other)).map(|one| one.n).max().unwrap_or(0);
        let mut line = vec![seller.to_string(), n.to_string()];
        line.extend(
            others.iter().map(|other| of(other).map_or_else(|| "-".into(), |one| marked(one.n, one.mean, one.ci95))),
        );
        cells.push(line);
    }
    format!("reward of {}, less that of\n{}{VERDICT}\n", first.buyer, out::columns(&cells))
}

/// What a mark behind a difference means.
pub const VERDICT: &str = "* the interval leaves out 0; below 8 products nothing is marked.";

/// A difference over `n` products with its interval, marked where that leaves out 0 and stands on more than a handful.
pub fn marked(n: usize, mean: f64, half: Option<f64>) -> String {
    let sure = n >= FEW && half.is_some_and(|half| mean.abs() > half);
    format!("{}{}", figure(mean, half), if sure { "*" } else { " " })
}

/// A mean and its interval.
pub fn figure(mean: f64, half: Option<f64>) -> String {
    format!("{mean:+.3}{}", spread(half, 3))
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
