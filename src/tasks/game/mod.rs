//! The game: a buyer and a seller over one product, turn by turn. The buyer learns.
//!
//! The one idea: a draw is `G` whole games a product, each with noise of its own; their reward is the game's, and dynamic
//! sampling replaces groups that teach nothing before anything is learned from them.

mod contest;
mod credit;
mod opponents;
mod rows;

pub use opponents::{Mix, Opponent};
pub use rows::EpisodeLine;

use super::{Draw, Engines, Entrant, Logprobs, Prompt, Task, Told};
use crate::config::choice::KlIn;
use crate::error::Result;
use crate::eval::{Progress, Report};
use crate::guide::hearing::Room;
use crate::guide::{Grammar, said};
use crate::negotiate::legal::{Guards, Legal};
use crate::negotiate::metrics::EpisodeFacts;
use crate::negotiate::{Action, Episode, Persona, Product, Side, reply, reward};
use crate::noise::Noise;
use crate::rollout::{self, Bounds, Ears, Job, Spoken};
use crate::run::metrics::Metrics;
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::tasks::credit::Credited;
use crate::text::Transcript;
use serde_json::json;
use std::sync::Arc;

/// Streams of noise below the run's seed.
const ROLLOUT: u64 = 2;
const RESAMPLE: u64 = 4;
/// Stream of the groups' sellers below a draw's noise; groups have the first ones.
const SELLERS: u64 = 1 << 40;

/// The buyer's seat, and the seller's.
const SIDES: [Side; 2] = [Side::Buyer, Side::Seller];

impl AsRef<Episode> for Episode {
    fn as_ref(&self) -> &Episode {
        self
    }
}

impl rollout::Episode for Episode {
    fn next_seat(&self) -> Option<usize> {
        self.next_side().map(|side| side as usize)
    }

    fn seat_name(&self, seat: usize) -> &'static str {
        SIDES[seat].name()
    }

    fn system_prompt(&self, seat: usize) -> String {
        self.system_prompt(SIDES[seat])
    }

    fn view(&self, seat: usize) -> String {
        self.view(SIDES[seat])
    }

    fn submit(&mut self, seat: usize, reply: &str, cut: bool) -> Result<()> {
        let side = SIDES[seat];
        if cut { self.submit_cut(side, reply) } else { self.submit(side, reply) }.map(|_| ())
    }

    fn lose(&mut self, _: usize, why: &str) -> Result<()> {
        self.abandon(why);
        Ok(())
    }

    fn scripted(&self, seat: usize, noise: Noise) -> Option<String> {
        self.script().filter(|_| SIDES[seat] == Side::Seller).map(|seller| seller.reply(self, noise))
    }

    /// A script's words are cut as a person's are in a chat.
    fn heard(&self, seat: usize, text: String, ears: &Ears) -> Result<String> {
        let Ok(reply) = reply::parse(&text, self.code()) else { return Ok(text) };
        let room = Room::new(ears.chat, ears.context, SIDES[seat].other(), ears.longest_reply);
        let words = room.heard(self, &reply.talk)?;
        Ok(if words == reply.talk { text } else { reply::render(&reply.thought, &words, reply.action, self.code()) })
    }

    fn bounds(&self, seat: usize) -> Option<Bounds> {
        let (side, code) = (SIDES[seat], self.code());
        let grammar = Grammar::new(&Legal::now(self, side, Guards::default()), code);
        let without_room = reply::render("", &said::of_action(side, Action::Reject), Action::Reject, code);
        Some(Bounds { grammar, without_room })
    }

    /// The buyer's reward; the seller is frozen and earns nothing.
    fn reward(&self, seat: usize) -> Option<f64> {
        self.outcome().filter(|_| SIDES[seat] == Side::Buyer).map(|outcome| reward::reward(self.product(), outcome))
    }
}

/// The games of a draw.
#[derive(Default)]
pub struct Game {
    draw: Draw,
    games: Vec<Episode>,
    /// The seller of each group.
    sellers: Vec<Opponent>,
    noise: Vec<Noise>,
    /// The buyer's ids of each game.
    buyer: Vec<Option<Transcript>>,
    /// Games that are to be played, ascending.
    waiting: Vec<usize>,
    /// Rounds of dynamic sampling.
    resampled: u64,
    /// Games that were void, those that were replaced included.
    void: usize,
}

impl Game {
    /// Puts new games, over any products, in the place of constant groups, at most `credit.resample_rounds` times.
    ///
    /// Source: DAPO, arXiv:2503.14476, section 3.2.
    fn resample(&mut self, setup: &Setup) {
        let group = self.draw.rollouts;
        if self.resampled == setup.config.credit.resample_rounds as u64 {
            return;
        }
        let same = |g: &[Episode]| {
            let rewards: Vec<f64> = counted(g).map(|game| EpisodeFacts::of(game).reward).collect();
            rewards.iter().all(|r| *r == rewards[0])
        };
        let constant = self.games.chunks(group).enumerate().filter(|(_, g)| same(g)).map(|(i, _)| i);
        let constant: Vec<usize> = constant.collect();
        let noise = Noise::new(setup.config.seed, RESAMPLE).child(self.draw.step).child(self.resampled);
        for (slot, at) in constant.into_iter().enumerate() {
            let product = &setup.train[noise.below(slot as u64, setup.train.len())];
            for g in 0..group {
                let i = at * group + g;
                self.games[i] = self.sellers[at].game(product.clone(), setup.rules);
                self.noise[i] = noise.child(slot as u64).child(g as u64);
                self.waiting.push(i);
            }
        }
        self.resampled += 1;
    }
}

/// The games that are not void.
fn counted(games: &[Episode]) -> impl Iterator<Item = &Episode> {
    games.iter().filter(|game| game.void().is_none())
}

impl Task for Game {
    fn stream(&self) -> u64 {
        ROLLOUT
    }

    fn begin(&mut self, setup: &Setup, draw: Draw) -> Result<()> {
        *self = Game::default();
        let mix = Mix::of(&setup.config.rollout.sellers)?;
        let drawn = draw.noise.child(SELLERS);
        self.sellers = (0..draw.products.len() as u64).map(|slot| mix.pick(drawn, slot)).collect();
        for (slot, product) in draw.products.iter().enumerate() {
            for g in 0..draw.rollouts {
                self.games.push(self.sellers[slot].game(product.clone(), setup.rules));
                self.noise.push(draw.noise.child(slot as u64).child(g as u64));
            }
        }
        self.buyer = self.games.iter().map(|_| None).collect();
        self.waiting = (0..self.games.len()).collect();
        self.draw = draw;
        Ok(())
    }

    fn first_told(&mut self, setup: &Setup, product: &Arc<Product>) -> Result<Vec<Told>> {
        let of = |persona| Episode::new(product.clone(), setup.rules, persona);
        let mut all: Vec<Told> = [0, 1].map(|seat| Told::of(&of(Persona::Neutral), seat)).into();
        let mix = Mix::of(&setup.config.rollout.sellers)?;
        for opponent in Opponent::named(&setup.config.eval.seller)?.into_iter().chain(mix.opponents()) {
            match opponent {
                Opponent::Model(Persona::Neutral) | Opponent::Script(_) => {}
                Opponent::Model(persona) => all.push(Told::of(&of(persona), 1)),
            }
        }
        Ok(all)
    }

    fn wave(&mut self, _: &Setup) -> Vec<Job<'_, dyn rollout::Episode>> {
        let waiting = &self.waiting;
        let games =
            self.games.iter_mut().zip(&self.noise).enumerate().filter(|(i, _)| waiting.binary_search(i).is_ok());
        let job = |(_, (game, noise)): (usize, (_, &Noise))| {
            let game: &mut Episode = game;
            let about = game.product().code.clone();
            Job::new(game as &mut dyn rollout::Episode, about, *noise)
        };
        games.map(job).collect()
    }

    fn played(&mut self, setup: &Setup, spoken: Vec<Spoken>) -> Result<()> {
        for (i, mut seats) in self.waiting.drain(..).zip(spoken) {
            self.void += usize::from(self.games[i].void().is_some());
            self.buyer[i] = seats[Side::Buyer as usize].take();
        }
        self.resample(setup);
        Ok(())
    }

    fn transcripts(&self) -> Vec<&Transcript> {
        self.buyer.iter().flatten().collect()
    }

    fn credit(&mut self, setup: &Setup, logprobs: &mut Logprobs) -> Result<Credited> {
        let transcripts = self.transcripts();
        let kl = match KlIn::of(&setup.config.loss.kl_in) {
            KlIn::Reward => credit::kl_to_reference(setup, &transcripts, logprobs)?,
            KlIn::Loss => vec![],
        };
        credit::credit(&setup.dev, &setup.config, &self.games, &self.buyer, &kl)
    }

    fn row(&self, setup: &Setup, _: &Credited) -> Metrics {
        let mut row = rows::row(&counted(&self.games).map(EpisodeFacts::of).collect::<Vec<_>>());
        if self.void > 0 || setup.seller_model().is_none() {
            row.insert("rollout/void".into(), json!(self.void));
        }
        row
    }

    fn log(&self, credited: &Credited, log: &mut Log) -> Result<()> {
        for (i, (game, advantage)) in self.games.iter().zip(&credited.advantage).enumerate() {
            let (step, group, buyer) = (self.draw.step, self.draw.rollouts, self.buyer[i].as_ref());
            let own = credited.per_token.get(i).map_or(&[][..], |each| each);
            log.append(&EpisodeLine::new(step, i, group, game, buyer, *advantage, own))?;
        }
        Ok(())
    }

    fn teaches(&self) -> bool {
        false
    }

    fn demonstration(&self, _: &Setup, _: Noise) -> Result<Option<(Prompt, String)>> {
        Ok(None)
    }

    fn evaluate(&mut self, setup: &Setup, models: &[Entrant], progress: &mut Progress) -> Result<Report> {
        contest::evaluate(setup, models, progress)
    }

    fn look(&mut self, setup: &Setup, model: Entrant, engines: Engines, progress: &mut Progress) -> Result<Report> {
        contest::look(setup, model, engines, progress)
    }
}
