//! `haggle config`: the resolved configuration.

use super::{Exit, Globals, out};
use crate::error::{Error, Result};
use clap::Args;

/// Options of `haggle config`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle config > haggle.toml                         a file with every key, to edit
  haggle config --config haggle.toml --set grpo.steps=10
  haggle config --json                                for machines
  haggle config --bare                                without the comments")]
pub struct ConfigArgs {
    /// Leave the comments out
    #[arg(long)]
    bare: bool,
}

/// Prints the config that the same options would train with.
pub fn run(args: &ConfigArgs, globals: &Globals) -> Result<Exit> {
    let config = globals.resolve(&[])?;
    if globals.json {
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::data("config", e))?;
        out::line(&text);
    } else {
        out::print(&config.to_toml(!args.bare));
    }
    Ok(Exit::Done)
}
