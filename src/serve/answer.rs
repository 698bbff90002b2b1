//! Answers as JSON: whole, or as chunks of a stream.
//!
//! The one idea: tokens are gathered until they bring text that is sure; then text, ids and logprobs are told together, so that
//! a chunk never holds part of a stop string or half of a character, and the chunks of an answer, joined, are the whole of it.

use super::Model;
use super::refusal::Refusal;
use super::worker::Token;
use crate::generate::Finish;
use crate::text::Tokenizer;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Which of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// What is told beside text.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// Its form.
    pub form: Form,
    /// Logprobs, with the alternatives that tokens carry.
    pub logprobs: bool,
    /// Ids.
    pub token_ids: bool,
    /// A stream ends with what was used.
    pub include_usage: bool,
}

/// An answer as it grows.
#[derive(Debug, Default)]
struct Choice {
    begun: bool,
    /// Tokens that are not told yet.
    tokens: Vec<Token>,
    /// Bytes of text that were told.
    offset: usize,
    n_tokens: usize,
    reused: usize,
    finish: Option<Finish>,
}

/// The answers to a request.
pub struct Scribe {
    model: Arc<Model>,
    told: Told,
    id: String,
    created: u64,
    /// One each.
    prompts: Vec<Vec<i32>>,
    choices: Vec<Choice>,
}

impl Scribe {
    /// Before the first token: `n` answers to each prompt.
    pub fn new(model: Arc<Model>, told: Told, id: String, prompts: Vec<Vec<i32>>, n: usize) -> Scribe {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let choices = (0..prompts.len() * n).map(|_| Choice::default()).collect();
        Scribe { model, told, id, created, prompts, choices }
    }

    /// Takes a token; its events, as the text of a stream.
    pub fn chunk(&mut self, news: Result<Token, Refusal>) -> String {
        let token = match news {
            Ok(token) => token,
            Err(refusal) => return event(&refusal.body()),
        };
        let (at, sure) = (token.choice, !token.text.is_empty() || token.finish.is_some());
        self.take(token);
        let mut events = String::new();
        if !std::mem::replace(&mut self.choices[at].begun, true) && self.told.form == Form::Chat {
            let delta = json!({"index": at, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
            events += &self.event(vec![delta], at == 0);
        }
        if sure {
            let first = at == 0 && self.told.form == Form::Text && self.choices[at].offset == 0;
            let choice = self.told_of(at, "delta");
            events += &self.event(vec![choice], first);
        }
        if self.is_done() {
            if self.told.include_usage {
                let mut last = self.head(true);
                last.insert("choices".into(), json!([]));
                last.insert("usage".into(), self.usage());
                events += &event(&Value::Object(last));
            }
            events += "data: [DONE]\n\n";
        }
        events
    }

    /// Takes a token of an answer that is told as a whole.
    pub fn take(&mut self, token: Token) {
        let choice = &mut self.choices[token.choice];
        if choice.n_tokens == 0 {
            choice.reused = token.reused;
        }
        choice.n_tokens += 1;
        choice.finish = token.finish;
        choice.tokens.push(token);
    }

    /// True once every answer has ended.
    pub fn is_done(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// The whole.
    pub fn whole(mut self) -> Value {
        let choices: Vec<Value> = (0..self.choices.len()).map(|at| self.told_of(at, "message")).collect();
        let mut body = self.head(false);
        body.insert("choices".into(), Value::Array(choices));
        body.insert("usage".into(), self.usage());
        self.tell_prompts(&mut body);
        Value::Object(body)
    }

    fn head(&self, stream: bool) -> Map<String, Value> {
        let object = match (self.told.form, stream) {
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Chat, false) => "chat.completion",
            (Form::Text, _) => "text_completion",
        };
        let mut head = Map::new();
        head.insert("id".into(), json!(self.id));
        head.insert("object".into(), json!(object));
        head.insert("created".into(), json!(self.created));
        head.insert("model".into(), json!(self.model.name));
        head
    }

    fn event(&self, choices: Vec<Value>, first: bool) -> String {
        let mut body = self.head(true);
        body.insert("choices".into(), Value::Array(choices));
        if self.told.include_usage {
            body.insert("usage".into(), Value::Null);
        }
        if first {
            self.tell_prompts(&mut body);
        }
        event(&Value::Object(body))
    }

    fn tell_prompts(&self, body: &mut Map<String, Value>) {
        if self.told.token_ids {
            let ids = if self.prompts.len() == 1 { json!(self.prompts[0]) } else { json!(self.prompts) };
            body.insert("prompt_token_ids".into(), ids);
        }
    }

    /// What was gathered of an answer, in the form that is asked for.
    fn told_of(&mut self, at: usize, place: &str) -> Value {
        let tokens = std::mem::take(&mut self.choices[at].tokens);
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        let offset = self.choices[at].offset;
        self.choices[at].offset += text.len();
        let tokenizer = &self.model.prompts.tokenizer;
        let mut choice = Map::new();
        choice.insert("index".into(), json!(at));
        let logprobs = match self.told.form {
            Form::Chat => {
                let role = if place == "message" {
                    json!({"role": "assistant", "content": text})
                } else {
                    json!({"content": text})
                };
                choice.insert(place.into(), role);
                json!({"content": tokens.iter().map(|token| chat_logprob(token, tokenizer)).collect::<Vec<_>>()})
            }
            Form::Text => {
                choice.insert("text".into(), json!(text));
                text_logprobs(&tokens, tokenizer, offset)
            }
        };
        choice.insert("logprobs".into(), if self.told.logprobs { logprobs } else { Value::Null });
        choice.insert("finish_reason".into(), json!(self.choices[at].finish.map(reason)));
        if self.told.token_ids {
            choice.insert("token_ids".into(), json!(tokens.iter().map(|token| token.id).collect::<Vec<_>>()));
        }
        Value::Object(choice)
    }

    fn usage(&self) -> Value {
        let asked: usize = self.prompts.iter().map(Vec::len).sum();
        let each = (self.choices.len() / self.prompts.len().max(1)).max(1);
        // A prompt counts once, whatever its answers are.
        let reused: usize = self.choices.iter().step_by(each).map(|choice| choice.reused).sum();
        let told: usize = self.choices.iter().map(|choice| choice.n_tokens).sum();
        json!({
            "prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told,
            "prompt_tokens_details": {"cached_tokens": reused},
        })
    }
}

fn event(body: &Value) -> String {
    format!("data: {body}\n\n")
}

/// OpenAI's two words; a context that is full is a length.
fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length | Finish::Context => "length",
    }
}

fn spelled(id: i32, tokenizer: &Tokenizer) -> (String, Vec<u8>) {
    let bytes = tokenizer.bytes(id);
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

/// A float of 32 bits in the fewest digits that are it, as `haggle generate` writes it.
fn short(x: f32) -> Value {
    json!(x.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(x)))
}

/// A token with its alternatives, as chats have it.
fn chat_logprob(token: &Token, tokenizer: &Tokenizer) -> Value {
    let one = |id: i32, logprob: f32| {
        let (text, bytes) = spelled(id, tokenizer);
        json!({"token": text, "logprob": short(logprob), "bytes": bytes})
    };
    let mut told = one(token.id, token.logprob);
    let finite = token.likeliest.iter().filter(|(_, logprob)| logprob.is_finite());
    told["top_logprobs"] = finite.map(|(id, logprob)| one(*id, *logprob)).collect();
    told
}

/// Tokens with their alternatives, as texts have it.
fn text_logprobs(tokens: &[Token], tokenizer: &Tokenizer, mut offset: usize) -> Value {
    let mut offsets = vec![];
    for token in tokens {
        offsets.push(offset);
        offset += token.text.len();
    }
    let top = |token: &Token| -> Value {
        let each = token.likeliest.iter().filter(|(_, logprob)| logprob.is_finite());
        each.map(|(id, logprob)| (spelled(*id, tokenizer).0, short(*logprob))).collect::<Map<_, _>>().into()
    };
    let asked = tokens.iter().any(|token| !token.likeliest.is_empty());
    json!({
        "tokens": tokens.iter().map(|token| spelled(token.id, tokenizer).0).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| short(token.logprob)).collect::<Vec<_>>(),
        "top_logprobs": asked.then(|| tokens.iter().map(top).collect::<Vec<_>>()),
        "text_offset": offsets,
    })
}
