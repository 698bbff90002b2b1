//! What commands whose work ranks share do before it: ranks met, a device each, one directory, everything alike.
//!
//! The one idea: the first rank makes, prints and writes; the others are told where, and find out that they see it.

use super::out;
use crate::config::Config;
use crate::config::paths::{place, spelled};
use crate::device::Device;
use crate::dist::agree::{self, Fact};
use crate::dist::join::{self, Asked, Sum, Transport};
use crate::dist::launch::Seat;
use crate::dist::{Ranks, lanes};
use crate::error::{Error, Result};
use crate::run::run_dir::RunDir;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where runs go without `--out`.
pub const RUNS: &str = "runs";

/// The ranks that a launcher started, met over what the config says.
///
/// # Errors
/// As [`join::ranks`].
pub fn ranks(config: &Config) -> Result<Ranks> {
    join::ranks(&Asked {
        transport: Transport::of(&config.dist.transport),
        device: &config.device,
        limit: Duration::from_secs_f32(config.dist.timeout_s),
        open: &|seat: &Seat| open(config, seat),
    })
}

/// The same, to learn together: whose gradients are added as the config says. The first rank says so where that moves bits.
///
/// # Errors
/// As [`ranks`] and [`Ranks::summing`].
pub fn learners(config: &Config) -> Result<Ranks> {
    let ranks = ranks(config)?.summing(Sum::of(&config.dist.sum))?;
    if ranks.sum() == Sum::Nccl && ranks.is_first() {
        out::note(&format!(
            "haggle: dist.sum = \"nccl\": NCCL adds gradients in an order of its own; what {} ranks compute no other number of \
             ranks computes to the bit",
            ranks.world()
        ));
    }
    Ok(ranks)
}

/// The device of this rank.
///
/// # Errors
/// As [`Seat::device`] and [`Config::open_device`].
pub fn device(ranks: &Ranks, config: &Config) -> Result<Device> {
    ranks.device().map_or_else(|| open(config, &ranks.seat()), Ok)
}

/// The same, for ranks that fit the lanes of a config.
///
/// # Errors
/// [`Error::Config`] for lanes that they do not divide; as [`device`].
pub fn learning_device(ranks: &Ranks, config: &Config) -> Result<Device> {
    lanes::fit(ranks.world(), config.dist.lanes)?;
    device(ranks, config)
}

fn open(config: &Config, seat: &Seat) -> Result<Device> {
    let (device, threads) = (seat.device(&config.device)?, seat.threads(config.threads));
    Config { device, threads, ..config.clone() }.open_device()
}

/// The next free directory of runs: the first rank claims it, and tells the others.
///
/// # Errors
/// As [`RunDir::claim_next`].
pub fn claim(ranks: &Ranks) -> Result<PathBuf> {
    let claimed = if ranks.is_first() { RunDir::claim_next(Path::new(RUNS)) } else { Ok(PathBuf::new()) };
    let claimed = spelled(&ranks.agree("the run directory", claimed)?);
    let told = ranks.gather("the run directory", claimed.as_bytes())?;
    Ok(place(&String::from_utf8_lossy(&told[0])))
}

/// A directory that the first rank has made, once every rank sees `file` in it.
///
/// # Errors
/// What it failed at; [`Error::Io`] where a rank does not see it.
pub fn shared<T>(ranks: &Ranks, made: Result<T>, run: &Path, file: &str) -> Result<T> {
    let made = ranks.agree("the run directory", made)?;
    let seen = if ranks.world() == 1 || run.join(file).is_file() {
        Ok(())
    } else {
        Err(Error::io(run, "is not here: ranks must share the run directory"))
    };
    ranks.agree("the run directory", seen)?;
    Ok(made)
}

/// Holds every rank to the program, the config, the kind of device and whatever else `more` says, and to a GPU of its own.
///
/// # Errors
/// As [`agree::alike`] and [`agree::apart`].
pub fn alike(ranks: &Ranks, config: &Config, dev: &Device, more: Fact) -> Result<()> {
    if ranks.world() == 1 {
        return Ok(());
    }
    let own = [
        ("program", agree::program()),
        ("config", config.to_toml(true)),
        ("device", dev.kind()),
        ("processor", agree::processor()),
        more,
    ];
    agree::alike(ranks, &own)?;
    agree::apart(ranks, dev)
}
