//! How a forward and a backward go through weights: bucket by bucket ([`super::Layout::buckets`]), each entered before it is read.
//!
//! The one idea: who may only read weights finds them as they are; who may write them brings together what ranks keep in parts.

use super::Weights;
use super::spread::Spread;
use crate::device::Device;
use crate::error::Result;

/// Weights that a forward or a backward goes through.
pub trait Walk {
    /// The weights, of which what was entered may be read.
    fn weights(&self) -> &Weights;

    /// A forward begins.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where parameters must be entered that only their owner can.
    fn begins(&mut self) -> Result<()>;

    /// From here on parameters of a bucket are read. Where ranks keep parts of it, all of them come to this.
    ///
    /// # Errors
    /// What the device and the ranks say.
    fn enters(&mut self, dev: &Device, bucket: usize) -> Result<()>;

    /// Whose experts are whose, where all ranks go through these weights in step and experts are spread over them.
    fn spread(&self) -> Option<&Spread>;
}

/// Read as they are.
impl Walk for &Weights {
    fn weights(&self) -> &Weights {
        self
    }

    fn begins(&mut self) -> Result<()> {
        self.want_together()
    }

    fn enters(&mut self, _: &Device, _: usize) -> Result<()> {
        Ok(())
    }

    fn spread(&self) -> Option<&Spread> {
        None
    }
}

/// Brought together where they are in parts.
impl Walk for &mut Weights {
    fn weights(&self) -> &Weights {
        self
    }

    fn begins(&mut self) -> Result<()> {
        self.forget();
        Ok(())
    }

    fn enters(&mut self, dev: &Device, bucket: usize) -> Result<()> {
        self.enter(dev, bucket)
    }

    fn spread(&self) -> Option<&Spread> {
        Weights::spread(self)
    }
}
