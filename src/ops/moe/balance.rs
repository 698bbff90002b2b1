//! How evenly tokens are shared out among experts, and the loss that keeps them so.

use super::{cpu, gpu, routed};
use crate::device::{Device, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::want;

/// `counts_e = ` tokens of expert e, `mean_e = mean_n probs[n, e]`, and the load-balancing loss `E sum_e f_e mean_e` with
/// `f_e = counts_e / N`; probs `[N, E]` f32 of [`route_topk_fwd`](super::route_topk_fwd), offsets `[E + 1]` i32 of
/// [`moe_sort`](super::moe_sort), counts `[E]` i32, mean `[E]` f32, loss `[1]` f32. A token counts once for each of its A
/// experts, so even routing has a loss of A: that of one layer in `transformers`. Source: Fedus, Zoph and Shazeer 2021,
/// arXiv:2101.03961, eq. 4 to 6.
///
/// # Errors
/// [`Error::Shape`] when N is 0.
pub fn route_balance_fwd(
    dev: &Device,
    probs: View,
    offsets: View,
    mut counts: ViewMut,
    mut mean: ViewMut,
    mut loss: ViewMut,
) -> Result<()> {
    let (op, e) = ("route_balance_fwd", counts.len());
    let n = sizes(op, probs.len(), e)?;
    want(op, "offsets [E + 1]", offsets.len(), e + 1)?;
    want(op, "mean [E]", mean.len(), e)?;
    want(op, "loss [1]", loss.len(), 1)?;
    let _span = dev.op("route_balance_fwd", || cost::route_balance_fwd(n, e));
    match dev {
        Device::Cpu(cpu) => {
            let to = (counts.host_mut(), mean.host_mut(), loss.host_mut());
            cpu::balance::route_balance_fwd(cpu, probs.host(), offsets.host(), to)
        }
        Device::Gpu(gpu) => gpu::route_balance_fwd(gpu, probs, offsets, [counts, mean, loss], [n, e])?,
    }
    Ok(())
}

/// `dlogits += weight` times the gradient of the loss of [`route_balance_fwd`]; counts have no slope. probs, dlogits `[N, E]`
/// f32, counts `[E]` i32.
///
/// # Errors
/// [`Error::Shape`] when N is 0.
pub fn route_balance_bwd(dev: &Device, probs: View, counts: View, mut dlogits: ViewMut, weight: f32) -> Result<()> {
    let (op, e) = ("route_balance_bwd", counts.len());
    let n = sizes(op, probs.len(), e)?;
    want(op, "dlogits [N, E]", dlogits.len(), probs.len())?;
    let _span = dev.op("route_balance_bwd", || cost::route_balance_bwd(n, e));
    let scale = weight * e as f32 / n as f32 / n as f32;
    match dev {
        Device::Cpu(cpu) => {
            cpu::balance::route_balance_bwd(cpu, probs.host(), counts.host(), dlogits.host_mut(), scale)
        }
        Device::Gpu(gpu) => gpu::route_balance_bwd(gpu, probs, counts, dlogits, [n, e], scale)?,
    }
    Ok(())
}

/// Tokens N, at least one.
fn sizes(op: &'static str, probs: usize, e: usize) -> Result<usize> {
    let n = routed(op, [e, 1], probs, probs / e.max(1))?;
    if n == 0 { Err(Error::Shape { op, rule: "tokens N at least", want: 1, got: 0 }) } else { Ok(n) }
}

/// Their cost, see [`crate::ops::moe::cost`].
pub mod cost {
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// Sums N rows of E.
    pub fn route_balance_fwd(n: usize, e: usize) -> Cost {
        cost(n * e, 4 * (n * e + 3 * e), "N E", [n, e, 0])
    }

    /// A softmax's gradient in N rows of E.
    pub fn route_balance_bwd(n: usize, e: usize) -> Cost {
        cost(4 * n * e, 4 * (3 * n * e + e), "N E", [n, e, 0])
    }
}
