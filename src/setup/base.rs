//! Opening a model by name, as a config says it: `embedded`, a Hugging Face folder, or a run directory (its latest checkpoint).

use crate::config::paths::place;
use crate::config::{Config, is_address};
use crate::device::{DType, Device};
use crate::disk::read_fetched;
use crate::embedded;
use crate::error::{Error, Result};
use crate::model::config::preset;
use crate::model::{ModelConfig, Weights, files};
use crate::run::checkpoint;
use crate::text::{Chat, Prompts};
use std::path::{Path, PathBuf};

/// A model and the text side it speaks through.
pub struct Base {
    /// The weights.
    pub weights: Weights,
    /// Tokenizer and chat template.
    pub chat: Chat,
}

/// Opens a model by name, to compute as a config says and on at most `model.context` positions.
///
/// # Errors
/// [`Error::Io`], [`Error::Data`] or [`Error::Weight`] naming the file or tensor at fault; [`Error::Device`] when the
/// device does not compute in it.
pub fn open(dev: &Device, name: &str, config: &Config) -> Result<Base> {
    if name == embedded::NAME {
        return Ok(Base { weights: weights(dev, name, config)?, chat: embedded::chat()? });
    }
    let folder = folder(&place(name))?;
    Ok(Base { weights: weights(dev, name, config)?, chat: Chat::load(&folder)? })
}

/// The weights alone of a model by name, frozen: all that ids to ids needs.
///
/// # Errors
/// As [`open`].
pub fn weights(dev: &Device, name: &str, config: &Config) -> Result<Weights> {
    let weights = match name == embedded::NAME {
        true => embedded::weights(dev)?.compute_in(dev, config.compute())?.frozen(dev)?,
        false => {
            let folder = checked(&place(name))?;
            refuse_wide_tokenizer(&folder)?;
            Weights::load_frozen(dev, &folder, config.compute())?
        }
    };
    Ok(weights.within(config.model.context))
}

/// Every id that the tokenizer of a folder makes has a row in the embedding.
fn refuse_wide_tokenizer(folder: &Path) -> Result<()> {
    let (end, rows) = (files::token_end(folder)?, ModelConfig::read(&folder.join("config.json"))?.vocab_size);
    match end {
        Some(end) if end > rows => {
            let what = format!(
                "the tokenizer has ids up to {}, the model's embedding {rows} rows (vocab_size); take the tokenizer \
                 that the model was trained with",
                end - 1
            );
            Err(Error::data(folder, what))
        }
        _ => Ok(()),
    }
}

/// Tokenizer and template of a model by name, as games are played.
///
/// # Errors
/// As [`Chat::load`].
pub fn chat(name: &str) -> Result<Chat> {
    if name == embedded::NAME { embedded::chat() } else { Chat::load(&folder(&place(name))?) }
}

/// Tokenizer and template of a model by name, as generation uses them.
///
/// # Errors
/// As [`Prompts::load`].
pub fn prompts(name: &str) -> Result<Prompts> {
    match name == embedded::NAME {
        true => embedded::prompts(),
        false => Prompts::load(&folder(&place(name))?),
    }
}

/// The `generation_config.json` of a model by name, its path and its bytes, where it has one.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn generation(name: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
    const FILE: &str = "generation_config.json";
    if name == embedded::NAME {
        let file = embedded::files().into_iter().find(|(file, _)| *file == FILE);
        return Ok(file.map(|(file, text)| (file.into(), text.into())));
    }
    let path = folder(&place(name))?.join(FILE);
    if path.exists() { Ok(Some((path.clone(), read_fetched(&path)?))) } else { Ok(None) }
}

/// Begins the name of a preset where a model's shape alone is asked for: plans of memory.
pub const PRESET: &str = "preset:";

/// The shape of a model by name, as [`open`] opens it; its weights are not read.
///
/// # Errors
/// As [`open`], of the folder and its `config.json`.
pub fn shape(name: &str, config: &Config) -> Result<ModelConfig> {
    let shape = match name.strip_prefix(PRESET) {
        Some(known) => {
            let shape = preset(known).ok_or_else(|| Error::data(name, "there is no preset of this name"))?;
            ModelConfig { stored: DType::Bf16, ..shape }
        }
        None if name == embedded::NAME => embedded::shape()?,
        None => {
            let folder = folder(&place(name))?;
            ModelConfig { stored: files::stored(&folder)?, ..ModelConfig::read(&folder.join("config.json"))? }
        }
    };
    Ok(ModelConfig { compute: config.compute(), ..shape }.within(config.model.context))
}

/// True when the frozen seller is the base, as it was before anything was taught.
pub fn is_its_own_seller(config: &Config) -> bool {
    let (base, seller) = (&config.model.base, &config.model.seller);
    seller == "base" || seller == base
}

/// The shapes of a config's starting weights and of its seller's; none of one behind a server.
///
/// # Errors
/// As [`shape`].
pub fn shapes(config: &Config) -> Result<(ModelConfig, Option<ModelConfig>)> {
    let base = shape(&config.model.base, config)?;
    let seller = match config.model.seller.as_str() {
        _ if is_its_own_seller(config) => Some(base.clone()),
        address if is_address(address) => None,
        other => Some(shape(other, config)?),
    };
    Ok((base, seller))
}

/// The folder that holds the weights: the path itself, or the latest checkpoint of a run directory.
pub fn folder(path: &Path) -> Result<PathBuf> {
    files::refuse_gguf(path)?;
    if !path.is_dir() {
        return Err(Error::io(path, "no such folder; give a Hugging Face folder or a run directory"));
    }
    if path.join("config.json").is_file() {
        return Ok(path.into());
    }
    match checkpoint::latest(path)? {
        Some(at) => Ok(at),
        None => {
            let what =
                "holds no model: neither config.json (a Hugging Face folder) nor `latest` (a run with a checkpoint)";
            Err(Error::io(path, what))
        }
    }
}

/// The same, its files held to their checksums where the folder carries them.
///
/// # Errors
/// As [`folder`]; [`Error::Data`] naming the file that is damaged or changed.
pub fn checked(path: &Path) -> Result<PathBuf> {
    let folder = folder(path)?;
    checkpoint::check_model(&folder)?;
    Ok(folder)
}

/// Writes a Hugging Face folder.
pub fn save(dev: &Device, weights: &Weights, chat: &Chat, folder: &Path) -> Result<()> {
    weights.save(dev, folder)?;
    for (name, text) in chat.files(weights.config.stated_positions())? {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io(&path, format!("cannot write: {e}")))?;
    }
    Ok(())
}
