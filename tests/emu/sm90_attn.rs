//! Attention with Hopper's instructions against its portable twins, on the emulator: the same bits.

use crate::support::{attn, cuda, floats, gpu, heads, normal, poisoned, round, same};
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{Buffer, Device};
use haggle::ops::attn::*;
use half::bf16;
use std::sync::Arc;

/// The emulator, in its natural thread order and shuffled ones, plain and with Hopper's kernels.
fn pairs() -> [(Device, Device); 3] {
    [0, 1, 2].map(|seed| {
        let emu = |hopper| Emu::with_seed(2, seed).unwrap().with_hopper(hopper);
        let device = |hopper| Device::Gpu(Arc::new(Gpu::Emu(emu(hopper))));
        (device(false), device(true))
    })
}

/// A packed batch in bf16.
struct Case {
    lens: Vec<usize>,
    heads: Heads,
    q: Vec<bf16>,
    k: Vec<bf16>,
    v: Vec<bf16>,
    d_o: Vec<bf16>,
}

impl Case {
    fn new(lens: &[usize], heads: Heads) -> Case {
        let n: usize = lens.iter().sum();
        let (h, hk) = (n * heads.q * heads.dim, n * heads.kv * heads.dim);
        // Scores of a few units: the softmax is neither flat nor a single key.
        let q: Vec<f32> = normal(h, 1).iter().map(|x| x * 2.0).collect();
        let [q, k, v, d_o] = [q, normal(hk, 2), normal(hk, 3), normal(h, 4)].map(|x| round(&x));
        Case { lens: lens.to_vec(), heads, q, k, v, d_o }
    }

    fn n(&self) -> usize {
        self.lens.iter().sum()
    }

    fn cu(&self) -> Vec<i32> {
        let mut cu = vec![0];
        self.lens.iter().for_each(|len| cu.push(cu[cu.len() - 1] + *len as i32));
        cu
    }

    fn what(&self) -> String {
        let Heads { q, kv, dim, .. } = self.heads;
        format!("lengths {:?} H {q} Hk {kv} D {dim}", self.lens)
    }

    /// o and lse.
    fn forward(&self, dev: &Device) -> [Vec<f32>; 2] {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| dev.upload(x).unwrap());
        let cu = dev.upload(&self.cu()).unwrap();
        let (mut o, mut lse) = (nan(dev, self.q.len()), poisoned(dev, self.n() * self.heads.q));
        let to = (o.view_mut(), lse.view_mut());
        runs(dev, &["attn_fwd_sm90_"], self, || {
            attn_fwd(dev, q.view(), k.view(), v.view(), Packed::apart(cu.view()), to.0, to.1, self.heads)
        });
        assert!(o.guard_intact() && lse.guard_intact());
        [floats(&dev.to_vec(o.view())), dev.to_vec(lse.view())]
    }

    /// o by way of pages, all rows at once.
    fn paged(&self, dev: &Device) -> Vec<f32> {
        let max_pages = self.lens.iter().max().unwrap().div_ceil(CHUNK).max(1);
        let n_pages = max_pages * self.lens.len();
        let rows = self.lens.iter().enumerate().flat_map(|(s, len)| (0..*len as i32).map(move |p| (s as i32, p)));
        let (seq, pos): (Vec<i32>, Vec<i32>) = rows.unzip();
        let table: Vec<i32> = (0..n_pages as i32).rev().collect();
        let [seq, pos, table] = [&seq, &pos, &table].map(|x| dev.upload(x).unwrap());
        let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages, longest: max_pages * CHUNK };
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| dev.upload(x).unwrap());
        let [mut k_pages, mut v_pages] = [0; 2].map(|_| nan(dev, pages_len(n_pages, self.heads)));
        let mut o = nan(dev, self.q.len());
        kv_append(dev, k.view(), v.view(), at, k_pages.view_mut(), v_pages.view_mut(), self.heads).unwrap();
        let mut parts = attn::parts(dev, at, self.heads);
        let (k, v, to) = (k_pages.view(), v_pages.view(), o.view_mut());
        attn_decode(dev, q.view(), k, v, at, to, parts.view_mut(), self.heads).unwrap();
        floats(&dev.to_vec(o.view()))
    }

    /// dq, dk, dv.
    fn backward(&self, dev: &Device) -> [Vec<f32>; 3] {
        let [o, lse] = self.forward(dev);
        let [d_o, q, k, v, o] = [&self.d_o, &self.q, &self.k, &self.v, &round(&o)].map(|x| dev.upload(x).unwrap());
        let (lse, cu) = (dev.upload(&lse).unwrap(), dev.upload(&self.cu()).unwrap());
        let mut d = [&self.q, &self.k, &self.v].map(|x| nan(dev, x.len()));
        let [dq, dk, dv] = d.each_mut().map(|d| d.view_mut());
        runs(dev, &["attn_bwd_dq_sm90_", "attn_bwd_dkv_sm90_"], self, || {
            let (d_o, o, lse, cu) = (d_o.view(), o.view(), lse.view(), cu.view());
            attn_bwd(dev, d_o, q.view(), k.view(), v.view(), o, lse, Packed::apart(cu), dq, dk, dv, self.heads)
        });
        d.map(|d| {
            assert!(d.guard_intact());
            floats(&dev.to_vec(d.view()))
        })
    }

    /// The same, but for one sequence of nothing but NaN and infinities.
    fn poisoned(mut self, sequence: usize) -> Case {
        let cu = self.cu();
        let tokens = cu[sequence] as usize..cu[sequence + 1] as usize;
        let Heads { q: h, kv, dim, .. } = self.heads;
        let mut fill = |x: fn(&mut Case) -> &mut Vec<bf16>, heads: usize, with: bf16| {
            x(&mut self)[tokens.start * heads * dim..tokens.end * heads * dim].fill(with);
        };
        fill(|case| &mut case.q, h, bf16::NAN);
        fill(|case| &mut case.d_o, h, bf16::INFINITY);
        fill(|case| &mut case.k, kv, bf16::INFINITY);
        fill(|case| &mut case.v, kv, bf16::NAN);
        self
    }
}

fn nan(dev: &Device, len: usize) -> Buffer {
    dev.upload(&vec![bf16::NAN; len]).unwrap()
}

/// Runs an op; kernels of these names run where Hopper's are asked for and take the shape, else none of Hopper's does.
fn runs(dev: &Device, names: &[&str], case: &Case, op: impl FnOnce() -> haggle::Result<()>) {
    dev.start_recording(16).unwrap();
    op().unwrap();
    let kernels: Vec<_> = dev.stop_recording().unwrap().events.iter().map(|e| e.name).collect();
    let hopper = kernels.iter().filter(|name| name.contains("_sm90_")).count();
    if gpu(dev).hopper() && [64, 128].contains(&case.heads.dim) && case.n() > 0 {
        assert!(names.iter().all(|part| kernels.iter().any(|name| name.starts_with(part))), "ran {kernels:?}");
        assert_eq!(hopper, names.len(), "ran {kernels:?}");
    } else {
        assert_eq!(hopper, 0, "ran {kernels:?}");
    }
}

/// Both sides of every chunk, box and tile, packed so that a box's end holds the next sequence, also one of NaN; empty
/// sequences, an empty batch, a D that Hopper's kernels do not take; keys of 1, 2, 3, 4 heads; more boxes than the ring has;
/// both sides of a segment.
fn cases() -> Vec<Case> {
    let lens = [1, 31, 32, 33, 63, 64, 65, 0, 129];
    vec![
        Case::new(&lens, heads(1, 1, 64)),
        Case::new(&lens, heads(4, 1, 64)),
        Case::new(&lens, heads(4, 2, 128)),
        Case::new(&[0, 130, 96, 1, 0], heads(3, 1, 128)),
        Case::new(&[700], heads(1, 1, 64)),
        Case::new(&[511, 513, 512], heads(1, 1, 128)),
        Case::new(&[1025], heads(2, 1, 64)),
        Case::new(&[40, 50, 33], heads(2, 2, 64)).poisoned(1),
        Case::new(&[40, 50, 33], heads(2, 1, 128)).poisoned(1),
        Case::new(&[0], heads(2, 1, 64)),
        Case::new(&[40], heads(2, 1, 32)),
    ]
}

#[test]
fn attn_fwd_sm90_has_the_bits_of_attn_fwd_on_the_emulator() {
    for (case, (plain, hopper)) in cases().iter().flat_map(|case| pairs().map(|pair| (case, pair))) {
        let (want, got) = (case.forward(&plain), case.forward(&hopper));
        let Heads { q, dim, .. } = case.heads;
        same("attn_fwd_sm90 o", &case.what(), &[case.n(), q, dim], &want[0], &got[0]);
        same("attn_fwd_sm90 lse", &case.what(), &[case.n(), q], &want[1], &got[1]);
    }
}

#[test]
fn attn_bwd_sm90_has_the_bits_of_attn_bwd_on_the_emulator() {
    for (case, (plain, hopper)) in cases().iter().flat_map(|case| pairs().map(|pair| (case, pair))) {
        let (want, got) = (case.backward(&plain), case.backward(&hopper));
        let Heads { q, kv, dim, .. } = case.heads;
        for (i, (stem, heads)) in [("dq", q), ("dk", kv), ("dv", kv)].into_iter().enumerate() {
            same(&format!("attn_bwd_sm90 {stem}"), &case.what(), &[case.n(), heads, dim], &want[i], &got[i]);
        }
    }
}

/// What a rollout draws from is what training computes. On a GPU with `HAGGLE_SM90=1` this asks the hardware.
#[test]
fn attn_fwd_sm90_has_the_bits_of_attn_decode() {
    let devices = pairs().into_iter().map(|(_, hopper)| hopper).chain(cuda());
    for (dev, dim) in devices.flat_map(|dev| [(dev.clone(), 64), (dev, 128)]) {
        for case in [Case::new(&[1, 97, 64, 131], heads(4, 2, dim)), Case::new(&[513], heads(2, 1, dim))] {
            let (want, [o, _]) = (case.paged(&dev), case.forward(&dev));
            same("attn_fwd_sm90", &case.what(), &[case.n(), case.heads.q, dim], &want, &o);
        }
    }
}

/// Across tiles, and where a sequence has neighbours: those of its tile's end, and those of none.
#[test]
fn attn_sm90_sequence_alone_equals_sequence_in_batch() {
    let [_, _, (_, dev)] = pairs();
    let all = Case::new(&[70, 33, 130], heads(2, 1, 64));
    let ([o, lse], [dq, dk, dv], cu) = (all.forward(&dev), all.backward(&dev), all.cu());
    for s in 0..3 {
        let tokens = cu[s] as usize..cu[s + 1] as usize;
        let part = |x: &[bf16], heads: usize| x[tokens.start * heads * 64..tokens.end * heads * 64].to_vec();
        let (lens, heads) = (vec![tokens.len()], all.heads);
        let one =
            Case { lens, heads, q: part(&all.q, 2), k: part(&all.k, 1), v: part(&all.v, 1), d_o: part(&all.d_o, 2) };
        let ([o_one, lse_one], [dq_one, dk_one, dv_one]) = (one.forward(&dev), one.backward(&dev));
        let pairs = [(&o, o_one, 128), (&lse, lse_one, 2), (&dq, dq_one, 128), (&dk, dk_one, 64), (&dv, dv_one, 64)];
        for (i, (whole, one, width)) in pairs.into_iter().enumerate() {
            let want = &whole[tokens.start * width..tokens.end * width];
            same("attn_sm90", &format!("sequence {s}, tensor {i}"), &[tokens.len(), width], want, &one);
        }
    }
}
