//! The model inside the binary: the tiny base that buyer and seller start from, as a Hugging Face folder.
//!
//! `assets/tiny/haggle/init.json` holds the command, config and seed that made it. It demonstrates the loop and is no
//! product.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, Weights};
use crate::negotiate::Cents;
use crate::text::{Chat, Prompts};
use std::path::Path;

const CONFIG: &str = include_str!("../assets/tiny/config.json");
const GENERATION: &str = include_str!("../assets/tiny/generation_config.json");
const WEIGHTS: &[u8] = include_bytes!("../assets/tiny/model.safetensors");
const TOKENIZER: &str = include_str!("../assets/tiny/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("../assets/tiny/tokenizer_config.json");
const TEMPLATE: &str = include_str!("../assets/tiny/chat_template.jinja");
const RECORD: &str = include_str!("../assets/tiny/haggle/init.json");

/// The name that stands for this model where a folder could stand.
pub const NAME: &str = "embedded";

/// The dearest list price it was shown, and can copy.
pub const DEAREST: Cents = Cents(999_999);

/// The embedded weights.
///
/// # Errors
/// None in a released binary: the assets are tested.
pub fn weights(dev: &Device) -> Result<Weights> {
    Weights::from_bytes(dev, "embedded model", CONFIG, WEIGHTS)
}

/// Their shape.
///
/// # Errors
/// None in a released binary: the assets are tested.
pub fn shape() -> Result<ModelConfig> {
    ModelConfig::parse(CONFIG).map_err(|what| Error::data("embedded model", what))
}

/// The embedded tokenizer and chat template.
///
/// # Errors
/// None in a released binary: the assets are tested.
pub fn chat() -> Result<Chat> {
    let folder = Path::new("embedded model");
    Chat::from_files(TOKENIZER.as_bytes(), TOKENIZER_CONFIG.as_bytes(), Some(TEMPLATE.as_bytes()), folder)
}

/// The same, as generation uses them.
///
/// # Errors
/// None in a released binary: the assets are tested.
pub fn prompts() -> Result<Prompts> {
    let folder = Path::new("embedded model");
    Prompts::from_files(TOKENIZER.as_bytes(), TOKENIZER_CONFIG.as_bytes(), Some(TEMPLATE.as_bytes()), folder)
}

/// How the embedded model was made, as JSON: command, config, seed, probe.
pub fn record() -> &'static str {
    RECORD
}

/// The embedded folder's small files, `(name, text)`: what a copy needs beside its weights.
pub fn files() -> [(&'static str, &'static str); 5] {
    [
        ("config.json", CONFIG),
        ("generation_config.json", GENERATION),
        ("tokenizer.json", TOKENIZER),
        ("tokenizer_config.json", TOKENIZER_CONFIG),
        ("chat_template.jinja", TEMPLATE),
    ]
}
