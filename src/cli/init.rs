//! `haggle init`: a new model folder: random, supervised on generated dialogues, or taught the format of a set task.

mod random;

use super::progress::Live;
use super::{Exit, Globals, command_line, out, path_text, quoted, signals};
use crate::config::Config;
use crate::config::paths::spelled;
use crate::device::Device;
use crate::disk::{make_writable, write_atomic};
use crate::error::{Error, Result, shown};
use crate::model::config::PRESETS;
use crate::model::{ModelConfig, Plan, Weights};
use crate::setup::{Setup, base, known, memory};
use crate::sft::dialogues::{self, Dialogues};
use crate::sft::probe::{Probe, probe};
use crate::sft::teach;
use crate::sft::trainer::{Row, Supervision, Trainer};
use crate::tasks::{self, Entrant, Speaks};
use crate::text::tokenizer::VOCAB;
use crate::text::{Chat, Tokenizer};
use crate::train::rl::Event;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Dialogues the vocabulary is learned from, and the seed of their stream.
const CORPUS: (usize, u64) = (4_000, 1);
/// Dialogues a probe looks at.
const PROBED: u64 = 256;

/// Options of `haggle init`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle init --preset tiny --out base                          tokenizer and random weights
  haggle init --preset tiny --supervised --out base --seed 1    the recipe of the embedded model
  haggle init --preset tiny --supervised --tokens 2000000 --out quick
  haggle init --preset qwen3-8b --out random                    random bf16 weights of that shape, in shards
  haggle init --preset qwen3-30b-a3b --layers 2 --experts 8 --out cut
  haggle init --preset tiny --out base --dialogues 1000         and dialogues for tools/check_transformers.py
  haggle init --task recommend --tokens 2000000 --out shop      the embedded model, taught a task's format; then
  haggle train --task recommend --model shop --set task.supervised_tokens=0 --set model.seller=embedded")]
pub struct InitArgs {
    /// The model's shape: tiny, which can be trained from nothing, or that of a published model with random weights
    #[arg(long, value_name = "NAME", default_value = "tiny", value_parser = PRESETS)]
    preset: String,
    #[command(flatten)]
    random: random::RandomArgs,
    /// Train it on generated dialogues of both roles
    #[arg(long)]
    supervised: bool,
    /// Teach a model the format of a task instead: menu, recommend, summary
    #[arg(long, value_name = "NAME", conflicts_with_all = ["supervised", "dialogues"])]
    task: Option<String>,
    /// The model to teach a task: a folder or run directory (default: the embedded model)
    #[arg(long, value_name = "DIR", requires = "task", value_parser = super::path())]
    model: Option<PathBuf>,
    /// Folder of AmazonHistoryPrice files for the demonstrations of a task (default: the embedded catalog)
    #[arg(long, value_name = "DIR", requires = "task", value_parser = super::path())]
    products: Option<PathBuf>,
    /// Tokens to train on (default: 10,000,000; with --task, task.supervised_tokens)
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Tokens of a batch
    #[arg(long, value_name = "N", default_value_t = Supervision::default().batch_tokens)]
    batch_tokens: usize,
    /// Most tokens of one forward and backward
    #[arg(long, value_name = "N", default_value_t = Supervision::default().micro_tokens)]
    micro_tokens: usize,
    /// Peak learning rate
    #[arg(long, value_name = "X", default_value_t = Supervision::default().optim.lr)]
    lr: f32,
    /// Also write so many of the dialogues, with messages and ids, to haggle/dialogues.jsonl
    #[arg(long, value_name = "N", default_value_t = 0)]
    dialogues: u64,
}

/// Makes the folder.
pub fn run(args: &InitArgs, globals: &Globals) -> Result<Exit> {
    let path = |path: &Option<PathBuf>| path.as_deref().map(path_text);
    let of_task = [
        ("--task", "task.name", args.task.as_deref().map(quoted)),
        ("--model", "model.base", path(&args.model)),
        ("--products", "products.path", path(&args.products)),
        ("--tokens", "task.supervised_tokens", args.tokens.filter(|_| args.task.is_some()).map(|n| n.to_string())),
    ];
    let config = globals.resolve(&of_task)?;
    let dir = globals
        .out
        .as_deref()
        .ok_or_else(|| Error::Config { problems: vec!["init needs --out DIR: the folder to make".into()] })?;
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::io(dir, "is not empty; name another directory with --out"));
    }
    if args.preset != "tiny" {
        let trains = [("--supervised", args.supervised), ("--task", args.task.is_some())];
        if let Some((option, _)) = trains.into_iter().find(|(_, given)| *given) {
            let what = format!("{option}: random weights of {} are not trained here; leave it out", args.preset);
            return Err(Error::Config { problems: vec![what] });
        }
        make_writable(dir)?;
        return random::run(args, config.seed, dir, globals);
    }
    if let Some(option) = args.random.given() {
        let what =
            format!("{option}: is of the other presets, tiny has its own; leave it out or name another --preset");
        return Err(Error::Config { problems: vec![what] });
    }
    if let Some(name) = &args.task {
        if name == "game" {
            let what = "--task: the game has no format to teach; name menu, recommend or summary";
            return Err(Error::Config { problems: vec![what.into()] });
        }
        let dev = config.open_device()?;
        memory::fit(&dev, &config, &teach::planned)?;
        memory::fit(&dev, &config, &|config, plan| memory::of_evaluation(config, &[], plan))?;
        make_writable(dir)?;
        return taught(&config, dev, dir, globals.json);
    }
    let dev = config.open_device()?;
    let how = supervision(args, config.seed);
    // A vocabulary is that large at most.
    let planner = |plan: &mut Plan| {
        let weights = Weights::planned(plan, "model", ModelConfig::tiny(VOCAB))?;
        Trainer::planned(plan, weights, how, 1).map(drop)
    };
    memory::fit_own(&dev, &planner, "take fewer --micro-tokens, which move no result but rounding")?;
    make_writable(dir)?;
    let chat = Chat::ours(Tokenizer::train(&dialogues::corpus(CORPUS.1, CORPUS.0)?, VOCAB)?)?;
    let mut trainer = Trainer::new(&dev, shape(&chat), how)?;
    leaves_whole(dir);
    save(&mut trainer, &chat, &dev, dir)?;
    let found = if args.supervised { Some(supervise(&mut trainer, &chat, &dev, dir)?) } else { None };
    save(&mut trainer, &chat, &dev, dir)?;
    if trainer.tokens < how.tokens && args.supervised {
        out::note(&format!("haggle: saved {} after {} of {} tokens", shown(dir), trainer.tokens, how.tokens));
        return Ok(Exit::Interrupted);
    }
    leaves_whole(dir);
    record(args, &how, found, dir)?;
    write_dialogues(&chat, how.seed, args.dialogues, dir)?;
    let params = trainer.weights.layout.n_params();
    match (globals.json, found) {
        (true, _) => out::line(&json!({ "out": spelled(dir), "parameters": params, "probe": found }).to_string()),
        (false, Some(p)) => out::line(&format!("{}: {params} parameters\n{}", shown(dir), table(&p))),
        (false, None) => out::line(&format!("{}: {params} parameters, random", shown(dir))),
    }
    Ok(Exit::Done)
}

/// From here on a signal leaves a whole folder, random or as it was saved last.
fn leaves_whole(dir: &Path) {
    let own = dir.to_path_buf();
    signals::leaves(move || whole(&own));
}

/// What an `init` that is left now leaves behind.
fn whole(dir: &Path) -> String {
    match dir.join("tokenizer_config.json").is_file() {
        true => format!("left; {} holds the weights as they were saved last", shown(dir)),
        false => "left; nothing was written".into(),
    }
}

/// Teaches a base the format of a task, and says how well it then writes sets on held-out products.
fn taught(config: &Config, dev: Device, dir: &Path, as_json: bool) -> Result<Exit> {
    leaves_whole(dir);
    let mut setup = Setup::open_on(dev, config)?;
    let warning = known::warn(config, &[&config.model.base, &config.model.seller], &[&setup.train, &setup.held_out])?;
    out::known(setup.notes.iter().chain(&warning));
    let mut live = Live::new();
    let (mut task, tokens) = (tasks::named(&config.task.name)?, config.task.supervised_tokens as u64);
    teach::teach(&mut setup, &*task, tokens, &mut |done, of| live.hear(&Event::Supervised { done, of }))?;
    let (weights, chat) = (&setup.base.weights, &setup.base.chat);
    let base = Entrant { name: "taught", weights, chat, speaks: Speaks::Replies };
    let report =
        task.evaluate(&setup, &[base], &mut |buyer, seller, done, of| live.evaluation(buyer, seller, done, of))?;
    live.end();
    let found = report.sets.map_or(serde_json::Value::Null, |sets| sets[0]["row"].clone());
    base::save(&setup.dev, &setup.base.weights, &setup.base.chat, dir)?;
    let made = json!({
        "command": command_line(),
        "version": env!("CARGO_PKG_VERSION"),
        "task": config.task,
        "base": config.model.base,
        "seed": config.seed,
        "held_out": found,
    });
    std::fs::create_dir_all(dir.join("haggle")).map_err(|e| Error::io(dir.join("haggle"), e))?;
    write_atomic(&dir.join("haggle/init.json"), |f| f.write_all(format!("{made:#}\n").as_bytes()))?;
    let number = |key: &str| found[key].as_f64().unwrap_or(f64::NAN);
    match as_json {
        true => out::line(&json!({ "out": spelled(dir), "held_out": found }).to_string()),
        false => out::line(&format!(
            "{}: {} replies on held-out products: worth {:.3}, malformed {:.1} %, distinct candidates {:.2}",
            shown(dir),
            number("replies"),
            number("worth"),
            100.0 * number("malformed"),
            number("distinct")
        )),
    }
    Ok(Exit::Done)
}

fn supervision(args: &InitArgs, seed: u64) -> Supervision {
    let mut how = Supervision {
        seed,
        tokens: args.tokens.unwrap_or(Supervision::default().tokens),
        batch_tokens: args.batch_tokens.max(1),
        micro_tokens: args.micro_tokens.max(1),
        ..Supervision::default()
    };
    how.optim.lr = args.lr;
    how
}

/// The tiny shape around a tokenizer's vocabulary and special tokens.
fn shape(chat: &Chat) -> ModelConfig {
    let mut config = ModelConfig::tiny(chat.tokenizer.vocab());
    config.eos_token_ids = vec![chat.end() as u32];
    config.pad_token_id = chat.tokenizer.id("<|pad|>").map(|id| id as u32);
    config
}

/// Trains, showing progress; saves on the way so that a kill leaves the last weights.
fn supervise(trainer: &mut Trainer, chat: &Chat, dev: &Device, dir: &Path) -> Result<Probe> {
    let own = dir.to_path_buf();
    signals::finishes("finishing the batch, then saving", move || whole(&own));
    let bar = ProgressBar::new(trainer.how.tokens);
    let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} tokens  {msg}  {elapsed}<{eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let path = dir.join("haggle/sft.jsonl");
    let mut log = std::fs::File::create(&path).map_err(|e| Error::io(&path, e))?;
    let (start, mut saved, mut mean) = (Instant::now(), Instant::now(), None::<f64>);
    trainer.run(chat, |row: &Row, trainer| {
        mean = Some(mean.map_or(row.loss, |m| 0.98 * m + 0.02 * row.loss));
        let rate = row.tokens as f64 / start.elapsed().as_secs_f64();
        bar.set_position(row.tokens.min(trainer.how.tokens));
        bar.set_message(format!("loss {:.4}  {rate:.0} tok/s", mean.unwrap_or(row.loss)));
        let text = serde_json::to_string(row).map_err(|e| Error::data(&path, e))?;
        writeln!(log, "{text}").map_err(|e| Error::io(&path, e))?;
        if saved.elapsed().as_secs() >= 60 {
            let found = probe(trainer, chat, trainer.how.seed, PROBED / 4)?;
            let line = format!("{} tokens, {rate:.0} tok/s: {}", row.tokens, table(&found).replace('\n', "  "));
            bar.suspend(|| out::note(&line));
            save(trainer, chat, dev, dir)?;
            saved = Instant::now();
        }
        Ok(!signals::asked().load(Ordering::Relaxed))
    })?;
    bar.finish();
    probe(trainer, chat, trainer.how.seed, PROBED)
}

fn save(trainer: &mut Trainer, chat: &Chat, dev: &Device, dir: &Path) -> Result<()> {
    trainer.weights.save(dev, dir)?;
    for (name, text) in chat.files(trainer.weights.config.stated_positions())? {
        write_atomic(&dir.join(name), |f| f.write_all(text.as_bytes()))?;
    }
    std::fs::create_dir_all(dir.join("haggle")).map_err(|e| Error::io(dir.join("haggle"), e))
}

/// `haggle/init.json`: what made the folder.
fn record(args: &InitArgs, how: &Supervision, found: Option<Probe>, dir: &Path) -> Result<()> {
    let made = json!({
        "command": command_line(),
        "version": env!("CARGO_PKG_VERSION"),
        "preset": args.preset,
        "supervised": args.supervised.then_some(how),
        "probe": found,
    });
    write_atomic(&dir.join("haggle/init.json"), |f| f.write_all(format!("{made:#}\n").as_bytes()))
}

/// What `tools/check_transformers.py` holds against the reference library.
fn write_dialogues(chat: &Chat, seed: u64, n: u64, dir: &Path) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let stream = Dialogues::new(seed)?;
    let mut lines = String::new();
    for index in 0..n {
        let (.., episode) = stream.episode(index);
        for s in stream.sequences(chat, index)? {
            let messages = dialogues::messages(&episode, s.side);
            lines.push_str(&json!({ "messages": messages, "ids": s.ids }).to_string());
            lines.push('\n');
        }
    }
    write_atomic(&dir.join("haggle/dialogues.jsonl"), |f| f.write_all(lines.as_bytes()))
}

fn table(p: &Probe) -> String {
    format!(
        "loss: buyer {:.4}, seller {:.4}\nright price: thought {:.4}, bid {:.4}, ask {:.4}, deal {:.4} (greedy {:.4})\nright form {:.5}",
        p.loss_buyer, p.loss_seller, p.thought_price, p.bid_price, p.ask_price, p.deal_price, p.price_greedy, p.form
    )
}
