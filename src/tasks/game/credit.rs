//! What the games of a draw earned.
//!
//! The one idea: rules are plain functions in [`crate::credit`]; this reads what they need from the played games and weighs
//! their rewards as the config says.

use crate::config::Config;
use crate::config::choice::RewardShape;
use crate::credit::latent::{self, Features};
use crate::credit::shaping::{self, Ended};
use crate::device::Device;
use crate::error::Result;
use crate::negotiate::metrics::EpisodeFacts;
use crate::negotiate::{Action, Episode, Scenario, Side};
use crate::setup::Setup;
use crate::tasks::Logprobs;
use crate::tasks::credit::{Credited, Kinds, scaled_kept, trained};
use crate::text::Transcript;
use std::ops::Range;

/// The rewards of a game that `reward.*` weighs: surplus, format, budget, politeness, length.
const KINDS: usize = 5;

/// One game's rewards, by kind.
type Parts = [f64; KINDS];

/// What the buyer's tokens of each game earned. `kl` is what the reference takes off each reward; empty for nothing.
///
/// # Errors
/// What the device refuses.
pub(super) fn credit(
    dev: &Device,
    config: &Config,
    games: &[Episode],
    buyer: &[Option<Transcript>],
    kl: &[f64],
) -> Result<Credited> {
    let parts: Vec<Parts> = games.iter().zip(buyer).map(|(game, ids)| parts(config, game, ids.as_ref())).collect();
    let mut rewards: Vec<f64> = parts.iter().map(|p| weigh(config, p)).collect();
    rewards.iter_mut().zip(kl).for_each(|(r, kl)| *r -= config.grpo.kl as f64 * kl);
    let lengths: Vec<usize> = buyer.iter().map(|ids| ids.as_ref().map_or(0, trained)).collect();
    let kinds = Kinds {
        rewards: (0..KINDS).map(|k| parts.iter().map(|p| p[k]).collect()).collect(),
        weights: weights(config).to_vec(),
    };
    let kept: Vec<bool> = games.iter().map(|game| game.void().is_none()).collect();
    let mut done = scaled_kept(dev, config, rewards, &kinds, &lengths, &kept)?;
    if config.credit.latent {
        done.per_token = per_turn(games, buyer, &done);
    }
    Ok(done)
}

/// Sums over each transcript's trained tokens of the KL estimate to the reference, from the logprobs they were sampled with:
/// what goes off the reward.
///
/// # Errors
/// What the ops refuse.
pub(super) fn kl_to_reference(setup: &Setup, transcripts: &[&Transcript], logprobs: &mut Logprobs) -> Result<Vec<f64>> {
    let estimator = setup.policy_loss().kl_estimator;
    let found = logprobs(Some(&setup.base.weights), transcripts)?;
    let sum = |(transcript, found): (&&Transcript, Vec<f32>)| {
        let sampled = transcript.logprobs().iter().zip(transcript.sampled()).filter(|(_, s)| **s);
        let pairs = found.iter().zip(sampled.map(|(lp, _)| *lp));
        pairs.map(|(r, lp)| estimator.of(*r as f64 - lp as f64)).sum()
    };
    Ok(transcripts.iter().zip(found).map(sum).collect())
}

/// The rewards of a game, each for itself.
fn parts(config: &Config, game: &Episode, buyer: Option<&Transcript>) -> Parts {
    let facts = EpisodeFacts::of(game);
    let ended = Ended {
        reward: facts.reward,
        share: facts.bargained,
        penalty: facts.overshoot || facts.format_error,
        mutual: facts.scenario == Scenario::MutualInterest,
    };
    let shaped = match RewardShape::of(&config.reward.shape) {
        RewardShape::Surplus => ended.reward,
        RewardShape::Tiers => shaping::tier(ended.reward),
        RewardShape::Welfare => shaping::welfare(ended),
        RewardShape::Batna => shaping::batna(ended, config.reward.walk_away as f64),
    };
    let (limit, buffer) = (config.rollout.max_reply_tokens, config.reward.overlong_tokens);
    let turns: Vec<usize> = buyer.map_or(vec![], |t| turns(t).iter().map(Range::len).collect());
    let longest = turns.iter().copied().max().unwrap_or(0);
    let mean_length = turns.iter().sum::<usize>() as f64 / turns.len().max(1) as f64;
    [
        shaped + shaping::overlong(longest, limit, buffer),
        if facts.format_error { -1.0 } else { 0.0 },
        if facts.overshoot { -1.0 } else { 0.0 },
        politeness(game),
        -mean_length / limit as f64,
    ]
}

/// The rewards as one, weighed.
fn weigh(config: &Config, parts: &Parts) -> f64 {
    // With the surplus alone this is the surplus itself: 1 x + 0 + ... changes no bit.
    parts.iter().zip(weights(config)).map(|(p, w)| p * w).sum()
}

fn weights(config: &Config) -> Parts {
    let r = &config.reward;
    [r.surplus, r.format, r.budget, r.politeness, r.length].map(|w| w as f64)
}

/// Words that make a reply polite.
const POLITE: [&str; 8] = ["please", "thank", "kind", "appreciate", "would you", "could you", "happy", "sorry"];

/// Share of the buyer's replies with a polite word.
fn politeness(episode: &Episode) -> f64 {
    let polite = |talk: &str| POLITE.iter().any(|word| talk.to_ascii_lowercase().contains(word));
    let (n, said) =
        episode.turns_of(Side::Buyer).fold((0, 0), |(n, said), t| (n + 1, said + usize::from(polite(&t.talk))));
    said as f64 / n.max(1) as f64
}

/// The runs of sampled ids: the side's own turns.
fn turns(transcript: &Transcript) -> Vec<Range<usize>> {
    let marks = transcript.sampled();
    let mut runs: Vec<Range<usize>> = Vec::new();
    for i in (0..marks.len()).filter(|i| marks[*i]) {
        match runs.last_mut() {
            Some(last) if last.end == i => last.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

/// A turn's tokens carry the episode's advantage plus what its turn earned above the episode's mean turn.
fn per_turn(games: &[Episode], buyer: &[Option<Transcript>], done: &Credited) -> Vec<Vec<f32>> {
    let Credited { rewards, advantage, left_out, .. } = done;
    let counts = |i: usize| left_out.get(i) != Some(&true);
    let features: Vec<Vec<Features>> = games.iter().map(features).collect();
    let fitted = features.iter().cloned().zip(rewards.iter().copied()).enumerate().filter(|(i, _)| counts(*i));
    let fitted: Vec<(Vec<Features>, f64)> = fitted.map(|(_, fitted)| fitted).collect();
    let weights = latent::fit(&fitted);
    let of = |(i, transcript): (usize, &Option<Transcript>)| -> Vec<f32> {
        let Some(transcript) = transcript else { return vec![] };
        let (runs, n) = (turns(transcript), features[i].len());
        if runs.len() != n || !counts(i) {
            return vec![];
        }
        let earned = latent::credit(&features[i], rewards[i], &weights);
        let turn = |(run, earned): (Range<usize>, f64)| {
            let own = advantage[i] as f64 + n as f64 * earned - rewards[i];
            vec![own as f32; run.len()]
        };
        runs.into_iter().zip(earned).flat_map(turn).collect()
    };
    buyer.iter().enumerate().map(of).collect()
}

/// The features of each buyer's turn; see [`latent::FEATURE_NAMES`].
fn features(episode: &Episode) -> Vec<Features> {
    let budget = episode.product().budget.0 as f64;
    let (mut last, mut ask, mut all) = (None, None, Vec::new());
    for turn in episode.turns() {
        let Some(action) = turn.action else {
            if turn.side == Side::Buyer {
                all.push([1.0, 0.0, 0.0, 0.0, 0.0]);
            }
            continue;
        };
        match (turn.side, action) {
            (Side::Seller, Action::Sell(price)) => ask = Some(price),
            (Side::Buyer, Action::Buy(price)) => {
                let share = price.0 as f64 / budget;
                let rise = last.map_or(0.0, |last: f64| share - last);
                let above = f64::from(u8::from(ask.is_some_and(|ask| price > ask)));
                all.push([1.0, share, rise, above, 0.0]);
                last = Some(share);
            }
            (Side::Buyer, Action::Deal(price)) => all.push([1.0, price.0 as f64 / budget, 0.0, 0.0, 1.0]),
            (Side::Buyer, _) => all.push([1.0, 0.0, 0.0, 0.0, 0.0]),
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::{Buyer, Product, Rules, Seller, catalog, play};
    use crate::noise::Noise;
    use std::sync::Arc;

    fn played(n: usize) -> Vec<Episode> {
        let products: Vec<Arc<Product>> = catalog::products(40, 3).unwrap().into_iter().map(Arc::new).collect();
        let game =
            |i: usize| play(Buyer::Naive, Seller::Teacher, &products[i / 4], Rules::default(), Noise::new(1, i as u64));
        (0..n).map(game).collect()
    }

    /// The credit of games that no model played.
    fn credited(config: &Config, games: &[Episode], kl: &[f64]) -> Credited {
        let dev = Device::open("cpu", 1).unwrap();
        credit(&dev, config, games, &vec![None; games.len()], kl).unwrap()
    }

    fn config(sets: &[&str]) -> Config {
        let mut config = Config::default();
        config.rollout.group_size = 4;
        for set in sets {
            let (key, value) = set.split_once('=').unwrap();
            match key {
                "rule" => config.credit.rule = value.into(),
                "shape" => config.reward.shape = value.into(),
                "latent" => config.credit.latent = true,
                "anchor" => config.credit.anchor = value.parse().unwrap(),
                "format" => config.reward.format = value.parse().unwrap(),
                _ => panic!("{key}"),
            }
        }
        config
    }

    #[test]
    fn the_default_is_the_group_advantage_of_the_game_s_reward_to_the_bit() {
        let games = played(40);
        let rewards: Vec<f64> = games.iter().map(|game| EpisodeFacts::of(game).reward).collect();
        let (mut want, mut constant) = (vec![], 0);
        for group in rewards.chunks(4) {
            let mean = group.iter().map(|r| *r as f32 as f64).sum::<f64>() / 4.0;
            want.extend(group.iter().map(|r| (*r as f32 as f64 - mean) as f32));
            constant += usize::from(group.iter().all(|r| *r == group[0]));
        }
        let got = credited(&config(&[]), &games, &[]);
        assert_eq!(got, Credited { rewards, advantage: want, constant_groups: constant, ..Credited::default() });
    }

    #[test]
    fn every_rule_and_shape_gives_finite_advantages_and_they_differ() {
        let games = played(40);
        let plain = credited(&config(&[]), &games, &[]).advantage;
        for sets in [
            &["rule=rloo"][..],
            &["rule=reinforce_pp"],
            &["rule=reinforce_pp_baseline"],
            &["rule=gdpo", "format=1"],
            &["anchor=0.5"],
            &["shape=tiers"],
            &["shape=welfare"],
            &["shape=batna"],
        ] {
            let got = credited(&config(sets), &games, &[]).advantage;
            assert!(got.iter().all(|a| a.is_finite()) && got != plain, "{sets:?}: {got:?}");
        }
        let with_kl = Config { grpo: crate::config::GrpoConfig { kl: 0.5, ..config(&[]).grpo }, ..config(&[]) };
        let off = credited(&with_kl, &games, &[1.0; 40]);
        for (a, b) in off.advantage.iter().zip(&plain) {
            assert!((a - b).abs() < 1e-6, "the same off every reward changes no advantage: {a}, {b}");
        }
    }

    #[test]
    fn turns_of_an_episode_have_features_and_their_credit_sums_to_the_return() {
        let games = played(40);
        let of = |game: &Episode| (features(game), EpisodeFacts::of(game).reward);
        let all: Vec<(Vec<Features>, f64)> = games.iter().map(of).collect();
        let weights = latent::fit(&all);
        assert!(weights.iter().any(|w| *w != 0.0) && weights.iter().all(|w| w.is_finite()));
        for ((turns, reward), game) in all.iter().zip(&games) {
            assert_eq!(turns.len(), game.turns_of(Side::Buyer).count());
            let sum: f64 = latent::credit(turns, *reward, &weights).iter().sum();
            assert!((sum - reward).abs() < 1e-12, "{sum}, {reward}");
        }
    }
}
