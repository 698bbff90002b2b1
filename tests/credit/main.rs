//! The rules of credit.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod axioms;
mod golden;
mod sets;
