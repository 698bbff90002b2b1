//! The head by Hopper's kernels, whose logits exist in registers alone: the bits of the portable kernels, on the emulator.

use crate::support::{floats, gpu, indices, normal, poisoned, round, same, take};
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{DType, Device};
use haggle::ops::logprob::{linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use half::bf16;
use std::sync::Arc;

/// Tokens of a span.
const SPAN: usize = 2048;

/// The emulator, in its natural thread order and a shuffled one, plain and with Hopper's kernels.
fn pairs() -> [(Device, Device); 2] {
    [0, 1].map(|seed| {
        let emu = |hopper| Emu::with_seed(2, seed).unwrap().with_hopper(hopper);
        let device = |hopper| Device::Gpu(Arc::new(Gpu::Emu(emu(hopper))));
        (device(false), device(true))
    })
}

/// Inputs of the head: rows, vocabulary, width.
struct Head {
    dims: [usize; 3],
    x: Vec<bf16>,
    w: Vec<bf16>,
    target: Vec<i32>,
}

const INV_TEMPERATURE: f32 = 0.7;

impl Head {
    fn new([n, v, c]: [usize; 3]) -> Head {
        let x = round(&normal(n * c, 1).iter().map(|x| x / (c as f32).sqrt()).collect::<Vec<_>>());
        let w = round(&normal(v * c, 2).iter().map(|x| x * 3.0).collect::<Vec<_>>());
        // The first and last token of a span and of a tile, the last of all; then any.
        let edges = [0, SPAN - 1, SPAN, 255, 256, v - 1].map(|t| t.min(v - 1) as i32);
        let target = edges.into_iter().chain(indices(n, v, 3)).take(n).collect();
        Head { dims: [n, v, c], x, w, target }
    }

    fn rows(&self, start: usize, n: usize) -> Head {
        let [_, v, c] = self.dims;
        let (x, target) = (self.x[start * c..][..n * c].to_vec(), self.target[start..][..n].to_vec());
        Head { dims: [n, v, c], x, w: self.w.clone(), target }
    }

    /// logprob, lse, entropy.
    fn forward(&self, dev: &Device) -> [Vec<f32>; 3] {
        let [n, v, c] = self.dims;
        let (x, w) = (dev.upload(&self.x).unwrap(), dev.upload(&self.w).unwrap());
        let target = dev.upload(&self.target).unwrap();
        let mut out = [poisoned(dev, n), poisoned(dev, n), poisoned(dev, n)];
        let mut space = poisoned(dev, linear_logprob_workspace(dev, v, c, DType::Bf16));
        let [lp, lse, h] = &mut out;
        let (lp, lse, h, work) = (lp.view_mut(), lse.view_mut(), h.view_mut(), space.view_mut());
        let inv = INV_TEMPERATURE;
        let ran = kernels(dev, || {
            linear_logprob_fwd(dev, x.view(), w.view(), target.view(), lp, lse, h, work, c, inv).unwrap()
        });
        let fused = gpu(dev).hopper() && c % 8 == 0 && v > SPAN;
        assert_eq!(ran.contains(&"linear_logprob_spans_sm90_bf16"), fused, "{:?}: ran {ran:?}", self.dims);
        assert_eq!(ran.contains(&"linear_logprob_spans"), !fused, "{:?}: ran {ran:?}", self.dims);
        take(dev, &space);
        out.each_ref().map(|b| take(dev, b))
    }

    /// dx and dw, the latter f32 or bf16.
    fn backward(&self, dev: &Device, [lse, entropy]: [&[f32]; 2], dw_type: DType) -> [Vec<f32>; 2] {
        let [n, v, c] = self.dims;
        let (x, w) = (dev.upload(&self.x).unwrap(), dev.upload(&self.w).unwrap());
        let target = dev.upload(&self.target).unwrap();
        let given = [&normal(n, 4), &normal(n, 5), lse, entropy].map(|x| dev.upload(x).unwrap());
        let [d_lp, d_h, lse, h] = given.each_ref().map(|x| x.view());
        let (dw0, is_wide) = (normal(v * c, 6), dw_type == DType::F32);
        let mut dw = if is_wide { dev.upload(&dw0).unwrap() } else { dev.upload(&round(&dw0)).unwrap() };
        let mut dx = dev.upload(&vec![bf16::NAN; n * c]).unwrap();
        let mut space = poisoned(dev, linear_logprob_workspace(dev, v, c, DType::Bf16));
        let (x, w, t, to) = (x.view(), w.view(), target.view(), (dx.view_mut(), dw.view_mut(), space.view_mut()));
        let ran = kernels(dev, || {
            linear_logprob_bwd(dev, d_lp, d_h, x, w, t, lse, h, to.0, to.1, to.2, c, INV_TEMPERATURE).unwrap()
        });
        let hopper = gpu(dev).hopper() && c % 8 == 0;
        assert_eq!(ran.contains(&"linear_logprob_bwd_sm90_bf16"), hopper, "{:?}: ran {ran:?}", self.dims);
        assert_eq!(ran.contains(&"linear_logprob_bwd_bf16"), !hopper, "{:?}: ran {ran:?}", self.dims);
        assert!(dx.guard_intact() && dw.guard_intact() && space.guard_intact());
        let dw = if is_wide { dev.to_vec(dw.view()) } else { floats(&dev.to_vec(dw.view())) };
        [floats(&dev.to_vec(dx.view())), dw]
    }
}

/// The kernels that `op` ran.
fn kernels(dev: &Device, op: impl FnOnce()) -> Vec<&'static str> {
    dev.start_recording(1 << 10).unwrap();
    op();
    dev.stop_recording().unwrap().events.iter().map(|e| e.name).collect()
}

/// Edges of tiles of rows; vocabularies with a last tile and a last span of one token or more, and of one span; one step
/// of K, a part of one, more than the ring; more than one block of rows; what maps do not take.
#[test]
fn linear_logprob_spans_sm90_has_the_bits_of_its_twin() {
    let cases = [
        [1, 2049, 8],
        [7, 5000, 200],
        [64, 2304, 64],
        [127, 4097, 72],
        [128, 4096, 8],
        [129, 2560, 72],
        [300, 2305, 64],
        [20, 300, 40],
        [4100, 2056, 8],
        [19, 2100, 12],
    ];
    for head in cases.map(Head::new) {
        let (n, what) = (head.dims[0], format!("{:?}", head.dims));
        for (plain, hopper) in pairs() {
            let (want, got) = (head.forward(&plain), head.forward(&hopper));
            assert!(want.iter().flatten().all(|x| x.is_finite()), "{what}");
            for (i, name) in ["logprob", "lse", "entropy"].into_iter().enumerate() {
                same("linear_logprob_fwd", &format!("{what}, {name}"), &[n], &want[i], &got[i]);
            }
        }
    }
}

/// The same edges, and more than one block of rows, whose gradients of weights in bf16 are rounded in between, and of tokens.
#[test]
fn linear_logprob_bwd_sm90_has_the_bits_of_its_twin() {
    let cases = [
        [1, 300, 8],
        [7, 520, 200],
        [64, 256, 64],
        [127, 257, 72],
        [129, 40, 72],
        [300, 305, 64],
        [600, 520, 8],
        [19, 16_650, 8],
        [19, 2100, 12],
    ];
    for head in cases.map(Head::new) {
        let ([n, v, c], what) = (head.dims, format!("{:?}", head.dims));
        for (plain, hopper) in pairs() {
            let [_, lse, entropy] = head.forward(&plain);
            for dw_type in if n > 256 { vec![DType::F32, DType::Bf16] } else { vec![DType::F32] } {
                let run = |dev| head.backward(dev, [&lse, &entropy], dw_type);
                let (want, got) = (run(&plain), run(&hopper));
                let what = format!("{what} into {}", dw_type.name());
                assert!(want.iter().flatten().all(|x| x.is_finite()), "{what}");
                same("linear_logprob_bwd", &format!("{what}, dx"), &[n, c], &want[0], &got[0]);
                same("linear_logprob_bwd", &format!("{what}, dw"), &[v, c], &want[1], &got[1]);
            }
        }
    }
}

#[test]
fn linear_logprob_spans_sm90_row_alone_equals_row_in_batch() {
    let (head, [_, (_, dev)]) = (Head::new([300, 2305, 72]), pairs());
    let whole = head.forward(&dev);
    for (start, n) in [(0, 1), (299, 1), (31, 17), (100, 64), (120, 130)] {
        let part = head.rows(start, n).forward(&dev);
        for (whole, part) in whole.iter().zip(&part) {
            same("linear_logprob_fwd", &format!("rows {start}.. by {n}"), &[n], &whole[start..][..n], part);
        }
    }
}

#[test]
fn logits_that_are_not_numbers_are_told_alike() {
    let mut head = Head::new([20, 2305, 8]);
    for (token, x) in [(5, f32::NAN), (300, f32::INFINITY), (2304, f32::NEG_INFINITY)] {
        head.w[token * 8] = bf16::from_f32(x);
    }
    for (plain, hopper) in pairs() {
        for (want, got) in head.forward(&plain).iter().zip(&head.forward(&hopper)) {
            let is_nan = |x: &[f32]| x.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
            assert_eq!(is_nan(want), is_nan(got));
        }
    }
}

/// What the logits of a batch would take in f32, and the workspace, which is less than a hundredth of it.
#[test]
fn the_workspace_is_less_than_a_hundredth_of_the_logits() {
    let [n, v, c] = [4096, 131_072, 2048];
    for (plain, hopper) in pairs() {
        let bytes = |dev| 4 * linear_logprob_workspace(dev, v, c, DType::Bf16);
        let logits = 4 * n * v;
        println!("logits {logits} bytes, workspace {} plain, {} Hopper's", bytes(&plain), bytes(&hopper));
        assert!(bytes(&hopper) * 100 < logits);
        assert!(bytes(&hopper) < bytes(&plain));
        // f32 has no kernels of Hopper's, and needs what it needs.
        let wide = |dev| linear_logprob_workspace(dev, v, c, DType::F32);
        assert_eq!(wide(&plain), wide(&hopper));
    }
}
