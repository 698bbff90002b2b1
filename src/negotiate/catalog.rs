//! A generated catalog in the data set's own file format: the embedded default, where no product folder is given.
//!
//! The one idea: every record is a pure function of (seed, category, number), and becomes a product through the very
//! loader that reads published files. Prices follow the data set's deciles: list price by category, cost by share of list.

use super::catalog_words::{BRANDS, CATEGORIES, Category, FINISHES};
use super::money::Cents;
use super::product::Product;
use super::record;
use crate::error::{Error, Result};
use crate::noise::Noise;
use serde_json::{Value, json};
use std::path::Path;

/// Size of the embedded catalog, as many as the published data set holds.
pub const SIZE: usize = 930;
/// Seed of the embedded catalog.
pub const SEED: u64 = 1;

/// Deciles of lowest / list price, with the 95th percentile: above it (0.8) interests conflict.
const COST_SHARE: [(f64, f64); 12] = [
    (0.0, 0.10),
    (0.1, 0.25),
    (0.2, 0.328),
    (0.3, 0.40),
    (0.4, 0.456),
    (0.5, 0.496),
    (0.6, 0.552),
    (0.7, 0.592),
    (0.8, 0.656),
    (0.9, 0.712),
    (0.95, 0.80),
    (1.0, 0.97),
];

/// The embedded catalog.
pub fn embedded() -> Result<Vec<Product>> {
    products(SIZE, SEED)
}

/// About `size` products (the categories' shares, rounded, at least one each) under `seed`.
pub fn products(size: usize, seed: u64) -> Result<Vec<Product>> {
    let mut all = Vec::new();
    for category in &CATEGORIES {
        for (i, record) in records(category, size, seed).iter().enumerate() {
            let parsed = record::parse(record, &format!("{}_{}", category.name, i + 1), category.name);
            all.push(parsed.map_err(|what| Error::data(category.name, format!("record {}: {what}", i + 1)))?);
        }
    }
    Ok(all)
}

/// Writes the catalog as one JSON file a category into an existing or new folder.
pub fn write(folder: &Path, size: usize, seed: u64) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, format!("cannot be created: {e}")))?;
    for category in &CATEGORIES {
        let path = folder.join(format!("{}.json", category.name));
        let text = serde_json::to_string_pretty(&records(category, size, seed)).map_err(|e| Error::data(&path, e))?;
        std::fs::write(&path, text + "\n").map_err(|e| Error::io(&path, format!("cannot be written: {e}")))?;
    }
    Ok(())
}

fn records(category: &Category, size: usize, seed: u64) -> Vec<Value> {
    let count = ((category.share * size + SIZE / 2) / SIZE).max(1);
    let label = category.name.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(257).wrapping_add(u64::from(byte)));
    let noise = Noise::new(seed, 0x0063_6174_616c_6f67).child(label);
    (0..count).map(|i| record(category, noise.child(i as u64))).collect()
}

/// One record with the fields every published record has.
fn record(category: &Category, noise: Noise) -> Value {
    let list = Cents((list_dollars(category, noise.uniform_f64(0)) * 100.0).round() as i64);
    let top = psychological(list, noise, 1).max(Cents(499));
    let share = between(&COST_SHARE, noise.uniform_f64(3));
    let lowest = psychological(Cents((top.0 as f64 * share).round() as i64), noise, 4).min(top).max(Cents(50));
    let within = |counter, low: f64, high: f64| {
        let place = low + (high - low) * noise.uniform_f64(counter);
        Cents(lowest.0 + ((top.0 - lowest.0) as f64 * place) as i64)
    };
    // Half of the published products list at or above their highest price, half were once dearer than listed.
    let (list_price, highest) =
        if noise.uniform(6) < 0.5 { (top, within(7, 0.9, 1.0)) } else { (within(7, 0.4, 1.0), top) };
    let (title, description, features) = words(category, noise.child(8));
    let day = |counter| format!("Nov {:02}, 20{}", 1 + noise.below(counter, 28), 18 + noise.below(counter + 1, 6));
    json!({
        "title": title,
        "current_price": within(9, 0.0, 0.4).full(),
        "list_price": list_price.full(),
        "average_price": within(10, 0.2, 0.8).full(),
        "category": category.name,
        "badge": if noise.uniform(11) < 0.3 { "Best Price" } else { "" },
        "link": "",
        "description": description,
        "features": features,
        "lowest_price_date": day(12),
        "lowest_price": lowest.full(),
        "highest_price_date": day(14),
        "highest_price": highest.full(),
    })
}

/// A list price in dollars at quantile `u`, interpolated between the category's quartiles on a log scale.
fn list_dollars(category: &Category, u: f64) -> f64 {
    let logs: Vec<(f64, f64)> = category.dollars.iter().enumerate().map(|(i, d)| (i as f64 / 4.0, d.ln())).collect();
    between(&logs, u).exp()
}

/// Linear interpolation in ascending `(x, y)` knots.
fn between(knots: &[(f64, f64)], x: f64) -> f64 {
    let above = knots.iter().position(|k| k.0 >= x).unwrap_or(knots.len() - 1).max(1);
    let ((x0, y0), (x1, y1)) = (knots[above - 1], knots[above]);
    y0 + (y1 - y0) * ((x - x0) / (x1 - x0)).clamp(0.0, 1.0)
}

/// Shop prices: most end in .99, some in .00, .95, .98 or .49, few in anything.
fn psychological(price: Cents, noise: Noise, counter: u64) -> Cents {
    let dollars = price.0 / 100 * 100;
    Cents(match noise.uniform(counter) {
        u if u < 0.60 => dollars + 99,
        u if u < 0.74 => (dollars + 100).max(100),
        u if u < 0.79 => dollars + 95,
        u if u < 0.83 => dollars + 98,
        u if u < 0.86 => dollars + 49,
        _ => price.0,
    })
}

/// Title, description (sometimes missing or short, as in the data) and features.
fn words(category: &Category, noise: Noise) -> (String, String, String) {
    let pick = |counter, from: &[&'static str]| from[noise.below(counter, from.len())];
    let (brand, noun, finish) = (pick(0, &BRANDS), pick(1, &category.nouns), pick(2, &FINISHES));
    let first = noise.below(3, category.traits.len());
    let second = (first + 1 + noise.below(4, category.traits.len() - 1)) % category.traits.len();
    let (first, second) = (category.traits[first], category.traits[second]);
    let work = matches!(category.name, "books" | "movies-tv");
    let title = if work {
        format!("{noun}: Volume {} ({first})", 1 + noise.below(5, 12))
    } else {
        let letter = char::from(b'A' + noise.below(6, 26) as u8);
        format!("{brand} {noun} {letter}{}, {first}, {finish}", 10 * (1 + noise.below(5, 90)))
    };
    let description = match noise.uniform(7) {
        u if u < 0.08 => String::new(),
        u if u < 0.11 => "New".into(),
        _ if work => format!(
            "Product Description\n{noun}, {first} and {second}. From {brand}, in {}. A favorite in its kind.",
            pick(8, &["new condition", "sealed packaging", "a gift box"])
        ),
        _ => format!(
            "Product Description\nThe {brand} {noun} comes in {}. It is known for this: {first}; {second}. {}",
            finish.to_lowercase(),
            pick(8, &["A good choice for every day.", "Made to last for years.", "Everything you need is in the box."])
        ),
    };
    (title, description, format!("{first}\n{second}"))
}
