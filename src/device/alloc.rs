//! Counts heap allocations in builds with debug assertions, so that "no allocation inside a step" is a check.
//!
//! A release build keeps the system allocator untouched and [`assert_no_alloc`] only calls its argument.

/// Calls `f`; in a build with debug assertions, panics if this thread took memory from the heap meanwhile.
///
/// # Panics
/// As said: that is a bug of `f`, which should use buffers sized beforehand.
pub fn assert_no_alloc<R>(what: &str, f: impl FnOnce() -> R) -> R {
    let before = count();
    let result = f();
    let n = count() - before;
    assert!(n == 0, "{what} allocated {n} times");
    result
}

/// Allocations of this thread so far; always 0 without debug assertions.
pub fn count() -> u64 {
    #[cfg(debug_assertions)]
    return counting::count();
    #[cfg(not(debug_assertions))]
    0
}

#[cfg(debug_assertions)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    pub fn count() -> u64 {
        COUNT.with(Cell::get)
    }

    fn add() {
        // A thread that is ending has no counter any more, and nobody asks for it.
        let _ = COUNT.try_with(|c| c.set(c.get() + 1));
    }

    // SAFETY: every call is handed to the system allocator unchanged; the counter needs no heap and cannot unwind.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            add();
            // SAFETY: the caller's promise, passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            add();
            // SAFETY: the caller's promise, passed on.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            add();
            // SAFETY: the caller's promise, passed on.
            unsafe { System.realloc(ptr, layout, new_size) }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise, passed on.
            unsafe { System.dealloc(ptr, layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "the step allocated 1 times")]
    fn an_allocation_is_caught() {
        assert_no_alloc("the step", || drop(std::hint::black_box(Vec::<u8>::with_capacity(10))));
    }

    #[test]
    fn work_in_place_passes() {
        let mut data = vec![3, 1, 2];
        assert_no_alloc("sorting", || data.sort_unstable());
        assert_eq!(data, [1, 2, 3]);
    }
}
