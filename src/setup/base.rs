//! Opening a model by name, as a config says it: `embedded`, a Hugging Face folder, an adapter's folder, or a run directory
//! (its latest checkpoint).

use crate::config::paths::{place, spelled};
use crate::config::{Config, is_address};
use crate::device::{DType, Device};
use crate::disk::read_fetched;
use crate::dist::bytes_of;
use crate::dist::packet::numbers;
use crate::embedded;
use crate::error::{Error, Result, shown};
use crate::model::config::preset;
use crate::model::{ModelConfig, Plan, TensorId, Weights, files};
use crate::ops::want;
use crate::run::checkpoint;
use crate::text::{Chat, Prompts};
use crate::train::optimizer::Optimizer;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// A model and the text side it speaks through.
pub struct Base {
    /// The weights: another's, held once for all who read them, and perhaps an adapter over them.
    pub weights: Weights,
    /// Tokenizer and chat template.
    pub chat: Chat,
    /// Where the weights under an adapter come from: the whole path of a folder, or `embedded`.
    pub root: String,
}

/// Opens a model by name, to compute as a config says and on at most `model.context` positions. The name of an adapter opens
/// its base too.
///
/// # Errors
/// [`Error::Io`], [`Error::Data`] or [`Error::Weight`] naming the file or tensor at fault; [`Error::Device`] when the
/// device does not compute in it.
pub fn open(dev: &Device, name: &str, config: &Config) -> Result<Base> {
    open_beside(dev, name, config, &[])
}

/// The same beside others: what one of them holds already is not held again.
///
/// # Errors
/// As [`open`].
pub fn open_beside(dev: &Device, name: &str, config: &Config, others: &[&Base]) -> Result<Base> {
    let found = Found::of(name, config)?;
    let chat = found.chat()?;
    Ok(Base { weights: found.weights(dev, config, others)?, chat, root: found.root() })
}

/// The weights alone of a model by name, frozen: all that ids to ids needs.
///
/// # Errors
/// As [`open`].
pub fn weights(dev: &Device, name: &str, config: &Config) -> Result<Weights> {
    Found::of(name, config)?.weights(dev, config, &[])
}

/// What a name leads to.
struct Found {
    /// The folder of the whole model; none for the embedded one.
    base: Option<PathBuf>,
    /// The folder of the adapter over it.
    adapter: Option<PathBuf>,
}

impl Found {
    fn of(name: &str, config: &Config) -> Result<Found> {
        if name == embedded::NAME {
            return Ok(Found { base: None, adapter: None });
        }
        let at = folder(&place(name))?;
        if !files::is_adapter(&at) {
            return Ok(Found { base: Some(at), adapter: None });
        }
        let (base, key) = base_of(&at, config)?;
        if base == Path::new(embedded::NAME) && !base.exists() {
            return Ok(Found { base: None, adapter: Some(at) });
        }
        let refused = |what| Error::data(&at, format!("{key} names {}, {what}", shown(&base)));
        if !base.is_dir() {
            return Err(refused("which is no folder here; name its base with --set model.adapter_base=DIR"));
        }
        let base = folder(&base)?;
        if files::is_adapter(&base) {
            return Err(refused("which is an adapter itself; name a whole model, as haggle merge makes one"));
        }
        Ok(Found { base: Some(base), adapter: Some(at) })
    }

    fn root(&self) -> String {
        let whole = |folder: &PathBuf| spelled(&folder.canonicalize().unwrap_or_else(|_| folder.clone()));
        self.base.as_ref().map_or(embedded::NAME.into(), whole)
    }

    /// Where tokenizer and template are: an adapter may have its own.
    fn text(&self) -> Option<&Path> {
        let own = self.adapter.as_deref().filter(|folder| folder.join("tokenizer.json").is_file());
        own.or(self.base.as_deref())
    }

    fn chat(&self) -> Result<Chat> {
        match self.text() {
            None => embedded::chat(),
            Some(folder) => Chat::load(folder),
        }
    }

    fn weights(&self, dev: &Device, config: &Config, others: &[&Base]) -> Result<Weights> {
        let root = self.root();
        let held = others.iter().filter(|other| other.root == root).find_map(|other| other.weights.base());
        let base = held.map_or_else(|| self.base_weights(dev, config).map(Weights::shared), |held| Ok(held.clone()))?;
        match &self.adapter {
            None => Weights::over(dev, &base, None),
            Some(folder) => {
                checkpoint::check_model(folder)?;
                Weights::load_adapter(dev, &base, folder)
            }
        }
    }

    fn base_weights(&self, dev: &Device, config: &Config) -> Result<Weights> {
        let weights = match &self.base {
            None => embedded::weights(dev)?.compute_in(dev, config.compute())?.frozen(dev)?,
            Some(folder) => {
                checkpoint::check_model(folder)?;
                refuse_wide_tokenizer(folder)?;
                Weights::load_frozen(dev, folder, config.compute())?
            }
        };
        Ok(weights.within(config.model.context))
    }
}

/// The model under an adapter, and the key that names it.
fn base_of(adapter: &Path, config: &Config) -> Result<(PathBuf, &'static str)> {
    let own = &config.model.adapter_base;
    if own != "auto" {
        return Ok((place(own), "model.adapter_base"));
    }
    match files::adapter_config(adapter)?.1 {
        name if name.is_empty() => {
            let what = "names no base (base_model_name_or_path); name it with --set model.adapter_base=DIR";
            Err(Error::data(adapter, what))
        }
        name => Ok((files::base_place(adapter, &name), "base_model_name_or_path")),
    }
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
pub fn chat(name: &str, config: &Config) -> Result<Chat> {
    Found::of(name, config)?.chat()
}

/// Tokenizer and template of a model by name, as generation uses them.
///
/// # Errors
/// As [`Prompts::load`].
pub fn prompts(name: &str, config: &Config) -> Result<Prompts> {
    match Found::of(name, config)?.text() {
        None => embedded::prompts(),
        Some(folder) => Prompts::load(folder),
    }
}

/// The `generation_config.json` of a model by name, its path and its bytes, where it or the model under it has one.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn generation(name: &str, config: &Config) -> Result<Option<(PathBuf, Vec<u8>)>> {
    const FILE: &str = "generation_config.json";
    let found = Found::of(name, config)?;
    let paths = [&found.adapter, &found.base].into_iter().flatten().map(|folder| folder.join(FILE));
    if let Some(path) = paths.into_iter().find(|path| path.exists()) {
        return Ok(Some((path.clone(), read_fetched(&path)?)));
    }
    let file = embedded::files().into_iter().find(|(file, _)| found.base.is_none() && *file == FILE);
    Ok(file.map(|(file, text)| (file.into(), text.into())))
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
        None => {
            let found = Found::of(name, config)?;
            let shape = match &found.base {
                None => embedded::shape()?,
                Some(folder) => {
                    ModelConfig { stored: files::stored(folder)?, ..ModelConfig::read(&folder.join("config.json"))? }
                }
            };
            let adapter = found.adapter.map(|folder| files::adapter_config(&folder)).transpose()?;
            ModelConfig { adapter_rank: adapter.map_or(0, |(lora, _)| lora.rank), ..shape }
        }
    };
    Ok(ModelConfig { compute: config.compute(), ..shape }.within(config.model.context))
}

/// Plans what a frozen model by name holds, with what is not in `held` yet: the roots of models planned before.
///
/// # Errors
/// As [`shape`].
pub fn plan_frozen(
    plan: &mut Plan,
    label: &str,
    name: &str,
    config: &Config,
    held: &mut Vec<String>,
) -> Result<Weights> {
    let shape = shape(name, config)?;
    let found = if name.starts_with(PRESET) { None } else { Some(Found::of(name, config)?) };
    let root = found.as_ref().map_or(name.into(), Found::root);
    let dry = &mut Plan::dry(plan.device());
    let new = !held.contains(&root);
    let base = Weights::planned_frozen(if new { plan } else { dry }, label, ModelConfig { adapter_rank: 0, ..shape })?;
    held.extend(new.then_some(root));
    let base = base.shared();
    match found.and_then(|found| found.adapter) {
        None => Weights::over(plan.device(), &base, None),
        Some(folder) => Weights::planned_over(plan, &base, files::adapter_config(&folder)?.0, 0),
    }
}

/// True when the frozen seller is the base, as it was before anything was taught.
pub fn is_its_own_seller(config: &Config) -> bool {
    let (base, seller) = (&config.model.base, &config.model.seller);
    seller == "base" || seller == base
}

/// The frozen seller's model by name.
pub fn seller_name(config: &Config) -> &str {
    if is_its_own_seller(config) { &config.model.base } else { &config.model.seller }
}

/// Puts what a checkpoint saved back into weights that train, of the same shape.
///
/// # Errors
/// As [`Weights::load`] and [`Weights::load_adapter`].
pub fn restore(dev: &Device, weights: &mut Weights, at: &Path) -> Result<()> {
    if let (Some(base), Some(_)) = (weights.base().cloned(), weights.adapter()) {
        let saved = Weights::load_adapter(dev, &base, at)?;
        return weights.copy_from(dev, &saved);
    }
    // Through the host: no second copy of the weights on the device.
    let host = Device::open("cpu", 1)?;
    let saved = Weights::load(&host, at)?;
    want("resume", "parameters of the checkpoint", saved.layout.len, weights.layout.len)?;
    weights.take(dev, &host.download::<f32>(saved.data())?)
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
    if path.join("config.json").is_file() || files::is_adapter(path) {
        return Ok(path.into());
    }
    match checkpoint::latest(path)? {
        Some(at) => Ok(at),
        None => {
            let what = "holds no model: neither config.json (a Hugging Face folder) nor adapter_config.json (an adapter) nor `latest` (a \
                 run with a checkpoint)";
            Err(Error::io(path, what))
        }
    }
}

/// Writes what trains: a Hugging Face folder, or an adapter as PEFT has it; and the text side.
pub fn save(dev: &Device, weights: &Weights, chat: &Chat, folder: &Path) -> Result<()> {
    if weights.adapter().is_some() {
        weights.save_adapter(dev, folder)?;
    } else {
        weights.save(dev, folder)?;
    }
    save_text(weights, chat, folder)
}

/// The same of weights that ranks of an optimizer may keep in parts: tensor by tensor they come to the first rank, which alone
/// writes. All ranks call it together.
///
/// # Errors
/// As [`save`]; what the ranks say.
pub fn save_among(dev: &Device, weights: &Weights, optimizer: &Optimizer, chat: &Chat, folder: &Path) -> Result<()> {
    let (ranks, first) = (&optimizer.ranks, optimizer.ranks.is_first());
    if ranks.world() == 1 || !weights.in_parts() {
        return if first { save(dev, weights, chat, folder) } else { Ok(()) };
    }
    let next = Cell::new(0);
    let of = |id: TensorId| {
        next.set(id.0 + 1);
        brought(dev, weights, optimizer, id)
    };
    let written = || {
        weights.save_from(folder, &of)?;
        save_text(weights, chat, folder)
    };
    let written = if first { written() } else { Ok(()) };
    // The others, and a first rank that cannot write: nobody waits for it.
    for id in next.get()..weights.layout.specs.len() {
        of(TensorId(id))?;
    }
    written
}

/// A tensor's values at the first rank, from what each keeps of it; at the others nothing.
fn brought(dev: &Device, weights: &Weights, optimizer: &Optimizer, id: TensorId) -> Result<Vec<f32>> {
    let (range, mut own) = (weights.layout.specs[id.0].range(), Vec::new());
    for (_, held) in weights.kept().of_range(&range) {
        own.extend(bytes_of(dev, weights.data().at(held))?);
    }
    let told = optimizer.ranks.bring("a tensor of the model", own)?;
    let mut all = vec![0f32; if optimizer.ranks.is_first() { range.len() } else { 0 }];
    let told = if all.is_empty() { &[][..] } else { &told[..] };
    for (rank, bytes) in told.iter().enumerate() {
        let (theirs, mut at) = (numbers::<f32>(bytes), 0);
        for (whole, _) in optimizer.cuts().kept(rank).of_range(&range) {
            let to = whole.start - range.start..whole.end - range.start;
            all[to].copy_from_slice(&theirs[at..at + whole.len()]);
            at += whole.len();
        }
    }
    Ok(all)
}

/// Writes the whole model, an adapter added to its matrices; and the text side.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn save_whole(dev: &Device, weights: &Weights, chat: &Chat, folder: &Path) -> Result<()> {
    weights.save(dev, folder)?;
    save_text(weights, chat, folder)
}

fn save_text(weights: &Weights, chat: &Chat, folder: &Path) -> Result<()> {
    for (name, text) in chat.files(weights.config.stated_positions())? {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io(&path, format!("cannot write: {e}")))?;
    }
    Ok(())
}
