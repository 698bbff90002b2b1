//! Room for a bucket of the parameters ([`super::Layout::buckets`]) at a time.
//!
//! The one idea: layers come one after another and share one place; the embedding, and a head of its own, are longer and have
//! another. What lies there is for the user to say: weights that were gathered, a gradient that is made.

use super::{Layout, Plan};
use crate::error::Result;

/// A place for layers, and one for the embedding or the head.
pub struct Slots<T> {
    layer: T,
    end: T,
    /// The bucket of the head: the embedding's when tied.
    head: usize,
}

impl<T> Slots<T> {
    /// Makes both, each of a name and the elements of the longest bucket that it has to hold, of so many elements each.
    ///
    /// # Errors
    /// What `make` says.
    pub fn planned(
        plan: &mut Plan,
        buckets: &[usize],
        head: usize,
        make: impl Fn(&mut Plan, &'static str, usize) -> Result<T>,
    ) -> Result<Slots<T>> {
        let longest = |is_end: bool| {
            let alike = buckets.iter().enumerate().filter(|(bucket, _)| is_an_end(*bucket, head) == is_end);
            alike.map(|(_, len)| *len).max().unwrap_or(0)
        };
        let (layer, end) = (make(plan, "a layer", longest(false))?, longest(true));
        Ok(Slots { layer, end: make(plan, "the embedding or the head", end)?, head })
    }

    /// The bucket of the head.
    pub fn head(&self) -> usize {
        self.head
    }

    /// The place of a bucket.
    pub fn of(&self, bucket: usize) -> &T {
        if is_an_end(bucket, self.head) { &self.end } else { &self.layer }
    }

    /// The same, to write.
    pub fn of_mut(&mut self, bucket: usize) -> &mut T {
        if is_an_end(bucket, self.head) { &mut self.end } else { &mut self.layer }
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

/// True for the embedding and the head.
fn is_an_end(bucket: usize, head: usize) -> bool {
    bucket == Layout::EMBED || bucket == head
}
