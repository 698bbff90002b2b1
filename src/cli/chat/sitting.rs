//! A sitting: games of one person against one model, one after another, kept on disk where that is asked for.

use super::table::Table;
use super::{ChatArgs, item};
use crate::cli::out;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::guide::hearing::Room;
use crate::guide::{Grammar, Manner};
use crate::infer::{Engine, Sampling};
use crate::negotiate::legal::{Guards, Legal};
use crate::negotiate::{Episode, Outcome, Persona, Side, reward};
use crate::noise::Noise;
use crate::rollout::{self, Job, Player, Voice};
use crate::setup;
use crate::setup::base::Base;
use crate::tasks::{self, Told};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// Stream of noise below the seed.
const CHAT: u64 = 4;

/// The file that games are appended to.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn transcript(path: &Path) -> Result<(PathBuf, File)> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map(|file| (path.into(), file)).map_err(|e| Error::io(path, format!("cannot be written: {e}")))
}

/// One person and one model, game after game.
pub struct Sitting<'a> {
    /// What was asked for.
    pub args: &'a ChatArgs,
    /// The config in force.
    pub config: Config,
    /// The model's name.
    pub name: String,
    /// The model.
    pub model: Base,
    /// Its engine.
    pub engine: Engine,
    /// How it is sampled.
    pub sampling: Sampling,
    /// How it is guided, where it is.
    pub manner: Option<Manner>,
    /// The person's side.
    pub person: Side,
    /// Where games are kept.
    pub kept: Option<(PathBuf, File)>,
    /// The person's share of what there was to gain, a game each.
    pub scores: Vec<f64>,
}

impl Sitting<'_> {
    /// Plays a game; none when the input has ended.
    ///
    /// # Errors
    /// What is wrong with the product, and what the terminal or the disk refuses.
    pub fn game(&mut self, game: usize, input: &mut dyn BufRead, screen: &mut dyn Write) -> Result<Option<Episode>> {
        if game > 0 && input.fill_buf().map_err(|e| Error::io("stdin", e))?.is_empty() {
            return Ok(None);
        }
        let (args, config, person) = (self.args, &self.config, self.person);
        let (product, notes) = item::choose(config, &self.name, &args.item, args.product.as_deref(), game)?;
        if game == 0 {
            out::known(&notes);
        }
        let mut episode = Episode::new(product, setup::rules(config), Persona::Neutral);
        let (ours, rest) = (Told::of(&episode, person.other() as usize), 2 * config.rollout.max_reply_tokens);
        if let Err(why) = tasks::fits(&self.model.chat, &self.model.weights.config, &ours.prompt, rest)? {
            let what = format!("the {}'s prompt for {} does not fit: {why}", ours.name, episode.product().code);
            return Err(Error::Config { problems: vec![what] });
        }
        let context = self.model.weights.config.max_position_embeddings;
        let room = Room::new(&self.model.chat, context, person.other(), self.longest_reply(&episode));
        let heard = |episode: &Episode, talk: &str| room.heard(episode, talk);
        let mut table = Table { person, show_thoughts: args.show_thoughts, input, screen, shown: 0, heard: &heard };
        table.introduce(&episode)?;
        let mut reply = |episode: &Episode| table.reply(episode);
        let Base { weights, chat, .. } = &self.model;
        let (engine, sampling, manner) = (&mut self.engine, self.sampling, self.manner.clone());
        let voice = Voice { weights, engine, chat, sampling, manner };
        let mut players = [Player::Model(voice), Player::Person(&mut reply)];
        if person == Side::Buyer {
            players.reverse();
        }
        let noise = Noise::new(config.seed, CHAT);
        let noise = if game == 0 { noise } else { noise.child(game as u64) };
        let about = episode.product().code.clone();
        let job = Job::new(&mut episode, about, noise).drawing(person.other() as usize, noise);
        rollout::play(vec![job], &mut players, 1, &mut |_| ())?;
        table.conclude(&episode)?;
        self.keep(&episode)?;
        Ok(Some(episode))
    }

    /// Tokens of the model's longest reply.
    fn longest_reply(&self, episode: &Episode) -> usize {
        let guided = |manner: &Manner| {
            let legal = Legal::now(episode, self.person.other(), Guards::default());
            manner.most_tokens(&Grammar::new(&legal, episode.code()))
        };
        self.manner.as_ref().map_or(self.config.rollout.max_reply_tokens, guided)
    }

    /// Counts a game and appends it to the transcript.
    fn keep(&mut self, episode: &Episode) -> Result<()> {
        self.scores.push(gain(self.person, episode));
        let Some((path, file)) = &mut self.kept else { return Ok(()) };
        writeln!(file, "{}", as_json(episode)).map_err(|e| Error::io(&*path, format!("cannot be written: {e}")))
    }

    /// Says the score over several games.
    ///
    /// # Errors
    /// What the terminal refuses.
    pub fn score(&self, screen: &mut dyn Write) -> Result<()> {
        let n = self.scores.len();
        if n < 2 {
            return Ok(());
        }
        let mean = self.scores.iter().sum::<f64>() / n as f64;
        let said = format!("{n} games: you took {:.0} % of what there was to gain, on average.", 100.0 * mean);
        writeln!(screen, "{said}").map_err(|e| Error::io("stdout", e))
    }
}

/// The share of what there was to gain, |budget - cost|, that a side took; 0 without a deal.
fn gain(side: Side, episode: &Episode) -> f64 {
    let (product, Some(Outcome::Deal { price, .. })) = (episode.product(), episode.outcome()) else { return 0.0 };
    match side {
        Side::Buyer => reward::share(product, price),
        Side::Seller => (price.0 - product.cost.0) as f64 / reward::zone(product) as f64,
    }
}

/// A game as a JSON object; money in cents.
pub fn as_json(episode: &Episode) -> Value {
    let (product, outcome) = (episode.product(), episode.outcome());
    json!({
        "product": product.code, "title": product.title, "list": product.list, "cost": product.cost, "budget": product.budget,
        "turns": episode.turns(), "outcome": outcome, "reward": outcome.map(|o| reward::reward(product, o)),
    })
}
