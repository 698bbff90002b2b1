//! Every gradient of the whole model against central differences of the model written once more, in f64.
//!
//! The loss mixes logprobs and entropies of packed sequences at a temperature, of targets scored among all tokens and, in a
//! case of its own, of some scored among those of a mask. For each tensor the derivative is
//! taken along the gradient itself (which sees a wrong size) and along two random directions (which see a wrong one).

use haggle::device::Device;
use haggle::model::{
    Activations, Family, Layout, Linear, Mlp, ModelConfig, PackedBatch, Packing, Plan, TensorId, Use, Weights,
    backward, forward,
};
use haggle::noise::Noise;

const INV_TEMPERATURE: f64 = 1.25;
/// Measured: 1.16e-6 (tied), 6.3e-7 (untied); at most twice that.
const TOLERANCE: f64 = 2.3e-6;

/// The model over one sequence in f64: logprob of each next token and entropy of each row but the last, among the tokens that
/// row `t` may take.
fn model_f64(
    c: &ModelConfig,
    lay: &Layout,
    p: &[f64],
    ids: &[i32],
    may: &dyn Fn(usize, usize) -> bool,
) -> Vec<(f64, f64)> {
    let (width, d, f) = (c.hidden_size, c.head_dim, c.intermediate_size);
    let (h, hk, eps) = (c.num_attention_heads, c.num_key_value_heads, c.rms_norm_eps as f64);
    let w = |id: TensorId| &p[lay.specs[id.0].range()];
    let norm = |x: &[f64], g: &[f64]| -> Vec<f64> {
        let rstd = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + eps).sqrt();
        x.iter().zip(g).map(|(v, g)| v * rstd * g).collect()
    };
    let product = |x: &[f64], m: &[f64]| -> Vec<f64> {
        m.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let linear = |x: &[f64], l: Linear| -> Vec<f64> {
        let mut y = product(x, w(l.weight));
        l.bias.map(w).into_iter().for_each(|b| y.iter_mut().zip(b).for_each(|(y, b)| *y += b));
        y
    };
    let rotate = |x: &[f64], pos: usize| -> Vec<f64> {
        let angle = |i: usize| pos as f64 * c.rope.theta.powf(-2.0 * (i % (d / 2)) as f64 / d as f64);
        let other = |i: usize| if i < d / 2 { -x[i + d / 2] } else { x[i - d / 2] };
        (0..d).map(|i| x[i] * angle(i).cos() + other(i) * angle(i).sin()).collect()
    };
    let mut x: Vec<Vec<f64>> = ids.iter().map(|id| w(lay.embed)[*id as usize * width..][..width].to_vec()).collect();
    for l in &lay.layers {
        let heads = |m: Linear, g: Option<TensorId>, x: &[f64], pos: usize| -> Vec<Vec<f64>> {
            let normed = |v: &[f64]| g.map_or(v.to_vec(), |g| norm(v, w(g)));
            linear(&norm(x, w(l.attn_norm)), m).chunks(d).map(|v| rotate(&normed(v), pos)).collect()
        };
        let [q_norm, k_norm] = [0, 1].map(|i| l.head_norms.map(|norms| norms[i]));
        let q: Vec<_> = x.iter().enumerate().map(|(t, x)| heads(l.q, q_norm, x, t)).collect();
        let k: Vec<_> = x.iter().enumerate().map(|(t, x)| heads(l.k, k_norm, x, t)).collect();
        let v: Vec<_> = x.iter().map(|x| linear(&norm(x, w(l.attn_norm)), l.v)).collect();
        for t in 0..x.len() {
            let mut o = vec![0.0; h * d];
            for head in 0..h {
                let kv = head / (h / hk);
                let score = |j: usize| -> f64 {
                    let dot: f64 = q[t][head].iter().zip(&k[j][kv]).map(|(a, b)| a * b).sum();
                    (dot / (d as f64).sqrt()).exp()
                };
                let sum: f64 = (0..=t).map(score).sum();
                for j in 0..=t {
                    (0..d).for_each(|i| o[head * d + i] += score(j) / sum * v[j][kv * d + i]);
                }
            }
            x[t].iter_mut().zip(linear(&o, l.o)).for_each(|(x, y)| *x += y);
            let n = norm(&x[t], w(l.mlp_norm));
            let Mlp::Dense { gate, up, down } = l.mlp else { panic!("the experts' own tests") };
            let gate = linear(&n, gate);
            let s: Vec<f64> = gate.iter().zip(linear(&n, up)).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            assert_eq!(s.len(), f);
            x[t].iter_mut().zip(linear(&s, down)).for_each(|(x, y)| *x += y);
        }
    }
    let row = |t: usize| {
        let z: Vec<f64> = product(&norm(&x[t], w(lay.norm)), w(lay.head)).iter().map(|z| z * INV_TEMPERATURE).collect();
        let among = || z.iter().enumerate().filter(|(token, _)| may(t, *token)).map(|(_, z)| z);
        let lse = among().map(|z| z.exp()).sum::<f64>().ln();
        (z[ids[t + 1] as usize] - lse, among().map(|z| (z - lse).exp() * (lse - z)).sum())
    };
    (0..ids.len() - 1).map(row).collect()
}

/// Tokens that the last two sequences begin with.
const SHARED: usize = 10;

struct Case {
    dev: Device,
    w: Weights,
    sequences: Vec<Vec<i32>>,
    /// Coefficients of logprob and entropy of each target.
    coefficients: Vec<(f32, f32)>,
    /// Some targets are scored among those of a mask.
    masked: bool,
}

impl Case {
    fn new(family: Family, tied: bool) -> Case {
        let dev = Device::open("cpu", 2).unwrap();
        let mut c = ModelConfig::tiny(31);
        (c.hidden_size, c.num_hidden_layers, c.head_dim, c.intermediate_size) = (24, 2, 6, 20);
        (c.family, c.tie_word_embeddings) = (family, tied);
        let mut w = Weights::init(&dev, c, 9).unwrap();
        // Norms other than one, biases other than zero and matrices large enough that every part of the model matters.
        let noise = Noise::new(1, 1);
        let mut data = dev.to_vec::<f32>(w.data());
        for spec in &w.layout.specs {
            for i in spec.range() {
                data[i] = if spec.decay { data[i] * 8.0 } else { 0.5 + noise.uniform(i as u64) };
            }
        }
        dev.write(w.data_mut(), &data);
        let mut sequences: Vec<Vec<i32>> =
            [2, 9, 35, 22].iter().map(|n| (0..*n).map(|i| noise.below(1000 * n + i, 31) as i32).collect()).collect();
        let prompt = sequences[2][..SHARED].to_vec();
        sequences[3][..SHARED].copy_from_slice(&prompt);
        let coefficient = |i: u64| (noise.normal(i) as f32, noise.normal(i + 500) as f32);
        Case { dev, w, sequences, coefficients: (0..60).map(coefficient).collect(), masked: false }
    }

    /// Whether target `at`, which is `target`, is scored among tokens of which `token` is one.
    fn may(&self, at: usize, target: i32, token: usize) -> bool {
        !self.masked || at.is_multiple_of(3) || token == target as usize || (5 * token + at % 4) % 7 < 2
    }

    /// Loss and flat gradient as the model computes them; the second half of each sequence carries loss. The last one
    /// stands on the first rows of the one before it.
    fn computed(&self) -> (f64, Vec<f32>) {
        let (dev, c) = (&self.dev, &self.w.config);
        let mut packing = Packing::default();
        let (last, others) = self.sequences.split_last().unwrap();
        others.iter().for_each(|s| packing.push(s, |i| i >= s.len() / 2));
        packing.push_on_stem(SHARED, last, |i| i >= last.len() / 2);
        let (n, m) = (packing.ids.len(), packing.targets.len());
        for (at, target) in packing.targets.clone().into_iter().enumerate().filter(|(at, _)| self.masked && at % 3 > 0)
        {
            let bit = |token: usize| i32::from(self.may(at, target, token)) << token;
            packing.score_among(at, &[(0..c.vocab_size).map(bit).sum()].into());
        }
        let mut batch = PackedBatch::new(dev, c, n + 5, m + 2).unwrap().with_masks(&mut Plan::on(dev)).unwrap();
        batch.set(dev, &packing).unwrap();
        let mut acts = Activations::new(dev, c, n + 9, m + 4, Use::Train).unwrap();
        let (dl, dh): (Vec<f32>, Vec<f32>) = self.coefficients[..m].iter().copied().unzip();
        let (dlogprob, dentropy) = (dev.upload(&dl).unwrap(), dev.upload(&dh).unwrap());
        let (mut dw, t) = (self.w.zeros_like(dev).unwrap(), INV_TEMPERATURE as f32);
        // Twice, into the same gradient: it must add up, and leave nothing behind in between.
        for _ in 0..2 {
            forward(dev, &self.w, &batch, &mut acts, t).unwrap();
            backward(dev, &self.w, &batch, &mut acts, dlogprob.view(), dentropy.view(), &mut dw, t).unwrap();
        }
        let (l, h) = (dev.to_vec::<f32>(acts.logprob()), dev.to_vec::<f32>(acts.entropy()));
        let loss = (0..m).map(|i| dl[i] as f64 * l[i] as f64 + dh[i] as f64 * h[i] as f64).sum();
        (loss, dev.to_vec::<f32>(dw.view()).iter().map(|g| g / 2.0).collect())
    }

    fn loss_f64(&self, p: &[f64]) -> f64 {
        let (mut at, mut loss) = (0, 0.0);
        for s in &self.sequences {
            let first = (s.len() / 2).max(1) - 1;
            let may = |t: usize, token| t < first || self.may(at + t - first, s[t + 1], token);
            let rows = model_f64(&self.w.config, &self.w.layout, p, s, &may);
            for ((logprob, entropy), (a, b)) in rows[first..].iter().zip(&self.coefficients[at..]) {
                loss += *a as f64 * logprob + *b as f64 * entropy;
            }
            at += rows.len() - first;
        }
        loss
    }
}

fn gradients_equal_central_differences(family: Family, tied: bool, masked: bool) {
    let case = Case { masked, ..Case::new(family, tied) };
    let p: Vec<f64> = case.dev.to_vec::<f32>(case.w.data()).iter().map(|x| *x as f64).collect();
    let (loss, grad) = case.computed();
    assert!((loss / case.loss_f64(&p) - 1.0).abs() < 1e-5, "loss {loss}, in f64 {}", case.loss_f64(&p));
    let mut worst = (0.0, String::new());
    for (at, spec) in case.w.layout.specs.iter().enumerate() {
        let g: Vec<f64> = grad[spec.range()].iter().map(|x| *x as f64).collect();
        let size = g.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(size > 1e-3, "{}: the gradient {size:e} is too small to test", spec.name);
        let random = |k: u64| (0..g.len()).map(|i| Noise::new(k, at as u64).normal(i as u64)).collect::<Vec<f64>>();
        for direction in [g.clone(), random(1), random(2)] {
            let unit = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
            let step = |h: f64| {
                let mut p = p.clone();
                p[spec.range()].iter_mut().zip(&direction).for_each(|(p, u)| *p += h * u / unit);
                case.loss_f64(&p)
            };
            let h = 1e-5;
            let want = (step(h) - step(-h)) / (2.0 * h);
            let got: f64 = g.iter().zip(&direction).map(|(g, u)| g * u / unit).sum();
            let error = (got - want).abs() / size;
            if error > worst.0 || error.is_nan() {
                worst = (error, format!("{}: got {got}, want {want}", spec.name));
            }
        }
    }
    println!(
        "{family:?}, tied {tied}, masked {masked}: worst error {:.2e} of the gradient's size; {}",
        worst.0, worst.1
    );
    assert!(worst.0 < TOLERANCE, "{:e}: {}", worst.0, worst.1);
}

#[test]
fn gradients_equal_central_differences_tied() {
    gradients_equal_central_differences(Family::Qwen3, true, false);
}

#[test]
fn gradients_equal_central_differences_untied() {
    gradients_equal_central_differences(Family::Qwen3, false, false);
}

#[test]
fn gradients_of_a_family_without_head_norms_equal_central_differences() {
    gradients_equal_central_differences(Family::Llama, true, false);
}

#[test]
fn gradients_of_biases_equal_central_differences() {
    gradients_equal_central_differences(Family::Qwen2, false, false);
}

#[test]
fn gradients_under_masks_equal_central_differences() {
    gradients_equal_central_differences(Family::Qwen3, true, true);
    gradients_equal_central_differences(Family::Llama, false, true);
}
