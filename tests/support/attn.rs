//! A packed batch for the tests of attention, forward, backward and by way of pages.

use super::{floats, normal, poisoned, round, take};
use haggle::device::{Buffer, DType, Device};
use haggle::ops::attn::*;
use half::bf16;

/// A workspace for rows that live so, full of NaN but for its tickets.
pub fn parts(dev: &Device, at: Paged, heads: Heads) -> Buffer {
    parts_of(dev, attn_decode_workspace(dev, at.pos.len(), at.longest, heads))
}

/// The same of so many elements.
pub fn parts_of(dev: &Device, len: usize) -> Buffer {
    let mut parts = poisoned(dev, len);
    dev.write(parts.at_mut(0..len.min(TICKETS)), &[0f32; TICKETS][..len.min(TICKETS)]);
    parts
}

/// One packed batch: sequence lengths and heads.
pub struct Case {
    pub lens: Vec<usize>,
    pub heads: Heads,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// Tensors are stored in bf16 (lse: f32).
    pub is_bf16: bool,
}

impl Case {
    pub fn new(lens: &[usize], heads: Heads) -> Case {
        let n: usize = lens.iter().sum();
        let (h, hk) = (n * heads.q * heads.dim, n * heads.kv * heads.dim);
        // Scores of a few units: the softmax is neither flat nor a single key.
        let q = normal(h, 1).iter().map(|x| x * 2.0).collect();
        Case { lens: lens.to_vec(), heads, q, k: normal(hk, 2), v: normal(hk, 3), is_bf16: false }
    }

    /// The same case in bf16, its inputs rounded.
    pub fn in_bf16(self) -> Case {
        let rounded = |x: Vec<f32>| floats(&round(&x));
        Case { q: rounded(self.q), k: rounded(self.k), v: rounded(self.v), is_bf16: true, ..self }
    }

    pub fn up(&self, dev: &Device, x: &[f32]) -> Buffer {
        if self.is_bf16 { dev.upload(&round(x)).unwrap() } else { dev.upload(x).unwrap() }
    }

    /// A buffer of NaN.
    pub fn poisoned(&self, dev: &Device, len: usize) -> Buffer {
        if self.is_bf16 { dev.upload(&vec![bf16::NAN; len]).unwrap() } else { poisoned(dev, len) }
    }

    /// Pages of NaN.
    pub fn pages(&self, dev: &Device, n_pages: usize) -> Buffer {
        let len = pages_len(n_pages, self.heads);
        match dev.factor_dtype(if self.is_bf16 { DType::Bf16 } else { DType::F32 }) {
            DType::Bf16 => dev.upload(&vec![bf16::NAN; len]).unwrap(),
            _ => poisoned(dev, len),
        }
    }

    pub fn take(&self, dev: &Device, buffer: &Buffer) -> Vec<f32> {
        if !self.is_bf16 {
            return take(dev, buffer);
        }
        assert!(buffer.guard_intact(), "the op wrote outside its output");
        floats(&dev.to_vec(buffer.view()))
    }

    pub fn n(&self) -> usize {
        self.lens.iter().sum()
    }

    pub fn cu(&self) -> Vec<i32> {
        let mut cu = vec![0];
        self.lens.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as i32));
        cu
    }

    pub fn o_dims(&self) -> [usize; 3] {
        [self.n(), self.heads.q, self.heads.dim]
    }

    pub fn kv_dims(&self) -> [usize; 3] {
        [self.n(), self.heads.kv, self.heads.dim]
    }

    /// o and lse.
    pub fn forward(&self, dev: &Device) -> (Vec<f32>, Vec<f32>) {
        let (mut o, mut lse) = (self.poisoned(dev, self.q.len()), poisoned(dev, self.n() * self.heads.q));
        let (q, k, v, cu) =
            (self.up(dev, &self.q), self.up(dev, &self.k), self.up(dev, &self.v), dev.upload(&self.cu()).unwrap());
        let (o_to, lse_to) = (o.view_mut(), lse.view_mut());
        attn_fwd(dev, q.view(), k.view(), v.view(), Packed::apart(cu.view()), o_to, lse_to, self.heads).unwrap();
        (self.take(dev, &o), take(dev, &lse))
    }

    /// dq, dk, dv, from the lse that is given.
    pub fn backward(&self, dev: &Device, d_o: &[f32], lse: &[f32]) -> [Vec<f32>; 3] {
        let (o, _) = self.forward(dev);
        let up = |x: &[f32]| self.up(dev, x);
        let (d_o, q, k, v, o, lse) = (up(d_o), up(&self.q), up(&self.k), up(&self.v), up(&o), dev.upload(lse).unwrap());
        let cu = dev.upload(&self.cu()).unwrap();
        let mut d = [self.q.len(), self.k.len(), self.v.len()].map(|len| self.poisoned(dev, len));
        let [dq, dk, dv] = &mut d;
        attn_bwd(
            dev,
            d_o.view(),
            q.view(),
            k.view(),
            v.view(),
            o.view(),
            lse.view(),
            Packed::apart(cu.view()),
            dq.view_mut(),
            dk.view_mut(),
            dv.view_mut(),
            self.heads,
        )
        .unwrap();
        d.each_ref().map(|b| self.take(dev, b))
    }

    /// o by way of pages, rows in calls of `step(i)` positions of each sequence; pages start full of NaN and are
    /// handed out from the last to the first.
    pub fn paged(&self, dev: &Device, step: impl Fn(usize) -> usize) -> Vec<f32> {
        let max_pages = self.lens.iter().max().unwrap().div_ceil(CHUNK);
        let n_pages = max_pages * self.lens.len();
        let table: Vec<i32> = (0..n_pages as i32).rev().collect();
        let (mut k_pages, mut v_pages) = (self.pages(dev, n_pages), self.pages(dev, n_pages));
        let (cu, table) = (self.cu(), dev.upload(&table).unwrap());
        let (mut done, mut o, mut call) = (vec![0; self.lens.len()], vec![f32::NAN; self.q.len()], 0);
        while done != self.lens {
            let mut rows = Vec::new();
            for s in 0..self.lens.len() {
                let upto = self.lens[s].min(done[s] + step(call + s));
                rows.extend((done[s]..upto).map(|p| (s as i32, p as i32)));
                done[s] = upto;
            }
            let pick = |x: &[f32], width: usize| -> Vec<f32> {
                let row = |r: &(i32, i32)| &x[(cu[r.0 as usize] + r.1) as usize * width..][..width];
                rows.iter().flat_map(row).copied().collect()
            };
            let (h, hk) = (self.heads.q * self.heads.dim, self.heads.kv * self.heads.dim);
            let (q, k, v) =
                (self.up(dev, &pick(&self.q, h)), self.up(dev, &pick(&self.k, hk)), self.up(dev, &pick(&self.v, hk)));
            let seq = dev.upload(&rows.iter().map(|r| r.0).collect::<Vec<_>>()).unwrap();
            let pos = dev.upload(&rows.iter().map(|r| r.1).collect::<Vec<_>>()).unwrap();
            let longest = rows.iter().map(|row| row.1 as usize + 1).max().unwrap();
            let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages, longest };
            let (mut out, mut parts) = (self.poisoned(dev, rows.len() * h), parts(dev, at, self.heads));
            kv_append(dev, k.view(), v.view(), at, k_pages.view_mut(), v_pages.view_mut(), self.heads).unwrap();
            let (k, v, to) = (k_pages.view(), v_pages.view(), out.view_mut());
            attn_decode(dev, q.view(), k, v, at, to, parts.view_mut(), self.heads).unwrap();
            assert!(k_pages.guard_intact() && v_pages.guard_intact() && parts.guard_intact());
            for (r, out) in rows.iter().zip(self.take(dev, &out).chunks(h)) {
                o[(cu[r.0 as usize] + r.1) as usize * h..][..h].copy_from_slice(out);
            }
            call += 1;
        }
        o
    }
}
