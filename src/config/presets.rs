//! Configs by name: starting points for models of a size, and the paper's own.

use crate::error::{Error, Result};

/// A config by name.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its TOML: what it sets, and why.
    pub toml: &'static str,
}

/// All of them.
pub const PRESETS: [Preset; 4] = [
    Preset { name: "paper", toml: include_str!("../../assets/presets/paper.toml") },
    Preset { name: "dense-0.1b", toml: include_str!("../../assets/presets/dense-0.1b.toml") },
    Preset { name: "dense-1b", toml: include_str!("../../assets/presets/dense-1b.toml") },
    Preset { name: "dense-8b", toml: include_str!("../../assets/presets/dense-8b.toml") },
];

/// The preset of a name.
///
/// # Errors
/// [`Error::Config`] naming those there are.
pub fn preset(name: &str) -> Result<Preset> {
    let names = || PRESETS.map(|preset| preset.name).join(", ");
    let unknown = || Error::Config { problems: vec![format!("--preset {name}: unknown; use one of {}", names())] };
    PRESETS.into_iter().find(|preset| preset.name == name).ok_or_else(unknown)
}
