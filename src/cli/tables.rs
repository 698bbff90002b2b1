//! The final tables in a terminal, as wide as it is: buyers on held-out products with 95 % intervals, and paired differences.

use super::out;
use crate::eval::Difference;
use crate::eval::protocol::{Beside, comparable};
use crate::eval::tables::{CONDUCT, LEAST, VERDICT, cases, conduct, matrix, names, spread};
use crate::negotiate::metrics::Row;
use serde_json::Value;

/// The final tables of an evaluation, `width` characters wide at most: who earned what against whom, how the buyers played, and
/// by how much the model is ahead.
pub fn all(rows: &[Row], differences: &[Difference], width: usize) -> String {
    let played = played(rows, width);
    let several = names(rows, |row| &row.seller).len() > 1;
    let reward = if several {
        format!("reward by seller and buyer\n{}\n", out::fitted(&matrix(rows), width))
    } else {
        String::new()
    };
    let cases: String = cases(rows).filter(|_| !several).map(|line| format!("{line}\n")).collect();
    format!("{reward}{played}{cases}\n{}", self::differences(differences, width))
}

/// How buyers played, in as many columns as there is room for, and what they mean.
fn played(rows: &[Row], width: usize) -> String {
    let shown = |n: usize| out::columns(&conduct(rows, &CONDUCT[..n], |column| column.short));
    let fits = |text: &String| text.lines().all(|line| line.chars().count() <= width);
    let wide = (LEAST..=CONDUCT.len()).rev().map(|n| (n, shown(n))).find(|(_, text)| fits(text));
    match wide {
        Some((n, text)) => format!("{text}{LEGEND}\n{}", if n > LEAST { MORE } else { "" }),
        // Long names leave no room for the intervals, which the matrix has too.
        None => {
            let mut cells = conduct(rows, &CONDUCT[..LEAST], |column| column.short);
            let bare = |cell: &mut String| cell.truncate(cell.find(" ±").unwrap_or(cell.len()));
            cells.iter_mut().for_each(|line| bare(&mut line[2]));
            format!("{}{LEGEND}\n", out::columns(&cells))
        }
    }
}

/// What the columns mean, under the table.
pub const LEGEND: &str = "\
± is the 95 % interval over products, where there are two or more.
share: of what there was to gain. 1st: first bid over budget. over, broke: games
lost on a price above budget, on a broken reply. cross, fall: bids at or above
the ask, below the bid before. word: replies that say what only sellers say.";

/// What the columns of a wide terminal mean.
const MORE: &str = "\
quit: the seller left. whole: reward with losses as 0. said: bids at the price
that the thought names. why: replies with a reason. fixed: corrections of the
seller, a game.
";

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

/// Paired differences of reward over all products.
fn differences(all: &[Difference], width: usize) -> String {
    let cells = crate::eval::tables::differences(all);
    let Some(first) = all.first() else { return String::new() };
    format!("reward of {}, less that of\n{}{VERDICT}\n", first.buyer, out::fitted(&cells, width))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::metrics::{EpisodeFacts, rows};
    use crate::negotiate::{Buyer, Rules, Seller, catalog, play};
    use crate::noise::Noise;
    use std::sync::Arc;

    fn table(buyers: &[&str], sellers: &[&str]) -> Vec<Row> {
        let products: Vec<_> = catalog::products(9, 3).unwrap().into_iter().map(Arc::new).collect();
        let game =
            |i: usize| play(Buyer::Naive, Seller::Teacher, &products[i], Rules::default(), Noise::new(1, i as u64));
        let facts: Vec<EpisodeFacts> = (0..9).map(|i| EpisodeFacts::of(&game(i))).collect();
        sellers.iter().flat_map(|seller| buyers.iter().flat_map(|buyer| rows(buyer, seller, &facts))).collect()
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn tables_fit_80_characters_and_grow_with_the_terminal() {
        let buyers = ["untrained", "best_of_8", "og_narrator", "trained"];
        for sellers in [&["base"][..], &["base", "base_begging", "base_talkative", "prompt_injector"]] {
            let rows = table(&buyers, sellers);
            let wide: Vec<usize> = [80, 100, 120, 200]
                .map(|width| {
                    let text = all(&rows, &[], width);
                    assert!(widest(&text) <= width, "{width}:\n{text}");
                    assert!(text.contains("word"), "{text}");
                    widest(&text)
                })
                .into();
            assert!(wide.is_sorted() && wide[0] < wide[2], "{wide:?}");
            assert!(all(&rows, &[], 200).contains("seller, a game."), "the further columns are explained");
        }
    }

    #[test]
    fn a_table_of_many_buyers_is_cut_into_parts_that_fit() {
        let names: Vec<String> = (0..9).map(|i| format!("a_buyer_{i}")).collect();
        let buyers: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = all(&table(&buyers, &["base", "boulware"]), &[], 80);
        assert!(widest(&text) <= 80 && names.iter().all(|name| text.contains(name.as_str())), "{text}");
    }
}
