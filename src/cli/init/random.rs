//! `haggle init --preset NAME` of a published shape: a folder of random weights, for memory, speed and loading.

use super::InitArgs;
use crate::cli::{Exit, Globals, command_line, out, signals};
use crate::config::paths::spelled;
use crate::device::DType;
use crate::disk::write_atomic;
use crate::error::{Error, Result, shown};
use crate::model::config::preset;
use crate::model::files::{RandomFolder, token_end};
use crate::model::{Layout, ModelConfig};
use crate::text::Prompts;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What of a tokenizer is copied, where it is there.
const TEXT_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// What weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Stored {
    /// Four bytes a value
    F32,
    /// Two bytes a value
    Bf16,
}

/// Options of presets other than tiny.
#[derive(Debug, Args)]
#[command(next_help_heading = "Random weights (every preset but tiny)")]
pub struct RandomArgs {
    /// So many layers in place of the preset's
    #[arg(long, value_name = "N", value_parser = count())]
    layers: Option<u64>,
    /// So many experts in place of the preset's
    #[arg(long, value_name = "N", value_parser = count())]
    experts: Option<u64>,
    /// What the weights are stored in (default: bf16)
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Stored>,
    /// Most bytes of a file; more is written as shards with an index (default: 4GiB)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    shard_size: Option<u64>,
    /// Folder whose tokenizer is copied; without one the folder holds weights alone
    #[arg(long, value_name = "DIR", value_parser = crate::cli::path())]
    tokenizer: Option<PathBuf>,
}

fn count() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1 << 16)
}

impl RandomArgs {
    /// The first option that was given.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            ("--layers", self.layers.is_some()),
            ("--experts", self.experts.is_some()),
            ("--dtype", self.dtype.is_some()),
            ("--shard-size", self.shard_size.is_some()),
            ("--tokenizer", self.tokenizer.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// Writes the folder, which is there and empty.
pub fn run(args: &InitArgs, seed: u64, dir: &Path, globals: &Globals) -> Result<Exit> {
    let mut config = shape(&args.preset, &args.random)?;
    if let Some(from) = &args.random.tokenizer {
        speak(&mut config, from)?;
    }
    let how = RandomFolder {
        seed,
        dtype: if args.random.dtype == Some(Stored::F32) { DType::F32 } else { DType::Bf16 },
        shard_bytes: args.random.shard_size.unwrap_or(4 << 30),
    };
    let own = dir.to_path_buf();
    signals::leaves(move || format!("left; {} is no model yet, remove it", shown(&own)));
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed}<{eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    if let Some(from) = &args.random.tokenizer {
        copy_text(from, dir)?;
    }
    how.write(&config, dir, &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    record(args, seed, dir)?;
    let params = Layout::new(&config).n_params();
    match globals.json {
        true => out::line(&json!({ "out": spelled(dir), "parameters": params }).to_string()),
        false => out::line(&format!("{}: {params} parameters, random", shown(dir))),
    }
    Ok(Exit::Done)
}

/// The preset's shape, cut as the options say.
fn shape(name: &str, cut: &RandomArgs) -> Result<ModelConfig> {
    let fault = |what: String| Error::Config { problems: vec![what] };
    let mut config = preset(name).ok_or_else(|| fault(format!("--preset: there is none named {name}")))?;
    if let Some(layers) = cut.layers {
        config.num_hidden_layers = layers as usize;
    }
    match (&mut config.experts, cut.experts.map(|n| n as usize)) {
        (_, None) => {}
        (None, Some(_)) => return Err(fault(format!("--experts: {name} has none; leave it out"))),
        (Some(experts), Some(n)) => {
            experts.count = n;
            experts.active = experts.active.min(n);
        }
    }
    // What is written must be what is read.
    ModelConfig::parse(&config.to_json()).map_err(fault)
}

/// The shape ends texts as a tokenizer does, and has a row for each of its ids.
fn speak(config: &mut ModelConfig, from: &Path) -> Result<()> {
    let end = token_end(from)?.unwrap_or(0);
    if end > config.vocab_size {
        let what = format!("its ids go up to {}, the shape has {} rows; take another", end - 1, config.vocab_size);
        return Err(Error::data(from.join("tokenizer.json"), what));
    }
    config.eos_token_ids = Prompts::load(from)?.eos.into_iter().map(|id| id as u32).collect();
    Ok(())
}

fn copy_text(from: &Path, to: &Path) -> Result<()> {
    for name in TEXT_FILES.iter().filter(|name| from.join(name).exists()) {
        let text = crate::disk::read_fetched(&from.join(name))?;
        write_atomic(&to.join(name), |file| file.write_all(&text))?;
    }
    Ok(())
}

/// `haggle/init.json`: what made the folder.
fn record(args: &InitArgs, seed: u64, dir: &Path) -> Result<()> {
    let made = json!({
        "command": command_line(), "version": env!("CARGO_PKG_VERSION"), "preset": args.preset, "seed": seed,
    });
    std::fs::create_dir_all(dir.join("haggle")).map_err(|e| Error::io(dir.join("haggle"), e))?;
    write_atomic(&dir.join("haggle/init.json"), |f| f.write_all(format!("{made:#}\n").as_bytes()))
}

/// Bytes of `4GiB`, `500MB`, `1000000`.
fn size(word: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("KB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    let unit = UNITS.iter().find_map(|(unit, bytes)| word.strip_suffix(unit).map(|number| (number, *bytes)));
    let (number, unit) = unit.unwrap_or((word, 1));
    let bytes = number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "want a whole number of bytes, or of KB, MB, GB, KiB, MiB, GiB: 4GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_both_kinds() {
        for (word, bytes) in [("7", 7), ("2KiB", 2048), ("3 MB", 3_000_000), ("4GiB", 4 << 30), ("1GB", 1_000_000_000)]
        {
            assert_eq!(size(word), Ok(bytes), "{word}");
        }
        for wrong in ["", "0", "0GB", "-1", "1.5GB", "4gib", "GB", "99999999999GiB"] {
            assert!(size(wrong).unwrap_err().contains("4GiB"), "{wrong}");
        }
    }
}
