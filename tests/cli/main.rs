//! The commands, run as a user runs them.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cards;
mod chat;
mod eval;
mod first_hour;
mod generate;
mod init;
mod inputs;
mod lora;
mod memory;
mod output;
mod paths;
mod places;
mod products;
mod profile;
mod refusals;
mod report_page;
mod resume;
mod score;
mod sft;
mod show;
mod signals;
mod train;
mod usage;
