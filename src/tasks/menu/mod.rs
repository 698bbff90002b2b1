//! Menus: the buyer drafts K replies for one turn; each is played on against the frozen seller, and the best continues.
//!
//! The one idea: a draw is played in waves. The seller answers a scripted bid; the buyer drafts; the seller answers every
//! draft; the games behind them are played to the horizon; and behind the best draft of its first rollout each game goes
//! on to its next menu. All drafts of a case meet the same seller noise, so that they differ by what they say and not by
//! luck: the same draft twice comes to the same, and is worth nothing more. What the seller heard before a draft lies in
//! its engine's prefix cache.

mod drafts;
mod horizon;
mod seat;

pub use drafts::draft;
pub use seat::Drafting;

use super::sets::{self, Case, Scored, Sets, render};
use super::{Draw, Engines, Entrant, Logprobs, Prompt, Task, Told};
use crate::error::Result;
use crate::eval::{Progress, Report};
use crate::infer::Sampling;
use crate::negotiate::{Buyer, Episode, Outcome, Persona, Product, Seller, Side, reward};
use crate::noise::Noise;
use crate::rollout::{self, Job, Spoken};
use crate::run::metrics::Metrics;
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::tasks::credit::Credited;
use crate::text::Transcript;
use horizon::Answers;
use std::sync::Arc;

/// The stream of a round's seller below the draw's noise, and that of openings.
const PLAYED_ON: u64 = 2 << 40;
const OPENINGS: u64 = 3 << 40;

/// What is being played.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Wave {
    /// The seller answers a scripted bid.
    Openings,
    /// The buyer drafts.
    Drafts,
    /// The seller answers each draft.
    Answered,
    /// The games behind the answers are played to the horizon.
    Horizon,
    /// Nothing more.
    #[default]
    Done,
}

/// A game with what its seller has heard and said; none before it heard anything.
#[derive(Debug, Clone)]
struct Stand {
    game: Episode,
    seller: Option<Transcript>,
}

/// A draft on its way.
#[derive(Debug)]
struct Branch {
    reply: usize,
    candidate: usize,
    /// The seller's ids behind the draft's case.
    heard: Option<Transcript>,
    noise: Noise,
    answers: Answers,
}

/// The menus of a draw.
#[derive(Default)]
pub struct Menu {
    sets: Sets,
    wave: Wave,
    round: u64,
    /// Of this round's cases.
    stands: Vec<Stand>,
    openings: Vec<Answers>,
    branches: Vec<Branch>,
    /// Games behind a draft and the seller's answer, by reply and candidate.
    answered: Vec<(usize, usize, Stand)>,
    /// Where every case of the draw stood.
    games: Vec<Episode>,
}

impl Menu {
    /// Where the cases stand, in order.
    pub fn games(&self) -> &[Episode] {
        &self.games
    }

    /// The cases and replies so far.
    pub fn sets(&self) -> &Sets {
        &self.sets
    }

    /// Asks for the drafts of a round.
    fn ask(&mut self, k: usize) {
        let case = |stand: &Stand| Case {
            prompt: drafts::prompt(&stand.game, k),
            facts: 0,
            reference: None,
            product: stand.game.product().code.clone(),
        };
        let cases = self.stands.iter().map(case).collect();
        self.games.extend(self.stands.iter().map(|stand| stand.game.clone()));
        self.sets.ask(cases, self.sets.draw.noise.child(sets::REPLIES | self.round));
        self.wave = Wave::Drafts;
    }

    /// Puts every draft that is one to its seller; those that end the game at once are worth what they came to.
    fn branch(&mut self, first: usize) -> Result<()> {
        let (rollouts, noise) = (self.sets.draw.rollouts, self.sets.draw.noise.child(PLAYED_ON | self.round));
        for reply in first..self.sets.replies.len() {
            let case = (reply - first) / rollouts;
            let Stand { game: before, seller } = self.stands[case].clone();
            let texts = self.sets.replies[reply].candidates.iter().flatten().map(|c| drafts::draft(&before, &c.text));
            let texts: Vec<Option<String>> = texts.collect();
            for (candidate, text) in texts.into_iter().enumerate() {
                let Some(text) = text else { continue };
                let mut game = before.clone();
                game.submit(Side::Buyer, &text)?;
                let (noise, heard) = (noise.child(case as u64), seller.clone());
                match game.outcome() {
                    Some(outcome) => self.note(reply, candidate, &game, outcome),
                    None => {
                        let answers = Answers::new(game, 1);
                        self.branches.push(Branch { reply, candidate, heard, noise, answers });
                    }
                }
            }
        }
        self.wave = Wave::Answered;
        Ok(())
    }

    /// What a draft came to.
    fn note(&mut self, reply: usize, candidate: usize, game: &Episode, outcome: Outcome) {
        self.sets.replies[reply].scored[candidate].utility = reward::reward(game.product(), outcome);
    }

    /// Takes the seller's first answers, and plays on what they did not end.
    fn answered(&mut self, spoken: Vec<Spoken>, horizon: usize) -> Result<()> {
        for (mut branch, mut seats) in std::mem::take(&mut self.branches).into_iter().zip(spoken) {
            let seller = seats[Side::Seller as usize].take();
            let game = branch.answers.game;
            if game.outcome().is_none() {
                let stand = Stand { game: game.clone(), seller: seller.clone() };
                self.answered.push((branch.reply, branch.candidate, stand));
            }
            branch.heard = seller;
            branch.answers = Answers::new(game, horizon - 1);
            branch.answers.go_on()?;
            self.branches.push(branch);
        }
        self.wave = Wave::Horizon;
        Ok(())
    }

    /// Closes the games at the horizon, and goes on to the next round behind each case's best draft.
    fn close(&mut self, setup: &Setup) -> Result<()> {
        for mut branch in std::mem::take(&mut self.branches) {
            if let Some(outcome) = branch.answers.close()? {
                self.note(branch.reply, branch.candidate, &branch.answers.game, outcome);
            }
        }
        let (n, rollouts) = (self.stands.len() * self.sets.draw.rollouts, self.sets.draw.rollouts);
        let replies = self.sets.replies.len() - n..self.sets.replies.len();
        let best = |reply: usize| {
            let scored = self.sets.replies[reply].scored.iter().map(|s| s.utility).enumerate();
            let better = |best: Option<(usize, f64)>, (c, u)| {
                if best.is_none_or(|b| u > b.1) { Some((c, u)) } else { best }
            };
            scored.fold(None, better)
        };
        let firsts = replies.step_by(rollouts).filter_map(|reply| Some((reply, best(reply)?.0)));
        let going = firsts.filter_map(|(reply, candidate)| {
            let at = self.answered.iter().position(|a| (a.0, a.1) == (reply, candidate))?;
            Some(self.answered[at].2.clone())
        });
        self.stands = going.collect();
        self.answered.clear();
        self.round += 1;
        if self.stands.is_empty() || self.round == setup.config.task.rounds as u64 {
            self.wave = Wave::Done;
        } else {
            self.ask(setup.config.task.candidates);
        }
        Ok(())
    }

    /// Goes past waves in which nobody speaks.
    fn skip_empty(&mut self, setup: &Setup) -> Result<()> {
        if self.wave == Wave::Answered && self.branches.is_empty() {
            self.answered(vec![], setup.config.task.horizon)?;
        }
        if self.wave == Wave::Horizon && self.branches.iter().all(|branch| branch.answers.over()) {
            self.close(setup)?;
        }
        Ok(())
    }
}

/// The buyer's scripted bid.
fn open(game: &mut Episode, noise: Noise) -> Result<()> {
    let reply = Buyer::Explorer.reply(game, noise.child(0));
    game.submit(Side::Buyer, &reply).map(|_| ())
}

/// A game behind scripted turns, at most one for each menu of a game: the buyer's bid and the teacher's answer.
fn scripted(product: &Arc<Product>, setup: &Setup, noise: Noise) -> Episode {
    let mut game = Episode::new(product.clone(), setup.rules, Persona::Neutral);
    let turns = if noise.uniform(9) < 0.9 { 1 + noise.below(10, setup.config.task.rounds) as u64 } else { 0 };
    for turn in 0..turns {
        let (mut next, noise) = (game.clone(), noise.child(turn));
        let played = open(&mut next, noise).and_then(|()| {
            let reply = Seller::Teacher.reply(&next, noise.child(1));
            next.submit(Side::Seller, &reply).map(|_| ())
        });
        if played.is_err() || next.outcome().is_some() {
            break;
        }
        game = next;
    }
    game
}

impl Task for Menu {
    fn stream(&self) -> u64 {
        sets::ROLLOUT
    }

    fn sampling(&self, setup: &Setup) -> Sampling {
        sets::sampling(setup)
    }

    fn begin(&mut self, setup: &Setup, draw: Draw) -> Result<()> {
        *self = Menu::default();
        for (i, product) in draw.products.iter().enumerate() {
            let fresh = Episode::new(product.clone(), setup.rules, Persona::Neutral);
            let mut game = fresh.clone();
            open(&mut game, draw.noise.child(i as u64))?;
            self.stands.push(Stand { game: fresh, seller: None });
            self.openings.push(Answers::new(game, 1));
        }
        self.sets = Sets::of(draw);
        self.wave = Wave::Openings;
        Ok(())
    }

    fn first_told(&mut self, setup: &Setup, product: &Arc<Product>) -> Result<Vec<Told>> {
        let mut game = Episode::new(product.clone(), setup.rules, Persona::Neutral);
        let asked = Told { seat: 0, name: "buyer", prompt: drafts::prompt(&game, setup.config.task.candidates) };
        open(&mut game, Noise::new(setup.config.seed, self.stream()))?;
        Ok(Told::next(&Answers::new(game, 1)).into_iter().chain([asked]).collect())
    }

    fn wave(&mut self, _: &Setup) -> Vec<Job<'_, dyn rollout::Episode>> {
        let seller = Side::Seller as usize;
        match self.wave {
            Wave::Openings => {
                let noise = self.sets.draw.noise.child(OPENINGS);
                let mut jobs: Vec<Job<'_, dyn rollout::Episode>> = Vec::new();
                for (i, opening) in self.openings.iter_mut().enumerate() {
                    let (about, noise) = (opening.game.product().code.clone(), noise.child(i as u64));
                    let job = Job::new(opening as &mut dyn rollout::Episode, about, noise);
                    jobs.push(job.drawing(seller, noise));
                }
                jobs
            }
            Wave::Drafts => self.sets.jobs(),
            Wave::Answered | Wave::Horizon => {
                let mut jobs: Vec<Job<'_, dyn rollout::Episode>> = Vec::new();
                for Branch { heard, noise, answers, .. } in &mut self.branches {
                    let about = answers.game.product().code.clone();
                    let job = Job::new(answers as &mut dyn rollout::Episode, about, *noise);
                    jobs.push(job.drawing(seller, *noise).behind(seller, heard.clone()));
                }
                jobs
            }
            Wave::Done => vec![],
        }
    }

    fn played(&mut self, setup: &Setup, spoken: Vec<Spoken>) -> Result<()> {
        let (k, horizon) = (setup.config.task.candidates, setup.config.task.horizon);
        match self.wave {
            Wave::Openings => {
                let openings = std::mem::take(&mut self.openings).into_iter().zip(spoken);
                for ((opening, mut seats), stand) in openings.zip(&mut self.stands) {
                    // A game that the opening ended is played from its beginning.
                    if opening.game.outcome().is_none() {
                        *stand = Stand { game: opening.game, seller: seats[Side::Seller as usize].take() };
                    }
                }
                self.ask(k);
            }
            Wave::Drafts => {
                // Worth nothing until it is played on.
                let first = self.sets.answered(setup, spoken, |_, _| Scored { utility: -1.0, covers: 0 })?;
                self.branch(first)?;
            }
            Wave::Answered => self.answered(spoken, horizon)?,
            Wave::Horizon => self.close(setup)?,
            Wave::Done => {}
        }
        self.skip_empty(setup)
    }

    fn transcripts(&self) -> Vec<&Transcript> {
        self.sets.transcripts()
    }

    fn credit(&mut self, setup: &Setup, logprobs: &mut Logprobs) -> Result<Credited> {
        self.sets.credit(setup, logprobs)
    }

    fn row(&self, setup: &Setup, credited: &Credited) -> Metrics {
        self.sets.row(setup, credited)
    }

    fn log(&self, credited: &Credited, log: &mut Log) -> Result<()> {
        self.sets.log(credited, log)
    }

    fn demonstration(&self, setup: &Setup, noise: Noise) -> Result<Option<(Prompt, String)>> {
        let (product, k) = (&setup.train[noise.below(0, setup.train.len())], setup.config.task.candidates);
        let game = scripted(product, setup, noise.child(1));
        let (thought, candidates) = drafts::demonstration(&game, k, noise.child(2));
        Ok(Some((drafts::prompt(&game, k), render(&thought, &candidates))))
    }

    fn evaluate(&mut self, setup: &Setup, models: &[Entrant], progress: &mut Progress) -> Result<Report> {
        sets::evaluate(self, |task| &task.sets, setup, models, progress)
    }

    fn look(&mut self, setup: &Setup, model: Entrant, engines: Engines, progress: &mut Progress) -> Result<Report> {
        sets::look(self, |task| &task.sets, setup, model, engines, progress)
    }
}
