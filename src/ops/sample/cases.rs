//! Cases of sampling: rows of every kind side by side, and what runs between a token and the next.

use super::{Leans, Rows, Sampling, cost, oracle, sample, sample_lean, sample_mask};
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::noise::Noise;
use crate::ops::case::{Floor, Stage, same_bits};

/// Temperature, top-k, top-p, min-p.
type Kind = (f32, i32, f32, f32);

const KINDS: [Kind; 5] =
    [(0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (0.7, 20, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (1.0, 0, 1.0, 0.1)];

const FLOOR_LOGPROB: Floor = [1.3e-7, 0.0];
const FLOOR_LEAN: Floor = [6.0e-8, 0.0];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    if s.dtype != DType::F32 && !s.times() {
        return Ok(());
    }
    let timed: [(&str, Kind); 3] =
        [("all", (1.0, 0, 1.0, 0.0)), ("top_k 50", (1.0, 50, 1.0, 0.0)), ("top_p 0.9", (1.0, 0, 0.9, 0.0))];
    for (n, v) in s.shapes(&[(12, 700)], &[(1, 1), (5, 2), (10, 5000)], |m| [1, 16, 64].map(|n| (n, m.vocab)).into()) {
        match s.times() {
            true => timed.iter().try_for_each(|(name, kind)| sampled(s, n, [v, v], name, &[*kind]))?,
            false => {
                sampled(s, n, [v, v], "", &KINDS)?;
                sampled(s, n, [v, v.div_ceil(2)], "padded", &KINDS)?;
            }
        }
    }
    for (n, v) in s.shapes(&[(9, 700)], &[(1, 1), (5, 33), (3, 4097)], |m| [1, 64].map(|n| (n, m.vocab)).into()) {
        masked(s, n, v)?;
    }
    for (n, v) in s.shapes(&[(9, 700)], &[(1, 1), (5, 33), (3, 4097)], |m| [1, 64].map(|n| (n, m.vocab)).into()) {
        leaned(s, n, v)?;
    }
    if s.times() {
        return Ok(());
    }
    // Rows that clusters have, on a card that has clusters.
    sampled(s, 5, [14_400, 14_337], "long", &KINDS)?;
    s.shapes(&[(13, 700)], &[(1, 1), (300, 9)], |_| vec![]).into_iter().try_for_each(|(n, v)| moved_on(s, n, v))
}

/// How `n` rows are sampled, on the device.
struct Asked {
    temperature: Buffer,
    top_k: Buffer,
    top_p: Buffer,
    min_p: Buffer,
    key: Buffer,
}

impl Asked {
    fn new(dev: &Device, n: usize, kinds: &[Kind]) -> Result<Asked> {
        let of = |i: usize| kinds[i % kinds.len()];
        let reals = |of: &dyn Fn(usize) -> f32| dev.upload(&(0..n).map(of).collect::<Vec<f32>>());
        Ok(Asked {
            temperature: reals(&|i| of(i).0)?,
            top_k: dev.upload(&(0..n).map(|i| of(i).1).collect::<Vec<i32>>())?,
            top_p: reals(&|i| of(i).2)?,
            min_p: reals(&|i| of(i).3)?,
            key: dev.upload(&(0..2 * n as u64).collect::<Vec<u64>>())?,
        })
    }

    fn how(&self) -> Sampling<'_> {
        let [temperature, top_k, top_p, min_p] =
            [&self.temperature, &self.top_k, &self.top_p, &self.min_p].map(Buffer::view);
        Sampling { temperature, top_k, top_p, min_p, key: self.key.view() }
    }
}

/// The token is one that the filters keep of those below `end`, the logprob is the oracle's of that token in the whole row.
fn sampled(s: &mut Stage, n: usize, [v, end]: [usize; 2], name: &str, kinds: &[Kind]) -> Result<()> {
    if !s.wants(&["sample"]) {
        return Ok(());
    }
    let mut logits = if end == v { s.input_f32(n * v)? } else { s.tensor(&padded(n * v), DType::F32)? };
    let (asked, pos) = (Asked::new(&s.dev, n, kinds)?, s.dev.upload(&(0..n as i32).collect::<Vec<i32>>())?);
    let (mut token, mut lp) = (s.dev.zeros(DType::I32, n)?, s.out_f32(n)?);
    s.call("sample", name, cost::sample(n, v, false), |dev| {
        let (z, rows) = (logits.buffer.view_mut(), Rows::Stay(pos.view()));
        sample(dev, z, asked.how(), rows, token.view_mut(), lp.view_mut(), v, end)
    })?;
    if s.times() {
        return Ok(());
    }
    let tokens = s.dev.download::<i32>(token.view())?;
    let (mut want, mut kept) = (vec![0.0; n], true);
    for (i, token) in tokens.iter().enumerate() {
        let (temperature, top_k, top_p, min_p) = kinds[i % kinds.len()];
        let row = oracle::Row {
            temperature: temperature as f64,
            top_k: top_k as usize,
            top_p: top_p as f64,
            min_p: min_p as f64,
        };
        let row_logits = &logits.values[i * v..(i + 1) * v];
        let ((p, _), (_, log_p)) = (oracle::sample(&row_logits[..end], row), oracle::sample(row_logits, row));
        let token = usize::try_from(*token).unwrap_or(usize::MAX);
        kept &= p.get(token).is_some_and(|p| *p > 0.0);
        want[i] = log_p.get(token).copied().unwrap_or(f64::NAN);
    }
    s.exactly("tokens that the filters keep", |_| Ok(kept))?;
    s.holds("logprob", &lp, FLOOR_LOGPROB, || want);
    Ok(())
}

/// Logits are the oracle's bit for bit, and what is drawn from them may come.
fn masked(s: &mut Stage, n: usize, v: usize) -> Result<()> {
    if !s.wants(&["sample_mask"]) {
        return Ok(());
    }
    let values = padded(n * v);
    let (mut logits, noise) = (s.tensor(&values, DType::F32)?, Noise::new(29, v as u64));
    // One row allows its last id alone.
    let words = v.div_ceil(32);
    let last = |i: usize| if i % words == (v - 1) / 32 { 1i32.wrapping_shl((v as u32 - 1) % 32) } else { 0 };
    let word = |i: usize| if i < words { last(i) } else { noise.bits(i as u64) as i32 | 1 };
    let words: Vec<i32> = (0..n * words).map(word).collect();
    let allowed = s.dev.upload(&words)?;
    s.call("sample_mask", "", cost::sample_mask(n, v), |dev| {
        sample_mask(dev, allowed.view(), logits.buffer.view_mut(), v)
    })?;
    if s.times() {
        return Ok(());
    }
    let row = |i: usize| {
        let row: Vec<f64> = values[i * v..(i + 1) * v].iter().map(|z| f64::from(*z)).collect();
        oracle::sample_mask(&row, &words[i * v.div_ceil(32)..][..v.div_ceil(32)])
    };
    let want: Vec<f64> = (0..n).flat_map(row).collect();
    let got = s.dev.download::<f32>(logits.buffer.view())?;
    let same = got.iter().zip(&want).all(|(got, want)| f64::from(*got) == *want);
    s.exactly("logits", |_| Ok(same))
}

/// Rows of no entry, of one, and of more than a block has threads.
fn leaned(s: &mut Stage, n: usize, v: usize) -> Result<()> {
    if !s.wants(&["sample_lean"]) {
        return Ok(());
    }
    let (values, noise) = (padded(n * v), Noise::new(37, v as u64));
    let mut logits = s.tensor(&values, DType::F32)?;
    let (mut offsets, mut ids) = (vec![0i32], vec![]);
    for row in 0..n {
        let most = [0, v.min(1), v.min(300)][(row + 1) % 3];
        // Distinct ids, the last one among them.
        ids.extend((0..most).map(|k| (v - 1 - k * (v / most)) as i32));
        offsets.push(ids.len() as i32);
    }
    let k = ids.len();
    let some = |stream: u64, of: &dyn Fn(f32) -> f32| -> Vec<f32> {
        (0..k as u64).map(|i| of(noise.child(stream).normal(i) as f32)).collect()
    };
    let (bias, repeat, less) = (some(1, &|x| 3.0 * x), some(2, &|x| 1.0 + x.abs()), some(3, &|x| x));
    let (on, [d_bias, d_repeat, d_less]) =
        (s.dev.upload(&offsets)?, [s.dev.upload(&bias)?, s.dev.upload(&repeat)?, s.dev.upload(&less)?]);
    let d_ids = s.dev.upload(&ids)?;
    s.call("sample_lean", "", cost::sample_lean(n, k), |dev| {
        let (bias, repeat, less) = (d_bias.view(), d_repeat.view(), d_less.view());
        sample_lean(
            dev,
            Leans { offsets: on.view(), id: d_ids.view(), bias, repeat, less },
            logits.buffer.view_mut(),
            v,
        )
    })?;
    if s.times() {
        return Ok(());
    }
    let entry = |k: usize| (ids[k] as usize, f64::from(bias[k]), f64::from(repeat[k]), f64::from(less[k]));
    let row = |i: usize| {
        let row: Vec<f64> = values[i * v..(i + 1) * v].iter().map(|z| f64::from(*z)).collect();
        let entries: Vec<_> = (offsets[i] as usize..offsets[i + 1] as usize).map(entry).collect();
        oracle::sample_lean(&row, &entries)
    };
    s.holds("logits", &logits.buffer, FLOOR_LEAN, || (0..n).flat_map(row).collect());
    Ok(())
}

/// Logits of rows with padding: numbers of their own, so that the families behind this one keep theirs.
fn padded(len: usize) -> Vec<f32> {
    let noise = Noise::new(23, len as u64);
    (0..len as u64).map(|i| noise.normal(i) as f32).collect()
}

/// Rows of a decode step, every seventh of them padding: tokens and logprobs are those of rows that stay, rows the next step's.
fn moved_on(s: &mut Stage, n: usize, v: usize) -> Result<()> {
    let (n_seqs, i) = (n as i32 + 1, 0..n as i32);
    let part = |f: &dyn Fn(i32) -> i32| i.clone().map(f).collect::<Vec<i32>>();
    let (mut ids, mut positions) = (part(&|r| r + 5), part(&|r| 3 * r));
    let seqs = part(&|row| if row % 7 == 6 { n_seqs } else { row });
    let pack = |ids: &[i32], positions: &[i32]| [ids, positions, &seqs, &part(&|r| r), positions, &seqs].concat();
    let asked = Asked::new(&s.dev, n, &KINDS)?;
    let (pos, mut rows) = (s.dev.upload(&positions)?, s.dev.upload(&pack(&ids, &positions))?);
    let logits = padded(n * v);
    let mut draw = |s: &mut Stage, moves: bool| -> Result<(Buffer, Buffer)> {
        let mut z = s.tensor(&logits, DType::F32)?.buffer;
        let (mut token, mut lp) = (s.dev.zeros(DType::I32, n)?, s.out_f32(n)?);
        s.call("sample", "decode", cost::sample(n, v, moves), |dev| {
            let at = match moves {
                true => Rows::MoveOn { rows: rows.view_mut(), n_seqs: n_seqs as usize },
                false => Rows::Stay(pos.view()),
            };
            sample(dev, z.view_mut(), asked.how(), at, token.view_mut(), lp.view_mut(), v, v)
        })?;
        Ok((token, lp))
    };
    let (stay, moved) = (draw(s, false)?, draw(s, true)?);
    s.exactly("tokens and the next rows", |dev| {
        let token = dev.download::<i32>(moved.0.view())?;
        let live: Vec<bool> = seqs.iter().map(|seq| *seq < n_seqs).collect();
        oracle::move_on(&mut ids, &mut positions, &live, &token);
        let same = token == dev.download::<i32>(stay.0.view())? && same_bits(dev, &stay.1, &moved.1)?;
        Ok(same && dev.download::<i32>(rows.view())? == pack(&ids, &positions))
    })
}
