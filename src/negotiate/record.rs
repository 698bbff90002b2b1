//! One record of the AmazonHistoryPrice format as a product.
//!
//! The one idea: everything wrong with a record is said at once, field by field.

use super::money::Cents;
use super::product::Product;
use serde_json::Value;

/// A description shorter than this many characters gives way to longer features, as in the data set's own loader.
const SHORT_DESCRIPTION: usize = 5;

/// A record as the product of a code; `category` stands in where it names none.
///
/// Published records have `list_price`, `highest_price` and `lowest_price`. One's own may say `cost` instead of the last two, and
/// either kind a `budget`.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn parse(record: &Value, code: &str, category: &str) -> Result<Product, String> {
    if !record.is_object() {
        return Err(format!("want an object, got {}", kind(record)));
    }
    let mut wrong = Vec::new();
    let title = told(title(record), &mut wrong).unwrap_or_default();
    let [list, cost] = told_prices(record, &mut wrong);
    let budget = told(own(record, "budget"), &mut wrong).flatten();
    let [named, features, text] =
        ["category", "features", "description"].map(|key| told(text(record, key), &mut wrong));
    if wrong.is_empty() {
        wrong.extend(Product::faults(list, cost, budget));
    }
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let category = named.flatten().filter(|c| !c.is_empty()).unwrap_or(category);
    let features = features.flatten().unwrap_or_default();
    let mut description = text.flatten().unwrap_or_default();
    if description.chars().count() < SHORT_DESCRIPTION && description.len() < features.len() {
        description = features;
    }
    let product = Product::new(code, category, title, description, list, cost);
    Ok(budget.map_or(product.clone(), |budget| product.with_budget(budget)))
}

/// List price and cost of a record; a cost of its own stands for the lowest price, and the highest is then not needed.
fn told_prices(record: &Value, wrong: &mut Vec<String>) -> [Cents; 2] {
    let cost = told(own(record, "cost"), wrong).flatten();
    let list = told(price(record, "list_price"), wrong).unwrap_or_default();
    if let Some(cost) = cost {
        let highest = told(own(record, "highest_price"), wrong).flatten();
        return [list.max(highest.unwrap_or_default()), cost];
    }
    let [highest, lowest] =
        ["highest_price", "lowest_price"].map(|key| told(price(record, key), wrong).unwrap_or_default());
    if wrong.is_empty() && lowest > highest {
        wrong.push(format!("lowest price {} is above highest price {}", lowest.full(), highest.full()));
    }
    [list.max(highest), lowest]
}

/// A price that a record may have; `None` when missing or null.
fn own(record: &Value, key: &str) -> Result<Option<Cents>, String> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => price(record, key).map(Some),
    }
}

/// A field's value, its fault noted.
fn told<T>(field: Result<T, String>, wrong: &mut Vec<String>) -> Option<T> {
    field.map_err(|what| wrong.push(what)).ok()
}

fn title(record: &Value) -> Result<&str, String> {
    let title = text(record, "title")?.ok_or("`title` is missing")?;
    if title.trim().is_empty() { Err("`title` is empty".into()) } else { Ok(title) }
}

/// A text field; `None` when missing or null.
fn text<'a>(record: &'a Value, key: &str) -> Result<Option<&'a str>, String> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(other) => Err(format!("`{key}`: want text, got {}", kind(other))),
    }
}

/// A price above zero, as text (`"$1,123.50"`).
fn price(record: &Value, key: &str) -> Result<Cents, String> {
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

/// What a JSON value is called in messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
