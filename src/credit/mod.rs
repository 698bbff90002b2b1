//! Credit: which tokens of which episodes get how much of the reward.

pub mod advantage;
