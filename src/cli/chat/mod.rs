//! `haggle chat`: a person against a model, in the terminal or from a pipe; or, with `--free`, in conversation with it.

mod free;
mod item;
mod price;
mod sitting;
pub mod table;
pub mod typed;

use super::sampling::{Ends, Filters};
use super::{Exit, Globals, dry_run, out, path_text};
use crate::config::Config;
use crate::config::paths::spelled;
use crate::error::{Error, Result};
use crate::guide::Manner;
use crate::infer::{Engine, Sampling};
use crate::model::Plan;
use crate::negotiate::Side;
use crate::setup::base::{self, Base};
use crate::setup::memory;
use clap::Args;
use item::Item;
use sitting::Sitting;
use std::path::PathBuf;

/// Options of `haggle chat`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle chat --model runs/001                     sell to the trained buyer
  haggle chat --as buyer                           buy from the embedded seller
  haggle chat --model runs/001 --games 3           three games, another product each, and a score
  haggle chat --title 'Blue mug' --list 12.50 --cost 4 --budget 10        over an item of your own
  haggle chat --model runs/001 --products DIR --product books_12 --show-thoughts
  printf 'offer 45\\ndeal\\n' | haggle chat --model runs/001
  haggle chat --free --model target/smollm2 --system 'You sell bicycles.' --temperature 0.7

The model's replies are guided: in the game's form, within its own limit and the offers that stand; --unguarded lets it say anything.
In the game: offer 45 (or just 45), deal, reject, quit; words behind it, or on lines before it, are said aloud. The model is sampled \
as it was trained, a buyer less the tail of eval.min_p, as in evaluations; --temperature, --top-k, --top-p and --min-p say otherwise.
With --free: /new begins again, /quit leaves; sampling that is not given is taken from the model's generation_config.json, and said.")]
pub struct ChatArgs {
    /// Run directory, checkpoint or model folder of the other side (default: the embedded model)
    #[arg(long, value_name = "RUN|DIR", default_value = "embedded", value_parser = super::path())]
    model: PathBuf,
    /// The side you play
    #[arg(long = "as", value_name = "SIDE", value_parser = ["seller", "buyer"], default_value = "seller")]
    side: String,
    /// Folder of AmazonHistoryPrice files (default: what the run trained on)
    #[arg(long, value_name = "DIR", value_parser = super::path(), conflicts_with = "title")]
    products: Option<PathBuf>,
    /// The product's code, such as books_12 (default: a held-out one, by --seed)
    #[arg(long, value_name = "CODE", conflicts_with = "title")]
    product: Option<String>,
    #[command(flatten)]
    item: Item,
    /// Games one after another; a folder's products in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    games: u64,
    /// Append every game to this file, a JSON line each
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    transcript: Option<PathBuf>,
    /// Let the model reply anything, as in training: also what breaks the rules or its own limit
    #[arg(long)]
    unguarded: bool,
    /// Show what the model thinks before it speaks
    #[arg(long)]
    show_thoughts: bool,
    /// Talk with the model instead, through its chat template: no game, no product
    #[arg(long, conflicts_with_all = ["side", "products", "product", "show_thoughts", "title", "games", "transcript", "unguarded"])]
    free: bool,
    /// With --free: the system message
    #[arg(long, value_name = "TEXT", requires = "free")]
    system: Option<String>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    ends: Ends,
    /// Print what it would hold in memory and exit
    #[arg(long)]
    dry_run: bool,
}

/// Plays as many games as are asked for, until the input ends.
///
/// # Errors
/// Everything wrong with config, model, products or the product's code.
pub fn run(args: &ChatArgs, globals: &Globals) -> Result<Exit> {
    if args.free {
        return free::run(args, globals);
    }
    if let Some(option) = args.ends.given() {
        let what =
            format!("{option} belongs to --free; in the game a reply ends by its form (rollout.max_reply_tokens)");
        return Err(Error::Config { problems: vec![what] });
    }
    let products = args.products.as_deref().map(path_text);
    let config = globals.resolve_for(&args.model, &[("--products", "products.path", products)])?;
    let dev = config.open_device()?;
    let name = spelled(&args.model);
    let plan = memory::fit(&dev, &config, &|config, plan| memory::of_chat(config, &name, !args.unguarded, plan))?;
    if args.dry_run {
        return Ok(dry_run::print_plan(&plan, globals.json));
    }
    let model = base::open(&dev, &name, &config)?;
    let person = if args.side == "buyer" { Side::Buyer } else { Side::Seller };
    let sampling = sampling(&args.filters, &config, person, model.chat.end());
    sampling.check()?;
    let kept = args.transcript.as_deref().map(sitting::transcript).transpose()?;
    let manner = (!args.unguarded).then(|| manner(&model, &config)).flatten();
    let (plan, shape) = (&mut Plan::on(&dev), &model.weights.config);
    let engine = Engine::planned(plan, shape, memory::chat_engine(&config, plan.device(), shape))?;
    let engine = if manner.is_some() { engine.with_masks(plan)? } else { engine };
    let mut sitting = Sitting { args, config, name, model, engine, sampling, manner, person, kept, scores: vec![] };
    let (mut input, mut screen): (_, Box<dyn std::io::Write>) =
        (std::io::stdin().lock(), if globals.json { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) });
    for game in 0..args.games as usize {
        let Some(episode) = sitting.game(game, &mut input, &mut screen)? else { break };
        if globals.json {
            out::line(&sitting::as_json(&episode).to_string());
        }
    }
    sitting.score(&mut screen)?;
    Ok(Exit::Done)
}

/// How the model's side is guided; none, which is said, for a model that cannot be.
fn manner(model: &Base, config: &Config) -> Option<Manner> {
    let manner = Manner::new(&model.chat, model.weights.config.vocab_size, config.rollout.max_reply_tokens);
    manner.map_err(|e| out::note(&format!("haggle: unguarded: {e}"))).ok()
}

/// How the model's side is sampled: as it was trained and is evaluated, unless the person says otherwise.
fn sampling(own: &Filters, config: &Config, person: Side, end: i32) -> Sampling {
    let rollout = &config.rollout;
    let (temperature, min_p) = match person {
        Side::Seller => (rollout.temperature, config.eval.min_p),
        Side::Buyer => (rollout.seller_temperature, 0.0),
    };
    let plain = Sampling::plain(own.temperature.unwrap_or(temperature), rollout.max_reply_tokens, end);
    let (top_k, top_p) = (own.top_k.unwrap_or(plain.top_k), own.top_p.unwrap_or(plain.top_p));
    Sampling { top_k, top_p, min_p: own.min_p.unwrap_or(min_p), ..plain }
}
