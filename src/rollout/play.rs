//! Rollout: many episodes at once, each side a model or a script.
//!
//! The one idea: nobody waits for the slowest. Each pass steps the buyer's engine and the seller's engine with whatever is
//! runnable; a finished turn is played at once and the other side hears it in the same pass. What an episode says is a
//! function of its job, the weights and the noise alone: which episodes run beside it changes nothing.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::{Engine, NoiseKey, Sampling, SeqId, Stats};
use crate::model::Weights;
use crate::negotiate::{Buyer, Episode, Persona, Product, Rules, Seller, Side};
use crate::noise::Noise;
use crate::text::{Chat, Transcript};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// An episode to be played.
#[derive(Debug, Clone)]
pub struct Job {
    /// What is bargained over.
    pub product: Arc<Product>,
    /// The rules.
    pub rules: Rules,
    /// The seller's persona, when the seller is a model.
    pub persona: Persona,
    /// The episode's noise; each side has its own stream below it.
    pub noise: Noise,
}

impl Job {
    /// The noise of one side's sampling.
    fn key(&self, side: Side) -> NoiseKey {
        let noise = self.noise.child(1 << 32 | side as u64);
        NoiseKey { seed: noise.seed, stream: noise.stream }
    }
}

/// A model that speaks for one side.
pub struct Voice<'a> {
    /// Its weights.
    pub weights: &'a Weights,
    /// Its engine: its own pages, keyed by the weights' version.
    pub engine: &'a mut Engine,
    /// Its tokenizer and template.
    pub chat: &'a Chat,
    /// How it is sampled.
    pub sampling: Sampling,
}

/// Who plays a side.
pub enum Player<'a> {
    /// A model.
    Model(Voice<'a>),
    /// A scripted buyer.
    Buyer(Buyer),
    /// A scripted seller.
    Seller(Seller),
}

impl Player<'_> {
    /// Where it runs, when it is a model.
    fn device(&self) -> Option<Device> {
        match self {
            Player::Model(voice) => Some(voice.engine.device().clone()),
            _ => None,
        }
    }
}

/// An episode that was played to its end.
#[derive(Debug, Clone)]
pub struct Played {
    /// The episode.
    pub episode: Episode,
    /// The buyer's ids, when the buyer is a model.
    pub buyer: Option<Transcript>,
    /// The seller's ids, when the seller is a model.
    pub seller: Option<Transcript>,
}

/// All episodes of a rollout, in the order of the jobs, and what it cost.
pub struct Rollout {
    /// The episodes.
    pub played: Vec<Played>,
    /// The buyer's engine.
    pub buyer: Stats,
    /// The seller's engine.
    pub seller: Stats,
    /// Seconds in the game and in tokenising.
    pub environment_s: f64,
    /// Seconds in all.
    pub total_s: f64,
}

impl Rollout {
    /// Puts the groups of another rollout in the place of the groups `at`, and adds its cost.
    pub fn replace(&mut self, at: &[usize], group: usize, by: Rollout) {
        for (i, played) in by.played.into_iter().enumerate() {
            self.played[at[i / group] * group + i % group] = played;
        }
        self.buyer.add(&by.buyer);
        self.seller.add(&by.seller);
        self.environment_s += by.environment_s;
        self.total_s += by.total_s;
    }
}

/// Plays all jobs, at most `max_live` at a time (each engine holds that many sequences); `progress` hears how many have
/// ended.
///
/// # Errors
/// [`Error::Config`] naming the product whose prompt does not fit the context, and whatever the ops refuse.
pub fn play<'p>(
    jobs: &[Job],
    buyer: &mut Player<'p>,
    seller: &mut Player<'p>,
    max_live: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Rollout> {
    let dev = [&*buyer, &*seller].iter().find_map(|player| player.device());
    let _phase = dev.as_ref().map(|dev| dev.phase("rollout"));
    let start = Instant::now();
    let mut table = Table::new(jobs, buyer, seller);
    let mut next = 0;
    while table.ended < jobs.len() {
        while next < jobs.len() && table.live.len() < max_live.max(1) {
            table.begin(next)?;
            next += 1;
        }
        for side in [Side::Buyer, Side::Seller] {
            table.listen(side)?;
        }
        progress(table.ended);
    }
    table.finish(start)
}

/// One side of a live episode, when a model plays it.
struct Seat {
    transcript: Transcript,
    seq: Option<SeqId>,
}

struct Live {
    episode: Episode,
    seats: [Option<Seat>; 2],
}

struct Table<'t, 'p> {
    jobs: &'t [Job],
    players: [&'t mut Player<'p>; 2],
    live: BTreeMap<usize, Live>,
    speaking: [BTreeMap<SeqId, usize>; 2],
    played: Vec<Option<Played>>,
    ended: usize,
    environment_s: f64,
}

impl<'t, 'p> Table<'t, 'p> {
    fn new(jobs: &'t [Job], buyer: &'t mut Player<'p>, seller: &'t mut Player<'p>) -> Table<'t, 'p> {
        for player in [&mut *buyer, &mut *seller] {
            if let Player::Model(voice) = player {
                voice.engine.take_stats();
            }
        }
        Table {
            jobs,
            players: [buyer, seller],
            live: BTreeMap::new(),
            speaking: [BTreeMap::new(), BTreeMap::new()],
            played: jobs.iter().map(|_| None).collect(),
            ended: 0,
            environment_s: 0.0,
        }
    }

    fn begin(&mut self, job: usize) -> Result<()> {
        let Job { product, rules, persona, .. } = &self.jobs[job];
        let episode = Episode::new(product.clone(), *rules, *persona);
        self.live.insert(job, Live { episode, seats: [None, None] });
        self.advance(job)
    }

    /// One step of a side's engine; every turn it finished is played.
    fn listen(&mut self, side: Side) -> Result<()> {
        let Player::Model(voice) = &mut *self.players[side as usize] else { return Ok(()) };
        voice.engine.step(voice.weights)?;
        let start = Instant::now();
        let mut said: Vec<(usize, String, bool)> = Vec::new();
        while let Some(turn) = voice.engine.next_finished() {
            let Some(job) = self.speaking[side as usize].remove(&turn.seq) else { continue };
            let seat = self.live.get_mut(&job).and_then(|l| l.seats[side as usize].as_mut());
            if let Some(seat) = seat {
                seat.transcript.push_sampled(turn.ids, turn.logprobs);
            }
            said.push((job, voice.chat.reply_text(turn.ids)?, turn.truncated));
        }
        for (job, text, cut) in said {
            self.submit(job, side, &text, cut)?;
            self.advance(job)?;
        }
        self.environment_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn submit(&mut self, job: usize, side: Side, text: &str, cut: bool) -> Result<()> {
        if let Some(live) = self.live.get_mut(&job) {
            if cut { live.episode.submit_cut(side, text) } else { live.episode.submit(side, text) }?;
        }
        Ok(())
    }

    /// Plays scripted turns until a model must speak or the episode is over.
    fn advance(&mut self, job: usize) -> Result<()> {
        while let Some(live) = self.live.get(&job) {
            let Some(side) = live.episode.next_side() else { return self.end(job) };
            let noise = self.jobs[job].noise;
            let scripted = match &*self.players[side as usize] {
                Player::Buyer(buyer) => Some(buyer.reply(&live.episode, noise)),
                Player::Seller(seller) => Some(seller.reply(&live.episode, noise)),
                Player::Model(_) => None,
            };
            match scripted {
                Some(text) => self.submit(job, side, &text, false)?,
                None if self.hear(job, side)? => return Ok(()),
                None => self.submit(job, side, "", true)?,
            }
        }
        Ok(())
    }

    /// Gives a model its incoming message and starts its turn; false when its context is full.
    fn hear(&mut self, job: usize, side: Side) -> Result<bool> {
        let (Player::Model(voice), Some(live)) = (&mut *self.players[side as usize], self.live.get_mut(&job)) else {
            return Ok(false);
        };
        let text = live.episode.view(side);
        let seat = match &mut live.seats[side as usize] {
            Some(seat) => seat,
            empty => {
                let transcript = Transcript::new(voice.chat, &live.episode.system_prompt(side))?;
                empty.insert(Seat { transcript, seq: None })
            }
        };
        let new = seat.transcript.push_incoming(voice.chat, &text)?;
        let seq = match seat.seq {
            Some(_) if seat.transcript.len() >= voice.weights.config.max_position_embeddings => return Ok(false),
            Some(seq) => voice.engine.extend(seq, &seat.transcript.ids()[new]).map(|()| seq),
            None => voice.engine.add(seat.transcript.ids(), voice.sampling, self.jobs[job].key(side)),
        };
        let seq = seq.map_err(|e| name(e, &self.jobs[job].product, side))?;
        seat.seq = Some(seq);
        self.speaking[side as usize].insert(seq, job);
        Ok(true)
    }

    fn end(&mut self, job: usize) -> Result<()> {
        if let Some(live) = self.live.remove(&job) {
            for (player, seat) in self.players.iter_mut().zip(&live.seats) {
                if let (Player::Model(voice), Some(Seat { seq: Some(seq), .. })) = (&mut **player, seat) {
                    voice.engine.release(*seq);
                }
            }
            let [buyer, seller] = live.seats.map(|seat| seat.map(|s| s.transcript));
            self.played[job] = Some(Played { episode: live.episode, buyer, seller });
            self.ended += 1;
        }
        Ok(())
    }

    fn finish(self, start: Instant) -> Result<Rollout> {
        let stats = |player: &mut Player| match player {
            Player::Model(voice) => voice.engine.take_stats(),
            _ => Stats::default(),
        };
        let [buyer, seller] = self.players.map(stats);
        Ok(Rollout {
            played: self.played.into_iter().flatten().collect(),
            buyer,
            seller,
            environment_s: self.environment_s,
            total_s: start.elapsed().as_secs_f64(),
        })
    }
}

/// Adds whose prompt it was to what the engine refused.
fn name(e: Error, product: &Product, side: Side) -> Error {
    match e {
        Error::Config { problems } => Error::Config {
            problems: problems
                .iter()
                .map(|p| format!("the {}'s prompt for {}: {p}", side.name(), product.code))
                .collect(),
        },
        other => other,
    }
}
