//! The sellers a buyer can be held against.

use crate::error::{Error, Result};
use crate::negotiate::prompts::PERSONAS;
use crate::negotiate::sellers::SELLERS;
use crate::negotiate::{Persona, Seller};

/// A seller to be met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Opponent {
    /// The frozen seller model, with a persona in its prompt.
    Model(Persona),
    /// A script.
    Script(Seller),
}

impl Opponent {
    /// The name in tables: `base`, `base_begging`, ..., or the script's key.
    pub fn key(self) -> String {
        match self {
            Opponent::Model(Persona::Neutral) => "base".into(),
            Opponent::Model(persona) => format!("base_{}", persona.name()),
            Opponent::Script(seller) => seller.key().into(),
        }
    }

    /// Every opponent, in the order of tables.
    pub fn all() -> Vec<Opponent> {
        PERSONAS.map(Opponent::Model).into_iter().chain(SELLERS.map(Opponent::Script)).collect()
    }

    /// The opponents a key names: one, or all for `all`.
    ///
    /// # Errors
    /// [`Error::Config`] naming those there are.
    pub fn named(key: &str) -> Result<Vec<Opponent>> {
        let all = Opponent::all();
        let found: Vec<Opponent> = all.iter().copied().filter(|o| key == "all" || o.key() == key).collect();
        if found.is_empty() {
            let keys: Vec<String> = all.iter().map(|o| o.key()).collect();
            return Err(Error::Config { problems: vec![format!("no seller `{key}`; use {} or all", keys.join(", "))] });
        }
        Ok(found)
    }
}
