//! Credit: which tokens of which episodes get how much of the reward.
//!
//! The one idea: plain functions of numbers, one place for each rule. No device, no model, no game: what trains and what
//! runs on a GPU calls or equals these.

pub mod advantage;
pub mod set;
pub mod shapley;

#[cfg(test)]
mod axioms;
