//! Protocols of published evaluations: what they set, what they report, and how far an evaluation here is from them.
//!
//! The one idea: a protocol is a list of settings that come first, so that what a user or a run says still counts; whatever
//! then differs is said beside the table. A published row stands under ours and is marked: it met another seller.

use crate::config::{Config, Override};
use crate::error::{Error, Result};
use crate::negotiate::metrics::Row;
use serde::Serialize;

/// A published evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    /// Its name on the command line.
    pub name: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// What it sets: config key and TOML value.
    settings: &'static [(&'static str, &'static str)],
    /// Products it holds out.
    products: usize,
    /// The row it reports.
    pub row: PublishedRow,
}

/// A row of a published table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PublishedRow {
    /// Who buys.
    pub buyer: &'static str,
    /// Who sells.
    pub seller: &'static str,
    /// Mean reward.
    pub reward: f64,
    /// Share of games that end in a deal.
    pub deal_rate: f64,
    /// Mean (B - P) / (B - C) of deals.
    pub bargained_ratio: f64,
    /// Share of games with a price above the budget.
    pub overshoot_rate: f64,
}

/// All of them.
pub const PROTOCOLS: [Protocol; 1] = [Protocol {
    name: "paper",
    source: "Liu et al. 2026, arXiv:2604.09855, tables 1 and 6, as replications report them",
    settings: &[
        ("game.prompt_style", "paper"),
        ("game.turns", "6"),
        ("rollout.temperature", "1.0"),
        ("rollout.top_k", "0"),
        ("rollout.top_p", "1.0"),
        ("rollout.min_p", "0.0"),
        ("rollout.seller_temperature", "0.7"),
        ("rollout.max_reply_tokens", "4000"),
        ("eval.rollouts", "4"),
        ("eval.products", "0"),
        ("eval.min_p", "0.0"),
        ("eval.seller", "base"),
    ],
    products: 128,
    row: PublishedRow {
        buyer: "Qwen3-30B-A3B-Instruct-2507, trained",
        seller: "Qwen3-30B-A3B-Instruct-2507, regulated",
        reward: 0.7664,
        deal_rate: 0.9199,
        bargained_ratio: 0.8385,
        overshoot_rate: 0.0010,
    },
}];

/// Keys of the form that a model was trained in, and breaks outside of.
const FORM: [&str; 2] = ["game.prompt_style", "rollout.max_reply_tokens"];

/// The protocol of a name.
///
/// # Errors
/// [`Error::Config`] naming those there are.
pub fn protocol(name: &str) -> Result<Protocol> {
    let names = || PROTOCOLS.map(|protocol| protocol.name).join(", ");
    let unknown = || Error::Config { problems: vec![format!("--protocol {name}: unknown; use one of {}", names())] };
    PROTOCOLS.into_iter().find(|protocol| protocol.name == name).ok_or_else(unknown)
}

impl Protocol {
    /// Its settings, to be applied before a user's own. A model that was `trained` here keeps the form that it was trained in.
    pub fn overrides(&self, trained: bool) -> Vec<Override> {
        let origin = format!("--protocol {}", self.name);
        let set = |(key, value): &(&str, &str)| Override {
            origin: origin.clone(),
            key: (*key).into(),
            value: (*value).into(),
        };
        self.settings.iter().filter(|(key, _)| !(trained && FORM.contains(key))).map(set).collect()
    }

    /// In what an evaluation differs from it, a line each.
    pub fn differences(&self, config: &Config, held_out: usize) -> Vec<String> {
        let values = config.values();
        let value =
            |key: &str| values.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value.trim_matches('"'));
        let mut all: Vec<String> = (self.settings.iter())
            .filter(|(key, theirs)| value(key) != *theirs)
            .map(|(key, theirs)| format!("{key} is {}, there {theirs}", value(key)))
            .collect();
        if held_out != self.products {
            all.push(format!("{held_out} products are held out, there {}", self.products));
        }
        if config.products.path == "embedded" {
            all.push("the products are a generated catalog, there AmazonHistoryPrice".into());
        }
        all.push(format!("the seller is {}, there {}", seller(config), self.row.seller));
        all
    }
}

/// The seller by what the config calls it.
fn seller(config: &Config) -> &str {
    match config.model.seller.as_str() {
        "base" => &config.model.base,
        seller => seller,
    }
}

/// What a protocol adds to an evaluation, in the form of its JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Beside {
    /// The protocol's name.
    pub protocol: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// The row it reports, against another seller.
    pub published: PublishedRow,
    /// In what this evaluation differs.
    pub differs: Vec<String>,
}

impl Beside {
    /// What stands beside an evaluation of `held_out` products.
    pub fn new(protocol: &Protocol, config: &Config, held_out: usize) -> Beside {
        let differs = protocol.differences(config, held_out);
        Beside { protocol: protocol.name, source: protocol.source, published: protocol.row, differs }
    }
}

/// The rows that the published table has: all products, a model or a baseline each.
pub fn comparable(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.scenario == "all" && row.n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &[(&str, &str)]) -> Config {
        let own = more.iter().map(|(key, value)| Override {
            origin: "--set".into(),
            key: (*key).into(),
            value: (*value).into(),
        });
        let all: Vec<Override> = protocol("paper").unwrap().overrides(false).into_iter().chain(own).collect();
        Config::load(None, &all).unwrap()
    }

    #[test]
    fn every_setting_is_taken_and_what_stays_different_is_said() {
        let paper = protocol("paper").unwrap();
        let said = paper.differences(&config(&[]), 128);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("catalog") && said[1].starts_with("the seller is embedded, there Qwen3"), "{said:?}");
    }

    #[test]
    fn a_users_own_word_counts_and_is_named() {
        let paper = protocol("paper").unwrap();
        let said =
            paper.differences(&config(&[("eval.rollouts", "2"), ("rollout.max_reply_tokens", "300")]), 10).join("\n");
        for want in [
            "eval.rollouts is 2, there 4",
            "rollout.max_reply_tokens is 300, there 4000",
            "10 products are held out, there 128",
        ] {
            assert!(said.contains(want), "{said}");
        }
    }

    #[test]
    fn a_trained_models_own_prompt_stands_and_is_named() {
        let all = protocol("paper").unwrap().overrides(true);
        let config = Config::load(None, &all).unwrap();
        assert_eq!(config.game.prompt_style, "compact");
        let said = protocol("paper").unwrap().differences(&config, 128).join("\n");
        assert!(said.contains("game.prompt_style is compact, there paper"), "{said}");
        assert!(protocol("papers").unwrap_err().to_string().contains("use one of paper"));
    }
}
