//! The game, its products, and a seller behind a server.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod any_product;
mod chat_server;
mod desk;
mod export;
mod folder;
mod game;
mod metrics;
mod parser;
mod products;
mod seller;
mod teachers;
