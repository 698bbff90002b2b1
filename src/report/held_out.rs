//! The final table on a page: who earned what against whom, how the buyers played, by how much the model is ahead. A training
//! run and an evaluation show the same.

use super::files::RunFiles;
use super::parts::{boxed, escape};
use crate::error::Result;
use crate::eval::tables::{self, CONDUCT, Cells, VERDICT};

/// What the columns of how buyers played mean.
const CONDUCT_NOTE: &str = "\
Reward of a deal is (budget - price) / |budget - cost|, 0 without one; a game lost outright, on a price above the budget or on \
a broken reply, has -1. Deals: share of games. Share of the gain: the reward of deals alone. Crossed bids: at or above the \
standing ask. Falling bids: below the bid before. Seller's words: replies that say what only sellers say. Percentages are \
shares of games, bids or replies.";

/// All of it; nothing before the run has ended.
///
/// # Errors
/// [`crate::Error::Data`] for a table that cannot be read.
pub fn held_out(files: &RunFiles) -> Result<String> {
    let (rows, differences) = (files.rows()?, files.differences()?);
    if rows.is_empty() {
        return Ok(sets(files));
    }
    let sellers = tables::names(&rows, |row| &row.seller).len();
    let mut html = "<h2>Held-out products</h2>\n".to_string();
    if sellers > 1 {
        html += &titled(
            "Reward by seller and buyer",
            &tables::matrix(&rows),
            "Mean reward; ± is half the width of its 95 % interval over products, where there are two or more.",
        );
    }
    let conduct = tables::conduct(&rows, &CONDUCT, |column| column.long);
    html += &titled("How they played", &conduct, CONDUCT_NOTE);
    if sellers == 1 {
        let cases: Vec<String> = tables::cases(&rows).map(|line| escape(&line)).collect();
        html += &format!("<p class=\"lead\">{}</p>\n", cases.join("<br>"));
    }
    let by = tables::differences(&differences);
    if let Some(first) = differences.first().filter(|_| !by.is_empty()) {
        let note = format!("Paired by product, mean ± half the width of its 95 % interval. {VERDICT}");
        html += &titled(&format!("Reward of {}, less that of others", first.buyer), &by, &note);
    }
    Ok(html)
}

/// The table of a set task; nothing for the game.
fn sets(files: &RunFiles) -> String {
    let cells = tables::sets(&files.sets_json);
    if cells.len() < 2 {
        return String::new();
    }
    let note = "Means over the replies to held-out products. Worth: of a whole set under the config, a malformed one at its \
                penalty. Best, candidate: utility of the best candidate and of the mean one, from 0 to 1. Malformed: share of \
                replies that are no set. Distinct: share of candidates that say something no earlier one says. Size: \
                candidates of a set.";
    format!("<h2>Held-out products</h2>\n{}", titled("Replies of K candidates", &cells, note))
}

/// A table under its title, above what it says.
fn titled(title: &str, cells: &Cells, note: &str) -> String {
    format!("<h3>{0}</h3>\n{1}<p class=\"lead\">{2}</p>\n", escape(title), boxed(title, cells), escape(note))
}
