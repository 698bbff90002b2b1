//! Memory of a GPU: guarded blocks that are kept for reuse, and copies through one pinned buffer.
//!
//! Buffers are made before a step, so a step allocates nothing; blocks that are given back wait for the next buffer of
//! their size. Copies and kernels share one stream, so a block may be reused at once. A failure is kept as the device's
//! fault: later launches answer with it.

use super::cuda::text;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes before and behind each block: guards, and the alignment kernels may count on.
const GUARD_BYTES: usize = 256;
const GUARD: u8 = 0xA5;
/// Bytes of the pinned buffer.
const STAGING_BYTES: usize = 4 << 20;

/// A context, its free blocks, its pinned buffer, its first fault.
pub(super) struct Owner {
    context: sys::CUcontext,
    /// Free blocks by size.
    free: Mutex<HashMap<usize, Vec<u64>>>,
    staging: Mutex<Pinned>,
    fault: Mutex<Option<String>>,
    last_kernel: Mutex<String>,
}

struct Pinned(*mut u8);

// SAFETY: the context may be current on any thread; the pinned buffer is used under its lock.
unsafe impl Send for Owner {}
unsafe impl Sync for Owner {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owner {
    pub(super) fn new(context: sys::CUcontext) -> Result<Owner, result::DriverError> {
        // SAFETY: a context of the driver's; the buffer is freed with the process.
        let staging = unsafe {
            result::ctx::set_current(context)?;
            result::malloc_host(STAGING_BYTES, 0)?
        };
        Ok(Owner {
            context,
            free: Mutex::default(),
            staging: Mutex::new(Pinned(staging.cast())),
            fault: Mutex::default(),
            last_kernel: Mutex::default(),
        })
    }

    /// Makes the context this thread's.
    pub(super) fn enter(&self) -> Result<(), result::DriverError> {
        // SAFETY: the context lives as long as the process.
        unsafe { result::ctx::set_current(self.context) }
    }

    /// Waits until all that was asked for is done.
    pub(super) fn wait(&self) -> Result<(), result::DriverError> {
        // SAFETY: the default stream.
        unsafe { result::stream::synchronize(std::ptr::null_mut()) }
    }

    /// What went wrong first.
    pub(super) fn fault(&self) -> Option<String> {
        lock(&self.fault).clone()
    }

    pub(super) fn set_fault(&self, what: String) {
        lock(&self.fault).get_or_insert(what);
    }

    /// Remembers the kernel that was launched last: a fault found later is its, or of one before.
    pub(super) fn note(&self, kernel: &str) {
        let mut last = lock(&self.last_kernel);
        last.clear();
        last.push_str(kernel);
    }

    fn hold(&self, what: &str, done: Result<(), result::DriverError>) {
        if let Err(e) = done {
            let last = lock(&self.last_kernel).clone();
            let after = if last.is_empty() { String::new() } else { format!(" (kernel {last}, or one before it)") };
            self.set_fault(format!("{what}: {}{after}", text(e)));
        }
    }

    /// Copies host bytes to the GPU.
    pub(super) fn write(&self, to: u64, data: &[u8]) {
        let staging = lock(&self.staging);
        let copy = |(i, part): (usize, &[u8])| -> Result<(), result::DriverError> {
            let at = to + (i * STAGING_BYTES) as u64;
            // SAFETY: a part is no longer than the pinned buffer, which is ours until the copy is done; the target is
            // memory of this context, as long as the data (checked by the device).
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), staging.0, part.len());
                let pinned = std::slice::from_raw_parts(staging.0, part.len());
                result::memcpy_htod_async(at, pinned, std::ptr::null_mut())?;
            }
            self.wait()
        };
        let done = self.enter().and_then(|()| data.chunks(STAGING_BYTES).enumerate().try_for_each(copy));
        self.hold("copy to the GPU", done);
    }

    /// Copies from the GPU; zeros after a fault.
    pub(super) fn read(&self, from: u64, data: &mut [u8]) {
        let staging = lock(&self.staging);
        let copy = |(i, part): (usize, &mut [u8])| -> Result<(), result::DriverError> {
            let at = from + (i * STAGING_BYTES) as u64;
            // SAFETY: as for `write`, the other way round; the copy is done when `wait` returns.
            unsafe {
                let pinned = std::slice::from_raw_parts_mut(staging.0, part.len());
                result::memcpy_dtoh_async(pinned, at, std::ptr::null_mut())?;
                self.wait()?;
                std::ptr::copy_nonoverlapping(staging.0, part.as_mut_ptr(), part.len());
            }
            Ok(())
        };
        let done = self.enter().and_then(|()| data.chunks_mut(STAGING_BYTES).enumerate().try_for_each(copy));
        if done.is_err() {
            data.fill(0);
        }
        self.hold("copy from the GPU", done);
    }

    /// A block, kept or new, between fresh guards, zeroed.
    fn take(&self, bytes: usize) -> Result<u64, result::DriverError> {
        self.enter()?;
        let kept = lock(&self.free).get_mut(&bytes).and_then(Vec::pop);
        // SAFETY: plain calls of the driver on memory it has just given, or that nobody uses any more.
        unsafe {
            let start = match kept {
                Some(start) => start,
                None => result::malloc_sync(bytes + 2 * GUARD_BYTES)?,
            };
            let stream = std::ptr::null_mut();
            result::memset_d8_async(start, GUARD, bytes + 2 * GUARD_BYTES, stream)?;
            result::memset_d8_async(start + GUARD_BYTES as u64, 0, bytes, stream)?;
            Ok(start)
        }
    }
}

/// A block of a GPU's memory; given back when dropped.
pub struct Memory {
    owner: Arc<Owner>,
    /// Where the guard before it starts; 0 when there was no memory.
    start: u64,
    bytes: usize,
}

impl Memory {
    /// Zeros; when the GPU has no more, a block of nothing, and the device's fault says so.
    pub(super) fn zeros(owner: &Arc<Owner>, bytes: usize) -> Memory {
        let bytes = bytes.next_multiple_of(GUARD_BYTES);
        let start = owner.take(bytes);
        let done = start.map(drop);
        owner.hold(&format!("{:.1} MiB of GPU memory", bytes as f64 / 1048576.0), done);
        Memory { owner: owner.clone(), start: start.unwrap_or(0), bytes }
    }

    /// Its first byte on the GPU.
    pub(in crate::device) fn address(&self) -> u64 {
        self.start + GUARD_BYTES as u64
    }

    /// False when something wrote outside.
    pub(in crate::device) fn guard_intact(&self) -> bool {
        let intact = |at: u64| {
            let mut guard = [0; GUARD_BYTES];
            self.owner.read(at, &mut guard);
            guard.iter().all(|b| *b == GUARD)
        };
        self.start == 0 || intact(self.start) && intact(self.address() + self.bytes as u64)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.start != 0 {
            lock(&self.owner.free).entry(self.bytes).or_default().push(self.start);
        }
    }
}
