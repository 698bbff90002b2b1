//! What an evaluation found, and its files: tables of facts by buyer and seller, and differences paired by product.
//!
//! The one idea: every buyer meets the same products with the same noise, so that differences are paired; a figure is a
//! mean over [`EpisodeFacts`] and has one definition everywhere. Who meets whom is the task's affair.

pub mod protocol;
pub mod tables;

use self::protocol::Beside;
use crate::disk::{make_writable, write_atomic};
use crate::error::{Error, Result};
use crate::negotiate::metrics::{EpisodeFacts, Row, reward_difference, rows};
use crate::negotiate::{Episode, Scenario, export};
use crate::run::metrics::Metrics;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// The buyer that a table is about: the last that is no baseline.
pub fn model_of(rows: &[Row]) -> Option<&str> {
    let is_baseline = |name: &str| name == "og_narrator" || name.starts_with("best_of_");
    rows.iter().rev().map(|row| row.buyer.as_str()).find(|name| !is_baseline(name))
}

/// The difference of mean reward of two buyers, paired by product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The buyer whose reward is taken.
    pub buyer: String,
    /// The buyer whose reward is subtracted.
    pub minus: String,
    /// Their seller.
    pub seller: String,
    /// `all`, `mi` or `ci`.
    pub scenario: String,
    /// Products.
    pub n: usize,
    /// Mean difference of reward.
    pub mean: f64,
    /// Half width of its 95 % interval over products; `null` with fewer than two.
    pub ci95: Option<f64>,
}

/// A table in the making.
#[derive(Debug, Clone, Default)]
pub struct Table {
    entries: Vec<(String, String, Vec<EpisodeFacts>)>,
}

impl Table {
    /// Adds a buyer's episodes against a seller.
    pub fn add(&mut self, buyer: &str, seller: &str, facts: Vec<EpisodeFacts>) {
        self.entries.push((buyer.into(), seller.into(), facts));
    }

    /// The rows `all`, `mi`, `ci` of every buyer, in the order they were added.
    pub fn rows(&self) -> Vec<Row> {
        self.entries.iter().flat_map(|(buyer, seller, facts)| rows(buyer, seller, facts)).collect()
    }

    /// `a - b` for every seller both met, in each scenario that has products.
    pub fn differences(&self, a: &str, b: &str) -> Vec<Difference> {
        let mut all = Vec::new();
        for (buyer, seller, mine) in self.entries.iter().filter(|e| e.0 == a) {
            let theirs = self.entries.iter().find(|e| e.0 == b && e.1 == *seller);
            let Some((minus, _, theirs)) = theirs else { continue };
            for scenario in [None, Some(Scenario::MutualInterest), Some(Scenario::ConflictingInterest)] {
                let of = |facts: &[EpisodeFacts]| -> Vec<EpisodeFacts> {
                    facts.iter().filter(|f| scenario.is_none_or(|s| f.scenario == s)).cloned().collect()
                };
                let estimate = reward_difference(&of(mine), &of(theirs));
                all.push(Difference {
                    buyer: buyer.clone(),
                    minus: minus.clone(),
                    seller: seller.clone(),
                    scenario: scenario.map_or("all", Scenario::key).into(),
                    n: estimate.n,
                    mean: estimate.mean,
                    ci95: estimate.ci95,
                });
            }
        }
        all.retain(|d| d.n > 0);
        all
    }
}

/// The file that says what an evaluation was, and its config.
pub const ABOUT: &str = "evaluation.json";
const SETTINGS: &str = "eval.toml";

/// What an evaluation was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The command that made it.
    pub command: String,
    /// The model's path.
    pub model: String,
    /// Whether replies were guided.
    pub guarded: bool,
    /// Products.
    pub products: usize,
    /// Which of them: `test`, `train` or `all`.
    pub split: String,
    /// Games, candidates of a best of n included.
    pub games: usize,
    /// Seconds that they took.
    pub seconds: f64,
}

impl About {
    /// Writes `evaluation.json`, and the config in force as `eval.toml`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, folder: &Path, config_toml: &str) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::data(folder, e))?;
        write_atomic(&folder.join(ABOUT), |f| f.write_all(text.as_bytes()))?;
        write_atomic(&folder.join(SETTINGS), |f| f.write_all(config_toml.as_bytes()))
    }

    /// The same in a line.
    pub fn line(&self) -> String {
        let (games, seconds, guarded) = (self.games, self.seconds, if self.guarded { ", guarded" } else { "" });
        let a_game = 1e3 * seconds / games.max(1) as f64;
        format!(
            "{games} games over {} products ({}){guarded} in {seconds:.1} s, {a_game:.1} ms each",
            self.products, self.split
        )
    }
}

/// What a folder of others holds, by names in it.
const TAKEN: [(&str, &[&str]); 3] = [
    ("a training run", &["config.toml", "metrics.jsonl", "lock", "checkpoints"]),
    ("a model", &["config.json", "haggle"]),
    (
        "an evaluation",
        &[
            "summary.json",
            "differences.json",
            "protocol.json",
            "games.jsonl",
            "samples.jsonl",
            "evaluator",
            "sets.json",
            "void.jsonl",
            ABOUT,
            SETTINGS,
        ],
    ),
];

/// Moves what an evaluation wrote out of a folder into another, where it stays.
///
/// # Errors
/// [`Error::Io`] when something cannot be moved.
pub fn put_away(folder: &Path, into: &Path) -> Result<()> {
    let names = TAKEN[2].1.iter().filter(|name| folder.join(name).exists());
    for name in names {
        std::fs::create_dir_all(into).map_err(|e| Error::io(into, format!("cannot make: {e}")))?;
        let to = into.join(name);
        std::fs::rename(folder.join(name), &to).map_err(|e| Error::io(&to, format!("cannot move: {e}")))?;
    }
    Ok(())
}

/// Makes the folder that an evaluation is to be written into, before anything is played: what is there is never replaced.
///
/// # Errors
/// [`Error::Io`] when it holds a run, a model or another evaluation, or cannot be written in.
pub fn make_folder(folder: &Path) -> Result<()> {
    for (what, names) in TAKEN {
        if let Some(name) = names.iter().find(|name| folder.join(name).symlink_metadata().is_ok()) {
            let what =
                format!("holds {what} already (`{name}`), which stays as it is; name another directory with --out");
            return Err(Error::io(folder, what));
        }
    }
    make_writable(folder)
}

/// What an evaluation found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Facts by buyer and seller.
    pub table: Table,
    /// Paired differences.
    pub differences: Vec<Difference>,
    /// Dialogues before and after training, a line each.
    pub samples: Vec<Value>,
    /// The episodes behind the rows.
    pub kept: Vec<Kept>,
    /// What every game adds to the table, candidates of a best of n included: the table follows from these alone.
    pub games: Vec<GameLine>,
    /// Games that ended void and are in no row, a line each: whose, over what, and why.
    pub void: Vec<Value>,
    /// The table of a task whose replies are sets; nothing else is filled then.
    pub sets: Option<Value>,
    /// The replies that table is counted from, a line each.
    pub replies: Vec<Value>,
    /// What a published protocol puts beside the table, where the evaluation follows one.
    pub beside: Option<Beside>,
}

/// A line of `games.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GameLine {
    /// The buyer's name.
    pub buyer: String,
    /// The seller's name.
    pub seller: String,
    /// Which rollout of its product, from 0.
    pub rollout: usize,
    /// True when the game counts in the buyer's rows; else it is only a candidate of the best of n.
    pub counts: bool,
    /// The game.
    #[serde(flatten)]
    pub facts: EpisodeFacts,
}

/// The episodes of one buyer against one seller.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The buyer's name.
    pub buyer: String,
    /// The seller's name.
    pub seller: String,
    /// True when the buyer is a model.
    pub model: bool,
    /// The episodes, `rollouts` a product, products first.
    pub played: Vec<Episode>,
}

impl Report {
    /// Adds what was found of another model to a table of sets.
    pub fn add_sets(&mut self, other: Report) {
        let rows = other.sets.and_then(|sets| sets.as_array().cloned()).unwrap_or_default();
        match &mut self.sets {
            Some(Value::Array(all)) => all.extend(rows),
            _ => self.sets = Some(rows.into()),
        }
        self.replies.extend(other.replies);
    }

    /// The figures of a table of one model, as keys of a row of metrics: means over the sellers that it met, and their rewards
    /// where they are several; of sets its worth as `reward`, and the rest. What is not known is `null`.
    pub fn figures(&self) -> Metrics {
        if let Some(row) = self.sets.as_ref().and_then(|sets| sets[0]["row"].as_object()) {
            return row
                .iter()
                .map(|(k, v)| (if k == "worth" { "reward".into() } else { k.clone() }, v.clone()))
                .collect();
        }
        let rows: Vec<Row> = self.table.rows().into_iter().filter(|row| row.scenario == "all" && row.n > 0).collect();
        let mean = |of: fn(&Row) -> Option<f64>| {
            let known: Vec<f64> = rows.iter().filter_map(of).collect();
            json!((!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64))
        };
        let mut found = Metrics::new();
        for (key, value) in [
            ("reward", mean(|row| Some(row.reward))),
            ("deal_rate", mean(|row| Some(row.deal_rate))),
            ("bargained_ratio", mean(|row| row.bargained_ratio)),
            ("first_offer_ratio", mean(|row| row.first_offer_ratio)),
            ("overshoot_rate", mean(|row| Some(row.overshoot_rate))),
            ("format_error_rate", mean(|row| Some(row.format_error_rate))),
        ] {
            found.insert(key.into(), value);
        }
        match &rows[..] {
            [only] => drop(found.insert("reward_ci95".into(), json!(only.reward_ci95))),
            several => found.extend(several.iter().map(|row| (format!("reward/{}", row.seller), json!(row.reward)))),
        }
        found
    }

    /// The lines of `games.jsonl`.
    ///
    /// # Errors
    /// [`Error::Data`] when a game cannot be said in JSON.
    pub fn game_lines(&self) -> Result<String> {
        let line = |game: &GameLine| {
            serde_json::to_string(game).map(|text| text + "\n").map_err(|e| Error::data("games.jsonl", e))
        };
        self.games.iter().map(line).collect()
    }

    /// The rows as they are written: of no episodes nothing is known, and nothing is 0.
    ///
    /// # Errors
    /// [`Error::Data`] when a row cannot be said in JSON.
    pub fn summary(&self) -> Result<Vec<Value>> {
        let known = |row: &Row| {
            let mut written = serde_json::to_value(row).map_err(|e| Error::data("summary", e))?;
            if let (0, Value::Object(figures)) = (row.n, &mut written) {
                figures.values_mut().filter(|figure| !figure.is_string()).for_each(|figure| *figure = Value::Null);
                figures.insert("n".into(), 0.into());
            }
            Ok(written)
        };
        self.table.rows().iter().map(known).collect()
    }

    /// Writes `summary.json`, `differences.json`, `protocol.json` (of one that follows a published protocol), `games.jsonl` (what the two are counted from), `samples.jsonl` and, for the
    /// AmazonHistoryPrice evaluator, the episodes as `evaluator/*.jsonl` into a folder, void ones into `void.jsonl` alone; a table of sets as `sets.json`, with
    /// its replies in `replies.jsonl`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let broken = |e: serde_json::Error| Error::data(folder, e);
        if let Some(sets) = &self.sets {
            let text = serde_json::to_string_pretty(sets).map_err(broken)?;
            write_atomic(&folder.join("sets.json"), |f| f.write_all(text.as_bytes()))?;
            return write_atomic(&folder.join("replies.jsonl"), |f| {
                self.replies.iter().try_for_each(|line| writeln!(f, "{line}"))
            });
        }
        let summary = serde_json::to_string_pretty(&self.summary()?).map_err(broken)?;
        let differences = serde_json::to_string_pretty(&self.differences).map_err(broken)?;
        write_atomic(&folder.join("summary.json"), |f| f.write_all(summary.as_bytes()))?;
        write_atomic(&folder.join("differences.json"), |f| f.write_all(differences.as_bytes()))?;
        if let Some(beside) = &self.beside {
            let text = serde_json::to_string_pretty(beside).map_err(broken)?;
            write_atomic(&folder.join("protocol.json"), |f| f.write_all(text.as_bytes()))?;
        }
        let lines: String = self.samples.iter().map(|line| format!("{line}\n")).collect();
        write_atomic(&folder.join("samples.jsonl"), |f| f.write_all(lines.as_bytes()))?;
        let games = self.game_lines()?;
        write_atomic(&folder.join("games.jsonl"), |f| f.write_all(games.as_bytes()))?;
        let own = folder.join("evaluator");
        std::fs::create_dir_all(&own).map_err(|e| Error::io(&own, format!("cannot make: {e}")))?;
        for Kept { buyer, seller, played, .. } in &self.kept {
            let path = own.join(export::file_name(buyer, seller));
            export::write(&path, buyer, seller, played.iter().filter(|game| game.void().is_none()))?;
        }
        if self.void.is_empty() {
            return Ok(());
        }
        write_atomic(&folder.join("void.jsonl"), |f| self.void.iter().try_for_each(|line| writeln!(f, "{line}")))
    }
}

/// Hears `(buyer, seller, episodes ended, episodes of the pair)`.
pub type Progress<'a> = dyn FnMut(&str, &str, usize, usize) + 'a;
