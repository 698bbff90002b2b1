//! The pages that hold keys and values of every layer. Who owns which page is the engine's business.

use super::{ModelConfig, Plan};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ops::attn::{Heads, kv_copy_page, pages_len};

/// Keys and values of all layers, in pages of [`crate::ops::attn::CHUNK`] slots.
pub struct KvPages {
    /// Keys, a buffer a layer.
    pub k: Vec<Buffer>,
    /// Values, a buffer a layer.
    pub v: Vec<Buffer>,
    /// Pages P of each layer.
    pub n_pages: usize,
    heads: Heads,
}

impl KvPages {
    /// `n_pages` pages for a model.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new(dev: &Device, config: &ModelConfig, n_pages: usize) -> Result<KvPages> {
        KvPages::planned(&mut Plan::on(dev), config, n_pages)
    }

    /// The same, through a plan.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn planned(plan: &mut Plan, config: &ModelConfig, n_pages: usize) -> Result<KvPages> {
        let (heads, dtype) = (config.heads(), plan.device().factor_dtype(config.compute));
        let mut layers = |name: &str| -> Result<Vec<Buffer>> {
            let layer = |l| plan.buffer("kv pages", format!("{name}.{l}"), dtype, pages_len(n_pages, heads));
            (0..config.num_hidden_layers).map(layer).collect()
        };
        Ok(KvPages { k: layers("k")?, v: layers("v")?, n_pages, heads })
    }

    /// Copies page `from` onto page `to` in every layer (copy on write).
    ///
    /// # Errors
    /// [`Error::Shape`] when a page does not exist.
    pub fn copy_page(&mut self, dev: &Device, from: usize, to: usize) -> Result<()> {
        if from.max(to) >= self.n_pages {
            return Err(Error::Shape { op: "copy_page", rule: "page < P", want: self.n_pages, got: from.max(to) });
        }
        for pages in self.k.iter_mut().chain(&mut self.v) {
            kv_copy_page(dev, pages.view_mut(), from, to, self.heads)?;
        }
        Ok(())
    }
}
