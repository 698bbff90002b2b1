//! A row's words, understood or refused.
//!
//! The one idea: every refusal names the row, the column, the value and what would do.

use super::super::count::{Counter, Row};
use super::super::games::Tally;
use super::{COUNTS, Columns, MODELS, PAIR, Raw, Stop, WINNER};
use crate::error::Error;
use std::path::Path;

/// Where rows go.
pub(super) struct Sink<'a> {
    pub columns: &'a Columns,
    pub counter: Counter,
    pub path: &'a Path,
    /// Each row is a cluster of its own: rows stand in several categories.
    pub by_row: bool,
}

impl Sink<'_> {
    /// Counts a row; its line is said where rows stand on lines.
    pub(super) fn take(&mut self, raw: &Raw, row: u64, line: Option<u64>) -> Result<(), Stop> {
        let wrong = |what: String| Error::data(self.path, format!("{}: {what}", place(row, line)));
        let [a, b] = [&*raw.models[0], &*raw.models[1]];
        for (name, column) in [(a, PAIR[0]), (b, PAIR[1])] {
            if name.trim().is_empty() {
                return Err(wrong(format!("`{column}` is empty; want a model's name")).into());
            }
        }
        if a == b {
            return Err(wrong(format!("`{a}` plays against itself; leave such rows out")).into());
        }
        let won = won(raw).map_err(wrong)?;
        let weight = weight(raw.weight.as_deref()).map_err(wrong)?;
        let categories = || std::iter::once(&raw.category).chain(&raw.more);
        if categories().any(|name| name.trim().is_empty()) {
            return Err(wrong("its category is empty; name one, or leave the column out".into()).into());
        }
        if !raw.more.is_empty() && raw.cluster.is_none() && !self.by_row {
            return Err(Stop::SeveralCategories);
        }
        let named = raw.covariates.iter().zip(&self.columns.covariates);
        let features: Vec<f64> =
            named.map(|(text, name)| covariate(text, name)).collect::<Result<_, _>>().map_err(wrong)?;
        let own;
        let cluster = match &raw.cluster {
            Some(name) => Some(&**name),
            None if self.by_row => {
                own = format!("{} {row}", self.path.display());
                Some(own.as_str())
            }
            None => None,
        };
        for category in categories() {
            self.counter.add(Row { a, b, won, category, persona: &raw.persona, cluster, weight, features: &features });
        }
        if self.counter.models() > MODELS {
            let what = format!(
                "is the first with more than {MODELS} different models; do `model_a` and `model_b` name models?"
            );
            return Err(wrong(what).into());
        }
        Ok(())
    }
}

/// Which row: `row 3 (line 4)`.
pub(super) fn place(row: u64, line: Option<u64>) -> String {
    line.map_or(format!("row {row}"), |line| format!("row {row} (line {line})"))
}

/// What came of a row's games.
fn won(raw: &Raw) -> Result<Tally, String> {
    if let Some(winner) = &raw.winner {
        return winner_of(winner);
    }
    let Some(counts) = &raw.counts else { return Err(format!("`{WINNER}` is missing")) };
    let mut numbers = [0.0; 3];
    for ((text, column), number) in counts.iter().zip(COUNTS).zip(&mut numbers) {
        *number = amount(text, column, if column == "ties" { Some(0.0) } else { None })?;
    }
    Ok(Tally { a: numbers[0], b: numbers[1], tie: numbers[2] })
}

/// The winner's word.
fn winner_of(word: &str) -> Result<Tally, String> {
    let (a, b, tie) = match word.trim() {
        "model_a" | "1" | "1.0" => (1.0, 0.0, 0.0),
        "model_b" | "0" | "0.0" => (0.0, 1.0, 0.0),
        "tie" | "tie (bothbad)" | "both_bad" | "bothbad" | "0.5" => (0.0, 0.0, 1.0),
        other => {
            return Err(format!(
                "`{WINNER}` is {other:?}; want model_a, model_b, tie, tie (bothbad) or both_bad, or 1, 0 or 0.5 for model_a"
            ));
        }
    };
    Ok(Tally { a, b, tie })
}

fn weight(text: Option<&str>) -> Result<f64, String> {
    text.map_or(Ok(1.0), |text| amount(text, "weight", Some(1.0)))
}

/// A covariate's number.
fn covariate(text: &str, column: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && number.abs() < 1e100);
    number.ok_or_else(|| format!("`{column}` is {text:?}; want a number: that of model_a less that of model_b"))
}

/// A number of at least 0; `usual` where there is no text.
fn amount(text: &str, column: &str, usual: Option<f64>) -> Result<f64, String> {
    let text = text.trim();
    match (text.parse::<f64>(), usual) {
        (_, Some(usual)) if text.is_empty() => Ok(usual),
        (Ok(number), _) if number.is_finite() && (0.0..1e15).contains(&number) => Ok(number),
        (Ok(number), _) if number < 0.0 => Err(format!("`{column}` is negative: {text}; want 0 or more")),
        _ => Err(format!("`{column}` is {text:?}; want a number of 0 or more")),
    }
}
