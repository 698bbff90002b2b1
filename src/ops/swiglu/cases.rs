//! Cases of SwiGLU: one element, odd numbers of them, many; gates far out on both sides.

use super::{cost, oracle, swiglu_bwd, swiglu_fwd};
use crate::error::Result;
use crate::ops::case::{Floor, Stage};

const FLOOR_H: Floor = [9.1e-8, 2.5e-3];
const FLOOR_DGATE: Floor = [4.8e-7, 3.0e-3];
const FLOOR_DUP: Floor = [9.8e-8, 2.4e-3];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    for nf in s.shapes(&[700], &[1, 7, 33, 30_000], |m| [64, 4096].map(|n| n * m.mlp).into()) {
        if !s.wants(&["swiglu_fwd", "swiglu_bwd"]) {
            continue;
        }
        let (dtype, gate, up, dh) = (s.dtype, s.scaled(nf, 4.0, s.dtype)?, s.input(nf)?, s.input(nf)?);
        let (mut h, mut dgate, mut dup) = (s.out(nf)?, s.out(nf)?, s.out(nf)?);
        s.call("swiglu_fwd", "", cost::swiglu_fwd(nf, dtype, dtype), |dev| {
            swiglu_fwd(dev, gate.buffer.view(), up.buffer.view(), h.view_mut())
        })?;
        s.holds("h", &h, FLOOR_H, || oracle::swiglu_fwd(&gate.values, &up.values));
        s.call("swiglu_bwd", "", cost::swiglu_bwd(nf, dtype, dtype), |dev| {
            let (dh, gate, up) = (dh.buffer.view(), gate.buffer.view(), up.buffer.view());
            swiglu_bwd(dev, dh, gate, up, dgate.view_mut(), dup.view_mut())
        })?;
        let want = || oracle::swiglu_bwd(&dh.values, &gate.values, &up.values);
        s.holds("dgate", &dgate, FLOOR_DGATE, || want().0);
        s.holds("dup", &dup, FLOOR_DUP, || want().1);
    }
    Ok(())
}
