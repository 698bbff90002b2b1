//! Answers as JSON: whole, or as chunks of a stream.
//!
//! The one idea: tokens are gathered until they bring text that is sure; then text, ids and logprobs are told together, so that
//! a chunk never holds part of a stop string or half of a character, and the chunks of an answer, joined, are the whole of it.
//! Tokens that were handed out together are one chunk of text, and a chunk each where more than text is told of them.

use super::Model;
use super::refusal::Refusal;
use super::sure::Piece;
use super::tools::{self, Listener};
use super::worker::Token;
use crate::generate::{Finish, Stream};
use crate::infer::Told as Scored;
use crate::text::Tokenizer;
use serde::Serialize;
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
#[derive(Debug, Clone)]
pub struct Told {
    /// Its form.
    pub form: Form,
    /// Logprobs, with the alternatives that tokens carry.
    pub logprobs: bool,
    /// Ids.
    pub token_ids: bool,
    /// A stream ends with what was used.
    pub include_usage: bool,
    /// A text begins with its prompt.
    pub echo: bool,
    /// Alternatives to each token of the prompt, where those are told.
    pub prompt: Option<usize>,
    /// Reads calls of tools out of an answer.
    pub tools: Option<Listener>,
}

impl Told {
    /// Whether each token has a chunk of its own.
    fn each_token(&self) -> bool {
        self.logprobs || self.token_ids || self.tools.is_some()
    }
}

/// An answer as it grows.
#[derive(Debug, Default)]
struct Choice {
    begun: bool,
    /// Tokens that are not told yet.
    tokens: Vec<Token>,
    /// Of those, tokens of the prompt, at the begin.
    echoed: usize,
    /// What is told of the prompt.
    prompt: Vec<Scored>,
    /// Reads calls.
    tools: Option<Listener>,
    /// Calls that were told.
    n_calls: usize,
    /// Bytes of text that were told.
    offset: usize,
    n_tokens: usize,
    reused: usize,
    finish: Option<Finish>,
}

/// What is told of an answer at a time, in the order of its fields: a chunk's part of it, or the whole.
#[derive(Serialize)]
struct Part {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<i32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
}

/// A message, or more of it.
#[derive(Serialize)]
struct Said {
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
}

/// Where a message stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Delta,
    Message,
}

/// The answers to a request.
pub struct Scribe {
    model: Arc<Model>,
    told: Told,
    id: String,
    created: u64,
    /// What all chunks begin with, as text.
    begins: String,
    /// One each.
    prompts: Vec<Vec<i32>>,
    choices: Vec<Choice>,
}

impl Scribe {
    /// Before the first token: `n` answers to each prompt.
    pub fn new(model: Arc<Model>, told: Told, id: String, prompts: Vec<Vec<i32>>, n: usize) -> Scribe {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let choices =
            (0..prompts.len() * n).map(|_| Choice { tools: told.tools.clone(), ..Choice::default() }).collect();
        let mut scribe = Scribe { model, told, id, created, begins: String::new(), prompts, choices };
        let head = Value::Object(scribe.head(true)).to_string();
        scribe.begins = format!("data: {},\"choices\":[", head.trim_end_matches('}'));
        scribe
    }

    /// Takes tokens; their events, as the text of a stream.
    pub fn chunk(&mut self, news: Result<Vec<Token>, Refusal>) -> String {
        let mut events = String::new();
        match news {
            Ok(tokens) => {
                let (n, each) = (tokens.len(), self.told.each_token());
                for (i, token) in tokens.into_iter().enumerate() {
                    let at = token.choice;
                    self.take(token);
                    if each || i + 1 == n {
                        self.events(at, &mut events);
                    }
                }
            }
            Err(refusal) => events += &event(&refusal.body()),
        }
        events
    }

    /// Adds the events of what was gathered of an answer.
    fn events(&mut self, at: usize, events: &mut String) {
        let gathered = &self.choices[at].tokens;
        let sure = gathered.iter().any(|token| !token.text.is_empty() || token.finish.is_some());
        if !std::mem::replace(&mut self.choices[at].begun, true) && self.told.form == Form::Chat {
            let begin = json!({"index": at, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
            self.event(&begin, at == 0, events);
        }
        if sure || self.choices[at].echoed > 0 {
            let first = at == 0 && self.told.form == Form::Text && self.choices[at].offset == 0;
            let part = self.told_of(at, Place::Delta);
            self.event(&part, first, events);
        }
        if self.is_done() {
            if self.told.include_usage {
                let mut last = self.head(true);
                last.insert("choices".into(), json!([]));
                last.insert("usage".into(), self.usage());
                *events += &event(&Value::Object(last));
            }
            *events += "data: [DONE]\n\n";
        }
    }

    /// Takes a token of an answer that is told as a whole.
    pub fn take(&mut self, mut token: Token) {
        let prompt = &self.prompts[token.choice / self.each()];
        let choice = &mut self.choices[token.choice];
        if choice.n_tokens == 0 {
            choice.reused = token.reused;
            choice.prompt = std::mem::take(&mut token.prompt);
            if self.told.echo {
                choice.tokens = echoed(prompt, choice, token.choice, &self.model.prompts.tokenizer);
                choice.echoed = choice.tokens.len();
            }
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
        let choices: Vec<Part> = (0..self.choices.len()).map(|at| self.told_of(at, Place::Message)).collect();
        let mut body = self.head(false);
        body.insert("choices".into(), json!(choices));
        body.insert("usage".into(), self.usage());
        self.tell_prompts(&mut body);
        if let Some(n) = self.told.prompt.filter(|_| self.told.form == Form::Chat) {
            body.insert("prompt_logprobs".into(), self.prompt_logprobs(0, n));
        }
        Value::Object(body)
    }

    /// Answers to a prompt.
    fn each(&self) -> usize {
        (self.choices.len() / self.prompts.len().max(1)).max(1)
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

    /// Adds the event of a part; `first`: with what is told of prompts.
    fn event(&self, part: &impl Serialize, first: bool, events: &mut String) {
        events.push_str(&self.begins);
        // Numbers, strings and lists of them: each can be told.
        events.push_str(&serde_json::to_string(part).unwrap_or_default());
        events.push(']');
        if self.told.include_usage {
            events.push_str(",\"usage\":null");
        }
        if first {
            let mut more = Map::new();
            self.tell_prompts(&mut more);
            more.iter().for_each(|(name, value)| *events += &format!(",\"{name}\":{value}"));
        }
        events.push_str("}\n\n");
    }

    fn tell_prompts(&self, body: &mut Map<String, Value>) {
        if self.told.token_ids {
            let ids = if self.prompts.len() == 1 { json!(self.prompts[0]) } else { json!(self.prompts) };
            body.insert("prompt_token_ids".into(), ids);
        }
    }

    /// What was gathered of an answer, in the form that is asked for.
    fn told_of(&mut self, at: usize, place: Place) -> Part {
        let tokens = std::mem::take(&mut self.choices[at].tokens);
        let echoed = std::mem::take(&mut self.choices[at].echoed);
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        let offset = self.choices[at].offset;
        self.choices[at].offset += text.len();
        let tokenizer = &self.model.prompts.tokenizer;
        let logprobs = self.told.logprobs.then(|| match self.told.form {
            Form::Chat => {
                json!({"content": tokens.iter().map(|token| chat_logprob(token, tokenizer)).collect::<Vec<_>>()})
            }
            Form::Text => text_logprobs(&tokens, tokenizer, offset),
        });
        let (text, said) = match self.told.form {
            Form::Chat => (None, Some(self.said(at, text, place))),
            Form::Text => (Some(text), None),
        };
        let (delta, message) = if place == Place::Delta { (said, None) } else { (None, said) };
        let ids = || tokens[echoed..].iter().map(|token| token.id).collect();
        let prompt = self.told.prompt.filter(|_| self.told.form == Form::Text);
        Part {
            index: at,
            delta,
            message,
            text,
            logprobs,
            finish_reason: self.choices[at].finish.map(|why| self.choices[at].reason(why)),
            token_ids: self.told.token_ids.then(ids),
            prompt_logprobs: prompt.map(|n| self.prompt_logprobs(at, n)),
        }
    }

    /// More of a message: its words, and calls of tools where those are read.
    fn said(&mut self, at: usize, text: String, place: Place) -> Said {
        let role = (place == Place::Message).then_some("assistant");
        let (choice, id) = (&mut self.choices[at], &self.id);
        let Some(tools) = &mut choice.tools else { return Said { content: Some(text), tool_calls: vec![], role } };
        let mut parts = tools.take(&text);
        if choice.finish.is_some() {
            parts.extend(tools.end());
        }
        let (mut words, mut calls) = (String::new(), vec![]);
        for part in parts {
            match part {
                tools::Part::Text(more) => words += &more,
                tools::Part::Call(call) => calls.push(choice.call(id, at, &call.name, &call.arguments)),
                tools::Part::Piece(Piece::Name(name)) => calls.push(choice.call(id, at, &name, "")),
                tools::Part::Piece(Piece::Arguments(more)) => choice.more(&mut calls, &more),
            }
        }
        let content = (!words.is_empty() || calls.is_empty()).then_some(words);
        Said { content, tool_calls: calls, role }
    }

    /// Of each token of a prompt: itself and the `n` likeliest, by id; nothing is told of the first.
    fn prompt_logprobs(&self, at: usize, n: usize) -> Value {
        let tokenizer = &self.model.prompts.tokenizer;
        let one = |id: i32, logprob: f32, rank: usize| {
            let told = json!({"logprob": short(logprob), "rank": rank, "decoded_token": spelled(id, tokenizer).0});
            (id.to_string(), told)
        };
        let prompt = &self.prompts[at / self.each()];
        let each = |(id, told): (&i32, &Scored)| {
            let mut all = Map::from_iter([one(*id, told.logprob, told.rank)]);
            for (rank, (other, logprob)) in
                told.likeliest.iter().take(n).enumerate().filter(|(_, (other, _))| other != id)
            {
                all.extend([one(*other, *logprob, rank + 1)]);
            }
            Value::Object(all)
        };
        let told = prompt.iter().skip(1).zip(&self.choices[at].prompt).map(each);
        std::iter::once(Value::Null).chain(told).collect()
    }

    fn usage(&self) -> Value {
        let asked: usize = self.prompts.iter().map(Vec::len).sum();
        let each = self.each();
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

impl Choice {
    /// Another call, as it is told first.
    fn call(&mut self, id: &str, at: usize, name: &str, arguments: &str) -> Value {
        let n = self.n_calls;
        self.n_calls += 1;
        let id = format!("call-{}-{at}-{n}", id.rsplit('-').next().unwrap_or(id));
        json!({"index": n, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    /// More arguments of the call that was begun last: where that is told here, as a part of it.
    fn more(&self, calls: &mut Vec<Value>, more: &str) {
        match calls.last_mut().and_then(|call| call["function"].get_mut("arguments")) {
            Some(Value::String(arguments)) => *arguments += more,
            _ => calls.push(json!({"index": self.n_calls.saturating_sub(1), "function": {"arguments": more}})),
        }
    }

    /// OpenAI's words; a context that is full is a length.
    fn reason(&self, finish: Finish) -> &'static str {
        match finish {
            Finish::Stop if self.n_calls > 0 => "tool_calls",
            Finish::Stop => "stop",
            Finish::Length | Finish::Context => "length",
        }
    }
}

/// A prompt as tokens of the answer that begins with it. Of the first nothing is told: its logprob is no number.
fn echoed(prompt: &[i32], choice: &Choice, at: usize, tokenizer: &Tokenizer) -> Vec<Token> {
    let mut stream = Stream::new(tokenizer, &[]);
    let unknown = Scored { logprob: f32::NAN, rank: 0, likeliest: vec![] };
    let told = std::iter::once(&unknown).chain(&choice.prompt).chain(std::iter::repeat(&unknown));
    let one = |(id, told): (&i32, &Scored)| Token {
        choice: at,
        id: *id,
        logprob: told.logprob,
        likeliest: told.likeliest.clone(),
        text: stream.push(*id),
        prompt: vec![],
        finish: None,
        reused: 0,
    };
    let mut tokens: Vec<Token> = prompt.iter().zip(told).map(one).collect();
    if let Some(last) = tokens.last_mut() {
        last.text += &stream.end();
    }
    tokens
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
        if token.logprob.is_nan() {
            return Value::Null;
        }
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
