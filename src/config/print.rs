//! Printing a [`Config`]: as TOML with a doc line above every key, or as flat `section.key` values.

use super::fields::Slot;
use super::{Config, Field};

impl Config {
    /// The config as TOML. With `docs`, a comment above each key says what it is, its unit and its bounds.
    pub fn to_toml(&self, docs: bool) -> String {
        let mut copy = self.clone();
        let mut text = String::new();
        for (section, fields) in copy.sections() {
            if !section.is_empty() {
                text += &format!("\n[{section}]\n");
            }
            for field in fields {
                if docs {
                    text += &format!("# {}\n", comment(&field));
                }
                text += &format!("{} = {}\n", field.key, value(&field.slot));
            }
        }
        text
    }

    /// Every `section.key` with its value as TOML, in the order of the file.
    pub fn values(&self) -> Vec<(String, String)> {
        let mut copy = self.clone();
        let mut all = Vec::new();
        for (section, fields) in copy.sections() {
            for field in fields {
                let key = if section.is_empty() { field.key.into() } else { format!("{section}.{}", field.key) };
                all.push((key, value(&field.slot)));
            }
        }
        all
    }
}

fn comment(field: &Field) -> String {
    let bounds = match &field.slot {
        Slot::Switch(_) => "true or false".into(),
        Slot::Seed(_) => "whole number".into(),
        Slot::Count(_, least) => {
            format!("{}, {least} or more", if field.unit.is_empty() { "count" } else { field.unit })
        }
        Slot::Real(_, bounds) if field.unit.is_empty() => format!("{bounds}"),
        Slot::Real(_, bounds) => format!("{}, {bounds}", field.unit),
        Slot::Choice(_, names) => names.join(" | "),
        Slot::Text(_) => "text".into(),
        Slot::Path(_) => "path, from the working directory; ~/ is the home".into(),
    };
    format!("{} [{bounds}]", field.doc)
}

fn value(slot: &Slot) -> String {
    match slot {
        Slot::Switch(at) => at.to_string(),
        Slot::Count(at, _) => at.to_string(),
        Slot::Seed(at) => at.to_string(),
        // Debug keeps the point or the exponent, so TOML reads it back as the same f32.
        Slot::Real(at, _) => format!("{at:?}"),
        Slot::Choice(at, _) | Slot::Text(at) | Slot::Path(at) => toml_edit::Value::from(at.as_str()).to_string(),
    }
}
