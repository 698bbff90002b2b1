//! Launches of the kernels of a mixture of experts.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::Store;

/// Threads of a block where half a warp, or the block, has a row.
const THREADS: u32 = 128;
/// Threads of a row where half a warp has one.
const ROW: usize = 16;

/// Half a warp each of N rows.
fn halves(kernel: &'static str, n: usize) -> Launch<'static> {
    let grid = [n.div_ceil(THREADS as usize / ROW) as u32, 1, 1];
    Launch { kernel, op: kernel, grid, block: [THREADS, 1, 1], shared_bytes: 0, shape: &"" }
}

/// See [`crate::ops::moe::route_topk_fwd`].
pub fn route_topk_fwd(
    gpu: &Gpu,
    logits: View,
    probs: ViewMut,
    experts: ViewMut,
    gates: ViewMut,
    [n, e, a]: [usize; 3],
    normalise: bool,
) -> Result<()> {
    let op = "route_topk_fwd";
    holds(op, DType::F32, &[("logits", logits.dtype()), ("probs", probs.dtype()), ("gates", gates.dtype())])?;
    holds(op, DType::I32, &[("experts", experts.dtype())])?;
    let [n_rows, e_, a_, normalise] =
        [Arg::I64(n as i64), Arg::I32(e as i32), Arg::I32(a as i32), Arg::I32(normalise as i32)];
    gpu.launch_dependent(
        &Launch { shape: &format_args!("N={n} E={e} A={a}"), ..halves(op, n) },
        &mut [Arg::In(logits), Arg::Out(probs), Arg::Out(experts), Arg::Out(gates), n_rows, e_, a_, normalise],
    )
}

/// See [`crate::ops::moe::route_topk_bwd`]; dgates, probs, experts, gates.
pub fn route_topk_bwd(
    gpu: &Gpu,
    [dgates, probs, experts, gates]: [View; 4],
    dlogits: ViewMut,
    [n, e, a]: [usize; 3],
    normalise: bool,
) -> Result<()> {
    let op = "route_topk_bwd";
    holds(op, DType::F32, &[("dgates", dgates.dtype()), ("probs", probs.dtype()), ("gates", gates.dtype())])?;
    holds(op, DType::F32, &[("dlogits", dlogits.dtype())])?;
    holds(op, DType::I32, &[("experts", experts.dtype())])?;
    let [n_rows, e_, a_, normalise] =
        [Arg::I64(n as i64), Arg::I32(e as i32), Arg::I32(a as i32), Arg::I32(normalise as i32)];
    let [dgates, probs, experts, gates] = [dgates, probs, experts, gates].map(Arg::In);
    gpu.launch(
        &Launch { shape: &format_args!("N={n} E={e} A={a}"), ..halves(op, n) },
        &mut [dgates, probs, experts, gates, Arg::Out(dlogits), n_rows, e_, a_, normalise],
    )
}

/// See [`crate::ops::moe::moe_sort`].
pub fn moe_sort(gpu: &Gpu, experts: View, order: ViewMut, place: ViewMut, offsets: ViewMut) -> Result<()> {
    let (op, r, e) = ("moe_sort", experts.len(), offsets.len() - 1);
    holds(op, DType::I32, &[("experts", experts.dtype()), ("order", order.dtype())])?;
    holds(op, DType::I32, &[("place", place.dtype()), ("offsets", offsets.dtype())])?;
    gpu.launch_dependent(
        &Launch {
            kernel: op,
            op,
            grid: [1, 1, 1],
            block: [1024, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("R={r} E={e}"),
        },
        &mut [
            Arg::In(experts),
            Arg::Out(order),
            Arg::Out(place),
            Arg::Out(offsets),
            Arg::I32(r as i32),
            Arg::I32(e as i32),
        ],
    )
}

/// Rows of whole 16-byte vectors, in buffers that start on one.
fn vectors(dim: usize, dtype: DType, starts: &[*const u8]) -> Arg<'static> {
    let starts = starts.iter().fold(0, |all, start| all | *start as usize);
    Arg::I32(((dim * dtype.size()).is_multiple_of(16) && starts.is_multiple_of(16)) as i32)
}

/// A block each of `rows`, of N tokens with R rows of C.
fn blocks<'a>(kernel: &'static str, op: &'static str, rows: usize, shape: &'a dyn std::fmt::Display) -> Launch<'a> {
    Launch { kernel, op, grid: [rows as u32, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0, shape }
}

/// See [`crate::ops::moe::moe_gather_fwd`].
pub fn moe_gather_fwd(gpu: &Gpu, x: View, place: View, mut xs: ViewMut, [n, r, c]: [usize; 3]) -> Result<()> {
    let (op, dtype) = ("moe_gather_fwd", by_dtype("moe_gather_fwd", &[x.dtype(), xs.dtype()])?);
    holds(op, DType::I32, &[("place", place.dtype())])?;
    let kernel = if dtype == DType::Bf16 { "moe_gather_fwd_bf16" } else { "moe_gather_fwd_f32" };
    let vectors = vectors(c, dtype, &[x.address(), xs.address()]);
    let [a, dim] = [r / n.max(1), c].map(|x| Arg::I32(x as i32));
    gpu.launch_dependent(
        &blocks(kernel, op, n, &format_args!("N={n} R={r} C={c}")),
        &mut [Arg::In(x), Arg::In(place), Arg::Out(xs), a, dim, vectors],
    )
}

/// See [`crate::ops::moe::moe_gather_bwd`].
pub fn moe_gather_bwd(
    gpu: &Gpu,
    dxs: View,
    place: View,
    mut dx: ViewMut,
    [n, r, c]: [usize; 3],
    store: Store,
) -> Result<()> {
    let (op, dtype) = ("moe_gather_bwd", by_dtype("moe_gather_bwd", &[dxs.dtype(), dx.dtype()])?);
    holds(op, DType::I32, &[("place", place.dtype())])?;
    let kernel = if dtype == DType::Bf16 { "moe_gather_bwd_bf16" } else { "moe_gather_bwd_f32" };
    let vectors = vectors(c, dtype, &[dxs.address(), dx.address()]);
    let [a, dim, add] = [r / n.max(1), c, (store == Store::Add) as usize].map(|x| Arg::I32(x as i32));
    gpu.launch(
        &blocks(kernel, op, n, &format_args!("N={n} R={r} C={c}")),
        &mut [Arg::In(dxs), Arg::In(place), Arg::Out(dx), a, dim, add, vectors],
    )
}

/// See [`crate::ops::moe::moe_combine_fwd`]; out, gates, place.
pub fn moe_combine_fwd(gpu: &Gpu, [out, gates, place]: [View; 3], mut y: ViewMut, [n, r, c]: [usize; 3]) -> Result<()> {
    let (op, dtype) = ("moe_combine_fwd", by_dtype("moe_combine_fwd", &[out.dtype(), y.dtype()])?);
    holds(op, DType::F32, &[("gates", gates.dtype())])?;
    holds(op, DType::I32, &[("place", place.dtype())])?;
    let kernel = if dtype == DType::Bf16 { "moe_combine_fwd_bf16" } else { "moe_combine_fwd_f32" };
    let vectors = vectors(c, dtype, &[out.address(), y.address()]);
    let [a, dim] = [r / n.max(1), c].map(|x| Arg::I32(x as i32));
    gpu.launch_dependent(
        &blocks(kernel, op, n, &format_args!("N={n} R={r} C={c}")),
        &mut [Arg::In(out), Arg::In(gates), Arg::In(place), Arg::Out(y), a, dim, vectors],
    )
}

/// See [`crate::ops::moe::moe_combine_bwd`]; dy, out, gates, place.
pub fn moe_combine_bwd(
    gpu: &Gpu,
    [dy, out, gates, place]: [View; 4],
    mut dout: ViewMut,
    dgates: ViewMut,
    [n, r, c]: [usize; 3],
) -> Result<()> {
    let op = "moe_combine_bwd";
    let dtype = by_dtype(op, &[dy.dtype(), out.dtype(), dout.dtype()])?;
    holds(op, DType::F32, &[("gates", gates.dtype()), ("dgates", dgates.dtype())])?;
    holds(op, DType::I32, &[("place", place.dtype())])?;
    let kernel = if dtype == DType::Bf16 { "moe_combine_bwd_bf16" } else { "moe_combine_bwd_f32" };
    let vectors = vectors(c, dtype, &[dy.address(), out.address(), dout.address()]);
    let [a, dim] = [r / n.max(1), c].map(|x| Arg::I32(x as i32));
    let [dy, out, gates, place] = [dy, out, gates, place].map(Arg::In);
    let shape = &format_args!("N={n} R={r} C={c}");
    gpu.launch(
        // The token's dy.
        &Launch { shared_bytes: (c * dtype.size()) as u32, ..blocks(kernel, op, n, shape) },
        &mut [dy, out, gates, place, Arg::Out(dout), Arg::Out(dgates), a, dim, vectors],
    )
}

/// See [`crate::ops::moe::route_balance_fwd`]; counts, mean, loss.
pub fn route_balance_fwd(
    gpu: &Gpu,
    probs: View,
    offsets: View,
    [mut counts, mut mean, loss]: [ViewMut; 3],
    [n, e]: [usize; 2],
) -> Result<()> {
    let op = "route_balance_fwd";
    holds(op, DType::F32, &[("probs", probs.dtype()), ("mean", mean.dtype()), ("loss", loss.dtype())])?;
    holds(op, DType::I32, &[("offsets", offsets.dtype()), ("counts", counts.dtype())])?;
    let shape = &format_args!("N={n} E={e}");
    let mut args = [
        Arg::In(probs),
        Arg::In(offsets),
        Arg::Out(mean.reborrow()),
        Arg::Out(counts.reborrow()),
        Arg::I64(n as i64),
        Arg::I32(e as i32),
    ];
    let launch = Launch {
        kernel: "route_balance_mean",
        op,
        grid: [e.div_ceil(32) as u32, 1, 1],
        block: [1024, 1, 1],
        shared_bytes: 0,
        shape,
    };
    gpu.launch(&launch, &mut args)?;
    let (mean, counts) = (mean.view(), counts.view());
    let mut args = [Arg::In(mean), Arg::In(counts), Arg::Out(loss), Arg::I64(n as i64), Arg::I32(e as i32)];
    gpu.launch(&Launch { kernel: op, grid: [1, 1, 1], block: [32, 1, 1], ..launch }, &mut args)
}

/// See [`crate::ops::moe::route_balance_bwd`].
pub fn route_balance_bwd(
    gpu: &Gpu,
    probs: View,
    counts: View,
    dlogits: ViewMut,
    [n, e]: [usize; 2],
    scale: f32,
) -> Result<()> {
    let op = "route_balance_bwd";
    holds(op, DType::F32, &[("probs", probs.dtype()), ("dlogits", dlogits.dtype())])?;
    holds(op, DType::I32, &[("counts", counts.dtype())])?;
    let (n_rows, n_experts) = (Arg::I64(n as i64), Arg::I32(e as i32));
    gpu.launch(
        &Launch { shape: &format_args!("N={n} E={e}"), ..halves(op, n) },
        &mut [Arg::In(probs), Arg::In(counts), Arg::Out(dlogits), n_rows, n_experts, Arg::F32(scale)],
    )
}
