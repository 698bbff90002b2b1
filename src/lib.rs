//! haggle trains language models to negotiate, serves them, and profiles itself down to the kernel.
//!
//! The way in: `main` -> `cli` -> `train` -> `infer` -> `model` -> `ops` -> `device`. Modules use only what lies
//! below them; `negotiate` and `rank` know no device. The floors, and why each lies where it lies: `tests/house/floors.rs`.
//!
//! **Letters for shapes**, the same everywhere: `B` sequences, `T` tokens, `N` packed tokens, `C` width, `H` query
//! heads, `Hk` key/value heads, `D` head dim, `F` MLP width, `V` vocabulary, `L` layers, `P` pages, `S` slots a page,
//! `G` rollouts a prompt, `K` candidates a rollout. Written `[B, T, H, D]`, outermost first, row-major; a jagged axis
//! with its offsets: `[N, C] by cu_seqlens [B+1]`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
pub mod config;
pub mod credit;
pub mod device;
pub mod disk;
pub mod dist;
pub mod embedded;
pub mod error;
pub mod eval;
pub mod generate;
pub mod guide;
pub mod infer;
pub mod model;
pub mod negotiate;
pub mod noise;
pub mod ops;
pub mod profile;
pub mod rank;
pub mod remote;
pub mod report;
pub mod rollout;
pub mod run;
pub mod selftest;
pub mod serve;
pub mod setup;
pub mod sft;
pub mod tasks;
pub mod text;
pub mod train;

pub use error::{Error, Result};
