//! Reading a run directory: metrics, the final table, sample dialogues.

use crate::error::{Error, Result};
use crate::eval::{ABOUT, About, Difference};
use crate::negotiate::metrics::Row;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What a run left on disk, as far as it got.
pub struct RunFiles {
    /// The directory.
    pub dir: PathBuf,
    /// What an evaluation was; none of a training run.
    pub about: Option<About>,
    /// `config.toml`, as text.
    pub config: String,
    /// `metrics.jsonl`: an object a step.
    pub metrics: Vec<Map<String, Value>>,
    /// `summary.json`: the final table; empty before the run ends.
    pub summary: Vec<Map<String, Value>>,
    /// `differences.json`: paired differences; empty before the run ends.
    pub differences: Vec<Map<String, Value>>,
    /// `sets.json`: the final table of a set task, a flat row a model; empty for the game.
    pub sets: Vec<Map<String, Value>>,
    /// The same as it is written.
    pub sets_json: Value,
    /// `replies.jsonl`: the replies of a set task before and after training.
    pub answers: Vec<Answer>,
    /// `samples.jsonl`: dialogues before and after training.
    pub samples: Vec<Sample>,
}

/// One reply of `replies.jsonl`.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    /// Whose: `untrained`, `trained`.
    pub model: String,
    /// The product's code.
    pub product: String,
    /// The product's title.
    #[serde(default)]
    pub title: String,
    /// The message that it answers.
    #[serde(default)]
    pub asked: String,
    /// The reply whole.
    pub reply: String,
    /// Its candidates; none where it is no set.
    pub candidates: Vec<AnswerCandidate>,
    /// What it earned.
    pub reward: f64,
    /// Why it is no set.
    pub malformed: Option<String>,
}

/// One candidate of a reply.
#[derive(Debug, Clone, Deserialize)]
pub struct AnswerCandidate {
    /// Its text.
    pub text: String,
    /// What it is worth by itself.
    pub utility: f64,
}

/// One dialogue of `samples.jsonl`.
#[derive(Debug, Clone, Deserialize)]
pub struct Sample {
    /// Who bought.
    #[serde(default)]
    pub buyer: String,
    /// Who sold.
    #[serde(default)]
    pub seller: String,
    /// `before` or `after` training.
    pub when: String,
    /// The product's code.
    pub code: String,
    /// The product's title.
    #[serde(default)]
    pub title: String,
    /// `mi` or `ci`.
    #[serde(default)]
    pub scenario: String,
    /// List price, seller's cost, buyer's budget, in cents.
    pub list: i64,
    /// The seller's cost in cents.
    pub cost: i64,
    /// The buyer's budget in cents.
    pub budget: i64,
    /// The turns in order.
    pub turns: Vec<SampleTurn>,
    /// How it ended.
    pub outcome: Value,
    /// The buyer's reward.
    pub reward: f64,
}

/// One turn of a sample.
#[derive(Debug, Clone, Deserialize)]
pub struct SampleTurn {
    /// `buyer` or `seller`.
    pub side: String,
    /// Private reasoning.
    #[serde(default)]
    pub thought: String,
    /// What the other side heard.
    #[serde(default)]
    pub talk: String,
    /// The action as text.
    pub action: String,
    /// The regulator's reason, when it stepped in.
    #[serde(default)]
    pub intervention: Option<String>,
}

impl RunFiles {
    /// Reads a run directory. Only `metrics.jsonl` must be there.
    ///
    /// # Errors
    /// [`Error::Io`] when this is no run directory; [`Error::Data`] naming file and line of what cannot be parsed.
    pub fn read(dir: &Path) -> Result<RunFiles> {
        let (metrics, about) = (dir.join("metrics.jsonl"), dir.join(ABOUT));
        if !metrics.is_file() && !about.is_file() {
            let what = "is not a run directory: it holds no metrics.jsonl; give the --out of a train or an eval";
            return Err(Error::io(dir, what));
        }
        let about = read_if_there(&about)?.map(|text| serde_json::from_str(&text).map_err(|e| Error::data(&about, e)));
        Ok(RunFiles {
            dir: dir.into(),
            about: about.transpose()?,
            config: ["config.toml", "eval.toml"]
                .iter()
                .find_map(|name| std::fs::read_to_string(dir.join(name)).ok())
                .unwrap_or_default(),
            metrics: read_lines(&metrics)?,
            summary: read_list(&dir.join("summary.json"))?,
            differences: read_list(&dir.join("differences.json"))?,
            sets: read_list(&dir.join("sets.json"))?.into_iter().map(flat).collect(),
            sets_json: read_list(&dir.join("sets.json"))?.into_iter().map(Value::Object).collect(),
            answers: read_lines(&dir.join("replies.jsonl"))?,
            samples: read_lines(&dir.join("samples.jsonl"))?,
        })
    }

    /// The rows of the final table; one of no games has no figures and is left out.
    ///
    /// # Errors
    /// [`Error::Data`] for a table that cannot be read.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let played = |row: &&Map<String, Value>| row.get("n").and_then(Value::as_u64).is_some_and(|n| n > 0);
        let row = |row: &Map<String, Value>| serde_json::from_value(Value::Object(row.clone()));
        let rows: std::result::Result<_, _> = self.summary.iter().filter(played).map(row).collect();
        rows.map_err(|e| Error::data(self.dir.join("summary.json"), e))
    }

    /// The paired differences of the final table.
    ///
    /// # Errors
    /// [`Error::Data`] for a table that cannot be read.
    pub fn differences(&self) -> Result<Vec<Difference>> {
        let row = |row: &Map<String, Value>| serde_json::from_value(Value::Object(row.clone()));
        let rows: std::result::Result<_, _> = self.differences.iter().map(row).collect();
        rows.map_err(|e| Error::data(self.dir.join("differences.json"), e))
    }

    /// A file of JSON lines of the directory; none when it is not there.
    ///
    /// # Errors
    /// [`Error::Data`] naming file and line of what cannot be parsed.
    pub fn lines<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<Vec<T>> {
        read_lines(&self.dir.join(name))
    }

    /// The points `(step, value)` of a metric, finite ones only.
    pub fn curve(&self, key: &str) -> Vec<(f64, f64)> {
        let point = |row: &Map<String, Value>| Some((row.get("step")?.as_f64()?, row.get(key)?.as_f64()?));
        self.metrics.iter().filter_map(point).filter(|(_, y)| y.is_finite()).collect()
    }

    /// A number of the final table: `reward` of `trained` in `all`; of a set task, its worth.
    pub fn final_value(&self, buyer: &str, key: &str) -> Option<f64> {
        let is = |row: &Map<String, Value>, key: &str, want: &str| row.get(key).and_then(Value::as_str) == Some(want);
        if let Some(row) = self.sets.iter().find(|row| is(row, "model", buyer)) {
            // Of sets no interval is known.
            return row.get("worth").filter(|_| key == "reward")?.as_f64();
        }
        let row = self.summary.iter().find(|row| is(row, "buyer", buyer) && is(row, "scenario", "all"))?;
        row.get(key)?.as_f64()
    }
}

/// Reads a file of JSON lines; none when it is not there. A torn last line (a killed run) is left out.
fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    let Some(text) = read_if_there(path)? else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(_) if !text.ends_with('\n') && number + 1 == text.lines().count() => break,
            Err(e) => return Err(Error::data(path, format!("line {}: {e}", number + 1))),
        }
    }
    Ok(rows)
}

fn read_list(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let Some(text) = read_if_there(path)? else { return Ok(Vec::new()) };
    serde_json::from_str(&text).map_err(|e| Error::data(path, format!("is not a list of objects: {e}")))
}

/// An object whose inner objects' keys stand beside its own.
fn flat(row: Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in row {
        match value {
            Value::Object(inner) => out.extend(inner),
            value => drop(out.insert(key, value)),
        }
    }
    out
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, e)),
    }
}
