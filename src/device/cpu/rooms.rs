//! Memory for what a task makes of what it reads: a room a thread, there from its start, so that no op takes memory.
//!
//! Not on the stack: a frame of many pages is touched page by page whenever a task is entered, and those touches, 4 KiB
//! apart, share a few cache sets. Of attention's short tasks that was a tenth of the time.

use std::cell::Cell;

/// Floats of a room: 2.25 MiB, of which a task fills what it needs.
const LEN: usize = 576 << 10;
/// Floats of a cache line.
const LINE: usize = 16;

thread_local! {
    /// The thread's own, while no task has it.
    static OWN: Cell<Option<Box<[f32]>>> = const { Cell::new(None) };
}

/// A room. Dropped, it is the room of the thread that drops it.
pub struct Room(Box<[f32]>);

impl Room {
    /// Another one. The system gives memory to pages that are written.
    pub fn new() -> Room {
        Room(vec![0.0; LEN].into())
    }

    /// The thread's own; another one where it has none or a task has it already.
    pub fn take() -> Room {
        OWN.take().map_or_else(Room::new, Room)
    }

    /// All of it, to be cut into parts.
    #[inline(always)]
    pub fn parts(&mut self) -> Parts<'_> {
        let first = self.0.as_ptr().align_offset(LINE * size_of::<f32>());
        Parts(&mut self.0[first..])
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // A thread that ends has no use for one.
        let _ = OWN.try_with(|own| own.set(Some(std::mem::take(&mut self.0))));
    }
}

/// What of a room is not taken.
pub struct Parts<'a>(&'a mut [f32]);

impl<'a> Parts<'a> {
    /// The next `len` floats, of any values, from a cache line on. A line is left between two parts, so that parts of whole
    /// pages do not share cache sets.
    #[inline(always)]
    pub fn floats(&mut self, len: usize) -> &'a mut [f32] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(len.next_multiple_of(LINE) + LINE);
        self.0 = rest;
        &mut part[..len]
    }

    /// The same, zeroed.
    #[inline(always)]
    pub fn zeroed(&mut self, len: usize) -> &'a mut [f32] {
        let part = self.floats(len);
        part.fill(0.0);
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_and_gets_it_back() {
        let at = |room: &Room| room.0.as_ptr();
        let own = Room::take();
        let (first, other) = (at(&own), Room::take());
        assert_ne!(at(&other), first);
        drop(other);
        drop(own);
        for _ in 0..2 {
            assert_eq!(at(&Room::take()), first);
        }
    }

    #[test]
    fn parts_begin_lines_and_are_apart() {
        let mut room = Room::new();
        let mut parts = room.parts();
        let [a, b, c] = [1, 1024, 0].map(|len| parts.zeroed(len));
        assert!([&a, &b, &c].iter().all(|part| (part.as_ptr() as usize).is_multiple_of(64)));
        assert_eq!((a.len(), b.len(), c.len()), (1, 1024, 0));
        assert_eq!((b.as_ptr() as usize - a.as_ptr() as usize, c.as_ptr() as usize - b.as_ptr() as usize), (128, 4160));
    }
}
