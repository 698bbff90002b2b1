//! Recommendation: a shopper needs a category, a price limit and an attribute; what is told of them is a part.
//!
//! The one idea: needs come from one listed product, so each case has an answer; the words leave needs out at random, so
//! a good set spreads over what fits. `u` = share of needs met, 0 above the limit, 0 for no listed code.

use super::{Prompt, Scored, pick};
use crate::negotiate::{Cents, Product};
use crate::noise::Noise;
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
pub struct Case {
    listed: Vec<Arc<Product>>,
    target: usize,
    limit: Cents,
    category: String,
    attribute: String,
    told: [bool; NEEDS],
}

impl Case {
    /// The case of `target` among products drawn from `all`.
    pub fn new(target: &Arc<Product>, all: &[Arc<Product>], noise: Noise) -> Case {
        let mut listed: Vec<Arc<Product>> = (1..LISTED as u64).map(|i| pick(noise, i, all).clone()).collect();
        let at = noise.below(0, LISTED);
        listed.insert(at, target.clone());
        let words = attributes(target);
        let told = [0.8, 0.6, 0.6].map(|p| p as f32);
        Case {
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
            let title: String = p.title.chars().take(TITLE).collect();
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
