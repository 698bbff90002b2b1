//! Cases of the head: one token, one word, a vocabulary of one span of sums and of several; each with masks, too.

use super::{Targets, cost, ladder, linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace, oracle};
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::noise::Noise;
use crate::ops::case::{Floor, Stage, Tensor, sum};

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

/// The ladder at one shape.
///
/// # Errors
/// What a rung refuses.
pub fn rungs(s: &mut Stage) -> Result<()> {
    climb(s, [5, 2300, 40], 0.3)
}

/// Every rung of the ladder that the device has, on the same numbers; bf16, V above 2048, C % 8 == 0. Nothing on the CPU.
///
/// # Errors
/// What a rung refuses.
pub fn climb(s: &mut Stage, [n, v, c]: [usize; 3], inv: f32) -> Result<()> {
    let Device::Gpu(gpu) = s.dev.clone() else { return Ok(()) };
    let (x, w) = (s.scaled(n * c, 1.0 / (c as f32).sqrt(), s.dtype)?, s.scaled(v * c, 3.0, s.dtype)?);
    let (target, targets) = s.indices(n, v)?;
    for (rung, how) in ladder::RUNGS.iter().filter(|(rung, _)| rung.runs_on(&gpu)) {
        let [mut lp, mut lse, mut h] = [s.out_f32(n)?, s.out_f32(n)?, s.out_f32(n)?];
        let mut work = s.out_f32(ladder::scratch(&gpu, *how, [n, v, c]))?;
        s.call(rung.stem, "", cost::linear_logprob_fwd(n, c, v, s.dtype), |dev| {
            let (x, out) = ([x.buffer.view(), w.buffer.view(), target.view()], [&mut lp, &mut lse, &mut h]);
            ladder::linear_logprob_fwd(dev, *how, x, out.map(Buffer::view_mut), work.view_mut(), c, inv)
        })?;
        let want = || oracle::linear_logprob_fwd(&x.values, &w.values, &targets, None, c, inv as f64);
        s.holds("logprob", &lp, FLOOR_LOGPROB, || want().0);
        s.holds("lse", &lse, FLOOR_LSE, || want().1);
        s.holds("entropy", &h, FLOOR_ENTROPY, || want().2);
        s.exactly("the workspace ends where it says", |_| Ok(work.guard_intact()))?;
    }
    Ok(())
}

/// A head and what it is asked.
struct Head {
    /// Tokens, vocabulary, width.
    dims: [usize; 3],
    inv: f32,
    x: Tensor,
    w: Tensor,
    target: Buffer,
    targets: Vec<i32>,
    dlp: Tensor,
    dh: Tensor,
}

/// Masks `[U, ceil(V / 32)]`, the mask of each row, and both on the device.
struct Masks {
    words: Vec<i32>,
    of: Vec<i32>,
    on_device: [Buffer; 2],
}

/// What forward returned: logprob, lse, entropy; and its workspace.
type Scored = ([Buffer; 3], Buffer);

fn head(s: &mut Stage, (dims, inv): Shape) -> Result<()> {
    if !s.wants(&["linear_logprob_fwd", "linear_logprob_bwd"]) {
        return Ok(());
    }
    let ([n, v, c], dtype) = (dims, s.dtype);
    let (x, w) = (s.scaled(n * c, 1.0 / (c as f32).sqrt(), dtype)?, s.scaled(v * c, 3.0, dtype)?);
    let ((target, targets), dlp, dh) = (s.indices(n, v)?, s.input_f32(n)?, s.input_f32(n)?);
    let head = Head { dims, inv, x, w, target, targets, dlp, dh };
    let (mut plain, work) = forward(s, &head, None)?;
    // A clock may not have called forward.
    if s.times() {
        plain = [s.dev.upload(&vec![1f32; n])?, s.dev.upload(&vec![1f32; n])?, s.dev.upload(&vec![1f32; n])?];
    }
    let dw = s.input_f32(v * c)?;
    let again: Vec<f32> = dw.values.iter().map(|x| *x as f32).collect();
    backward(s, &head, None, (&plain, work), dw)?;
    if s.times() {
        return Ok(());
    }
    let masks = masks(s, &head)?;
    let (masked, work) = forward(s, &head, Some(&masks))?;
    s.exactly("rows that may take any token, by a mask or by none", |dev| {
        let free = |i: usize| [NONE, EVERY].contains(&masks.of[i]);
        let mut same = true;
        for (a, b) in plain.iter().zip(&masked) {
            let (a, b) = (dev.download::<f32>(a.view())?, dev.download::<f32>(b.view())?);
            same &= (0..n).filter(|i| free(*i)).all(|i| a[i].to_bits() == b[i].to_bits());
        }
        Ok(same)
    })?;
    let dw = s.tensor(&again, DType::F32)?;
    backward(s, &head, Some(&masks), (&masked, work), dw)
}

const NONE: i32 = -1;
/// The mask that allows every token.
const EVERY: i32 = 3;

/// Masks of about half of the tokens; of a few; of those of the last sixth; of all. Some rows have none.
fn masks(s: &Stage, head: &Head) -> Result<Masks> {
    let ([n, v, _], noise) = (head.dims, Noise::new(31, head.dims[1] as u64));
    let w = v.div_ceil(32);
    let mut words = vec![0i32; 4 * w];
    let mut allow = |mask: usize, token: usize| words[mask * w + token / 32] |= 1i32.wrapping_shl(token as u32 % 32);
    for token in 0..v {
        let may = [noise.bits(token as u64) & 1 == 1, token % 97 == 5, token >= v - v / 6, true];
        may.iter().enumerate().filter(|(_, may)| **may).for_each(|(mask, _)| allow(mask, token));
    }
    let of: Vec<i32> = (0..n as i32).map(|i| (i + 1) % 5 - 1).collect();
    for (target, mask) in head.targets.iter().zip(&of).filter(|(_, mask)| **mask != NONE) {
        allow(*mask as usize, *target as usize);
    }
    let on_device = [s.dev.upload(&words)?, s.dev.upload(&of)?];
    Ok(Masks { words, of, on_device })
}

fn targets<'a>(head: &'a Head, masks: Option<&'a Masks>) -> Targets<'a> {
    let view = |masks: &'a Masks| super::Masks { words: masks.on_device[0].view(), of: masks.on_device[1].view() };
    Targets { ids: head.target.view(), masks: masks.map(view) }
}

/// What the calls' shapes are followed by.
fn named(what: &str, masks: Option<&Masks>) -> String {
    let parts = [what, if masks.is_some() { "masked" } else { "" }];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Forward, held to the oracle.
fn forward(s: &mut Stage, head: &Head, masks: Option<&Masks>) -> Result<Scored> {
    let ([n, v, c], dtype) = (head.dims, s.dtype);
    let [mut lp, mut lse, mut h] = [s.out_f32(n)?, s.out_f32(n)?, s.out_f32(n)?];
    let mut work = s.out_f32(linear_logprob_workspace(&s.dev, v, c, dtype))?;
    s.call("linear_logprob_fwd", &named("", masks), cost::linear_logprob_fwd(n, c, v, dtype), |dev| {
        let (x, w, t) = (head.x.buffer.view(), head.w.buffer.view(), targets(head, masks));
        let (lp, lse, h) = (lp.view_mut(), lse.view_mut(), h.view_mut());
        linear_logprob_fwd(dev, x, w, t, lp, lse, h, work.view_mut(), c, head.inv)
    })?;
    let of = masks.map(|masks| (&masks.words[..], &masks.of[..]));
    let (x, w) = (&head.x.values, &head.w.values);
    let want = || oracle::linear_logprob_fwd(x, w, &head.targets, of, c, head.inv as f64);
    s.holds("logprob", &lp, FLOOR_LOGPROB, || want().0);
    s.holds("lse", &lse, FLOOR_LSE, || want().1);
    s.holds("entropy", &h, FLOOR_ENTROPY, || want().2);
    s.exactly("the workspace ends where it says", |_| Ok(work.guard_intact()))?;
    Ok(([lp, lse, h], work))
}

/// Backward with a head that learns, whose gradient is added to `before`, and with a frozen one, held to the oracle.
fn backward(
    s: &mut Stage,
    head: &Head,
    masks: Option<&Masks>,
    (scored, mut work): (&[Buffer; 3], Buffer),
    before: Tensor,
) -> Result<()> {
    let ([n, v, c], dtype, [_, lse, h]) = (head.dims, s.dtype, scored);
    let (mut dx, mut frozen) = (s.out(n * c)?, s.out(n * c)?);
    let (mut dw, before) = (before.buffer, before.values);
    let mut run = |s: &mut Stage, what: &str, dx: &mut Buffer, mut dw: Option<&mut Buffer>| {
        let cost = cost::linear_logprob_bwd(n, c, v, dtype, dw.is_some());
        s.call("linear_logprob_bwd", &named(what, masks), cost, |dev| {
            let (x, w, t) = (head.x.buffer.view(), head.w.buffer.view(), targets(head, masks));
            let (dlp, dh, work) = (head.dlp.buffer.view(), head.dh.buffer.view(), work.view_mut());
            let dw = dw.as_mut().map(|dw| dw.view_mut());
            linear_logprob_bwd(dev, dlp, dh, x, w, t, lse.view(), h.view(), dx.view_mut(), dw, work, c, head.inv)
        })
    };
    run(s, "", &mut dx, Some(&mut dw))?;
    run(s, "w frozen", &mut frozen, None)?;
    // Of a vocabulary of one word nothing can be learned: zero, and no error relative to it.
    if v > 1 {
        let of = masks.map(|masks| (&masks.words[..], &masks.of[..]));
        let (dlp, dh, x, w) = (&head.dlp.values, &head.dh.values, &head.x.values, &head.w.values);
        let want = || oracle::linear_logprob_bwd(dlp, dh, x, w, &head.targets, of, c, head.inv as f64);
        s.holds("dx", &dx, FLOOR_DX, || want().0);
        s.holds("dx, w frozen", &frozen, FLOOR_DX, || want().0);
        s.holds("dw", &dw, FLOOR_DW, || sum(&want().1, &before));
    }
    s.exactly("the workspace ends where it says", |_| Ok(work.guard_intact()))
}
