//! Sampling where the embedding has more rows than the tokenizer has tokens: ids without a token are never drawn.

#![allow(clippy::unwrap_used)]

mod support;

use haggle::device::Device;
use haggle::ops::sample::oracle::{self, Row};
use haggle::ops::sample::{Sampling, sample_below};
use support::*;

const ALL: Row = Row { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
const FILTERS: [Row; 8] = [
    ALL,
    Row { temperature: 0.6, ..ALL },
    Row { temperature: 1.7, ..ALL },
    Row { top_k: 3, ..ALL },
    Row { top_p: 0.63, ..ALL },
    Row { min_p: 0.21, ..ALL },
    Row { top_k: 7, top_p: 0.81, min_p: 0.051, temperature: 0.9 },
    Row { temperature: 0.0, ..ALL },
];

/// Logits of `end` tokens and `vocab - end` rows without one, which are `by` above what they would be.
fn padded(vocab: usize, end: usize, by: f32) -> Vec<f32> {
    let mut logits: Vec<f32> = normal(vocab, vocab as u64).iter().map(|x| 2.0 * x).collect();
    logits[end..].iter_mut().for_each(|z| *z += by);
    logits
}

/// Tokens and logprobs of rows of the same logits that differ in filter and noise.
fn draw(dev: &Device, logits: &[f32], end: usize) -> (Vec<i32>, Vec<f32>) {
    let n = 6 * FILTERS.len();
    let how = |f: fn(&Row) -> f64| (0..n).map(|i| f(&FILTERS[i % FILTERS.len()]) as f32).collect::<Vec<f32>>();
    let key: Vec<u64> = (0..n as u64).flat_map(|i| [77, i / 8, i % 5]).collect();
    let (mut z, mut logprob) = (dev.upload(&logits.repeat(n)).unwrap(), poisoned(dev, n));
    let (mut token, key) = (dev.upload(&vec![-1i32; n]).unwrap(), dev.upload(&key).unwrap());
    let [t, top_p, min_p] =
        [how(|r| r.temperature), how(|r| r.top_p), how(|r| r.min_p)].map(|x| dev.upload(&x).unwrap());
    let top_k = dev.upload(&how(|r| r.top_k as f64).iter().map(|k| *k as i32).collect::<Vec<i32>>()).unwrap();
    let (top_k, top_p, min_p) = (top_k.view(), top_p.view(), min_p.view());
    let how = Sampling { temperature: t.view(), top_k, top_p, min_p, key: key.view() };
    let (z, out, lp) = (z.view_mut(), token.view_mut(), logprob.view_mut());
    sample_below(dev, z, how, out, lp, logits.len(), end).unwrap();
    assert!(token.guard_intact());
    (dev.to_vec(token.view()), take(dev, &logprob))
}

#[test]
fn sample_below_draws_what_a_row_without_padding_draws() {
    for (vocab, end) in [(5, 1), (33, 30), (100, 99), (2_100, 2_048), (4_200, 4_096), (4_200, 2_049), (4_200, 7)] {
        // Rows without a token that are unlikely, as likely as the rest, and all but certain.
        for by in [-30.0, 0.0, 30.0, 300.0] {
            let logits = padded(vocab, end, by);
            let (token, logprob) = draw(&cpu(2), &logits, end);
            assert_eq!(token, draw(&cpu(1), &logits[..end], end).0, "sample V={vocab} end={end} by={by}");
            for (i, (t, lp)) in token.iter().zip(&logprob).enumerate() {
                let want = oracle::sample(&wide(&logits), FILTERS[i % FILTERS.len()]).1[*t as usize];
                assert!((*lp as f64 - want).abs() < 2e-6 * want.abs().max(1.0), "sample V={vocab}: {lp}, want {want}");
            }
            for (name, dev) in kernel_devices() {
                let got = draw(&dev, &logits, end);
                assert_eq!(got.0, token, "sample V={vocab} end={end} by={by}, {name}");
                same("sample logprob", &name, &[logprob.len()], &logprob, &got.1);
            }
        }
    }
}

#[test]
fn sample_below_nothing_or_more_than_there_is_is_refused() {
    let dev = cpu(1);
    let (mut z, mut token, mut lp) = (poisoned(&dev, 4), dev.upload(&[0i32]).unwrap(), poisoned(&dev, 1));
    let (one, k, key) = (dev.upload(&[1f32]).unwrap(), dev.upload(&[0i32]).unwrap(), dev.upload(&[0u64; 3]).unwrap());
    let how =
        Sampling { temperature: one.view(), top_k: k.view(), top_p: one.view(), min_p: one.view(), key: key.view() };
    for end in [0, 5] {
        let error = sample_below(&dev, z.view_mut(), how, token.view_mut(), lp.view_mut(), 4, end).unwrap_err();
        assert!(error.to_string().contains("end in 1..=V"), "{error}");
    }
}
