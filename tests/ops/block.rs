//! A layer's mixture of experts from its ops, forward and backward, on a device and in f64: read side by side.
#![allow(dead_code)]

use haggle::device::{Buffer, DType, Device};
use haggle::ops::embed::copy;
use haggle::ops::gemm::oracle as gemm;
use haggle::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};
use haggle::ops::gemm_grouped::oracle as grouped;
use haggle::ops::gemm_grouped::{gemm_grouped_nn, gemm_grouped_nt, gemm_grouped_tn};
use haggle::ops::moe::oracle as moe;
use haggle::ops::moe::*;
use haggle::ops::swiglu::oracle as swiglu;
use haggle::ops::swiglu::{swiglu_bwd, swiglu_fwd};
use half::bf16;
use std::collections::BTreeMap;

/// E experts of width F, A of them a token, C columns; gates of a token add up to 1; the weight of the balance in the loss.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub e: usize,
    pub a: usize,
    pub c: usize,
    pub f: usize,
    pub balance: f32,
}

/// x `[N, C]`, the residual stream and its gradient `[N, C]`, router `[E, C]`, gate and up `[E, F, C]`, down `[E, C, F]`.
#[derive(Clone)]
pub struct Inputs<T> {
    pub x: Vec<T>,
    pub residual: Vec<T>,
    pub dy: Vec<T>,
    pub router: Vec<T>,
    pub gate: Vec<T>,
    pub up: Vec<T>,
    pub down: Vec<T>,
}

/// Outputs by name.
pub type Outputs<T> = BTreeMap<&'static str, Vec<T>>;

/// The loss whose gradients the backward computes: `<dy, y> + balance loss`.
pub fn loss(i: &Inputs<f64>, s: Sizes) -> f64 {
    let out = oracle(i, s);
    out["y"].iter().zip(&i.dy).map(|(y, d)| y * d).sum::<f64>() + s.balance as f64 * out["loss"][0]
}

/// In f64.
pub fn oracle(i: &Inputs<f64>, Sizes { e, a, c, f, balance }: Sizes) -> Outputs<f64> {
    let n = i.x.len() / c;
    let logits = gemm::gemm_nt(&i.x, &i.router, n, e, c);
    let (probs, experts, gates) = moe::route_topk_fwd(&logits, e, a, true);
    let (order, place, at) = moe::moe_sort(&experts, e);
    let xs = moe::moe_gather_fwd(&i.x, &order, a, c);
    let (g, u) = (grouped::gemm_grouped_nt(&xs, &i.gate, &at, f, c), grouped::gemm_grouped_nt(&xs, &i.up, &at, f, c));
    let s = swiglu::swiglu_fwd(&g, &u);
    let out = grouped::gemm_grouped_nt(&s, &i.down, &at, c, f);
    let y = moe::moe_combine_fwd(&out, &gates, &place, &i.residual, a, c);
    let counts: Vec<i32> = at.windows(2).map(|at| at[1] - at[0]).collect();
    let (_, loss) = moe::route_balance_fwd(&probs, &counts);

    let (dout, dgates) = moe::moe_combine_bwd(&i.dy, &out, &gates, &place, a, c);
    let ddown = grouped::gemm_grouped_tn(&dout, &s, &at, c, f);
    let ds = grouped::gemm_grouped_nn(&dout, &i.down, &at, f, c);
    let (dg, du) = swiglu::swiglu_bwd(&ds, &g, &u);
    let (dup, dgate) = (grouped::gemm_grouped_tn(&du, &xs, &at, f, c), grouped::gemm_grouped_tn(&dg, &xs, &at, f, c));
    let by_gate = grouped::gemm_grouped_nn(&dg, &i.gate, &at, c, f);
    let by_up = grouped::gemm_grouped_nn(&du, &i.up, &at, c, f);
    let dxs: Vec<f64> = by_gate.iter().zip(by_up).map(|(a, b)| a + b).collect();
    let dx = moe::moe_gather_bwd(&dxs, &place, &i.x, a, c, Store::Set);
    let by_gates = moe::route_topk_bwd(&dgates, &probs, &experts, e, a, true);
    let by_balance = moe::route_balance_bwd(&probs, &counts, balance as f64);
    let dlogits: Vec<f64> = by_gates.iter().zip(by_balance).map(|(a, b)| a + b).collect();
    let drouter = gemm::gemm_tn(&dlogits, &i.x, e, c, n);
    let dx = dx.iter().zip(gemm::gemm_nn(&dlogits, &i.router, n, c, e)).map(|(a, b)| a + b).collect();
    let experts = experts.iter().map(|x| *x as f64).collect();
    let weights = [("drouter", drouter), ("dgate", dgate), ("dup", dup), ("ddown", ddown)];
    let rows = [("experts", experts), ("gates", gates), ("y", y), ("dx", dx)];
    weights.into_iter().chain(rows).chain([("loss", vec![loss])]).collect()
}

/// On a device, activations and weights in `dtype`, what products alone read as the device likes it.
pub fn run(dev: &Device, dtype: DType, i: &Inputs<f32>, Sizes { e, a, c, f, balance }: Sizes) -> Outputs<f32> {
    let (n, factor) = (i.x.len() / c, dev.factor_dtype(dtype));
    let (r, ids) = (n * a, |len: usize| dev.upload(&vec![i32::MIN; len]).unwrap());
    let none = |len: usize, dtype| upload(dev, &vec![f32::NAN; len], dtype);
    let f32s = |len| none(len, DType::F32);
    let [residual, dy, w_router, w_gate, w_up, w_down] =
        [&i.residual, &i.dy, &i.router, &i.gate, &i.up, &i.down].map(|x| upload(dev, x, dtype));
    let x = upload(dev, &i.x, factor);

    let mut logits = f32s(n * e);
    gemm_nt(dev, x.view(), w_router.view(), logits.view_mut(), n, e, c, Store::Set).unwrap();
    let (mut probs, mut experts, mut gates) = (f32s(n * e), ids(r), f32s(r));
    let to = (probs.view_mut(), experts.view_mut(), gates.view_mut());
    route_topk_fwd(dev, logits.view(), to.0, to.1, to.2, [e, a], true).unwrap();
    let (mut order, mut place, mut offsets) = (ids(r), ids(r), ids(e + 1));
    moe_sort(dev, experts.view(), order.view_mut(), place.view_mut(), offsets.view_mut()).unwrap();
    let (at, mut xs) = (offsets.view(), none(r * c, factor));
    moe_gather_fwd(dev, x.view(), [order.view(), place.view()], xs.view_mut(), c).unwrap();
    let (mut g, mut u, mut s) = (none(r * f, dtype), none(r * f, dtype), none(r * f, factor));
    gemm_grouped_nt(dev, xs.view(), w_gate.view(), g.view_mut(), at, f, c, Store::Set).unwrap();
    gemm_grouped_nt(dev, xs.view(), w_up.view(), u.view_mut(), at, f, c, Store::Set).unwrap();
    swiglu_fwd(dev, g.view(), u.view(), s.view_mut()).unwrap();
    let (mut out, mut y) = (none(r * c, dtype), none(n * c, dtype));
    gemm_grouped_nt(dev, s.view(), w_down.view(), out.view_mut(), at, c, f, Store::Set).unwrap();
    copy(dev, residual.view(), y.view_mut()).unwrap();
    moe_combine_fwd(dev, out.view(), gates.view(), place.view(), y.view_mut(), c).unwrap();
    let (mut counts, mut mean, mut loss) = (ids(e), f32s(e), f32s(1));
    route_balance_fwd(dev, probs.view(), at, counts.view_mut(), mean.view_mut(), loss.view_mut()).unwrap();

    let (mut dout, mut dgates) = (none(r * c, factor), f32s(r));
    let sorted = [order.view(), place.view()];
    moe_combine_bwd(dev, dy.view(), out.view(), gates.view(), sorted, dout.view_mut(), dgates.view_mut(), c).unwrap();
    let zeros = |len| dev.zeros(DType::F32, len).unwrap();
    let (mut ddown, mut dup, mut dgate, mut drouter) =
        (zeros(e * c * f), zeros(e * f * c), zeros(e * f * c), zeros(e * c));
    gemm_grouped_tn(dev, dout.view(), s.view(), ddown.view_mut(), at, c, f, Store::Add).unwrap();
    let (mut ds, mut dg, mut du) = (none(r * f, dtype), none(r * f, factor), none(r * f, factor));
    gemm_grouped_nn(dev, dout.view(), w_down.view(), ds.view_mut(), at, f, c, Store::Set).unwrap();
    swiglu_bwd(dev, ds.view(), g.view(), u.view(), dg.view_mut(), du.view_mut()).unwrap();
    gemm_grouped_tn(dev, du.view(), xs.view(), dup.view_mut(), at, f, c, Store::Add).unwrap();
    gemm_grouped_tn(dev, dg.view(), xs.view(), dgate.view_mut(), at, f, c, Store::Add).unwrap();
    let (mut dxs, mut dx) = (none(r * c, dtype), none(n * c, dtype));
    gemm_grouped_nn(dev, dg.view(), w_gate.view(), dxs.view_mut(), at, c, f, Store::Set).unwrap();
    gemm_grouped_nn(dev, du.view(), w_up.view(), dxs.view_mut(), at, c, f, Store::Add).unwrap();
    moe_gather_bwd(dev, dxs.view(), place.view(), dx.view_mut(), c, Store::Set).unwrap();
    let (mut dlogits, mut dz) = (f32s(n * e), none(n * e, dtype));
    let routed = (probs.view(), experts.view(), gates.view());
    route_topk_bwd(dev, dgates.view(), routed.0, routed.1, routed.2, dlogits.view_mut(), [e, a], true).unwrap();
    route_balance_bwd(dev, probs.view(), counts.view(), dlogits.view_mut(), balance).unwrap();
    copy(dev, dlogits.view(), dz.view_mut()).unwrap();
    gemm_tn(dev, dz.view(), x.view(), drouter.view_mut(), e, c, n, Store::Add).unwrap();
    gemm_nn(dev, dz.view(), w_router.view(), dx.view_mut(), n, c, e, Store::Add).unwrap();

    let chosen: Vec<f32> = dev.to_vec::<i32>(experts.view()).iter().map(|x| *x as f32).collect();
    let weights = [("drouter", &drouter), ("dgate", &dgate), ("dup", &dup), ("ddown", &ddown)];
    let rows = [("gates", &gates), ("y", &y), ("dx", &dx), ("loss", &loss)];
    let all = weights.into_iter().chain(rows).map(|(name, x)| (name, numbers(dev, x)));
    all.chain([("experts", chosen)]).collect()
}

/// A buffer of these numbers in a number type.
pub fn upload(dev: &Device, x: &[f32], dtype: DType) -> Buffer {
    if dtype == DType::Bf16 {
        let x: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        return dev.upload(&x).unwrap();
    }
    dev.upload(x).unwrap()
}

/// A buffer's numbers, after a look at its guard.
pub fn numbers(dev: &Device, x: &Buffer) -> Vec<f32> {
    assert!(x.guard_intact(), "an op wrote behind its output");
    match x.dtype() {
        DType::Bf16 => dev.to_vec::<bf16>(x.view()).iter().map(|x| x.to_f32()).collect(),
        _ => dev.to_vec(x.view()),
    }
}
