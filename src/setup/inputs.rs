//! What a run was made of, by content: checksums of its products and models, in `RUN/inputs.json`.
//!
//! The one idea: a folder may be moved and its files written anew; what a run is held to when it goes on is what it reads of
//! them. A path says where that is found, no more.

use super::base::Base;
use super::{Setup, Stock, products};
use crate::device::Device;
use crate::disk::write_atomic;
use crate::error::{Error, Result};
use crate::negotiate::Product;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "inputs.json";

/// Products and models of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// What is bargained over.
    pub products: Input,
    /// The weights the run begins with, before any demonstration.
    pub base: Input,
    /// The frozen seller.
    pub seller: Input,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Where it was found, as the config names it.
    pub path: String,
    /// CRC-32C of each of its parts.
    pub crcs: BTreeMap<String, u32>,
}

impl Inputs {
    /// Those of a setup: all products of its folder, whatever its limits leave of them.
    ///
    /// # Errors
    /// As [`products`] and [`Setup::seller_crc`]; what reading weights from the device meets.
    pub fn of(setup: &Setup) -> Result<Inputs> {
        let (model, mut crcs) = (&setup.config.model, BTreeMap::new());
        let mut whole = setup.config.clone();
        (whole.products.limit, whole.eval.products) = (0, 0);
        let Stock { train, held_out, .. } = products(&whole)?;
        for product in train.iter().chain(&held_out) {
            // `books_12` is a record of books.json.
            let file = product.code.rsplit_once('_').map_or(product.code.as_str(), |(file, _)| file);
            let Product { code, category, title, description, list, cost, budget } = &**product;
            let text = format!("{:?}", (code, category, title, description, list.0, cost.0, budget.0));
            let crc = crcs.entry(format!("{file}.json")).or_insert(0);
            *crc = crc32c::crc32c_append(*crc, text.as_bytes());
        }
        let path = if model.seller == "base" { &model.base } else { &model.seller };
        let seller = match setup.seller_model() {
            Some(base) => Input::of_model(&setup.dev, path, base)?,
            None => {
                let crcs = BTreeMap::from([("the name of the model".into(), setup.seller_crc()?)]);
                Input { path: path.clone(), crcs }
            }
        };
        Ok(Inputs {
            products: Input { path: setup.config.products.path.clone(), crcs },
            base: Input::of_model(&setup.dev, &model.base, &setup.base)?,
            seller,
        })
    }

    /// What a run was made of; none where a run does not say.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Data`] when the file cannot be read.
    pub fn read(run: &Path) -> Result<Option<Inputs>> {
        let path = run.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
                let what =
                    format!("cannot be understood ({e}); put it back, or remove it to go on with inputs as they are");
                Error::data(&path, what)
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(&path, e)),
        }
    }

    /// Says it in the run directory.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn write(&self, run: &Path) -> Result<()> {
        write_atomic(&run.join(FILE), |f| writeln!(f, "{}", serde_json::to_string_pretty(self)?))
    }

    /// Each of them with the config's key.
    pub fn keyed(&self) -> [(&'static str, &Input); 3] {
        [("products.path", &self.products), ("model.base", &self.base), ("model.seller", &self.seller)]
    }
}

impl Input {
    fn of_model(dev: &Device, path: &str, model: &Base) -> Result<Input> {
        let config = &model.weights.config;
        let context = config.max_position_embeddings;
        let texts = [("config.json", config.to_json()), ("generation_config.json", config.generation_json())];
        let mut crcs = BTreeMap::from(texts.map(|(file, text)| (file.into(), crc32c::crc32c(text.as_bytes()))));
        crcs.insert("the weights".into(), model.weights.crc(dev)?);
        for (file, text) in model.chat.files(context)? {
            crcs.insert(file.into(), crc32c::crc32c(text.as_bytes()));
        }
        Ok(Input { path: path.into(), crcs })
    }

    /// The parts that differ from those of `began`.
    pub fn changed<'a>(&'a self, began: &'a Input) -> Vec<&'a str> {
        let both = self.crcs.keys().chain(began.crcs.keys().filter(|part| !self.crcs.contains_key(*part)));
        both.filter(|part| self.crcs.get(*part) != began.crcs.get(*part)).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_parts_are_named_on_either_side_and_the_path_is_none() {
        let input = |path: &str, parts: &[(&str, u32)]| Input {
            path: path.into(),
            crcs: parts.iter().map(|(part, crc)| (part.to_string(), *crc)).collect(),
        };
        let began = input("/a", &[("books.json", 1), ("toys.json", 2), ("music.json", 3)]);
        assert!(input("/b", &[("books.json", 1), ("toys.json", 2), ("music.json", 3)]).changed(&began).is_empty());
        let now = input("/a", &[("books.json", 1), ("toys.json", 9), ("new.json", 4)]);
        assert_eq!(now.changed(&began), ["new.json", "toys.json", "music.json"]);
    }
}
