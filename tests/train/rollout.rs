//! Rollouts: an episode is its own, a cut reply is a violation, what grows to the context is cut there.

use haggle::config::Config;
use haggle::device::Device;
use haggle::infer::{Engine, EngineConfig, Sampling};
use haggle::model::Plan;
use haggle::negotiate::reply::Malformed;
use haggle::negotiate::{
    Buyer, Cents, Episode, Intervention, Outcome, Persona, Product, Rules, Seller, Style, Turn, Violation, catalog,
};
use haggle::noise::Noise;
use haggle::rollout::{self, Job, Player, Spoken, Voice};
use haggle::setup::base::{self, Base};
use haggle::text::Transcript;
use haggle::train::learner::{Learner, Learning, Sample, parts};
use haggle::train::optimizer::{Hyper, Optimizer};
use std::sync::Arc;

/// Games and their noise.
type Games = Vec<(Episode, Noise)>;

fn games(n: usize, group: usize) -> Games {
    let products = catalog::embedded().unwrap();
    let game = |i: usize| {
        let product = Arc::new(products[i / group * 7].clone());
        (Episode::new(product, Rules::default(), Persona::Neutral), Noise::new(1, i as u64))
    };
    (0..n).map(game).collect()
}

struct Stage {
    dev: Device,
    base: Base,
}

/// A game that was played, and the ids of its sides.
struct Played {
    game: Episode,
    spoken: Spoken,
}

impl Played {
    fn buyer(&self) -> &Transcript {
        self.spoken[0].as_ref().unwrap()
    }
}

fn play(games: &Games, players: &mut [Player<'_, Episode>], max_live: usize) -> haggle::Result<Vec<Played>> {
    let mut all: Vec<Episode> = games.iter().map(|(game, _)| game.clone()).collect();
    let jobs = all.iter_mut().zip(games).map(|(game, (_, noise))| Job::new(game, "books_77", *noise)).collect();
    let spoken = rollout::play(jobs, players, max_live, &mut |_| ())?.spoken;
    Ok(all.into_iter().zip(spoken).map(|(game, spoken)| Played { game, spoken }).collect())
}

impl Stage {
    fn new(threads: usize) -> Stage {
        let dev = Device::open("cpu", threads).unwrap();
        let base = base::open(&dev, "embedded", &Config::default()).unwrap();
        Stage { dev, base }
    }

    fn engine(&self, config: EngineConfig) -> Engine {
        Engine::new(&self.dev, &self.base.weights.config, config).unwrap()
    }

    fn voice<'a>(&'a self, engine: &'a mut Engine, max_new: usize) -> Player<'a, Episode> {
        let sampling = Sampling::plain(1.0, max_new, self.base.chat.end());
        Player::Model(Voice { weights: &self.base.weights, engine, chat: &self.base.chat, sampling, manner: None })
    }

    /// Model against model.
    fn play(&self, games: &Games, sizes: EngineConfig, max_live: usize) -> Vec<Played> {
        let (mut a, mut b) = (self.engine(sizes), self.engine(sizes));
        play(games, &mut [self.voice(&mut a, 64), self.voice(&mut b, 64)], max_live).unwrap()
    }
}

fn same(a: &Played, b: &Played) -> bool {
    a.game.turns() == b.game.turns() && a.spoken == b.spoken
}

#[test]
fn an_episode_is_the_same_whoever_runs_beside_it() {
    let games = games(8, 4);
    let together = Stage::new(2).play(&games, EngineConfig::sized_for(8, 640), 8);
    // few pages, small forwards, no shared prefixes, three at a time, one thread
    let tight = EngineConfig { max_pages: 40, max_rows: 33, max_seqs: 3, prefix_reuse: false, graphs: false };
    let stage = Stage::new(1);
    let apart = stage.play(&games, tight, 3);
    let alone = stage.play(&games[5..6].to_vec(), tight, 1);
    assert_eq!(together.len(), 8);
    for (i, (a, b)) in together.iter().zip(&apart).enumerate() {
        assert!(same(a, b), "episode {i} changed with its neighbours");
        assert!(a.buyer().sampled().iter().any(|s| *s));
    }
    assert!(same(&together[5], &alone[0]));
    assert!(!same(&together[0], &together[1]), "two rollouts of one product have noise of their own");
}

#[test]
fn a_reply_cut_at_its_limit_ends_the_episode_for_a_buyer_and_is_regulated_for_a_seller() {
    let (stage, games) = (Stage::new(1), games(3, 1));
    let mut engine = stage.engine(EngineConfig::sized_for(3, 640));
    let seller = |game: &Episode, noise: Noise| Seller::Linear.reply(game, noise);
    let played = play(&games, &mut [stage.voice(&mut engine, 3), Player::Script(&seller)], 3).unwrap();
    for p in &played {
        let why = Violation::Format(Malformed::TooLong);
        assert_eq!(p.game.outcome(), Some(Outcome::Violation { why }));
        assert_eq!(p.buyer().sampled().iter().filter(|s| **s).count(), 3);
    }
    let buyer = |game: &Episode, noise: Noise| Buyer::OgNarrator.reply(game, noise);
    let played = play(&games, &mut [Player::Script(&buyer), stage.voice(&mut engine, 3)], 3).unwrap();
    for p in &played {
        let seller: Vec<_> = p.game.turns().iter().filter(|t| t.intervention.is_some()).collect();
        assert!(!seller.is_empty() && seller.iter().all(|t| t.intervention == Some(Intervention::Malformed)));
    }
}

#[test]
fn a_person_who_leaves_ends_the_game_where_it_stands() {
    let (stage, games) = (Stage::new(1), games(1, 1));
    let mut engine = stage.engine(EngineConfig::sized_for(1, 640));
    let mut asked = 0;
    let mut person = |game: &Episode| {
        asked += 1;
        Ok((asked < 2).then(|| Seller::Linear.reply(game, Noise::new(2, 2))))
    };
    let played = play(&games, &mut [stage.voice(&mut engine, 64), Player::Person(&mut person)], 1).unwrap();
    assert_eq!((asked, played[0].game.turns().len(), played[0].game.outcome()), (2, 3, None));
    assert_eq!(engine.n_running(), 0);
}

#[test]
fn what_grows_to_the_context_is_cut_there_and_counted_and_learned_from_to_the_last_position() {
    let mut stage = Stage::new(1);
    let games = games(24, 4);
    for context in [150, 190, 231] {
        stage.base.weights.config.max_position_embeddings = context;
        let sizes = EngineConfig::sized_for(24, 640);
        let (mut a, mut b) = (stage.engine(sizes), stage.engine(sizes));
        let mut all: Vec<Episode> = games.iter().map(|(game, _)| game.clone()).collect();
        let jobs = all.iter_mut().zip(&games).map(|(game, (_, noise))| Job::new(game, "books_77", *noise)).collect();
        let players = &mut [stage.voice(&mut a, 64), stage.voice(&mut b, 64)];
        let rollout = rollout::play(jobs, players, 24, &mut |_| ()).unwrap();
        assert!(all.iter().all(|game| game.outcome().is_some()));
        let cut = |t: &Turn| t.violation == Some(Violation::Format(Malformed::TooLong));
        let cuts = all.iter().flat_map(|game| game.turns()).filter(|t| cut(t)).count();
        assert_eq!(rollout.context_full, cuts, "context {context}");
        assert!(cuts > 0);
        let buyers: Vec<&Transcript> = rollout.spoken.iter().map(|seats| seats[0].as_ref().unwrap()).collect();
        assert!(rollout.spoken.iter().flatten().flatten().all(|t| t.len() <= context));
        assert!(context > 200 || buyers.iter().any(|t| t.len() == context), "one ends at the last position");

        let weights = haggle::embedded::weights(&stage.dev).unwrap();
        let optimizer = Optimizer::new(&stage.dev, parts(&weights), Hyper::default(), 10).unwrap();
        let mut plan = Plan::on(&stage.dev);
        let how = Learning { micro_batch_tok: 1024, ..Learning::default() };
        let mut learner = Learner::planned(&mut plan, weights, optimizer, how).unwrap();
        let samples: Vec<Sample> = buyers.iter().map(|t| Sample::even(t, 1.0)).collect();
        let learned = learner.learn(&samples, None).unwrap();
        let sampled: usize = buyers.iter().map(|t| t.sampled().iter().filter(|s| **s).count()).sum();
        assert_eq!((learned.trained_tok, learned.logprob_max_abs_diff, learned.applied), (sampled, 0.0, 1));
    }
}

#[test]
fn a_side_without_room_for_its_prompt_says_nothing() {
    let stage = Stage::new(1);
    let words = "long ".repeat(3_000);
    let product = Product::new("books_77", "books", "A long book", &words, Cents(2_000), Cents(1_000));
    let rules = Rules { style: Style::Paper, ..Rules::default() };
    let game = (Episode::new(Arc::new(product), rules, Persona::Neutral), Noise::new(1, 1));
    let mut engine = stage.engine(EngineConfig::sized_for(1, 1024));
    let seller = |game: &Episode, noise: Noise| Seller::Linear.reply(game, noise);
    let played = play(&vec![game], &mut [stage.voice(&mut engine, 64), Player::Script(&seller)], 1).unwrap();
    let why = Violation::Format(Malformed::TooLong);
    assert_eq!(played[0].game.outcome(), Some(Outcome::Violation { why }));
    assert!(played[0].buyer().sampled().iter().all(|sampled| !sampled));
}
