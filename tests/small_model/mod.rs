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

/// Its weights, for so many positions.
pub fn weights(dev: &Device, chat: &Chat, context: usize, experts: Option<Experts>) -> Weights {
    let shape = ModelConfig {
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
    };
    Weights::init(dev, shape, 7).unwrap()
}

/// The same of 1024 positions in a folder, as a setting of the base.
pub fn base_in(folder: &Path, experts: Option<Experts>) -> String {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    fs::create_dir_all(folder).unwrap();
    base::save(&dev, &weights(&dev, &chat, 1024, experts), &chat, folder).unwrap();
    format!("model.base={}", folder.display())
}
