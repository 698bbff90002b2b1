//! `haggle sft`: a model fine-tuned on conversations, and conversations to fine-tune one on.

use super::{Exit, Globals, lora_flags, out, path_text, quoted, shell, signals, together};
use crate::config::paths::{place, spelled};
use crate::config::{Config, mix};
use crate::device::Device;
use crate::dist::launch::Launch;
use crate::dist::{Experts, Ranks, Shard};
use crate::error::{Error, Result, shown};
use crate::model::Plan;
use crate::negotiate::{Product, SELLERS, Seller, Side};
use crate::report::RunFiles;
use crate::run::checkpoint;
use crate::run::metrics::Metrics;
use crate::run::run_dir::RunDir;
use crate::setup::base::{self, Base};
use crate::setup::{self, lora, memory};
use crate::sft::dialogues::Dialogues;
use crate::sft::lines;
use crate::sft::tune::{self, Stock, Told, Tuning};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of `haggle sft`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle sft --generate 4000 --prompts paper --products AmazonHistoryPrice --write dialogues.jsonl
  haggle sft --generate 4000 --sellers base=6,rejector=1,chatterer=1 --roles buyer --write strangers.jsonl
  haggle sft --model SmolLM2-135M-Instruct --data dialogues.jsonl --prompts paper --out runs/form
  haggle train --model runs/form --products AmazonHistoryPrice --set game.prompt_style=paper
  haggle sft --resume --out runs/form                           go on after Ctrl-C or a kill
  mpirun -n 4 haggle sft --model DIR --data FILE --set dist.lanes=4 --out runs/four   ranks share each update
A line of the data is {\"messages\": [{\"role\": \"system\", \"content\": ...}, {\"role\": \"user\", ...}, {\"role\": \"assistant\", ...}]};
loss is on what the assistant says and on the token that ends its turn. A line that is longer than the model's context (or
--max-tokens) is left out and counted; a line that is wrong stops the run before it begins.")]
pub struct SftArgs {
    /// The model to begin with: a Hugging Face folder, a run directory, or embedded
    #[arg(long, value_name = "DIR", value_parser = super::path(), required_unless_present_any = ["generate", "resume"])]
    model: Option<PathBuf>,
    /// Conversations, one JSON object a line; repeatable
    #[arg(long, value_name = "FILE", value_parser = super::path(), required_unless_present_any = ["generate", "resume"])]
    data: Vec<PathBuf>,
    /// Train an adapter over the frozen model: rank=32,alpha=64,targets=all-linear (the keys of the table lora)
    #[arg(long, value_name = "KEY=VALUE,..")]
    lora: Option<String>,
    /// Times that every conversation is learned from
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Conversations of an update
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Peak learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    lr: f32,
    /// Share of the conversations that is held out, for the loss on what was not learned; 0 for none
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    val: f32,
    /// Longest conversation in tokens; longer ones are left out [default: the model's context]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Most tokens of one forward and backward, where no conversation is longer
    #[arg(long, value_name = "N", default_value_t = 2_048)]
    micro_tokens: usize,
    /// Updates between checkpoints
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,
    /// Continue the run in --out
    #[arg(long, conflicts_with_all = ["model", "data", "lora", "generate", "prompts", "products", "epochs", "batch", "lr", "val", "max_tokens", "micro_tokens", "save_every"])]
    resume: bool,
    /// Write so many generated conversations instead of training: scripted players over the products
    #[arg(long, value_name = "N", requires = "write", conflicts_with_all = ["model", "data"])]
    generate: Option<usize>,
    /// Where they are written: a new file
    #[arg(long, value_name = "FILE", value_parser = super::path(), requires = "generate")]
    write: Option<PathBuf>,
    /// Whose words they teach: both, buyer, seller
    #[arg(long, value_name = "ROLE", default_value = "both", value_parser = ["both", "buyer", "seller"], requires = "generate")]
    roles: String,
    /// Who the buyer meets in them, by weight: base is the script that the base model learned to sell from, others as in
    /// eval.seller (as --set rollout.sellers)
    #[arg(long, value_name = "NAMES", requires = "generate")]
    sellers: Option<String>,
    /// The prompts of the game: compact or paper (as --set game.prompt_style)
    #[arg(long, value_name = "STYLE", value_parser = ["compact", "paper"])]
    prompts: Option<String>,
    /// Folder of AmazonHistoryPrice files to generate over (default: the embedded catalog, varied)
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    products: Option<PathBuf>,
}

/// Generates, or trains.
///
/// # Errors
/// Everything wrong with config, model, data or run directory, before an update is made; training that cannot go on.
pub fn run(args: &SftArgs, globals: &Globals) -> Result<Exit> {
    let path = |path: &Option<PathBuf>| path.as_deref().map(path_text);
    let mut flags = vec![
        ("--model", "model.base", path(&args.model)),
        ("--prompts", "game.prompt_style", args.prompts.as_deref().map(quoted)),
        ("--products", "products.path", path(&args.products)),
        ("--sellers", "rollout.sellers", args.sellers.as_deref().map(quoted)),
    ];
    flags.extend(lora_flags(args.lora.as_deref())?);
    if let (Some(n), Some(file)) = (args.generate, &args.write) {
        Launch::one("sft --generate")?;
        return generate(&globals.resolve(&flags)?, n, &args.roles, file);
    }
    if args.resume {
        let dir = globals.out.as_deref().ok_or_else(|| usage("sft --resume needs --out DIR: the run to go on with"))?;
        let (how, config) = begun(dir, globals)?;
        let ranks = together::learners(&config)?;
        let opened = ranks.agree("start", reopened(&ranks, dir, how, config))?;
        return tuned(&ranks, opened, globals.json);
    }
    let config = globals.resolve(&flags)?;
    let ranks = together::learners(&config)?;
    let opened = begin(&ranks, args, globals, config)?;
    tuned(&ranks, opened, globals.json)
}

/// A run of supervision, opened.
struct Opened {
    how: Tuning,
    stock: Stock,
    dev: Device,
    base: Base,
    run: RunDir,
    config: Config,
}

fn usage(what: &str) -> Error {
    Error::Config { problems: vec![what.into()] }
}

/// Writes generated conversations.
fn generate(config: &Config, n: usize, roles: &str, file: &Path) -> Result<Exit> {
    let rules = setup::rules(config);
    let stream = match config.products.path.as_str() {
        "embedded" => Dialogues::new(config.seed)?,
        path => {
            let products: Vec<Product> = setup::stock(config)?.train.iter().map(|p| (**p).clone()).collect();
            if products.is_empty() {
                return Err(Error::data(place(path), "holds no product to train on (one in seven is held out)"));
            }
            Dialogues::over(products, config.seed)
        }
    }
    .under(rules)
    .against(scripts(&config.rollout.sellers)?);
    let wanted = |side: Side| roles == "both" || roles == side.name();
    let views = (0..).flat_map(|index| stream.views(index)).filter(|(side, _)| wanted(*side));
    let n = lines::write(file, views.take(n).map(|(_, messages)| Ok(messages)))?;
    out::line(&format!("{}: {n} conversations, {} prompts", shown(file), config.game.prompt_style));
    Ok(Exit::Done)
}

/// The scripts that sellers of training are played by.
fn scripts(sellers: &str) -> Result<Vec<(Seller, f64)>> {
    let wrong = |what: String| usage(&format!("rollout.sellers: {what}"));
    let script = |(name, weight): (&str, f64)| match name {
        "base" => Ok((Seller::Teacher, weight)),
        _ => match Seller::from_key(name) {
            Some(seller) => Ok((seller, weight)),
            None => Err(wrong(format!(
                "no script plays `{name}`; use base or scripts: {}",
                SELLERS.map(Seller::key).join(", ")
            ))),
        },
    };
    mix::weighed(sellers).map_err(wrong)?.into_iter().map(script).collect()
}

/// A new run.
fn begin(ranks: &Ranks, args: &SftArgs, globals: &Globals, config: Config) -> Result<Opened> {
    let (mut config, how, stock, dev, base) = ranks.agree("start", read(ranks, args, config))?;
    let said = serde_json::to_string_pretty(&how).map_err(|e| Error::Ranks { what: e.to_string() })?;
    together::alike(ranks, &config, &dev, ("conversations and model", said))?;
    let dir = globals.out.clone().map_or_else(|| together::claim(ranks), Ok)?;
    config.run.out = spelled(&std::path::absolute(&dir).unwrap_or_else(|_| dir.clone()));
    let make = || {
        let run = RunDir::create(&dir, &config.to_toml(true))?;
        how.write(&dir).map(|()| run)
    };
    let made = if ranks.is_first() { make() } else { Ok(RunDir::beside(&dir)) };
    let run = together::shared(ranks, made, &dir, tune::SETTINGS)?;
    Ok(Opened { how, stock, dev, base, run, config })
}

/// Everything that a new run reads, held to the device, to what may be learned, and to each other.
fn read(ranks: &Ranks, args: &SftArgs, mut config: Config) -> Result<(Config, Tuning, Stock, Device, Base)> {
    let share = (0.0..1.0).contains(&args.val);
    if !(share && args.lr.is_finite() && args.lr > 0.0) {
        let what = if share { "--lr: want a number above 0" } else { "--val: want a share, 0 or more and below 1" };
        return Err(usage(what));
    }
    if Shard::of(&config.dist.shard) == Shard::Weights {
        return Err(usage("dist.shard: haggle sft keeps weights whole at every rank; set gradients or moments"));
    }
    if Experts::of(&config.dist.experts) == Experts::Spread {
        return Err(usage("dist.experts: haggle sft keeps experts at every rank; set everywhere"));
    }
    config.rooted();
    let (talks, sources) = lines::read(&args.data)?;
    let dev = together::learning_device(ranks, &config)?;
    let (name, shape) = (&config.model.base, base::shape(&config.model.base, &config)?);
    let context = shape.max_position_embeddings;
    let absolute = |path: &Path| spelled(&std::path::absolute(path).unwrap_or_else(|_| path.into()));
    let mut how = Tuning {
        model: name.clone(),
        model_crc: 0,
        data: sources.iter().map(|source| (absolute(&source.path), source.crc)).collect(),
        epochs: args.epochs as usize,
        batch: args.batch as usize,
        lr: args.lr,
        val: args.val,
        max_tokens: args.max_tokens.unwrap_or(context).min(context),
        micro_tokens: args.micro_tokens.max(1),
        save_every: args.save_every as usize,
        keep: config.run.keep,
        seed: config.seed,
    };
    let stock = tune::stock(&base::chat(name, &config)?, &talks, &how)?;
    fits(&how, &stock, &dev, &config, ranks)?;
    let base = base::open(&dev, name, &config)?;
    how.model_crc = base.weights.crc(&dev)?;
    // Before a directory is made.
    lora::of(&config, &base.weights.config)?;
    Ok((config, how, stock, dev, base))
}

/// How a run was begun.
fn begun(dir: &Path, globals: &Globals) -> Result<(Tuning, Config)> {
    let none = || Error::io(dir, "holds no run of haggle sft to resume; name one with --out, or drop --resume");
    let how = Tuning::read(dir)?.ok_or_else(none)?;
    let own = Globals { out: None, config: Some(dir.join("config.toml")), ..globals.clone() };
    let config = own.resolve(&[])?;
    let differences = config.differences(&Config::load(own.config.as_deref(), &[])?);
    if !differences.is_empty() {
        let head = format!("{}: was begun with another config; resume with its own:", shown(dir));
        return Err(Error::Config { problems: [vec![head], differences].concat() });
    }
    Ok((how, config))
}

/// A run that goes on.
fn reopened(ranks: &Ranks, dir: &Path, how: Tuning, config: Config) -> Result<Opened> {
    let run = if ranks.is_first() { RunDir::reopen(dir)? } else { RunDir::beside(dir) };
    let files: Vec<PathBuf> = how.data.iter().map(|(path, _)| place(path)).collect();
    let (talks, sources) = lines::read(&files)?;
    if let Some((now, _)) = sources.iter().zip(&how.data).find(|(now, began)| now.crc != began.1) {
        return Err(Error::data(
            &now.path,
            "is not what the run began with; put it back, or start another run with --out",
        ));
    }
    let dev = together::learning_device(ranks, &config)?;
    let saved = checkpoint::latest(dir)?;
    let from = saved.as_deref().map_or(how.model.clone(), spelled);
    let stock = tune::stock(&base::chat(&from, &config)?, &talks, &how)?;
    fits(&how, &stock, &dev, &config, ranks)?;
    let base = base::open(&dev, &from, &config)?;
    if saved.is_none() && base.weights.crc(&dev)? != how.model_crc {
        return Err(Error::data(place(&how.model), "is not the model that the run began with"));
    }
    Ok(Opened { how, stock, dev, base, run, config })
}

/// `Ok` when what is free is enough.
fn fits(how: &Tuning, stock: &Stock, dev: &Device, config: &Config, ranks: &Ranks) -> Result<()> {
    let smaller =
        "take fewer --micro-tokens, leave out longer conversations with --max-tokens, or train an adapter (--lora)";
    let planner = |plan: &mut Plan| tune::planned(how, stock, config, ranks, plan);
    memory::fit_own_beside(dev, &planner, smaller, ranks.local_world()).map(drop)
}

/// Trains, shows it, and says what came of it: the first rank does.
fn tuned(ranks: &Ranks, opened: Opened, as_json: bool) -> Result<Exit> {
    let Opened { how, stock, dev, base, run, config } = opened;
    let (dir, first) = (run.path(), ranks.is_first());
    ranks.board(dir, Duration::from_secs_f32(config.dist.timeout_s));
    if first {
        let known = [count(&stock, &how)].into_iter().chain(long(&stock, &how));
        known.chain(run.warnings.iter().cloned()).for_each(|line| out::note(&format!("haggle: {line}")));
    }
    let own = dir.to_path_buf();
    signals::finishes("finishing the update, then saving", move || format!("left; {}", resume(&own)));
    let bar = if first { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} updates  {msg}  {elapsed}<{eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let done = tune::run(&how, &stock, &dev, base, (&run, &config, ranks), signals::asked(), &mut |told| match told {
        Told::Ready { step, steps } => {
            bar.set_length(steps);
            bar.set_position(step);
            bar.reset_eta();
        }
        Told::Step(row) if first => show(row, &bar),
        Told::Step(_) | Told::Saved(_) => {}
    });
    bar.finish_and_clear();
    let done = done?;
    ranks.finish();
    if !first {
        return Ok(if done { Exit::Done } else { Exit::Interrupted });
    }
    if !done {
        out::note(&format!("haggle: saved; {}", resume(dir)));
        return Ok(Exit::Interrupted);
    }
    let losses = RunFiles::read(dir)?.curve("val_loss");
    let [first, last] = [losses.first(), losses.last()].map(|at| at.map(|(_, loss)| *loss));
    match as_json {
        true => out::line(&json!({ "run": spelled(dir), "val_loss": [first, last] }).to_string()),
        false => {
            if let [Some(first), Some(last)] = [first, last] {
                out::line(&format!("held-out loss  {first:.4} before, {last:.4} now"));
            }
            out::line(&format!("checkpoint     haggle chat --model {}", shell::word(dir)));
        }
    }
    Ok(Exit::Done)
}

/// An update on the bar; a held-out loss on a line of its own.
fn show(row: &Metrics, bar: &ProgressBar) {
    let number = |key: &str| row.get(key).and_then(Value::as_f64);
    let step = number("step").unwrap_or(0.0);
    bar.set_position(step as u64);
    if let Some(loss) = number("loss") {
        bar.set_message(format!("loss {loss:.4}"));
    }
    if let Some(loss) = number("val_loss") {
        bar.suspend(|| out::note(&format!("update {step}: held-out loss {loss:.4}")));
    }
}

fn count(stock: &Stock, how: &Tuning) -> String {
    let (n, steps) = (stock.train.len(), how.steps(stock.train.len()));
    format!("{n} conversations to learn from, {} sequences held out, {steps} updates", stock.held_out.len())
}

fn long(stock: &Stock, how: &Tuning) -> Option<String> {
    let first = stock.long.first()?;
    let n = stock.long.len();
    Some(format!("{n} conversations are longer than {} tokens and left out; the first is {first}", how.max_tokens))
}

fn resume(dir: &Path) -> String {
    format!("go on with: haggle sft --resume --out {}", shell::word(dir))
}
