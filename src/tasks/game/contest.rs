//! Contests: buyers against sellers on held-out products.
//!
//! The one idea: every buyer meets the same products with the same noise, so that differences are paired.

use super::opponents::Opponent;
use super::rows::sample_line;
use crate::dist::Ranks;
use crate::error::Result;
use crate::eval::{GameLine, Kept, Progress, Report};
use crate::infer::Sampling;
use crate::negotiate::metrics::EpisodeFacts;
use crate::negotiate::{Buyer, Episode, Persona, Product, Rules};
use crate::noise::Noise;
use crate::rollout::{self, Job, Player, Voice};
use crate::setup::Setup;
use crate::tasks::menu::Drafting;
use crate::tasks::{self, Engines, Speaks};
use serde_json::{Value, json};
use std::sync::Arc;

/// What all buyers of a table share.
#[derive(Debug, Clone)]
pub(super) struct Contest {
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
    /// Who plays them.
    pub ranks: Ranks,
}

impl Contest {
    /// Plays `rollouts` games a product, products first, each as `seated` has it; `progress` hears how many have ended.
    ///
    /// # Errors
    /// As [`rollout::play_dealt`].
    pub fn play<'p, E: rollout::Episode + Into<Episode>>(
        &self,
        rollouts: usize,
        seated: impl Fn(Episode, Noise) -> E,
        buyer: Player<'p, E>,
        seller: Player<'p, E>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Episode>> {
        let noise = |i: usize| self.noise.child((i / rollouts) as u64).child((i % rollouts) as u64);
        let of = |i: usize| {
            let product = &self.products[i / rollouts];
            (product.code.clone(), seated(Episode::new(product.clone(), self.rules, self.persona), noise(i)))
        };
        let mut games: Vec<(String, E)> = (0..self.products.len() * rollouts).map(of).collect();
        let each = games.iter_mut().enumerate();
        let jobs = each.map(|(i, (about, game))| Job::new(game, about.clone(), noise(i))).collect();
        rollout::play_dealt(&self.ranks, rollouts, jobs, &mut [buyer, seller], self.max_live, progress)?;
        Ok(games.into_iter().map(|(_, game)| game.into()).collect())
    }
}

/// Facts of games, none of a void one.
fn facts(games: &[Episode]) -> Vec<Option<EpisodeFacts>> {
    games.iter().map(|game| game.void().is_none().then(|| EpisodeFacts::of(game))).collect()
}

/// The first `n` of every `rollouts` episodes.
fn first_of<T: Clone>(of: &[T], rollouts: usize, n: usize) -> Vec<T> {
    of.chunks(rollouts.max(1)).flat_map(|chunk| chunk[..n.min(chunk.len())].to_vec()).collect()
}

/// The best (by reward, the first of equals) of the first `n` of every `rollouts` episodes, void ones aside.
fn best_of(facts: &[Option<EpisodeFacts>], rollouts: usize, n: usize) -> Vec<EpisodeFacts> {
    let better = |a: EpisodeFacts, b: EpisodeFacts| if b.reward > a.reward { b } else { a };
    let best =
        |chunk: &[Option<EpisodeFacts>]| chunk[..n.clamp(1, chunk.len())].iter().flatten().cloned().reduce(better);
    facts.chunks(rollouts.max(1)).filter_map(best).collect()
}

/// A buyer of a table.
#[derive(Clone, Copy)]
enum Entrant<'a> {
    /// A model; with `best_of` also a row of the best of that many rollouts.
    Model {
        /// The model.
        model: tasks::Entrant<'a>,
        /// Candidates of the best-of-n row; 0 for none.
        best_of: usize,
    },
    /// A script.
    Script(Buyer),
}

/// Sample dialogues that a buyer leaves in the report against the first seller, and against each further one.
const SAMPLES: usize = 8;
const FURTHER_SAMPLES: usize = 3;
/// Stream of noise below the run's seed.
const EVAL: u64 = 3;

/// Plays every entrant against every opponent on the held-out products.
///
/// # Errors
/// What the engines refuse: a prompt that does not fit the context, by the product's name.
fn compete(
    setup: &Setup,
    entrants: &[Entrant],
    opponents: &[Opponent],
    mut lent: Option<Engines>,
    progress: &mut Progress,
) -> Result<Report> {
    let mut report = Report::default();
    let rollouts = setup.config.eval.rollouts;
    for opponent in opponents {
        let seller = opponent.key();
        for entrant in entrants {
            let played = meet(setup, entrant, *opponent, lent.as_mut(), progress)?;
            let (buyer, best_of) = match *entrant {
                Entrant::Script(buyer) => (buyer.key(), 0),
                Entrant::Model { model, best_of } => (model.name, best_of),
            };
            let (facts, each) = (facts(&played), rollouts.max(best_of));
            let void = played.iter().enumerate().filter_map(|(i, game)| Some((i % each, game, game.void()?)));
            let void = void.map(|(rollout, game, why)| {
                json!({ "buyer": buyer, "seller": seller, "product": game.product().code, "rollout": rollout, "why": why })
            });
            report.void.extend(void);
            report.table.add(buyer, &seller, first_of(&facts, each, rollouts).into_iter().flatten().collect());
            if best_of > 0 {
                report.table.add(&format!("best_of_{best_of}"), &seller, self::best_of(&facts, each, best_of));
            }
            let line = |(i, facts): (usize, Option<EpisodeFacts>)| {
                let (buyer, seller, rollout) = (buyer.into(), seller.clone(), i % each);
                Some(GameLine { buyer, seller, rollout, counts: rollout < rollouts, facts: facts? })
            };
            report.games.extend(facts.into_iter().enumerate().filter_map(line));
            let model = matches!(entrant, Entrant::Model { .. });
            let played = first_of(&played, each, rollouts);
            report.kept.push(Kept { buyer: buyer.into(), seller: seller.clone(), model, played });
        }
    }
    Ok(report)
}

/// The first games of a few products, evenly spread over them.
fn few(games: &[Episode], each: usize, n: usize) -> impl Iterator<Item = &Episode> {
    let products = games.len() / each.max(1);
    let n = n.min(products);
    (0..n).map(move |i| &games[i * products / n * each]).filter(|game| game.void().is_none())
}

/// A scripted side.
type Script<E> = Box<dyn Fn(&E, Noise) -> String>;

/// Stream of which draft is played below a game's noise.
const DRAFTS: u64 = 2 << 32;

/// All games of one entrant against one opponent, in engines that are lent or in their own.
fn meet(
    setup: &Setup,
    entrant: &Entrant,
    opponent: Opponent,
    lent: Option<&mut Engines>,
    progress: &mut Progress,
) -> Result<Vec<Episode>> {
    match *entrant {
        Entrant::Model { model: tasks::Entrant { speaks: Speaks::Menus(k), .. }, .. } => {
            let seated = |game, noise: Noise| Drafting::new(game, k, noise.child(DRAFTS));
            met(setup, entrant, opponent, lent, seated, progress)
        }
        Entrant::Model { model: tasks::Entrant { speaks: Speaks::Replies, .. }, .. } | Entrant::Script(_) => {
            met(setup, entrant, opponent, lent, |game, _| game, progress)
        }
    }
}

/// The same, each game as `seated` has it.
fn met<E: rollout::Episode + AsRef<Episode> + Into<Episode>>(
    setup: &Setup,
    entrant: &Entrant,
    opponent: Opponent,
    lent: Option<&mut Engines>,
    seated: impl Fn(Episode, Noise) -> E,
    progress: &mut Progress,
) -> Result<Vec<Episode>> {
    let rollouts = setup.config.eval.rollouts;
    let (lent_buyer, lent_seller) = match lent {
        Some(Engines { learner, frozen }) => (Some(&mut **learner), Some(&mut **frozen)),
        None => (None, None),
    };
    let (mut buyer_engine, mut seller_engine);
    let (buyer_script, seller_script): (Script<E>, Script<E>);
    let (name, rollouts, buyer) = match *entrant {
        Entrant::Script(buyer) => {
            buyer_script = Box::new(move |game, noise| buyer.reply(game.as_ref(), noise));
            (buyer.key(), rollouts, Player::Script(&*buyer_script))
        }
        Entrant::Model { model: tasks::Entrant { name, weights, chat, speaks }, best_of } => {
            let (engine, manner) = match lent_buyer {
                Some(engine) => (engine, setup.manner(chat, &weights.config)?),
                None => {
                    let (own, manner) = setup.eval_engine(chat, &weights.config)?;
                    buyer_engine = own;
                    (&mut buyer_engine, manner)
                }
            };
            let plain = setup.eval_sampling(chat);
            let sampling = match speaks {
                Speaks::Replies => plain,
                Speaks::Menus(k) => Sampling { max_new_tokens: plain.max_new_tokens * k, ..plain },
            };
            (name, rollouts.max(best_of), Player::Model(Voice { weights, engine, chat, sampling, manner }))
        }
    };
    let (persona, seller) = match opponent {
        Opponent::Script(seller) => {
            seller_script = Box::new(move |game, noise| seller.reply(game.as_ref(), noise));
            (Persona::Neutral, Player::Script(&*seller_script))
        }
        Opponent::Model(persona) => {
            let engine = match lent_seller {
                Some(engine) => engine,
                None => {
                    seller_engine = setup.seller_engine()?;
                    &mut seller_engine
                }
            };
            (persona, setup.seller_player(engine)?)
        }
    };
    let contest = Contest {
        products: setup.held_out.clone(),
        rules: setup.rules,
        persona,
        noise: Noise::new(setup.config.seed, EVAL),
        max_live: setup.episodes_a_step(),
        ranks: setup.ranks.clone(),
    };
    let (key, of) = (opponent.key(), contest.products.len() * rollouts);
    contest.play(rollouts, seated, buyer, seller, &mut |done| progress(name, &key, done, of))
}

/// One model against `eval.seller`, its rows of the table of [`evaluate`], in engines that are there and guide nobody.
///
/// # Errors
/// As [`compete`].
pub(super) fn look(setup: &Setup, model: tasks::Entrant, engines: Engines, progress: &mut Progress) -> Result<Report> {
    let (entrant, opponents) = (Entrant::Model { model, best_of: 0 }, Opponent::named(&setup.config.eval.seller)?);
    compete(setup, &[entrant], &opponents, Some(engines), progress)
}

/// Holds models and the scripts of `eval.buyer` against `eval.seller`; the first model has a row of its best of n, and the
/// differences are of the others.
///
/// # Errors
/// As [`compete`], and [`crate::Error::Config`] when there is no such seller.
pub(super) fn evaluate(setup: &Setup, models: &[tasks::Entrant], progress: &mut Progress) -> Result<Report> {
    let best_of = setup.config.eval.best_of;
    let entrant = |(i, model)| Entrant::Model { model, best_of: if i == 0 { best_of } else { 0 } };
    let mut entrants: Vec<Entrant> = models.iter().copied().enumerate().map(entrant).collect();
    let scripts = Buyer::named(&setup.config.eval.buyer);
    let at = 1.min(entrants.len());
    entrants.splice(at..at, scripts.iter().copied().map(Entrant::Script));
    let opponents = Opponent::named(&setup.config.eval.seller)?;
    let mut report = compete(setup, &entrants, &opponents, None, progress)?;
    let (first, last) = (models.first().map_or("", |m| m.name), models.last().map_or("", |m| m.name));
    let best = format!("best_of_{best_of}");
    let baselines = || [first, &best].into_iter().chain(scripts.iter().map(|buyer| buyer.key()));
    let learned = &models[at.min(models.len().saturating_sub(1))..];
    let pairs = learned.iter().flat_map(|model| baselines().map(|other| (model.name, other)));
    let pairs = pairs.filter(|(model, other)| model != other);
    report.differences = pairs.flat_map(|(model, other)| report.table.differences(model, other)).collect();
    let lines = |of: &Kept| -> Vec<Value> {
        let when = if of.buyer == first { "before" } else { "after" };
        let first = opponents.first().is_some_and(|opponent| opponent.key() == of.seller);
        let n = if first { SAMPLES } else { FURTHER_SAMPLES };
        few(&of.played, setup.config.eval.rollouts, n).map(|game| sample_line(when, of, game)).collect()
    };
    let shown = |k: &&Kept| k.model && (k.buyer == first || k.buyer == last);
    report.samples = report.kept.iter().filter(shown).flat_map(lines).collect();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Table;
    use crate::negotiate::{Buyer, Seller, catalog};

    fn contest() -> Contest {
        let products = catalog::products(40, 3).unwrap().into_iter().take(40).map(Arc::new).collect();
        let rules = Rules::default();
        Contest {
            products,
            rules,
            persona: Persona::Neutral,
            noise: Noise::new(5, 1),
            max_live: 7,
            ranks: Ranks::alone(),
        }
    }

    fn play(contest: Contest, buyer: Buyer, rollouts: usize) -> Vec<EpisodeFacts> {
        let buyer = |game: &Episode, noise: Noise| buyer.reply(game, noise);
        let seller = |game: &Episode, noise: Noise| Seller::Teacher.reply(game, noise);
        let (buyer, seller) = (Player::Script(&buyer), Player::Script(&seller));
        let games = contest.play(rollouts, |game, _| game, buyer, seller, &mut |_| ()).unwrap();
        facts(&games).into_iter().flatten().collect()
    }

    fn scripted(buyer: Buyer, rollouts: usize) -> Vec<EpisodeFacts> {
        play(contest(), buyer, rollouts)
    }

    #[test]
    fn episodes_come_products_first_and_do_not_depend_on_how_many_run_at_a_time() {
        let facts = scripted(Buyer::Naive, 3);
        assert_eq!(facts.len(), 120);
        assert!(facts.chunks(3).all(|c| c.iter().all(|f| f.product == c[0].product)));
        assert_eq!(play(Contest { max_live: 1, ..contest() }, Buyer::Naive, 3), facts);
    }

    #[test]
    fn fewer_rollouts_are_the_first_of_more() {
        assert_eq!(first_of(&scripted(Buyer::Naive, 4), 4, 2), scripted(Buyer::Naive, 2));
    }

    #[test]
    fn best_of_n_takes_the_best_of_the_first_n_of_each_product() {
        let facts = scripted(Buyer::Naive, 4);
        let mut all: Vec<Option<EpisodeFacts>> = facts.iter().cloned().map(Some).collect();
        let best = best_of(&all, 4, 3);
        assert_eq!(best.len(), 40);
        for (b, chunk) in best.iter().zip(facts.chunks(4)) {
            let want = chunk[..3].iter().map(|f| f.reward).fold(f64::MIN, f64::max);
            assert_eq!((b.reward, &b.product), (want, &chunk[0].product));
        }
        // Void games are no candidates, and a product that has no other has no best.
        all[..4].fill(None);
        (all[4], all[5]) = (None, None);
        let left = best_of(&all, 4, 3);
        assert_eq!((left.len(), &left[0]), (39, &facts[6]));
    }

    #[test]
    fn differences_are_paired_and_split_by_scenario() {
        let mut table = Table::default();
        table.add("patient", "teacher", scripted(Buyer::Patient, 2));
        table.add("naive", "teacher", scripted(Buyer::Naive, 2));
        let d = table.differences("patient", "naive");
        assert_eq!(d.iter().map(|d| d.scenario.as_str()).collect::<Vec<_>>(), ["all", "mi", "ci"]);
        assert_eq!((d[0].n, d[1].n + d[2].n), (40, 40));
        let by_hand = table.rows()[0].reward - table.rows()[3].reward;
        assert!((d[0].mean - by_hand).abs() < 1e-12, "got {}, want {by_hand}", d[0].mean);
        assert!(table.differences("naive", "nobody").is_empty());
    }
}
