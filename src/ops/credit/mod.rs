//! Credit on the device: rewards into advantages, worths of sets into Shapley values.
//!
//! The rules and their axioms stand in `crate::credit`; these are the batched forms that run where the rewards are.
//! Sums run in f64 in one order, with one rounding at the store: the same bits on every device.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::want;
use crate::device::{Device, View, ViewMut};
use crate::error::{Error, Result};

/// How rewards of a group become advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupAdvantage {
    /// Divide by the group's standard deviation (Shao et al. 2024, arXiv:2402.03300, eq. 3); without it the advantage is
    /// mean-centred only (Liu et al. 2025, arXiv:2503.20783).
    pub divide_by_std: bool,
}

/// Added to the standard deviation before dividing.
pub const STD_EPS: f64 = 1e-6;
/// Most candidates of a set of [`shapley_max`]: their order fits the shared memory of a block.
pub const MAX_SET: usize = 1024;
/// Most candidates of a set of [`shapley_table`]: 2^16 values.
pub const MAX_TABLE: usize = 16;

/// advantage `[n, G]` from rewards `[n, G]`: `(r - mean) / (std + eps)` or `r - mean` of each group; constant `[n]` i32
/// is 1 where all rewards of a group are the same, and its advantages exactly zero. NaN comes through.
pub fn group_advantage(
    dev: &Device,
    rewards: View,
    mut advantage: ViewMut,
    mut constant: ViewMut,
    group: usize,
    how: GroupAdvantage,
) -> Result<()> {
    at_most("group_advantage", "G, 1 or more", group, usize::MAX)?;
    want("group_advantage", "rewards [n, G]", rewards.len(), constant.len() * group)?;
    want("group_advantage", "advantage [n, G]", advantage.len(), rewards.len())?;
    let _span = dev.op("group_advantage", || cost::group_advantage(constant.len(), group));
    match dev {
        Device::Cpu(cpu) => {
            cpu::group_advantage(cpu, rewards.host(), advantage.host_mut(), constant.host_mut(), group, how)
        }
        Device::Gpu(gpu) => gpu::group_advantage(gpu, rewards, advantage, constant, group, how)?,
    }
    Ok(())
}

/// Shapley values phi `[n, K]` of the game "the best of the set" (the empty set is worth 0), utility `[n, K]`, K to 1024.
/// With utilities ascending, `r_0 = 0`: `phi_k = sum_{j <= k} (r_j - r_{j-1}) / (K - j + 1)`. Equal utilities get equal
/// bits; NaN counts as the largest and spoils nothing but itself.
///
/// Source: Littlechild and Owen 1973 (the airport game), as credit for candidates: arXiv:2603.29871.
pub fn shapley_max(dev: &Device, utility: View, mut phi: ViewMut, k: usize) -> Result<()> {
    at_most("shapley_max", "K, 1 to 1024", k, MAX_SET)?;
    want("shapley_max", "utility [n, K]", utility.len() % k, 0)?;
    want("shapley_max", "phi [n, K]", phi.len(), utility.len())?;
    let _span = dev.op("shapley_max", || cost::shapley_max(utility.len() / k, k));
    match dev {
        Device::Cpu(cpu) => cpu::shapley_max(cpu, utility.host(), phi.host_mut(), k),
        Device::Gpu(gpu) => gpu::shapley_max(gpu, utility, phi, k)?,
    }
    Ok(())
}

/// Shapley values phi `[n, K]` of games given by their values `[n, 2^K]`, K to 16; bit i of an index says that candidate
/// i is in the set. `phi_i = sum_{S without i} |S|! (K - |S| - 1)! / K! (v(S + i) - v(S))`.
///
/// Source: Shapley 1953, "A value for n-person games".
pub fn shapley_table(dev: &Device, values: View, mut phi: ViewMut, k: usize) -> Result<()> {
    at_most("shapley_table", "K, 1 to 16", k, MAX_TABLE)?;
    want("shapley_table", "phi [n, K]", phi.len() % k, 0)?;
    want("shapley_table", "values [n, 2^K]", values.len(), (phi.len() / k) << k)?;
    let _span = dev.op("shapley_table", || cost::shapley_table(phi.len() / k, k));
    match dev {
        Device::Cpu(cpu) => cpu::shapley_table(cpu, values.host(), phi.host_mut(), k),
        Device::Gpu(gpu) => gpu::shapley_table(gpu, values, phi, k)?,
    }
    Ok(())
}

/// `Ok` when a size lies in `1..=most`.
fn at_most(op: &'static str, rule: &'static str, got: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&got) { Ok(()) } else { Err(Error::Shape { op, rule, want: most.min(got.max(1)), got }) }
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// n groups of G rewards.
    pub fn group_advantage(n: usize, g: usize) -> Cost {
        cost(5 * n * g, 8 * n * g + 4 * n, "n G", [n, g, 0])
    }

    /// n sets of K: ranks by K comparisons a candidate.
    pub fn shapley_max(n: usize, k: usize) -> Cost {
        cost(n * k * k, 8 * n * k, "n K", [n, k, 0])
    }

    /// n games of K by their tables.
    pub fn shapley_table(n: usize, k: usize) -> Cost {
        cost(3 * n * k * (1 << k) / 2, 4 * n * (1 << k) + 4 * n * k, "n K", [n, k, 0])
    }
}
