//! The CPU device: the op list in native Rust, blocked, vectorised, on all cores.
//!
//! Every sum has one fixed order, stated where it stands. Work is split over rows, heads, columns or tiles, inside a sum
//! only at places that its order names: so bits do not depend on the number of threads, nor those of a row on the batch.

pub mod float;
pub mod math;
pub mod mm;
pub mod peak;
pub mod pool;
pub(crate) mod rooms;
pub mod softmax;

use super::Precision;

/// The CPU as a device: its threads, and the vectors they use.
pub struct Cpu {
    /// The threads ops run on.
    pub pool: pool::Pool,
    /// The instruction set loops are compiled for; bits do not depend on it.
    pub isa: math::Isa,
    /// What matrix products multiply.
    pub precision: Precision,
    /// What ops ran, when a profiler asks.
    pub recorder: super::record::Recorder,
}

impl Cpu {
    /// A CPU device with `threads` threads (0: all cores).
    pub fn new(threads: usize) -> Cpu {
        Cpu::with_isa(threads, math::Isa::detect())
    }

    /// A CPU device that uses `isa`, or less where this machine has less.
    pub fn with_isa(threads: usize, isa: math::Isa) -> Cpu {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool = pool::Pool::new(if threads == 0 { cores } else { threads });
        Cpu { pool, isa: isa.or_less(), precision: Precision::Highest, recorder: Default::default() }
    }

    /// The same device with products of another precision.
    pub fn with_precision(self, precision: Precision) -> Cpu {
        Cpu { precision, ..self }
    }

    /// Calls `body(first, n)` for parts of `n_rows` rows of `width` elements, compiled for this machine's vectors.
    /// As many rows for each thread, so that a row stays on its core. Mark the closure `#[inline(always)]`.
    pub fn rows(&self, n_rows: usize, width: usize, body: impl Fn(usize, usize) + Sync) {
        let (len, threads) = (n_rows * width, self.pool.threads());
        let parts = if len < LEAST * threads { 1 } else { len.div_ceil(PART).next_multiple_of(threads).min(n_rows) };
        self.pool.run(parts, |task| {
            let (first, end) = (n_rows * task / parts, n_rows * (task + 1) / parts);
            self.isa.run(
                #[inline(always)]
                || body(first, end - first),
            )
        });
    }
}

/// Elements of a task, about: some microseconds of simple work.
const PART: usize = 1 << 13;
/// Elements worth waking a thread for.
const LEAST: usize = 1 << 10;
