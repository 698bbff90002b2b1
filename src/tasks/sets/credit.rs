//! The credit of sets: what a set is worth, what a candidate is credited of it, and where in the tokens that stands.

use super::Reply;
use super::shapley::shapley;
use crate::config::Config;
use crate::config::choice::{ComparedWith, CreditSplit, SetWorth};
use crate::credit::candidates::{Against, CandidateAdvantage, candidate_advantage};
use crate::credit::set::{Split, Worth};
use crate::device::Device;
use crate::error::Result;
use crate::noise::Noise;
use crate::tasks::credit::{Credited, Kinds, scaled, trained};

/// What a malformed reply is worth, whole.
pub const MALFORMED: f64 = -1.0;

/// A set's worth under a config.
pub fn worth(config: &Config) -> Worth {
    let c = &config.credit;
    match SetWorth::of(&c.worth) {
        SetWorth::Max => Worth::Max,
        SetWorth::TopSum => Worth::TopSum { m: c.worth_top },
        SetWorth::Coverage => Worth::Coverage,
        SetWorth::MaxMinusCost => Worth::MaxMinusCost { cost: c.worth_cost as f64 },
        SetWorth::Softmax => Worth::Softmax { temperature: c.worth_temperature as f64 },
    }
}

/// The worth of each reply.
pub fn rewards(config: &Config, replies: &[Reply]) -> Vec<f64> {
    let worth = worth(config);
    let of =
        |reply: &Reply| reply.candidates.as_ref().map_or(MALFORMED, |_| reply.set().worth(worth, reply.set().all()));
    replies.iter().map(of).collect()
}

/// What replies learn from a reward each: the set's advantage everywhere, and inside a candidate's span the candidate's
/// own, unless the split is uniform, which is plain GRPO.
///
/// # Errors
/// [`crate::Error::Shape`] when a utility is not finite; what the device refuses.
pub fn credit(dev: &Device, config: &Config, replies: &[Reply], rewards: Vec<f64>, noise: Noise) -> Result<Credited> {
    let lengths: Vec<usize> = replies.iter().map(|r| trained(&r.transcript)).collect();
    let mut done = scaled(dev, config, rewards, &Kinds::default(), &lengths)?;
    if CreditSplit::of(&config.credit.split) == CreditSplit::Uniform {
        return Ok(done);
    }
    let how = CandidateAdvantage {
        against: match ComparedWith::of(&config.credit.against) {
            ComparedWith::Group => Against::Group,
            ComparedWith::Reply => Against::Reply,
        },
        times_k: config.credit.times_k,
        divide_by_std: config.grpo.advantage_std,
    };
    let group = config.rollout.group_size;
    let mut shares = shares(dev, config, replies, noise)?;
    for (replies, shares) in replies.chunks(group).zip(shares.chunks_mut(group)) {
        candidate_advantage(shares, how);
        for (reply, shares) in replies.iter().zip(shares) {
            let at = done.per_token.len();
            let mut each = vec![done.advantage[at]; lengths[at]];
            for (candidate, share) in reply.candidates.iter().flatten().zip(shares) {
                each[candidate.tokens.clone()].fill(*share as f32);
            }
            done.per_token.push(each);
        }
    }
    Ok(done)
}

/// What each candidate of each reply is credited of its set's worth; nothing for a malformed reply.
fn shares(dev: &Device, config: &Config, replies: &[Reply], noise: Noise) -> Result<Vec<Vec<f64>>> {
    let (worth, group) = (worth(config), config.rollout.group_size);
    let sets: Vec<_> = replies.iter().map(|reply| reply.candidates.is_ok().then(|| reply.set())).collect();
    let split = match CreditSplit::of(&config.credit.split) {
        CreditSplit::LeaveOneOut => Split::LeaveOneOut,
        CreditSplit::Own => Split::Own,
        CreditSplit::Difference => Split::Difference,
        // Nobody asks for the shares of a uniform split.
        CreditSplit::Shapley | CreditSplit::Uniform => {
            let noise = |i: usize| noise.child((i / group) as u64).child((i % group) as u64);
            return shapley(dev, &sets, worth, &noise);
        }
    };
    sets.iter().map(|set| set.as_ref().map_or(Ok(vec![]), |set| set.split(worth, split))).collect()
}

/// The free-riding measure: the mean advantage of the worst candidate of the best set of each group, over groups whose best
/// set has candidates of different utility. Plain GRPO pays it like the best one.
pub fn worst_in_best(group: usize, replies: &[Reply], rewards: &[f64], credited: &Credited) -> Option<f64> {
    let mut found = Vec::new();
    for first in (0..replies.len()).step_by(group) {
        let best = (first..first + group).fold(first, |b, i| if rewards[i] > rewards[b] { i } else { b });
        let scored = &replies[best].scored;
        let worst = (0..scored.len()).min_by(|a, b| scored[*a].utility.total_cmp(&scored[*b].utility));
        let (Some(worst), Ok(candidates)) = (worst, &replies[best].candidates) else { continue };
        if scored.iter().all(|s| s.utility == scored[worst].utility) {
            continue;
        }
        let each = credited.per_token.get(best).and_then(|each| each.get(candidates[worst].tokens.start));
        found.push(*each.unwrap_or(&credited.advantage[best]) as f64);
    }
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}
