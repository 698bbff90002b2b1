//! Launches of the credit kernels.

use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::credit::GroupAdvantage;

/// Warps of a block of shapley_max, for sets of up to 32; larger sets have a block of one.
const SETS: usize = 8;

/// See [`crate::ops::credit::group_advantage`].
pub fn group_advantage(
    gpu: &Gpu,
    rewards: View,
    advantage: ViewMut,
    constant: ViewMut,
    group: usize,
    how: GroupAdvantage,
) -> Result<()> {
    let n = constant.len();
    let floats = [("rewards", rewards.dtype()), ("advantage", advantage.dtype())];
    holds("group_advantage", DType::F32, &floats)?;
    holds("group_advantage", DType::I32, &[("constant", constant.dtype())])?;
    gpu.launch(
        &Launch {
            kernel: "group_advantage",
            op: "group_advantage",
            grid: [n.div_ceil(128) as u32, 1, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("n={n} G={group}"),
        },
        &mut [
            Arg::In(rewards),
            Arg::Out(advantage),
            Arg::Out(constant),
            Arg::I64(n as i64),
            Arg::I32(group as i32),
            Arg::I32(how.divide_by_std as i32),
        ],
    )
}

/// See [`crate::ops::credit::shapley_max`].
pub fn shapley_max(gpu: &Gpu, utility: View, phi: ViewMut, k: usize) -> Result<()> {
    let n = utility.len() / k;
    holds("shapley_max", DType::F32, &[("utility", utility.dtype()), ("phi", phi.dtype())])?;
    let sets = if k <= 32 { SETS } else { 1 };
    gpu.launch(
        &Launch {
            kernel: "shapley_max",
            op: "shapley_max",
            grid: [n.div_ceil(sets) as u32, 1, 1],
            block: [32 * sets as u32, 1, 1],
            // A double, a float and an int a candidate.
            shared_bytes: (sets * k * 16) as u32,
            shape: &format_args!("n={n} K={k}"),
        },
        &mut [Arg::In(utility), Arg::Out(phi), Arg::I64(n as i64), Arg::I32(k as i32)],
    )
}

/// See [`crate::ops::credit::shapley_table`].
pub fn shapley_table(gpu: &Gpu, values: View, phi: ViewMut, k: usize) -> Result<()> {
    let n = phi.len() / k;
    holds("shapley_table", DType::F32, &[("values", values.dtype()), ("phi", phi.dtype())])?;
    gpu.launch(
        &Launch {
            kernel: "shapley_table",
            op: "shapley_table",
            grid: [(n * k) as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("n={n} K={k}"),
        },
        &mut [Arg::In(values), Arg::Out(phi), Arg::I32(k as i32)],
    )
}
