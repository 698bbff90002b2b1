//! `haggle serve`: a model over HTTP.
//!
//! The one idea: everything is opened and bound before the address is printed, so whoever reads it may ask at once. Connections
//! have threads of their own; this one owns the engine until the server ends.

use super::sampling::manner;
use super::{Exit, Globals, dry_run, out, signals};
use crate::config::Config;
use crate::config::paths::{place, written};
use crate::device::Device;
use crate::embedded;
use crate::error::{Error, Result};
use crate::guide::{Manner, Schemas};
use crate::infer::{Engine, EngineConfig, Sampling};
use crate::model::{ModelConfig, Plan};
use crate::negotiate::money::MAX_CENTS;
use crate::negotiate::{Cents, Product};
use crate::ops::attn::CHUNK;
use crate::serve::deal::{Busy, Clock, Negotiator, Postgres, Sqlite, Store};
use crate::serve::{self, Bench, Collector, Keys, Limits, Loader, Metrics, Model, Progress, Reloads, Traces};
use crate::setup::{self, base, memory};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde_json::{Value, json};
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Tokens that a seat is given pages for, where the model's context is longer: answers beyond take those of others.
const USUAL_TOKENS: usize = 2048;

/// Products that the page offers, about.
const ON_PAGE: usize = 24;

/// Options of `haggle serve`.
#[derive(Args)]
#[command(after_help = "\
It answers /v1/chat/completions and /v1/completions (streaming too), /v1/models and /tokenize as OpenAI's clients ask, and \
/health and /ready. An answer has the tokens and logprobs that `haggle generate` gives for the same prompt, sampling and \
--seed, to the bit, whatever else is being served. Fields that are unknown, or that haggle does not compute, are refused by \
name. Ctrl-C or SIGTERM finishes what runs and ends; the second one ends at once. SIGHUP, or POST /admin/reload, serves the model's \
newest checkpoint from then on; what runs finishes with the one before.

Examples:
  haggle serve                                          the embedded model, on 127.0.0.1:8000
  haggle serve --model runs/001 --port 0                a port that is free, printed
  haggle serve --model Qwen3-0.6B --api-key-file keys --host 0.0.0.0
  curl localhost:8000/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"turn 1/6\"}]}'")]
pub struct ServeArgs {
    /// Run directory, checkpoint, Hugging Face folder, or `embedded`
    #[arg(long, value_name = "RUN|DIR", default_value = "embedded", value_parser = super::path())]
    model: PathBuf,
    /// What requests call the model (default: its folder's name)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// The address to listen on; from outside of this machine 0.0.0.0 or ::
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    host: IpAddr,
    /// File of keys, one a line; without it everyone who reaches the port may ask
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    api_key_file: Option<PathBuf>,
    /// Where negotiations are kept: a folder, made where it is not there, or postgres://USER@HOST/DATABASE, which several
    /// servers may share; its password from PGPASSWORD
    #[arg(long, value_name = "DIR|URL", default_value = "negotiations", value_parser = state())]
    state: State,
    /// Answers computed at a time, or as many as fit
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    seats: u32,
    /// Requests that may wait; beyond it they are told to come again
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    queue: u32,
    /// Requests a minute of each key, of all where there are none; 0 bounds none
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// Write a line of JSON for each request to stderr; no key and no words stand in it
    #[arg(long)]
    log: bool,
    /// Seconds from a request to the last token of its answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
    /// Seconds for the head of a request, and between two pieces of its body; who takes longer is hung up on
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    read_timeout: u64,
    /// Largest body of a request, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1048576))]
    max_body: u32,
    /// Take nothing from generation_config.json but the tokens that end a text
    #[arg(long)]
    no_defaults: bool,
    /// Print what it would hold in memory and exit
    #[arg(long)]
    dry_run: bool,
}

/// Where negotiations are kept.
#[derive(Debug, Clone)]
enum State {
    Folder(PathBuf),
    Postgres(String),
}

/// How that is read from the command line.
fn state() -> impl TypedValueParser<Value = State> {
    let is_postgres = |text: &&str| ["postgres://", "postgresql://"].iter().any(|head| text.starts_with(head));
    OsStringValueParser::new().try_map(move |text| match text.to_str().filter(is_postgres) {
        Some(url) => Ok(State::Postgres(url.into())),
        None => written(&text).map(State::Folder),
    })
}

/// Opens it.
fn opened(state: &State) -> Result<Box<dyn Store>> {
    Ok(match state {
        State::Folder(folder) => Box::new(Sqlite::open(folder)?),
        State::Postgres(url) => Box::new(Postgres::open(url, std::env::var("PGPASSWORD").ok().as_deref())?),
    })
}

/// Serves until it is asked to stop.
///
/// # Errors
/// Everything wrong with model, options, keys or port, before anything is answered.
pub fn run(args: &ServeArgs, globals: &Globals) -> Result<Exit> {
    let (config, name) = globals.resolve_alone(&args.model)?;
    let keys = args.api_key_file.as_deref().map(Keys::read).transpose()?.unwrap_or_default();
    let collector = Collector::read(&|name| std::env::var(name).ok())?;
    let dev = config.open_device()?;
    let shape = base::shape(&name, &config)?;
    let (sizes, plan) = sizes(&dev, &config, &shape, args.seats as usize)?;
    if args.dry_run {
        return Ok(dry_run::print_plan(&plan, globals.json));
    }
    let model = Arc::new(model(args, &config, &shape, sizes.max_seqs)?);
    let weights = base::weights(&dev, &name, &config)?;
    let plan = &mut Plan::on(&dev);
    let engine = Engine::planned(plan, &weights.config, sizes)?.with_masks(plan)?.with_leans(plan)?;
    let socket = bound(args)?;
    let (progress, metrics) = (Arc::new(Progress::default()), Arc::new(Metrics::default()));
    let traces = collector.map_or_else(Traces::default, |collector| collector.begin(&metrics));
    let reloads = Arc::new(Reloads::new(signals::reloads()));
    let (orders, taken) = sync_channel(args.queue as usize);
    signals::finishes("finishing what runs, then it ends", || "stopped; answers that were not finished are cut".into());
    announce(args, globals, &model.name, &socket, keys.is_empty())?;
    let limits = Limits {
        body_bytes: args.max_body as usize * 1024,
        timeout: Duration::from_secs(args.timeout),
        read: Duration::from_secs(args.read_timeout),
        a_minute: args.rate,
        log: args.log,
    };
    let server = {
        let (model, progress, metrics, reloads) = (model.clone(), progress.clone(), metrics.clone(), reloads.clone());
        let traces = traces.clone();
        std::thread::spawn(move || {
            serve::listen(socket, model, orders, progress, metrics, traces, reloads, keys, limits, signals::asked())
        })
    };
    let newest = || {
        let (config, name) = globals.resolve_alone(&args.model)?;
        if !base::prompts(&name, &config)?.same(&model.prompts) {
            let what = "or the chat template is another than that which is served: start the server anew";
            return Err(Error::data(place(&name).join("tokenizer.json"), what));
        }
        memory::beside(&dev, &base::shape(&name, &config)?)?;
        base::weights(&dev, &name, &config)
    };
    let load: Loader = Box::new(newest);
    let tokenizer = &model.prompts.tokenizer;
    serve::work(Bench::new(engine, weights, tokenizer, &progress, &metrics, &reloads, load), &taken);
    let panicked = |_| Err(Error::io("the server", "ended by a bug in haggle"));
    server.join().unwrap_or_else(panicked)?;
    traces.flush();
    Ok(Exit::Done)
}

/// What connections know of the model.
fn model(args: &ServeArgs, config: &Config, shape: &ModelConfig, seats: usize) -> Result<Model> {
    let name = config.model.base.as_str();
    let prompts = base::prompts(name, config)?;
    let (defaults, ends) = manner(config, shape, &prompts, args.no_defaults)?;
    let folder = if name == embedded::NAME { None } else { args.model.canonicalize().ok() };
    let folder = folder.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    let (negotiator, products) = (negotiator(args, config, shape)?, products(config)?);
    let name = args.name.clone().or(folder).unwrap_or_else(|| name.into());
    let (context, vocab) = (shape.max_position_embeddings, shape.vocab_size);
    let schemas = Schemas::new(&prompts.tokenizer, vocab, &ends).map_err(|e| e.to_string().replace('\n', "; "));
    Ok(Model { name, prompts, schemas, defaults, ends, context, vocab, seats, products, negotiator })
}

/// Some of the held-out products of the config, evenly spread, for the page.
fn products(config: &Config) -> Result<Value> {
    let all = setup::stock(config)?.held_out;
    let told = |product: &Arc<Product>| {
        let Product { title, category, description, list, cost, budget, .. } = &**product;
        json!({"title": title.chars().take(300).collect::<String>(), "category": category, "list_cents": list,
               "description": description.chars().take(4_000).collect::<String>(), "cost_cents": cost, "budget_cents": budget})
    };
    Ok(all.iter().step_by(all.len().div_ceil(ON_PAGE).max(1)).map(told).collect())
}

/// What negotiates, or why this model cannot: a template that rewrites earlier turns, a tokenizer that cannot spell.
fn negotiator(args: &ServeArgs, config: &Config, shape: &ModelConfig) -> Result<Result<Negotiator, String>> {
    let name = config.model.base.as_str();
    let own = base::chat(name, config).and_then(|chat| {
        let manner = Manner::new(&chat, shape.vocab_size, config.rollout.max_reply_tokens)?;
        Ok((chat, manner))
    });
    let (chat, manner) = match own {
        Ok(own) => own,
        Err(e) => return Ok(Err(e.to_string().replace('\n', "; "))),
    };
    let r = &config.rollout;
    let plain = Sampling::plain(r.temperature, r.max_reply_tokens, chat.end());
    Ok(Ok(Negotiator {
        chat,
        manner,
        rules: setup::rules(config),
        // As evaluations draw them: see `Setup::eval_sampling`.
        sampling: Sampling { top_k: r.top_k, top_p: r.top_p, min_p: config.eval.min_p, ..plain },
        context: shape.max_position_embeddings,
        dearest: if name == embedded::NAME { embedded::DEAREST } else { Cents(MAX_CENTS) },
        store: opened(&args.state)?,
        busy: Busy::default(),
        clock: Clock::default(),
    }))
}

/// The engine's sizes, for as many seats as fit, which moves no answer; and what all of it takes.
fn sizes(dev: &Device, config: &Config, shape: &ModelConfig, seats: usize) -> Result<(EngineConfig, Plan)> {
    let context = shape.max_position_embeddings;
    let sizes = [seats, context.min(USUAL_TOKENS), context.div_ceil(CHUNK) + 1];
    memory::seats(dev, config, sizes, &|sizes, plan| memory::of_serving(shape, sizes, plan))
}

fn bound(args: &ServeArgs) -> Result<TcpListener> {
    let address = (args.host, args.port);
    TcpListener::bind(address).map_err(|e| {
        let what = match e.kind() {
            std::io::ErrorKind::AddrInUse => "is in use; name another --port, or 0 for a free one".into(),
            _ => e.to_string(),
        };
        Error::io(std::net::SocketAddr::from(address).to_string(), what)
    })
}

/// The address on stdout, for who started it; what should be known on stderr.
fn announce(args: &ServeArgs, globals: &Globals, name: &str, socket: &TcpListener, open: bool) -> Result<()> {
    let address = socket.local_addr().map_err(|e| Error::io("the server's socket", e))?;
    if open && !args.host.is_loopback() {
        out::note("haggle: warning: whoever reaches this address may ask; guard it with --api-key-file");
    }
    match globals.json {
        true => out::line(&json!({"url": format!("http://{address}"), "model": name}).to_string()),
        false => out::line(&format!("serving {name} at http://{address}")),
    }
    Ok(())
}
