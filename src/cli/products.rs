//! `haggle products check`: a folder of products as every command would read it, and everything that is wrong with it.

use super::{Exit, Globals, out};
use crate::config::paths::spelled;
use crate::error::{Error, Result, shown};
use crate::negotiate::folder::{self, Folder, Problem};
use crate::negotiate::{Cents, Product, Scenario};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Options of `haggle products`.
#[derive(Args)]
pub struct ProductsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Read a folder of products and list every problem of it
    Check(CheckArgs),
}

#[derive(Args)]
#[command(after_help = "\
A folder holds .json or .jsonl files, one a category: an array of records, or one a line. A record is
  {\"title\": \"Blue mug\", \"list_price\": \"$12.50\", \"highest_price\": \"$12.50\", \"lowest_price\": \"$4.00\"}
as AmazonHistoryPrice publishes them, or, of one's own,
  {\"title\": \"Blue mug\", \"list_price\": 12.50, \"cost\": 4, \"budget\": 10}
with \"description\", \"features\" and \"category\" where there are any. The list price is the larger of list and highest price, the
seller's cost the lowest price, the buyer's budget four fifths of the list price, unless a record says its own.

Examples:
  haggle products check AmazonHistoryPrice
  haggle products check mine --json")]
struct CheckArgs {
    /// The folder
    #[arg(value_name = "DIR", value_parser = super::path())]
    folder: PathBuf,
}

/// Prints what a folder holds and what is wrong with it.
///
/// # Errors
/// As [`folder::check`]; [`Error::Data`] where something is wrong, after all of it was printed.
pub fn run(args: &ProductsArgs, globals: &Globals) -> Result<Exit> {
    let What::Check(CheckArgs { folder }) = &args.what;
    let (found, problems) = folder::check(folder)?;
    if globals.json {
        let text = serde_json::to_string_pretty(&counted(&found, &problems)).map_err(|e| Error::data(folder, e))?;
        out::line(&text);
    } else {
        out::print(&told(folder, &found, &problems));
    }
    match problems.len() {
        0 if found.products.is_empty() => Err(Error::data(folder, "the product files hold no record")),
        0 => Ok(Exit::Done),
        n => Err(Error::data(folder, format!("{n} {} wrong, and nothing would be read", are(n)))),
    }
}

fn are(n: usize) -> &'static str {
    if n == 1 { "record or file is" } else { "records or files are" }
}

fn counted(found: &Folder, problems: &[Problem]) -> Value {
    let (train, held_out) = found.split();
    let wrong = |(file, what): &Problem| json!({ "file": spelled(file), "what": what });
    json!({
        "products": found.products.len(),
        "train": train.len(),
        "held_out": held_out.len(),
        "mutual_interest": mutual(&found.products),
        "notes": found.notes,
        "problems": problems.iter().map(wrong).collect::<Vec<Value>>(),
    })
}

fn mutual(products: &[Product]) -> usize {
    products.iter().filter(|product| product.scenario() == Scenario::MutualInterest).count()
}

fn told(folder: &Path, found: &Folder, problems: &[Problem]) -> String {
    let (train, held_out) = found.split();
    let (n, mi) = (found.products.len(), mutual(&found.products));
    let mut lists: Vec<Cents> = found.products.iter().map(|product| product.list).collect();
    lists.sort();
    let mut lines = vec![
        format!(
            "{}: {n} products that can be read, {} to train on and {} held out",
            shown(folder),
            train.len(),
            held_out.len()
        ),
        format!("the budget covers the cost of {mi}, and does not of {}", n - mi),
    ];
    if let (Some(low), Some(high)) = (lists.first(), lists.last()) {
        lines.push(format!(
            "list prices from {} to {}, half of them up to {}",
            low.full(),
            high.full(),
            lists[n / 2].full()
        ));
    }
    lines.extend(found.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(problems.iter().map(|(file, what)| format!("wrong: {}: {what}", shown(file))));
    lines.into_iter().map(|line| out::plain(&line) + "\n").collect()
}
