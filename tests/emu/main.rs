//! The emulator: what it finds, counts and computes.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod conflicts;
mod counters;
mod decode_sectors;
mod dependent;
mod detectors;
mod elementwise;
mod features;
mod mma;
mod probe;
mod sm90;
mod sm90_attn;
mod sm90_head;
mod sm90_model;
