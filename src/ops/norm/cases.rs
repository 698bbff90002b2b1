//! Cases of RMSNorm: one row, one column, a head, the tiny width, more than one task, the widest; a few wide rows, whose blocks
//! share the weight.

use super::{cost, oracle, rmsnorm_bwd, rmsnorm_fwd, rmsnorm_parts_len};
use crate::error::Result;
use crate::ops::case::{Floor, Stage, sum};

const EPS: f32 = 1e-6;

const FLOOR_Y: Floor = [1.1e-7, 3.0e-3];
const FLOOR_RSTD: Floor = [1.2e-7, 4.9e-7];
const FLOOR_DX: Floor = [1.6e-7, 2.6e-3];
const FLOOR_DW: Floor = [2.1e-7, 5.7e-7];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let odd = [[1, 1], [1, 7], [5, 1], [3, 33], [700, 32], [130, 128], [3, 1000], [2, 8192]];
    let shapes = s.shapes(&[[37, 96]], &odd, |m| [64, 4096].map(|n| [n, m.width]).into());
    let wide = s.shapes(&[[9, 1096]], &[[17, 1031], [140, 2048]], |_| vec![]);
    shapes.into_iter().chain(wide).try_for_each(|dims| normed(s, dims))
}

fn normed(s: &mut Stage, [n, c]: [usize; 2]) -> Result<()> {
    if !s.wants(&["rmsnorm_fwd", "rmsnorm_bwd"]) {
        return Ok(());
    }
    let (dtype, x, w, dy) = (s.dtype, s.input(n * c)?, s.input(c)?, s.input(n * c)?);
    let (mut y, mut rstd) = (s.out(n * c)?, s.out_f32(n)?);
    s.call("rmsnorm_fwd", "", cost::rmsnorm_fwd(n, c, dtype, dtype), |dev| {
        rmsnorm_fwd(dev, x.buffer.view(), w.buffer.view(), y.view_mut(), rstd.view_mut(), EPS)
    })?;
    let want = || oracle::rmsnorm_fwd(&x.values, &w.values, EPS as f64);
    s.holds("y", &y, FLOOR_Y, || want().0);
    s.holds("rstd", &rstd, FLOOR_RSTD, || want().1);
    // A clock may not have called forward.
    let rstd = if s.times() { s.dev.upload(&vec![1f32; n])? } else { rstd };
    let (mut dx, mut dw, mut parts) = (s.input(n * c)?, s.input_f32(c)?, s.out_f32(rmsnorm_parts_len(&s.dev, n, c))?);
    s.call("rmsnorm_bwd", "", cost::rmsnorm_bwd(n, c, dtype, true), |dev| {
        let (dy, x, w) = (dy.buffer.view(), x.buffer.view(), w.buffer.view());
        let (dx, dw, parts) = (dx.buffer.view_mut(), dw.buffer.view_mut(), parts.view_mut());
        rmsnorm_bwd(dev, dy, x, w, rstd.view(), dx, dw, parts)
    })?;
    let mut frozen = s.input(n * c)?;
    s.call("rmsnorm_bwd", "w frozen", cost::rmsnorm_bwd(n, c, dtype, false), |dev| {
        let (dy, x, w) = (dy.buffer.view(), x.buffer.view(), w.buffer.view());
        rmsnorm_bwd(dev, dy, x, w, rstd.view(), frozen.buffer.view_mut(), None, parts.view_mut())
    })?;
    let want = || oracle::rmsnorm_bwd(&dy.values, &x.values, &w.values, EPS as f64);
    s.holds("dx", &dx.buffer, FLOOR_DX, || sum(&want().0, &dx.values));
    s.holds("dx, w frozen", &frozen.buffer, FLOOR_DX, || sum(&want().0, &frozen.values));
    s.holds("dw", &dw.buffer, FLOOR_DW, || sum(&want().1, &dw.values));
    Ok(())
}
