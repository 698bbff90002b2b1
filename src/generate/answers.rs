//! Requests through the engine: one of them, heard step by step; or a list, as many at a time as it has seats for.

use super::stream::Stream;
use crate::error::{Error, Result};
use crate::infer::{Engine, Lean, NoiseKey, Sampling, SeqId, Turn};
use crate::model::Weights;
use crate::noise::Noise;
use crate::text::Tokenizer;

/// Stream of noise below the seed.
const GENERATE: u64 = 5;

/// A prompt to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What tells its noise from that of other prompts: the line of a file.
    pub label: u64,
    /// Which answer to this prompt, from 0.
    pub sample: u64,
    /// `[T]` ids.
    pub prompt: Vec<i32>,
}

/// How all requests are answered.
#[derive(Debug, Clone)]
pub struct How {
    /// How tokens are drawn; its one `stop` token is not looked at.
    pub sampling: Sampling,
    /// What moves their logits.
    pub lean: Lean,
    /// Tokens that end an answer.
    pub ends: Vec<i32>,
    /// Strings that end an answer.
    pub stops: Vec<String>,
    /// Seeds the noise.
    pub seed: u64,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// One of the tokens or strings that end it.
    Stop,
    /// It has `max_new_tokens`.
    Length,
    /// The model's context is full.
    Context,
}

impl Finish {
    /// As it stands in output.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
        }
    }
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text of its ids, without a token that ends it, before a string that ends it.
    pub text: String,
    /// All sampled ids, those of what ends it included.
    pub ids: Vec<i32>,
    /// Their log-probabilities under the whole softmax at the sampling temperature, at temperature 1 where it is greedy.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// What is heard of a request while all are answered.
#[derive(Debug)]
pub enum Heard<'a> {
    /// More text, never empty.
    Text(&'a str),
    /// The whole, once.
    Answer(Answer),
}

/// A request in the engine, from its first token to the last.
#[derive(Debug)]
pub struct Answering<'a> {
    seq: SeqId,
    stream: Stream<'a>,
    /// Ids that were taken.
    seen: usize,
}

/// What a step brought a request: a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is now sure of the text, beyond what was told before.
    pub text: String,
    /// Where the token ends the answer, why.
    pub finish: Option<Finish>,
}

impl<'a> Answering<'a> {
    /// Gives a request a seat in the engine; [`Answering::release`] takes it back.
    ///
    /// # Errors
    /// As [`Engine::add`] and [`Engine::lean`].
    pub fn begin(engine: &mut Engine, tokenizer: &'a Tokenizer, request: &Request, how: &How) -> Result<Answering<'a>> {
        let noise = Noise::new(how.seed, GENERATE).child(request.label).child(request.sample);
        // Several tokens may end an answer: they are looked for here.
        let sampling = Sampling { stop: -1, ..how.sampling };
        let seq = engine.add(&request.prompt, sampling, NoiseKey { seed: noise.seed, stream: noise.stream })?;
        if let Err(e) = engine.lean(seq, &how.lean) {
            engine.release(seq);
            return Err(e);
        }
        Ok(Answering { seq, stream: Stream::new(tokenizer, &how.stops), seen: 0 })
    }

    /// Its turn in the engine so far.
    pub fn turn<'e>(&self, engine: &'e Engine) -> Turn<'e> {
        engine.turn(self.seq)
    }

    /// Has the tokens of its prompt told: see [`Engine::tell_prompt`].
    pub fn tell_prompt(&self, engine: &mut Engine, likeliest: usize) {
        engine.tell_prompt(self.seq, likeliest);
    }

    /// Binds its next tokens: see [`Engine::allow`].
    ///
    /// # Errors
    /// As [`Engine::allow`].
    pub fn allow(&self, engine: &mut Engine, allowed: &[i32]) -> Result<()> {
        engine.allow(self.seq, Some(allowed))
    }

    /// What a step brought, where it brought anything: a long prompt takes several, and a turn without pages waits.
    ///
    /// # Errors
    /// [`Error::Data`] when a logprob is not finite.
    pub fn hear(&mut self, engine: &Engine, how: &How) -> Result<Option<Step>> {
        let (turn, all) = (self.turn(engine), engine.ids(self.seq).len());
        let last = turn.ids.last().zip(turn.logprobs.last()).filter(|_| turn.ids.len() > self.seen);
        let Some((&id, &logprob)) = last else { return Ok(None) };
        self.seen += 1;
        if !logprob.is_finite() {
            return Err(Error::data("model", "computes logprobs that are not finite: its weights are too large"));
        }
        let ended = how.ends.contains(&id);
        let mut text = if ended { String::new() } else { self.stream.push(id) };
        let finish = match () {
            () if ended || self.stream.stopped() => Some(Finish::Stop),
            () if turn.ids.len() >= how.sampling.max_new_tokens => Some(Finish::Length),
            () if all >= engine.context() => Some(Finish::Context),
            () => None,
        };
        if finish.is_some() {
            text += &self.stream.end();
        }
        Ok(Some(Step { text, finish }))
    }

    /// Gives its seat and its pages back, whether its turn is over or not.
    pub fn release(self, engine: &mut Engine) {
        engine.release(self.seq);
    }
}

/// A request of a list.
struct Live<'a> {
    request: usize,
    answering: Answering<'a>,
    text: String,
}

/// Answers all requests, and tells `heard` of each by its index.
///
/// # Errors
/// As [`Engine::add`] and [`Engine::step`]; [`Error::Data`] when a logprob is not finite; what `heard` says.
pub fn run(
    engine: &mut Engine,
    weights: &Weights,
    tokenizer: &Tokenizer,
    requests: &[Request],
    how: &How,
    heard: &mut dyn FnMut(usize, Heard) -> Result<()>,
) -> Result<()> {
    let (seats, mut next, mut live) = (engine.seats(), 0, Vec::<Live>::new());
    while next < requests.len() || !live.is_empty() {
        while next < requests.len() && live.len() < seats {
            let answering = Answering::begin(engine, tokenizer, &requests[next], how)?;
            live.push(Live { request: next, answering, text: String::new() });
            next += 1;
        }
        engine.step(weights)?;
        let mut going = Vec::with_capacity(seats);
        for mut one in live {
            match hear(engine, &mut one, how, heard)? {
                Some(answer) => {
                    one.answering.release(engine);
                    heard(one.request, Heard::Answer(answer))?;
                }
                None => going.push(one),
            }
        }
        live = going;
    }
    Ok(())
}

/// Takes what a step brought a request: its text, and the answer where that ends it.
fn hear(
    engine: &Engine,
    one: &mut Live,
    how: &How,
    heard: &mut dyn FnMut(usize, Heard) -> Result<()>,
) -> Result<Option<Answer>> {
    let Some(Step { text, finish }) = one.answering.hear(engine, how)? else { return Ok(None) };
    if !text.is_empty() {
        one.text.push_str(&text);
        heard(one.request, Heard::Text(&text))?;
    }
    let turn = one.answering.turn(engine);
    let answer = |finish| Answer {
        text: std::mem::take(&mut one.text),
        ids: turn.ids.to_vec(),
        logprobs: turn.logprobs.to_vec(),
        finish,
    };
    Ok(finish.map(answer))
}
