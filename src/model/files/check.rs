//! What a folder's tensors are held to: names, shapes, types, the tied head, and values that are numbers.

use super::header::Opened;
use crate::error::{Error, Result};
use crate::model::{Layout, TensorSpec};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::BTreeMap;
use std::path::Path;

const HEAD: &str = "lm_head.weight";
const EMBED: &str = "model.embed_tokens.weight";
/// How the names of what quantised folders hold in a matrix's place or beside it end.
const QUANTISED: [&str; 9] = [
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".absmax",
    ".SCB",
    "_blocks",
];

/// Tensors by name, with the files they lie in.
pub(super) type Found<'a> = BTreeMap<String, (&'a Path, TensorView<'a>)>;

/// All tensors of a folder's files.
pub(super) fn all<'a>(files: &'a [Opened]) -> Result<Found<'a>> {
    let mut found: Found = BTreeMap::new();
    for file in files {
        for (name, tensor) in file.tensors.iter() {
            if found.insert(name.to_string(), (&file.path, tensor)).is_some() {
                return Err(Error::data(&file.path, format!("tensor `{name}` stands in an earlier file too")));
            }
        }
    }
    Ok(found)
}

/// `Ok` when the tensors are those of the layout, neither fewer nor more; `place` names the whole.
pub(super) fn fit(found: &Found, layout: &Layout, place: &Path, tied: bool) -> Result<()> {
    refuse_quantised(found)?;
    for spec in &layout.specs {
        one(spec, place, found.get(&spec.name), tied)?;
    }
    for (name, (file, tensor)) in found {
        let tied_head = tied && name == HEAD;
        if layout.find(name).is_none() && !tied_head {
            let want = "no such tensor in this architecture".into();
            return Err(Error::Weight { file: file.into(), name: name.clone(), want, got: describe(tensor) });
        }
    }
    tied_head(found, tied)
}

fn refuse_quantised(found: &Found) -> Result<()> {
    match found.iter().find(|(name, _)| QUANTISED.iter().any(|end| name.ends_with(end))) {
        None => Ok(()),
        Some((name, (file, tensor))) => {
            let want = "weights that are not quantised; take the model's bf16 folder".into();
            Err(Error::Weight { file: file.into(), name: name.clone(), want, got: describe(tensor) })
        }
    }
}

fn one(spec: &TensorSpec, place: &Path, tensor: Option<&(&Path, TensorView)>, tied: bool) -> Result<()> {
    let untied_head = match !tied && spec.name == HEAD {
        true => " (tie_word_embeddings is false; set tie_word_embeddings true if the head is the embedding)",
        false => "",
    };
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
fn tied_head(found: &Found, tied: bool) -> Result<()> {
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

/// `Ok` when every value is a number.
pub(super) fn finite(spec: &TensorSpec, file: &Path, data: &[f32]) -> Result<()> {
    match data.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(i) => {
            let got = format!("{} at element {i}", data[i]);
            Err(Error::Weight { file: file.into(), name: spec.name.clone(), want: "finite values".into(), got })
        }
    }
}
