//! Rollouts: an episode is its own, a cut reply is a violation, a prompt that does not fit is refused by name.

#![allow(clippy::unwrap_used)]

use haggle::device::{DType, Device};
use haggle::infer::{Engine, EngineConfig, Sampling};
use haggle::negotiate::reply::Malformed;
use haggle::negotiate::{
    Buyer, Cents, Intervention, Outcome, Persona, Product, Rules, Seller, Style, Violation, catalog,
};
use haggle::noise::Noise;
use haggle::rollout::{self, Job, Played, Player, Voice};
use haggle::setup::base::{self, Base};
use std::sync::Arc;

fn jobs(n: usize, group: usize) -> Vec<Job> {
    let products = catalog::embedded().unwrap();
    let job = |i: usize| Job {
        product: Arc::new(products[i / group * 7].clone()),
        rules: Rules::default(),
        persona: Persona::Neutral,
        noise: Noise::new(1, i as u64),
    };
    (0..n).map(job).collect()
}

struct Stage {
    dev: Device,
    base: Base,
}

impl Stage {
    fn new(threads: usize) -> Stage {
        let dev = Device::open("cpu", threads).unwrap();
        let base = base::open(&dev, "embedded", DType::F32).unwrap();
        Stage { dev, base }
    }

    fn engine(&self, config: EngineConfig) -> Engine {
        Engine::new(&self.dev, &self.base.weights.config, config).unwrap()
    }

    fn voice<'a>(&'a self, engine: &'a mut Engine, max_new: usize) -> Player<'a> {
        let sampling = Sampling::plain(1.0, max_new, self.base.chat.end());
        Player::Model(Voice { weights: &self.base.weights, engine, chat: &self.base.chat, sampling })
    }

    /// Model against model.
    fn play(&self, jobs: &[Job], sizes: EngineConfig, max_live: usize) -> Vec<Played> {
        let (mut a, mut b) = (self.engine(sizes), self.engine(sizes));
        let (mut buyer, mut seller) = (self.voice(&mut a, 64), self.voice(&mut b, 64));
        rollout::play(jobs, &mut buyer, &mut seller, max_live, &mut |_| ()).unwrap().played
    }
}

fn same(a: &Played, b: &Played) -> bool {
    a.episode.turns() == b.episode.turns() && a.buyer == b.buyer && a.seller == b.seller
}

#[test]
fn an_episode_is_the_same_whoever_runs_beside_it() {
    let jobs = jobs(8, 4);
    let together = Stage::new(2).play(&jobs, EngineConfig::sized_for(8, 640), 8);
    // few pages, small forwards, no shared prefixes, three at a time, one thread
    let tight = EngineConfig { max_pages: 40, max_rows: 33, max_seqs: 3, prefix_reuse: false, graphs: false };
    let stage = Stage::new(1);
    let apart = stage.play(&jobs, tight, 3);
    let alone = stage.play(&jobs[5..6], tight, 1);
    assert_eq!(together.len(), 8);
    for (i, (a, b)) in together.iter().zip(&apart).enumerate() {
        assert!(same(a, b), "episode {i} changed with its neighbours");
        assert!(a.buyer.as_ref().unwrap().sampled().iter().any(|s| *s));
    }
    assert!(same(&together[5], &alone[0]));
    assert!(!same(&together[0], &together[1]), "two rollouts of one product have noise of their own");
}

#[test]
fn a_reply_cut_at_its_limit_ends_the_episode_for_a_buyer_and_is_regulated_for_a_seller() {
    let (stage, jobs) = (Stage::new(1), jobs(3, 1));
    let mut engine = stage.engine(EngineConfig::sized_for(3, 640));
    let (mut buyer, mut seller) = (stage.voice(&mut engine, 3), Player::Seller(Seller::Linear));
    let played = rollout::play(&jobs, &mut buyer, &mut seller, 3, &mut |_| ()).unwrap().played;
    for p in &played {
        let why = Violation::Format(Malformed::TooLong);
        assert_eq!(p.episode.outcome(), Some(Outcome::Violation { why }));
        assert_eq!(p.buyer.as_ref().unwrap().sampled().iter().filter(|s| **s).count(), 3);
    }
    let (mut buyer, mut seller) = (Player::Buyer(Buyer::OgNarrator), stage.voice(&mut engine, 3));
    let played = rollout::play(&jobs, &mut buyer, &mut seller, 3, &mut |_| ()).unwrap().played;
    for p in &played {
        let seller: Vec<_> = p.episode.turns().iter().filter(|t| t.intervention.is_some()).collect();
        assert!(!seller.is_empty() && seller.iter().all(|t| t.intervention == Some(Intervention::Malformed)));
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_by_name() {
    let stage = Stage::new(1);
    let words = "long ".repeat(3_000);
    let product = Product::new("books_77", "books", "A long book", &words, Cents(2_000), Cents(1_000));
    let rules = Rules { style: Style::Paper, ..Rules::default() };
    let job = Job { product: Arc::new(product), rules, persona: Persona::Neutral, noise: Noise::new(1, 1) };
    let mut engine = stage.engine(EngineConfig::sized_for(1, 1024));
    let (mut buyer, mut seller) = (stage.voice(&mut engine, 64), Player::Seller(Seller::Linear));
    let refused = rollout::play(&[job], &mut buyer, &mut seller, 1, &mut |_| ()).err().unwrap().to_string();
    assert!(refused.contains("the buyer's prompt for books_77") && refused.contains("context"), "{refused}");
}
