//! The CPU device: the op list in native Rust, blocked, vectorised, on all cores.
//!
//! Work is split over rows, heads, columns or tiles, never inside a sum: so bits depend neither on the number of
//! threads nor on the batch. Every sum has one fixed order, stated where it stands.

pub mod attn;
pub mod embed;
pub mod gemm;
pub mod logprob;
pub mod loss;
pub mod norm;
pub mod optim;
pub mod pool;
pub mod rope;
pub mod sample;
pub mod swiglu;

/// The CPU as a device: its threads.
pub struct Cpu {
    /// The threads ops run on.
    pub pool: pool::Pool,
}

impl Cpu {
    /// A CPU device with `threads` threads (0: all cores).
    pub fn new(threads: usize) -> Cpu {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Cpu { pool: pool::Pool::new(if threads == 0 { cores } else { threads }) }
    }
}
