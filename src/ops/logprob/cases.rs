//! Cases of the head: one token, one word, a vocabulary of one span of sums and of several.

use super::{cost, linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace, oracle};
use crate::error::Result;
use crate::ops::case::{Floor, Stage, sum};

/// A head: tokens, vocabulary, width, 1 / temperature.
type Shape = ([usize; 3], f32);

const FLOOR_LOGPROB: Floor = [1.5e-7, 1.5e-7];
const FLOOR_LSE: Floor = [1.2e-7, 1.2e-7];
const FLOOR_ENTROPY: Floor = [6.0e-7, 4.4e-7];
const FLOOR_DX: Floor = [2.8e-6, 5.6e-3];
const FLOOR_DW: Floor = [7.2e-7, 1.3e-3];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let few: [Shape; 2] = [([19, 300, 40], 0.3), ([5, 2300, 40], 0.3)];
    let odd: [Shape; 6] = [
        ([1, 1, 1], 1.0),
        ([1, 50, 7], 1.0),
        ([70, 33, 5], 0.7),
        ([3, 2048, 128], 1.25),
        ([150, 257, 64], 1.0),
        ([3, 5000, 16], 0.9),
    ];
    // A large model's head, whatever the shape asked for.
    let large = if s.dev.name().starts_with("cuda") { vec![([4096, 131_072, 2048], 1.0)] } else { vec![] };
    let model = |n| move |v, c| ([n, v, c], 1.0);
    let shapes = s.shapes(&few, &odd, |m| {
        [64, 1024, 4096].map(|n| model(n)(m.vocab, m.width)).into_iter().chain(large).collect()
    });
    shapes.into_iter().try_for_each(|shape| head(s, shape))
}

fn head(s: &mut Stage, ([n, v, c], inv): Shape) -> Result<()> {
    if !s.wants(&["linear_logprob_fwd", "linear_logprob_bwd"]) {
        return Ok(());
    }
    let dtype = s.dtype;
    let (x, w) = (s.scaled(n * c, 1.0 / (c as f32).sqrt(), dtype)?, s.scaled(v * c, 3.0, dtype)?);
    let ((target, targets), dlp, dh) = (s.indices(n, v)?, s.input_f32(n)?, s.input_f32(n)?);
    let [mut lp, mut lse, mut h] = [s.out_f32(n)?, s.out_f32(n)?, s.out_f32(n)?];
    let mut work = s.out_f32(linear_logprob_workspace(&s.dev, v, c, dtype))?;
    s.call("linear_logprob_fwd", "", cost::linear_logprob_fwd(n, c, v, dtype), |dev| {
        let (x, w, t) = (x.buffer.view(), w.buffer.view(), target.view());
        let (lp, lse, h) = (lp.view_mut(), lse.view_mut(), h.view_mut());
        linear_logprob_fwd(dev, x, w, t, lp, lse, h, work.view_mut(), c, inv)
    })?;
    let want = || oracle::linear_logprob_fwd(&x.values, &w.values, &targets, c, inv as f64);
    s.holds("logprob", &lp, FLOOR_LOGPROB, || want().0);
    s.holds("lse", &lse, FLOOR_LSE, || want().1);
    s.holds("entropy", &h, FLOOR_ENTROPY, || want().2);
    s.exactly("the workspace ends where it says", |_| Ok(work.guard_intact()))?;
    // A clock may not have called forward.
    let (lse, h) = if s.times() { (s.dev.upload(&vec![1f32; n])?, s.dev.upload(&vec![1f32; n])?) } else { (lse, h) };
    let (mut dx, mut dw) = (s.out(n * c)?, s.input_f32(v * c)?);
    s.call("linear_logprob_bwd", "", cost::linear_logprob_bwd(n, c, v, dtype, true), |dev| {
        let (x, w, t, lse, h) = (x.buffer.view(), w.buffer.view(), target.view(), lse.view(), h.view());
        let (dx, dw, work) = (dx.view_mut(), dw.buffer.view_mut(), work.view_mut());
        linear_logprob_bwd(dev, dlp.buffer.view(), dh.buffer.view(), x, w, t, lse, h, dx, dw, work, c, inv)
    })?;
    let mut frozen = s.out(n * c)?;
    s.call("linear_logprob_bwd", "w frozen", cost::linear_logprob_bwd(n, c, v, dtype, false), |dev| {
        let (x, w, t, lse, h) = (x.buffer.view(), w.buffer.view(), target.view(), lse.view(), h.view());
        let (dx, work) = (frozen.view_mut(), work.view_mut());
        linear_logprob_bwd(dev, dlp.buffer.view(), dh.buffer.view(), x, w, t, lse, h, dx, None, work, c, inv)
    })?;
    // Of a vocabulary of one word nothing can be learned: zero, and no error relative to it.
    if v > 1 {
        let of =
            |x: &[f64], w: &[f64]| oracle::linear_logprob_bwd(&dlp.values, &dh.values, x, w, &targets, c, inv as f64);
        s.holds("dx", &dx, FLOOR_DX, || of(&x.values, &w.values).0);
        s.holds("dx, w frozen", &frozen, FLOOR_DX, || of(&x.values, &w.values).0);
        s.holds("dw", &dw.buffer, FLOOR_DW, || sum(&of(&x.values, &w.values).1, &dw.values));
    }
    s.exactly("the workspace ends where it says", |_| Ok(work.guard_intact()))
}
