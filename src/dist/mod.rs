//! Many ranks, the same bits.
//!
//! The one idea: what is added is added in an order that the batch alone decides, so that who adds it does not matter. Samples
//! are dealt into lanes, lanes are summed in a fixed tree: see [`lanes`].

pub mod lanes;
