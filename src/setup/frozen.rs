//! The frozen seller, opened: a model on our device, or one behind a server.

use super::base::{self, Base};
use crate::config::{Config, is_address};
use crate::device::Device;
use crate::error::Result;
use crate::remote::{Limits, Server};
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub enum Frozen {
    /// The base, of which there is one copy.
    Base,
    /// Another model on the run's device.
    Model(Box<Base>),
    /// A model behind a server; nothing is known of its tokens.
    Remote(Arc<Server>),
}

impl Frozen {
    /// Opens the seller that a config names, beside the base; a server is not asked yet.
    ///
    /// # Errors
    /// As [`base::open`] and [`Server::new`].
    pub fn open(dev: &Device, config: &Config, beside: &Base) -> Result<Frozen> {
        match config.model.seller.as_str() {
            _ if base::is_its_own_seller(config) => Ok(Frozen::Base),
            address if is_address(address) => {
                let s = &config.seller;
                let server = Server::new(address, s.named(), &s.key_env, limits(config))?;
                Ok(Frozen::Remote(Arc::new(server)))
            }
            other => Ok(Frozen::Model(Box::new(base::open_beside(dev, other, config, &[beside])?))),
        }
    }

    /// Makes sure, once, that a server answers; a model on our device always does.
    ///
    /// # Errors
    /// As [`Server::probe`].
    pub fn probe(&self) -> Result<()> {
        match self {
            Frozen::Base | Frozen::Model(_) => Ok(()),
            Frozen::Remote(server) => server.probe(),
        }
    }

    /// CRC-32C of the name that a server knows it by; 0 of a model on our device, which has none.
    ///
    /// # Errors
    /// As [`Server::probe`].
    pub(super) fn named_crc(&self) -> Result<u32> {
        match self {
            Frozen::Base | Frozen::Model(_) => Ok(0),
            Frozen::Remote(server) => {
                server.probe()?;
                Ok(crc32c::crc32c(server.model().unwrap_or_default().as_bytes()))
            }
        }
    }
}

fn limits(config: &Config) -> Limits {
    let s = &config.seller;
    let seconds = |x: f32| Duration::try_from_secs_f32(x).unwrap_or(Duration::MAX).min(MOST);
    Limits {
        concurrency: s.concurrency,
        connect: seconds(s.connect_s),
        read: seconds(s.read_s),
        retries: s.retries,
        backoff: seconds(s.backoff_s),
        failures: s.failures,
        cooling: seconds(s.cooling_s),
        coolings: s.coolings,
    }
}

/// No wait is longer, so that moments can be reckoned with.
const MOST: Duration = Duration::from_secs(86_400);
