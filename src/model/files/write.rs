//! Weights written as safetensors: tensor by tensor, in one file or in shards with an index.

use super::{INDEX, SINGLE};
use crate::device::DType;
use crate::disk::{free_bytes, write_atomic};
use crate::error::{Error, Result, mib};
use crate::model::weights::initial;
use crate::model::{Layout, ModelConfig, TensorSpec};
use half::bf16;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::Path;

/// Random weights of a shape, as they are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomFolder {
    /// What they are a function of, with each tensor's name: as [`crate::model::Weights::init`] has them.
    pub seed: u64,
    /// F32, or Bf16: each value rounded once.
    pub dtype: DType,
    /// Most bytes of tensors in a file; a tensor of more has one of its own.
    pub shard_bytes: u64,
}

/// Files of a folder and what each holds, in the layout's order.
type Files<'a> = Vec<(String, Vec<&'a TensorSpec>)>;

impl RandomFolder {
    /// Writes the weights of `config` into `dir`, which is there: one tensor is in memory at a time. The index comes after
    /// the shards and `config.json` last, so that what a kill leaves is no model. `told` hears bytes done, of all.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk has not the room, or what writing meets.
    pub fn write(self, config: &ModelConfig, dir: &Path, told: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let layout = Layout::new(config);
        let all: u64 = layout.specs.iter().map(|spec| bytes(spec, self.dtype)).sum();
        refuse_full(dir, all)?;
        let (files, mut done) = (self.files(&layout), 0);
        let residual = 1.0 / (2.0 * config.num_hidden_layers as f64).sqrt();
        for (name, specs) in &files {
            write_atomic(&dir.join(name), |to| {
                to.write_all(&header(specs, self.dtype, &[]))?;
                for spec in specs {
                    write_tensor(to, &initial(spec, self.seed, residual), self.dtype)?;
                    done += bytes(spec, self.dtype);
                    told(done, all);
                }
                Ok(())
            })?;
        }
        let texts = [
            (files.len() > 1).then(|| (INDEX, index(&files, all))),
            Some(("generation_config.json", config.generation_json())),
            Some(("config.json", config.to_json_stored(self.dtype))),
        ];
        for (name, text) in texts.into_iter().flatten() {
            write_atomic(&dir.join(name), |to| to.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    fn files(self, layout: &Layout) -> Files<'_> {
        let (mut groups, mut held): (Vec<Vec<&TensorSpec>>, u64) = (vec![vec![]], 0);
        for spec in &layout.specs {
            let more = bytes(spec, self.dtype);
            if held > 0 && held.saturating_add(more) > self.shard_bytes {
                groups.push(vec![]);
                held = 0;
            }
            held += more;
            groups.last_mut().into_iter().for_each(|group| group.push(spec));
        }
        let n = groups.len();
        let name = |i: usize| match n {
            1 => SINGLE.to_string(),
            _ => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        groups.into_iter().enumerate().map(|(i, group)| (name(i), group)).collect()
    }
}

/// `Ok` when the disk of `dir` has room for `want` bytes.
fn refuse_full(dir: &Path, want: u64) -> Result<()> {
    match free_bytes(dir) {
        Some(free) if free < want => {
            let what = format!("the weights take {}, the disk has {} free; name another place", mib(want), mib(free));
            Err(Error::io(dir, what))
        }
        _ => Ok(()),
    }
}

fn bytes(spec: &TensorSpec, dtype: DType) -> u64 {
    (spec.len() * dtype.size()) as u64
}

fn index(files: &Files, all: u64) -> String {
    let places = files.iter().flat_map(|(file, specs)| specs.iter().map(move |spec| (spec.name.clone(), json!(file))));
    let map: Map<String, Value> = places.collect();
    format!("{:#}\n", json!({ "metadata": { "total_size": all }, "weight_map": map }))
}

/// What a safetensors file of these tensors, end to end, begins with; `more` metadata beside the usual.
pub(super) fn header(specs: &[&TensorSpec], dtype: DType, more: &[(&str, String)]) -> Vec<u8> {
    let mut header = Map::new();
    let mut metadata = json!({ "format": "pt" });
    more.iter().for_each(|(key, value)| metadata[key] = json!(value));
    header.insert("__metadata__".into(), metadata);
    let (mut offset, kind) = (0, if dtype == DType::Bf16 { "BF16" } else { "F32" });
    for spec in specs {
        let end = offset + bytes(spec, dtype);
        let entry = json!({ "dtype": kind, "shape": spec.shape, "data_offsets": [offset, end] });
        header.insert(spec.name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

/// The values, each rounded once where they are stored in bf16.
pub(super) fn write_tensor(to: &mut dyn Write, values: &[f32], dtype: DType) -> io::Result<()> {
    if dtype != DType::Bf16 {
        return to.write_all(bytemuck::cast_slice(values));
    }
    for chunk in values.chunks(1 << 16) {
        let narrow: Vec<bf16> = chunk.iter().map(|x| bf16::from_f32(*x)).collect();
        to.write_all(bytemuck::cast_slice(&narrow))?;
    }
    Ok(())
}
