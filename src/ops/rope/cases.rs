//! Cases of the rotations: one pair, an odd number of pairs, many tokens, the widest head.

use super::{cost, frequencies, oracle, rope_bwd, rope_fwd, table};
use crate::device::{Device, View, ViewMut};
use crate::error::Result;
use crate::ops::case::{Floor, Stage};

const THETA: f64 = 1e4;

type Rope = fn(&Device, ViewMut, View, View, usize, usize) -> Result<()>;
type Oracle = fn(&[f64], &[i32], usize, usize, f64) -> Vec<f64>;

const FLOOR: Floor = [9.5e-8, 3.1e-3];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let odd = [[1, 1, 2], [5, 3, 6], [300, 4, 32], [9, 2, 128]];
    for [n, h, d] in s.shapes(&[[29, 3, 64]], &odd, |m| [64, 4096].map(|n| [n, m.heads, m.head_dim]).into()) {
        if !s.wants(&["rope_fwd", "rope_bwd"]) {
            continue;
        }
        let positions: Vec<i32> = (0..n as i32).map(|i| i * 7 % 512).collect();
        let (on_device, angles) = (s.dev.upload(&positions)?, s.dev.upload(&table(512, &frequencies(d, THETA)))?);
        let both: [(_, Rope, Oracle); 2] =
            [("rope_fwd", rope_fwd, oracle::rope_fwd), ("rope_bwd", rope_bwd, oracle::rope_bwd)];
        for (stem, rope, oracle) in both {
            let mut x = s.input(n * h * d)?;
            s.call(stem, "", cost::rope(n, h, d, s.dtype), |dev| {
                rope(dev, x.buffer.view_mut(), on_device.view(), angles.view(), h, d)
            })?;
            s.holds("x", &x.buffer, FLOOR, || oracle(&x.values, &positions, h, d, THETA));
        }
    }
    Ok(())
}
