//! Models: against `transformers`, against themselves on every device, and what is refused.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod alloc;
mod bad_batches;
mod bf16;
mod checkpoint;
mod emu;
mod files;
mod golden;
mod gradients;
mod layers_30b;
mod row_rule;
mod shared;
mod smollm2;
