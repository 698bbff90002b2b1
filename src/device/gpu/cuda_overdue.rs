//! Which wait did not end: kernels built with `HAGGLE_WATCHDOG=1` write it to a place of the host's before they trap
//! (`mbarrier_wait` in kernels/common/ptx_sm90.cuh). The context is lost with the fault, the place is not.

use cudarc::driver::{result, sys};

/// Linear block, thread, shared address of the mbarrier, parity and 1; zeros until a wait is overdue.
type Words = [u32; 4];

/// Where kernels write that.
pub(super) struct Overdue {
    host: *const Words,
    gpu: u64,
}

// SAFETY: pinned memory that is never freed, and read as a whole.
unsafe impl Send for Overdue {}
unsafe impl Sync for Overdue {}

impl Overdue {
    /// A new place; the context is current.
    pub(super) fn new() -> Result<Overdue, result::DriverError> {
        let (bytes, mut gpu) = (size_of::<Words>(), 0);
        // SAFETY: memory of this call, zeroed before a kernel knows of it.
        unsafe {
            let host = result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP)?;
            host.write_bytes(0, bytes);
            sys::cuMemHostGetDevicePointer_v2(&mut gpu, host, 0).result()?;
            Ok(Overdue { host: host.cast(), gpu })
        }
    }

    /// Where a module's kernels look for the place; none where they were built without a watchdog.
    ///
    /// # Safety
    /// The module is loaded, its context current.
    pub(super) unsafe fn symbol_of(module: sys::CUmodule) -> Option<u64> {
        // SAFETY: the caller's promise.
        unsafe { result::module::get_global(module, c"haggle_overdue".into()) }.ok().map(|(symbol, _)| symbol)
    }

    /// Tells a module's kernels of it.
    ///
    /// # Safety
    /// `symbol` is of [`Overdue::symbol_of`], the context current.
    pub(super) unsafe fn tell(&self, symbol: u64) -> Result<(), result::DriverError> {
        // SAFETY: the caller's promise: the symbol is a pointer.
        unsafe { result::memcpy_htod_sync(symbol, &[self.gpu]) }
    }

    /// The wait that did not end, if one did not.
    pub(super) fn told(&self) -> Option<String> {
        // SAFETY: the place is as long; a kernel may write it meanwhile.
        words(unsafe { self.host.read_volatile() })
    }
}

fn words([block, thread, address, parity]: Words) -> Option<String> {
    let parity = parity.checked_sub(1)?;
    Some(format!(
        "block {block}, thread {thread} waited 2 s at the mbarrier at shared address {address} for parity {parity}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdue_wait_is_told_by_block_thread_and_barrier() {
        assert_eq!(words([0; 4]), None);
        let told = "block 7, thread 128 waited 2 s at the mbarrier at shared address 1040 for parity 0";
        assert_eq!(words([7, 128, 1040, 1]).as_deref(), Some(told));
    }
}
