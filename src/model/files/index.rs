//! Which files hold a folder's weights: the single one, or shards; and an index held to what lies in them.

use super::header::Opened;
use super::{INDEX, SINGLE};
use crate::disk::read_fetched;
use crate::error::{Error, Result, shown};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What to do about an index and shards that are not of one model.
const STALE: &str = "index and shards are not of one save; fetch or save the folder again";

/// The safetensors files of a folder.
pub(super) struct Shards {
    /// The files, by name.
    pub paths: Vec<PathBuf>,
    /// The index and the file it places each tensor in, where there is one.
    index: Option<(PathBuf, BTreeMap<String, String>)>,
}

impl Shards {
    /// The files that hold a folder's weights; each is there.
    pub fn of(dir: &Path) -> Result<Shards> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if !index.exists() {
            return match single.exists() {
                true => Ok(Shards { paths: vec![single], index: None }),
                false => Err(Error::io(dir, format!("holds neither {SINGLE} nor {INDEX}{}", other_weights(dir)))),
            };
        }
        let placed = placed(&index)?;
        let files: BTreeSet<&String> = placed.values().collect();
        if single.exists() && files.iter().any(|file| *file != SINGLE) {
            let what = format!("holds {SINGLE} and an index of other files; remove the one that is not the model's");
            return Err(Error::data(dir, what));
        }
        for file in &files {
            if !dir.join(file).exists() {
                let what = format!("names the shard {file}, which is not in the folder; fetch it");
                return Err(Error::data(index, what));
            }
        }
        Ok(Shards { paths: files.into_iter().map(|file| dir.join(file)).collect(), index: Some((index, placed)) })
    }

    /// `Ok` when every tensor lies where the index places it, and no other does.
    pub fn hold(&self, files: &[Opened]) -> Result<()> {
        let Some((index, placed)) = &self.index else { return Ok(()) };
        let name = |file: &Opened| file.path.file_name().map(|name| name.to_string_lossy().into_owned());
        for file in files {
            let here = name(file).unwrap_or_default();
            let held: BTreeSet<&str> = file.tensors.names().into_iter().collect();
            let lacks = placed.iter().find(|(tensor, at)| **at == here && !held.contains(tensor.as_str()));
            if let Some((tensor, _)) = lacks {
                let what = format!("places tensor `{tensor}` in {here}, which holds no such tensor; {STALE}");
                return Err(Error::data(index, what));
            }
            if let Some(tensor) = held.iter().find(|tensor| placed.get(**tensor) != Some(&here)) {
                let says = placed.get(*tensor).map_or("does not name".into(), |at| format!("places in {at}"));
                return Err(Error::data(&file.path, format!("holds tensor `{tensor}`, which {INDEX} {says}; {STALE}")));
            }
        }
        Ok(())
    }
}

/// The file that an index places each tensor in.
fn placed(index: &Path) -> Result<BTreeMap<String, String>> {
    let json: Value =
        serde_json::from_slice(&read_fetched(index)?).map_err(|e| Error::data(index, format!("not JSON: {e}")))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::data(index, "has no object `weight_map`"))?;
    let place = |(tensor, file): (&String, &Value)| match file.as_str() {
        Some(name) if !name.is_empty() && Path::new(name).file_name() == Some(name.as_ref()) => {
            Ok((tensor.clone(), name.to_string()))
        }
        _ => Err(Error::data(index, format!("weight_map: `{tensor}`: {file} is no file name"))),
    };
    map.iter().map(place).collect()
}

/// The first file of a folder, by name, that ends in one of these.
fn first_of(dir: &Path, ends: &[&str]) -> Option<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    names.filter(|name| ends.iter().any(|end| name.ends_with(end))).min()
}

/// What to do where weights lie in a format of another kind.
fn other_weights(dir: &Path) -> String {
    match first_of(dir, &[".bin", ".pt", ".pth", ".h5"]) {
        None => String::new(),
        Some(other) => format!(", but {other}; save it as safetensors (transformers: save_pretrained)"),
    }
}

/// Names a GGUF file, or a folder of them without safetensors, and how it is converted.
///
/// # Errors
/// [`Error::Data`]
pub fn refuse_gguf(path: &Path) -> Result<()> {
    let is_gguf = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    let (dir, file) = match (is_gguf, path.is_dir()) {
        (true, false) => (path.parent().unwrap_or(path), path.file_name().map(|name| name.to_string_lossy().into())),
        _ if path.join(SINGLE).exists() || path.join(INDEX).exists() => return Ok(()),
        _ => (path, first_of(path, &[".gguf"])),
    };
    let Some(file) = file else { return Ok(()) };
    let what = format!(
        "GGUF is not read; with transformers, AutoModelForCausalLM.from_pretrained({:?}, gguf_file={file:?}) and \
         AutoTokenizer the same, then save_pretrained of both, make a folder of safetensors",
        shown(dir).to_string()
    );
    Err(Error::data(dir.join(file), what))
}
