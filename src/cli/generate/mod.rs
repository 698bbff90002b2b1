//! `haggle generate`: text from any model, in the terminal or a file of prompts at a time.
//!
//! The one idea: everything is read and checked before the weights are, and what was taken from the model's own
//! `generation_config.json` is said. Answers do not depend on what else is asked: see [`crate::generate`].

mod input;
pub(super) mod screen;

use super::sampling::{self, Ends, Filters};
use super::{Exit, Globals, dry_run};
use crate::config::Config;
use crate::device::Device;
use crate::error::Result;
use crate::generate::{self, How, Request};
use crate::infer::EngineConfig;
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
    #[command(flatten)]
    filters: Filters,
    /// Answers to each prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    n: u64,
    #[command(flatten)]
    ends: Ends,
    /// Print a line for each token: logprob, id, text
    #[arg(long, conflicts_with = "input")]
    logprobs: bool,
    /// Print what it would hold in memory and exit
    #[arg(long)]
    dry_run: bool,
}

/// Prints the answers.
///
/// # Errors
/// Everything wrong with model, options or input, before anything is computed.
pub fn run(args: &GenerateArgs, globals: &Globals) -> Result<Exit> {
    let (config, name) = globals.resolve_alone(&args.model)?;
    let dev = config.open_device()?;
    let (shape, prompts) = (base::shape(&name, &config)?, base::prompts(&name, &config)?);
    let how = sampling::how(&args.filters, &args.ends, &config, &shape, &prompts)?;
    let requests = requests(args, &prompts, &shape)?;
    let (sizes, plan) = sizes(&dev, &config, &shape, &requests, &how)?;
    if args.dry_run {
        return Ok(dry_run::print_plan(&plan, globals.json));
    }
    let weights = base::weights(&dev, &name, &config)?;
    let mut engine = memory::generator(&weights.config, sizes, &how.lean, &mut Plan::on(&dev))?;
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
    how: &How,
) -> Result<(EngineConfig, Plan)> {
    let longest =
        requests.iter().map(|r| r.prompt.len()).max().unwrap_or(1).saturating_add(how.sampling.max_new_tokens);
    let longest = longest.min(shape.max_position_embeddings);
    let seats = requests.len().clamp(1, SEATS);
    memory::seats(dev, config, [seats, longest, 0], &|sizes, plan| memory::of_generation(shape, sizes, &how.lean, plan))
}
