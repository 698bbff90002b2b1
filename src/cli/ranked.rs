//! The ranks of a command, and the device of each.

use crate::config::Config;
use crate::device::Device;
use crate::dist::Ranks;
use crate::dist::join::{self, Asked, Transport};
use crate::dist::launch::Seat;
use crate::error::Result;
use std::time::Duration;

/// The ranks that a launcher started, met over what the config says.
///
/// # Errors
/// As [`join::ranks`].
pub(super) fn ranks(config: &Config) -> Result<Ranks> {
    join::ranks(&Asked {
        transport: Transport::of(&config.dist.transport),
        device: &config.device,
        limit: Duration::from_secs_f32(config.dist.timeout_s),
        open: &|seat: &Seat| open(config, seat),
    })
}

/// The device of this rank.
///
/// # Errors
/// As [`Seat::device`] and [`Config::open_device`].
pub(super) fn device(ranks: &Ranks, config: &Config) -> Result<Device> {
    ranks.device().map_or_else(|| open(config, &ranks.seat()), Ok)
}

fn open(config: &Config, seat: &Seat) -> Result<Device> {
    let (device, threads) = (seat.device(&config.device)?, seat.threads(config.threads));
    Config { device, threads, ..config.clone() }.open_device()
}
