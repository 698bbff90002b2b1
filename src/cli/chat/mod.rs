//! `haggle chat`: a person against a model, in the terminal or from a pipe; or, with `--free`, in conversation with it.

mod free;
mod room;
pub mod table;
pub mod typed;

use super::sampling::{Ends, Filters};
use super::{Exit, Globals, dry_run, out, path_text};
use crate::config::Config;
use crate::config::paths::{place, spelled};
use crate::error::{Error, Result};
use crate::infer::{Engine, Sampling};
use crate::negotiate::{Episode, Outcome, Persona, Product, Side, reward};
use crate::noise::Noise;
use crate::rollout::{self, Job, Player, Voice};
use crate::setup::{self, Stock, base, known, memory};
use crate::tasks::{self, Told};
use clap::Args;
use room::Room;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use table::Table;

/// Options of `haggle chat`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle chat --model runs/001                     sell to the trained buyer
  haggle chat --as buyer                           buy from the embedded seller
  haggle chat --model runs/001 --seed 4            another product
  haggle chat --model runs/001 --products DIR --product books_12 --show-thoughts
  printf 'offer 45\\ndeal\\n' | haggle chat --model runs/001
  haggle chat --free --model target/smollm2 --system 'You sell bicycles.' --temperature 0.7

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
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    products: Option<PathBuf>,
    /// The product's code, such as books_12 (default: a held-out one, by --seed)
    #[arg(long, value_name = "CODE")]
    product: Option<String>,
    /// Show what the model thinks before it speaks
    #[arg(long)]
    show_thoughts: bool,
    /// Talk with the model instead, through its chat template: no game, no product
    #[arg(long, conflicts_with_all = ["side", "products", "product", "show_thoughts"])]
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

/// Plays one game.
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
    let plan = memory::fit(&dev, &config, &|config, plan| memory::of_chat(config, &name, plan))?;
    if args.dry_run {
        return Ok(dry_run::print_plan(&plan, globals.json));
    }
    let model = base::open(&dev, &name, &config)?;
    let person = if args.side == "buyer" { Side::Buyer } else { Side::Seller };
    let (product, notes) = choose(&config, &name, args.product.as_deref())?;
    out::known(&notes);
    let mut episode = Episode::new(product, setup::rules(&config), Persona::Neutral);
    let (ours, rest) = (Told::of(&episode, person.other() as usize), 2 * config.rollout.max_reply_tokens);
    if let Err(why) = tasks::fits(&model.chat, &model.weights.config, &ours.prompt, rest)? {
        let what = format!("the {}'s prompt for {} does not fit: {why}", ours.name, episode.product().code);
        return Err(Error::Config { problems: vec![what] });
    }
    let room = Room::new(&model, person.other(), config.rollout.max_reply_tokens);
    let heard = |episode: &Episode, talk: &str| room.heard(episode, talk);
    let sampling = sampling(&args.filters, &config, person, model.chat.end());
    sampling.check()?;
    let mut engine = Engine::new(&dev, &model.weights.config, memory::chat_engine(&config, &model.weights.config))?;
    let (mut input, mut screen): (_, Box<dyn std::io::Write>) =
        (std::io::stdin().lock(), if globals.json { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) });
    let (show_thoughts, input, screen) = (args.show_thoughts, &mut input, &mut screen);
    let mut table = Table { person, show_thoughts, input, screen, shown: 0, heard: &heard };
    table.introduce(&episode)?;
    let mut reply = |episode: &Episode| table.reply(episode);
    let voice = Voice { weights: &model.weights, engine: &mut engine, chat: &model.chat, sampling };
    let mut players = [Player::Model(voice), Player::Person(&mut reply)];
    if person == Side::Buyer {
        players.reverse();
    }
    let (about, noise) = (episode.product().code.clone(), Noise::new(config.seed, CHAT));
    let job = Job::new(&mut episode, about, noise).drawing(person.other() as usize, noise);
    rollout::play(vec![job], &mut players, 1, &mut |_| ())?;
    table.conclude(&episode)?;
    if globals.json {
        print_json(&episode, episode.outcome())?;
    }
    Ok(Exit::Done)
}

/// Stream of noise below the seed.
const CHAT: u64 = 4;

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

/// The product of a code, or one by the seed, held out where the folder has such; and what should be known of the folder.
fn choose(config: &Config, model: &str, code: Option<&str>) -> Result<(Arc<Product>, Vec<String>)> {
    let Stock { train, held_out, mut notes } = setup::stock(config)?;
    let from = if held_out.is_empty() { &train } else { &held_out };
    let path = place(&config.products.path);
    let product = match code {
        None if from.is_empty() => return Err(Error::data(path, "holds no product to choose")),
        None => from[Noise::new(config.seed, CHAT).below(0, from.len())].clone(),
        Some(code) => {
            let found = held_out.iter().chain(&train).find(|product| product.code == code).cloned();
            let near = from.first().map(|p| p.code.clone()).unwrap_or_default();
            let what = format!("holds no product `{code}`; codes look like {near}");
            found.ok_or_else(|| Error::data(path, what))?
        }
    };
    notes.extend(known::warn(config, &[model], &[std::slice::from_ref(&product)])?);
    Ok((product, notes))
}

fn print_json(episode: &Episode, outcome: Option<Outcome>) -> Result<()> {
    let product = episode.product();
    let value = json!({
        "product": product.code, "list": product.list, "cost": product.cost, "budget": product.budget,
        "turns": episode.turns(), "outcome": outcome, "reward": outcome.map(|o| reward::reward(product, o)),
    });
    out::line(&value.to_string());
    Ok(())
}
