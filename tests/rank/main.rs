//! Who is better, and how sure that is.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod common;
mod golden;
mod parquet;
mod properties;
mod refusals;
mod runs;
