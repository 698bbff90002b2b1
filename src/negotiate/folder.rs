//! Products from a folder in the AmazonHistoryPrice format: one JSON array a category, prices as strings.
//!
//! The one idea: the files are read exactly as published, and whatever is wrong is named by file and record.

use super::money::Cents;
use super::product::{MIN_LIST, Product};
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A description shorter than this many characters gives way to longer features, as in the data set's own loader.
const SHORT_DESCRIPTION: usize = 5;

/// Loads every `*.json` of a folder, in name order; the code of a record is `{file stem}_{n}`, n from 1.
/// Errors name the folder, or the file and the record.
pub fn load(folder: &Path) -> Result<Vec<Product>> {
    let mut files = json_files(folder)?;
    files.sort();
    if files.is_empty() {
        return Err(Error::data(folder, "no product files: want one JSON array a category, such as books.json"));
    }
    let mut products = Vec::new();
    for file in &files {
        products.extend(load_file(file)?);
    }
    if products.is_empty() {
        return Err(Error::data(folder, "the product files hold no record"));
    }
    Ok(products)
}

fn json_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).map_err(|e| Error::io(folder, format!("cannot read the product folder: {e}")))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.extension().is_some_and(|e| e == "json") && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn load_file(file: &Path) -> Result<Vec<Product>> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, format!("cannot be read: {e}")))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::data(file, format!("is not JSON: {e}")))?;
    let records =
        json.as_array().ok_or_else(|| Error::data(file, format!("want an array of records, got {}", kind(&json))))?;
    let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let product = |(i, record)| {
        parse_record(record, &stem, i).map_err(|what| Error::data(file, format!("record {}: {what}", i + 1)))
    };
    records.iter().enumerate().map(product).collect()
}

/// One record as a product, or what is wrong with it.
pub(crate) fn parse_record(record: &Value, stem: &str, index: usize) -> std::result::Result<Product, String> {
    if !record.is_object() {
        return Err(format!("want an object, got {}", kind(record)));
    }
    let title = text(record, "title")?.ok_or("`title` is missing")?;
    if title.trim().is_empty() {
        return Err("`title` is empty".into());
    }
    let list = price(record, "list_price")?.max(price(record, "highest_price")?);
    let highest = price(record, "highest_price")?;
    let lowest = price(record, "lowest_price")?;
    if lowest > highest {
        return Err(format!("lowest price {} is above highest price {}", lowest.full(), highest.full()));
    }
    if list < MIN_LIST {
        return Err(format!("list price {} is under {}", list.full(), MIN_LIST.full()));
    }
    let category = text(record, "category")?.filter(|c| !c.is_empty()).unwrap_or(stem);
    let features = text(record, "features")?.unwrap_or_default();
    let mut description = text(record, "description")?.unwrap_or_default();
    if description.chars().count() < SHORT_DESCRIPTION && description.len() < features.len() {
        description = features;
    }
    Ok(Product::new(&format!("{stem}_{}", index + 1), category, title, description, list, lowest))
}

/// A text field; `None` when missing or null.
fn text<'a>(record: &'a Value, key: &str) -> std::result::Result<Option<&'a str>, String> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(other) => Err(format!("`{key}`: want text, got {}", kind(other))),
    }
}

/// A price above zero, as text (`"$1,123.50"`).
fn price(record: &Value, key: &str) -> std::result::Result<Cents, String> {
    let raw = match record.get(key) {
        None | Some(Value::Null) => return Err(format!("`{key}` is missing")),
        Some(Value::String(s)) => s.trim().to_string(),
        Some(Value::Number(n)) => n.to_string(),
        Some(other) => return Err(format!("`{key}`: want a price such as \"$19.99\", got {}", kind(other))),
    };
    match Cents::parse(&raw) {
        Some(cents) if cents.0 > 0 => Ok(cents),
        Some(_) => Err(format!("`{key}` is zero; want a price above zero")),
        None if raw.replace('$', "").trim().starts_with('-') => Err(format!("`{key}` is negative: {raw}")),
        None => Err(format!("`{key}` is not a price: {raw:?}; want for example \"$19.99\"")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
