//! Credit of a step: episodes in, an advantage for each (or for each of its tokens) out, as the config says.
//!
//! The one idea: rules are plain functions in [`crate::credit`]; this reads what they need from the played episodes and
//! calls those the config names. With defaults it is GRPO's group advantage of the game's reward, to the bit.

use crate::config::Config;
use crate::credit::advantage::{GroupAdvantage, group_advantage};
use crate::credit::latent::{self, Features};
use crate::credit::shaping::{self, Ended};
use crate::credit::{anchor, gdpo, opo, reinforce_pp, rloo};
use crate::negotiate::metrics::EpisodeFacts;
use crate::negotiate::{Action, Episode, Scenario, Side};
use crate::rollout::Played;
use crate::text::Transcript;
use std::ops::Range;

/// The rewards of an episode that `reward.*` weighs, in the order of [`REWARDS`].
pub type Parts = [f64; REWARDS.len()];

/// Their names.
pub const REWARDS: [&str; 5] = ["surplus", "format", "budget", "politeness", "length"];

/// What a step's episodes learn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credited {
    /// The advantage of each episode, `[groups, G]`.
    pub advantage: Vec<f32>,
    /// The advantage of each trained token of each episode; empty where the episode's serves all.
    pub per_token: Vec<Vec<f32>>,
    /// Groups whose rewards were all the same.
    pub constant_groups: usize,
}

/// The credit of a step. `kl` is what the reference takes off each episode's reward; empty for nothing.
pub fn credit(config: &Config, played: &[Played], facts: &[EpisodeFacts], kl: &[f64]) -> Credited {
    let parts: Vec<Parts> = played.iter().zip(facts).map(|(p, f)| parts(config, p, f)).collect();
    let mut rewards: Vec<f64> = parts.iter().map(|p| weigh(config, p)).collect();
    rewards.iter_mut().zip(kl).for_each(|(r, kl)| *r -= config.grpo.kl as f64 * kl);
    let lengths: Vec<usize> = played.iter().map(|p| p.buyer.as_ref().map_or(0, trained)).collect();
    let mut done = scaled(config, &rewards, &parts, &lengths);
    if config.credit.latent {
        done.per_token = per_turn(played, &rewards, &done.advantage);
    }
    done
}

/// Rewards as advantages by `credit.rule`, anchored; `parts` is read by GDPO alone.
pub(crate) fn scaled(config: &Config, rewards: &[f64], parts: &[Parts], lengths: &[usize]) -> Credited {
    let group = config.rollout.group_size;
    let mut done = advantages(config, rewards, parts, lengths);
    if config.credit.anchor > 0.0 {
        for (rewards, advantage) in rewards.chunks(group).zip(done.advantage.chunks_mut(group)) {
            let mut sums: Vec<f64> = advantage.iter().map(|a| *a as f64).collect();
            anchor::anchor(rewards, config.credit.anchor as f64, &mut sums);
            advantage.iter_mut().zip(sums).for_each(|(a, s)| *a = s as f32);
        }
    }
    done
}

fn advantages(config: &Config, rewards: &[f64], parts: &[Parts], lengths: &[usize]) -> Credited {
    let group = config.rollout.group_size;
    let single: Vec<f32> = rewards.iter().map(|r| *r as f32).collect();
    let mut advantage = vec![0.0; rewards.len()];
    let how = GroupAdvantage { divide_by_std: config.grpo.advantage_std };
    let constant_groups = group_advantage(&single, group, how, &mut advantage);
    let mut wide = vec![0.0; rewards.len()];
    let groups = || rewards.chunks(group).zip(lengths.chunks(group));
    match config.credit.rule.as_str() {
        "rloo" => groups().zip(wide.chunks_mut(group)).for_each(|((r, _), a)| rloo::rloo(r, a)),
        "opo" => groups().zip(wide.chunks_mut(group)).for_each(|((r, l), a)| opo::opo(r, l, a)),
        "reinforce_pp" => reinforce_pp::reinforce_pp(rewards, lengths, group, false, &mut wide),
        "reinforce_pp_baseline" => reinforce_pp::reinforce_pp(rewards, lengths, group, true, &mut wide),
        "gdpo" => {
            let lists: Vec<Vec<f64>> = (0..REWARDS.len()).map(|k| parts.iter().map(|p| p[k]).collect()).collect();
            gdpo::gdpo(&lists, &weights(config), group, &mut wide);
        }
        _ => return Credited { advantage, constant_groups, per_token: vec![] },
    }
    Credited { advantage: wide.iter().map(|a| *a as f32).collect(), constant_groups, per_token: vec![] }
}

/// The rewards of an episode, each for itself.
pub fn parts(config: &Config, played: &Played, facts: &EpisodeFacts) -> Parts {
    let ended = Ended {
        reward: facts.reward,
        share: facts.bargained,
        penalty: facts.overshoot || facts.format_error,
        mutual: facts.scenario == Scenario::MutualInterest,
    };
    let shaped = match config.reward.shape.as_str() {
        "tiers" => shaping::tier(ended.reward),
        "welfare" => shaping::welfare(ended),
        "batna" => shaping::batna(ended, config.reward.walk_away as f64),
        _ => ended.reward,
    };
    let (limit, buffer) = (config.rollout.max_reply_tokens, config.reward.overlong_tokens);
    let turns: Vec<usize> = played.buyer.as_ref().map_or(vec![], |t| turns(t).iter().map(Range::len).collect());
    let longest = turns.iter().copied().max().unwrap_or(0);
    let mean_length = turns.iter().sum::<usize>() as f64 / turns.len().max(1) as f64;
    [
        shaped + shaping::overlong(longest, limit, buffer),
        if facts.format_error { -1.0 } else { 0.0 },
        if facts.overshoot { -1.0 } else { 0.0 },
        politeness(&played.episode),
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

/// Trained tokens of a transcript.
pub(crate) fn trained(transcript: &Transcript) -> usize {
    transcript.sampled().iter().filter(|s| **s).count()
}

/// The runs of sampled ids: the side's own turns.
pub fn turns(transcript: &Transcript) -> Vec<Range<usize>> {
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
fn per_turn(played: &[Played], rewards: &[f64], advantage: &[f32]) -> Vec<Vec<f32>> {
    let features: Vec<Vec<Features>> = played.iter().map(|p| features(&p.episode)).collect();
    let fitted: Vec<(Vec<Features>, f64)> = features.iter().cloned().zip(rewards.iter().copied()).collect();
    let weights = latent::fit(&fitted);
    let of = |(i, played): (usize, &Played)| -> Vec<f32> {
        let Some(transcript) = &played.buyer else { return vec![] };
        let (runs, n) = (turns(transcript), features[i].len());
        if runs.len() != n {
            return vec![];
        }
        let earned = latent::credit(&features[i], rewards[i], &weights);
        let turn = |(run, earned): (Range<usize>, f64)| {
            let own = advantage[i] as f64 + n as f64 * earned - rewards[i];
            vec![own as f32; run.len()]
        };
        runs.into_iter().zip(earned).flat_map(turn).collect()
    };
    played.iter().enumerate().map(of).collect()
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

    fn played(n: usize) -> (Vec<Played>, Vec<EpisodeFacts>) {
        let products: Vec<Arc<Product>> = catalog::products(40, 3).unwrap().into_iter().map(Arc::new).collect();
        let episode =
            |i: usize| play(Buyer::Naive, Seller::Teacher, &products[i / 4], Rules::default(), Noise::new(1, i as u64));
        let played = (0..n).map(|i| Played { episode: episode(i), buyer: None, seller: None });
        let played: Vec<Played> = played.collect();
        let facts = played.iter().map(|p| EpisodeFacts::of(&p.episode)).collect();
        (played, facts)
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
        let (played, facts) = played(40);
        let rewards: Vec<f32> = facts.iter().map(|f| f.reward as f32).collect();
        let mut want = vec![0.0; 40];
        let constant = group_advantage(&rewards, 4, GroupAdvantage { divide_by_std: false }, &mut want);
        let got = credit(&config(&[]), &played, &facts, &[]);
        assert_eq!(got, Credited { advantage: want, per_token: vec![], constant_groups: constant });
    }

    #[test]
    fn every_rule_and_shape_gives_finite_advantages_and_they_differ() {
        let (played, facts) = played(40);
        let plain = credit(&config(&[]), &played, &facts, &[]).advantage;
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
            let got = credit(&config(sets), &played, &facts, &[]).advantage;
            assert!(got.iter().all(|a| a.is_finite()) && got != plain, "{sets:?}: {got:?}");
        }
        let off = credit(
            &Config { grpo: crate::config::GrpoConfig { kl: 0.5, ..config(&[]).grpo }, ..config(&[]) },
            &played,
            &facts,
            &[1.0; 40],
        );
        for (a, b) in off.advantage.iter().zip(&plain) {
            assert!((a - b).abs() < 1e-6, "the same off every reward changes no advantage: {a}, {b}");
        }
    }

    #[test]
    fn turns_of_an_episode_have_features_and_their_credit_sums_to_the_return() {
        let (played, facts) = played(40);
        let all: Vec<(Vec<Features>, f64)> =
            played.iter().zip(&facts).map(|(p, f)| (features(&p.episode), f.reward)).collect();
        let weights = latent::fit(&all);
        assert!(weights.iter().any(|w| *w != 0.0) && weights.iter().all(|w| w.is_finite()));
        for ((turns, reward), played) in all.iter().zip(&played) {
            assert_eq!(turns.len(), played.episode.turns_of(Side::Buyer).count());
            let sum: f64 = latent::credit(turns, *reward, &weights).iter().sum();
            assert!((sum - reward).abs() < 1e-12, "{sum}, {reward}");
        }
    }
}
