//! What is bargained over: an item of the person's own, or a product of a folder.

use crate::config::Config;
use crate::config::paths::place;
use crate::error::{Error, Result};
use crate::negotiate::{Cents, Product};
use crate::noise::Noise;
use crate::setup::{self, Stock, known};
use clap::Args;
use std::sync::Arc;

/// An item of one's own, on the command line.
#[derive(Args)]
pub struct Item {
    /// An item of your own: what it is
    #[arg(long, value_name = "TEXT", requires = "list")]
    title: Option<String>,
    /// Its list price, which both sides see
    #[arg(long, value_name = "PRICE", requires = "title")]
    list: Option<String>,
    /// What it costs the seller, who never sells below it (default: half of the list price)
    #[arg(long, value_name = "PRICE", requires = "title")]
    cost: Option<String>,
    /// What the buyer may spend (default: four fifths of the list price)
    #[arg(long, value_name = "PRICE", requires = "title")]
    budget: Option<String>,
    /// More about it
    #[arg(long, value_name = "TEXT", requires = "title")]
    description: Option<String>,
}

impl Item {
    /// The item as a product; none when none is named.
    ///
    /// # Errors
    /// [`Error::Config`] with everything wrong with its prices.
    pub fn product(&self) -> Result<Option<Product>> {
        let (Some(title), Some(list)) = (&self.title, &self.list) else { return Ok(None) };
        let mut wrong = Vec::new();
        let mut read = |name: &str, text: &str| {
            let cents = Cents::parse(text.trim());
            if cents.is_none() {
                wrong.push(format!("--{name} {text}: is no price; write for example 12.50"));
            }
            cents.unwrap_or_default()
        };
        let list = read("list", list);
        let cost = self.cost.as_deref().map_or(Cents(list.0 / 2), |text| read("cost", text));
        let budget = self.budget.as_deref().map(|text| read("budget", text));
        if title.trim().is_empty() {
            wrong.push("--title: is empty; say what is sold".into());
        }
        if wrong.is_empty() {
            wrong.extend(Product::faults(list, cost, budget));
        }
        if !wrong.is_empty() {
            return Err(Error::Config { problems: wrong });
        }
        let about = self.description.as_deref().unwrap_or_default();
        let product = Product::new("item_1", "other", title, about, list, cost);
        Ok(Some(budget.map_or(product.clone(), |budget| product.with_budget(budget))))
    }
}

/// Stream of noise below the seed.
const CHOICE: u64 = 4;

/// The product of game `game` of a sitting: the item, that of a code, or the next by the seed, held out where the folder has
/// such; and what should be known of the folder.
///
/// # Errors
/// What is wrong with item or folder, or a code that it does not hold.
pub fn choose(
    config: &Config,
    model: &str,
    item: &Item,
    code: Option<&str>,
    game: usize,
) -> Result<(Arc<Product>, Vec<String>)> {
    let (product, mut notes) = match item.product()? {
        Some(product) => (Arc::new(product), vec![]),
        None => of_folder(config, code, game)?,
    };
    notes.extend(known::warn(config, &[model], &[std::slice::from_ref(&product)])?);
    Ok((product, notes))
}

fn of_folder(config: &Config, code: Option<&str>, game: usize) -> Result<(Arc<Product>, Vec<String>)> {
    let Stock { train, held_out, notes } = setup::stock(config)?;
    let from = if held_out.is_empty() { &train } else { &held_out };
    let path = place(&config.products.path);
    let product = match code {
        None if from.is_empty() => return Err(Error::data(path, "holds no product to choose")),
        None => from[(Noise::new(config.seed, CHOICE).below(0, from.len()) + game) % from.len()].clone(),
        Some(code) => {
            let found = held_out.iter().chain(&train).find(|product| product.code == code).cloned();
            let near = from.first().map(|p| p.code.clone()).unwrap_or_default();
            found.ok_or_else(|| Error::data(path, format!("holds no product `{code}`; codes look like {near}")))?
        }
    };
    Ok((product, notes))
}
