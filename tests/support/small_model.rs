//! A random model of one small layer: a step of it takes the emulator seconds.

#![allow(clippy::unwrap_used, dead_code)]

use haggle::device::Device;
use haggle::embedded;
use haggle::model::config::Experts;
use haggle::model::{Family, ModelConfig, Weights};
use haggle::setup::base;
use haggle::text::Chat;
use std::fs;
use std::path::Path;

/// Its shape, for so many positions.
fn shape(chat: &Chat, context: usize, experts: Option<Experts>) -> ModelConfig {
    ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 32,
        intermediate_size: 32,
        max_position_embeddings: context,
        family: if experts.is_some() { Family::Qwen3Moe } else { Family::Qwen3 },
        experts,
        ..ModelConfig::tiny(chat.tokenizer.vocab())
    }
}

/// Its weights.
pub fn weights(dev: &Device, chat: &Chat, context: usize, experts: Option<Experts>) -> Weights {
    Weights::init(dev, shape(chat, context, experts), 7).unwrap()
}

/// The same of 1024 positions in a folder, as a setting of the base.
pub fn base_in(folder: &Path, experts: Option<Experts>) -> String {
    base_of(folder, experts, 1, |_, _| ())
}

/// The same of so many layers, changed before it is written.
pub fn base_of(
    folder: &Path,
    experts: Option<Experts>,
    layers: usize,
    change: impl FnOnce(&Device, &mut Weights),
) -> String {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let shape = ModelConfig { num_hidden_layers: layers, ..shape(&chat, 1024, experts) };
    let mut weights = Weights::init(&dev, shape, 7).unwrap();
    change(&dev, &mut weights);
    fs::create_dir_all(folder).unwrap();
    base::save(&dev, &weights, &chat, folder).unwrap();
    format!("model.base={}", folder.display())
}
