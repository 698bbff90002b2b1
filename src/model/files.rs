//! Weights on disk: Hugging Face folders of `config.json` and safetensors, one file or shards with an index.
//!
//! Files are mapped, and every name and shape is checked before a byte is taken. Saving is atomic: a kill at any
//! moment leaves the old file or the new one.

use super::{ModelConfig, Plan, TensorId, TensorSpec, Weights};
use crate::device::{DType, Device, map_file};
use crate::disk::{read_fetched, refuse_pointer, write_atomic};
use crate::error::{Error, Result};
use crate::text::tokenizer::id_end;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const HEAD: &str = "lm_head.weight";
const EMBED: &str = "model.embed_tokens.weight";

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
        from_files(dev, config, Path::new(name), &[open(Path::new(name), safetensors)?], Weights::planned)
    }

    /// Saves `model.safetensors` (f32), `config.json` and `generation_config.json` into `dir`, which is made if
    /// absent. Each file is written beside itself, synced, and renamed; the weights come last.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and what the system said (no space, no permission).
    pub fn save(&self, dev: &Device, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        write_atomic(&dir.join("config.json"), |f| f.write_all(self.config.to_json().as_bytes()))?;
        write_atomic(&dir.join("generation_config.json"), |f| f.write_all(self.config.generation_json().as_bytes()))?;
        write_atomic(&dir.join(SINGLE), |f| self.write_safetensors(dev, f))
    }

    /// Writes the parameters as a safetensors file, tensor by tensor: no second copy of the model exists.
    ///
    /// # Errors
    /// Whatever `to` says.
    pub fn write_safetensors(&self, dev: &Device, to: &mut dyn Write) -> io::Result<()> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": "pt" }));
        let mut offset = 0;
        for spec in &self.layout.specs {
            let end = offset + 4 * spec.len();
            let entry = json!({ "dtype": "F32", "shape": spec.shape, "data_offsets": [offset, end] });
            header.insert(spec.name.clone(), entry);
            offset = end;
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        to.write_all(&(header.len() as u64).to_le_bytes())?;
        to.write_all(header.as_bytes())?;
        for id in (0..self.layout.specs.len()).map(TensorId) {
            let data = self.tensor(dev, id).map_err(io::Error::other)?;
            to.write_all(bytemuck::cast_slice(&data))?;
        }
        Ok(())
    }
}

/// Makes weights of zeros: to train, or to read.
type Make = fn(&mut Plan, &str, ModelConfig) -> Result<Weights>;

fn load(dev: &Device, dir: &Path, compute: DType, make: Make) -> Result<Weights> {
    let config = ModelConfig { token_end: token_end(dir)?, ..ModelConfig::read(&dir.join("config.json"))? };
    let paths = weight_files(dir)?;
    let maps = paths.iter().map(|p| map_file(p)).collect::<Result<Vec<_>>>()?;
    let files = paths.iter().zip(&maps).map(|(p, m)| open(p, m)).collect::<Result<Vec<_>>>()?;
    from_files(dev, ModelConfig { compute, ..config }, dir, &files, make)
}

/// What the weights of a folder are stored in: see [`ModelConfig::stored`]. Their headers alone are read.
///
/// # Errors
/// As [`Weights::load`], of what it looks at.
pub fn stored(dir: &Path) -> Result<DType> {
    let mut stored = DType::Bf16;
    for path in weight_files(dir)? {
        let map = map_file(&path)?;
        stored = if dtype_of(&[open(&path, &map)?]) == DType::Bf16 { stored } else { DType::F32 };
    }
    Ok(stored)
}

fn dtype_of(files: &[Opened]) -> DType {
    let mut tensors = files.iter().flat_map(|file| file.tensors.iter());
    if tensors.all(|(_, tensor)| tensor.dtype() == Dtype::BF16) { DType::Bf16 } else { DType::F32 }
}

/// Tensors by name, with the files they lie in.
type Found<'a> = BTreeMap<String, (&'a Path, TensorView<'a>)>;

/// A safetensors file opened in memory.
struct Opened<'a> {
    path: PathBuf,
    tensors: SafeTensors<'a>,
}

/// Where the ids of the tokenizer of a folder end, if it has one.
fn token_end(dir: &Path) -> Result<Option<usize>> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    id_end(&read_fetched(&path)?).map(Some).map_err(|what| Error::data(path, what))
}

fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<Opened<'a>> {
    refuse_pointer(path, bytes)?;
    let broken = |e| Error::data(path, format!("truncated or corrupted safetensors file: {e}"));
    Ok(Opened { path: path.into(), tensors: SafeTensors::deserialize(bytes).map_err(broken)? })
}

/// The safetensors files of a folder: the single one, or those its index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join(SINGLE).exists() {
        return Ok(vec![dir.join(SINGLE)]);
    }
    let path = dir.join(INDEX);
    if !path.exists() {
        return Err(Error::io(dir, format!("holds neither {SINGLE} nor {INDEX}{}", other_weights(dir))));
    }
    let index: Value =
        serde_json::from_slice(&read_fetched(&path)?).map_err(|e| Error::data(&path, format!("not JSON: {e}")))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::data(&path, "has no object `weight_map`"))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str().filter(|f| !f.is_empty() && Path::new(f).file_name() == Some(f.as_ref())) {
            Some(file) => files.insert(dir.join(file)),
            None => return Err(Error::data(&path, format!("weight_map: `{tensor}`: {file} is no file name"))),
        };
    }
    Ok(files.into_iter().collect())
}

/// What to do where weights lie in a format of another kind.
fn other_weights(dir: &Path) -> String {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    let mut others: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| [".bin", ".pt", ".pth", ".gguf", ".h5"].iter().any(|end| name.ends_with(end)))
        .collect();
    others.sort();
    match others.first() {
        None => String::new(),
        Some(other) => format!(", but {other}; save it as safetensors (transformers: save_pretrained)"),
    }
}

/// `place` names the whole in errors.
fn from_files(dev: &Device, config: ModelConfig, place: &Path, files: &[Opened], make: Make) -> Result<Weights> {
    let config = ModelConfig { stored: dtype_of(files), ..config };
    let layout = super::Layout::new(&config);
    let mut found: Found = BTreeMap::new();
    for file in files {
        for (name, tensor) in file.tensors.iter() {
            if found.insert(name.to_string(), (&file.path, tensor)).is_some() {
                return Err(Error::data(&file.path, format!("tensor `{name}` stands in an earlier file too")));
            }
        }
    }
    for spec in &layout.specs {
        check(spec, place, found.get(&spec.name), config.tie_word_embeddings)?;
    }
    for (name, (file, tensor)) in &found {
        let tied_head = config.tie_word_embeddings && name == HEAD;
        if layout.find(name).is_none() && !tied_head {
            let want = "no such tensor in this architecture".into();
            return Err(Error::Weight { file: file.into(), name: name.clone(), want, got: describe(tensor) });
        }
    }
    check_tied_head(&found, config.tie_word_embeddings)?;
    let mut w = make(&mut Plan::on(dev), "model", config)?;
    for id in 0..w.layout.specs.len() {
        let spec = &w.layout.specs[id];
        let (file, tensor) = &found[&spec.name];
        let data = widen(tensor);
        check_finite(spec, file, &data)?;
        w.set(dev, TensorId(id), &data);
    }
    w.version = 1;
    Ok(w)
}

fn check(spec: &TensorSpec, place: &Path, tensor: Option<&(&Path, TensorView)>, tied: bool) -> Result<()> {
    let untied_head = if !tied && spec.name == HEAD { " (tie_word_embeddings is false)" } else { "" };
    let want = format!("{:?}{untied_head}", spec.shape);
    let wrong = |file: &Path, want, got| Err(Error::Weight { file: file.into(), name: spec.name.clone(), want, got });
    match tensor {
        None => wrong(place, want, "no such tensor in the file".into()),
        Some((file, t)) if t.shape() != spec.shape => wrong(file, want, describe(t)),
        Some((file, t)) if !matches!(t.dtype(), Dtype::F32 | Dtype::BF16 | Dtype::F16) => {
            wrong(file, "F32, BF16 or F16".into(), format!("{:?}", t.dtype()))
        }
        Some(_) => Ok(()),
    }
}

fn describe(t: &TensorView) -> String {
    format!("{:?} {:?}", t.dtype(), t.shape())
}

/// A tied model's file may hold the head; then it must be the embedding.
fn check_tied_head(found: &Found, tied: bool) -> Result<()> {
    match (found.get(HEAD), found.get(EMBED)) {
        (Some((file, head)), Some((_, embed)))
            if tied && (head.dtype() != embed.dtype() || head.data() != embed.data()) =>
        {
            let want = format!("absent or equal to {EMBED} (tie_word_embeddings is true)");
            Err(Error::Weight { file: file.into(), name: HEAD.into(), want, got: "other values".into() })
        }
        _ => Ok(()),
    }
}

fn check_finite(spec: &TensorSpec, file: &Path, data: &[f32]) -> Result<()> {
    match data.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(i) => {
            let got = format!("{} at element {i}", data[i]);
            Err(Error::Weight { file: file.into(), name: spec.name.clone(), want: "finite values".into(), got })
        }
    }
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
