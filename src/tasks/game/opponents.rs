//! The sellers a buyer can be held against, in evaluation and in training.

use crate::config::mix;
use crate::error::{Error, Result};
use crate::negotiate::prompts::PERSONAS;
use crate::negotiate::{Episode, Persona, Product, Rules, SELLERS, Seller};
use crate::noise::Noise;
use std::sync::Arc;

/// A seller to be met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Opponent {
    /// The frozen seller model, with a persona in its prompt.
    Model(Persona),
    /// A script.
    Script(Seller),
}

impl Opponent {
    /// The name in tables: `base`, `base_begging`, ..., or the script's key.
    pub fn key(self) -> String {
        match self {
            Opponent::Model(Persona::Neutral) => "base".into(),
            Opponent::Model(persona) => format!("base_{}", persona.name()),
            Opponent::Script(seller) => seller.key().into(),
        }
    }

    /// A game against it.
    pub fn game(self, product: Arc<Product>, rules: Rules) -> Episode {
        match self {
            Opponent::Model(persona) => Episode::new(product, rules, persona),
            Opponent::Script(seller) => Episode::new(product, rules, Persona::Neutral).against(seller),
        }
    }

    /// Every opponent, in the order of tables.
    pub fn all() -> Vec<Opponent> {
        PERSONAS.map(Opponent::Model).into_iter().chain(SELLERS.map(Opponent::Script)).collect()
    }

    /// The opponents that a list names, in the order of tables; `all` is every one.
    ///
    /// # Errors
    /// [`Error::Config`] naming those there are.
    pub fn named(key: &str) -> Result<Vec<Opponent>> {
        let all = Opponent::all();
        let names: Vec<&str> = key.split(',').map(str::trim).collect();
        let is_named = |o: &Opponent| names.contains(&"all") || names.contains(&o.key().as_str());
        let found: Vec<Opponent> = all.iter().copied().filter(is_named).collect();
        if found.is_empty() {
            let keys: Vec<String> = all.iter().map(|o| o.key()).collect();
            return Err(Error::Config { problems: vec![format!("no seller `{key}`; use {} or all", keys.join(", "))] });
        }
        Ok(found)
    }
}

/// The sellers that training meets, each with its weight.
#[derive(Debug, Clone)]
pub struct Mix(Vec<(Opponent, f64)>);

impl Mix {
    /// The sellers of `rollout.sellers`.
    ///
    /// # Errors
    /// [`Error::Config`] with what is wrong with it.
    pub fn of(text: &str) -> Result<Mix> {
        let wrong = |what: String| Error::Config { problems: vec![format!("rollout.sellers: {what}")] };
        let named = |(name, weight): (&str, f64)| {
            Opponent::named(name).map(|found| found.into_iter().map(move |o| (o, weight)))
        };
        let all: Result<Vec<_>> = mix::weighed(text).map_err(wrong)?.into_iter().map(named).collect();
        Ok(Mix(all?.into_iter().flatten().collect()))
    }

    /// All of them.
    pub fn opponents(&self) -> impl Iterator<Item = Opponent> + '_ {
        self.0.iter().map(|(opponent, _)| *opponent)
    }

    /// The seller of group `slot` of a draw, by chance and weight.
    pub fn pick(&self, noise: Noise, slot: u64) -> Opponent {
        noise.among(slot, &self.0).copied().unwrap_or(Opponent::Model(Persona::Neutral))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sellers_are_met_as_often_as_they_weigh() {
        let mix = Mix::of("base=6,rejector=3,base_begging=1").unwrap();
        let met: Vec<Opponent> = (0..2_000).map(|slot| mix.pick(Noise::new(4, 4), slot)).collect();
        for (opponent, share) in mix.opponents().zip([0.6, 0.3, 0.1]) {
            let n = met.iter().filter(|one| **one == opponent).count() as f64 / 2_000.0;
            assert!((n - share).abs() < 0.03, "{opponent:?}: {n}");
        }
        assert!(Mix::of("nobody").unwrap_err().to_string().contains("rollout.sellers: `nobody` is no seller"));
    }
}
