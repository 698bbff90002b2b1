//! `haggle show`: an episode of a run as it was learned from, token by token.

use super::{Exit, Globals, out};
use crate::config::paths::spelled;
use crate::error::{Error, Result};
use crate::report::lesson::{self, Lesson, Loss, Passage, UNLIKELY, Which};
use crate::run::logs::EPISODES;
use crate::setup::base;
use crate::text::Prompts;
use clap::Args;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Options of `haggle show`.
#[derive(Args)]
#[command(after_help = "\
What the learner heard is dim and carries no loss. What it sampled carries loss, the token that ends its turn included: a \
line a token with its logprob, its advantage (green above 0, red below), its id and its text. There is no colour where the \
output is no terminal or NO_COLOR is set.

Examples:
  haggle show runs/001                              the first episode of the last step
  haggle show runs/001 --step 12 --episode 3
  haggle show runs/001/episodes.jsonl:40            by line
  haggle show runs/001 --step 12 --html lesson.html
  haggle show runs/001 --json                       for other programs: every token an object")]
pub struct ShowArgs {
    /// A run directory, a file of episodes, or FILE:LINE
    #[arg(value_name = "EPISODE", value_parser = super::path())]
    episode: PathBuf,
    /// The training step (default: the last)
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Which episode of the step, from 1
    #[arg(long = "episode", value_name = "N", default_value_t = 1)]
    number: usize,
    /// Model whose tokenizer reads the ids (default: the run's)
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    model: Option<PathBuf>,
    /// Write a page instead
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    html: Option<PathBuf>,
}

/// Shows the episode.
///
/// # Errors
/// A file, a line, a step or a tokenizer that is not there, by name.
pub fn run(args: &ShowArgs, globals: &Globals) -> Result<Exit> {
    let (file, line) = place(&args.episode);
    let which = line.map_or(Which::Episode(args.step, args.number), Which::Line);
    if !file.is_file() {
        let what = "no such file of episodes; give a run directory, its episodes.jsonl, or episodes.jsonl:LINE";
        return Err(Error::io(file, what));
    }
    let run = file.parent().filter(|run| !run.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let tokenizer = prompts(args, run, globals)?.tokenizer;
    let lesson = lesson::read(&file, which, &tokenizer)?;
    match &args.html {
        Some(path) => {
            crate::report::write_lesson(&lesson, path)?;
            out::line(&spelled(path));
        }
        None if globals.json => out::line(&as_json(&lesson).to_string()),
        None => out::print(&text(&lesson, colours())),
    }
    Ok(Exit::Done)
}

/// The file of episodes, and the line where one is named.
fn place(given: &Path) -> (PathBuf, Option<usize>) {
    if given.is_dir() {
        return (given.join(EPISODES), None);
    }
    let named = given.to_str().and_then(|text| text.rsplit_once(':')).filter(|_| !given.exists());
    match named.and_then(|(file, line)| Some((file, line.parse().ok()?))) {
        Some((file, line)) => (file.into(), Some(line)),
        None => (given.into(), None),
    }
}

/// The tokenizer's folder: the one named, the run's checkpoint, or the base that the run's config names.
fn prompts(args: &ShowArgs, run: &Path, globals: &Globals) -> Result<Prompts> {
    if let Some(model) = &args.model {
        return base::prompts(&spelled(model), &globals.resolve(&[])?);
    }
    if let Ok(prompts) = globals.resolve_for(run, &[]).and_then(|config| base::prompts(&spelled(run), &config)) {
        return Ok(prompts);
    }
    if !run.join("config.toml").is_file() {
        return Err(Error::io(run, "is no run directory; name the model that sampled the episode with --model DIR"));
    }
    let config = globals.resolve_for(run, &[])?;
    base::prompts(&config.model.base, &config)
}

/// Words that set and end colours; empty without them.
struct Colours {
    dim: &'static str,
    good: &'static str,
    bad: &'static str,
    unlikely: &'static str,
    end: &'static str,
}

fn colours() -> Colours {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match wanted && std::io::stdout().is_terminal() {
        true => Colours { dim: "\x1b[2m", good: "\x1b[32m", bad: "\x1b[31m", unlikely: "\x1b[33m", end: "\x1b[0m" },
        false => Colours { dim: "", good: "", bad: "", unlikely: "", end: "" },
    }
}

fn text(lesson: &Lesson, c: Colours) -> String {
    let mut facts = vec![("episode", lesson.place.clone())];
    facts.extend(lesson.facts.iter().cloned());
    let facts: Vec<_> = facts.into_iter().map(|(name, value)| (name, out::plain(&value))).collect();
    let passages: String = lesson.passages.iter().map(|passage| of_passage(passage, &c)).collect();
    format!("{}\n{passages}{}\n", out::pairs(&facts), lesson.ends())
}

fn of_passage(passage: &Passage, c: &Colours) -> String {
    let (n, words) = (passage.tokens.len(), passage.tokens.iter().map(|token| token.text.as_str()).collect::<String>());
    let words: String = out::plain(&words).lines().map(|line| format!("    {}{line}{}\n", c.dim, c.end)).collect();
    if !passage.sampled {
        return format!("heard, {n} tokens, loss 0\n{words}\n");
    }
    let mut text = format!("said, {n} tokens, loss 1\n     logprob  advantage       id  token\n");
    for token in &passage.tokens {
        let Some(Loss { logprob, advantage }) = token.loss else { continue };
        let taught = if advantage > 0.0 {
            c.good
        } else if advantage < 0.0 {
            c.bad
        } else {
            ""
        };
        let rare = if logprob < UNLIKELY { c.unlikely } else { "" };
        let mark = if passage.end().is_some_and(|end| std::ptr::eq(end, token)) { "  ends the turn" } else { "" };
        text += &format!(
            "    {rare}{logprob:>8.4}{}  {taught}{advantage:>+9.4}{}  {:>7}  {taught}{:?}{}{mark}\n",
            c.end, c.end, token.id, token.text, c.end
        );
    }
    text + "\n"
}

fn as_json(lesson: &Lesson) -> Value {
    let tokens = lesson.passages.iter().flat_map(|passage| &passage.tokens).map(|token| {
        let (logprob, advantage) = (token.loss.map(|l| l.logprob), token.loss.map(|l| l.advantage));
        let loss = u8::from(token.loss.is_some());
        json!({ "id": token.id, "text": token.text, "loss": loss, "logprob": logprob, "advantage": advantage })
    });
    let facts = lesson.facts.iter().map(|(name, value)| (name.to_string(), Value::from(value.as_str())));
    json!({ "place": lesson.place, "facts": serde_json::Map::from_iter(facts), "tokens": tokens.collect::<Vec<_>>() })
}
