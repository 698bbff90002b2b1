//! Rows of JSON: an object a line, or one array of objects.

use super::csv_rows::listed;
use super::sink::{Sink, place};
use super::{ALL, COUNTS, Columns, PAIR, Raw, Stop, WINNER, Wanted};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Counts the rows of a file of JSON.
pub(super) fn read(path: &Path, columns: &Columns, sink: &mut Sink) -> Result<(), Stop> {
    let failed = |e: std::io::Error| Error::io(path, format!("cannot be read: {e}"));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut lines = BufReader::with_capacity(1 << 18, file);
    let (mut text, mut row, mut line) = (String::new(), 0, 0);
    loop {
        text.clear();
        line += 1;
        if lines.read_line(&mut text).map_err(failed)? == 0 {
            return Ok(());
        }
        let object = text.trim().trim_start_matches('\u{feff}');
        if row == 0 && object.starts_with('[') {
            return array(path, columns, sink);
        }
        if object.is_empty() {
            continue;
        }
        row += 1;
        let value: Value =
            serde_json::from_str(object).map_err(|e| Error::data(path, format!("line {line}: is not JSON: {e}")))?;
        take(&value, path, columns, sink, row, Some(line))?;
    }
}

fn array(path: &Path, columns: &Columns, sink: &mut Sink) -> Result<(), Stop> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let rows: Vec<Value> =
        serde_json::from_slice(bytes).map_err(|e| Error::data(path, format!("is no array of JSON: {e}")))?;
    for (row, value) in (1..).zip(&rows) {
        take(value, path, columns, sink, row, None)?;
    }
    Ok(())
}

/// Counts one object; its line is said where rows stand on lines.
pub(super) fn take(
    value: &Value,
    path: &Path,
    columns: &Columns,
    sink: &mut Sink,
    row: u64,
    line: Option<u64>,
) -> Result<(), Stop> {
    let wrong = |what: String| Error::data(path, format!("{}: {what}", place(row, line)));
    let Value::Object(fields) = value else {
        return Err(wrong("want an object with model_a, model_b, winner".into()).into());
    };
    let raw = raw(fields, columns).map_err(wrong)?;
    sink.take(&raw, row, line)
}

fn raw<'a>(fields: &'a Map<String, Value>, columns: &Columns) -> Result<Raw<'a>, String> {
    let names = || listed(&fields.keys().cloned().collect::<Vec<_>>());
    let need = |name: &str| match fields.get(name) {
        None => Err(format!("has no `{name}`; it has {}", names())),
        Some(value) => word(value, name),
    };
    let asked = |wanted: Wanted| match (fields.get(wanted.name), wanted.by) {
        (None, Some(option)) => Err(format!("has no `{}`, which {option} names; it has {}", wanted.name, names())),
        (found, _) => Ok(found.filter(|value| !value.is_null())),
    };
    let counted = fields.contains_key(COUNTS[0]) && !fields.contains_key(WINNER);
    let counts = || -> Result<[Cow<'a, str>; 3], String> {
        let ties = fields.get(COUNTS[2]).map_or(Ok(Cow::Borrowed("0")), |value| word(value, COUNTS[2]))?;
        Ok([need(COUNTS[0])?, need(COUNTS[1])?, ties])
    };
    let category = columns.category();
    let words: Vec<Cow<str>> = match asked(category)? {
        None => vec![Cow::Borrowed(ALL)],
        Some(Value::Array(all)) => all.iter().map(|one| word(one, category.name)).collect::<Result<_, _>>()?,
        Some(one) => vec![word(one, category.name)?],
    };
    let mut words = words.into_iter();
    Ok(Raw {
        models: [need(PAIR[0])?, need(PAIR[1])?],
        winner: if counted { None } else { Some(need(WINNER)?) },
        counts: if counted { Some(counts()?) } else { None },
        category: words.next().unwrap_or(Cow::Borrowed("")),
        more: words.collect(),
        persona: match columns.persona().map_or(Ok(None), asked)? {
            None => Cow::Borrowed(""),
            Some(value) => word(value, "persona")?,
        },
        cluster: asked(columns.cluster())?.map(|value| word(value, "cluster")).transpose()?,
        weight: fields.get("weight").filter(|value| !value.is_null()).map(|value| word(value, "weight")).transpose()?,
        covariates: columns.covariates.iter().map(|name| need(name)).collect::<Result<_, _>>()?,
    })
}

/// A text, a number or a truth value as a word.
fn word<'a>(value: &'a Value, name: &str) -> Result<Cow<'a, str>, String> {
    match value {
        Value::String(text) => Ok(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Ok(Cow::Owned(value.to_string())),
        Value::Null => Err(format!("`{name}` is null")),
        Value::Array(_) | Value::Object(_) => Err(format!("`{name}` is {value}; want a text or a number")),
    }
}
