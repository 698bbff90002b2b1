//! Sequences that share a prefix: the same bits as apart, gradients of the shared rows summed in one order.

use crate::support::*;
use haggle::device::{Buffer, Device, Precision};
use haggle::ops::attn::*;
use half::bf16;

/// Lengths of sequences, and how many rows of the last one without a prefix each begins with.
struct Family {
    lens: Vec<usize>,
    prefixes: Vec<usize>,
    heads: Heads,
    is_bf16: bool,
}

/// q, k, v and do of all positions of all sequences, apart; shared rows are equal in all that share them.
struct Inputs([Vec<f32>; 4]);

impl Family {
    /// Prefixes that end inside a chunk, at its end, inside the first one and past a tile; two stems; sequences of one own
    /// row.
    fn all(is_bf16: bool) -> Vec<Family> {
        let of = |lens: &[usize], prefixes: &[usize], q: usize, kv: usize, dim: usize| Family {
            lens: lens.into(),
            prefixes: prefixes.into(),
            heads: Heads { q, kv, dim, scale: 1.0 / (dim as f32).sqrt() },
            is_bf16,
        };
        vec![
            of(&[70, 75, 66, 1, 40], &[0, 37, 64, 0, 1], 4, 2, 32),
            of(&[101, 133, 99, 100, 100], &[0, 98, 98, 99, 31], 2, 2, 64),
            of(&[33, 34, 34, 9, 40, 40], &[0, 33, 33, 0, 9, 3], 6, 2, 32),
            // Both sides of a segment, and tiles that reach across one.
            of(&[514, 515, 513, 530], &[0, 513, 512, 500], 1, 1, 32),
        ]
    }

    fn stem(&self, s: usize) -> usize {
        (0..=s).rev().find(|s| self.prefixes[*s] == 0).unwrap()
    }

    /// Rows of a tensor of `width` a position, apart.
    fn rows(&self, seed: u64, width: usize) -> Vec<f32> {
        let mut of: Vec<Vec<f32>> = Vec::new();
        for (s, len) in self.lens.iter().enumerate() {
            let mut x = normal(len * width, seed * 100 + s as u64);
            if self.prefixes[s] > 0 {
                let shared = self.prefixes[s] * width;
                x[..shared].copy_from_slice(&of[self.stem(s)][..shared]);
            }
            of.push(x);
        }
        of.concat()
    }

    fn inputs(&self) -> Inputs {
        let (wide, narrow) = (self.heads.q * self.heads.dim, self.heads.kv * self.heads.dim);
        Inputs([self.rows(1, wide), self.rows(2, narrow), self.rows(3, narrow), self.rows(4, wide)])
    }

    /// The positions, apart, that stand in the shared batch, in its order; and for each position apart its shared row.
    fn places(&self) -> (Vec<usize>, Vec<usize>) {
        let (mut kept, mut row_of, mut start, mut starts) = (vec![], vec![], 0, vec![]);
        for (s, len) in self.lens.iter().enumerate() {
            starts.push(kept.len());
            let stem = starts[self.stem(s)];
            (0..self.prefixes[s]).for_each(|p| row_of.push(stem + p));
            for p in self.prefixes[s]..*len {
                row_of.push(kept.len());
                kept.push(start + p);
            }
            start += len;
        }
        (kept, row_of)
    }

    fn offsets(&self, shared: bool) -> (Vec<i32>, Vec<i32>) {
        let (mut cu, mut prefixes) = (vec![0], vec![]);
        for (s, len) in self.lens.iter().enumerate() {
            let prefix = if shared { self.prefixes[s] } else { 0 };
            prefixes.extend([cu[if shared { self.stem(s) } else { s }], prefix as i32]);
            cu.push(cu[s] + (len - prefix) as i32);
        }
        (cu, prefixes)
    }

    fn up(&self, dev: &Device, x: &[f32]) -> Buffer {
        match self.is_bf16 {
            true => dev.upload(&x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>()).unwrap(),
            false => dev.upload(x).unwrap(),
        }
    }

    fn down(&self, dev: &Device, x: &Buffer) -> Vec<f32> {
        assert!(x.guard_intact(), "the op wrote outside its output");
        match self.is_bf16 {
            true => dev.to_vec::<bf16>(x.view()).iter().map(|x| x.to_f32()).collect(),
            false => dev.to_vec(x.view()),
        }
    }

    /// o, lse, dq, dk, dv; the gradients from an lse that is given, or from this one.
    fn run(&self, dev: &Device, shared: bool, given: Option<&[f32]>) -> [Vec<f32>; 5] {
        let (cu, prefixes) = self.offsets(shared);
        let Inputs(inputs) = self.inputs();
        let (kept, _) = self.places();
        let positions = self.lens.iter().sum::<usize>();
        let [q, k, v, mut d_o] = inputs;
        if !shared {
            // A query of a shared row counts once: its copies have no gradient.
            let width = d_o.len() / positions;
            (0..positions).filter(|p| !kept.contains(p)).for_each(|p| d_o[p * width..(p + 1) * width].fill(0.0));
        }
        let [q, k, v, d_o] = [q, k, v, d_o].map(|x| {
            let width = x.len() / positions;
            let of = |p: &usize| x[p * width..(p + 1) * width].to_vec();
            self.up(dev, &if shared { kept.iter().flat_map(of).collect() } else { x })
        });
        let (cu, prefixes) = (dev.upload(&cu).unwrap(), dev.upload(&prefixes).unwrap());
        let packed = Packed { cu_seqlens: cu.view(), prefixes: shared.then(|| prefixes.view()) };
        let poison = |x: &Buffer| self.up(dev, &vec![f32::NAN; x.len()]);
        let (mut o, mut dq, mut dk, mut dv) = (poison(&q), poison(&q), poison(&k), poison(&v));
        let mut lse = dev.upload(&vec![f32::NAN; q.len() / self.heads.dim]).unwrap();
        let (q, k, v) = (q.view(), k.view(), v.view());
        attn_fwd(dev, q, k, v, packed, o.view_mut(), lse.view_mut(), self.heads).unwrap();
        let own = dev.to_vec::<f32>(lse.view());
        if let Some(given) = given {
            dev.write(lse.view_mut(), given);
        }
        let (d_q, d_k, d_v) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        attn_bwd(dev, d_o.view(), q, k, v, o.view(), lse.view(), packed, d_q, d_k, d_v, self.heads).unwrap();
        [self.down(dev, &o), own, self.down(dev, &dq), self.down(dev, &dk), self.down(dev, &dv)]
    }
}

/// How many numbers differ in their bits.
fn differ(a: &[f32], b: &[f32]) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count()
}

fn devices(is_bf16: bool) -> Vec<(&'static str, Device)> {
    let mut all = vec![("emu", Device::open("emu", 1).unwrap())];
    if !is_bf16 {
        all.push(("cpu", Device::open("cpu", 1).unwrap()));
        all.push(("cpu, medium", Device::open_at("cpu", 2, Precision::Medium).unwrap()));
    }
    all
}

#[test]
fn a_row_has_the_same_bits_with_a_shared_prefix_and_apart() {
    for is_bf16 in [false, true] {
        for (name, dev) in devices(is_bf16) {
            for (i, family) in Family::all(is_bf16).iter().enumerate() {
                let (kept, _) = family.places();
                let (shared, apart) = (family.run(&dev, true, None), family.run(&dev, false, None));
                // o, lse and dq are a row's own.
                for which in 0..3 {
                    let width = shared[which].len() / kept.len();
                    let want: Vec<f32> =
                        kept.iter().flat_map(|p| apart[which][p * width..(p + 1) * width].to_vec()).collect();
                    assert_eq!(differ(&shared[which], &want), 0, "{name} bf16 {is_bf16} family {i} output {which}");
                }
            }
        }
    }
}

#[test]
fn gradients_of_shared_rows_are_the_sums_of_those_apart() {
    for (is_bf16, tolerance) in [(false, 3e-6), (true, 2e-2)] {
        for (name, dev) in devices(is_bf16) {
            let tolerance = if name == "cpu, medium" { 1e-2 } else { tolerance };
            for (i, family) in Family::all(is_bf16).iter().enumerate() {
                let (kept, row_of) = family.places();
                let (shared, apart) = (family.run(&dev, true, None), family.run(&dev, false, None));
                for which in 3..5 {
                    let width = shared[which].len() / kept.len();
                    let mut want = vec![0f64; shared[which].len()];
                    for (p, row) in row_of.iter().enumerate() {
                        for d in 0..width {
                            want[row * width + d] += apart[which][p * width + d] as f64;
                        }
                    }
                    let scale = want.iter().map(|x| x * x).sum::<f64>().sqrt();
                    let off = want.iter().zip(&shared[which]).map(|(a, b)| (a - *b as f64).powi(2)).sum::<f64>().sqrt();
                    assert!(
                        off < tolerance * scale,
                        "{name} bf16 {is_bf16} family {i} output {which}: {}",
                        off / scale
                    );
                }
            }
        }
    }
}

#[test]
fn sums_over_a_family_are_the_same_on_cpu_and_emu_with_any_threads() {
    for (i, family) in Family::all(false).iter().enumerate() {
        let want = family.run(&Device::open("cpu", 1).unwrap(), true, None);
        for (name, threads) in [("cpu", 2), ("cpu", 5), ("emu", 1)] {
            let got = family.run(&Device::open(name, threads).unwrap(), true, Some(&want[1]));
            for which in [0, 2, 3, 4] {
                assert_eq!(differ(&got[which], &want[which]), 0, "{name} {threads} family {i} output {which}");
            }
        }
    }
}
