//! The CPU device: the op list in native Rust, blocked, vectorised, on all cores.
//!
//! Work is split over rows, heads, columns or tiles, never inside a sum: so bits depend neither on the number of
//! threads nor on the batch. Every sum has one fixed order, stated where it stands.

pub mod attn;
pub mod credit;
pub mod embed;
mod float;
pub mod gemm;
pub mod logprob;
pub mod loss;
pub mod math;
mod mm;
pub mod norm;
pub mod optim;
pub mod peak;
pub mod pool;
pub mod rope;
pub mod sample;
pub mod softmax;
pub mod swiglu;

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
    /// The parts depend on the shape alone. Mark the closure `#[inline(always)]`.
    fn rows(&self, n_rows: usize, width: usize, body: impl Fn(usize, usize) + Sync) {
        let part = (PART / width.max(1)).max(1);
        self.pool.run(n_rows.div_ceil(part), |task| {
            let first = task * part;
            self.isa.run(
                #[inline(always)]
                || body(first, part.min(n_rows - first)),
            )
        });
    }
}

/// Elements worth a task of their own: some microseconds of simple work.
const PART: usize = 1 << 13;
