//! Room for a bucket of the parameters ([`super::Layout::buckets`]) at a time.
//!
//! The one idea: layers come one after another and share one place; the embedding, and a head of its own, are longer and have
//! another. What lies there is for the user to say: weights that were gathered, a gradient that is made.

use super::{Layout, Plan};
use crate::dist::Cuts;
use crate::error::Result;

/// A place for layers, and one for the embedding or the head.
pub struct Slots<T> {
    layer: T,
    end: T,
    /// The bucket of the head: the embedding's when tied.
    head: usize,
}

impl<T> Slots<T> {
    /// Makes both, each of a name and the elements of the longest bucket that it has to hold.
    ///
    /// # Errors
    /// What `make` says.
    pub fn planned(
        plan: &mut Plan,
        cuts: &Cuts,
        head: usize,
        make: impl Fn(&mut Plan, &'static str, usize) -> Result<T>,
    ) -> Result<Slots<T>> {
        let [layer, end] = cuts.longest_buckets(&[Layout::EMBED, head]);
        let layer = make(plan, "a layer", layer)?;
        Ok(Slots { layer, end: make(plan, "the embedding or the head", end)?, head })
    }

    /// The bucket of the head.
    pub fn head(&self) -> usize {
        self.head
    }

    fn is_end(&self, bucket: usize) -> bool {
        bucket == Layout::EMBED || bucket == self.head
    }

    /// The place of a bucket.
    pub fn of(&self, bucket: usize) -> &T {
        if self.is_end(bucket) { &self.end } else { &self.layer }
    }

    /// The same, to write.
    pub fn of_mut(&mut self, bucket: usize) -> &mut T {
        if self.is_end(bucket) { &mut self.end } else { &mut self.layer }
    }

    /// Both.
    pub fn both_mut(&mut self) -> [&mut T; 2] {
        [&mut self.layer, &mut self.end]
    }

    /// Both, to read.
    pub fn both(&self) -> [&T; 2] {
        [&self.layer, &self.end]
    }
}
