//! Host memory of a buffer: zeroed, 64-byte aligned, between two guard lines, in huge pages where it is large.
//!
//! A page of keys is 4 KiB, and decode reads hundreds of them, scattered: with small pages of memory each one costs a
//! walk of the page tables, and ends the hardware's prefetch.

use memmap2::MmapMut;

/// One cache line: the alignment of every host buffer.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

const GUARD: [u8; 64] = [0xA5; 64];
/// Bytes of a huge page, and the least that a buffer of huge pages holds.
const HUGE: usize = 2 << 20;

/// Bytes between two guards.
pub(super) struct HostMemory {
    block: Block,
    /// Lines between the guards.
    lines: usize,
}

enum Block {
    Heap(Vec<Line>),
    /// The map, and where its first whole huge page starts.
    Huge(MmapMut, usize),
}

/// Bytes of address space that [`HostMemory`] of so many bytes takes, touched or not.
pub(super) fn mapped_bytes(bytes: u64) -> u64 {
    let all = bytes.checked_next_multiple_of(64).unwrap_or(u64::MAX).saturating_add(128);
    if bytes < HUGE as u64 { all } else { all.div_ceil(HUGE as u64).saturating_add(1).saturating_mul(HUGE as u64) }
}

impl HostMemory {
    /// At least `bytes` zeros; none when the machine has no more.
    pub fn zeroed(bytes: usize) -> Option<HostMemory> {
        let lines = bytes.div_ceil(64);
        let all = lines.checked_add(2).filter(|n| *n <= isize::MAX as usize / 128)?;
        let huge = if bytes >= HUGE { huge(all * 64) } else { None };
        let block = match huge {
            Some(block) => block,
            None => {
                let mut heap = Vec::new();
                heap.try_reserve_exact(all).ok()?;
                heap.resize(all, Line([0; 64]));
                Block::Heap(heap)
            }
        };
        let mut memory = HostMemory { block, lines };
        let first = memory.first_mut();
        // SAFETY: the block holds lines + 2 lines.
        unsafe {
            first.cast::<[u8; 64]>().write(GUARD);
            first.add((lines + 1) * 64).cast::<[u8; 64]>().write(GUARD);
        }
        Some(memory)
    }

    /// The first byte between the guards.
    pub fn as_ptr(&self) -> *const u8 {
        self.first().wrapping_add(64)
    }

    /// The same, to write.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.first_mut().wrapping_add(64)
    }

    fn first(&self) -> *const u8 {
        match &self.block {
            Block::Heap(lines) => lines.as_ptr().cast(),
            Block::Huge(map, start) => map[*start..].as_ptr(),
        }
    }

    fn first_mut(&mut self) -> *mut u8 {
        match &mut self.block {
            Block::Heap(lines) => lines.as_mut_ptr().cast(),
            Block::Huge(map, start) => map[*start..].as_mut_ptr(),
        }
    }

    /// False when something wrote just before or behind.
    pub fn guard_intact(&self) -> bool {
        // SAFETY: the block holds lines + 2 lines.
        let guard = |line: usize| unsafe { self.first().add(line * 64).cast::<[u8; 64]>().read() };
        guard(0) == GUARD && guard(self.lines + 1) == GUARD
    }
}

/// A map of `bytes` that starts on a huge page, if the system gives one.
fn huge(bytes: usize) -> Option<Block> {
    let map = MmapMut::map_anon(bytes.next_multiple_of(HUGE) + HUGE).ok()?;
    #[cfg(target_os = "linux")]
    // A kernel without huge pages says no: small ones serve.
    let _ = map.advise(memmap2::Advice::HugePage);
    let start = map.as_ptr().align_offset(HUGE);
    (start < HUGE).then_some(Block::Huge(map, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_block_takes_of_the_address_space_is_known() {
        for bytes in [0, 1, 64, HUGE - 1, HUGE, HUGE + 1, 2 * HUGE - 128, 3 * HUGE] {
            let taken = match HostMemory::zeroed(bytes).unwrap().block {
                Block::Heap(lines) => 64 * lines.len(),
                Block::Huge(map, _) => map.len(),
            };
            assert_eq!(mapped_bytes(bytes as u64), taken as u64, "{bytes}");
        }
        assert_eq!(mapped_bytes(u64::MAX), u64::MAX);
    }

    #[test]
    fn what_no_machine_has_is_none() {
        for bytes in [1 << 60, usize::MAX - 200, usize::MAX] {
            assert!(HostMemory::zeroed(bytes).is_none(), "{bytes}");
        }
    }

    #[test]
    fn small_and_huge_blocks_are_zeroed_aligned_and_guarded() {
        for bytes in [0, 1, 64, 4096, HUGE - 1, HUGE, HUGE + 1, 3 * HUGE] {
            let mut memory = HostMemory::zeroed(bytes).unwrap();
            assert!((memory.as_ptr() as usize).is_multiple_of(64), "{bytes}");
            // SAFETY: `bytes` bytes are there, and a guard behind their last line.
            unsafe {
                assert!(std::slice::from_raw_parts(memory.as_ptr(), bytes).iter().all(|b| *b == 0), "{bytes}");
                memory.as_mut_ptr().write_bytes(1, bytes);
                assert!(memory.guard_intact(), "{bytes}");
                memory.as_mut_ptr().add(bytes.next_multiple_of(64)).write(1);
            }
            assert!(!memory.guard_intact(), "{bytes}");
            let mut memory = HostMemory::zeroed(bytes).unwrap();
            // SAFETY: the guard stands before the first byte.
            unsafe { memory.as_mut_ptr().sub(1).write(1) };
            assert!(!memory.guard_intact(), "{bytes}");
        }
    }
}
