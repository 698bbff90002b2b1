//! Cases of the bias: one row, one column, odd ones, more rows than a block sums, a model's width.

use super::{bias_bwd, bias_fwd, bias_parts_len, cost, oracle};
use crate::error::Result;
use crate::ops::case::{Floor, Stage, sum};

const FLOOR_Y: Floor = [0.0, 0.0];
const FLOOR_DB: Floor = [3.0e-7, 3.0e-7];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let odd = [[1, 1], [1, 7], [5, 1], [3, 33], [700, 32], [130, 129]];
    for [n, f] in s.shapes(&[[37, 96]], &odd, |m| [64, 4096].map(|n| [n, m.width]).into()) {
        if !s.wants(&["bias_fwd", "bias_bwd"]) {
            continue;
        }
        let (dtype, b, dy) = (s.dtype, s.input(f)?, s.input(n * f)?);
        let mut y = s.out(n * f)?;
        s.call("bias_fwd", "", cost::bias_fwd(n, f, dtype), |dev| bias_fwd(dev, b.buffer.view(), y.view_mut()))?;
        s.holds("y", &y, FLOOR_Y, || oracle::bias_fwd(&b.values, n));
        let (mut db, mut parts) = (s.input_f32(f)?, s.out_f32(bias_parts_len(n, f))?);
        s.call("bias_bwd", "", cost::bias_bwd(n, f, dtype), |dev| {
            bias_bwd(dev, dy.buffer.view(), db.buffer.view_mut(), parts.view_mut())
        })?;
        let want = || sum(&db.values, &oracle::bias_bwd(&dy.values, f));
        s.holds("db", &db.buffer, FLOOR_DB, want);
    }
    Ok(())
}
