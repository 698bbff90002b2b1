//! Memory for what tasks of an op pack: one room a thread, there from the start, so that no op takes memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Floats of a room: 1.75 MiB, which with what a task reads beside it is about a second-level cache.
pub const LEN: usize = 448 << 10;

/// As many rooms as threads.
pub struct Rooms(Mutex<Vec<Box<[f32]>>>);

/// A room, given back when it is dropped.
pub struct Room<'a> {
    rooms: &'a Rooms,
    floats: Box<[f32]>,
}

impl Rooms {
    /// Rooms for so many threads. The system gives memory to pages that are written.
    pub fn new(threads: usize) -> Rooms {
        Rooms(Mutex::new((0..threads).map(|_| vec![0.0; LEN].into()).collect()))
    }

    /// A room, `LEN` floats of any values; none where as many are taken as there are threads.
    pub fn take(&self) -> Option<Room<'_>> {
        let floats = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(Room { rooms: self, floats })
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let floats = std::mem::take(&mut self.floats);
        self.rooms.0.lock().unwrap_or_else(PoisonError::into_inner).push(floats);
    }
}

impl Deref for Room<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.floats
    }
}

impl DerefMut for Room<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.floats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_threads_and_they_come_back() {
        let rooms = Rooms::new(2);
        let [a, b] = [rooms.take(), rooms.take()];
        assert!(a.as_ref().is_some_and(|room| room.len() == LEN) && b.is_some() && rooms.take().is_none());
        drop(a);
        assert!(rooms.take().is_some());
    }
}
