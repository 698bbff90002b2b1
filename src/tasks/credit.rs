//! Rewards into advantages, as the config says, whatever was rewarded.
//!
//! The one idea: where a rule is an op, the numbers come from the op on the run's device; the rules that have none are
//! plain functions in [`crate::credit`]. With defaults it is GRPO's group advantage, to the bit.

use crate::config::Config;
use crate::credit::{anchor, gdpo, opo, reinforce_pp, rloo};
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
    let (mut advantage, constant_groups) = grouped(dev, config, &rewards)?;
    if let Some(by_rule) = by_rule(config, &rewards, kinds, lengths) {
        advantage = by_rule.iter().map(|a| *a as f32).collect();
    }
    if config.credit.anchor > 0.0 {
        for (rewards, advantage) in rewards.chunks(group).zip(advantage.chunks_mut(group)) {
            let mut sums: Vec<f64> = advantage.iter().map(|a| *a as f64).collect();
            anchor::anchor(rewards, config.credit.anchor as f64, &mut sums);
            advantage.iter_mut().zip(sums).for_each(|(a, s)| *a = s as f32);
        }
    }
    Ok(Credited { rewards, advantage, per_token: vec![], constant_groups })
}

/// The group advantage of rewards, by the op, and how many groups were constant.
fn grouped(dev: &Device, config: &Config, rewards: &[f64]) -> Result<(Vec<f32>, usize)> {
    let group = config.rollout.group_size;
    let single: Vec<f32> = rewards.iter().map(|r| *r as f32).collect();
    let how = GroupAdvantage { divide_by_std: config.grpo.advantage_std };
    let mut advantage = dev.zeros(DType::F32, rewards.len())?;
    let mut constant = dev.zeros(DType::I32, rewards.len() / group)?;
    let rewards = dev.upload(&single)?;
    group_advantage(dev, rewards.view(), advantage.view_mut(), constant.view_mut(), group, how)?;
    let constant: Vec<i32> = dev.download(constant.view())?;
    Ok((dev.download(advantage.view())?, constant.iter().filter(|c| **c != 0).count()))
}

/// The advantages of a rule that is no op; none for the group's.
fn by_rule(config: &Config, rewards: &[f64], kinds: &Kinds, lengths: &[usize]) -> Option<Vec<f64>> {
    let group = config.rollout.group_size;
    let mut wide = vec![0.0; rewards.len()];
    let groups = || rewards.chunks(group).zip(lengths.chunks(group));
    match config.credit.rule.as_str() {
        "rloo" => groups().zip(wide.chunks_mut(group)).for_each(|((r, _), a)| rloo::rloo(r, a)),
        "opo" => groups().zip(wide.chunks_mut(group)).for_each(|((r, l), a)| opo::opo(r, l, a)),
        "reinforce_pp" => reinforce_pp::reinforce_pp(rewards, lengths, group, false, &mut wide),
        "reinforce_pp_baseline" => reinforce_pp::reinforce_pp(rewards, lengths, group, true, &mut wide),
        "gdpo" => gdpo::gdpo(&kinds.rewards, &kinds.weights, group, &mut wide),
        _ => return None,
    }
    Some(wide)
}

/// Trained tokens of a transcript.
pub fn trained(transcript: &Transcript) -> usize {
    transcript.sampled().iter().filter(|s| **s).count()
}
