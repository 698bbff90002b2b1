//! Replies of K candidates: what a case asks, what a reply is worth, and who of it earned that.
//!
//! The one idea: spans come from the sampled ids; a token inside a candidate's span carries the candidate's credit, every
//! other the set's.

use crate::config::Config;
use crate::credit::candidates::{Against, CandidateAdvantage, candidate_advantage};
use crate::credit::set::{Set, Split, Worth};
use crate::error::Result;
use crate::negotiate::{Buyer, Episode, Persona, Product, Seller, Side};
use crate::noise::Noise;
use crate::setup::Setup;
use crate::tasks::game::credit::Credited;
use crate::tasks::sets::reply::{Candidate, Malformed, parse};
use crate::tasks::sets::{Prompt, Scored, Task};
use crate::tasks::{menu, recommend, summary};
use crate::text::{Chat, Transcript};
use std::sync::Arc;

/// What a group of replies answers.
#[derive(Debug, Clone)]
pub enum Case {
    /// The buyer's turn in a game.
    Menu(Episode),
    /// A shopper.
    Recommend(recommend::Case),
    /// An offer.
    Summary(Arc<Product>),
}

impl Case {
    /// The case of a product that needs no seller model: a menu's stands at the buyer's first turn.
    pub fn new(task: Task, product: &Arc<Product>, setup: &Setup, noise: Noise) -> Case {
        match task {
            Task::Menu => Case::Menu(Episode::new(product.clone(), setup.rules, Persona::Neutral)),
            Task::Recommend => Case::Recommend(recommend::Case::new(product, &setup.train, noise)),
            Task::Summary => Case::Summary(product.clone()),
        }
    }

    /// What the model is told.
    pub fn prompt(&self, k: usize) -> Prompt {
        match self {
            Case::Menu(episode) => menu::prompt(episode, k),
            Case::Recommend(case) => case.prompt(k),
            Case::Summary(product) => summary::prompt(product, k),
        }
    }

    /// Facts or needs there are to cover.
    pub fn facts(&self) -> usize {
        match self {
            Case::Menu(_) => 0,
            Case::Recommend(_) => recommend::NEEDS,
            Case::Summary(product) => summary::facts(product).len(),
        }
    }

    /// The answer a likelihood reward asks for; `None` where none is known.
    pub fn reference(&self) -> Option<String> {
        match self {
            Case::Menu(_) => None,
            Case::Recommend(case) => Some(case.reference()),
            Case::Summary(product) => Some(summary::reference(product)),
        }
    }

    /// A reply in the format that chooses at random.
    pub fn demonstration(&self, k: usize, noise: Noise) -> (String, Vec<String>) {
        match self {
            Case::Menu(episode) => menu::demonstration(episode, k, noise),
            Case::Recommend(case) => case.demonstration(k, noise),
            Case::Summary(product) => summary::demonstration(product, k, noise),
        }
    }
}

/// A menu's case behind scripted turns, at most one for each menu of a game: the buyer's bid and the teacher's answer.
pub fn scripted_menu(product: &Arc<Product>, setup: &Setup, noise: Noise) -> Case {
    let mut episode = Episode::new(product.clone(), setup.rules, Persona::Neutral);
    let turns = if noise.uniform(9) < 0.9 { 1 + noise.below(10, setup.config.task.rounds) as u64 } else { 0 };
    for turn in 0..turns {
        let (mut next, noise) = (episode.clone(), noise.child(turn));
        let played = open(&mut next, noise).and_then(|()| {
            let reply = Seller::Teacher.reply(&next, noise.child(1));
            next.submit(Side::Seller, &reply).map(|_| ())
        });
        if played.is_err() || next.outcome().is_some() {
            break;
        }
        episode = next;
    }
    Case::Menu(episode)
}

/// The buyer's scripted bid.
pub(crate) fn open(episode: &mut Episode, noise: Noise) -> Result<()> {
    let reply = Buyer::Explorer.reply(episode, noise.child(0));
    episode.submit(Side::Buyer, &reply).map(|_| ())
}

/// A sampled reply and what became of it.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its tokens.
    pub transcript: Transcript,
    /// Its text.
    pub text: String,
    /// Its candidates, or why it is no set.
    pub candidates: std::result::Result<Vec<Candidate>, Malformed>,
    /// What each candidate is worth by itself.
    pub scored: Vec<Scored>,
    /// Facts or needs there are.
    pub facts: usize,
}

impl Reply {
    /// The set as the rules of credit see it.
    pub fn set(&self) -> Set {
        let texts: Vec<&str> = self.candidates.iter().flatten().map(|c| c.text.as_str()).collect();
        Set {
            utility: self.scored.iter().map(|s| s.utility).collect(),
            covers: self.scored.iter().map(|s| s.covers).collect(),
            facts: self.facts,
            same: texts.iter().map(|t| texts.iter().position(|o| o == t).unwrap_or(0)).collect(),
        }
    }
}

/// The candidates of a reply's sampled ids.
///
/// # Errors
/// As [`parse`].
pub fn candidates(chat: &Chat, ids: &[i32], most: usize, cut: bool) -> std::result::Result<Vec<Candidate>, Malformed> {
    let own = ids.strip_suffix(&[chat.end()]).unwrap_or(ids);
    let bytes: Vec<Vec<u8>> = own.iter().map(|id| chat.tokenizer.bytes(*id)).collect();
    parse(&bytes, most, cut)
}

/// A set's worth under a config.
pub fn worth(config: &Config) -> Worth {
    let c = &config.credit;
    match c.worth.as_str() {
        "top_sum" => Worth::TopSum { m: c.worth_top },
        "coverage" => Worth::Coverage,
        "max_minus_cost" => Worth::MaxMinusCost { cost: c.worth_cost as f64 },
        "softmax" => Worth::Softmax { temperature: c.worth_temperature as f64 },
        _ => Worth::Max,
    }
}

fn split(config: &Config) -> Split {
    match config.credit.split.as_str() {
        "shapley" => Split::Shapley,
        "leave_one_out" => Split::LeaveOneOut,
        "own" => Split::Own,
        "difference" => Split::Difference,
        _ => Split::Uniform,
    }
}

/// What a malformed reply is worth, whole.
pub const MALFORMED: f64 = -1.0;

/// The worth of each reply.
pub fn rewards(config: &Config, replies: &[Reply]) -> Vec<f64> {
    let worth = worth(config);
    let of =
        |reply: &Reply| reply.candidates.as_ref().map_or(MALFORMED, |_| reply.set().worth(worth, reply.set().all()));
    replies.iter().map(of).collect()
}

/// What a step's replies learn from a reward each: the set's advantage everywhere, and inside a candidate's span the
/// candidate's own, unless the split is uniform, which is plain GRPO.
///
/// # Errors
/// [`crate::Error::Shape`] when a utility is not finite.
pub fn credit(config: &Config, replies: &[Reply], rewards: &[f64], noise: Noise) -> Result<Credited> {
    let lengths: Vec<usize> = replies.iter().map(|r| crate::tasks::game::credit::trained(&r.transcript)).collect();
    let mut done = crate::tasks::game::credit::scaled(config, rewards, &[], &lengths);
    let (worth, split) = (worth(config), split(config));
    if split == Split::Uniform {
        return Ok(done);
    }
    let how = CandidateAdvantage {
        against: if config.credit.against == "reply" { Against::Reply } else { Against::Group },
        times_k: config.credit.times_k,
        divide_by_std: config.grpo.advantage_std,
    };
    let group = config.rollout.group_size;
    for (g, group) in replies.chunks(group).enumerate() {
        let mut shares: Vec<Vec<f64>> = Vec::new();
        for (r, reply) in group.iter().enumerate() {
            let mut phi = vec![0.0; reply.scored.len()];
            if reply.candidates.is_ok() {
                reply.set().split(worth, split, noise.child(g as u64).child(r as u64), &mut phi)?;
            }
            shares.push(phi);
        }
        candidate_advantage(&mut shares, how);
        for (reply, shares) in group.iter().zip(shares) {
            let at = done.per_token.len();
            let mut each = vec![done.advantage[at]; lengths[at]];
            for (candidate, share) in reply.candidates.iter().flatten().zip(shares) {
                each[candidate.tokens.clone()].fill(share as f32);
            }
            done.per_token.push(each);
        }
    }
    Ok(done)
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
