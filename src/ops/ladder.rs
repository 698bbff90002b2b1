//! What the teaching ladders share: an op from its plainest kernel up to those that the product runs, one idea a rung.
//!
//! The one idea: the lower rungs stand in `kernels/lab/`, a page each, and are launched by the `ladder.rs` of their family; the
//! upper ones are the product's own kernels, named here and copied nowhere. Every rung computes the same op on the same
//! numbers: `haggle profile ladder` counts or times them side by side, and the family's `cases.rs` holds each to the oracle.
//! No op and no model runs a rung of `kernels/lab/`.

use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::error::{Error, Result};

/// A rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// What its calls are named: `lab_`, the ladder, the rung.
    pub stem: &'static str,
    /// Its one idea, in a line.
    pub idea: &'static str,
    /// The page that its kernel stands on, below `kernels/`.
    pub page: &'static str,
    /// Whether it is written in Hopper's own instructions.
    pub hopper: bool,
}

impl Rung {
    /// A rung of every card.
    pub(crate) const fn new(stem: &'static str, page: &'static str, idea: &'static str) -> Rung {
        Rung { stem, idea, page, hopper: false }
    }

    /// A rung of Hopper's own instructions.
    pub(crate) const fn hopper(stem: &'static str, page: &'static str, idea: &'static str) -> Rung {
        Rung { stem, idea, page, hopper: true }
    }

    /// Its name in its ladder: `v1_naive`.
    pub fn name(&self) -> &'static str {
        self.stem.splitn(3, '_').last().unwrap_or(self.stem)
    }

    /// Whether a device runs it: the emulator has every instruction, a card Hopper's where the product uses them there.
    pub fn runs_on(&self, gpu: &Gpu) -> bool {
        !self.hopper || matches!(gpu, Gpu::Emu(_)) || gpu.hopper()
    }
}

/// What runs the kernels of a device.
///
/// # Errors
/// [`Error::Device`] when it has none.
pub fn gpu_of(dev: &Device) -> Result<&Gpu> {
    match dev {
        Device::Gpu(gpu) => Ok(gpu),
        Device::Cpu(_) => {
            let what = "runs no kernels, and a ladder is of kernels; use --device emu, or cuda:0 where there is a GPU";
            Err(Error::Device { device: dev.name().into(), what: what.into() })
        }
    }
}
