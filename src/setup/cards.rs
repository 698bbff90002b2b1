//! Memory on a card that is not here: what training and serving hold on one of its size, computing in bf16.
//!
//! The one idea: the plans are made by the code that allocates, run dry on the emulator, whose buffers are a card's, and
//! held to the card's size. The settings that would fit are found as in [`super::memory`].

use super::{base, memory};
use crate::config::Config;
use crate::device::{Device, Room};
use crate::error::{Result, mib};
use crate::infer::{EngineConfig, Lean};
use crate::model::{ModelConfig, Plan};

/// What driver, context and kernels take of a card.
const TAKEN: u64 = 1 << 30;

/// The rank of an adapter, where a config names none.
const RANK: usize = 32;

/// What is served at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Served {
    /// Sequences.
    pub seqs: usize,
    /// Tokens of each.
    pub context_tok: usize,
}

/// One use of a card.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// What it is used for.
    pub what: String,
    /// The card's size as it is sold, in GB.
    pub card_gb: u64,
    /// What it holds, by group.
    pub groups: Vec<(&'static str, u64)>,
    /// All of it.
    pub bytes: u64,
    /// What the card has for it.
    pub free_bytes: u64,
    /// The most that would fit, or what to change.
    pub advice: String,
}

impl Need {
    /// True when the card has room for it.
    pub fn fits(&self) -> bool {
        self.bytes <= self.free_bytes
    }

    /// Whether it fits, and by how much.
    pub fn verdict(&self) -> String {
        match self.fits() {
            true => format!("fits, {} to spare; {}", mib(self.free_bytes - self.bytes), self.advice),
            false => format!("does not fit by {}; {}", mib(self.bytes - self.free_bytes), self.advice),
        }
    }
}

/// Cards are sold by 2^30 bytes, about.
fn room(card_gb: u64) -> Room {
    let total_bytes = card_gb << 30;
    Room { free_bytes: total_bytes.saturating_sub(TAKEN), total_bytes, bound: "", mapped: false }
}

/// What a card of each of these sizes must hold: to train as `config` says, whose buffers `trained` plans, every parameter
/// and an adapter, and to serve `served` with the base. Sequences have the same context in both.
///
/// # Errors
/// What is wrong with the models' shapes; [`crate::Error::Device`] in a build without the emulator.
pub fn needs(config: &Config, trained: memory::Planner, served: Served, cards_gb: &[u64]) -> Result<Vec<Need>> {
    let (dev, mut config) = (Device::open("emu", 1)?, config.clone());
    (config.model.dtype, config.model.context) = ("bf16".into(), served.context_tok);
    let shape = base::shape(&config.model.base, &config)?;
    let mut all = vec![];
    let (mut whole, mut adapter) = (config.clone(), config);
    whole.lora.rank = 0;
    adapter.dist.shard = "moments".into();
    adapter.lora.rank = if adapter.lora.rank > 0 { adapter.lora.rank } else { RANK };
    for gb in cards_gb {
        all.push(training(&dev, "training, every parameter", &whole, trained, *gb)?);
        let what = format!("training, an adapter of rank {}", adapter.lora.rank);
        all.push(training(&dev, &what, &adapter, trained, *gb)?);
        all.push(serving(&dev, &shape, served, *gb)?);
    }
    Ok(all)
}

fn training(dev: &Device, what: &str, config: &Config, trained: memory::Planner, card_gb: u64) -> Result<Need> {
    let need = need(what, card_gb, &memory::planned(dev, config, trained)?);
    let advice = match need.fits() {
        true => "as the config stands".into(),
        false => memory::advice(dev, config, trained, room(card_gb))?,
    };
    Ok(Need { advice, ..need })
}

fn serving(dev: &Device, shape: &ModelConfig, served: Served, card_gb: u64) -> Result<Need> {
    let Served { seqs, context_tok } = served;
    let plan = |seqs: usize| -> Result<Plan> {
        let mut plan = Plan::dry(dev);
        memory::of_generation(shape, EngineConfig::sized_for(seqs, context_tok), &Lean::default(), &mut plan)?;
        Ok(plan)
    };
    let need = need(&format!("serving {seqs} x {context_tok} tokens"), card_gb, &plan(seqs)?);
    let fits = |seqs: usize| -> Result<bool> { Ok(plan(seqs)?.total_bytes() as u64 <= need.free_bytes) };
    if !fits(1)? {
        let advice = "nor does one sequence: take a shorter context, a smaller model or a larger card".into();
        return Ok(Need { advice, ..need });
    }
    // The most that fits: it does at `low`, it does not at `high`.
    let (mut low, mut high) = (1, 2);
    while high < 1 << 16 && fits(high)? {
        (low, high) = (high, 2 * high);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle)? { low = middle } else { high = middle }
    }
    Ok(Need { advice: format!("{low} such sequences are the most that do (--serve-seqs)"), ..need })
}

fn need(what: &str, card_gb: u64, plan: &Plan) -> Need {
    Need {
        what: what.into(),
        card_gb,
        groups: plan.groups().into_iter().map(|(group, bytes)| (group, bytes as u64)).collect(),
        bytes: plan.total_bytes() as u64,
        free_bytes: room(card_gb).free_bytes,
        advice: String::new(),
    }
}
