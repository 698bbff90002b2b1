//! `haggle generate`: text from any model, in the terminal or a file of prompts at a time.
//!
//! The one idea: everything is read and checked before the weights are, and what was taken from the model's own
//! `generation_config.json` is said. Answers do not depend on what else is asked: see [`crate::generate`].

mod input;
mod screen;

use super::{Exit, Globals, dry_run, out};
use crate::config::Config;
use crate::config::paths::{place, spelled};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::generate::defaults::Own;
use crate::generate::{self, Defaults, How, Request};
use crate::infer::{Engine, EngineConfig};
use crate::model::{ModelConfig, Plan};
use crate::setup::{base, memory};
use crate::text::Prompts;
use clap::Args;
use screen::Screen;
use std::path::PathBuf;

/// Answers computed at a time, where they fit.
const SEATS: usize = 64;

/// Options of `haggle generate`.
#[derive(Args)]
#[command(after_help = "\
A prompt is a text that the model goes on with, a chat one that it replies to, through the folder's chat template. \
Without --prompt, --chat or --input the prompt is read from standard input.

Each line of --input is one of
  {\"prompt\": \"Once upon\"}
  {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}
  {\"ids\": [12, 7, 345]}
messages with \"tools\" and \"chat_template_kwargs\" beside them where the template takes them. Each output line, in \
the same order, is
  {\"line\": 1, \"sample\": 0, \"text\": \"..\", \"ids\": [..], \"logprobs\": [..], \"finish_reason\": \"stop\"}
or \"length\", or \"context\" where the model's context is full. ids are all that was sampled, what ended the text \
included; text has neither the token nor the string that ended it. logprobs are natural logarithms under the whole \
softmax at the sampling temperature (at 1 where it is 0), whatever --top-k, --top-p and --min-p leave of it.

Sampling that is not given is taken from the model's generation_config.json, and said; what that file asks for and \
haggle does not compute is refused by name, unless --no-defaults passes over it. Where neither says: temperature 1, no \
filter, 512 tokens. Answer i to line l is drawn from the noise of (--seed, l, i): it is the same in any batch.

Examples:
  haggle generate --model Qwen3-0.6B --chat 'Offer me a price for a used bicycle.'
  haggle generate --model runs/001 --prompt 'Thought:' --temperature 0
  haggle generate --model Qwen3-0.6B --prompt 'Dear' --n 3 --seed 7 --stop '\\n\\n'
  echo 'Once upon a time' | haggle generate --model SmolLM2 --logprobs
  haggle generate --model Qwen3-0.6B --input prompts.jsonl --temperature 0 --max-new-tokens 64 > answers.jsonl")]
pub struct GenerateArgs {
    /// Hugging Face folder, a run directory (its latest checkpoint), or `embedded`
    #[arg(long, value_name = "DIR", default_value = "embedded", value_parser = super::path())]
    model: PathBuf,
    /// A text to go on with
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["chat", "input"])]
    prompt: Option<String>,
    /// A message to reply to
    #[arg(long, value_name = "TEXT", conflicts_with = "input")]
    chat: Option<String>,
    /// File of prompts, one JSON object a line; `-` reads standard input
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    input: Option<PathBuf>,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "X")]
    temperature: Option<f32>,
    /// Sample from the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the likeliest tokens that hold this probability
    #[arg(long, value_name = "X")]
    top_p: Option<f32>,
    /// Leave out tokens below this times the likeliest
    #[arg(long, value_name = "X")]
    min_p: Option<f32>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Answers to each prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    n: u64,
    /// End before this string; \n, \t and \\ are read; repeatable
    #[arg(long, value_name = "STR")]
    stop: Vec<String>,
    /// Print a line for each token: logprob, id, text
    #[arg(long, conflicts_with = "input")]
    logprobs: bool,
    /// Take nothing from generation_config.json but the tokens that end a text
    #[arg(long)]
    no_defaults: bool,
    /// Print what it would hold in memory and exit
    #[arg(long)]
    dry_run: bool,
}

/// Prints the answers.
///
/// # Errors
/// Everything wrong with model, options or input, before anything is computed.
pub fn run(args: &GenerateArgs, globals: &Globals) -> Result<Exit> {
    let mut config = globals.resolve_for(&args.model, &[])?;
    let name = spelled(&args.model);
    (config.model.base, config.model.seller) = (name.clone(), "base".into());
    let dev = config.open_device()?;
    let (shape, prompts) = (base::shape(&name, &config)?, base::prompts(&name)?);
    let how = how(args, &config, &shape, &prompts)?;
    let requests = requests(args, &prompts, &shape)?;
    let (sizes, plan) = sizes(&dev, &config, &shape, &requests, how.sampling.max_new_tokens)?;
    if args.dry_run {
        return Ok(dry_run::print_plan(&plan, globals.json));
    }
    let weights = base::weights(&dev, &name, &config)?;
    let mut engine = Engine::new(&dev, &weights.config, sizes)?;
    let mut screen = match &args.input {
        Some(_) => Screen::lines(&requests),
        None if globals.json => Screen::lines(&requests),
        None if args.logprobs => Screen::tokens(&prompts.tokenizer, args.n),
        None => Screen::stream(args.n),
    };
    generate::run(&mut engine, &weights, &prompts.tokenizer, &requests, &how, &mut |i, heard| {
        screen.hear(i, heard);
        Ok(())
    })?;
    screen.end();
    Ok(Exit::Done)
}

/// How answers are drawn and what ends them: the user's word, then the folder's.
fn how(args: &GenerateArgs, config: &Config, shape: &ModelConfig, prompts: &Prompts) -> Result<How> {
    if !prompts.tokenizer.is_byte_level() {
        let what = "its decoder is not ByteLevel alone; haggle writes the text of byte-level tokenizers only";
        return Err(Error::data(place(&config.model.base).join("tokenizer.json"), what));
    }
    let defaults = defaults(args, &config.model.base)?;
    let GenerateArgs { temperature, top_k, top_p, min_p, max_new_tokens, .. } = *args;
    let (sampling, used) = defaults.under(&Own { temperature, top_k, top_p, min_p, max_new_tokens });
    sampling.check()?;
    if !used.is_empty() {
        out::note(&format!("haggle: {FILE}: {}", used.join(", ")));
    }
    let mut ends = defaults.ends.unwrap_or_else(|| shape.eos_token_ids.iter().map(|id| *id as i32).collect());
    ends.extend(prompts.eos);
    let stops: Vec<String> = args.stop.iter().map(|stop| unescaped(stop)).chain(defaults.stops).collect();
    if stops.iter().any(String::is_empty) {
        return Err(Error::Config { problems: vec!["--stop: an empty string ends every text; leave it out".into()] });
    }
    if ends.is_empty() && stops.is_empty() {
        let what = "no token ends a text: name one as eos_token_id in config.json or generation_config.json, as eos_token \
                    in tokenizer_config.json, or end texts with --stop";
        return Err(Error::data(place(&config.model.base), what));
    }
    Ok(How { sampling, ends, stops, seed: config.seed })
}

const FILE: &str = "generation_config.json";

fn defaults(args: &GenerateArgs, model: &str) -> Result<Defaults> {
    let Some((path, text)) = base::generation(model)? else { return Ok(Defaults::default()) };
    let defaults = Defaults::read(&text).map_err(|what| Error::data(&path, what))?;
    if args.no_defaults {
        return Ok(defaults.ends_alone());
    }
    if !defaults.refused.is_empty() {
        let all = defaults.refused.join(", ");
        let what =
            format!("asks for {all}, which haggle does not compute; --no-defaults samples without what it asks for");
        return Err(Error::data(path, what));
    }
    Ok(defaults)
}

/// `\n`, `\t` and `\\` of a shell's word.
fn unescaped(word: &str) -> String {
    let (mut text, mut rest) = (String::new(), word.chars());
    while let Some(c) = rest.next() {
        let next = (c == '\\').then(|| rest.clone().next()).flatten();
        let meant =
            next.and_then(|next| [('n', '\n'), ('t', '\t'), ('\\', '\\')].into_iter().find(|(n, _)| *n == next));
        if meant.is_some() {
            rest.next();
        }
        text.push(meant.map_or(c, |(_, c)| c));
    }
    text
}

/// Every answer that is asked for.
fn requests(args: &GenerateArgs, prompts: &Prompts, shape: &ModelConfig) -> Result<Vec<Request>> {
    let all = match &args.input {
        Some(path) => input::lines(path, prompts, shape)?,
        None => vec![(1, input::typed(args.prompt.as_deref(), args.chat.as_deref(), prompts, shape)?)],
    };
    let each = |(label, prompt): (u64, Vec<i32>)| {
        (0..args.n).map(move |sample| Request { label, sample, prompt: prompt.clone() })
    };
    Ok(all.into_iter().flat_map(each).collect())
}

/// An engine for as many requests at a time as fit, which moves no result; and what all of it takes.
fn sizes(
    dev: &Device,
    config: &Config,
    shape: &ModelConfig,
    requests: &[Request],
    max_new_tokens: usize,
) -> Result<(EngineConfig, Plan)> {
    let longest = requests.iter().map(|r| r.prompt.len()).max().unwrap_or(1).saturating_add(max_new_tokens);
    let longest = longest.min(shape.max_position_embeddings);
    let mut seats = requests.len().clamp(1, SEATS);
    loop {
        let sized = |config: &Config| {
            let sized = EngineConfig::sized_for(seats, longest);
            let (max_rows, graphs) = (config.engine.max_rows, config.engine.graphs);
            let max_pages = if config.engine.pages > 0 { config.engine.pages } else { sized.max_pages };
            EngineConfig { max_pages, max_rows, graphs, ..sized }
        };
        let planner = |config: &Config, plan: &mut Plan| memory::of_generation(shape, sized(config), plan);
        match memory::fit(dev, config, &planner) {
            Ok(plan) => return Ok((sized(config), plan)),
            Err(_) if seats > 1 => seats /= 2,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn line_ends_can_be_written_in_a_shells_word() {
        for (word, want) in [("a\\nb", "a\nb"), ("\\\\n", "\\n"), ("\\x\\", "\\x\\"), ("\\t\\t", "\t\t"), ("é", "é")]
        {
            assert_eq!(unescaped(word), want, "{word}");
        }
    }
}
