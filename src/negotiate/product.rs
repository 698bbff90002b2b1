//! One product: its public description and list price, the seller's cost, the buyer's budget.
//!
//! The one idea: everything private follows from the published prices by one rule, so a scenario needs no sampling:
//! list L = max(list, highest), cost C = lowest, budget B = 0.8 L rounded down to the cent.

use super::catalog_words::CATEGORIES;
use super::money::Cents;
use super::protocol::Side;
use serde::{Deserialize, Serialize};

/// The compact style's code of a product of no category of the data set's.
const OTHER: &str = "other";

/// The smallest list price accepted: below it a budget grid has no distinct prices.
pub const MIN_LIST: Cents = Cents(10);

/// Whether a deal can pay both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scenario {
    /// Mutual interest: budget at or above cost. Equality counts here, as in the data set's own evaluator.
    #[serde(rename = "mi")]
    MutualInterest,
    /// Conflicting interest: budget below cost; the buyer should walk away.
    #[serde(rename = "ci")]
    ConflictingInterest,
}

impl Scenario {
    /// `mi` or `ci`, as in summaries.
    pub fn key(self) -> &'static str {
        match self {
            Scenario::MutualInterest => "mi",
            Scenario::ConflictingInterest => "ci",
        }
    }
}

/// A product to negotiate over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// `{category}_{n}`, n counted from 1 in the category's file.
    pub code: String,
    /// Category as published, for example `home-kitchen`.
    pub category: String,
    /// Full title.
    pub title: String,
    /// Description, or features where the description is missing or short; may be empty.
    pub description: String,
    /// List price shown to both sides.
    pub list: Cents,
    /// Seller's cost: private to the seller, and the regulator's floor.
    pub cost: Cents,
    /// Buyer's budget: private to the buyer.
    pub budget: Cents,
}

impl Product {
    /// A product from its prices: `list` is already max(list, highest).
    /// Requires `MIN_LIST <= list`, `0 < cost <= list`; the loader checks and names the record.
    pub fn new(code: &str, category: &str, title: &str, description: &str, list: Cents, cost: Cents) -> Product {
        Product {
            code: code.into(),
            category: category.into(),
            title: title.into(),
            description: description.into(),
            list,
            cost,
            budget: Cents(list.0 * 4 / 5),
        }
    }

    /// The same product with a budget of its own; requires `0 < budget <= list`.
    pub fn with_budget(self, budget: Cents) -> Product {
        Product { budget, ..self }
    }

    /// What is wrong with prices of one's own, a line each: a list price too small, a cost or budget out of its range.
    pub fn faults(list: Cents, cost: Cents, budget: Option<Cents>) -> Vec<String> {
        let mut wrong = Vec::new();
        if list < MIN_LIST {
            wrong.push(format!("list price {} is under {}", list.full(), MIN_LIST.full()));
        }
        for (name, price) in [("cost", Some(cost)), ("budget", budget)] {
            let Some(price) = price else { continue };
            if price.0 <= 0 {
                wrong.push(format!("{name} is zero; want a price above zero"));
            } else if price > list {
                wrong.push(format!("{name} {} is above the list price {}", price.full(), list.full()));
            }
        }
        wrong
    }

    /// Mutual interest when the budget covers the cost, else conflicting interest.
    pub fn scenario(&self) -> Scenario {
        if self.budget >= self.cost { Scenario::MutualInterest } else { Scenario::ConflictingInterest }
    }

    /// The number `side` must keep to itself: the buyer's budget, the seller's cost.
    pub fn private(&self, side: Side) -> Cents {
        match side {
            Side::Buyer => self.budget,
            Side::Seller => self.cost,
        }
    }

    /// The item's code in the compact style: the first word of the data set's 18 categories (`tools` of
    /// `tools-home-improvement`), and `other`, which is one of them, for a category of anyone's own. A model that knows few
    /// words copies these, and no text of a user's file gets into the grammar of actions.
    pub fn category_word(&self) -> &'static str {
        let own = self.category.split('-').next().unwrap_or_default();
        let known = CATEGORIES.iter().map(|c| c.name.split('-').next().unwrap_or_default());
        known.into_iter().find(|word| word.eq_ignore_ascii_case(own)).unwrap_or(OTHER)
    }

    /// A short ASCII name for the compact style: the title up to its first separator, then whole words up to 32 characters.
    pub fn short_name(&self) -> String {
        let head = self.title.split([',', '(', '|', ':', '–', '—', ';', '[']).next().unwrap_or("");
        let head = head.split(" - ").next().unwrap_or(head);
        let ascii: String = head.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        let mut name = String::new();
        for word in ascii.split_whitespace() {
            if !name.is_empty() && name.len() + 1 + word.len() > 32 {
                break;
            }
            if !name.is_empty() {
                name.push(' ');
            }
            name.push_str(word);
        }
        name.truncate(32);
        if name.is_empty() { "item".into() } else { name }
    }

    /// The title as one line of a prompt: a line break in it would read as another field.
    pub fn title_line(&self) -> String {
        self.title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// What products of the same title share.
    pub fn likeness(&self) -> String {
        folded(&self.title)
    }

    /// Whether the product belongs to the held-out test set: FNV-1a 64 of `haggle split 1`, code and title, modulo 7, is zero.
    /// The rule looks at one product alone, so adding products to a folder never moves another one.
    pub fn is_held_out(&self) -> bool {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in format!("haggle split 1\n{}\n{}", self.code, self.title).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // The low bits of FNV mix least; fold the high half in before the remainder.
        (hash ^ (hash >> 32)).is_multiple_of(7)
    }
}

/// Splits products into (train, test) by [`Product::is_held_out`], keeping their order.
pub fn split(products: &[Product]) -> (Vec<Product>, Vec<Product>) {
    let (test, train): (Vec<Product>, Vec<Product>) = products.iter().cloned().partition(Product::is_held_out);
    (train, test)
}

/// A text without regard to white space and case.
pub(super) fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}
