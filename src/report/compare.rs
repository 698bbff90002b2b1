//! Several runs beside each other: their tables, what they differ by, their curves; for the terminal and as one page.
//!
//! The one idea: two runs are compared on the products that both played, product by product; what they did not share is left
//! out, and how many are left is said.

use super::curves::{PANELS, across};
use super::files::RunFiles;
use super::parts::{boxed, document, escape};
use crate::error::Result;
use crate::eval::tables::figure;
use crate::eval::{GameLine, model_of};
use crate::negotiate::metrics::{EpisodeFacts, Row, reward_difference};
use crate::negotiate::stats::Estimate;
use serde::Serialize;
use std::path::Path;

/// A run or an evaluation.
pub struct One {
    /// What it is called: its folder's name, or its path where two are called so.
    pub name: String,
    /// Its files.
    pub files: RunFiles,
    /// The rows of its table.
    pub rows: Vec<Row>,
    /// The model it is about: the last buyer of its table that is no baseline.
    pub model: String,
    games: Vec<GameLine>,
}

/// Reward of one run's model less that of the first run's, paired by product.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Apart {
    /// The run.
    pub run: String,
    /// The first run.
    pub minus: String,
    /// The seller that both met.
    pub seller: String,
    /// The difference over products that both played.
    #[serde(flatten)]
    pub estimate: Estimate,
}

impl One {
    /// Reads a run directory.
    ///
    /// # Errors
    /// As [`RunFiles::read`], and [`crate::Error::Data`] for a table that cannot be read.
    pub fn read(dir: &Path) -> Result<One> {
        let files = RunFiles::read(dir)?;
        let rows = files.rows()?;
        let games = files.lines("games.jsonl")?;
        let name = dir.file_name().map_or_else(|| dir.to_string_lossy(), |name| name.to_string_lossy()).into_owned();
        let model = model_of(&rows).unwrap_or_default().to_string();
        Ok(One { name, files, rows, model, games })
    }

    fn facts(&self, seller: &str) -> Vec<EpisodeFacts> {
        let own = |game: &&GameLine| game.counts && game.buyer == self.model && game.seller == seller;
        self.games.iter().filter(own).map(|game| game.facts.clone()).collect()
    }

    /// The sellers of its table, in order.
    pub fn sellers(&self) -> Vec<&str> {
        let mut sellers: Vec<&str> = self.rows.iter().map(|row| row.seller.as_str()).collect();
        sellers.dedup();
        sellers
    }
}

/// Reads runs; those that share a name are called by their paths.
///
/// # Errors
/// As [`One::read`].
pub fn read(dirs: &[impl AsRef<Path>]) -> Result<Vec<One>> {
    let mut runs: Vec<One> = dirs.iter().map(|dir| One::read(dir.as_ref())).collect::<Result<_>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, dir) in runs.iter_mut().zip(dirs) {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = dir.as_ref().to_string_lossy().into_owned();
        }
    }
    Ok(runs)
}

/// Each run's model against the first's, for every seller that both met.
pub fn apart(runs: &[One]) -> Vec<Apart> {
    let Some((first, others)) = runs.split_first() else { return vec![] };
    let mut all = vec![];
    for run in others {
        for seller in run.sellers() {
            let estimate = reward_difference(&run.facts(seller), &first.facts(seller));
            if estimate.n > 0 {
                let (run, minus) = (run.name.clone(), first.name.clone());
                all.push(Apart { run, minus, seller: seller.into(), estimate });
            }
        }
    }
    all
}

/// All of it as one page that loads nothing.
///
/// # Errors
/// [`crate::Error::Data`] when a curve cannot be drawn.
pub fn page(runs: &[One]) -> Result<String> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = escape(&names.join(", "));
    let mut body = format!("<h1>haggle: {title}</h1>\n");
    body += &table(runs);
    body += &differences(&apart(runs));
    let files: Vec<(&str, &RunFiles)> = runs.iter().map(|run| (run.name.as_str(), &run.files)).collect();
    body += "<h2>Curves</h2>\n<div class=\"grid\">\n";
    for (panel, (key, label)) in PANELS.iter().flat_map(|panel| panel.lines.iter().map(move |line| (panel, line))) {
        if let Some(svg) = across(&files, key)? {
            let title = if panel.lines.len() > 1 { format!("{}: {label}", panel.title) } else { panel.title.into() };
            body += &format!("<figure><figcaption>{}</figcaption>{svg}</figure>\n", escape(&title));
        }
    }
    body += "</div>\n";
    Ok(document(&names.join(", "), &body, None))
}

fn table(runs: &[One]) -> String {
    let head =
        ["run", "seller", "buyer", "games", "reward", "deals", "over budget", "broken"].map(String::from).to_vec();
    let mut cells = vec![head];
    for run in runs {
        for row in run.rows.iter().filter(|row| row.scenario == "all") {
            cells.push(vec![
                run.name.clone(),
                row.seller.clone(),
                row.buyer.clone(),
                row.n.to_string(),
                figure(row.reward, row.reward_ci95),
                format!("{:.2}", row.deal_rate),
                format!("{:.1} %", 100.0 * row.overshoot_rate),
                format!("{:.1} %", 100.0 * row.format_error_rate),
            ]);
        }
    }
    format!("<h2>Held-out products</h2>\n{}", boxed("Held-out products", &cells))
}

fn differences(all: &[Apart]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let mut cells = vec![["run", "seller", "products of both", "difference"].map(String::from).to_vec()];
    for Apart { run, seller, estimate, .. } in all {
        let difference = figure(estimate.mean, estimate.ci95);
        cells.push(vec![run.clone(), seller.clone(), estimate.n.to_string(), difference]);
    }
    let title = format!("Reward, less that of {}", first.minus);
    format!("<h2>{}</h2>\n{}", escape(&title), boxed(&title, &cells))
}
