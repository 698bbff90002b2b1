//! Many ranks have the bits of one.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod common;
mod experts;
mod mpi;
mod nccl;
mod rounds;
mod shards;
mod threads;
