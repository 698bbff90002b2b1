//! Rows of Parquet, as LMArena ships its votes.
//!
//! The one idea: only the columns that count are decoded, so the conversations beside them cost nothing; a row then goes
//! the way of a JSON object.

use super::csv_rows::listed;
use super::sink::Sink;
use super::{COUNTS, Columns, PAIR, Stop, WINNER, json_rows};
use crate::error::{Error, Result};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::schema::types::Type;
use std::path::Path;

/// Counts the rows of a Parquet file, uncompressed or by Snappy.
pub(super) fn read(path: &Path, columns: &Columns, sink: &mut Sink) -> Result<(), Stop> {
    let broken = |e: ParquetError| Error::data(path, format!("cannot be read as Parquet: {e}; write it as csv"));
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    let file = SerializedFileReader::new(file).map_err(broken)?;
    let columns_read = wanted(path, file.metadata().file_metadata().schema(), columns)?;
    let rows = file.get_row_iter(Some(columns_read)).map_err(broken)?;
    for (row, record) in (1..).zip(rows) {
        json_rows::take(&record.map_err(broken)?.to_json_value(), path, columns, sink, row, None)?;
    }
    Ok(())
}

/// The columns that count, of a file's.
fn wanted(path: &Path, schema: &Type, columns: &Columns) -> Result<Type> {
    let names: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_string()).collect();
    let has = |name: &str| names.iter().any(|known| known == name);
    let refuse = |what: String| Err(Error::data(path, format!("{what}; its columns are {}", listed(&names))));
    let ways = [Some(columns.category()), columns.persona(), Some(columns.cluster())];
    let asked = ways.into_iter().flatten().filter_map(|wanted| Some((wanted.name, wanted.by?)));
    let covariates = columns.covariates.iter().map(|name| (name.as_str(), "--covariates"));
    if let Some((name, by)) = asked.chain(covariates).find(|(name, _)| !has(name)) {
        return refuse(format!("has no column `{name}`, which {by} names"));
    }
    if let Some(name) = PAIR.into_iter().find(|name| !has(name)) {
        return refuse(format!("has no column `{name}`"));
    }
    let counted = has(COUNTS[0]) && has(COUNTS[1]);
    if !has(WINNER) && !counted {
        return refuse(format!("has neither `{WINNER}` nor `wins_a` and `wins_b`"));
    }
    let named = ways.into_iter().flatten().map(|wanted| wanted.name);
    let named = named.chain(columns.covariates.iter().map(String::as_str));
    let counted: Vec<&str> = PAIR.into_iter().chain([WINNER, "weight"]).chain(COUNTS).chain(named).collect();
    let fields = schema.get_fields().iter().filter(|field| counted.contains(&field.name())).cloned().collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
    projection.map_err(|e| Error::data(path, format!("cannot be read as Parquet: {e}")))
}
