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

/// The groups of a batch: slices one behind the other, of these sizes.
pub fn groups<'a, T>(mut batch: &'a [T], sizes: &'a [usize]) -> impl Iterator<Item = &'a [T]> {
    sizes.iter().map(move |size| {
        let (group, rest) = batch.split_at(*size);
        batch = rest;
        group
    })
}

/// The same, to be written.
pub fn groups_mut<'a, T>(batch: &'a mut [T], sizes: &'a [usize]) -> impl Iterator<Item = &'a mut [T]> {
    let mut batch = Some(batch);
    sizes.iter().filter_map(move |size| {
        let (group, rest) = batch.take()?.split_at_mut(*size);
        batch = Some(rest);
        Some(group)
    })
}
