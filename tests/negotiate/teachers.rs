//! Scripted play: how buyers fare against the teacher seller, and what every scripted player must keep to.
//!
//! `cargo test --test negotiate teachers:: -- --nocapture` prints the tables.

#![allow(clippy::unwrap_used)]
use haggle::negotiate::*;
use haggle::noise::Noise;
use std::sync::Arc;

/// A third of the embedded catalog, spread over all categories.
fn sample() -> Vec<Arc<Product>> {
    catalog::embedded().unwrap().into_iter().step_by(3).map(Arc::new).collect()
}

fn facts(buyer: Buyer, seller: Seller, products: &[Arc<Product>], rounds: u64) -> Vec<EpisodeFacts> {
    let games = (0..rounds).flat_map(|round| products.iter().enumerate().map(move |(i, p)| (round, i, p)));
    games
        .map(|(round, i, p)| EpisodeFacts::of(&play(buyer, seller, p, Rules::default(), Noise::new(round, i as u64))))
        .collect()
}

fn print(row: &Row) {
    println!(
        "{:16} {:10} {:3} n {:5} reward {:+.3} ±{:.3} deal {:.3} bargained {:+.3} first {:.2} turns {:.2} quit {:.2} \
         interventions {:.2} reasons {:.2}",
        row.buyer,
        row.seller,
        row.scenario,
        row.n,
        row.reward,
        row.reward_ci95.unwrap(),
        row.deal_rate,
        row.bargained_ratio.unwrap_or(f64::NAN),
        row.first_offer_ratio.unwrap_or(f64::NAN),
        row.turns,
        row.seller_quit_rate,
        row.interventions,
        row.reason_rate,
    );
}

#[test]
fn the_teacher_rewards_patience_and_reasons_and_not_lowballing() {
    let products = sample();
    let table: Vec<Vec<Row>> = BUYERS
        .iter()
        .map(|b| metrics::rows(b.key(), "teacher", &facts(*b, Seller::Teacher, &products, 4)))
        .inspect(|rows| rows.iter().for_each(print))
        .collect();
    let row = |buyer: Buyer| table.iter().map(|rows| &rows[0]).find(|r| r.buyer == buyer.key()).unwrap();
    let (naive, og, patient, low) =
        (row(Buyer::Naive), row(Buyer::OgNarrator), row(Buyer::Patient), row(Buyer::Lowballer));
    assert!((0.03..0.15).contains(&naive.reward) && naive.deal_rate > 0.75, "{naive:?}");
    assert!((0.2..0.3).contains(&og.reward), "{og:?}");
    assert!(patient.reward >= 0.4 && patient.deal_rate >= 0.85, "{patient:?}");
    assert!(low.reward == 0.0 && low.deal_rate == 0.0 && low.seller_quit_rate > 0.5, "{low:?}");
    for rows in &table {
        assert_eq!((rows[2].scenario.as_str(), rows[2].deal_rate), ("ci", 0.0), "no deal where interests conflict");
    }
}

#[test]
fn every_pair_plays_by_the_rules() {
    let products: Vec<Arc<Product>> = sample().into_iter().step_by(4).collect();
    for buyer in BUYERS {
        for seller in SELLERS {
            let facts = facts(buyer, seller, &products, 1);
            let row = &metrics::rows(buyer.key(), seller.key(), &facts)[0];
            print(row);
            assert_eq!((row.overshoot_rate, row.format_error_rate), (0.0, 0.0), "{row:?}");
            assert!(seller == Seller::Random || row.interventions == 0.0, "only chance needs the regulator: {row:?}");
            assert!(facts.iter().all(|f| f.monotone != Some(false)), "scripted bids never go down: {row:?}");
        }
    }
}

#[test]
fn the_regulator_holds_the_random_seller_in_every_way() {
    let row = &metrics::rows("naive", "random", &facts(Buyer::Patient, Seller::Random, &sample(), 2))[0];
    let kinds = row.interventions_by_kind;
    assert!(kinds.offer_lifted > 0.0 && kinds.acceptance_voided > 0.0 && kinds.malformed > 0.0 && kinds.illegal > 0.0);
    let total = kinds.offer_lifted + kinds.acceptance_voided + kinds.malformed + kinds.illegal;
    assert!((total - row.interventions).abs() < 1e-12);
}

#[test]
fn play_is_a_function_of_its_arguments() {
    let product = &sample()[7];
    let game = |seed| play(Buyer::Explorer, Seller::Teacher, product, Rules::default(), Noise::new(seed, 3));
    assert_eq!(game(1).turns(), game(1).turns());
    assert!((2..20).any(|seed| game(seed).turns() != game(1).turns()));
}

/// The buyer's replies do not depend on the cost, nor the seller's on the budget, as long as they heard the same.
#[test]
fn players_are_blind_to_the_other_sides_number() {
    for (i, product) in sample().iter().enumerate() {
        let mut other_cost = (**product).clone();
        other_cost.cost = Cents(product.cost.0 / 2 + 1);
        let mut other_budget = (**product).clone();
        other_budget.budget = Cents(product.list.0);
        let noise = Noise::new(9, i as u64);
        let mut seen = Episode::new(product.clone(), Rules::default(), Persona::Neutral);
        let mut cheap = Episode::new(Arc::new(other_cost), Rules::default(), Persona::Neutral);
        let mut rich = Episode::new(Arc::new(other_budget), Rules::default(), Persona::Neutral);
        while let Some(side) = seen.next_side() {
            let text = match side {
                Side::Buyer => Buyer::Explorer.reply(&seen, noise),
                Side::Seller => Seller::Teacher.reply(&seen, noise),
            };
            match side {
                Side::Buyer => assert_eq!(text, Buyer::Explorer.reply(&cheap, noise)),
                Side::Seller => assert_eq!(text, Seller::Teacher.reply(&rich, noise)),
            }
            for episode in [&mut seen, &mut cheap, &mut rich] {
                episode.submit(side, &text).unwrap();
            }
        }
    }
}

#[test]
fn the_teachers_mood_is_spoken_once_and_its_asks_never_rise() {
    for (i, product) in sample().iter().enumerate() {
        let episode = play(Buyer::Explorer, Seller::Teacher, product, Rules::default(), Noise::new(3, i as u64));
        let thoughts: Vec<&str> = episode.turns_of(Side::Seller).filter_map(|t| t.thought.as_deref()).collect();
        let moody = |t: &&&str| ["firm", "fair", "easy"].iter().any(|m| t.contains(m));
        assert!(thoughts.iter().filter(moody).count() == 1 && moody(&&thoughts[0]), "{thoughts:?}");
        let asks: Vec<Cents> = episode.offers(Side::Seller).collect();
        assert!(asks.windows(2).all(|w| w[1] <= w[0]), "{asks:?}");
    }
}
