//! haggle's own games: episodes of training runs and of evaluations, compared by reward.
//!
//! The one idea: buyers that met the same product, seller and seed are compared there and nowhere else; the better reward
//! wins, rewards within a cent are a tie. A product is a cluster: its K buyers make K (K - 1) / 2 games, which are not as
//! many pieces of evidence.

use super::super::count::{Counter, Row};
use super::super::games::{Games, Tally};
use super::super::rewards::Episode;
use crate::error::{Error, Result, shown};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Files of a folder that hold episodes: an evaluation's, a training run's.
const FILES: [&str; 2] = ["games.jsonl", "episodes.jsonl"];
/// Rewards closer than this are the same where a line does not say what a cent is worth.
const SAME: f64 = 1e-6;
/// Prices, in cents, at which tiers of products begin.
const TIERS: [(i64, &str); 4] =
    [(0, "under $20"), (2_000, "$20 to $50"), (5_000, "$50 to $200"), (20_000, "$200 and more")];

/// How episodes are split into categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// By the product's category: its code without the number.
    Product,
    /// By its list price.
    Tier,
    /// By the seller and its persona.
    Seller,
    /// By mutual and conflicting interest.
    Scenario,
    /// Not at all.
    None,
}

/// Names of splits, as `--by` has them.
pub const SPLITS: [(&str, Split); 6] = [
    ("category", Split::Product),
    ("tier", Split::Tier),
    ("seller", Split::Seller),
    ("persona", Split::Seller),
    ("scenario", Split::Scenario),
    ("none", Split::None),
];

/// What a line of episodes says that counts here.
#[derive(Deserialize)]
struct Line {
    buyer: Option<Value>,
    seller: Option<String>,
    step: Option<u64>,
    rollout: usize,
    counts: Option<bool>,
    product: String,
    scenario: String,
    list: Option<i64>,
    cost: Option<i64>,
    budget: Option<i64>,
    reward: Option<f64>,
}

/// The file of episodes that a path names; none where it names something else.
pub(super) fn file_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return FILES.iter().map(|name| path.join(name)).find(|file| file.is_file());
    }
    FILES.contains(&path.file_name()?.to_str()?).then(|| path.into())
}

/// Every episode of the files, and the games that follow.
///
/// # Errors
/// [`Error::Io`] and [`Error::Data`]: the file, the line, what is wrong; no two buyers that met the same.
pub(super) fn read(files: &[PathBuf], by: [Split; 2]) -> Result<(Games, Vec<Episode>)> {
    let open = |path: &PathBuf| match std::fs::File::open(path) {
        Ok(file) => Ok(BufReader::new(file)),
        Err(e) => Err(Error::io(path, format!("cannot be read: {e}"))),
    };
    let sources = files.iter().zip(buyers_of(files)).map(|(path, run)| Ok((path.as_path(), run, open(path)?)));
    gathered(sources.collect::<Result<_>>()?, by)
}

/// The same of lines that are nowhere yet; `name` is what they are called.
///
/// # Errors
/// As [`read`].
pub(super) fn of_lines(name: &Path, lines: &str, by: [Split; 2]) -> Result<(Games, Vec<Episode>)> {
    gathered(vec![(name, None, lines.as_bytes())], by)
}

/// Episodes from all sources: where from, what its buyers' names begin with, its lines.
fn gathered<R: BufRead>(sources: Vec<(&Path, Option<String>, R)>, by: [Split; 2]) -> Result<(Games, Vec<Episode>)> {
    let mut episodes: BTreeMap<(String, String), Episode> = BTreeMap::new();
    let first = sources.first().map_or(Path::new(""), |(path, ..)| path);
    for (path, run, text) in sources {
        for (scene, episode) in lines(path, text, run.as_deref(), by)? {
            let key = (scene, episode.buyer.clone());
            if let Some(old) = episodes.insert(key, episode) {
                let what = format!(
                    "{} played a game of {} twice with the same seed; name each run once",
                    old.buyer, old.product
                );
                return Err(Error::data(path, what));
            }
        }
    }
    let mut scenes: Vec<Vec<&Episode>> = Vec::new();
    let mut last: Option<&str> = None;
    for ((scene, _), episode) in &episodes {
        match scenes.last_mut() {
            Some(own) if last == Some(scene) => own.push(episode),
            _ => scenes.push(vec![episode]),
        }
        last = Some(scene);
    }
    let mut counter = Counter::default();
    scenes.iter().for_each(|scene| compare(scene, &mut counter));
    let games = counter.finish();
    if games.rows == 0 {
        let what = "no two buyers met the same product, seller and seed; name runs or evaluations of the same products and seed";
        return Err(Error::data(first, what));
    }
    let met = scenes.iter().enumerate().filter(|(_, scene)| scene.len() > 1);
    let met = met
        .flat_map(|(at, scene)| scene.iter().map(move |episode| Episode { scene: at, ..(*episode).clone() }))
        .collect();
    Ok((games, met))
}

/// The game of every two buyers of a scene.
fn compare(scene: &[&Episode], counter: &mut Counter) {
    for (at, one) in scene.iter().enumerate() {
        for other in &scene[at + 1..] {
            let more = one.reward - other.reward;
            let won = match more.abs() <= one.cent.max(other.cent) {
                true => Tally { tie: 1.0, ..Tally::default() },
                false if more > 0.0 => Tally { a: 1.0, ..Tally::default() },
                false => Tally { b: 1.0, ..Tally::default() },
            };
            counter.add(Row {
                a: &one.buyer,
                b: &other.buyer,
                won,
                category: &one.category,
                persona: &one.persona,
                cluster: Some(&one.product),
                weight: 1.0,
                features: &[],
            });
        }
    }
}

/// What a file's buyers are called: a training run by its folder; of several evaluations, each buyer by folder and name.
fn buyers_of(files: &[PathBuf]) -> Vec<Option<String>> {
    let folder = |path: &PathBuf| path.parent().map(shown).unwrap_or_default();
    files.iter().map(|path| (files.len() > 1 || path.ends_with(FILES[1])).then(|| folder(path))).collect()
}

/// The episodes of one file, each with the scene it belongs to; of rollouts that are candidates only, the best of all stands
/// as a buyer of its own in the scene of the first.
fn lines(path: &Path, from: impl BufRead, run: Option<&str>, by: [Split; 2]) -> Result<Vec<(String, Episode)>> {
    let failed = |e: std::io::Error| Error::io(path, format!("cannot be read: {e}"));
    let (mut all, mut candidates) = (Vec::new(), BTreeMap::<String, Candidates>::new());
    for (line, text) in (1_u64..).zip(from.lines()) {
        let text = text.map_err(failed)?;
        if text.trim().is_empty() {
            continue;
        }
        let read: Line = serde_json::from_str(&text)
            .map_err(|e| Error::data(path, format!("line {line}: is no episode of haggle's games: {e}")))?;
        let Some(reward) = read.reward else { continue };
        if !reward.is_finite() {
            return Err(Error::data(path, format!("line {line}: its reward is {reward}")));
        }
        let counts = read.counts.unwrap_or(true);
        let played = read.episode(run, reward, by);
        if read.step.is_none() {
            let (scene, episode) = Line { rollout: 0, ..read }.episode(run, reward, by);
            let seat = format!("{scene}\0{}", episode.buyer);
            candidates.entry(seat).or_insert_with(|| Candidates::new(scene)).add(episode, counts);
        }
        all.extend(counts.then_some(played));
    }
    all.extend(candidates.into_values().filter_map(Candidates::best));
    Ok(all)
}

/// A buyer's rollouts of one product and seller.
struct Candidates {
    scene: String,
    best: Option<Episode>,
    n: usize,
    /// True when some do not count for the buyer itself.
    more: bool,
}

impl Candidates {
    fn new(scene: String) -> Candidates {
        Candidates { scene, best: None, n: 0, more: false }
    }

    /// The first of equals stays the best.
    fn add(&mut self, episode: Episode, counts: bool) {
        self.n += 1;
        self.more |= !counts;
        if self.best.as_ref().is_none_or(|best| episode.reward > best.reward) {
            self.best = Some(episode);
        }
    }

    fn best(self) -> Option<(String, Episode)> {
        let best = self.best.filter(|_| self.more)?;
        let buyer = format!("{}'s best of {}", best.buyer, self.n);
        Some((self.scene, Episode { buyer, ..best }))
    }
}

impl Line {
    fn episode(&self, run: Option<&str>, reward: f64, by: [Split; 2]) -> (String, Episode) {
        let name = self.buyer.as_ref().and_then(Value::as_str);
        let buyer = match (run, name) {
            (Some(run), Some(name)) => format!("{run}/{name}"),
            (run, name) => run.or(name).unwrap_or_default().into(),
        };
        let seller = self.seller.clone().unwrap_or_default();
        let scene = format!("{}\0{seller}\0{}\0{}", self.product, self.step.unwrap_or(0), self.rollout);
        // A reward is a share of what lies between budget and cost, a dollar at least.
        let zone = self.budget.zip(self.cost).map(|(budget, cost)| (budget - cost).abs().max(100));
        let cent = zone.map_or(SAME, |zone| 1.0 / zone as f64 + 1e-9);
        let [category, persona] = by.map(|split| self.part(split));
        (scene, Episode { buyer, product: self.product.clone(), category, persona, reward, scene: 0, cent })
    }

    fn part(&self, split: Split) -> String {
        match split {
            Split::Product => self.product.rsplit_once('_').map_or(&*self.product, |(stem, _)| stem).into(),
            Split::Tier => match self.list {
                Some(list) => {
                    TIERS.iter().rev().find(|(from, _)| list >= *from).map_or(TIERS[0].1, |(_, name)| name).into()
                }
                None => "any price".into(),
            },
            Split::Seller => self.seller.clone().unwrap_or_else(|| "seller".into()),
            Split::Scenario => self.scenario.clone(),
            Split::None => String::new(),
        }
    }
}
