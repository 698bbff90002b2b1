//! Rewards into advantages, as the config says, whatever was rewarded.
//!
//! The one idea: where a rule is an op, the numbers come from the op on the run's device; the rules that have none are
//! plain functions in [`crate::credit`]. With defaults it is GRPO's group advantage, to the bit.

use crate::config::Config;
use crate::config::choice::CreditRule;
use crate::credit::{anchor, gdpo, groups, groups_mut, opo, reinforce_pp, rloo};
use crate::device::{DType, Device};
use crate::error::Result;
use crate::ops::credit::{GroupAdvantage, group_advantage};
use crate::text::Transcript;

/// What a draw's replies learn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credited {
    /// The reward of each reply, as it was credited.
    pub rewards: Vec<f64>,
    /// The advantage of each, `[groups, G]`.
    pub advantage: Vec<f32>,
    /// The advantage of each trained token of each reply; empty where the reply's serves all.
    pub per_token: Vec<Vec<f32>>,
    /// True where nothing is learned: a void reply, or one left alone in its group; empty where all count.
    pub left_out: Vec<bool>,
    /// Groups whose rewards were all the same.
    pub constant_groups: usize,
}

/// Rewards `[groups, G]` of several kinds: what each is, by kind, and what it weighs. For rules that keep them apart.
#[derive(Debug, Clone, Default)]
pub struct Kinds {
    /// By kind, then by reply.
    pub rewards: Vec<Vec<f64>>,
    /// By kind.
    pub weights: Vec<f64>,
}

/// Rewards as advantages by `credit.rule`, anchored; `kinds` is read by GDPO alone, `lengths` are the trained tokens of each.
///
/// # Errors
/// What the device refuses.
pub fn scaled(dev: &Device, config: &Config, rewards: Vec<f64>, kinds: &Kinds, lengths: &[usize]) -> Result<Credited> {
    let group = config.rollout.group_size;
    let sizes = vec![group; rewards.len() / group];
    ragged(dev, config, rewards, kinds, lengths, &sizes)
}

/// The same where some replies are void: only what is `kept` is compared, inside each group and over the batch. The others,
/// and one that is left alone in its group, learn nothing.
///
/// # Errors
/// What the device refuses.
pub fn scaled_kept(
    dev: &Device,
    config: &Config,
    rewards: Vec<f64>,
    kinds: &Kinds,
    lengths: &[usize],
    kept: &[bool],
) -> Result<Credited> {
    if kept.iter().all(|kept| *kept) {
        return scaled(dev, config, rewards, kinds, lengths);
    }
    let groups =
        kept.chunks(config.rollout.group_size).map(|group| (group, group.iter().filter(|kept| **kept).count()));
    let (mut left_out, mut sizes) = (Vec::new(), Vec::new());
    for (group, n) in groups {
        left_out.extend(group.iter().map(|kept| !kept || n < 2));
        sizes.extend((n > 1).then_some(n));
    }
    let at: Vec<usize> = (0..kept.len()).filter(|i| !left_out[*i]).collect();
    let of = |all: &Vec<f64>| -> Vec<f64> { at.iter().map(|i| all[*i]).collect() };
    let kinds = Kinds { rewards: kinds.rewards.iter().map(of).collect(), weights: kinds.weights.clone() };
    let lengths: Vec<usize> = at.iter().map(|i| lengths[*i]).collect();
    let found = match sizes.is_empty() {
        true => Credited::default(),
        false => ragged(dev, config, of(&rewards), &kinds, &lengths, &sizes)?,
    };
    let mut advantage = vec![0.0; rewards.len()];
    at.iter().zip(found.advantage).for_each(|(i, a)| advantage[*i] = a);
    Ok(Credited { rewards, advantage, left_out, constant_groups: found.constant_groups, per_token: vec![] })
}

/// Advantages of groups of these sizes, one behind the other.
fn ragged(
    dev: &Device,
    config: &Config,
    rewards: Vec<f64>,
    kinds: &Kinds,
    lengths: &[usize],
    sizes: &[usize],
) -> Result<Credited> {
    let (mut advantage, constant_groups) = grouped(dev, config, &rewards, sizes)?;
    if let Some(by_rule) = by_rule(config, &rewards, kinds, lengths, sizes) {
        advantage = by_rule.iter().map(|a| *a as f32).collect();
    }
    if config.credit.anchor > 0.0 {
        for (rewards, advantage) in groups(&rewards, sizes).zip(groups_mut(&mut advantage, sizes)) {
            let mut sums: Vec<f64> = advantage.iter().map(|a| *a as f64).collect();
            anchor::anchor(rewards, config.credit.anchor as f64, &mut sums);
            advantage.iter_mut().zip(sums).for_each(|(a, s)| *a = s as f32);
        }
    }
    Ok(Credited { rewards, advantage, constant_groups, ..Credited::default() })
}

/// The group advantage of rewards, by the op, once for each run of groups of one size; and how many groups were constant.
fn grouped(dev: &Device, config: &Config, rewards: &[f64], sizes: &[usize]) -> Result<(Vec<f32>, usize)> {
    let how = GroupAdvantage { divide_by_std: config.grpo.advantage_std };
    let (mut all, mut constant_groups, mut rest) = (Vec::new(), 0, rewards);
    for run in sizes.chunk_by(|a, b| a == b) {
        let (rewards, more) = rest.split_at(run.iter().sum());
        rest = more;
        let single: Vec<f32> = rewards.iter().map(|r| *r as f32).collect();
        let mut advantage = dev.zeros(DType::F32, rewards.len())?;
        let mut constant = dev.zeros(DType::I32, run.len())?;
        let rewards = dev.upload(&single)?;
        group_advantage(dev, rewards.view(), advantage.view_mut(), constant.view_mut(), run[0], how)?;
        let constant: Vec<i32> = dev.download(constant.view())?;
        all.extend(dev.download::<f32>(advantage.view())?);
        constant_groups += constant.iter().filter(|c| **c != 0).count();
    }
    Ok((all, constant_groups))
}

/// The advantages of a rule that is no op; none for the group's.
fn by_rule(config: &Config, rewards: &[f64], kinds: &Kinds, lengths: &[usize], sizes: &[usize]) -> Option<Vec<f64>> {
    let mut wide = vec![0.0; rewards.len()];
    let pairs = || groups(rewards, sizes).zip(groups(lengths, sizes));
    match CreditRule::of(&config.credit.rule) {
        CreditRule::Group => return None,
        CreditRule::Rloo => pairs().zip(groups_mut(&mut wide, sizes)).for_each(|((r, _), a)| rloo::rloo(r, a)),
        CreditRule::Opo => pairs().zip(groups_mut(&mut wide, sizes)).for_each(|((r, l), a)| opo::opo(r, l, a)),
        CreditRule::ReinforcePp => reinforce_pp::reinforce_pp(rewards, lengths, sizes, false, &mut wide),
        CreditRule::ReinforcePpBaseline => reinforce_pp::reinforce_pp(rewards, lengths, sizes, true, &mut wide),
        CreditRule::Gdpo => gdpo::gdpo(&kinds.rewards, &kinds.weights, sizes, &mut wide),
    }
    Some(wide)
}

/// Trained tokens of a transcript.
pub fn trained(transcript: &Transcript) -> usize {
    transcript.sampled().iter().filter(|s| **s).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REWARDS: [f64; 12] = [1.0, 0.5, 0.25, -0.5, 0.7, 0.7, 0.1, 0.9, 0.3, 0.3, 0.3, -1.0];
    const LENGTHS: [usize; 12] = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    /// A group of three, one that is left alone, a whole one.
    const KEPT: [bool; 12] = [true, false, true, true, false, false, true, false, true, true, true, true];

    fn config(rule: &str, group: usize) -> Config {
        let mut config = Config::default();
        (config.credit.rule, config.rollout.group_size) = (rule.into(), group);
        config
    }

    fn kinds(rewards: &[f64]) -> Kinds {
        Kinds { rewards: vec![rewards.to_vec(), rewards.iter().map(|r| r * r).collect()], weights: vec![1.0, 0.5] }
    }

    fn of(rule: &str, at: &[usize], group: usize) -> Vec<f32> {
        let dev = Device::open("cpu", 1).unwrap();
        let rewards: Vec<f64> = at.iter().map(|i| REWARDS[*i]).collect();
        let lengths: Vec<usize> = at.iter().map(|i| LENGTHS[*i]).collect();
        scaled(&dev, &config(rule, group), rewards.clone(), &kinds(&rewards), &lengths).unwrap().advantage
    }

    #[test]
    fn void_replies_are_as_if_they_had_never_been() {
        let dev = Device::open("cpu", 1).unwrap();
        let kept = |rule: &str, kept: &[bool]| {
            let kinds = kinds(&REWARDS);
            scaled_kept(&dev, &config(rule, 4), REWARDS.to_vec(), &kinds, &LENGTHS, kept).unwrap()
        };
        for rule in ["group", "rloo", "opo"] {
            let got = kept(rule, &KEPT);
            let (three, four) = (of(rule, &[0, 2, 3], 3), of(rule, &[8, 9, 10, 11], 4));
            let want = [three[0], 0.0, three[1], three[2], 0.0, 0.0, 0.0, 0.0, four[0], four[1], four[2], four[3]];
            assert_eq!(got.advantage, want, "{rule}");
            let left_out = [1, 4, 5, 6, 7];
            assert_eq!(got.left_out, (0..12).map(|i| left_out.contains(&i)).collect::<Vec<_>>());
        }
        // Rules over the whole batch: groups of one size, so that the uniform form is the same.
        let three = |i: usize| i % 4 != 1;
        for rule in ["reinforce_pp", "reinforce_pp_baseline", "gdpo"] {
            let at: Vec<usize> = (0..12).filter(|i| three(*i)).collect();
            let got = kept(rule, &(0..12).map(three).collect::<Vec<_>>());
            let of_kept: Vec<f32> = at.iter().map(|i| got.advantage[*i]).collect();
            assert_eq!(of_kept, of(rule, &at, 3), "{rule}");
            assert!(kept(rule, &KEPT).advantage.iter().all(|a| a.is_finite()));
        }
        let none = kept("group", &[false; 12]);
        assert_eq!((none.advantage, none.left_out, none.constant_groups), (vec![0.0; 12], vec![true; 12], 0));
        assert_eq!(kept("group", &[true; 12]).left_out, [false; 0]);
    }
}
