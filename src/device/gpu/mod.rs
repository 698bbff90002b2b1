//! Devices that run the kernels of `kernels/`: the emulator, which runs them on this machine's cores.
//!
//! Launch code (grid, block, shared bytes: one small function an op, a file a family) is the same for every such
//! device. It names a kernel and gives an argument block; [`Gpu::launch`] checks both and runs it.

pub mod emu;
pub mod launch;
pub mod norm;

pub use launch::{Arg, Launch};

use crate::error::{Error, Result};

/// A device that runs kernels.
pub enum Gpu {
    /// The kernels compiled by the host's C++ compiler, a fiber for each CUDA thread.
    Emu(emu::Emu),
}

impl Gpu {
    /// Runs a kernel over a grid. A grid without blocks is no launch.
    ///
    /// # Errors
    /// [`Error::Device`] when this build has no such kernel or the launch does not fit it, [`Error::Kernel`] when the
    /// kernel did something wrong.
    pub fn launch(&self, launch: &Launch, args: &mut [Arg]) -> Result<()> {
        match self {
            Gpu::Emu(emu) => emu.launch(launch, args),
        }
    }

    /// The device's name as a user would type it.
    pub fn name(&self) -> &'static str {
        match self {
            Gpu::Emu(_) => "emu",
        }
    }

    /// Names of all kernels, sorted.
    pub fn kernels(&self) -> Vec<&'static str> {
        match self {
            Gpu::Emu(emu) => emu.kernels(),
        }
    }

    /// What ops without a kernel answer.
    ///
    /// # Errors
    /// Always.
    pub fn no_kernel(&self, op: &'static str) -> Result<()> {
        Err(Error::Device { device: self.name().into(), what: format!("{op} has no kernel yet") })
    }
}
