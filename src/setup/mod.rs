//! What a config names, opened: device, models, products, rules.
//!
//! The one idea: everything a user can get wrong is found here, before a run directory is made or a step is taken.

pub mod base;
pub mod cards;
mod frozen;
pub mod inputs;
pub mod known;
pub mod lora;
pub mod memory;
pub mod resume;

use self::base::Base;
pub use self::frozen::Frozen;
use crate::config::Config;
use crate::config::choice::{Graphs, KlEstimator, KlIn, LossObjective, LrSchedule, MomentType, PromptStyle, Split};
use crate::config::paths::place;
use crate::device::Device;
use crate::device::gpu::proven::Waits;
use crate::dist::Ranks;
use crate::error::{Error, Result};
use crate::guide::Manner;
use crate::infer::{Engine, EngineConfig, Sampling};
use crate::model::{ModelConfig, Plan};
use crate::negotiate::{Product, Rules, Style, catalog, folder, split};
use crate::ops::attn::CHUNK;
use crate::ops::loss::{Kl, Objective, PolicyLoss};
use crate::remote::Desk;
use crate::rollout::{Player, RemoteVoice, Voice};
use crate::text::Chat;
use crate::train::optimizer::{Hyper, Moments, Schedule};
use std::sync::Arc;

/// A config and what it names.
pub struct Setup {
    /// The config.
    pub config: Config,
    /// The device.
    pub dev: Device,
    /// The weights the buyer starts from; also the untrained buyer and the reference of the KL penalty.
    pub base: Base,
    /// The frozen seller; one copy serves for it and for the base where they are the same.
    pub seller: Frozen,
    /// Products to train on.
    pub train: Vec<Arc<Product>>,
    /// Products held out for evaluation.
    pub held_out: Vec<Arc<Product>>,
    /// The rules of the game.
    pub rules: Rules,
    /// The ranks that work on it together.
    pub ranks: Ranks,
    /// What should be known of the products, a line each: see [`folder::Folder::notes`].
    pub notes: Vec<String>,
}

/// Version of the starting weights, apart from every version the trained weights take: engines cache by version.
pub const BASE_VERSION: u64 = u64::MAX;

impl Setup {
    /// Opens what a config names.
    ///
    /// # Errors
    /// Whatever is missing or wrong, named.
    pub fn open(config: &Config) -> Result<Setup> {
        Setup::open_on(config.open_device()?, config)
    }

    /// The same on a device that is open already.
    ///
    /// # Errors
    /// As [`Setup::open`].
    pub fn open_on(dev: Device, config: &Config) -> Result<Setup> {
        Setup::opened(dev, config, products)
    }

    /// The same for an evaluation, which needs no products to train on.
    ///
    /// # Errors
    /// As [`Setup::open`].
    pub fn open_to_evaluate(dev: Device, config: &Config) -> Result<Setup> {
        Setup::opened(dev, config, to_evaluate)
    }

    fn opened(dev: Device, config: &Config, stock: fn(&Config) -> Result<Stock>) -> Result<Setup> {
        let mut base = base::open(&dev, &config.model.base, config)?;
        base.weights.renumber(BASE_VERSION);
        let seller = Frozen::open(&dev, config, &base)?;
        let Stock { train, held_out, notes } = stock(config)?;
        let rules = rules(config);
        Ok(Setup { config: config.clone(), dev, base, seller, train, held_out, rules, notes, ranks: Ranks::alone() })
    }

    /// The frozen seller, where it is a model on our device.
    pub fn seller_model(&self) -> Option<&Base> {
        match &self.seller {
            Frozen::Base => Some(&self.base),
            Frozen::Model(own) => Some(own),
            Frozen::Remote(_) => None,
        }
    }

    /// An engine for a seller on our device.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn seller_engine(&self) -> Result<Option<Engine>> {
        let engine = |base: &Base| {
            let shape = &base.weights.config;
            Engine::new(&self.dev, shape, self.engine_config(shape))
        };
        self.seller_model().map(engine).transpose()
    }

    /// CRC-32C of what tells the seller from others: its parameters, or the name that a server knows it by.
    ///
    /// # Errors
    /// As [`crate::model::Weights::crc`] and [`crate::remote::Server::probe`].
    pub fn seller_crc(&self) -> Result<u32> {
        match (self.seller_model(), &self.seller) {
            (Some(base), _) => base.weights.crc(&self.dev),
            (None, seller) => seller.named_crc(),
        }
    }

    /// Puts another base in the place of this one, which stays the seller where it was.
    pub fn replace_base(&mut self, base: Base) {
        let before = std::mem::replace(&mut self.base, base);
        if matches!(self.seller, Frozen::Base) {
            self.seller = Frozen::Model(Box::new(before));
        }
        self.base.weights.renumber(BASE_VERSION);
    }

    /// Rollouts of a step, which is also how many episodes run at a time.
    pub fn episodes_a_step(&self) -> usize {
        self.config.rollout.products_per_step * self.config.rollout.group_size
    }

    /// How the buyer is sampled.
    pub fn buyer_sampling(&self, chat: &Chat) -> Sampling {
        let r = &self.config.rollout;
        let plain = Sampling::plain(r.temperature, r.max_reply_tokens, chat.end());
        Sampling { top_k: r.top_k, top_p: r.top_p, min_p: r.min_p, ..plain }
    }

    /// How a buyer is sampled in evaluation: as in training, less the tail of `eval.min_p`. At one token in a thousand
    /// that tail holds a misspelt reply in each hundred games, which says nothing about how a buyer negotiates.
    pub fn eval_sampling(&self, chat: &Chat) -> Sampling {
        Sampling { min_p: self.config.eval.min_p, ..self.buyer_sampling(chat) }
    }

    /// An engine for a buyer of this shape, and how it is guided, where `rollout.constrain` says that it is.
    ///
    /// # Errors
    /// As [`Engine::new`] and [`Manner::new`].
    pub fn eval_engine(&self, chat: &Chat, model: &ModelConfig) -> Result<(Engine, Option<Manner>)> {
        let plan = &mut Plan::on(&self.dev);
        let engine = Engine::planned(plan, model, self.engine_config(model))?;
        match self.manner(chat, model)? {
            None => Ok((engine, None)),
            manner => Ok((engine.with_masks(plan)?, manner)),
        }
    }

    /// How a buyer of this shape is guided, where `rollout.constrain` says that it is.
    ///
    /// # Errors
    /// As [`Manner::new`].
    pub fn manner(&self, chat: &Chat, model: &ModelConfig) -> Result<Option<Manner>> {
        let r = &self.config.rollout;
        r.constrain.then(|| Manner::new(chat, model.vocab_size, r.max_reply_tokens)).transpose()
    }

    /// The frozen seller in its seat: in an engine of its own ([`Setup::seller_engine`]), or at a desk before its server.
    ///
    /// # Errors
    /// As [`crate::remote::Server::probe`].
    ///
    /// # Panics
    /// When a model on our device has no engine.
    pub fn seller_player<'a, E: ?Sized>(&'a self, engine: &'a mut Option<Engine>) -> Result<Player<'a, E>> {
        let r = &self.config.rollout;
        let (temperature, max_tokens) = (r.seller_temperature, r.max_reply_tokens);
        let (Base { weights, chat, .. }, engine) = match (&self.seller, self.seller_model(), engine) {
            (Frozen::Remote(server), ..) => {
                server.probe()?;
                let desk = Desk::new(server, self.episodes_a_step());
                return Ok(Player::Remote(RemoteVoice { desk, temperature, max_tokens }));
            }
            (Frozen::Base | Frozen::Model(_), Some(base), Some(engine)) => (base, engine),
            (Frozen::Base | Frozen::Model(_), ..) => panic!("a model on our device speaks through an engine"),
        };
        let sampling = Sampling::plain(temperature, max_tokens, chat.end());
        Ok(Player::Model(Voice { weights, engine, chat, sampling, manner: None }))
    }

    /// Sizes of an engine for a model: `engine.pages`, or half a context for each episode of a step, at least one whole
    /// context. Episodes that grow beyond lose pages and are run again to the same bits.
    pub fn engine_config(&self, model: &ModelConfig) -> EngineConfig {
        engine_config(&self.config, &self.dev, model)
    }

    /// Clip, KL and entropy. A KL in the reward is none of the loss's.
    pub fn policy_loss(&self) -> PolicyLoss {
        let (g, l) = (&self.config.grpo, &self.config.loss);
        PolicyLoss {
            clip_low: g.clip_low,
            clip_high: g.clip_high,
            kl: match KlIn::of(&l.kl_in) {
                KlIn::Loss => g.kl,
                KlIn::Reward => 0.0,
            },
            entropy: g.entropy,
            objective: match LossObjective::of(&l.objective) {
                LossObjective::Cispo => Objective::Cispo,
                LossObjective::Clip | LossObjective::Gspo => Objective::Clip,
            },
            dual_clip: l.dual_clip,
            kl_estimator: match KlEstimator::of(&l.kl_estimator) {
                KlEstimator::K1 => Kl::K1,
                KlEstimator::K2 => Kl::K2,
                KlEstimator::K3 => Kl::K3,
            },
        }
    }

    /// The optimizer's settings.
    pub fn hyper(&self) -> Hyper {
        let o = &self.config.optim;
        Hyper {
            lr: o.lr,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: o.weight_decay,
            warmup_steps: o.warmup_steps as u64,
            restart_at: o.restart_at as u64,
            schedule: match LrSchedule::of(&o.schedule) {
                LrSchedule::Constant => Schedule::Constant,
                LrSchedule::Linear => Schedule::Linear,
                LrSchedule::Cosine => Schedule::Cosine,
            },
            max_grad_norm: o.grad_clip,
            max_skipped_steps: o.max_bad_steps as u64,
            moments: moments(&self.config),
            ..Hyper::default()
        }
    }
}

/// How the optimizer's moments are stored.
pub fn moments(config: &Config) -> Moments {
    match MomentType::of(&config.optim.moments) {
        MomentType::F32 => Moments::F32,
        MomentType::Bf16 => Moments::Bf16,
    }
}

/// See [`Setup::engine_config`].
pub fn engine_config(config: &Config, dev: &Device, model: &ModelConfig) -> EngineConfig {
    EngineConfig {
        max_pages: engine_pages(config, model),
        max_rows: config.engine.max_rows,
        max_seqs: config.rollout.products_per_step * config.rollout.group_size,
        prefix_reuse: true,
        graphs: graphs(config, dev),
    }
}

/// Pages of a rollout's engine: see [`Setup::engine_config`].
pub fn engine_pages(config: &Config, model: &ModelConfig) -> usize {
    let live = config.rollout.products_per_step * config.rollout.group_size;
    let whole = model.max_position_embeddings.div_ceil(CHUNK) + 1;
    let pages = if config.engine.pages > 0 { config.engine.pages } else { live * whole.div_ceil(2) };
    pages.max(whole)
}

/// Whether decode steps run from graphs: as `engine.graphs` says, or as cards like this one have shown.
pub fn graphs(config: &Config, dev: &Device) -> bool {
    match (Graphs::of(&config.engine.graphs), dev) {
        (Graphs::On, _) => true,
        (Graphs::Off, _) | (_, Device::Cpu(_)) => false,
        (Graphs::Auto, Device::Gpu(gpu)) => gpu.verdict(Waits::Graphs).on,
    }
}

/// The rules a config sets.
pub fn rules(config: &Config) -> Rules {
    let style = match PromptStyle::of(&config.game.prompt_style) {
        PromptStyle::Compact => Style::Compact,
        PromptStyle::Paper => Style::Paper,
    };
    Rules { max_turns: config.game.turns as u32, style }
}

/// Products, each shared by the episodes over it.
pub type Products = Vec<Arc<Product>>;

/// The products of a config.
#[derive(Debug, Clone)]
pub struct Stock {
    /// To train on.
    pub train: Products,
    /// Held out for evaluation.
    pub held_out: Products,
    /// What should be known of the folder: see [`folder::Folder::notes`].
    pub notes: Vec<String>,
}

/// Training and held-out products of a config.
///
/// # Errors
/// [`Error::Data`] when one of the two is empty, and what [`folder::read`] says.
pub fn products(config: &Config) -> Result<Stock> {
    let stock = stock(config)?;
    for (kind, set) in [("training", &stock.train), ("held-out", &stock.held_out)] {
        if set.is_empty() {
            let n = stock.train.len() + stock.held_out.len();
            let what = format!("{n} products leave none for the {kind} set (one in seven is held out)");
            return Err(Error::data(place(&config.products.path), what));
        }
    }
    Ok(stock)
}

/// The same where there may be none to train on.
fn to_evaluate(config: &Config) -> Result<Stock> {
    let stock = stock(config)?;
    if stock.held_out.is_empty() {
        let n = stock.train.len();
        let what =
            format!("{n} products leave none to evaluate (one in seven is held out); --split all takes every one");
        return Err(Error::data(place(&config.products.path), what));
    }
    Ok(stock)
}

/// The same where one of the two may be empty.
///
/// # Errors
/// As [`folder::read`].
pub fn stock(config: &Config) -> Result<Stock> {
    let ((train, held_out), notes) = match config.products.path == "embedded" {
        true => (split(&catalog::embedded()?), vec![]),
        false => {
            let folder = folder::read(&place(&config.products.path))?;
            (folder.split(), folder.notes)
        }
    };
    let held_out = match Split::of(&config.eval.split) {
        Split::Test => held_out,
        Split::Train => train.clone(),
        Split::All => train.iter().chain(&held_out).cloned().collect(),
    };
    let (train, held_out) = (spread(train, config.products.limit), spread(held_out, config.eval.products));
    Ok(Stock { train, held_out, notes })
}

/// At most `n` of a list, evenly spread over it so that every category keeps its share; 0 is all.
fn spread(list: Vec<Product>, n: usize) -> Products {
    let n = if n == 0 { list.len() } else { n.min(list.len()) };
    let len = list.len();
    let mut list: Vec<Option<Product>> = list.into_iter().map(Some).collect();
    (0..n).filter_map(|i| list[i * len / n].take()).map(Arc::new).collect()
}
