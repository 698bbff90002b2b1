//! Credit: which tokens of which episodes get how much of the reward.
//!
//! The one idea: plain functions of numbers, one place for each rule. No device, no model, no game. Rules that run
//! where the rewards are, on the run's device, are ops and stand in `crate::ops::credit`: the group's advantage and the exact
//! Shapley values.

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
