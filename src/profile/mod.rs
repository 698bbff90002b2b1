//! The profiler: where each microsecond, byte and FLOP of a step goes.
//!
//! A workload ([`work`]) runs steps while the device records its spans (`device::record`); [`summary`] adds them up beside
//! what the machine can do at most ([`peaks`]); [`trace`] and [`roofline`] show it. Ops state their own cost
//! (`ops::cost`), so a profile and a benchmark divide by the same numbers. [`kernels`] times single ops; [`counters`] counts what they do on the emulator,
//! [`predict`] says what that would take on an H100, [`forecast`] what a whole step would, [`marks`] what the engine means to
//! reach; [`ladder`] does so to the rungs that lead up to an op.
//!
//! On `cuda` a kernel's time is taken by events on the GPU; on `cpu` and `emu` it is wall clock. Times of the emulator say
//! nothing about a GPU.

pub mod counters;
mod data_sheet;
pub mod forecast;
pub mod kernels;
pub mod ladder;
pub mod marks;
pub mod peaks;
pub mod predict;
pub mod roofline;
pub mod summary;
pub mod trace;
pub mod work;

pub use peaks::Peaks;
pub use summary::Summary;
