//! policy_loss, grad_norm, adamw_step: what must come through, one set of bits, refusals. The oracle: ops_cases.

use crate::support::*;
use haggle::device::{Buffer, DType, Device};
use haggle::ops::loss::cases::{CLIP, rules};
use haggle::ops::loss::*;
use haggle::ops::optim::*;
use half::bf16;

fn squares(dev: &Device, g: &[f32]) -> f32 {
    let mut out = poisoned(dev, 1);
    let mut space = dev.zeros(DType::U64, GRAD_NORM_PARTS).unwrap();
    grad_norm(dev, dev.upload(g).unwrap().view(), out.view_mut(), space.view_mut()).unwrap();
    take(dev, &out)[0]
}

/// w, m, v after one step.
fn step(dev: &Device, g: &[f32], wmv: [&[f32]; 3], how: AdamW) -> [Vec<f32>; 3] {
    let mut buffers = wmv.map(|x| dev.upload(x).unwrap());
    let [w, m, v] = &mut buffers;
    adamw_step(dev, dev.upload(g).unwrap().view(), w.view_mut(), m.view_mut(), v.view_mut(), None, how).unwrap();
    buffers.each_ref().map(|b| take(dev, b))
}

/// The rounded copy of w after one step.
fn rounded(dev: &Device, g: &[f32], wmv: [&[f32]; 3]) -> Buffer {
    let (mut buffers, mut copy) = (wmv.map(|x| dev.upload(x).unwrap()), dev.zeros(DType::Bf16, g.len()).unwrap());
    let [w, m, v] = &mut buffers;
    let (w, m, v) = (w.view_mut(), m.view_mut(), v.view_mut());
    adamw_step(dev, dev.upload(g).unwrap().view(), w, m, v, Some(copy.view_mut()), ADAMW).unwrap();
    assert!(copy.guard_intact());
    assert_eq!(dev.to_vec::<bf16>(copy.view()), round(&take(dev, &buffers[0])));
    copy
}

const ADAMW: AdamW =
    AdamW { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, grad_scale: 0.5, step: 1, element: 0 };

#[test]
fn grad_norm_lets_nan_through() {
    let dev = cpu(2);
    assert_eq!(squares(&dev, &[]), 0.0);
    for n in [1, 15, 1023, 1025, 70_001] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut g = normal(n, 1);
            g[n - 1] = bad;
            assert!(!squares(&dev, &g).is_finite());
        }
    }
}

#[test]
fn adamw_step_of_nothing_is_decay_alone() {
    let [w, m, v] = step(&cpu(1), &[0.0], [&[2.0], &[0.0], &[0.0]], ADAMW);
    assert_eq!((w[0], m[0], v[0]), (2.0 - 0.01 * (0.1 * 2.0), 0.0, 0.0));
}

/// The six inputs of policy_loss, with some ratios outside the clip on both sides.
fn episode(n: usize) -> [Vec<f32>; 6] {
    let lp: Vec<f32> = normal(n, 1).iter().map(|x| -x.abs()).collect();
    let off = |stream, by: f32| lp.iter().zip(normal(n, stream)).map(|(a, b)| a + by * b).collect();
    let entropy = normal(n, 6).iter().map(|x| x.abs()).collect();
    [lp.clone(), off(2, 0.3), off(3, 0.5), normal(n, 4), normal(n, 5).iter().map(|x| x.abs()).collect(), entropy]
}

/// dlogprob, dentropy, sums.
fn policy(dev: &Device, inputs: &[Vec<f32>; 6], how: PolicyLoss) -> [Vec<f32>; 3] {
    let n = inputs[0].len();
    let mut out = [poisoned(dev, n), poisoned(dev, n), poisoned(dev, POLICY_SUMS.len())];
    let inputs = inputs.each_ref().map(|x| dev.upload(x).unwrap());
    let [lp, old, reference, a, w, h] = inputs.each_ref().map(|b| b.view());
    let [d, dh, sums] = &mut out;
    policy_loss(dev, lp, old, reference, a, w, h, d.view_mut(), dh.view_mut(), sums.view_mut(), how).unwrap();
    out.each_ref().map(|b| take(dev, b))
}

#[test]
fn policy_loss_on_policy_is_the_plain_gradient() {
    // Nothing has moved: the ratio is exactly 1 and the gradient exactly -w A.
    let mut inputs = episode(50);
    inputs[1] = inputs[0].clone();
    let [d, dh, sums] = policy(&cpu(1), &inputs, CLIP);
    for i in 0..50 {
        assert_eq!(d[i], -inputs[4][i] * inputs[3][i]);
        assert_eq!(dh[i], 0.0);
    }
    assert_eq!((sums[4], sums[5]), (0.0, 0.0));
}

#[test]
fn policy_loss_lets_nan_through_and_reads_no_reference_without_kl() {
    let (dev, mut inputs) = (cpu(1), episode(9));
    inputs[2] = vec![f32::NAN; 9];
    let [d, _, sums] = policy(&dev, &inputs, CLIP);
    assert!(d.iter().chain(&sums).all(|x| x.is_finite()));
    inputs[0][4] = f32::NAN;
    let [d, _, sums] = policy(&dev, &inputs, CLIP);
    assert!(d[4].is_nan() && sums[0].is_nan() && sums[5].is_nan());
}

#[test]
fn bits_depend_on_no_thread_and_no_vector_width() {
    let n = 30_011;
    let (g, w, m) = (normal(n, 1), normal(n, 2), normal(n, 3));
    let v: Vec<f32> = normal(n, 4).iter().map(|x| x * x).collect();
    let inputs = episode(700);
    let mut first: Option<Vec<Vec<f32>>> = None;
    for (name, dev) in devices().into_iter().chain(kernel_devices()) {
        let mut got = vec![vec![squares(&dev, &g)]];
        got.extend(step(&dev, &g, [&w, &m, &v], ADAMW));
        got.push(floats(&dev.to_vec(rounded(&dev, &g, [&w, &m, &v]).view())));
        rules().into_iter().for_each(|how| got.extend(policy(&dev, &inputs, how)));
        let want = first.get_or_insert_with(|| got.clone());
        let names = ["grad_norm", "adamw w", "adamw m", "adamw v", "adamw w_bf16"];
        for i in 0..got.len() {
            same(names.get(i).unwrap_or(&"policy_loss"), &name, &[got[i].len()], &want[i], &got[i]);
        }
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (a, b, mut two) = (dev.zeros(DType::F32, 4).unwrap(), dev.zeros(DType::F32, 3).unwrap(), poisoned(&dev, 2));
    let mut space = dev.zeros(DType::U64, GRAD_NORM_PARTS).unwrap();
    refused(grad_norm(&dev, a.view(), two.view_mut(), space.view_mut()), "grad_norm", "out [1]");
    refused(grad_norm(&dev, a.view(), two.at_mut(0..1), space.at_mut(1..9)), "grad_norm", "workspace");
    let [mut x, mut y, mut z] = [4, 4, 3].map(|n| poisoned(&dev, n));
    let (xs, ys) = (x.view_mut(), y.view_mut());
    refused(adamw_step(&dev, a.view(), xs, ys, z.view_mut(), None, ADAMW), "adamw_step", "v [N]");
    refused(adamw_step(&dev, b.view(), x.view_mut(), y.view_mut(), z.view_mut(), None, ADAMW), "adamw_step", "w [N]");
    let (a, b) = (a.view(), b.view());
    let mut sums = poisoned(&dev, 6);
    let mut loss = |old, weight, n| {
        let (x, y) = (x.view_mut(), y.view_mut());
        policy_loss(&dev, a, old, a, a, weight, a, x, y, sums.at_mut(0..n), CLIP)
    };
    refused(loss(b, a, 6), "policy_loss", "old [N]");
    refused(loss(a, b, 6), "policy_loss", "weight [N]");
    refused(loss(a, a, 5), "policy_loss", "sums");
}
