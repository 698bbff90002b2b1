//! Where a backward adds the gradients of what trains.
//!
//! The one idea: the backward says which bucket of the parameters ([`super::Layout::buckets`]) it begins and which it is done
//! with, so that whoever keeps gradients in parts needs room for one layer of them, and for no more.

use crate::device::{Buffer, Device, ViewMut};
use crate::error::Result;
use std::ops::Range;

/// Room for gradients, laid out like what trains.
pub trait Gradient {
    /// Elements of what trains.
    fn n_elements(&self) -> usize;

    /// The gradient of these elements, of one bucket that is begun.
    fn part_mut(&mut self, range: Range<usize>) -> ViewMut<'_>;

    /// From here on a bucket is added to.
    ///
    /// # Errors
    /// What the device says.
    fn begins(&mut self, dev: &Device, bucket: usize) -> Result<()>;

    /// From here on experts that are spread are added to, by the rows of a rank; ranks come in order from 0.
    ///
    /// # Errors
    /// What the device says.
    fn begins_rows_of(&mut self, dev: &Device, rank: usize) -> Result<()>;

    /// Nothing more is added by the rows of that rank.
    ///
    /// # Errors
    /// What the device says.
    fn ends_rows_of(&mut self, dev: &Device, rank: usize) -> Result<()>;

    /// Nothing more is added to a bucket.
    ///
    /// # Errors
    /// What the device and the ranks say.
    fn ends(&mut self, dev: &Device, bucket: usize) -> Result<()>;
}

/// All of them, as long as anybody adds to them.
impl Gradient for Buffer {
    fn n_elements(&self) -> usize {
        self.len()
    }

    fn part_mut(&mut self, range: Range<usize>) -> ViewMut<'_> {
        self.at_mut(range)
    }

    fn begins(&mut self, _: &Device, _: usize) -> Result<()> {
        Ok(())
    }

    fn begins_rows_of(&mut self, _: &Device, _: usize) -> Result<()> {
        Ok(())
    }

    fn ends_rows_of(&mut self, _: &Device, _: usize) -> Result<()> {
        Ok(())
    }

    fn ends(&mut self, _: &Device, _: usize) -> Result<()> {
        Ok(())
    }
}
