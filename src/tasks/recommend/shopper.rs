//! Recommendation: a shopper needs a category, a price limit and an attribute; what is told of them is a part.
//!
//! The one idea: needs come from one listed product, so each case has an answer; the words leave needs out at random, so
//! a good set spreads over what fits. `u` = share of needs met, 0 above the limit, 0 for no listed code.

use crate::negotiate::{Cents, Product};
use crate::noise::Noise;
use crate::tasks::sets::Scored;
use crate::tasks::{Prompt, pick};
use std::sync::Arc;

/// Products listed.
pub const LISTED: usize = 6;
/// Needs of a shopper: limit, category, attribute.
pub const NEEDS: usize = 3;
/// Share of demonstrated choices that fit what is told: the base has an idea of it, training the rest.
const FITS: f32 = 0.4;
/// Most characters of a title in the list.
const TITLE: usize = 32;

/// A shopper and what is on offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Shopper {
    listed: Vec<Arc<Product>>,
    target: usize,
    limit: Cents,
    category: String,
    attribute: String,
    told: [bool; NEEDS],
}

impl Shopper {
    /// The case of `target` among products drawn from `all`.
    pub fn new(target: &Arc<Product>, all: &[Arc<Product>], noise: Noise) -> Shopper {
        let mut listed: Vec<Arc<Product>> = (1..LISTED as u64).map(|i| pick(noise, i, all).clone()).collect();
        let at = noise.below(0, LISTED);
        listed.insert(at, target.clone());
        let words = attributes(target);
        let told = [0.8, 0.6, 0.6].map(|p| p as f32);
        Shopper {
            target: at,
            limit: Cents((target.list.0 as f64 * (1.0 + 0.3 * noise.uniform_f64(20))) as i64 / 100 * 100 + 100),
            category: target.category_word().into(),
            attribute: pick(noise, 21, &words).clone(),
            told: std::array::from_fn(|i| noise.uniform(22 + i as u64) < told[i]),
            listed,
        }
    }

    /// What the model is told.
    pub fn prompt(&self, k: usize) -> Prompt {
        let line = |(i, p): (usize, &Arc<Product>)| {
            let title: String = p.title_line().chars().take(TITLE).collect();
            format!("\n{} {} {title}", code(i, p), p.list.plain())
        };
        let words =
            [format!("under {}", self.limit.plain()), self.category.clone(), format!("with {}", self.attribute)];
        let told: Vec<String> = words.into_iter().zip(self.told).filter(|w| w.1).map(|w| w.0).collect();
        let told = if told.is_empty() { "anything".into() } else { told.join(", ") };
        Prompt {
            system: format!("shop {k}{}", self.listed.iter().enumerate().map(line).collect::<String>()),
            incoming: format!("want: {told}"),
        }
    }

    /// What a proposal is worth.
    pub fn score(&self, text: &str) -> Scored {
        let Some(at) = (0..LISTED).find(|i| code(*i, &self.listed[*i]) == text.trim()) else {
            return Scored { utility: 0.0, covers: 0 };
        };
        let p = &self.listed[at];
        if p.list > self.limit {
            return Scored { utility: 0.0, covers: 0 };
        }
        let met = [true, p.category_word() == self.category, attributes(p).contains(&self.attribute)];
        let covers = met.iter().enumerate().fold(0, |bits, (i, met)| bits | u64::from(*met) << i);
        Scored { utility: f64::from(covers.count_ones()) / NEEDS as f64, covers }
    }

    /// The answer that meets every need: the code of the product they were taken from.
    pub fn reference(&self) -> String {
        code(self.target, &self.listed[self.target])
    }

    /// A demonstration: K codes, each of a product that fits what is told with probability `FITS`, else any.
    pub fn demonstration(&self, k: usize, noise: Noise) -> (String, Vec<String>) {
        let fitting: Vec<usize> = (0..LISTED).filter(|i| self.fits(&self.listed[*i])).collect();
        let one = |i: u64| match noise.uniform(2 * i) < FITS && !fitting.is_empty() {
            true => *pick(noise, 2 * i + 1, &fitting),
            false => noise.below(2 * i + 1, LISTED),
        };
        ("options".into(), (0..k as u64).map(one).map(|at| code(at, &self.listed[at])).collect())
    }

    /// Whether a product meets every need that is told.
    fn fits(&self, p: &Product) -> bool {
        let met = [p.list <= self.limit, p.category_word() == self.category, attributes(p).contains(&self.attribute)];
        met.into_iter().zip(self.told).all(|(met, told)| met || !told)
    }
}

/// The code name of a listed product: its category's word and its letter in the list.
fn code(at: usize, p: &Product) -> String {
    format!("{} {}", p.category_word(), char::from(b'A' + at as u8))
}

/// Words of a product's text that a shopper may ask for: of its title, four letters or more, lower case.
fn attributes(p: &Product) -> Vec<String> {
    let words = p.title.chars().take(TITLE).collect::<String>().to_lowercase();
    let words = words.split(|c: char| !c.is_alphabetic()).filter(|w| w.len() >= 4).map(String::from);
    let found: Vec<String> = words.collect();
    if found.is_empty() { vec![p.category_word().to_string()] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(told: [bool; NEEDS]) -> Shopper {
        let product = |category: &str, title: &str, list: i64| {
            Arc::new(Product::new("x_1", category, title, "", Cents(list), Cents(list / 2)))
        };
        let listed = vec![
            product("books", "Garden Birds", 2_000),
            product("toys", "Wooden Train", 1_500),
            product("books", "Wooden Boats", 1_000),
            product("books", "Garden Wildlife", 9_000),
            product("home", "Oak Shelf", 500),
            product("home", "Garden Chair", 800),
        ];
        Shopper { listed, target: 0, limit: Cents(2_500), category: "books".into(), attribute: "garden".into(), told }
    }

    #[test]
    fn a_proposal_is_worth_the_needs_it_meets_and_nothing_above_the_limit() {
        let case = case([true; NEEDS]);
        let utility = |code: &str| case.score(code).utility * 3.0;
        assert_eq!(["books A", " books C ", "home F", "toys B"].map(utility), [3.0, 2.0, 2.0, 1.0]);
        assert_eq!(["books D", "books B", "A", "books", "home A"].map(utility), [0.0; 5], "too dear, or no code");
        assert_eq!(case.score("books C").covers, 0b011);
        assert_eq!((case.reference().as_str(), case.score(&case.reference()).utility), ("books A", 1.0));
    }

    #[test]
    fn the_prompt_says_what_is_told_and_lists_every_code() {
        let prompt = case([true, false, true]).prompt(3);
        assert_eq!(prompt.incoming, "want: under $25.00, with garden");
        assert!(prompt.system.starts_with("shop 3\nbooks A $20.00 Garden Birds\ntoys B $15.00 Wooden Train"));
        assert_eq!(case([false; NEEDS]).prompt(3).incoming, "want: anything");
        let mut odd = case([true; NEEDS]);
        odd.listed[1] = Arc::new(Product::new("x", "a\nb", "T\nbooks A\r$1", "", Cents(2_000), Cents(900)));
        assert!(odd.prompt(3).system.contains("\nother B $20.00 T books A $1\n"), "a title is one line");
    }

    #[test]
    fn demonstrations_lean_to_what_fits_and_name_listed_codes() {
        let case = case([true; NEEDS]);
        let (_, codes) = case.demonstration(3_000, Noise::new(2, 2));
        let best = codes.iter().filter(|c| *c == "books A").count() as f64 / 3_000.0;
        // FITS of them, and a sixth of the rest.
        assert!((best - 0.5).abs() < 0.04, "{best}");
        assert!(codes.iter().all(|c| (0..LISTED).any(|i| *c == code(i, &case.listed[i]))));
    }
}
