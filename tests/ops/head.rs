//! The head and the noise: one set of bits, refusals. The oracle of every op: ops_cases; the row rule of products:
//! row_rule_gemm; sampling: ops_sample.

use crate::support::*;
use haggle::device::{DType, Device, View, ViewMut};
use haggle::noise::Noise;
use haggle::ops::gemm::*;
use haggle::ops::logprob::*;
use haggle::ops::noise::noise_bits;
use haggle::ops::sample::oracle::Row;
use half::bf16;

type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> haggle::Result<()>;
type Product = fn(&[f64], &[f64], usize, usize, usize) -> Vec<f64>;

const GEMMS: [(&str, Gemm, Product); 3] = [
    (
        "gemm_nt",
        |dev, a, b, c, m, n, k, store| gemm_nt(dev, a, b, c, m, n, k, store),
        haggle::ops::gemm::oracle::gemm_nt,
    ),
    ("gemm_nn", gemm_nn, haggle::ops::gemm::oracle::gemm_nn),
    ("gemm_tn", gemm_tn, haggle::ops::gemm::oracle::gemm_tn),
];

/// Inputs of the head: rows, vocabulary, width, 1 / temperature.
struct Head {
    dims: [usize; 3],
    inv: f32,
    x: Vec<f32>,
    w: Vec<f32>,
    target: Vec<i32>,
}

impl Head {
    fn all() -> Vec<Head> {
        let cases = [
            ([1, 1, 1], 1.0),
            ([1, 50, 7], 1.0),
            ([70, 33, 5], 0.7),
            ([3, 2048, 128], 1.25),
            ([150, 257, 64], 1.0),
            ([3, 5000, 16], 0.9),
        ];
        let head = |([n, v, c], inv): ([usize; 3], f32)| {
            let x = normal(n * c, 1).iter().map(|x| x / (c as f32).sqrt()).collect();
            let w = normal(v * c, 2).iter().map(|x| x * 3.0).collect();
            Head { dims: [n, v, c], inv, x, w, target: indices(n, v, 3) }
        };
        cases.map(head).into_iter().collect()
    }

    /// logprob, lse, entropy.
    fn forward(&self, dev: &Device) -> [Vec<f32>; 3] {
        let [n, v, c] = self.dims;
        let mut out = [poisoned(dev, n), poisoned(dev, n), poisoned(dev, n)];
        let mut space = poisoned(dev, linear_logprob_workspace(dev, v, c, DType::F32));
        let (x, w, target) =
            (dev.upload(&self.x).unwrap(), dev.upload(&self.w).unwrap(), dev.upload(&self.target).unwrap());
        let [lp, lse, h] = &mut out;
        let (lp, lse, h) = (lp.view_mut(), lse.view_mut(), h.view_mut());
        linear_logprob_fwd(dev, x.view(), w.view(), target.view(), lp, lse, h, space.view_mut(), c, self.inv).unwrap();
        take(dev, &space);
        out.each_ref().map(|b| take(dev, b))
    }
}

/// dx and dw.
fn backward(head: &Head, dev: &Device) -> [Vec<f32>; 2] {
    let [n, v, c] = head.dims;
    let [_, lse, h] = head.forward(dev);
    let [d_lp, d_h, lse, h, x, w] =
        [&normal(n, 4), &normal(n, 5), &lse, &h, &head.x, &head.w].map(|x| dev.upload(x.as_slice()).unwrap());
    let (mut dx, mut dw) = (poisoned(dev, n * c), dev.upload(&normal(v * c, 6)).unwrap());
    let (target, mut space) =
        (dev.upload(&head.target).unwrap(), poisoned(dev, linear_logprob_workspace(dev, v, c, DType::F32)));
    let (given, x, w) = ((lse.view(), h.view()), x.view(), w.view());
    let (dx_view, dw_view, space_view) = (dx.view_mut(), dw.view_mut(), space.view_mut());
    let (d_lp, d_h, target) = (d_lp.view(), d_h.view(), target.view());
    linear_logprob_bwd(dev, d_lp, d_h, x, w, target, given.0, given.1, dx_view, dw_view, space_view, c, head.inv)
        .unwrap();
    take(dev, &space);
    [take(dev, &dx), take(dev, &dw)]
}

#[test]
fn linear_logprob_has_the_same_bits_on_every_device() {
    for head in Head::all() {
        let [n, v, c] = head.dims;
        let (want, want_bwd) = (head.forward(&cpu(1)), backward(&head, &cpu(1)));
        for (name, dev) in kernel_devices() {
            let (got, got_bwd) = (head.forward(&dev), backward(&head, &dev));
            for (i, what) in ["logprob", "lse", "entropy"].into_iter().enumerate() {
                same("linear_logprob_fwd", &format!("{what}, {name}"), &[n], &want[i], &got[i]);
            }
            same("linear_logprob_bwd", &format!("dx, {name}"), &[n, c], &want_bwd[0], &got_bwd[0]);
            same("linear_logprob_bwd", &format!("dw, {name}"), &[v, c], &want_bwd[1], &got_bwd[1]);
        }
    }
}

/// bf16 x and w: logprob, lse, entropy as f32, then dx and dw.
fn in_bf16(head: &Head, dev: &Device) -> [Vec<f32>; 5] {
    let [n, v, c] = head.dims;
    let mut out = [poisoned(dev, n), poisoned(dev, n), poisoned(dev, n)];
    let (x, w, target) =
        (dev.upload(&round(&head.x)).unwrap(), dev.upload(&round(&head.w)).unwrap(), dev.upload(&head.target).unwrap());
    let mut space = poisoned(dev, linear_logprob_workspace(dev, v, c, DType::Bf16));
    let [lp, lse, h] = &mut out;
    let (x, w, target, space_view) = (x.view(), w.view(), target.view(), space.view_mut());
    let (lp_view, lse_view, h_view) = (lp.view_mut(), lse.view_mut(), h.view_mut());
    linear_logprob_fwd(dev, x, w, target, lp_view, lse_view, h_view, space_view, c, head.inv).unwrap();
    let (d_lp, d_h) = (dev.upload(&normal(n, 4)).unwrap(), dev.upload(&normal(n, 5)).unwrap());
    let (mut dx, mut dw) = (dev.upload(&vec![bf16::NAN; n * c]).unwrap(), dev.upload(&normal(v * c, 6)).unwrap());
    let (d_lp, d_h, lse_view, h_view) = (d_lp.view(), d_h.view(), lse.view(), h.view());
    let (dx_view, dw_view, space_view) = (dx.view_mut(), dw.view_mut(), space.view_mut());
    linear_logprob_bwd(dev, d_lp, d_h, x, w, target, lse_view, h_view, dx_view, dw_view, space_view, c, head.inv)
        .unwrap();
    assert!(dx.guard_intact() && space.guard_intact());
    let [lp, lse, h] = out.each_ref().map(|b| take(dev, b));
    [lp, lse, h, floats(&dev.to_vec(dx.view())), take(dev, &dw)]
}

#[test]
fn linear_logprob_in_bf16_matches_the_oracle_of_the_rounded_inputs() {
    for head in Head::all() {
        let [n, v, c] = head.dims;
        let (x, w) = (wide(&floats(&round(&head.x))), wide(&floats(&round(&head.w))));
        let (target, inv) = (&head.target, head.inv as f64);
        let fwd = haggle::ops::logprob::oracle::linear_logprob_fwd(&x, &w, target, None, c, inv);
        let (d_lp, d_h) = (wide(&normal(n, 4)), wide(&normal(n, 5)));
        let (dx, dw) = haggle::ops::logprob::oracle::linear_logprob_bwd(&d_lp, &d_h, &x, &w, target, None, c, inv);
        let dw: Vec<f64> = dw.iter().zip(normal(v * c, 6)).map(|(a, b)| a + b as f64).collect();
        let mut first: Option<[Vec<f32>; 5]> = None;
        for (name, dev) in kernel_devices() {
            let got = in_bf16(&head, &dev);
            near("linear_logprob_fwd logprob in bf16", &[n], &fwd.0, &got[0], 8.6e-8);
            near("linear_logprob_fwd lse in bf16", &[n], &fwd.1, &got[1], 1.2e-7);
            near("linear_logprob_fwd entropy in bf16", &[n], &fwd.2, &got[2], 2.2e-7);
            if v > 1 {
                near("linear_logprob_bwd dx in bf16", &[n, c], &dx, &got[3], 4.2e-3);
                near("linear_logprob_bwd dw in bf16", &[v, c], &dw, &got[4], 1.1e-3);
            }
            if !adds_as_the_emulator(&dev) {
                first = None;
            }
            for (want, got) in first.get_or_insert_with(|| got.clone()).iter().zip(&got) {
                same("linear_logprob in bf16", &name, &[got.len()], want, got);
            }
        }
    }
}

#[test]
fn linear_logprob_in_bf16_has_the_bits_of_sampling_a_row_alone() {
    // A vocabulary of one span, and of several.
    for head in Head::all().split_off(4) {
        let ([n, v, c], dev) = (head.dims, kernel_device());
        let w = dev.upload(&round(&head.w)).unwrap();
        for row in [0, 1, 77.min(n - 2), n - 1] {
            let (x, mut z) = (dev.upload(&round(&head.x[row * c..][..c])).unwrap(), poisoned(&dev, v));
            gemm_nt(&dev, x.view(), w.view(), z.view_mut(), 1, v, c, Store::Set).unwrap();
            let (token, logprob) = draw(&dev, &take(&dev, &z), 1, Row { temperature: 1.0 / head.inv as f64, ..ALL });
            let mut target = head.target.clone();
            target[row] = token[0] as i32;
            let trained = in_bf16(&Head { target, x: head.x.clone(), w: head.w.clone(), ..head }, &dev)[0][row];
            assert_eq!(logprob[0].to_bits(), trained.to_bits(), "V {v} row {row}, token {}", token[0]);
        }
    }
}

#[test]
fn linear_logprob_far_logits() {
    // Logits of thousands: the softmax is one token, nothing overflows.
    let (dev, x, w) = (cpu(1), vec![100.0f32], vec![-50.0, 50.0, 49.0]);
    let head = Head { dims: [1, 3, 1], inv: 1.0, x, w, target: vec![1] };
    let got = head.forward(&dev);
    assert_eq!(got, [vec![0.0], vec![5000.0], vec![0.0]]);
    let head = Head { target: vec![0], ..head };
    assert_eq!(head.forward(&dev)[0], [-10000.0]);
}

#[test]
fn noise_has_the_same_bits_on_every_device() {
    for noise in [Noise::new(0, 0), Noise::new(u64::MAX, 1 << 63), Noise::new(77, 3 << 33)] {
        for first in [0, u32::MAX as u64 - 3, u64::MAX - 5] {
            let want: Vec<u64> = (0..300u64).map(|i| noise.bits(first.wrapping_add(i))).collect();
            for (name, dev) in devices().into_iter().chain(kernel_devices()) {
                let mut bits = dev.zeros(DType::U64, 300).unwrap();
                noise_bits(&dev, bits.view_mut(), noise, first).unwrap();
                assert!(bits.guard_intact() && dev.to_vec::<u64>(bits.view()) == want, "{name} {noise:?} from {first}");
            }
        }
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (a, b, mut c) = (dev.zeros(DType::F32, 12).unwrap(), dev.zeros(DType::F32, 11).unwrap(), poisoned(&dev, 12));
    for (name, gemm, _) in GEMMS {
        refused(gemm(&dev, b.view(), a.view(), c.view_mut(), 3, 3, 4, Store::Set), name, "a has M K");
        refused(gemm(&dev, a.view(), b.view(), c.at_mut(0..9), 3, 3, 4, Store::Set), name, "b has");
        refused(gemm(&dev, a.view(), a.view(), c.view_mut(), 3, 3, 4, Store::Set), name, "c has M N");
    }
    let (mut lp, mut lse, mut h) = (poisoned(&dev, 3), poisoned(&dev, 3), poisoned(&dev, 2));
    let (target, mut space) =
        (dev.upload(&[0i32, 1, 2]).unwrap(), poisoned(&dev, linear_logprob_workspace(&dev, 3, 4, DType::F32)));
    let mut fwd = |x: View, h: ViewMut, space: ViewMut| {
        linear_logprob_fwd(&dev, x, a.view(), target.view(), lp.view_mut(), lse.view_mut(), h, space, 4, 1.0)
    };
    refused(fwd(b.view(), h.view_mut(), space.view_mut()), "linear_logprob_fwd", "x [N, C]");
    refused(fwd(a.view(), h.view_mut(), space.view_mut()), "linear_logprob_fwd", "entropy [N]");
    let mut three = poisoned(&dev, 3);
    refused(fwd(a.view(), three.view_mut(), space.at_mut(0..1)), "linear_logprob_fwd", "workspace");
}
