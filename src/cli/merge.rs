//! `haggle merge`: a whole model of an adapter and its base.

use super::{Exit, Globals, out, shell};
use crate::config::paths::spelled;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval::make_folder;
use crate::setup::base;
use clap::Args;
use std::path::PathBuf;

/// Options of `haggle merge`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle merge runs/001 --out buyer                               an adapter that haggle trained
  haggle merge ADAPTER --set model.adapter_base=DIR --out buyer   one whose base lies elsewhere")]
pub struct MergeArgs {
    /// An adapter's folder, or a run that trained one
    #[arg(value_name = "ADAPTER", value_parser = super::path())]
    adapter: PathBuf,
}

/// Writes W + alpha / r B A of every matrix, summed in f64 and rounded once to f32, into the folder of `--out`.
///
/// # Errors
/// Everything wrong with the adapter, its base, or the folder, which must be new or empty.
pub fn run(args: &MergeArgs, globals: &Globals) -> Result<Exit> {
    let Some(folder) = &globals.out else {
        return Err(Error::Config { problems: vec!["merge needs --out DIR: the folder of the whole model".into()] });
    };
    let (config, own) = (globals.resolve(&[])?, &args.adapter);
    // Nothing is computed but sums on the host.
    let dev = Device::open("cpu", config.threads)?;
    let model = base::open(&dev, &spelled(own), &config)?;
    if model.weights.adapter().is_none() {
        return Err(Error::data(own, "is a whole model already, and no adapter"));
    }
    make_folder(folder)?;
    base::save_whole(&dev, &model.weights, &model.chat, folder)?;
    out::line(&format!("model       haggle chat --model {}", shell::word(folder)));
    Ok(Exit::Done)
}
