//! What is shown of answers: text as it comes, a line a token, or a JSON line an answer, in the order of the questions.

use crate::cli::out;
use crate::generate::{Answer, Finish, Heard, Request};
use crate::text::Tokenizer;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Instant;

/// What stands on the screen.
pub struct Screen<'a> {
    form: Form<'a>,
    /// Answers wait for those before them.
    waiting: BTreeMap<usize, Answer>,
    next: usize,
    tokens: usize,
    began: Instant,
}

enum Form<'a> {
    Stream { n: u64 },
    Tokens { n: u64, tokenizer: &'a Tokenizer },
    Lines { requests: &'a [Request], bar: ProgressBar },
}

/// An output line. Numbers are the shortest decimals that read back as the same f32.
#[derive(Serialize)]
struct Line<'a> {
    line: u64,
    sample: u64,
    text: &'a str,
    ids: &'a [i32],
    logprobs: &'a [f32],
    finish_reason: &'static str,
}

impl<'a> Screen<'a> {
    /// Text as it comes; of several answers one after another.
    pub fn stream(n: u64) -> Screen<'a> {
        Screen::new(Form::Stream { n })
    }

    /// A line a token.
    pub fn tokens(tokenizer: &'a Tokenizer, n: u64) -> Screen<'a> {
        Screen::new(Form::Tokens { n, tokenizer })
    }

    /// A JSON line an answer, and on stderr how far it is.
    pub fn lines(requests: &'a [Request]) -> Screen<'a> {
        let bar = ProgressBar::new(requests.len() as u64);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} answers  {msg}  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Screen::new(Form::Lines { requests, bar })
    }

    fn new(form: Form<'a>) -> Screen<'a> {
        Screen { form, waiting: BTreeMap::new(), next: 0, tokens: 0, began: Instant::now() }
    }

    /// Shows what was heard of request `i`, as soon as all before it are shown.
    pub fn hear(&mut self, i: usize, heard: Heard) {
        match (heard, &self.form) {
            (Heard::Text(text), Form::Stream { n: 1 }) => out::print(&shown(text)),
            (Heard::Text(_), _) => {}
            (Heard::Answer(answer), _) => {
                self.tokens += answer.ids.len();
                self.waiting.insert(i, answer);
            }
        }
        while let Some(answer) = self.waiting.remove(&self.next) {
            self.show(&answer);
            self.next += 1;
        }
    }

    fn show(&self, answer: &Answer) {
        match &self.form {
            Form::Stream { n: 1 } => out::print("\n"),
            Form::Stream { n } => out::line(&format!("[{} of {n}]\n{}\n", self.next + 1, shown(&answer.text))),
            Form::Tokens { n, tokenizer } => self.show_tokens(answer, *n, tokenizer),
            Form::Lines { requests, bar } => {
                let Answer { text, ids, logprobs, finish } = answer;
                let Request { label, sample, .. } = requests[self.next];
                let line = Line { line: label, sample, text, ids, logprobs, finish_reason: finish.name() };
                let json = serde_json::to_string(&line).unwrap_or_default();
                bar.suspend(|| out::line(&json));
                bar.set_message(format!("{:.0} tokens/s", self.tokens as f64 / self.began.elapsed().as_secs_f64()));
                bar.inc(1);
            }
        }
        match (&self.form, answer.finish) {
            (Form::Lines { .. }, _) | (_, Finish::Stop) => {}
            (_, Finish::Length) => out::note("haggle: cut at --max-new-tokens"),
            (_, Finish::Context) => out::note("haggle: cut: the model's context is full"),
        }
    }

    fn show_tokens(&self, answer: &Answer, n: u64, tokenizer: &Tokenizer) {
        if n > 1 {
            out::line(&format!("[{} of {n}]", self.next + 1));
        }
        for (id, logprob) in answer.ids.iter().zip(&answer.logprobs) {
            // A token may hold part of a character alone.
            let text = String::from_utf8_lossy(&tokenizer.bytes(*id)).into_owned();
            out::line(&format!("{logprob:>9.4}  {id:>7}  {text:?}"));
        }
    }

    /// Takes the bar away and says what was done.
    pub fn end(&self) {
        if let Form::Lines { bar, .. } = &self.form {
            bar.finish_and_clear();
            let seconds = self.began.elapsed().as_secs_f64();
            let rate = self.tokens as f64 / seconds;
            out::note(&format!("haggle: {} answers, {} tokens, {rate:.0} tokens/s", self.next, self.tokens));
        }
    }
}

/// As a terminal may show it; as it is for anything else.
fn shown(text: &str) -> String {
    match std::io::stdout().is_terminal() {
        true => text.split('\t').map(out::plain).collect::<Vec<_>>().join("\t"),
        false => text.into(),
    }
}
