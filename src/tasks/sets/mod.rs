//! What tasks have in common whose reply is a set: K candidates in one reply, each checked by rule, the set worth what its
//! credit says.
//!
//! The one idea: spans come from the sampled ids; a token inside a candidate's span carries the candidate's credit, every
//! other the set's. The format is the same in all: thinking, then lines `1) ...`, `2) ...`, each a candidate. A step's
//! groups are its cases.

mod credit;
pub mod reply;
mod shapley;
mod table;

pub use credit::{MALFORMED, credit, rewards, worst_in_best, worth};
pub use shapley::shapley;
pub use table::Summary;
pub(crate) use table::{evaluate, look};

use super::{Draw, Logprobs, Prompt};
use crate::config::choice::LikelihoodOf;
use crate::credit::set::Set;
use crate::credit::shaping::{Likelihood, likelihood};
use crate::error::{Error, Result};
use crate::infer::Sampling;
use crate::noise::Noise;
use crate::rollout::{Episode, Job, Spoken};
use crate::run::metrics::{Metrics, Tokens};
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::tasks::credit::Credited;
use crate::text::{Chat, Transcript};
use reply::{Candidate, Malformed, parse};
use serde_json::{Value, json};

/// Streams of noise: of a step below the run's seed, and of its replies below the step's.
pub(super) const ROLLOUT: u64 = 6;
pub(super) const REPLIES: u64 = 1 << 40;

/// What a group of replies answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What the model is told.
    pub prompt: Prompt,
    /// Facts or needs there are to cover.
    pub facts: usize,
    /// The answer a likelihood reward asks for; none where none is known.
    pub reference: Option<String>,
    /// The code of the product it is about; empty where it is about several.
    pub product: String,
}

/// What one candidate is worth by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Its utility.
    pub utility: f64,
    /// The needs or facts it meets, as bits.
    pub covers: u64,
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
    /// Its candidates with their utilities, for the logs.
    fn listed(&self) -> Vec<Value> {
        let scored = self.candidates.iter().flatten().zip(&self.scored);
        let line = |(c, s): (&Candidate, &Scored)| json!({ "text": c.text, "tokens": [c.tokens.start, c.tokens.end], "utility": s.utility });
        scored.map(line).collect()
    }

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

/// A reply in the format: the thought, then the candidates, numbered from 1.
pub fn render(thought: &str, candidates: &[String]) -> String {
    let line = |(i, text): (usize, &String)| format!("\n{}) {text}", i + 1);
    format!("Thought: {thought}") + &candidates.iter().enumerate().map(line).collect::<String>()
}

/// How a set is sampled: as a reply, with room for each candidate.
pub fn sampling(setup: &Setup) -> Sampling {
    let plain = setup.buyer_sampling(&setup.base.chat);
    Sampling { max_new_tokens: plain.max_new_tokens * setup.config.task.candidates, ..plain }
}

/// One question, one answer: the episode that samples a set.
#[derive(Debug, Clone)]
struct Question {
    prompt: Prompt,
    said: Option<(String, bool)>,
}

impl Episode for Question {
    fn next_seat(&self) -> Option<usize> {
        self.said.is_none().then_some(0)
    }

    fn seat_name(&self, _: usize) -> &'static str {
        "buyer"
    }

    fn system_prompt(&self, _: usize) -> String {
        self.prompt.system.clone()
    }

    fn view(&self, _: usize) -> String {
        self.prompt.incoming.clone()
    }

    fn submit(&mut self, seat: usize, reply: &str, cut: bool) -> Result<()> {
        if self.next_seat() != Some(seat) {
            return Err(Error::Turn { side: "buyer", state: "the question is answered" });
        }
        self.said = Some((reply.into(), cut));
        Ok(())
    }

    /// The candidates are scored by the task.
    fn reward(&self, _: usize) -> Option<f64> {
        None
    }
}

/// The cases of a draw and the replies to each, `draw.rollouts` a case, cases first.
#[derive(Debug, Default)]
pub struct Sets {
    /// The draw.
    pub draw: Draw,
    /// What was asked and answered.
    pub cases: Vec<Case>,
    /// The answers.
    pub replies: Vec<Reply>,
    /// The likelihood of each case's reference answer behind the reply's own thought; empty where it weighs nothing.
    likelihood: Vec<f64>,
    asked: Vec<Question>,
    noise: Option<Noise>,
}

impl Sets {
    /// Nothing asked yet.
    pub fn of(draw: Draw) -> Sets {
        Sets { draw, ..Sets::default() }
    }

    /// Asks each case of a wave, `draw.rollouts` times, under `noise`.
    pub fn ask(&mut self, cases: Vec<Case>, noise: Noise) {
        let each = |case: &Case| Question { prompt: case.prompt.clone(), said: None };
        self.asked = cases.iter().flat_map(|case| vec![each(case); self.draw.rollouts]).collect();
        self.noise = Some(noise);
        self.cases.extend(cases);
    }

    /// The questions that are to be answered.
    pub fn jobs(&mut self) -> Vec<Job<'_, dyn Episode>> {
        let (rollouts, n) = (self.draw.rollouts, self.asked.len() / self.draw.rollouts);
        let (noise, cases) = (self.noise.unwrap_or(self.draw.noise), &self.cases[self.cases.len() - n..]);
        let job = |(i, question): (usize, _)| {
            let question: &mut Question = question;
            let noise = noise.child((i / rollouts) as u64).child((i % rollouts) as u64);
            Job::new(question as &mut dyn Episode, cases[i / rollouts].product.as_str(), noise).drawing(0, noise)
        };
        self.asked.iter_mut().enumerate().map(job).collect()
    }

    /// The answers to the last wave, each candidate scored by `score(case of the wave, its text)`; where they begin.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn answered(
        &mut self,
        setup: &Setup,
        spoken: Vec<Spoken>,
        score: impl Fn(usize, &str) -> Scored,
    ) -> Result<usize> {
        let (chat, k, rollouts) = (&setup.base.chat, setup.config.task.candidates, self.draw.rollouts);
        let (asked, first) = (std::mem::take(&mut self.asked), self.replies.len());
        let first_case = self.cases.len() - asked.len() / rollouts;
        for (i, (question, mut seats)) in asked.into_iter().zip(spoken).enumerate() {
            let Some((transcript, (text, cut))) = seats[0].take().zip(question.said) else { continue };
            let candidates = candidates(chat, transcript.reply(), k, cut);
            let scored = candidates.iter().flatten().map(|c| score(i / rollouts, &c.text)).collect();
            let facts = self.cases[first_case + i / rollouts].facts;
            self.replies.push(Reply { candidates, text, transcript, scored, facts });
        }
        Ok(first)
    }

    /// The replies' tokens.
    pub fn transcripts(&self) -> Vec<&Transcript> {
        self.replies.iter().map(|reply| &reply.transcript).collect()
    }

    /// What each token of each reply earned.
    ///
    /// # Errors
    /// [`Error::Shape`] when a utility is not finite; what the ops refuse.
    pub fn credit(&mut self, setup: &Setup, logprobs: &mut Logprobs) -> Result<Credited> {
        let mut rewards = rewards(&setup.config, &self.replies);
        self.likelihood = self.likelihood(setup, logprobs)?;
        let weight = setup.config.reward.likelihood as f64;
        rewards.iter_mut().zip(&self.likelihood).for_each(|(r, l)| *r += weight * l);
        credit(&setup.dev, &setup.config, &self.replies, rewards, self.draw.noise.child(1))
    }

    /// The likelihood of each case's reference answer as the first candidate behind the reply's own thought, 0 for a
    /// malformed reply, and of an answer longer than the context the part that it has room for; empty when the config gives it
    /// no weight.
    ///
    /// # Errors
    /// What the ops refuse.
    pub fn likelihood(&self, setup: &Setup, logprobs: &mut Logprobs) -> Result<Vec<f64>> {
        let reward = &setup.config.reward;
        if reward.likelihood == 0.0 {
            return Ok(vec![]);
        }
        let how = match LikelihoodOf::of(&reward.likelihood_of) {
            LikelihoodOf::Mean => Likelihood::Mean,
            LikelihoodOf::Sum => Likelihood::Sum,
        };
        let chat = &setup.base.chat;
        let mut asked: Vec<(Transcript, usize)> = Vec::new();
        for (i, reply) in self.replies.iter().enumerate() {
            let case = &self.cases[i / self.draw.rollouts];
            let (Ok(candidates), Some(answer)) = (&reply.candidates, &case.reference) else { continue };
            let mut transcript = Transcript::new(chat, &case.prompt.system)?;
            transcript.push_incoming(chat, &case.prompt.incoming)?;
            let at = transcript.len();
            let answer = chat.tokenizer.encode(&format!(" {answer}"))?;
            let thought = reply.transcript.ids()[at..at + candidates[0].tokens.start].iter();
            let mut ids: Vec<i32> = thought.chain(&answer).copied().collect();
            let long = (at + ids.len()).saturating_sub(setup.base.weights.config.max_position_embeddings);
            ids.truncate(ids.len() - long.min(ids.len()));
            transcript.push_sampled(&ids, &vec![0.0; ids.len()]);
            asked.push((transcript, answer.len().saturating_sub(long)));
        }
        let transcripts: Vec<&Transcript> = asked.iter().map(|(t, _)| t).collect();
        let found = logprobs(None, &transcripts)?;
        let mut found = found.iter().zip(&asked).map(|(lp, (_, n))| match n {
            0 => 0.0,
            n => likelihood(&lp[lp.len() - n..], how),
        });
        let of = |reply: &Reply| if reply.candidates.is_ok() { found.next().unwrap_or(0.0) } else { 0.0 };
        Ok(self.replies.iter().map(of).collect())
    }

    /// The sets' part of a step's row.
    pub fn row(&self, setup: &Setup, credited: &Credited) -> Metrics {
        let worths = rewards(&setup.config, &self.replies);
        let mut row = Summary::of(&self.replies, &worths).row();
        let worst = worst_in_best(self.draw.rollouts, &self.replies, &credited.rewards, credited);
        row.insert("credit/worst_in_best".into(), json!(worst));
        if !self.likelihood.is_empty() {
            let mean = self.likelihood.iter().sum::<f64>() / self.likelihood.len() as f64;
            row.insert("reward/likelihood".into(), json!(mean));
        }
        row.insert("rollout/groups".into(), json!(self.cases.len()));
        row
    }

    /// Appends a line for each reply to `episodes.jsonl`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn log(&self, credited: &Credited, log: &mut Log) -> Result<()> {
        (0..self.replies.len()).try_for_each(|i| log.append(&self.line(i, credited)))
    }

    fn line(&self, i: usize, credited: &Credited) -> Value {
        let (group, reply) = (self.draw.rollouts, &self.replies[i]);
        let mut line = json!({
            "step": self.draw.step,
            "group": i / group,
            "rollout": i % group,
            "product": self.cases[i / group].product,
            "reply": reply.text,
            "malformed": reply.candidates.as_ref().err().map(|why| why.key()),
            "candidates": reply.listed(),
            "reward": credited.rewards[i],
            "advantage": credited.advantage[i],
            "buyer": Tokens::of(&reply.transcript),
        });
        // As for the game: only where each sampled token has its own.
        if let Some(own) = credited.per_token.get(i).filter(|own| !own.is_empty()) {
            line["advantages"] = json!(own);
        }
        line
    }
}
