//! The head under masks: the bits of sampling among what a row allows, the row rule, no gradient of what it forbids. Against the
//! oracle: ops_cases.

use crate::support::*;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{Buffer, DType, Device};
use haggle::ops::gemm::{Store, gemm_nt};
use haggle::ops::logprob::{Masks, Targets, linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use haggle::ops::sample::{oracle::Row, sample_mask};
use std::sync::Arc;

/// Inputs of the head: rows, vocabulary, width.
#[derive(Clone)]
struct Head {
    dims: [usize; 3],
    temperature: f32,
    x: Vec<f32>,
    w: Vec<f32>,
    target: Vec<i32>,
    /// `[U, ceil(V / 32)]`, none for a head without masks.
    words: Vec<i32>,
    of: Vec<i32>,
}

impl Head {
    /// Numbers that bf16 has, too. Of the masks the first allows every third token, the second the last tokens, so that spans
    /// and pieces before them have none, the third one token, the fourth all. Each fifth row has none.
    fn new([n, v, c]: [usize; 3], temperature: f32) -> Head {
        let exact = |x: Vec<f32>| floats(&round(&x));
        let x = exact(normal(n * c, 1).iter().map(|x| x / (c as f32).sqrt()).collect());
        let w = exact(normal(v * c, 2).iter().map(|x| x * 3.0).collect());
        let last = v.saturating_sub(40);
        let rules =
            [&(|t: usize| t % 3 == 1 || v < 3) as &dyn Fn(usize) -> bool, &|t| t >= last, &|t| t == v / 2, &|_| true];
        let words = rules.iter().flat_map(|rule| words(v, rule)).collect();
        let of: Vec<i32> = (0..n as i32).map(|i| i % 5 - 1).collect();
        let mut head = Head { dims: [n, v, c], temperature, x, w, target: indices(n, v, 3), words, of };
        for row in 0..n {
            while !head.may(row, head.target[row]) {
                head.target[row] = (head.target[row] + 1) % v as i32;
            }
        }
        head
    }

    fn mask(&self, row: usize) -> Option<&[i32]> {
        let w = self.dims[1].div_ceil(32);
        usize::try_from(self.of[row]).ok().map(|mask| &self.words[mask * w..][..w])
    }

    fn may(&self, row: usize, token: i32) -> bool {
        self.mask(row).is_none_or(|words| words[token as usize / 32] >> (token % 32) & 1 == 1)
    }

    /// Rows `rows` alone, whose masks stand in another order.
    fn part(&self, rows: std::ops::Range<usize>) -> Head {
        let ([_, v, c], w) = (self.dims, self.dims[1].div_ceil(32));
        let words: Vec<i32> = self.words.chunks(w).rev().flatten().copied().collect();
        let most = (words.len() / w) as i32 - 1;
        let of = self.of[rows.clone()].iter().map(|mask| if *mask < 0 { -1 } else { most - mask }).collect();
        Head {
            dims: [rows.len(), v, c],
            x: self.x[rows.start * c..rows.end * c].to_vec(),
            target: self.target[rows].to_vec(),
            words,
            of,
            ..self.clone()
        }
    }

    /// The same without masks.
    fn free(&self) -> Head {
        Head { words: vec![], ..self.clone() }
    }

    /// logprob, lse, entropy; dx and dw.
    fn run(&self, dev: &Device, dtype: DType) -> [Vec<f32>; 5] {
        let ([n, v, c], inv) = (self.dims, 1.0 / self.temperature);
        let [x, w] = [&self.x, &self.w].map(|x| upload(dev, x, dtype));
        let (ids, words, of) =
            (dev.upload(&self.target).unwrap(), dev.upload(&self.words), dev.upload(&self.of).unwrap());
        let words = words.unwrap();
        let masks = (!self.words.is_empty()).then(|| Masks { words: words.view(), of: of.view() });
        let target = Targets { ids: ids.view(), masks };
        let mut out = [poisoned(dev, n), poisoned(dev, n), poisoned(dev, n)];
        let mut space = poisoned(dev, linear_logprob_workspace(dev, v, c, dtype));
        let [lp, lse, h] = &mut out;
        let to = (lp.view_mut(), lse.view_mut(), h.view_mut());
        linear_logprob_fwd(dev, x.view(), w.view(), target, to.0, to.1, to.2, space.view_mut(), c, inv).unwrap();
        let [d_lp, d_h, before] = [normal(n, 4), normal(n, 5), normal(v * c, 6)].map(|x| dev.upload(&x).unwrap());
        let (mut dx, mut dw) = (upload(dev, &vec![f32::NAN; n * c], dtype), before);
        let (given, to) = ((lse.view(), h.view()), (dx.view_mut(), dw.view_mut(), space.view_mut()));
        let (d_lp, d_h, x, w) = (d_lp.view(), d_h.view(), x.view(), w.view());
        linear_logprob_bwd(dev, d_lp, d_h, x, w, target, given.0, given.1, to.0, to.1, to.2, c, inv).unwrap();
        assert!(space.guard_intact() && dx.guard_intact());
        let [lp, lse, h] = out.each_ref().map(|b| take(dev, b));
        let dx = if dtype == DType::Bf16 { floats(&dev.to_vec(dx.view())) } else { take(dev, &dx) };
        [lp, lse, h, dx, take(dev, &dw)]
    }
}

/// A mask of `v` tokens.
fn words(v: usize, rule: &dyn Fn(usize) -> bool) -> Vec<i32> {
    let mut words = vec![0i32; v.div_ceil(32)];
    (0..v).filter(|t| rule(*t)).for_each(|t| words[t / 32] |= 1i32.wrapping_shl(t as u32 % 32));
    words
}

fn upload(dev: &Device, x: &[f32], dtype: DType) -> Buffer {
    if dtype == DType::Bf16 { dev.upload(&round(x)) } else { dev.upload(x) }.unwrap()
}

/// The CPU, the kernels in f32 and in bf16, and with Hopper's, which take no masks, asked for.
fn everywhere() -> Vec<(String, Device, DType)> {
    let mut all = vec![("cpu".to_string(), cpu(2), DType::F32)];
    for (name, dev) in kernel_devices().into_iter().skip(2) {
        all.extend([DType::F32, DType::Bf16].map(|dtype| (name.clone(), dev.clone(), dtype)));
    }
    let hopper = Device::Gpu(Arc::new(Gpu::Emu(Emu::new(2).unwrap().with_hopper(true))));
    all.push(("emu, Hopper's kernels".into(), hopper, DType::Bf16));
    all
}

/// One word, a vocabulary of one span of sums, of several, a last one of few tokens; more rows than a block.
fn heads() -> Vec<Head> {
    let cases =
        [([6, 1, 8], 1.0), ([19, 300, 40], 0.7), ([300, 70, 16], 1.0), ([12, 2304, 16], 1.9), ([7, 4100, 8], 0.6)];
    cases.map(|(dims, temperature)| Head::new(dims, temperature)).into()
}

#[test]
fn a_row_has_the_bits_of_sampling_among_what_its_mask_allows() {
    for (name, dev, dtype) in everywhere() {
        for head in heads() {
            let [n, v, c] = head.dims;
            let [x, w] = [&head.x, &head.w].map(|x| upload(&dev, x, dtype));
            let mut z = poisoned(&dev, n * v);
            gemm_nt(&dev, x.view(), w.view(), z.view_mut(), n, v, c, Store::Set).unwrap();
            let (logits, mut drawn) = (take(&dev, &z), head.clone());
            let mut logprobs = vec![];
            for row in 0..n {
                let mut z = dev.upload(&logits[row * v..][..v]).unwrap();
                if let Some(words) = head.mask(row) {
                    sample_mask(&dev, dev.upload(words).unwrap().view(), z.view_mut(), v).unwrap();
                }
                let how = Row { temperature: head.temperature as f64, ..ALL };
                let (token, logprob) = draw(&dev, &take(&dev, &z), 1, how);
                assert!(head.may(row, token[0] as i32), "{name}: {} in row {row}", token[0]);
                drawn.target[row] = token[0] as i32;
                logprobs.push(logprob[0]);
            }
            let [lp, lse, h, ..] = drawn.run(&dev, dtype);
            same("linear_logprob_fwd", &format!("{name}, {} V {v}, logprob", dtype.name()), &[n], &logprobs, &lp);
            assert!(lse.iter().chain(&h).all(|x| x.is_finite()), "{name} V {v}: {lse:?} {h:?}");
            // One token that may come is certain.
            let certain: Vec<usize> = (0..n).filter(|row| head.of[*row] == 2).collect();
            assert!(certain.iter().all(|row| lp[*row] == 0.0 && h[*row] == 0.0), "{name} V {v}");
        }
    }
}

#[test]
fn masked_rows_have_the_same_bits_on_every_device() {
    for head in heads() {
        let ([n, v, c], mut first) = (head.dims, [None, None]);
        for (name, dev, dtype) in everywhere() {
            if dtype == DType::Bf16 && !adds_as_the_emulator(&dev) {
                continue;
            }
            let got = head.run(&dev, dtype);
            let want = first[usize::from(dtype == DType::Bf16)].get_or_insert_with(|| got.clone());
            for (i, what) in ["logprob", "lse", "entropy", "dx", "dw"].into_iter().enumerate() {
                let dims = [vec![n], vec![n], vec![n], vec![n, c], vec![v, c]];
                same("linear_logprob", &format!("{what}, {name}, {}", dtype.name()), &dims[i], &want[i], &got[i]);
            }
        }
    }
}

#[test]
fn a_masked_row_alone_equals_the_row_in_a_batch_and_other_rows_are_as_without_masks() {
    for (name, dev, dtype) in everywhere() {
        for head in heads() {
            let ([n, v, c], all, free) = (head.dims, head.run(&dev, dtype), head.free().run(&dev, dtype));
            for row in [0, 1, 2, 3, 4, n - 1].into_iter().filter(|row| *row < n) {
                let alone = head.part(row..row + 1).run(&dev, dtype);
                let batch: [&[f32]; 3] = [0, 1, 2].map(|i| &all[i][row..row + 1]);
                let what = format!("{name}, {} V {v}, row {row}", dtype.name());
                batch.iter().zip(&alone).for_each(|(batch, alone)| same("linear_logprob", &what, &[1], batch, alone));
                if head.of[row] == -1 || head.of[row] == 3 {
                    for (batch, free) in batch.iter().zip(&free) {
                        same("linear_logprob", &what, &[1], &free[row..row + 1], batch);
                    }
                    same("dx", &what, &[c], &free[3][row * c..][..c], &all[3][row * c..][..c]);
                }
            }
        }
    }
}

#[test]
fn what_every_row_forbids_gets_no_gradient() {
    for (name, dev, dtype) in everywhere() {
        for mut head in heads().into_iter().filter(|head| head.dims[1] > 1) {
            let [n, v, c] = head.dims;
            head.of = vec![0; n];
            head.target = (0..n as i32).map(|i| (3 * i + 1) % (v as i32 / 3 * 3)).collect();
            let ([.., dw], before) = (head.run(&dev, dtype), normal(v * c, 6));
            let moved: Vec<usize> = (0..v * c).filter(|i| dw[*i].to_bits() != before[*i].to_bits()).collect();
            let wrong = moved.iter().find(|i| *i / c % 3 != 1);
            assert_eq!(wrong, None, "{name} {} V {v}: of C {c}", dtype.name());
            assert!(moved.len() > v * c / 6, "{name} V {v}: {} moved", moved.len());
        }
    }
}

#[test]
fn masks_of_wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (x, w) = (dev.zeros(DType::F32, 12).unwrap(), dev.zeros(DType::F32, 4 * 33).unwrap());
    let [mut lp, mut lse, mut h] = [(); 3].map(|_| poisoned(&dev, 3));
    let mut space = poisoned(&dev, linear_logprob_workspace(&dev, 33, 4, DType::F32));
    let (ids, words) = (dev.upload(&[0i32, 1, 2]).unwrap(), dev.upload(&[-1i32; 4]).unwrap());
    let mut fwd = |words_len: usize, of_len: usize| {
        let masks = Some(Masks { words: words.at(0..words_len), of: ids.at(0..of_len) });
        let (target, to) = (Targets { ids: ids.view(), masks }, (lp.view_mut(), lse.view_mut(), h.view_mut()));
        linear_logprob_fwd(&dev, x.view(), w.view(), target, to.0, to.1, to.2, space.view_mut(), 4, 1.0)
    };
    refused(fwd(3, 3), "linear_logprob_fwd", "masks [U, ceil(V / 32)]");
    refused(fwd(4, 2), "linear_logprob_fwd", "mask of rows [N]");
}
