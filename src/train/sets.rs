//! Rollouts of K-candidate replies: prompts, sampled sets, and what each candidate leads to.
//!
//! The one idea: a reply is sampled once, by the engine that samples episodes; its spans come from the sampled ids. A
//! menu's drafts branch from one sequence of the frozen seller, which holds the pages of everything said before: a branch
//! copies no page until it writes one.

use super::credit::Credited;
use super::setup::Setup;
use crate::config::Config;
use crate::credit::candidates::{Against, CandidateAdvantage, candidate_advantage};
use crate::credit::set::{Set, Split, Worth};
use crate::error::Result;
use crate::infer::{Engine, NoiseKey, Sampling, SeqId};
use crate::model::Weights;
use crate::negotiate::{Buyer, Episode, Persona, Product, Seller, Side, reward};
use crate::noise::Noise;
use crate::sets::reply::{Candidate, Malformed, parse};
use crate::sets::{Prompt, Scored, Task, menu, recommend, summary};
use crate::text::{Chat, Transcript};
use std::collections::BTreeMap;
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

    /// A reply in the format that chooses at random.
    pub fn demonstration(&self, k: usize, noise: Noise) -> (String, Vec<String>) {
        match self {
            Case::Menu(episode) => menu::demonstration(episode, k, noise),
            Case::Recommend(case) => case.demonstration(k, noise),
            Case::Summary(product) => summary::demonstration(product, k, noise),
        }
    }
}

/// A menu's case behind a scripted opening: the buyer's bid and the teacher's answer; at the first turn when it ended there.
pub fn scripted_menu(product: &Arc<Product>, setup: &Setup, noise: Noise) -> Case {
    let fresh = Episode::new(product.clone(), setup.rules, Persona::Neutral);
    let mut episode = fresh.clone();
    let opened = open(&mut episode, noise).and_then(|()| {
        let reply = Seller::Teacher.reply(&episode, noise.child(1));
        episode.submit(Side::Seller, &reply).map(|_| ())
    });
    Case::Menu(if opened.is_ok() && episode.outcome().is_none() && noise.uniform(9) < 0.9 { episode } else { fresh })
}

/// The buyer's scripted first bid.
fn open(episode: &mut Episode, noise: Noise) -> Result<()> {
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

/// A sequence of the seller that branches share.
struct Root {
    seq: SeqId,
    transcript: Transcript,
}

/// The models and sizes of set rollouts.
pub struct Table<'a> {
    /// The run's setup.
    pub setup: &'a Setup,
    /// The task.
    pub task: Task,
    /// The weights that reply.
    pub weights: &'a Weights,
    /// Their engine.
    pub buyer: &'a mut Engine,
    /// The frozen seller's engine.
    pub seller: &'a mut Engine,
}

/// A draft on its way through the horizon.
struct Branch {
    reply: usize,
    candidate: usize,
    episode: Episode,
    transcript: Option<Transcript>,
    seq: Option<SeqId>,
    left: usize,
    noise: Noise,
}

impl Table<'_> {
    /// The replies of a step: `rollouts` to each product, products first, with what their candidates are worth.
    ///
    /// # Errors
    /// What the engines refuse.
    pub fn play(
        &mut self,
        products: &[Arc<Product>],
        rollouts: usize,
        noise: Noise,
    ) -> Result<(Vec<Case>, Vec<Reply>)> {
        let mut cases: Vec<Case> = Vec::new();
        for (i, product) in products.iter().enumerate() {
            cases.push(Case::new(self.task, product, self.setup, noise.child(i as u64)));
        }
        let roots = if self.task == Task::Menu { self.openings(&mut cases, noise)? } else { vec![] };
        let mut replies = self.sample(&cases, rollouts, noise.child(1 << 40))?;
        for (i, reply) in replies.iter_mut().enumerate() {
            let texts = reply.candidates.iter().flatten().map(|c| &c.text);
            reply.scored = match &cases[i / rollouts] {
                Case::Menu(_) => texts.map(|_| Scored { utility: -1.0, covers: 0 }).collect(),
                Case::Recommend(case) => texts.map(|t| case.score(t)).collect(),
                Case::Summary(product) => texts.map(|t| summary::score(product, t)).collect(),
            };
        }
        if self.task == Task::Menu {
            self.play_on(&cases, &roots, &mut replies, rollouts, noise.child(2 << 40))?;
        }
        for root in roots.into_iter().flatten() {
            self.seller.release(root.seq);
        }
        Ok((cases, replies))
    }

    /// Plays each menu's opening: a scripted bid, the seller model's answer. The seller's sequences stay, to branch from.
    fn openings(&mut self, cases: &mut [Case], noise: Noise) -> Result<Vec<Option<Root>>> {
        let (chat, sampling) = (&self.setup.seller.chat, self.setup.seller_sampling());
        let mut opened: Vec<(Episode, Root)> = Vec::new();
        for (i, case) in cases.iter().enumerate() {
            let Case::Menu(fresh) = case else { continue };
            let mut episode = fresh.clone();
            open(&mut episode, noise.child(i as u64))?;
            let mut transcript = Transcript::new(chat, &episode.system_prompt(Side::Seller))?;
            transcript.push_incoming(chat, &episode.view(Side::Seller))?;
            let seq = self.seller.add(transcript.ids(), sampling, key(noise.child(3 << 40).child(i as u64)))?;
            opened.push((episode, Root { seq, transcript }));
        }
        let said = drain(self.seller, &self.setup.seller.weights)?;
        let mut roots = Vec::new();
        for ((mut episode, mut root), case) in opened.into_iter().zip(cases) {
            let turn = &said[&root.seq];
            root.transcript.push_sampled(&turn.ids, &turn.logprobs);
            let text = chat.reply_text(&turn.ids)?;
            if turn.cut { episode.submit_cut(Side::Seller, &text) } else { episode.submit(Side::Seller, &text) }?;
            if episode.outcome().is_some() {
                self.seller.release(root.seq);
                roots.push(None);
            } else {
                *case = Case::Menu(episode);
                roots.push(Some(root));
            }
        }
        Ok(roots)
    }

    /// Samples `rollouts` replies to each case.
    fn sample(&mut self, cases: &[Case], rollouts: usize, noise: Noise) -> Result<Vec<Reply>> {
        let (chat, k) = (&self.setup.base.chat, self.setup.config.task.candidates);
        let plain = self.setup.buyer_sampling(chat);
        let sampling = Sampling { max_new_tokens: plain.max_new_tokens * k, ..plain };
        let mut asked: Vec<(SeqId, Transcript)> = Vec::new();
        for (i, case) in cases.iter().enumerate() {
            let prompt = case.prompt(k);
            for r in 0..rollouts {
                let mut transcript = Transcript::new(chat, &prompt.system)?;
                transcript.push_incoming(chat, &prompt.incoming)?;
                let seq = self.buyer.add(transcript.ids(), sampling, key(noise.child(i as u64).child(r as u64)))?;
                asked.push((seq, transcript));
            }
        }
        let said = drain(self.buyer, self.weights)?;
        let reply = |(i, (seq, mut transcript)): (usize, (SeqId, Transcript))| -> Result<Reply> {
            self.buyer.release(seq);
            let turn = &said[&seq];
            transcript.push_sampled(&turn.ids, &turn.logprobs);
            Ok(Reply {
                candidates: candidates(chat, &turn.ids, k, turn.cut),
                text: chat.reply_text(&turn.ids)?,
                transcript,
                scored: vec![],
                facts: cases[i / rollouts].facts(),
            })
        };
        asked.into_iter().enumerate().map(reply).collect()
    }

    /// Plays every draft to the end of the horizon, as many at a time as the seller's engine holds.
    fn play_on(
        &mut self,
        cases: &[Case],
        roots: &[Option<Root>],
        replies: &mut [Reply],
        rollouts: usize,
        noise: Noise,
    ) -> Result<()> {
        let held = roots.iter().flatten().count();
        let most = self.setup.engine_config(&self.setup.seller.weights.config).max_seqs.saturating_sub(held).max(1);
        let mut waiting: Vec<Branch> = Vec::new();
        for (r, reply) in replies.iter().enumerate() {
            let Case::Menu(episode) = &cases[r / rollouts] else { continue };
            for (c, candidate) in reply.candidates.iter().flatten().enumerate() {
                let Some(text) = menu::draft(episode, &candidate.text) else { continue };
                let (mut episode, left) = (episode.clone(), self.setup.config.task.horizon);
                episode.submit(Side::Buyer, &text)?;
                let noise = noise.child(r as u64).child(c as u64);
                waiting.push(Branch { reply: r, candidate: c, episode, transcript: None, seq: None, left, noise });
            }
        }
        waiting.reverse();
        let mut live: BTreeMap<SeqId, Branch> = BTreeMap::new();
        while !(waiting.is_empty() && live.is_empty()) {
            while live.len() < most {
                let Some(branch) = waiting.pop() else { break };
                let root = roots[branch.reply / rollouts].as_ref();
                self.go_on(branch, root, replies, &mut live)?;
            }
            self.seller.step(&self.setup.seller.weights)?;
            while let Some(turn) = self.seller.next_finished() {
                let Some(mut branch) = live.remove(&turn.seq) else { continue };
                if let Some(transcript) = &mut branch.transcript {
                    transcript.push_sampled(turn.ids, turn.logprobs);
                }
                let text = self.setup.seller.chat.reply_text(turn.ids)?;
                let cut = turn.truncated;
                let e = &mut branch.episode;
                if cut { e.submit_cut(Side::Seller, &text) } else { e.submit(Side::Seller, &text) }?;
                branch.left -= 1;
                if e.outcome().is_none() {
                    let reply = if branch.left == 0 { menu::close(e) } else { menu::again(e) };
                    e.submit(Side::Buyer, &reply)?;
                }
                self.go_on(branch, None, replies, &mut live)?;
            }
        }
        Ok(())
    }

    /// Gives the seller what the buyer said, or notes where the branch ended.
    fn go_on(
        &mut self,
        mut branch: Branch,
        root: Option<&Root>,
        replies: &mut [Reply],
        live: &mut BTreeMap<SeqId, Branch>,
    ) -> Result<()> {
        if let Some(outcome) = branch.episode.outcome() {
            if let Some(seq) = branch.seq {
                self.seller.release(seq);
            }
            let utility = reward::reward(branch.episode.product(), outcome);
            replies[branch.reply].scored[branch.candidate].utility = utility;
            return Ok(());
        }
        let (chat, sampling, key) = (&self.setup.seller.chat, self.setup.seller_sampling(), key(branch.noise));
        let mut transcript = match (branch.transcript.take(), root) {
            (Some(own), _) => own,
            (None, Some(root)) => root.transcript.clone(),
            (None, None) => Transcript::new(chat, &branch.episode.system_prompt(Side::Seller))?,
        };
        let new = transcript.push_incoming(chat, &branch.episode.view(Side::Seller))?;
        let seq = match (branch.seq, root) {
            (Some(seq), _) => {
                self.seller.extend(seq, &transcript.ids()[new])?;
                seq
            }
            (None, Some(root)) => {
                let seq = self.seller.fork(root.seq, sampling, key)?;
                self.seller.extend(seq, &transcript.ids()[new])?;
                seq
            }
            (None, None) => self.seller.add(transcript.ids(), sampling, key)?,
        };
        (branch.seq, branch.transcript) = (Some(seq), Some(transcript));
        live.insert(seq, branch);
        Ok(())
    }
}

/// A turn that ended, taken out of its engine.
struct Said {
    ids: Vec<i32>,
    logprobs: Vec<f32>,
    cut: bool,
}

/// Steps an engine until nothing runs; what its sequences said.
fn drain(engine: &mut Engine, weights: &Weights) -> Result<BTreeMap<SeqId, Said>> {
    let mut said = BTreeMap::new();
    while engine.step(weights)? {
        while let Some(turn) = engine.next_finished() {
            let of = Said { ids: turn.ids.to_vec(), logprobs: turn.logprobs.to_vec(), cut: turn.truncated };
            said.insert(turn.seq, of);
        }
    }
    Ok(said)
}

fn key(noise: Noise) -> NoiseKey {
    NoiseKey { seed: noise.seed, stream: noise.stream }
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

/// What a step's replies learn: the set's advantage everywhere, and inside a candidate's span the candidate's own, unless
/// the split is uniform, which is plain GRPO.
///
/// # Errors
/// [`crate::Error::Shape`] when a utility is not finite.
pub fn credit(config: &Config, replies: &[Reply], noise: Noise) -> Result<Credited> {
    let rewards = rewards(config, replies);
    let lengths: Vec<usize> = replies.iter().map(|r| super::credit::trained(&r.transcript)).collect();
    let mut done = super::credit::scaled(config, &rewards, &[], &lengths);
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
pub fn worst_in_best(config: &Config, replies: &[Reply], credited: &Credited) -> Option<f64> {
    let (group, rewards) = (config.rollout.group_size, rewards(config, replies));
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
