//! The command line: one file a command; this one parses, dispatches, and turns errors into a line and an exit code.
//!
//! The one idea: a command is a clap struct and a function `run(&args, &globals) -> Result<Exit>`. Config keys given as
//! options (`--steps`, `--seed`) are overrides like `--set`, so they pass the same checks.

mod barren;
mod cards;
pub mod chat;
pub mod compare;
pub mod config;
pub mod doctor;
mod dry_ranks;
mod dry_run;
pub mod eval;
pub mod generate;
pub mod init;
mod merge;
pub mod out;
pub mod products;
mod profile;
pub mod progress;
pub mod rank;
pub mod report;
mod sampling;
pub mod score;
pub mod serve;
pub mod sft;
mod shell;
pub mod show;
mod signals;
pub mod tables;
mod together;
pub mod train;

use crate::config::recipes::recipe;
use crate::config::{Config, Override, paths};
use crate::dist::launch::Launch;
use crate::error::{Error, Result, shown};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All was done.
    Done,
    /// Ctrl-C, SIGTERM or SIGHUP: what was done is saved.
    Interrupted,
}

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(name = "haggle", version, about = "Trains language models to negotiate, and shows what they learned", after_help = EXAMPLES)]
#[command(arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    globals: Globals,
}

const EXAMPLES: &str = "\
Examples:
  haggle train                                   train the embedded buyer against the embedded seller
  haggle eval --model runs/001 --products DIR    hold a trained buyer against a folder of products
  haggle chat --model runs/001                   play the seller yourself

Exit codes: 0 done, 2 usage or config, 3 data or files, 4 device, 5 training stopped, 130 interrupted (saved)";

#[derive(Subcommand)]
enum Command {
    /// Train a buyer against a frozen seller
    Train(train::TrainArgs),
    /// Hold a model against sellers on held-out products
    Eval(eval::EvalArgs),
    /// Bargain with a model yourself
    Chat(chat::ChatArgs),
    /// Write text with any model, from a prompt, a chat message or a file of them
    Generate(generate::GenerateArgs),
    /// Serve a model over HTTP, as OpenAI's clients ask for it
    Serve(serve::ServeArgs),
    /// Print the resolved config as TOML, every key with its unit and what it does
    Config(config::ConfigArgs),
    /// Make a new model folder: random weights, or supervised on generated dialogues
    Init(init::InitArgs),
    /// Fine-tune a model on conversations, or write generated ones
    Sft(sft::SftArgs),
    /// Make a whole model of an adapter and its base
    Merge(merge::MergeArgs),
    /// Say what this machine has, and test the ops on it
    Doctor(doctor::DoctorArgs),
    /// Check a folder of products of your own
    Products(products::ProductsArgs),
    /// Say where the time, the bytes and the FLOPs of a step go
    Profile(profile::ProfileArgs),
    /// Rank models from pairwise games, with intervals and ranges of ranks
    Rank(rank::RankArgs),
    /// Rebuild a run's report.html from its files
    Report(report::ReportArgs),
    /// Lay runs and evaluations beside each other
    Compare(compare::CompareArgs),
    /// Print the logprob of every token of given id sequences
    Score(score::ScoreArgs),
    /// Show an episode of a run token by token: loss mask, logprob, advantage
    Show(show::ShowArgs),
}

/// Options every command takes.
#[derive(Args, Debug, Clone, Default)]
pub struct Globals {
    /// The run directory (default: the next free runs/NNN)
    #[arg(long, global = true, value_name = "DIR", value_parser = path(), help_heading = "Everywhere")]
    pub out: Option<PathBuf>,
    /// Seeds everything random
    #[arg(long, global = true, value_name = "N", help_heading = "Everywhere")]
    pub seed: Option<u64>,
    /// Where to run: auto, cpu, emu, cuda:N
    #[arg(long, global = true, value_name = "NAME", help_heading = "Everywhere")]
    pub device: Option<String>,
    /// CPU threads, 0 is all cores; never changes a result
    #[arg(long, global = true, value_name = "N", help_heading = "Everywhere")]
    pub threads: Option<usize>,
    /// Override one config key; repeatable
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", help_heading = "Everywhere")]
    pub sets: Vec<OsString>,
    /// Read the config from a TOML file; relative paths in it start at the working directory, ~/ is the home
    #[arg(long, global = true, value_name = "FILE", value_parser = path(), help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Begin with a recipe: paper (arXiv:2604.09855), dense-0.1b, dense-1b, dense-8b; `haggle config --recipe NAME` shows it
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "config", help_heading = "Everywhere")]
    pub recipe: Option<String>,
    /// Print JSON for machines
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
}

/// The keys of `[lora]` in the value of `--lora`: `rank=32,alpha=64,targets=q_proj,v_proj`.
///
/// # Errors
/// [`Error::Config`] naming what is no such key.
fn lora_flags(text: Option<&str>) -> Result<Vec<(&'static str, &'static str, Option<String>)>> {
    let mut flags: Vec<(&str, &str, Option<String>)> = vec![];
    for part in text.into_iter().flat_map(|text| text.split(',')) {
        let (key, value) = match (part.split_once('='), flags.last_mut()) {
            // A list of targets has commas too.
            (None, Some((_, "lora.targets", Some(before)))) => {
                *before = quoted(&format!("{},{part}", before.trim_matches('"')));
                continue;
            }
            (Some(pair), _) => pair,
            (None, _) => (part, ""),
        };
        let (key, value) = match key.trim() {
            "rank" => ("lora.rank", value.to_string()),
            "alpha" => ("lora.alpha", value.to_string()),
            "rslora" => ("lora.rslora", value.to_string()),
            "targets" => ("lora.targets", quoted(value)),
            "dropout" => ("lora.dropout", value.to_string()),
            "seed" => ("lora.seed", value.to_string()),
            other => {
                let what = format!("--lora: `{other}` is no key; for example rank=32,alpha=64,targets=all-linear");
                return Err(Error::Config { problems: vec![what] });
            }
        };
        flags.push(("--lora", key, Some(value)));
    }
    if text.is_some() && !flags.iter().any(|(_, key, _)| *key == "lora.rank") {
        return Err(Error::Config { problems: vec!["--lora: needs a rank, for example rank=32".into()] });
    }
    Ok(flags)
}

/// The config that a model was trained by, where its folder has it.
pub fn run_config(model: &Path) -> Option<PathBuf> {
    ["config.toml", "haggle/config.toml"].map(|name| model.join(name)).into_iter().find(|path| path.is_file())
}

impl Globals {
    /// The config of this call: the file, then `--set`, then options. `flags` are the command's own: `(option, key, value)`.
    ///
    /// # Errors
    /// Everything wrong with the config, at once.
    pub fn resolve(&self, flags: &[(&str, &str, Option<String>)]) -> Result<Config> {
        self.load(self.config.as_deref(), &self.overrides(flags)?)
    }

    /// A config of this call's recipe, or else of `file`.
    ///
    /// # Errors
    /// Everything wrong with the config, at once.
    pub fn load(&self, file: Option<&Path>, overrides: &[Override]) -> Result<Config> {
        match &self.recipe {
            Some(name) => Config::of_recipe(recipe(name)?, overrides),
            None => Config::load(file, overrides),
        }
    }

    /// The same for a command that opens a trained model: without `--config`, the config its run was made with.
    ///
    /// # Errors
    /// As [`Globals::resolve`].
    pub fn resolve_for(&self, model: &Path, flags: &[(&str, &str, Option<String>)]) -> Result<Config> {
        self.load(self.file_for(model).as_deref(), &self.overrides(flags)?)
    }

    /// The same for a command that one model alone is asked with, and its name: base and seller are that one.
    ///
    /// # Errors
    /// As [`Globals::resolve`].
    pub fn resolve_alone(&self, model: &Path) -> Result<(Config, String)> {
        let (mut config, name) = (self.resolve_for(model, &[])?, paths::spelled(model));
        (config.model.base, config.model.seller) = (name.clone(), "base".into());
        Ok((config, name))
    }

    /// The config file of a call that opens a model: `--config`, or what its run was made with.
    pub fn file_for(&self, model: &Path) -> Option<PathBuf> {
        self.config.clone().or_else(|| run_config(model))
    }

    /// The overrides of this call, in the order they apply.
    ///
    /// # Errors
    /// [`Error::Config`] naming every `--set` that is not `key=value`.
    pub fn overrides(&self, flags: &[(&str, &str, Option<String>)]) -> Result<Vec<Override>> {
        let (mut all, mut problems) = (Vec::new(), Vec::new());
        for set in &self.sets {
            let text = shown(Path::new(set));
            match set.as_bytes().iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    let (key, value) = set.as_bytes().split_at(at);
                    let key = String::from_utf8_lossy(key).trim().into();
                    // What is not text can only be a path.
                    let value = OsStr::from_bytes(&value[1..]);
                    let value = value.to_str().map_or_else(|| path_text(Path::new(value)), String::from);
                    all.push(Override { origin: format!("--set {text}"), key, value });
                }
                None => problems.push(format!("--set {text}: must be key=value, for example --set grpo.steps=10")),
            }
        }
        let out = self.out.as_deref().map(path_text);
        let own = [
            ("--out", "run.out", out),
            ("--seed", "seed", self.seed.map(|n| n.to_string())),
            ("--device", "device", self.device.as_deref().map(quoted)),
            ("--threads", "threads", self.threads.map(|n| n.to_string())),
        ];
        for (option, key, value) in own.iter().chain(flags) {
            let Some(value) = value else { continue };
            all.push(Override { origin: format!("{option} {value}"), key: (*key).into(), value: value.clone() });
        }
        if problems.is_empty() { Ok(all) } else { Err(Error::Config { problems }) }
    }
}

/// A text as a TOML string, so that a path `1` stays a path.
pub fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// A path as a TOML string, whatever its bytes.
pub fn path_text(path: &Path) -> String {
    quoted(&paths::spelled(path))
}

/// How a path is read from the command line.
pub fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| paths::written(&text))
}

/// The command line as it was given, to be kept.
pub fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| shown(Path::new(&word)));
    std::iter::once("haggle".into()).chain(words).collect::<Vec<String>>().join(" ")
}

/// Parses, dispatches, reports.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let text = info.payload().downcast_ref::<&str>().copied();
        let text = text.or(info.payload().downcast_ref::<String>().map(String::as_str));
        let what = text.unwrap_or("unknown").replace('\n', " ");
        out::note(&format!("haggle: a bug in haggle{at}: {what}; please report it with the command line you used"));
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            out::print(&e.to_string());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            out::note(&format!("haggle: {}", out::plain(&usage_line(&e))));
            return ExitCode::from(2);
        }
    };
    match signals::hear().and_then(|()| dispatch(&cli)) {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(e) => {
            e.to_string().lines().for_each(|line| out::note(&format!("haggle: {}", out::plain(line))));
            ExitCode::from(e.exit_code())
        }
    }
}

fn dispatch(cli: &Cli) -> Result<Exit> {
    let globals = &cli.globals;
    let writes = match &cli.command {
        Command::Init(_) => "init",
        Command::Serve(_) => "serve",
        Command::Merge(_) => "merge",
        _ => "",
    };
    if !writes.is_empty() {
        Launch::one(writes)?;
    }
    match &cli.command {
        Command::Train(args) => train::run(args, globals),
        Command::Eval(args) => eval::run(args, globals),
        Command::Chat(args) => chat::run(args, globals),
        Command::Generate(args) => generate::run(args, globals),
        Command::Serve(args) => serve::run(args, globals),
        Command::Config(args) => config::run(args, globals),
        Command::Init(args) => init::run(args, globals),
        Command::Sft(args) => sft::run(args, globals),
        Command::Doctor(args) => doctor::run(args, globals),
        Command::Products(args) => products::run(args, globals),
        Command::Profile(args) => profile::run(args, globals),
        Command::Rank(args) => rank::run(args, globals),
        Command::Report(args) => report::run(args, globals),
        Command::Compare(args) => compare::run(args, globals),
        Command::Merge(args) => merge::run(args, globals),
        Command::Score(args) => score::run(args, globals),
        Command::Show(args) => show::run(args, globals),
    }
}

/// Clap's message as one line: what was wrong, its tip, and where the help is.
fn usage_line(e: &clap::Error) -> String {
    let text = e.to_string();
    let wanted =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let said: Vec<&str> = wanted.take_while(|line| !line.starts_with("Usage:")).collect();
    format!("{}; see --help", said.join("; ").trim_start_matches("error: ").replace(":; ", ": "))
}
