//! Cases of routing: one expert, all of them, odd numbers, the most; the rows that routing moves: `cases_rows.rs`.

use super::cases_rows::{self, Routed};
use super::{cost, oracle};
use super::{moe_sort, route_balance_bwd, route_balance_fwd, route_topk_bwd, route_topk_fwd};
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::ops::case::{Dims, Floor, Stage, Tensor, sum};

/// Logits and gates are f32 whatever the model is.
const FLOOR_PROBS: Floor = [1.5e-7; 2];
const FLOOR_GATES: Floor = [1.6e-7; 2];
const FLOOR_DLOGITS: Floor = [2.2e-7; 2];
const FLOOR_MEAN: Floor = [1.3e-7; 2];
const FLOOR_LOSS: Floor = [1.1e-7; 2];
const FLOOR_BALANCE: Floor = [1.2e-7; 2];

/// N, E, A, C: whole vectors and not.
const FEW: [[usize; 4]; 2] = [[5, 8, 2, 72], [70, 40, 8, 25]];
const ODD: [[usize; 4]; 5] = [[1, 1, 1, 1], [1, 128, 8, 33], [300, 256, 8, 5], [33, 17, 3, 300], [9, 4, 4, 1024]];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let model = |m: Dims| {
        let of = |x: crate::ops::case::Experts| [64, 1, 4096].map(|n| [n, x.n_experts, x.n_active, m.width]).into();
        m.experts.map_or(vec![], of)
    };
    for dims in s.shapes(&FEW, &ODD, model) {
        for normalise in [true, false] {
            let routed = forward(s, dims, normalise)?;
            backward(s, &routed, normalise)?;
            if normalise {
                balance(s, &routed)?;
                cases_rows::all(s, &routed)?;
            }
        }
    }
    Ok(())
}

fn forward(s: &mut Stage, dims: [usize; 4], normalise: bool) -> Result<Routed> {
    let [n, e, a, _] = dims;
    let logits = s.scaled(n * e, 2.0, DType::F32)?;
    let (mut probs, mut gates) = (s.out_f32(n * e)?, s.out_f32(n * a)?);
    let mut experts = s.dev.upload(&vec![i32::MIN; n * a])?;
    s.call("route_topk_fwd", what(normalise), cost::route_topk_fwd(n, e, a), |dev| {
        let to = (probs.view_mut(), experts.view_mut(), gates.view_mut());
        route_topk_fwd(dev, logits.buffer.view(), to.0, to.1, to.2, [e, a], normalise)
    })?;
    let want = || oracle::route_topk_fwd(&logits.values, e, a, normalise);
    s.holds("probs", &probs, FLOOR_PROBS, || want().0);
    s.holds("gates", &gates, FLOOR_GATES, || want().2);
    s.exactly("experts", |dev| Ok(experts.guard_intact() && dev.download::<i32>(experts.view())? == want().1))?;
    // What comes next starts from what this device made of it; a clock that wants none of this has routed nothing.
    if s.times() && !s.wants(&["route_topk_fwd"]) {
        route_topk_fwd(
            &s.dev,
            logits.buffer.view(),
            probs.view_mut(),
            experts.view_mut(),
            gates.view_mut(),
            [e, a],
            true,
        )?;
    }
    let host = s.dev.download(experts.view())?;
    let (probs, gates) = (kept(&s.dev, probs)?, kept(&s.dev, gates)?);
    Ok(Routed { dims, probs, experts: (experts, host), gates })
}

fn what(normalise: bool) -> &'static str {
    if normalise { "normalised" } else { "" }
}

/// An f32 output with its numbers on the host.
fn kept(dev: &Device, buffer: Buffer) -> Result<Tensor> {
    let values = dev.download::<f32>(buffer.view())?.iter().map(|x| *x as f64).collect();
    Ok(Tensor { buffer, values })
}

fn backward(s: &mut Stage, r: &Routed, normalise: bool) -> Result<()> {
    let ([n, e, a, _], dgates) = (r.dims, s.input_f32(r.gates.buffer.len())?);
    let mut dlogits = s.out_f32(n * e)?;
    s.call("route_topk_bwd", what(normalise), cost::route_topk_bwd(n, e, a), |dev| {
        let (probs, experts, gates) = (r.probs.buffer.view(), r.experts.0.view(), r.gates.buffer.view());
        route_topk_bwd(dev, dgates.buffer.view(), probs, experts, gates, dlogits.view_mut(), [e, a], normalise)
    })?;
    s.holds("dlogits", &dlogits, FLOOR_DLOGITS, || {
        oracle::route_topk_bwd(&dgates.values, &r.probs.values, &r.experts.1, e, a, normalise)
    });
    Ok(())
}

fn balance(s: &mut Stage, r: &Routed) -> Result<()> {
    let ([n, e, ..], rows) = (r.dims, r.experts.1.len());
    let empty = |len: usize| s.dev.upload(&vec![i32::MIN; len]);
    let (mut order, mut place, mut offsets) = (empty(rows)?, empty(rows)?, empty(e + 1)?);
    let mut counts = empty(e)?;
    s.call("moe_sort", "", cost::moe_sort(rows, e), |dev| {
        moe_sort(dev, r.experts.0.view(), order.view_mut(), place.view_mut(), offsets.view_mut())
    })?;
    let want = oracle::moe_sort(&r.experts.1, e);
    let is = |dev: &Device, got: &Buffer, want: &[i32]| -> Result<bool> {
        Ok(got.guard_intact() && dev.download::<i32>(got.view())? == want)
    };
    s.exactly("order", |dev| is(dev, &order, &want.0))?;
    s.exactly("place", |dev| is(dev, &place, &want.1))?;
    s.exactly("offsets", |dev| is(dev, &offsets, &want.2))?;
    let (mut mean, mut loss) = (s.out_f32(e)?, s.out_f32(1)?);
    s.call("route_balance_fwd", "", cost::route_balance_fwd(n, e), |dev| {
        let to = (counts.view_mut(), mean.view_mut(), loss.view_mut());
        route_balance_fwd(dev, r.probs.buffer.view(), offsets.view(), to.0, to.1, to.2)
    })?;
    let want_counts: Vec<i32> = want.2.windows(2).map(|at| at[1] - at[0]).collect();
    let sums = || oracle::route_balance_fwd(&r.probs.values, &want_counts);
    s.exactly("counts", |dev| is(dev, &counts, &want_counts))?;
    s.holds("mean", &mean, FLOOR_MEAN, || sums().0);
    s.holds("loss", &loss, FLOOR_LOSS, || vec![sums().1]);
    let mut dlogits = s.input_f32(n * e)?;
    s.call("route_balance_bwd", "", cost::route_balance_bwd(n, e), |dev| {
        route_balance_bwd(dev, r.probs.buffer.view(), counts.view(), dlogits.buffer.view_mut(), 3.0)
    })?;
    s.holds("dlogits", &dlogits.buffer, FLOOR_BALANCE, || {
        sum(&dlogits.values, &oracle::route_balance_bwd(&r.probs.values, &want_counts, 3.0))
    });
    Ok(())
}
