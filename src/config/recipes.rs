//! Configs by name: starting points for models of a size, and the paper's own.

use crate::error::{Error, Result};

/// A config by name.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Its name.
    pub name: &'static str,
    /// Its TOML: what it sets, and why.
    pub toml: &'static str,
}

/// All of them.
pub const RECIPES: [Recipe; 4] = [
    Recipe { name: "paper", toml: include_str!("../../assets/recipes/paper.toml") },
    Recipe { name: "dense-0.1b", toml: include_str!("../../assets/recipes/dense-0.1b.toml") },
    Recipe { name: "dense-1b", toml: include_str!("../../assets/recipes/dense-1b.toml") },
    Recipe { name: "dense-8b", toml: include_str!("../../assets/recipes/dense-8b.toml") },
];

/// The recipe of a name.
///
/// # Errors
/// [`Error::Config`] naming those there are.
pub fn recipe(name: &str) -> Result<Recipe> {
    let names = || RECIPES.map(|recipe| recipe.name).join(", ");
    let unknown = || Error::Config { problems: vec![format!("--recipe {name}: unknown; use one of {}", names())] };
    RECIPES.into_iter().find(|recipe| recipe.name == name).ok_or_else(unknown)
}
