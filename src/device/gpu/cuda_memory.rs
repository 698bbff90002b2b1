//! Memory of a GPU: guarded blocks that are kept for reuse, and copies through one pinned buffer.
//!
//! Buffers are made before a step, so a step allocates nothing; blocks that are given back wait for the next buffer of
//! their size. Copies and kernels share one stream, so a block may be reused at once. A failure is kept as the device's
//! fault: later launches answer with it.

use super::cuda_overdue::Overdue;
use crate::device::Room;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes before and behind each block: guards, and the alignment kernels may count on.
const GUARD_BYTES: usize = 256;
const GUARD: u8 = 0xA5;
/// Bytes of the pinned buffer.
const STAGING_BYTES: usize = 4 << 20;

/// Bytes a block of `bytes` takes of the GPU.
pub(in crate::device) fn footprint(bytes: u64) -> u64 {
    bytes.next_multiple_of(GUARD_BYTES as u64) + 2 * GUARD_BYTES as u64
}

/// A context, its stream, its free blocks, its pinned buffer, its first fault.
pub(super) struct Owner {
    context: sys::CUcontext,
    /// Everything runs here: a stream of our own, which waits for no work of other libraries in the context.
    stream: sys::CUstream,
    /// Free blocks by size.
    free: Mutex<HashMap<usize, Vec<u64>>>,
    staging: Mutex<Pinned>,
    fault: Mutex<Option<String>>,
    last_kernel: Mutex<String>,
    overdue: OnceLock<Overdue>,
}

struct Pinned {
    start: *mut u8,
    /// Bytes that copies still under way may read.
    used: usize,
}

// SAFETY: the context may be current on any thread; the pinned buffer is used under its lock.
unsafe impl Send for Owner {}
unsafe impl Sync for Owner {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owner {
    pub(super) fn new(context: sys::CUcontext) -> Result<Owner, result::DriverError> {
        // SAFETY: a context of the driver's; the buffer is freed with the process, like the stream.
        let staging = unsafe {
            result::ctx::set_current(context)?;
            result::malloc_host(STAGING_BYTES, 0)?
        };
        Ok(Owner {
            context,
            stream: result::stream::create(result::stream::StreamKind::NonBlocking)?,
            free: Mutex::default(),
            staging: Mutex::new(Pinned { start: staging.cast(), used: 0 }),
            fault: Mutex::default(),
            last_kernel: Mutex::default(),
            overdue: OnceLock::new(),
        })
    }

    /// Has a module with a watchdog say here which wait did not end. An aid: without it the fault is told without its place.
    ///
    /// # Safety
    /// The module is loaded, the context current.
    pub(super) unsafe fn watch(&self, module: sys::CUmodule) {
        // SAFETY: the caller's promise.
        let Some(symbol) = (unsafe { Overdue::symbol_of(module) }) else { return };
        if let (None, Ok(place)) = (self.overdue.get(), Overdue::new()) {
            let _ = self.overdue.set(place);
        }
        if let Some(place) = self.overdue.get() {
            // SAFETY: as above.
            let _ = unsafe { place.tell(symbol) };
        }
    }

    /// An error of the driver in its own words, and the wait that did not end, where that was it.
    pub(super) fn text(&self, error: result::DriverError) -> String {
        match self.overdue.get().and_then(Overdue::told) {
            Some(wait) => format!("{}: {wait}", text(error)),
            None => text(error),
        }
    }

    /// Makes the context this thread's.
    pub(super) fn enter(&self) -> Result<(), result::DriverError> {
        // SAFETY: the context lives as long as the process.
        unsafe { result::ctx::set_current(self.context) }
    }

    /// Waits until all that was asked for is done.
    pub(super) fn wait(&self) -> Result<(), result::DriverError> {
        // SAFETY: the stream lives as long as the process.
        unsafe { result::stream::synchronize(self.stream) }
    }

    /// True when all that was asked for is done, or has failed.
    pub(super) fn is_idle(&self) -> bool {
        // SAFETY: the stream lives as long as the process.
        let asked = self.enter().and_then(|()| unsafe { sys::cuStreamQuery(self.stream) }.result());
        match asked {
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => false,
            done => {
                self.hold("work of the GPU", done);
                true
            }
        }
    }

    /// The stream everything runs on.
    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
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
            self.set_fault(format!("{what}: {}{after}", self.text(e)));
        }
    }

    /// Copies host bytes to the GPU; returns before they are there, and waits only when the pinned buffer is full.
    pub(super) fn write(&self, to: u64, data: &[u8]) {
        let mut staging = lock(&self.staging);
        let mut copy = |(i, part): (usize, &[u8])| -> Result<(), result::DriverError> {
            let at = to + (i * STAGING_BYTES) as u64;
            if staging.used + part.len() > STAGING_BYTES {
                self.wait()?;
                staging.used = 0;
            }
            // SAFETY: the part fits behind what copies under way may read, and is left alone until a wait; the target is
            // memory of this context, as long as the data (checked by the device).
            unsafe {
                let place = staging.start.add(staging.used);
                std::ptr::copy_nonoverlapping(part.as_ptr(), place, part.len());
                let pinned = std::slice::from_raw_parts(place, part.len());
                result::memcpy_htod_async(at, pinned, self.stream)?;
            }
            staging.used = (staging.used + part.len()).next_multiple_of(64);
            Ok(())
        };
        let done = self.enter().and_then(|()| data.chunks(STAGING_BYTES).enumerate().try_for_each(&mut copy));
        self.hold("copy to the GPU", done);
    }

    /// Copies from the GPU; zeros after a fault.
    pub(super) fn read(&self, from: u64, data: &mut [u8]) {
        let mut staging = lock(&self.staging);
        let mut copy = |(i, part): (usize, &mut [u8])| -> Result<(), result::DriverError> {
            let at = from + (i * STAGING_BYTES) as u64;
            // SAFETY: as for `write`, the other way round: the stream has made every copy before this one, so the buffer is
            // free from its start; the copy is done when `wait` returns.
            unsafe {
                let pinned = std::slice::from_raw_parts_mut(staging.start, part.len());
                result::memcpy_dtoh_async(pinned, at, self.stream)?;
                self.wait()?;
                staging.used = 0;
                std::ptr::copy_nonoverlapping(staging.start, part.as_mut_ptr(), part.len());
            }
            Ok(())
        };
        let done = self.enter().and_then(|()| data.chunks_mut(STAGING_BYTES).enumerate().try_for_each(&mut copy));
        if done.is_err() {
            data.fill(0);
        }
        self.hold("copy from the GPU", done);
    }

    /// Copies several places from the GPU, with one wait when all fit the pinned buffer; zeros after a fault.
    pub(super) fn read_all(&self, parts: &mut [(u64, &mut [u8])]) {
        let bytes: usize = parts.iter().map(|part| part.1.len()).sum();
        if bytes > STAGING_BYTES {
            return parts.iter_mut().for_each(|(from, data)| self.read(*from, data));
        }
        let mut staging = lock(&self.staging);
        let mut copy = || -> Result<(), result::DriverError> {
            self.enter()?;
            let mut at = 0;
            for (from, data) in parts.iter() {
                // SAFETY: as for `read`; the parts lie one behind the other, and all fit.
                unsafe {
                    let pinned = std::slice::from_raw_parts_mut(staging.start.add(at), data.len());
                    result::memcpy_dtoh_async(pinned, *from, self.stream)?;
                }
                at += data.len();
            }
            self.wait()?;
            (staging.used, at) = (0, 0);
            for (_, data) in parts.iter_mut() {
                // SAFETY: the copies are done.
                unsafe { std::ptr::copy_nonoverlapping(staging.start.add(at), data.as_mut_ptr(), data.len()) };
                at += data.len();
            }
            Ok(())
        };
        let done = copy();
        if done.is_err() {
            parts.iter_mut().for_each(|part| part.1.fill(0));
        }
        self.hold("copy from the GPU", done);
    }

    /// Free and total memory; what blocks of other sizes wait for reuse counts as free.
    pub(super) fn room(&self) -> Result<Room, result::DriverError> {
        self.enter()?;
        let (free, total) = result::mem_get_info()?;
        let kept: usize = lock(&self.free).iter().map(|(bytes, blocks)| (bytes + 2 * GUARD_BYTES) * blocks.len()).sum();
        Ok(Room { free_bytes: (free + kept) as u64, total_bytes: total as u64, bound: "", mapped: false })
    }

    /// A new block of the driver's. When there is none, blocks that wait for reuse are given back, and it is asked again.
    fn new_block(&self, bytes: usize) -> Result<Option<u64>, result::DriverError> {
        for again in [true, false] {
            // SAFETY: a plain call of the driver.
            match unsafe { result::malloc_sync(bytes) } {
                Ok(start) => return Ok(Some(start)),
                Err(e) if e.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => return Err(e),
                Err(_) if again => self.give_back()?,
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Gives free blocks to the driver.
    fn give_back(&self) -> Result<(), result::DriverError> {
        self.wait()?;
        for start in lock(&self.free).drain().flat_map(|(_, blocks)| blocks) {
            // SAFETY: a block of `new_block`, which nobody uses any more, all work on it done.
            unsafe { result::free_sync(start)? };
        }
        Ok(())
    }

    /// A block, kept or new, between fresh guards, zeroed; none when the GPU has no more.
    fn take(&self, bytes: usize) -> Result<Option<u64>, result::DriverError> {
        self.enter()?;
        let kept = lock(&self.free).get_mut(&bytes).and_then(Vec::pop);
        let start = match kept {
            Some(start) => start,
            None => match self.new_block(bytes + 2 * GUARD_BYTES)? {
                Some(start) => start,
                None => return Ok(None),
            },
        };
        // SAFETY: plain calls of the driver on memory it has just given, or that nobody uses any more.
        unsafe {
            result::memset_d8_async(start, GUARD, bytes + 2 * GUARD_BYTES, self.stream)?;
            result::memset_d8_async(start + GUARD_BYTES as u64, 0, bytes, self.stream)?;
        }
        Ok(Some(start))
    }
}

/// A block of a GPU's memory; given back when dropped.
pub struct Memory {
    owner: Arc<Owner>,
    /// Where the guard before it starts.
    start: u64,
    bytes: usize,
}

impl Memory {
    /// Zeros; none when the GPU has no more.
    pub(super) fn zeros(owner: &Arc<Owner>, bytes: usize) -> Result<Option<Memory>, result::DriverError> {
        let Some(bytes) = bytes.checked_next_multiple_of(GUARD_BYTES).filter(|n| *n < isize::MAX as usize) else {
            return Ok(None);
        };
        Ok(owner.take(bytes)?.map(|start| Memory { owner: owner.clone(), start, bytes }))
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
        intact(self.start) && intact(self.address() + self.bytes as u64)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        lock(&self.owner.free).entry(self.bytes).or_default().push(self.start);
    }
}

/// An error of the driver in its own words.
pub(super) fn text(error: result::DriverError) -> String {
    match error.error_string() {
        Ok(words) => words.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}
