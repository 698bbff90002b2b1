//! Adapters on disk, in PEFT's form: `adapter_config.json` and `adapter_model.safetensors`.

use super::header::{self, Opened};
use super::write::{header as head, write_tensor};
use super::{check, widen};
use crate::device::{DType, Device};
use crate::disk::{read_fetched, write_atomic};
use crate::error::{Error, Result};
use crate::model::adapter::{Adapter, Lora, parse};
use crate::model::{ModelConfig, Plan, TensorSpec, Weights};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// Metadata of what we write: CRC-32C of the model's parameters ([`Weights::crc`]).
const BASE_CRC: &str = "haggle_base_crc32c";

/// True for a folder of an adapter.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).is_file()
}

/// An adapter's config: what it is, and how it names its model.
///
/// # Errors
/// [`Error::Io`], [`Error::Data`] naming every key that is not computed.
pub fn adapter_config(dir: &Path) -> Result<(Lora, String)> {
    let path = dir.join(CONFIG);
    let text = read_fetched(&path)?;
    let text = str::from_utf8(&text).map_err(|e| Error::data(&path, format!("not UTF-8: {e}")))?;
    parse(text).map_err(|what| Error::data(path, what))
}

impl Weights {
    /// Loads an adapter over a model that is held once for all who read it.
    ///
    /// # Errors
    /// As [`Weights::load`]; [`Error::Data`] for an adapter of another model.
    pub fn load_adapter(dev: &Device, base: &Arc<Weights>, dir: &Path) -> Result<Weights> {
        let (lora, base_name) = adapter_config(dir)?;
        let (path, c) = (dir.join(TENSORS), &base.config);
        lora.fits(c).map_err(|what| Error::data(dir.join(CONFIG), what))?;
        if !path.is_file() {
            return Err(Error::io(&path, "no such file; an adapter is saved as safetensors (save_pretrained)"));
        }
        let map = header::map(&path)?;
        let file = [header::open(&path, &map)?];
        let mut adapter = Adapter::zeros(&mut Plan::on(dev), c, &base.layout, lora)?;
        fit(&file[0], &adapter, c)?;
        same_base(dev, &path, &map, base)?;
        for spec in adapter.specs().to_vec() {
            let data = widen(&check::all(&file)?[&spec.name].1);
            check::finite(&spec, &path, &data)?;
            adapter.set(dev, &spec, &data);
        }
        adapter.base_name = base_name;
        Weights::over(dev, base, Some(adapter))
    }

    /// Saves the adapter over these weights, in f32, as PEFT does; nothing where there is none. Each file is written beside
    /// itself, synced, and renamed.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and what the system said.
    pub fn save_adapter(&self, dev: &Device, dir: &Path) -> Result<()> {
        let (Some(adapter), Some(base)) = (self.adapter(), self.base()) else { return Ok(()) };
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let json = adapter.lora.to_json(&adapter.base_name);
        write_atomic(&dir.join(CONFIG), |f| f.write_all(json.as_bytes()))?;
        let (data, crc) = (dev.download::<f32>(adapter.data())?, base_crc(dev, base)?);
        let specs: Vec<&TensorSpec> = adapter.specs().iter().collect();
        write_atomic(&dir.join(TENSORS), |f| {
            f.write_all(&head(&specs, DType::F32, &[(BASE_CRC, format!("{crc:08x}"))]))?;
            specs.iter().try_for_each(|spec| write_tensor(f, &data[spec.range()], DType::F32))
        })
    }
}

/// `Ok` when the file holds the tensors of the adapter, neither fewer nor more.
fn fit(file: &Opened, adapter: &Adapter, c: &ModelConfig) -> Result<()> {
    let wrong = |name: &str, want: String, got: String| {
        Err(Error::Weight { file: file.path.clone(), name: name.into(), want, got })
    };
    for spec in adapter.specs() {
        let want =
            format!("{:?} (r is {} in {CONFIG}, the base is {} wide)", spec.shape, adapter.lora.rank, c.hidden_size);
        match file.tensors.tensor(&spec.name) {
            Err(_) => return wrong(&spec.name, want, "no such tensor in the file".into()),
            Ok(t) if t.shape() != spec.shape => {
                return wrong(&spec.name, want, format!("{:?} {:?}; is it of another base?", t.dtype(), t.shape()));
            }
            Ok(t) if !matches!(t.dtype(), Dtype::F32 | Dtype::BF16 | Dtype::F16) => {
                return wrong(&spec.name, "F32, BF16 or F16".into(), format!("{:?}", t.dtype()));
            }
            Ok(_) => {}
        }
    }
    match file.tensors.names().into_iter().find(|name| !adapter.specs().iter().any(|spec| spec.name == **name)) {
        None => Ok(()),
        Some(name) => {
            let want = format!("no such tensor by target_modules and {} layers of the base", c.num_hidden_layers);
            wrong(name, want, "one more".into())
        }
    }
}

/// An adapter that we wrote knows the parameters it was trained over.
fn same_base(dev: &Device, path: &Path, bytes: &[u8], base: &Arc<Weights>) -> Result<()> {
    let metadata = SafeTensors::read_metadata(bytes).map_err(|e| Error::data(path, e))?.1;
    let Some(theirs) = metadata.metadata().as_ref().and_then(|own| own.get(BASE_CRC)) else { return Ok(()) };
    let own = format!("{:08x}", base_crc(dev, base)?);
    if *theirs == own {
        return Ok(());
    }
    let what = format!(
        "was trained over a base whose parameters have the checksum {theirs}, this one's have {own}; name its own \
         (model.adapter_base)"
    );
    Err(Error::data(path, what))
}

/// Of weights that are never written again it is computed once.
fn base_crc(dev: &Device, base: &Arc<Weights>) -> Result<u32> {
    Weights::over(dev, base, None)?.crc(dev)
}

/// Where an adapter's model lies, as the adapter names it.
pub fn base_place(dir: &Path, name: &str) -> PathBuf {
    let (as_named, beside) = (PathBuf::from(name), dir.join(name));
    if !as_named.exists() && beside.exists() { beside } else { as_named }
}
