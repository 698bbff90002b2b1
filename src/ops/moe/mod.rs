//! A mixture of experts around its linear layers ([`gemm_grouped`](crate::ops::gemm_grouped)): which experts a token goes to,
//! its rows put in the order of their experts, its experts' outputs added up.
//!
//! A token's row for its expert of rank i has number `token A + i`, R = N A in all. [`moe_sort`] puts rows in the order of
//! their experts: `order [R]` is the row at a place, `place [R]` the place of a row, `offsets [E + 1]` where each expert's
//! begin. Forward: [`route_topk_fwd`], [`moe_sort`], [`moe_gather_fwd`], the experts, [`moe_combine_fwd`]. Everything but
//! counts and [`route_balance_fwd`] follows the row rule.

mod balance;
pub mod cases;
mod cases_rows;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

pub use balance::{route_balance_bwd, route_balance_fwd};

use super::gemm::Store;
use super::{below, want};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::{Error, Result};
use half::bf16;

/// Experts E at most: those that [`moe_sort`] sorts by in one pass.
pub const MAX_EXPERTS: usize = 256;

/// `probs = softmax(logits)`, the A `experts` of the largest logits by descending rank, among equals the lower one first, and
/// their `gates`: their probabilities, when `normalise` divided by their sum. logits, probs `[N, E]` f32, experts `[N, A]`
/// i32, gates `[N, A]` f32. NaN among a token's logits makes its probs and gates NaN; its experts are valid and distinct all
/// the same. Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 3 to 5.
///
/// # Errors
/// [`Error::Shape`] unless A <= E <= [`MAX_EXPERTS`].
pub fn route_topk_fwd(
    dev: &Device,
    logits: View,
    mut probs: ViewMut,
    mut experts: ViewMut,
    mut gates: ViewMut,
    [n_experts, n_active]: [usize; 2],
    normalise: bool,
) -> Result<()> {
    let op = "route_topk_fwd";
    let n = routed(op, [n_experts, n_active], logits.len(), gates.len())?;
    want(op, "probs [N, E]", probs.len(), logits.len())?;
    want(op, "experts [N, A]", experts.len(), gates.len())?;
    let _span = dev.op("route_topk_fwd", || cost::route_topk_fwd(n, n_experts, n_active));
    match dev {
        Device::Cpu(cpu) => {
            let to = (probs.host_mut(), experts.host_mut(), gates.host_mut());
            cpu::route_topk_fwd(cpu, logits.host(), to, [n_experts, n_active], normalise)
        }
        Device::Gpu(gpu) => {
            gpu::route_topk_fwd(gpu, logits, probs, experts, gates, [n, n_experts, n_active], normalise)?
        }
    }
    Ok(())
}

/// `dlogits = ` the gradient of [`route_topk_fwd`], from that of the gates; shapes as there.
///
/// # Errors
/// As there.
pub fn route_topk_bwd(
    dev: &Device,
    dgates: View,
    probs: View,
    experts: View,
    gates: View,
    mut dlogits: ViewMut,
    [n_experts, n_active]: [usize; 2],
    normalise: bool,
) -> Result<()> {
    let op = "route_topk_bwd";
    let n = routed(op, [n_experts, n_active], probs.len(), gates.len())?;
    want(op, "dlogits [N, E]", dlogits.len(), probs.len())?;
    want(op, "experts [N, A]", experts.len(), gates.len())?;
    want(op, "dgates [N, A]", dgates.len(), gates.len())?;
    let _span = dev.op("route_topk_bwd", || cost::route_topk_bwd(n, n_experts, n_active));
    match dev {
        Device::Cpu(cpu) => {
            below(op, "experts below E", experts.host(), n_experts)?;
            let from = (dgates.host(), probs.host(), experts.host(), gates.host());
            cpu::route_topk_bwd(cpu, from, dlogits.host_mut(), [n_experts, n_active], normalise)
        }
        Device::Gpu(gpu) => {
            gpu::route_topk_bwd(gpu, [dgates, probs, experts, gates], dlogits, [n, n_experts, n_active], normalise)?
        }
    }
    Ok(())
}

/// Tokens N, when there are E logits and A gates of each.
fn routed(op: &'static str, [e, a]: [usize; 2], logits: usize, gates: usize) -> Result<usize> {
    if e > MAX_EXPERTS {
        return Err(Error::Shape { op, rule: "E at most 256", want: MAX_EXPERTS, got: e });
    }
    if a == 0 || a > e {
        return Err(Error::Shape { op, rule: "1 <= A <= E", want: e, got: a });
    }
    want(op, "logits, probs [N, E]", logits % e, 0)?;
    want(op, "gates [N, A]", gates, logits / e * a)?;
    Ok(logits / e)
}

/// The rows `[N, A]` in the order of their experts, those of one expert in ascending order: `order [R]`, `place [R]` its
/// inverse, `offsets [E + 1]`; all i32. Nobody waits for the counts.
///
/// # Errors
/// [`Error::Shape`] when E is larger than [`MAX_EXPERTS`], or, on the CPU, an expert is not below E.
pub fn moe_sort(
    dev: &Device,
    experts: View,
    mut order: ViewMut,
    mut place: ViewMut,
    mut offsets: ViewMut,
) -> Result<()> {
    let (op, r, e) = ("moe_sort", experts.len(), offsets.len().saturating_sub(1));
    want(op, "order [R]", order.len(), r)?;
    want(op, "place [R]", place.len(), r)?;
    if e == 0 || e > MAX_EXPERTS {
        return Err(Error::Shape {
            op,
            rule: "offsets [E + 1], E at most 256",
            want: MAX_EXPERTS + 1,
            got: offsets.len(),
        });
    }
    let _span = dev.op("moe_sort", || cost::moe_sort(r, e));
    match dev {
        Device::Cpu(_) => {
            below(op, "experts below E", experts.host(), e)?;
            cpu::moe_sort(experts.host(), order.host_mut(), place.host_mut(), offsets.host_mut())
        }
        Device::Gpu(gpu) => gpu::moe_sort(gpu, experts, order, place, offsets)?,
    }
    Ok(())
}

/// `xs_r = x[order[r] / A]`, or `xs[place[n, i]] = x_n`; x `[N, C]`, order and place `[R]`, xs `[R, C]` like x; on the CPU both
/// may be bf16 (see [`Device::factor_dtype`]).
pub fn moe_gather_fwd(dev: &Device, x: View, [order, place]: [View; 2], mut xs: ViewMut, dim: usize) -> Result<()> {
    let (op, r) = ("moe_gather_fwd", order.len());
    let n = tokens(op, r, x.len(), xs.len(), dim)?;
    want(op, "place [R]", place.len(), r)?;
    let _span = dev.op("moe_gather_fwd", || cost::moe_gather_fwd(n, r, dim, x.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below(op, "order below R", order.host(), r)?;
            match x.dtype() {
                DType::Bf16 => cpu::moe_gather_fwd::<bf16>(cpu, x.host(), order.host(), xs.host_mut(), dim),
                _ => cpu::moe_gather_fwd::<f32>(cpu, x.host(), order.host(), xs.host_mut(), dim),
            }
        }
        Device::Gpu(gpu) => gpu::moe_gather_fwd(gpu, x, place, xs, [n, r, dim])?,
    }
    Ok(())
}

/// `dx_n = sum_i dxs[place[n, i]]` or `dx_n += ` the same, the ranks i in ascending order: the gradient of
/// [`moe_gather_fwd`]; dxs `[R, C]`, place `[N, A]`, dx `[N, C]` like dxs.
pub fn moe_gather_bwd(dev: &Device, dxs: View, place: View, mut dx: ViewMut, dim: usize, store: Store) -> Result<()> {
    let (op, r) = ("moe_gather_bwd", place.len());
    let n = tokens(op, r, dx.len(), dxs.len(), dim)?;
    let _span = dev.op("moe_gather_bwd", || cost::moe_gather_bwd(n, r, dim, dxs.dtype(), store == Store::Add));
    match dev {
        Device::Cpu(cpu) => {
            below(op, "place below R", place.host(), r)?;
            cpu::moe_gather_bwd(cpu, dxs.host(), place.host(), dx.host_mut(), dim, store)
        }
        Device::Gpu(gpu) => gpu::moe_gather_bwd(gpu, dxs, place, dx, [n, r, dim], store)?,
    }
    Ok(())
}

/// `y_n += sum_i gates[n, i] out[place[n, i]]`, one chain from what stands in y over ranks i in ascending order, rounded once;
/// out `[R, C]`, gates `[N, A]` f32, place `[N, A]`, y `[N, C]` like out. Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1.
pub fn moe_combine_fwd(dev: &Device, out: View, gates: View, place: View, mut y: ViewMut, dim: usize) -> Result<()> {
    let (op, r) = ("moe_combine_fwd", place.len());
    let n = tokens(op, r, y.len(), out.len(), dim)?;
    want(op, "gates [N, A]", gates.len(), r)?;
    let _span = dev.op("moe_combine_fwd", || cost::moe_combine_fwd(n, r, dim, out.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below(op, "place below R", place.host(), r)?;
            cpu::moe_combine_fwd(cpu, out.host(), gates.host(), place.host(), y.host_mut(), dim)
        }
        Device::Gpu(gpu) => gpu::moe_combine_fwd(gpu, [out, gates, place], y, [n, r, dim])?,
    }
    Ok(())
}

/// `dout_r = gates[n, i] dy_n`, `dgates[n, i] = <dy_n, out_r>`, row r being the token's of rank i: the gradient of
/// [`moe_combine_fwd`], but that dy goes on to y as it is. dy `[N, C]`, out and dout `[R, C]`, gates and dgates `[N, A]` f32,
/// order and place `[R]`; on the CPU dout may be bf16.
pub fn moe_combine_bwd(
    dev: &Device,
    dy: View,
    out: View,
    gates: View,
    [order, place]: [View; 2],
    mut dout: ViewMut,
    mut dgates: ViewMut,
    dim: usize,
) -> Result<()> {
    let (op, r) = ("moe_combine_bwd", order.len());
    let n = tokens(op, r, dy.len(), out.len(), dim)?;
    want(op, "place [R]", place.len(), r)?;
    want(op, "gates [N, A]", gates.len(), r)?;
    want(op, "dgates [N, A]", dgates.len(), r)?;
    want(op, "dout [R, C]", dout.len(), out.len())?;
    let _span = dev.op("moe_combine_bwd", || cost::moe_combine_bwd(n, r, dim, out.dtype(), dout.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below(op, "order below R", order.host(), r)?;
            below(op, "place below R", place.host(), r)?;
            let (from, at) = ((dy.host(), out.host(), gates.host()), [order.host(), place.host()]);
            match dout.dtype() {
                DType::Bf16 => cpu::moe_combine_bwd::<bf16>(cpu, from, at, dout.host_mut(), dgates.host_mut(), dim),
                _ => cpu::moe_combine_bwd::<f32>(cpu, from, at, dout.host_mut(), dgates.host_mut(), dim),
            }
        }
        Device::Gpu(gpu) => gpu::moe_combine_bwd(gpu, [dy, out, gates, place], dout, dgates, [n, r, dim])?,
    }
    Ok(())
}

/// Tokens N, of which each has as many of the R rows.
fn tokens(op: &'static str, r: usize, tokens: usize, rows: usize, dim: usize) -> Result<usize> {
    want(op, "rows [R, C]", rows, r * dim)?;
    want(op, "tokens [N, C]", tokens % dim.max(1), 0)?;
    let n = tokens / dim.max(1);
    want(op, "R = N A", r % n.max(1), 0)?;
    want(op, "rows of no token", if n == 0 { r } else { 0 }, 0)?;
    Ok(n)
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    pub use super::balance::cost::{route_balance_bwd, route_balance_fwd};
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// A softmax of N rows of E, and their A largest.
    pub fn route_topk_fwd(n: usize, e: usize, a: usize) -> Cost {
        cost(n * (4 * e + 2 * a), n * (8 * e + 8 * a), "N E A", [n, e, a])
    }

    /// Its gradient.
    pub fn route_topk_bwd(n: usize, e: usize, a: usize) -> Cost {
        cost(2 * n * (e + a), n * (8 * e + 12 * a), "N E A", [n, e, a])
    }

    /// Reads R ids, writes each row's place and the row at each place.
    pub fn moe_sort(r: usize, e: usize) -> Cost {
        cost(0, 12 * r + 4 * (e + 1), "R E", [r, e, 0])
    }

    /// Moves N rows of C to R places.
    pub fn moe_gather_fwd(n: usize, r: usize, c: usize, x: DType) -> Cost {
        cost(0, (n + r) * c * x.size() + 4 * r, "N R C", [n, r, c])
    }

    /// Adds R rows of C to N; `adds` when those are read too.
    pub fn moe_gather_bwd(n: usize, r: usize, c: usize, x: DType, adds: bool) -> Cost {
        cost(r * c, (r + n * (1 + adds as usize)) * c * x.size() + 4 * r, "N R C", [n, r, c])
    }

    /// Adds R rows of C, each by its gate, to N.
    pub fn moe_combine_fwd(n: usize, r: usize, c: usize, x: DType) -> Cost {
        cost(2 * r * c, (r + 2 * n) * c * x.size() + 8 * r, "N R C", [n, r, c])
    }

    /// Scales R rows of C, and R inner products.
    pub fn moe_combine_bwd(n: usize, r: usize, c: usize, x: DType, dx: DType) -> Cost {
        cost(3 * r * c, (r + n) * c * x.size() + r * c * dx.size() + 12 * r, "N R C", [n, r, c])
    }
}
