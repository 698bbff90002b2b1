//! What a launch that begins early may find unwritten: outputs of the launches before it, back to the last that waited for all
//! before it. The emulator holds such a launch to the rule of kernels/common/dependent.cuh by it.

use super::launch::{Edge, Range};
use super::tape::Step;

/// Memory that a launch before may still be writing; see `Pending` in kernels/emu/runtime.h.
#[repr(C)]
pub(super) struct Pending {
    start: usize,
    end: usize,
    argument: u32,
    back: u32,
    /// Where its name stands, of so many bytes.
    kernel: usize,
    kernel_bytes: usize,
}

/// Of these launches, for one behind them. Where several write the same memory the last is named.
pub(super) fn pending(steps: &[Step]) -> Vec<Pending> {
    let mut all: Vec<Pending> = vec![];
    for (back, step) in (1..).zip(steps.iter().rev()) {
        for (argument, range) in (0..).zip(step.args.iter().map(|arg| arg.range)) {
            let (start, end) = (range.start, range.end);
            if range.writable != 0 && !all.iter().any(|p| (p.start, p.end) == (start, end)) {
                let (kernel, kernel_bytes) = (step.kernel.as_ptr() as usize, step.kernel.len());
                all.push(Pending { start, end, argument, back, kernel, kernel_bytes });
            }
        }
        if step.edge == Edge::Full {
            break;
        }
    }
    all
}

/// The first input among `ranges` that a launch before may still be writing and the kernel takes for constant: a bit of
/// `restricted` for each of its parameters that is `__restrict__`.
pub(super) fn taken_for_constant(ranges: &[Range], restricted: u32, pending: &[Pending]) -> Option<u32> {
    let read = ranges.iter().filter(|range| range.writable == 0 && (restricted >> range.argument) & 1 != 0);
    let unwritten = |range: &&Range| pending.iter().any(|p| range.start < p.end && p.start < range.end);
    read.filter(|range| range.start < range.end).find(unwritten).map(|range| range.argument)
}
