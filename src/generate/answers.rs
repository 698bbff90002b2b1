//! Requests through the engine, as many at a time as it has seats for.

use super::stream::Stream;
use crate::error::{Error, Result};
use crate::infer::{Engine, NoiseKey, Sampling, SeqId};
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

/// A request in the engine.
struct Live<'a> {
    request: usize,
    seq: SeqId,
    stream: Stream<'a>,
    /// Ids that were taken.
    seen: usize,
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
            let seq = begin(engine, &requests[next], how)?;
            let stream = Stream::new(tokenizer, &how.stops);
            live.push(Live { request: next, seq, stream, seen: 0, text: String::new() });
            next += 1;
        }
        engine.step(weights)?;
        let mut going = Vec::with_capacity(seats);
        for mut one in live {
            match hear(engine, &mut one, how, heard)? {
                Some(answer) => {
                    engine.release(one.seq);
                    heard(one.request, Heard::Answer(answer))?;
                }
                None => going.push(one),
            }
        }
        live = going;
    }
    Ok(())
}

fn begin(engine: &mut Engine, request: &Request, how: &How) -> Result<SeqId> {
    let noise = Noise::new(how.seed, GENERATE).child(request.label).child(request.sample);
    // Several tokens may end an answer: they are looked for here.
    let sampling = Sampling { stop: -1, ..how.sampling };
    engine.add(&request.prompt, sampling, NoiseKey { seed: noise.seed, stream: noise.stream })
}

/// Takes what a step brought a request: its text, and the answer where that ends it.
fn hear(
    engine: &Engine,
    one: &mut Live,
    how: &How,
    heard: &mut dyn FnMut(usize, Heard) -> Result<()>,
) -> Result<Option<Answer>> {
    let (turn, all) = (engine.turn(one.seq), engine.ids(one.seq).len());
    // A long prompt takes several steps, and a turn without pages waits.
    let Some((&id, &logprob)) = turn.ids.last().zip(turn.logprobs.last()).filter(|_| turn.ids.len() > one.seen) else {
        return Ok(None);
    };
    one.seen += 1;
    if !logprob.is_finite() {
        return Err(Error::data("model", "computes logprobs that are not finite: its weights are too large"));
    }
    let ended = how.ends.contains(&id);
    let mut new = if ended { String::new() } else { one.stream.push(id) };
    let finish = match () {
        () if ended || one.stream.stopped() => Some(Finish::Stop),
        () if turn.ids.len() >= how.sampling.max_new_tokens => Some(Finish::Length),
        () if all >= engine.context() => Some(Finish::Context),
        () => None,
    };
    if finish.is_some() {
        new += &one.stream.end();
    }
    if !new.is_empty() {
        one.text.push_str(&new);
        heard(one.request, Heard::Text(&new))?;
    }
    let answer = |finish| Answer {
        text: std::mem::take(&mut one.text),
        ids: turn.ids.to_vec(),
        logprobs: turn.logprobs.to_vec(),
        finish,
    };
    Ok(finish.map(answer))
}
