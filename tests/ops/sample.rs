//! Sampling: against its distribution, one set of bits on every device, ids without a token never drawn, refusals. Its oracle
//! at every shape: ops_cases; decode steps on the device: engine_graphs.

use crate::support::*;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{DType, Device};
use haggle::ops::sample::oracle::{self, Row};
use haggle::ops::sample::{Rows, Sampling, sample};
use std::sync::Arc;

/// Rows of logits: odd sizes around the lanes, ties, one token, far tails.
fn rows() -> Vec<Vec<f32>> {
    let scaled = |n, s: f32| normal(n, n as u64).iter().map(|x| x * s).collect();
    vec![
        vec![0.5],
        scaled(5, 1.0),
        scaled(33, 2.0),
        scaled(100, 0.5),
        vec![1.0; 24],
        (0..40).map(|i| (i % 4) as f32).collect(),
        scaled(4_200, 2.5),
    ]
}

/// Every kind of filter, and some together.
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

#[test]
fn sample_draws_the_oracle_s_distribution() {
    let dev = cpu(2);
    const N: usize = 8_000;
    for logits in rows() {
        for how in FILTERS {
            let (want, log_p) = oracle::sample(&wide(&logits), how);
            let (token, logprob) = draw(&dev, &logits, N, how);
            let mut counts = vec![0usize; logits.len()];
            for (t, lp) in token.iter().zip(&logprob) {
                counts[*t] += 1;
                assert!(
                    (*lp as f64 - log_p[*t]).abs() < 2e-6,
                    "sample {how:?}: logprob {lp} of {t}, want {}",
                    log_p[*t]
                );
            }
            // Chi-square over the tokens expected at least five times, the rest as one; the noise is fixed, so this
            // passes always or never. Four and a half standard deviations: one false alarm in 10^5.
            let (mut chi, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
            for (count, p) in counts.iter().zip(&want) {
                assert!(
                    *count == 0 || *p > 0.0,
                    "sample {how:?} of {} tokens: drew what no filter keeps",
                    logits.len()
                );
                let (count, expected) = (*count as f64, p * N as f64);
                if expected >= 5.0 {
                    chi += (count - expected).powi(2) / expected;
                    cells += 1.0;
                } else {
                    rest = (rest.0 + count, rest.1 + expected);
                }
            }
            let degrees: f64 = cells - 1.0;
            let limit = degrees + 4.5 * (2.0 * degrees).sqrt() + 1e-9;
            assert!(chi <= limit, "sample {how:?} of {} tokens: chi-square {chi}, limit {limit}", logits.len());
            assert!((rest.0 - rest.1).abs() <= 5.0 + 4.5 * rest.1.sqrt(), "sample {how:?}: the rare ones {rest:?}");
        }
    }
}

/// Tokens below `end`, logprobs and scaled logits of rows that all differ in filter and noise.
fn draw_mixed(dev: &Device, logits: &[f32], end: usize) -> (Vec<i32>, Vec<f32>, Vec<f32>) {
    let n = 6 * FILTERS.len();
    let how = |f: fn(&Row) -> f64| (0..n).map(|i| f(&FILTERS[i % FILTERS.len()]) as f32).collect::<Vec<f32>>();
    let key: Vec<u64> = (0..n as u64).flat_map(|i| [77 << (i % 40), i / 8 + (i << 35)]).collect();
    let pos = dev.upload(&(0..n as i32).map(|i| i % 5).collect::<Vec<i32>>()).unwrap();
    let (mut z, mut logprob) = (dev.upload(&logits.repeat(n)).unwrap(), poisoned(dev, n));
    let (mut token, key) = (dev.upload(&vec![-1i32; n]).unwrap(), dev.upload(&key).unwrap());
    let [t, top_p, min_p] =
        [how(|r| r.temperature), how(|r| r.top_p), how(|r| r.min_p)].map(|x| dev.upload(&x).unwrap());
    let top_k = dev.upload(&how(|r| r.top_k as f64).iter().map(|k| *k as i32).collect::<Vec<i32>>()).unwrap();
    let (top_k, top_p, min_p) = (top_k.view(), top_p.view(), min_p.view());
    let how = Sampling { temperature: t.view(), top_k, top_p, min_p, key: key.view() };
    let rows = Rows::Stay(pos.view());
    sample(dev, z.view_mut(), how, rows, token.view_mut(), logprob.view_mut(), logits.len(), end).unwrap();
    assert!(token.guard_intact());
    (dev.to_vec(token.view()), take(dev, &logprob), take(dev, &z))
}

#[test]
fn sample_decides_the_same_on_every_device() {
    for mut logits in rows() {
        // And a row of which one token cannot be drawn.
        for last in [logits[logits.len() - 1], f32::NEG_INFINITY] {
            let end = logits.len() - 1;
            logits[end] = if end == 0 { logits[0] } else { last };
            let v = logits.len();
            let want = draw_mixed(&cpu(1), &logits, v);
            for (name, dev) in kernel_devices() {
                let got = draw_mixed(&dev, &logits, v);
                assert_eq!(want.0, got.0, "sample of {v} tokens, {name}");
                same("sample logprob", &name, &[want.1.len()], &want.1, &got.1);
                same("sample logits", &name, &[want.1.len(), v], &want.2, &got.2);
            }
        }
    }
}

/// Rows that are hard to cut: ties, all equal, most of it masked, both signs of zero, lengths that are no whole vectors,
/// spans or pieces.
fn hard_rows() -> Vec<Vec<f32>> {
    let of = |n: usize, f: fn(f32, usize) -> f32| -> Vec<f32> {
        normal(n, n as u64).iter().enumerate().map(|(i, x)| f(*x, i)).collect()
    };
    fn masked(x: f32, i: usize) -> f32 {
        if i.is_multiple_of(5) { 3.0 * x } else { f32::NEG_INFINITY }
    }
    vec![
        of(4_100, |x, _| x.round()),
        of(2_300, |_, _| 1.0),
        of(2_049, masked),
        of(6_150, |x, i| if i == 4_099 { 3.0 } else { masked(x, i) }),
        of(2_303, |_, i| if i.is_multiple_of(2) { 0.0 } else { -0.0 }),
        of(5_001, |x, _| 40.0 * x),
        of(8_192, |x, i| if i % 1_000 == 1 { 20.0 + x } else { 1e-6 * x }),
        of(12_300, |x, _| (x * 64.0).round() / 64.0),
    ]
}

/// Filters at their ends, by the number of tokens.
fn hard_filters(v: usize) -> Vec<Row> {
    let k = |top_k| Row { top_k, ..ALL };
    let p = |top_p| Row { top_p, ..ALL };
    let both = Row { top_k: 20, top_p: 0.95, ..ALL };
    let mut all = vec![k(1), k(v / 2), k(v), k(v + 1), p(1e-9), p(0.0), p(0.5), p(0.999), p(0.999_999_9), both];
    all.extend([Row { top_k: 300, top_p: 0.3, min_p: 1e-3, temperature: 0.2 }, Row { min_p: 1.0, ..ALL }]);
    all
}

#[test]
fn sample_of_hard_rows_decides_the_same_on_every_device() {
    for logits in hard_rows() {
        let v = logits.len();
        for how in hard_filters(v) {
            let (token, logprob) = draw(&cpu(1), &logits, 3, how);
            for (name, dev) in kernel_devices() {
                let got = draw(&dev, &logits, 3, how);
                assert_eq!(token, got.0, "sample of {v} tokens, {how:?}, {name}");
                same("sample logprob", &name, &[3], &logprob, &got.1);
            }
        }
    }
}

/// On Hopper a cluster of blocks walks a long row.
#[test]
fn a_cluster_of_blocks_decides_as_the_cpu_does() {
    for short in hard_rows() {
        // Each of eight blocks has a span or two of it.
        let logits: Vec<f32> = short.iter().copied().cycle().take(14_400 + short.len()).collect();
        for how in hard_filters(short.len()).into_iter().chain(FILTERS) {
            let (token, logprob) = draw(&cpu(2), &logits, 3, how);
            for (name, dev) in hoppers() {
                let got = draw(&dev, &logits, 3, how);
                assert_eq!(token, got.0, "sample of {} tokens, {how:?}, {name}", logits.len());
                same("sample logprob", &name, &[3], &logprob, &got.1);
            }
        }
    }
}

#[test]
fn few_long_rows_are_sampled_by_clusters_and_many_by_a_block_each() {
    let gpu = Arc::new(Gpu::Emu(Emu::new(2).unwrap().with_hopper(true)));
    let (dev, Gpu::Emu(emu)) = (Device::Gpu(gpu.clone()), &*gpu) else { unreachable!() };
    if !counts(emu) {
        return;
    }
    let kernel = |n: usize, v: usize| {
        emu.start_counting();
        draw(&dev, &normal(v, 3), n, ALL);
        let launches = emu.stop_counting();
        launches.iter().find(|launch| launch.kernel.starts_with("sample")).map(|launch| (launch.kernel, launch.blocks))
    };
    assert_eq!(kernel(1, 16_384), Some(("sample_sm90", 8)));
    assert_eq!(kernel(16, 14_337), Some(("sample_sm90", 128)));
    assert_eq!(kernel(17, 14_337), Some(("sample", 17)), "more clusters than the card has room for");
    assert_eq!(kernel(1, 14_336), Some(("sample", 1)), "fewer spans than blocks");
}

/// A row whose length is whole vectors, but which begins between two.
#[test]
fn sample_of_a_row_off_its_boundary_is_the_row_s() {
    for v in [4, 260, 4_100, 16_500] {
        let (logits, end) = (normal(v, 9), v - v / 3);
        let want = draw_mixed(&cpu(1), &logits, end);
        for (name, dev) in kernel_devices().into_iter().chain(hoppers()) {
            let shifted: Vec<f32> = [&[9.0], logits.as_slice()].concat();
            let (mut z, key) = (dev.upload(&shifted).unwrap(), dev.upload(&[77u64 << 8, 1 + (8 << 35)]).unwrap());
            let pos = dev.upload(&[3i32]).unwrap();
            let (mut token, mut logprob) = (dev.zeros(DType::I32, 1).unwrap(), poisoned(&dev, 1));
            let [one, none] = [1f32, 0.0].map(|x| dev.upload(&[x]).unwrap());
            let top_k = dev.zeros(DType::I32, 1).unwrap();
            let how = Sampling {
                temperature: one.view(),
                top_k: top_k.view(),
                top_p: one.view(),
                min_p: none.view(),
                key: key.view(),
            };
            let (z_row, rows) = (z.view_mut().at(1..v + 1), Rows::Stay(pos.view()));
            sample(&dev, z_row, how, rows, token.view_mut(), logprob.view_mut(), v, end).unwrap();
            // Row 8 of the mixed ones has no filter and this key.
            assert_eq!(dev.to_vec::<i32>(token.view())[0], want.0[8], "sample of {v} tokens, {name}");
            same("sample logprob", &name, &[1], &want.1[8..9], &take(&dev, &logprob));
            assert_eq!(dev.to_vec::<f32>(z.view())[0], 9.0, "sample of {v} tokens, {name}: what stands before the row");
        }
    }
}

#[test]
fn sample_greedy_takes_the_first_of_the_likeliest() {
    let (token, logprob) = draw(&cpu(1), &[0.0, 2.0, 2.0, -1.0], 3, Row { temperature: 0.0, ..ALL });
    assert_eq!(token, [1, 1, 1]);
    let want = 2.0 - (1f64 + 2.0 * 2f64.exp() + (-1f64).exp()).ln();
    near("sample logprob", &[3], &[want; 3], &logprob, 2.3e-7);
}

#[test]
fn sample_top_k_of_ties_keeps_the_lower_ids() {
    let (token, _) = draw(&cpu(1), &[1.0; 20], 2000, Row { top_k: 3, ..ALL });
    assert!((0..3).all(|t| token.contains(&t)) && token.iter().all(|t| *t < 3));
}

#[test]
fn sample_of_nan_stays_in_the_vocabulary_and_says_nan() {
    let dev = cpu(1);
    for how in FILTERS {
        let (token, logprob) = draw(&dev, &[0.0, f32::NAN, 1.0], 20, how);
        assert!(token.iter().all(|t| *t < 3) && logprob.iter().all(|lp| lp.is_nan()), "{how:?}");
    }
}

/// Logits of `end` tokens and `vocab - end` rows without one, which are `by` above what they would be.
fn padded(vocab: usize, end: usize, by: f32) -> Vec<f32> {
    let mut logits: Vec<f32> = normal(vocab, vocab as u64).iter().map(|x| 2.0 * x).collect();
    logits[end..].iter_mut().for_each(|z| *z += by);
    logits
}

#[test]
fn sample_of_a_padded_row_draws_what_a_row_without_padding_draws() {
    for (vocab, end) in [(5, 1), (33, 30), (100, 99), (2_100, 2_048), (4_200, 4_096), (4_200, 2_049), (4_200, 7)] {
        // Rows without a token that are unlikely, as likely as the rest, and all but certain.
        for by in [-30.0, 0.0, 30.0, 300.0] {
            let logits = padded(vocab, end, by);
            let (token, logprob, _) = draw_mixed(&cpu(2), &logits, end);
            assert_eq!(token, draw_mixed(&cpu(1), &logits[..end], end).0, "sample V={vocab} end={end} by={by}");
            for (i, (t, lp)) in token.iter().zip(&logprob).enumerate() {
                let want = oracle::sample(&wide(&logits), FILTERS[i % FILTERS.len()]).1[*t as usize];
                assert!((*lp as f64 - want).abs() < 2e-6 * want.abs().max(1.0), "sample V={vocab}: {lp}, want {want}");
            }
            for (name, dev) in kernel_devices() {
                let got = draw_mixed(&dev, &logits, end);
                assert_eq!(got.0, token, "sample V={vocab} end={end} by={by}, {name}");
                same("sample logprob", &name, &[logprob.len()], &logprob, &got.1);
            }
        }
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (mut c, mut h, mut three) = (poisoned(&dev, 12), poisoned(&dev, 2), poisoned(&dev, 3));
    let (k, f, mut token) =
        (dev.upload(&[0i32; 3]).unwrap(), dev.upload(&[1f32; 3]).unwrap(), dev.upload(&[0i32; 3]).unwrap());
    let key = dev.zeros(DType::U64, 5).unwrap();
    let how = Sampling { temperature: f.view(), top_k: k.view(), top_p: f.view(), min_p: f.view(), key: key.view() };
    let stay = || Rows::Stay(k.view());
    refused(sample(&dev, c.view_mut(), how, stay(), token.view_mut(), three.view_mut(), 4, 4), "sample", "key [N, 2]");
    refused(
        sample(&dev, c.view_mut(), how, stay(), token.view_mut(), three.view_mut(), 5, 5),
        "sample",
        "logits [N, V]",
    );
    refused(sample(&dev, c.view_mut(), how, stay(), token.view_mut(), h.view_mut(), 4, 4), "sample", "logprob [N]");
    let how = Sampling { top_p: f.at(0..2), ..how };
    refused(sample(&dev, c.view_mut(), how, stay(), token.view_mut(), three.view_mut(), 4, 4), "sample", "top_p [N]");
    let key = dev.zeros(DType::U64, 6).unwrap();
    let how = Sampling { top_p: f.view(), key: key.view(), ..how };
    for end in [0, 5] {
        let refusal = sample(&dev, c.view_mut(), how, stay(), token.view_mut(), three.view_mut(), 4, end);
        refused(refusal, "sample", "end in 1..=V");
    }
    let two = Rows::Stay(k.at(0..2));
    refused(sample(&dev, c.view_mut(), how, two, token.view_mut(), three.view_mut(), 4, 4), "sample", "positions [N]");
    let mut rows = dev.zeros(DType::I32, 17).unwrap();
    let moves = Rows::MoveOn { rows: rows.view_mut(), n_seqs: 3 };
    refused(sample(&dev, c.view_mut(), how, moves, token.view_mut(), three.view_mut(), 4, 4), "sample", "rows [6, N]");
}

/// Rows `[6, N]` of a decode step, after the step and after the next: a row alone is the row among others, and what is drawn
/// in the second step is what rows that stay draw at the positions that the first step wrote.
fn two_steps(dev: &Device, logits: &[f32], seq: &[i32], first: usize, n_seqs: usize) -> Vec<Vec<i32>> {
    let (n, v) = (seq.len(), logits.len() / seq.len());
    let of = |f: fn(&Row) -> f64| -> Vec<f32> {
        (first..first + n).map(|i| f(&FILTERS[i % FILTERS.len()]) as f32).collect()
    };
    let [t, top_p, min_p] = [of(|r| r.temperature), of(|r| r.top_p), of(|r| r.min_p)].map(|x| dev.upload(&x).unwrap());
    let top_k = dev.upload(&of(|r| r.top_k as f64).iter().map(|k| *k as i32).collect::<Vec<i32>>()).unwrap();
    let key: Vec<u64> = (first..first + n).flat_map(|i| [5, i as u64 / 2]).collect();
    let key = dev.upload(&key).unwrap();
    let (top_k, top_p, min_p) = (top_k.view(), top_p.view(), min_p.view());
    let how = Sampling { temperature: t.view(), top_k, top_p, min_p, key: key.view() };
    let column = |f: fn(usize) -> i32| (first..first + n).map(f).collect::<Vec<i32>>();
    let (ids, positions) = (column(|i| i as i32 + 5), column(|i| 3 * i as i32));
    let at: Vec<i32> = (0..n as i32).collect();
    let mut rows = dev.upload(&[&ids, &positions, seq, &at, &positions, seq].concat()).unwrap();
    let mut steps = vec![];
    for _ in 0..2 {
        let before = dev.to_vec::<i32>(rows.view());
        let (mut z, mut token, mut lp) =
            (dev.upload(logits).unwrap(), dev.zeros(DType::I32, n).unwrap(), poisoned(dev, n));
        let moves = Rows::MoveOn { rows: rows.view_mut(), n_seqs };
        sample(dev, z.view_mut(), how, moves, token.view_mut(), lp.view_mut(), v, v).unwrap();
        let pos = dev.upload(&before[4 * n..5 * n]).unwrap();
        let (mut z, mut stays) = (dev.upload(logits).unwrap(), dev.zeros(DType::I32, n).unwrap());
        sample(dev, z.view_mut(), how, Rows::Stay(pos.view()), stays.view_mut(), lp.view_mut(), v, v).unwrap();
        assert!(rows.guard_intact() && token.guard_intact());
        let (token, live) =
            (dev.to_vec::<i32>(token.view()), seq.iter().map(|s| (*s as usize) < n_seqs).collect::<Vec<_>>());
        assert_eq!(token, dev.to_vec::<i32>(stays.view()));
        let (mut ids, mut positions) = (before[..n].to_vec(), before[n..2 * n].to_vec());
        oracle::move_on(&mut ids, &mut positions, &live, &token);
        let after = dev.to_vec::<i32>(rows.view());
        assert_eq!(after, [&ids, &positions, seq, &at, &positions, seq].concat());
        steps.push(after);
    }
    steps
}

#[test]
fn rows_of_a_decode_step_move_on_alone_as_in_a_batch_and_padding_stays() {
    let (n, v, n_seqs) = (37, 300, 50);
    let logits = normal(n * v, 12);
    let seq: Vec<i32> = (0..n as i32).map(|i| if i % 5 == 4 { n_seqs + i } else { i }).collect();
    let all = devices().into_iter().chain(kernel_devices());
    for (name, dev) in all {
        let whole = two_steps(&dev, &logits, &seq, 0, n_seqs as usize);
        for (first, rows) in [(0, 1), (3, 2), (30, 7)] {
            let some = first..first + rows;
            let alone = two_steps(&dev, &logits[first * v..][..rows * v], &seq[some.clone()], first, n_seqs as usize);
            for (alone, whole) in alone.iter().zip(&whole) {
                // ids, and positions.
                for part in [0, 1, 4] {
                    assert_eq!(alone[part * rows..][..rows], whole[part * n..][some.clone()], "{name}, rows {some:?}");
                }
            }
        }
    }
}
