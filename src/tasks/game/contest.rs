//! Evaluation: buyers against a seller on held-out products, as rows of a table and paired differences.
//!
//! The one idea: every buyer meets the same products with the same noise, so that differences are paired; a figure is a
//! mean over [`EpisodeFacts`] and has one definition everywhere.

use crate::disk::write_atomic;
use crate::error::{Error, Result};
use crate::infer::Engine;
use crate::model::Weights;
use crate::negotiate::metrics::{EpisodeFacts, Row, reward_difference, rows};
use crate::negotiate::sellers::SELLERS;
use crate::negotiate::{Buyer, Persona, Product, Rules, Scenario, Seller, export};
use crate::noise::Noise;
use crate::rollout::{self, Job, Played, Player, Voice};
use crate::run::metrics::sample_line;
use crate::setup::Setup;
use crate::text::Chat;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// What all buyers of a table share.
#[derive(Debug, Clone)]
pub struct Contest {
    /// The held-out products.
    pub products: Vec<Arc<Product>>,
    /// The rules.
    pub rules: Rules,
    /// The persona in the seller model's prompt.
    pub persona: Persona,
    /// The contest's noise.
    pub noise: Noise,
    /// Episodes at a time.
    pub max_live: usize,
}

impl Contest {
    /// Plays `rollouts` episodes a product, products first; `progress` hears how many have ended.
    pub fn play<'p>(
        &self,
        rollouts: usize,
        buyer: &mut Player<'p>,
        seller: &mut Player<'p>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Played>> {
        let job = |(i, product): (usize, &Arc<Product>), r: usize| Job {
            product: product.clone(),
            rules: self.rules,
            persona: self.persona,
            noise: self.noise.child(i as u64).child(r as u64),
        };
        let jobs: Vec<Job> =
            self.products.iter().enumerate().flat_map(|p| (0..rollouts).map(move |r| job(p, r))).collect();
        Ok(rollout::play(&jobs, buyer, seller, self.max_live, progress)?.played)
    }
}

/// Facts of episodes.
pub fn facts(played: &[Played]) -> Vec<EpisodeFacts> {
    played.iter().map(|p| EpisodeFacts::of(&p.episode)).collect()
}

/// The first `n` of every `rollouts` episodes.
pub fn first_of<T: Clone>(of: &[T], rollouts: usize, n: usize) -> Vec<T> {
    of.chunks(rollouts.max(1)).flat_map(|chunk| chunk[..n.min(chunk.len())].to_vec()).collect()
}

/// The best (by reward, the first of equals) of the first `n` of every `rollouts` episodes.
pub fn best_of(facts: &[EpisodeFacts], rollouts: usize, n: usize) -> Vec<EpisodeFacts> {
    let better = |a: EpisodeFacts, b: &EpisodeFacts| if b.reward > a.reward { b.clone() } else { a };
    let best = |chunk: &[EpisodeFacts]| {
        let (first, rest) = chunk[..n.clamp(1, chunk.len())].split_first()?;
        Some(rest.iter().fold(first.clone(), better))
    };
    facts.chunks(rollouts.max(1)).filter_map(best).collect()
}

/// The difference of mean reward of two buyers, paired by product.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The buyer whose reward is taken.
    pub buyer: String,
    /// The buyer whose reward is subtracted.
    pub minus: String,
    /// Their seller.
    pub seller: String,
    /// `all`, `mi` or `ci`.
    pub scenario: &'static str,
    /// Products.
    pub n: usize,
    /// Mean difference of reward.
    pub mean: f64,
    /// Half width of its 95 % interval over products.
    pub ci95: f64,
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
                    scenario: scenario.map_or("all", Scenario::key),
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

    /// Every opponent, in the order of tables.
    pub fn all() -> Vec<Opponent> {
        let personas = [Persona::Neutral, Persona::Begging, Persona::Insulting, Persona::Unyielding];
        personas.map(Opponent::Model).into_iter().chain(SELLERS.map(Opponent::Script)).collect()
    }

    /// The opponents a key names: one, or all for `all`.
    ///
    /// # Errors
    /// [`Error::Config`] naming those there are.
    pub fn named(key: &str) -> Result<Vec<Opponent>> {
        let all = Opponent::all();
        let found: Vec<Opponent> = all.iter().copied().filter(|o| key == "all" || o.key() == key).collect();
        if found.is_empty() {
            let keys: Vec<String> = all.iter().map(|o| o.key()).collect();
            return Err(Error::Config { problems: vec![format!("no seller `{key}`; use {} or all", keys.join(", "))] });
        }
        Ok(found)
    }
}

/// A buyer of a table.
#[derive(Clone, Copy)]
pub enum Entrant<'a> {
    /// A model under a name; with `best_of` also a row of the best of that many rollouts.
    Model {
        /// Its name in tables.
        name: &'a str,
        /// Its weights.
        weights: &'a Weights,
        /// Its tokenizer and template.
        chat: &'a Chat,
        /// Candidates of the best-of-n row; 0 for none.
        best_of: usize,
    },
    /// A script.
    Script(Buyer),
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
    /// The episodes behind the first seller's rows.
    pub kept: Vec<Kept>,
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
    pub played: Vec<Played>,
}

impl Report {
    /// Writes `summary.json`, `differences.json`, `samples.jsonl` and, for the AmazonHistoryPrice evaluator, the first
    /// seller's episodes as `evaluator/*.jsonl` into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let broken = |e: serde_json::Error| Error::data(folder, e);
        let summary = serde_json::to_string_pretty(&self.table.rows()).map_err(broken)?;
        let differences = serde_json::to_string_pretty(&self.differences).map_err(broken)?;
        write_atomic(&folder.join("summary.json"), |f| f.write_all(summary.as_bytes()))?;
        write_atomic(&folder.join("differences.json"), |f| f.write_all(differences.as_bytes()))?;
        let lines: String = self.samples.iter().map(|line| format!("{line}\n")).collect();
        write_atomic(&folder.join("samples.jsonl"), |f| f.write_all(lines.as_bytes()))?;
        let own = folder.join("evaluator");
        std::fs::create_dir_all(&own).map_err(|e| Error::io(&own, format!("cannot make: {e}")))?;
        for Kept { buyer, seller, played, .. } in &self.kept {
            let path = own.join(export::file_name(buyer, seller));
            export::write(&path, buyer, seller, played.iter().map(|p| &p.episode))?;
        }
        Ok(())
    }
}

/// Sample dialogues a buyer leaves in the report.
const SAMPLES: usize = 8;
/// Stream of noise below the run's seed.
const EVAL: u64 = 3;

/// Hears `(buyer, seller, episodes ended, episodes of the pair)`.
pub type Progress<'a> = dyn FnMut(&str, &str, usize, usize) + 'a;

/// Plays every entrant against every opponent on the held-out products; the episodes with the first opponent are kept.
///
/// # Errors
/// What the engines refuse: a prompt that does not fit the context, by the product's name.
pub fn compete(
    setup: &Setup,
    entrants: &[Entrant],
    opponents: &[Opponent],
    progress: &mut Progress,
) -> Result<(Table, Vec<Kept>)> {
    let (mut table, mut kept) = (Table::default(), Vec::new());
    let rollouts = setup.config.eval.rollouts;
    for (i, opponent) in opponents.iter().enumerate() {
        let seller = opponent.key();
        for entrant in entrants {
            let played = meet(setup, entrant, *opponent, progress)?;
            let (buyer, best_of) = match *entrant {
                Entrant::Script(buyer) => (buyer.key(), 0),
                Entrant::Model { name, best_of, .. } => (name, best_of),
            };
            let (facts, each) = (facts(&played), rollouts.max(best_of));
            table.add(buyer, &seller, first_of(&facts, each, rollouts));
            if best_of > 0 {
                table.add(&format!("best_of_{best_of}"), &seller, self::best_of(&facts, each, best_of));
            }
            if i == 0 {
                let model = matches!(entrant, Entrant::Model { .. });
                let played = first_of(&played, each, rollouts);
                kept.push(Kept { buyer: buyer.into(), seller: seller.clone(), model, played });
            }
        }
    }
    Ok((table, kept))
}

/// The first rollouts of a few products, evenly spread over them.
fn few(played: &[Played], each: usize) -> impl Iterator<Item = &Played> {
    let products = played.len() / each.max(1);
    let n = SAMPLES.min(products);
    (0..n).map(move |i| &played[i * products / n * each])
}

/// All episodes of one entrant against one opponent.
fn meet(setup: &Setup, entrant: &Entrant, opponent: Opponent, progress: &mut Progress) -> Result<Vec<Played>> {
    let engine = |model: &Weights| Engine::new(&setup.dev, &model.config, setup.engine_config(&model.config));
    let rollouts = setup.config.eval.rollouts;
    let (mut buyer_engine, mut seller_engine);
    let (name, rollouts, mut buyer) = match *entrant {
        Entrant::Script(buyer) => (buyer.key(), rollouts, Player::Buyer(buyer)),
        Entrant::Model { name, weights, chat, best_of } => {
            buyer_engine = engine(weights)?;
            let sampling = setup.eval_sampling(chat);
            let voice = Voice { weights, engine: &mut buyer_engine, chat, sampling };
            (name, rollouts.max(best_of), Player::Model(voice))
        }
    };
    let (persona, mut seller) = match opponent {
        Opponent::Script(seller) => (Persona::Neutral, Player::Seller(seller)),
        Opponent::Model(persona) => {
            let weights = &setup.seller.weights;
            seller_engine = engine(weights)?;
            let (chat, sampling) = (&setup.seller.chat, setup.seller_sampling());
            (persona, Player::Model(Voice { weights, engine: &mut seller_engine, chat, sampling }))
        }
    };
    let contest = Contest {
        products: setup.held_out.clone(),
        rules: setup.rules,
        persona,
        noise: Noise::new(setup.config.seed, EVAL),
        max_live: setup.episodes_a_step(),
    };
    let (key, of) = (opponent.key(), contest.products.len() * rollouts);
    contest.play(rollouts, &mut buyer, &mut seller, &mut |done| progress(name, &key, done, of))
}

/// The final evaluation of a run: untrained, best-of-n of it, OG-Narrator, trained, against `eval.seller`.
///
/// # Errors
/// As [`compete`], and [`Error::Config`] when there is no such seller.
pub fn after_training(setup: &Setup, trained: &Weights, progress: &mut Progress) -> Result<Report> {
    evaluate(setup, ("trained", trained, &setup.base.chat), progress)
}

/// Evaluates a model `(name, weights, chat)` beside the baselines: the setup's base untrained, best-of-n of it, and
/// OG-Narrator.
///
/// # Errors
/// As [`after_training`].
pub fn evaluate(setup: &Setup, model: (&str, &Weights, &Chat), progress: &mut Progress) -> Result<Report> {
    let (name, weights, chat) = model;
    let best_of = setup.config.eval.best_of;
    let (base, base_chat) = (&setup.base.weights, &setup.base.chat);
    let entrants = [
        Entrant::Model { name: "untrained", weights: base, chat: base_chat, best_of },
        Entrant::Script(Buyer::OgNarrator),
        Entrant::Model { name, weights, chat, best_of: 0 },
    ];
    let opponents = Opponent::named(&setup.config.eval.seller)?;
    let (table, kept) = compete(setup, &entrants, &opponents, progress)?;
    let best = format!("best_of_{best_of}");
    let baselines = ["untrained", best.as_str(), "og_narrator"];
    let differences = baselines.iter().flat_map(|b| table.differences(name, b)).collect();
    let lines = |of: &Kept| -> Vec<Value> {
        let when = if of.buyer == "untrained" { "before" } else { "after" };
        few(&of.played, setup.config.eval.rollouts).map(|p| sample_line(when, p)).collect()
    };
    let samples = kept.iter().filter(|k| k.model).flat_map(lines).collect();
    Ok(Report { differences, samples, table, kept })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::{Buyer, Seller, catalog};

    fn contest() -> Contest {
        let products = catalog::products(40, 3).unwrap().into_iter().take(40).map(Arc::new).collect();
        let rules = Rules::default();
        Contest { products, rules, persona: Persona::Neutral, noise: Noise::new(5, 1), max_live: 7 }
    }

    fn scripted(buyer: Buyer, rollouts: usize) -> Vec<EpisodeFacts> {
        let (mut buyer, mut seller) = (Player::Buyer(buyer), Player::Seller(Seller::Teacher));
        facts(&contest().play(rollouts, &mut buyer, &mut seller, &mut |_| ()).unwrap())
    }

    #[test]
    fn episodes_come_products_first_and_do_not_depend_on_how_many_run_at_a_time() {
        let facts = scripted(Buyer::Naive, 3);
        assert_eq!(facts.len(), 120);
        assert!(facts.chunks(3).all(|c| c.iter().all(|f| f.product == c[0].product)));
        let (mut buyer, mut seller) = (Player::Buyer(Buyer::Naive), Player::Seller(Seller::Teacher));
        let alone = Contest { max_live: 1, ..contest() }.play(3, &mut buyer, &mut seller, &mut |_| ()).unwrap();
        assert_eq!(self::facts(&alone), facts);
    }

    #[test]
    fn fewer_rollouts_are_the_first_of_more() {
        assert_eq!(first_of(&scripted(Buyer::Naive, 4), 4, 2), scripted(Buyer::Naive, 2));
    }

    #[test]
    fn best_of_n_takes_the_best_of_the_first_n_of_each_product() {
        let facts = scripted(Buyer::Naive, 4);
        let best = best_of(&facts, 4, 3);
        assert_eq!(best.len(), 40);
        for (b, chunk) in best.iter().zip(facts.chunks(4)) {
            let want = chunk[..3].iter().map(|f| f.reward).fold(f64::MIN, f64::max);
            assert_eq!((b.reward, &b.product), (want, &chunk[0].product));
        }
    }

    #[test]
    fn differences_are_paired_and_split_by_scenario() {
        let mut table = Table::default();
        table.add("patient", "teacher", scripted(Buyer::Patient, 2));
        table.add("naive", "teacher", scripted(Buyer::Naive, 2));
        let d = table.differences("patient", "naive");
        assert_eq!(d.iter().map(|d| d.scenario).collect::<Vec<_>>(), ["all", "mi", "ci"]);
        assert_eq!((d[0].n, d[1].n + d[2].n), (40, 40));
        let by_hand = table.rows()[0].reward - table.rows()[3].reward;
        assert!((d[0].mean - by_hand).abs() < 1e-12, "got {}, want {by_hand}", d[0].mean);
        assert!(table.differences("naive", "nobody").is_empty());
    }
}
