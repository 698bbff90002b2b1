//! The likeliest tokens of a row, and how likely a given one is, as clients of a server ask for them.
//!
//! On the host, of a copy of the logits that were sampled from: asking moves no sample, and costs only who asks.

use crate::device::cpu::math::ln;
use crate::device::cpu::softmax::softmax_sums;

/// The `n` likeliest tokens below `end` of a row of scaled logits `[V]`, the likeliest first, among equals the lower id; each
/// with its logprob under the whole softmax, to the bit that which `ops::sample` returns where it is drawn.
pub(super) fn likeliest(z: &[f32], n: usize, end: usize) -> Vec<(i32, f32)> {
    let (max, sum, _) = softmax_sums(z);
    let all = max + ln(sum);
    let mut ids: Vec<usize> = (0..end.min(z.len())).collect();
    let likelier = |a: &usize, b: &usize| z[*b].total_cmp(&z[*a]).then(a.cmp(b));
    let n = n.min(ids.len());
    if n == 0 {
        return vec![];
    }
    ids.select_nth_unstable_by(n - 1, likelier);
    ids.truncate(n);
    ids.sort_unstable_by(likelier);
    ids.into_iter().map(|id| (id as i32, z[id] - all)).collect()
}

/// A token of a prompt: how likely it was behind those before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Its logprob under the whole softmax at temperature 1.
    pub logprob: f32,
    /// How many tokens are as likely or likelier, itself included: 1 is the likeliest.
    pub rank: usize,
    /// The likeliest tokens there, as `likeliest` finds them.
    pub likeliest: Vec<(i32, f32)>,
}

/// Tells of token `id` in a row of logits `[V]`.
pub(super) fn told(z: &[f32], id: i32, n: usize, end: usize) -> Told {
    let (max, sum, _) = softmax_sums(z);
    let own = z[id as usize];
    let above = z[..end.min(z.len())].iter().filter(|other| **other > own).count();
    Told { logprob: own - (max + ln(sum)), rank: above + 1, likeliest: likeliest(z, n, end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_equals_by_id() {
        let z = [0.5, 2.0, -1.0, 2.0, 0.0, 9.0];
        let got = likeliest(&z, 3, 5);
        assert_eq!(got.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 0]);
        let total: f64 = z.iter().map(|z| f64::from(*z).exp()).sum();
        for (id, logprob) in got {
            let want = f64::from(z[id as usize]) - total.ln();
            assert!((f64::from(logprob) - want).abs() < 1e-5, "{id}: {logprob} {want}");
        }
        let own = told(&z, 0, 1, 5);
        assert_eq!((own.rank, own.likeliest[0].0), (3, 1));
        assert!((f64::from(own.logprob) - (0.5 - total.ln())).abs() < 1e-5);
        assert_eq!((likeliest(&z, 9, 6).len(), likeliest(&z, 0, 6).len()), (6, 0));
    }
}
