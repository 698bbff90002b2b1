//! The engine: batching, pages, graphs, and the row rule through all of them.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod card_memory;
mod families;
mod graphs;
mod leans;
mod lora;
mod masks;
mod padded;
mod pages;
mod random;
mod results;
mod segments;
mod transfers;
