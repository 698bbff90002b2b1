//! Rows of a csv file, by the names in its head.

use super::sink::Sink;
use super::{ALL, COUNTS, Columns, PAIR, Raw, Stop, WINNER, Wanted};
use crate::error::{Error, Result};
use csv::StringRecord;
use std::borrow::Cow;
use std::path::Path;

/// Where in a record what stands.
struct Head {
    models: [usize; 2],
    winner: Option<usize>,
    counts: Option<[Option<usize>; 3]>,
    category: Option<usize>,
    persona: Option<usize>,
    cluster: Option<usize>,
    weight: Option<usize>,
    covariates: Vec<usize>,
}

/// Counts the rows of a csv file.
pub(super) fn read(path: &Path, columns: &Columns, sink: &mut Sink) -> Result<(), Stop> {
    let broken = |e: csv::Error| Error::data(path, broken(&e));
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    let mut rows = csv::ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(file);
    let head = Head::of(path, rows.headers().map_err(broken)?, columns)?;
    let (mut record, mut row) = (StringRecord::new(), 0);
    while rows.read_record(&mut record).map_err(broken)? {
        row += 1;
        sink.take(&head.raw(&record), row, record.position().map(csv::Position::line))?;
    }
    Ok(())
}

impl Head {
    fn of(path: &Path, head: &StringRecord, columns: &Columns) -> Result<Head> {
        let clean = |name: &str| name.trim().trim_start_matches('\u{feff}').to_string();
        let names: Vec<String> = head.iter().map(clean).collect();
        let at = |name: &str| names.iter().position(|known| known == name);
        let refuse = |what: String| Error::data(path, format!("{what}; its columns are {}", listed(&names)));
        let need = |name: &str| at(name).ok_or_else(|| refuse(format!("has no column `{name}`")));
        let asked = |wanted: Wanted| match (at(wanted.name), wanted.by) {
            (None, Some(option)) => Err(refuse(format!("has no column `{}`, which {option} names", wanted.name))),
            (found, _) => Ok(found),
        };
        let models = [need(PAIR[0])?, need(PAIR[1])?];
        let winner = at(WINNER);
        let counts = COUNTS.map(at);
        let counted = counts[0].is_some() && counts[1].is_some();
        if winner.is_none() && !counted {
            return Err(refuse(format!("has neither `{WINNER}` nor `wins_a` and `wins_b`")));
        }
        Ok(Head {
            models,
            winner,
            counts: counted.then_some(counts),
            category: asked(columns.category())?,
            persona: columns.persona().map_or(Ok(None), asked)?,
            cluster: asked(columns.cluster())?,
            weight: at("weight"),
            covariates: columns
                .covariates
                .iter()
                .map(|name| at(name).ok_or_else(|| refuse(format!("has no column `{name}`, which --covariates names"))))
                .collect::<Result<_>>()?,
        })
    }

    fn raw<'a>(&self, record: &'a StringRecord) -> Raw<'a> {
        let text = |at: usize| Cow::Borrowed(record.get(at).unwrap_or_default());
        Raw {
            models: self.models.map(text),
            winner: self.winner.map(text),
            counts: self
                .counts
                .filter(|_| self.winner.is_none())
                .map(|counts| counts.map(|at| at.map_or(Cow::Borrowed("0"), text))),
            category: self.category.map_or(Cow::Borrowed(ALL), text),
            more: Vec::new(),
            persona: self.persona.map_or(Cow::Borrowed(""), text),
            cluster: self.cluster.map(text),
            weight: self.weight.map(text),
            covariates: self.covariates.iter().map(|at| text(*at)).collect(),
        }
    }
}

/// The first names, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// What the parser says, in our words.
fn broken(e: &csv::Error) -> String {
    let line = e.position().map_or(String::new(), |at| format!("line {}: ", at.line()));
    match e.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{line}has {len} fields where the head has {expected_len}; is a comma inside a text not quoted?")
        }
        csv::ErrorKind::Utf8 { .. } => format!("{line}is not UTF-8; save the file as UTF-8"),
        _ => format!("cannot be read as csv: {e}"),
    }
}
