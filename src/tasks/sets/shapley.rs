//! Shapley values of many sets, by the ops on the run's device.
//!
//! The one idea: sets of one size go in one call. The worth "best of the set" has a closed form, any other is a table of
//! its `2^K` values; only what is too large for a table is estimated, on the host.

use crate::credit::set::{Set, Worth};
use crate::credit::shapley::{SAMPLED_PAIRS, shapley_sampled};
use crate::device::{DType, Device};
use crate::error::Result;
use crate::noise::Noise;
use crate::ops::credit::{MAX_TABLE, shapley_max, shapley_table};
use std::collections::BTreeMap;

/// The Shapley value of each candidate of each set; none for no set. `noise` of a set serves the estimate.
///
/// Source: Shapley 1953; Ai et al. 2026, arXiv:2603.29871 (candidates as players).
///
/// # Errors
/// As [`Set::check`]; what the device refuses.
pub fn shapley(
    dev: &Device,
    sets: &[Option<Set>],
    worth: Worth,
    noise: &dyn Fn(usize) -> Noise,
) -> Result<Vec<Vec<f64>>> {
    let mut phi: Vec<Vec<f64>> = sets.iter().map(|_| vec![]).collect();
    let mut by_size: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, set) in sets.iter().enumerate() {
        let Some(set) = set else { continue };
        set.check(worth)?;
        by_size.entry(set.utility.len()).or_default().push(i);
    }
    for (k, members) in by_size {
        let of = |i: &usize| sets[*i].as_ref().into_iter();
        let found = match worth {
            Worth::Max | Worth::MaxMinusCost { .. } => {
                let utility: Vec<f32> =
                    members.iter().flat_map(of).flat_map(|s| &s.utility).map(|u| *u as f32).collect();
                let (on, mut out) = (dev.upload(&utility)?, dev.zeros(DType::F32, utility.len())?);
                shapley_max(dev, on.view(), out.view_mut(), k)?;
                // The cost is additive, so each pays its own.
                let cost = if let Worth::MaxMinusCost { cost } = worth { cost } else { 0.0 };
                dev.download::<f32>(out.view())?.iter().map(|phi| *phi as f64 - cost).collect()
            }
            _ if k <= MAX_TABLE => {
                let values = members.iter().flat_map(of).flat_map(|set| set.values(worth));
                let on = dev.upload(&values.map(|v| v as f32).collect::<Vec<f32>>())?;
                let mut out = dev.zeros(DType::F32, members.len() * k)?;
                shapley_table(dev, on.view(), out.view_mut(), k)?;
                dev.download::<f32>(out.view())?.iter().map(|phi| *phi as f64).collect()
            }
            _ => {
                let mut found: Vec<f64> = Vec::new();
                for (i, set) in members.iter().flat_map(|i| of(i).map(move |set| (*i, set))) {
                    found.extend(shapley_sampled(k, SAMPLED_PAIRS, noise(i), |mask| set.worth(worth, mask))?.phi);
                }
                found
            }
        };
        for (i, own) in members.iter().zip(found.chunks(k)) {
            phi[*i] = own.to_vec();
        }
    }
    Ok(phi)
}
