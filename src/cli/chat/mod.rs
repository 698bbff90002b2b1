//! `haggle chat`: a person against a model, in the terminal or from a pipe.

mod room;
pub mod table;
pub mod typed;

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

In the chat: offer 45 (or just 45), deal, reject, quit; words behind it, or on lines before it, are said aloud.")]
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
    /// The model's sampling temperature, 0 is greedy (default: as trained)
    #[arg(long, value_name = "X")]
    temperature: Option<f32>,
    /// Print what it would hold in memory and exit
    #[arg(long)]
    dry_run: bool,
    /// Sample from the likeliest tokens that hold this probability
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    top_p: f32,
}

/// Plays one game.
///
/// # Errors
/// Everything wrong with config, model, products or the product's code.
pub fn run(args: &ChatArgs, globals: &Globals) -> Result<Exit> {
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
    let sampling = sampling(args, &config, person, model.chat.end());
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

fn sampling(args: &ChatArgs, config: &Config, person: Side, end: i32) -> Sampling {
    let rollout = &config.rollout;
    let as_trained = if person == Side::Seller { rollout.temperature } else { rollout.seller_temperature };
    let temperature = args.temperature.unwrap_or(as_trained);
    Sampling { top_p: args.top_p, ..Sampling::plain(temperature, rollout.max_reply_tokens, end) }
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
