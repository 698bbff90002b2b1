//! Credit: which tokens of which episodes get how much of the reward.
//!
//! The one idea: plain functions of numbers, one place for each rule. No device, no model, no game: what trains and what
//! runs on a GPU calls or equals these.

pub mod advantage;
pub mod aggregate;
pub mod anchor;
pub mod candidates;
pub mod gdpo;
pub mod importance;
pub mod latent;
pub mod opo;
pub mod reinforce_pp;
pub mod rloo;
pub mod rules;
pub mod set;
pub mod shaping;
pub mod shapley;

#[cfg(test)]
mod axioms;
