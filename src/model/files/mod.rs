//! Weights on disk: Hugging Face folders of `config.json` and safetensors, one file or shards with an index.
//!
//! Files are mapped, and every name and shape is checked before a byte is taken. Saving is atomic: a kill at any
//! moment leaves the old file or the new one.

mod adapter;
mod check;
mod header;
mod index;
mod write;

pub use adapter::{adapter_config, base_place, is_adapter};
pub use index::refuse_gguf;
pub use write::RandomFolder;

use super::{Layout, ModelConfig, Plan, TensorId, TensorSpec, Weights};
use crate::device::{DType, Device};
use crate::disk::{read_fetched, write_atomic};
use crate::error::{Error, Result};
use crate::text::tokenizer::id_end;
use half::{bf16, f16};
use header::Opened;
use index::Shards;
use safetensors::{Dtype, tensor::TensorView};
use std::io::{self, Write};
use std::path::Path;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Weights {
    /// Loads a Hugging Face folder to train it; bf16 and f16 tensors are widened to f32.
    ///
    /// # Errors
    /// [`Error::Io`] for what cannot be read, [`Error::Data`] for a config or file that is not what it should be,
    /// [`Error::Weight`] for the first tensor that is missing, extra, of another shape or type, or not finite.
    pub fn load(dev: &Device, dir: &Path) -> Result<Weights> {
        load(dev, dir, DType::F32, Weights::planned)
    }

    /// Loads a Hugging Face folder that only forwards will read, to compute in `compute`: held in bf16 where nothing is
    /// lost by it.
    ///
    /// # Errors
    /// As [`Weights::load`]; [`Error::Device`] when the device does not compute in it.
    pub fn load_frozen(dev: &Device, dir: &Path, compute: DType) -> Result<Weights> {
        load(dev, dir, compute, Weights::planned_frozen)?.compute_in(dev, compute)
    }

    /// Loads from memory: the text of a `config.json` and the bytes of a safetensors file.
    ///
    /// # Errors
    /// As [`Weights::load`]; `name` stands for the path in messages.
    pub fn from_bytes(dev: &Device, name: &str, config: &str, safetensors: &[u8]) -> Result<Weights> {
        let config = ModelConfig::parse(config).map_err(|what| Error::data(name, what))?;
        let path = Path::new(name);
        header::check_size(path, safetensors, safetensors.len() as u64)?;
        from_files(dev, config, path, &[header::open(path, safetensors)?], Weights::planned)
    }

    /// Saves the whole model, an adapter added to its matrices: `model.safetensors` (f32), `config.json` and `generation_config.json` into `dir`, which is made if
    /// absent. Each file is written beside itself, synced, and renamed; the weights come last.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and what the system said (no space, no permission).
    pub fn save(&self, dev: &Device, dir: &Path) -> Result<()> {
        self.save_from(dir, &|id| self.merged(dev, id))
    }

    /// The same where the values of tensors come from elsewhere: other ranks keep them.
    ///
    /// # Errors
    /// As [`Weights::save`]; what `of` says.
    pub fn save_from(&self, dir: &Path, of: &dyn Fn(TensorId) -> Result<Vec<f32>>) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        write_atomic(&dir.join("config.json"), |f| f.write_all(self.config.to_json().as_bytes()))?;
        write_atomic(&dir.join("generation_config.json"), |f| f.write_all(self.config.generation_json().as_bytes()))?;
        write_atomic(&dir.join(SINGLE), |f| self.write_tensors(of, f))
    }

    /// Writes the parameters as a safetensors file, tensor by tensor: no second copy of the model exists.
    ///
    /// # Errors
    /// Whatever `to` says.
    pub fn write_safetensors(&self, dev: &Device, to: &mut dyn Write) -> io::Result<()> {
        self.write_tensors(&|id| self.merged(dev, id), to)
    }

    fn write_tensors(&self, of: &dyn Fn(TensorId) -> Result<Vec<f32>>, to: &mut dyn Write) -> io::Result<()> {
        let specs: Vec<&TensorSpec> = self.layout.specs.iter().collect();
        to.write_all(&write::header(&specs, DType::F32, &[]))?;
        for id in (0..self.layout.specs.len()).map(TensorId) {
            let data = of(id).map_err(io::Error::other)?;
            write::write_tensor(to, &data, DType::F32)?;
        }
        Ok(())
    }
}

/// Makes weights of zeros: to train, or to read.
type Make = fn(&mut Plan, &str, ModelConfig) -> Result<Weights>;

fn load(dev: &Device, dir: &Path, compute: DType, make: Make) -> Result<Weights> {
    refuse_gguf(dir)?;
    let config = ModelConfig { token_end: token_end(dir)?, ..ModelConfig::read(&dir.join("config.json"))? };
    let shards = Shards::of(dir)?;
    let maps = shards.paths.iter().map(|path| header::map(path)).collect::<Result<Vec<_>>>()?;
    let files =
        shards.paths.iter().zip(&maps).map(|(path, map)| header::open(path, map)).collect::<Result<Vec<_>>>()?;
    shards.hold(&files)?;
    from_files(dev, ModelConfig { compute, ..config }, dir, &files, make)
}

/// What the weights of a folder are stored in: see [`ModelConfig::stored`]. Their headers alone are read.
///
/// # Errors
/// As [`Weights::load`], of what it looks at.
pub fn stored(dir: &Path) -> Result<DType> {
    let mut stored = DType::Bf16;
    for path in Shards::of(dir)?.paths {
        let map = header::map(&path)?;
        stored = if dtype_of(&[header::open(&path, &map)?]) == DType::Bf16 { stored } else { DType::F32 };
    }
    Ok(stored)
}

fn dtype_of(files: &[Opened]) -> DType {
    let mut tensors = files.iter().flat_map(|file| file.tensors.iter());
    if tensors.all(|(_, tensor)| tensor.dtype() == Dtype::BF16) { DType::Bf16 } else { DType::F32 }
}

/// Where the ids of the tokenizer of a folder end, if it has one.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] when it is none.
pub fn token_end(dir: &Path) -> Result<Option<usize>> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    id_end(&read_fetched(&path)?).map(Some).map_err(|what| Error::data(path, what))
}

/// `place` names the whole in errors. Every value is looked at for what is no number: 0.05 s for the 135 million of
/// SmolLM2 on one core, measured, so that every load does it.
fn from_files(dev: &Device, config: ModelConfig, place: &Path, files: &[Opened], make: Make) -> Result<Weights> {
    let config = ModelConfig { stored: dtype_of(files), ..config };
    let found = check::all(files)?;
    check::fit(&found, &Layout::new(&config), place, config.tie_word_embeddings)?;
    let mut w = make(&mut Plan::on(dev), "model", config)?;
    for id in 0..w.layout.specs.len() {
        let spec = &w.layout.specs[id];
        let (file, tensor) = &found[&spec.name];
        let data = widen(tensor);
        check::finite(spec, file, &data)?;
        w.set(dev, TensorId(id), &data);
    }
    w.version = 1;
    Ok(w)
}

/// The values as f32. The bytes may lie unaligned, and the format is little-endian.
fn widen(t: &TensorView) -> Vec<f32> {
    let (pairs, quads) = (t.data().as_chunks::<2>().0, t.data().as_chunks::<4>().0);
    match t.dtype() {
        Dtype::BF16 => pairs.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F16 => pairs.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        _ => quads.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}
