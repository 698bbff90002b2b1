//! Rollouts: episodes of any task, many at once, each seat played by a model, here or behind a server, a script or a
//! person.
//!
//! The one idea: an [`Episode`] is a state machine that knows no model, a [`Player`] speaks and knows no rules; [`play()`]
//! brings them together, and is what training, evaluation and chat all play through. It knows neither game nor reward.

mod dealt;
mod guided;
mod play;

pub use dealt::play_dealt;
pub use play::play;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::guide::{Grammar, Manner};
use crate::infer::{Engine, Sampling, Stats};
use crate::model::Weights;
use crate::noise::Noise;
use crate::remote::{self, Desk};
use crate::text::{Chat, Transcript};

/// An episode between any number of seats: whose turn it is, what a seat is shown, what its reply does, what it earned.
pub trait Episode {
    /// The seat that speaks next; none once the episode is over.
    fn next_seat(&self) -> Option<usize>;
    /// What a seat is called in messages.
    fn seat_name(&self, seat: usize) -> &'static str;
    /// What a seat is told before everything else.
    fn system_prompt(&self, seat: usize) -> String;
    /// What a seat is shown at its turn.
    fn view(&self, seat: usize) -> String;
    /// Plays a seat's reply; `cut` when it ran into its limit. Any text is a valid reply.
    ///
    /// # Errors
    /// When it is not the seat's turn.
    fn submit(&mut self, seat: usize, reply: &str, cut: bool) -> Result<()>;
    /// Ends the episode void: a seat's reply is lost for good, so that nobody won or lost anything by it.
    ///
    /// # Errors
    /// [`Error::Config`] where an episode cannot end so, as most cannot: such a task is not played against a server.
    fn lose(&mut self, seat: usize, why: &str) -> Result<()> {
        let what =
            format!("the {}'s reply is lost ({why}), and this task has no episode without it", self.seat_name(seat));
        Err(Error::Config { problems: vec![what] })
    }
    /// Whether each turn of a seat is a prompt of its own: it is told nothing of its turns before.
    fn forgets(&self, _seat: usize) -> bool {
        false
    }
    /// What a seat says that the episode itself has a script for; none where another plays it.
    fn scripted(&self, _seat: usize, _noise: Noise) -> Option<String> {
        None
    }
    /// As much of a script's reply as the model at the other seat has room to hear.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    fn heard(&self, _seat: usize, reply: String, _ears: &Ears) -> Result<String> {
        Ok(reply)
    }
    /// What a seat may reply now where its model is guided, and what it says where there is no room for a reply; none where an
    /// episode guides nobody.
    fn bounds(&self, _seat: usize) -> Option<Bounds> {
        None
    }
    /// What a seat earned; none while the episode goes on, or where that is decided elsewhere.
    fn reward(&self, seat: usize) -> Option<f64>;
}

/// The model that hears a script.
pub struct Ears<'a> {
    /// Its tokenizer and template.
    pub chat: &'a Chat,
    /// Positions of a sequence.
    pub context: usize,
    /// Tokens of its longest reply.
    pub longest_reply: usize,
}

/// The replies of a guided seat.
pub struct Bounds {
    /// All of them.
    pub grammar: Grammar,
    /// What is said where the model's context has no room for one.
    pub without_room: String,
}

/// An episode to be played.
pub struct Job<'a, E: ?Sized> {
    /// The episode, where it stands.
    pub episode: &'a mut E,
    /// What it is about, for messages: the product's code.
    pub about: String,
    /// What scripts draw from.
    pub noise: Noise,
    /// What a seat's model draws from; where a seat has none of its own, its stream below `noise`.
    pub sampling_noise: Vec<Option<Noise>>,
    /// What a seat heard and said before, its prompt included; where there is nothing, it begins with its prompt.
    pub heard: Vec<Option<Transcript>>,
}

impl<'a, E: ?Sized> Job<'a, E> {
    /// A job whose seats have heard nothing.
    pub fn new(episode: &'a mut E, about: impl Into<String>, noise: Noise) -> Job<'a, E> {
        Job { episode, about: about.into(), noise, sampling_noise: vec![], heard: vec![] }
    }

    /// A seat's model draws from `noise` itself.
    pub fn drawing(mut self, seat: usize, noise: Noise) -> Job<'a, E> {
        self.sampling_noise.resize(self.sampling_noise.len().max(seat + 1), None);
        self.sampling_noise[seat] = Some(noise);
        self
    }

    /// A seat goes on behind a transcript.
    pub fn behind(mut self, seat: usize, heard: Option<Transcript>) -> Job<'a, E> {
        self.heard.resize(self.heard.len().max(seat + 1), None);
        self.heard[seat] = heard;
        self
    }

    /// The noise of a seat's sampling.
    fn draws(&self, seat: usize) -> Noise {
        let own = self.sampling_noise.get(seat).copied().flatten();
        own.unwrap_or_else(|| self.noise.child(1 << 32 | seat as u64))
    }
}

/// A model that speaks for a seat.
pub struct Voice<'a> {
    /// Its weights.
    pub weights: &'a Weights,
    /// Its engine: its own pages, keyed by the weights' version.
    pub engine: &'a mut Engine,
    /// Its tokenizer and template.
    pub chat: &'a Chat,
    /// How it is sampled.
    pub sampling: Sampling,
    /// How it is guided, where it is: its tokens are drawn from those that may come, and scored among them. Its engine has room
    /// for masks.
    pub manner: Option<Manner>,
}

/// A model behind a server that speaks for a seat.
pub struct RemoteVoice {
    /// Where its replies are asked for.
    pub desk: Desk,
    /// Its sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// Tokens a reply may have.
    pub max_tokens: usize,
}

/// Who plays a seat.
pub enum Player<'a, E: ?Sized> {
    /// A model.
    Model(Voice<'a>),
    /// A model behind a server.
    Remote(RemoteVoice),
    /// A script: its reply to an episode, under the job's noise.
    Script(&'a dyn Fn(&E, Noise) -> String),
    /// A person: its reply, or none to leave the episode as it stands.
    Person(&'a mut dyn FnMut(&E) -> Result<Option<String>>),
}

impl<E: ?Sized> Player<'_, E> {
    /// What it hears with, when it is a model.
    fn ears(&self) -> Option<Ears<'_>> {
        let Player::Model(Voice { weights, chat, sampling, manner, .. }) = self else { return None };
        // A guided reply is spelled in more tokens than its free parts have, at worst.
        let fixed = if manner.is_some() { GUIDED_FORM } else { 0 };
        let (context, longest_reply) = (weights.config.max_position_embeddings, sampling.max_new_tokens + fixed);
        Some(Ears { chat, context, longest_reply })
    }

    /// Where it runs, when it is a model.
    fn device(&self) -> Option<Device> {
        match self {
            Player::Model(voice) => Some(voice.engine.device().clone()),
            Player::Remote(_) | Player::Script(_) | Player::Person(_) => None,
        }
    }
}

/// Tokens of a guided reply's form, about, spelled byte by byte.
const GUIDED_FORM: usize = 80;

/// The ids of an episode, by seat; none where no model played.
pub type Spoken = Vec<Option<Transcript>>;

/// What the episodes of a rollout said, in the order of the jobs, and what it cost.
#[derive(Default)]
pub struct Rollout {
    /// The ids of each episode.
    pub spoken: Vec<Spoken>,
    /// What each seat's engine did.
    pub stats: Vec<Stats>,
    /// What was asked of servers; its lost replies are the void episodes. None where no server played.
    pub remote: Option<remote::Stats>,
    /// Turns that a model's context cut short or had no room for.
    pub context_full: usize,
    /// Seconds in the episodes and in tokenising.
    pub environment_s: f64,
    /// Seconds in all.
    pub total_s: f64,
    /// The same of each rank; none where there is one.
    pub ranks_s: Vec<f64>,
}

impl Rollout {
    /// Adds the cost of another rollout of the same seats.
    pub fn add_cost(&mut self, other: &Rollout) {
        self.stats.resize(self.stats.len().max(other.stats.len()), Stats::default());
        self.stats.iter_mut().zip(&other.stats).for_each(|(mine, theirs)| mine.add(theirs));
        if let Some(theirs) = &other.remote {
            self.remote.get_or_insert_default().add(theirs);
        }
        self.context_full += other.context_full;
        self.environment_s += other.environment_s;
        self.total_s += other.total_s;
        self.ranks_s.resize(self.ranks_s.len().max(other.ranks_s.len()), 0.0);
        self.ranks_s.iter_mut().zip(&other.ranks_s).for_each(|(mine, theirs)| *mine += theirs);
    }
}
