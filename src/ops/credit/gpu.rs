//! Launches of the credit kernels.

use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::credit::GroupAdvantage;

/// Warps of a block of shapley_max, for sets of up to 32; larger sets have a block of one.
const SETS: usize = 8;
/// Groups of a block of group_advantage at most, and bytes of their rewards in shared memory.
const GROUPS: usize = 128;
const STAGED_BYTES: usize = 40 << 10;
/// Threads of a block of shapley_table, and the largest game whose table a block has in shared memory.
const THREADS: usize = 256;
const STAGED_K: usize = 12;

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
    // Groups of a block, an odd number of floats each, as many as there is room for.
    let bytes = (group | 1) * size_of::<f32>();
    let staged = bytes <= STAGED_BYTES;
    let groups = if staged { (STAGED_BYTES / bytes).min(GROUPS) } else { GROUPS };
    let floats = [("rewards", rewards.dtype()), ("advantage", advantage.dtype())];
    holds("group_advantage", DType::F32, &floats)?;
    holds("group_advantage", DType::I32, &[("constant", constant.dtype())])?;
    gpu.launch(
        &Launch {
            kernel: "group_advantage",
            op: "group_advantage",
            grid: [n.div_ceil(groups) as u32, 1, 1],
            block: [groups as u32, 1, 1],
            shared_bytes: if staged { (groups * bytes) as u32 } else { 0 },
            shape: &format_args!("n={n} G={group}"),
        },
        &mut [
            Arg::In(rewards),
            Arg::Out(advantage),
            Arg::Out(constant),
            Arg::I64(n as i64),
            Arg::I32(group as i32),
            Arg::I32(how.divide_by_std as i32),
            Arg::I32(staged as i32),
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
    // Values of a block: all of a game whose table has room, with a sum a thread and value.
    let each = if k <= STAGED_K { k } else { 1 };
    let table = if each == k { size_of::<f32>() << k } else { 0 };
    gpu.launch(
        &Launch {
            kernel: "shapley_table",
            op: "shapley_table",
            grid: [(n * k / each) as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared_bytes: (each * THREADS * size_of::<f64>() + table) as u32,
            shape: &format_args!("n={n} K={k}"),
        },
        &mut [Arg::In(values), Arg::Out(phi), Arg::I32(k as i32), Arg::I32(each as i32)],
    )
}
