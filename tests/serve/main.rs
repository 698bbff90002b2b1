//! `haggle serve` over loopback.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod clock;
mod common;
mod crowds;
mod faults;
mod negotiations;
mod observed;
mod page;
mod postgres;
mod reload;
mod routes;
mod smollm2;
mod store;
mod tools;
