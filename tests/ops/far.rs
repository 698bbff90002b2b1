//! Kernels at the far end of tensors of more than 2^31 elements: an offset that is 32 bits wide on its way would read or
//! write elsewhere. Such a tensor is mapped and never filled, and the emulator runs the last blocks of the launch alone;
//! what they write must be what the same kernel writes for these rows in a small tensor.
//!
//! Not here: policy_loss, of which one block walks a batch's tokens from the first to the last.

use crate::support::*;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{Buffer, DType, Device, Element, View, ViewMut};
use haggle::noise::Noise;
use haggle::ops::attn::*;
use haggle::ops::attn_step::attn_step;
use haggle::ops::credit::{GroupAdvantage, group_advantage, shapley_max, shapley_table};
use haggle::ops::embed::{copy, embed_bwd, embed_fwd, embed_order_len, fill};
use haggle::ops::gemm::*;
use haggle::ops::gemm_fused::{Normed, Projection, gemm_qkv, gemm_swiglu};
use haggle::ops::gemm_grouped::{gemm_grouped_nn, gemm_grouped_nt, gemm_grouped_tn};
use haggle::ops::logprob::{linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use haggle::ops::moe::*;
use haggle::ops::noise::noise_bits;
use haggle::ops::norm::{rmsnorm_bwd, rmsnorm_fwd, rmsnorm_parts_len};
use haggle::ops::optim::{AdamW, GRAD_NORM_PARTS, adamw_step, grad_norm};
use haggle::ops::qk_rope::{NewRows, Turn};
use haggle::ops::rope::{self, rope_fwd};
use haggle::ops::sample::{Rows, Sampling, sample};
use haggle::ops::swiglu::{swiglu_bwd, swiglu_fwd};
use half::bf16;
use std::sync::Arc;

/// Elements beyond which an i32 offset has wrapped.
const FAR: usize = 1 << 31;

/// The emulator, the last `n` blocks of each launch.
fn far(n: u64) -> Device {
    far_with(n, false)
}

/// The same, with Hopper's kernels or without.
fn far_with(n: u64, hopper: bool) -> Device {
    Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, 0).unwrap().last_blocks(n).with_hopper(hopper))))
}

fn near() -> Device {
    Device::open("emu", 2).unwrap()
}

/// `len` elements, the last of which are `end`; the others are zero, and no memory until someone touches them.
fn ending<T: Element>(dev: &Device, len: usize, end: &[T]) -> Buffer {
    let mut buffer = dev.zeros(T::DTYPE, len).unwrap();
    dev.write(buffer.at_mut(len - end.len()..len), end);
    buffer
}

/// The last `n` elements.
fn end<T: Element>(dev: &Device, buffer: &Buffer, n: usize) -> Vec<T> {
    assert!(buffer.guard_intact());
    dev.to_vec(buffer.at(buffer.len() - n..buffer.len()))
}

/// Runs `op` on the last `rows` rows far out (of `n` rows, of which the last blocks run) and alone; both must end alike.
/// `op` gets the device and the rows before these; it returns what it wrote for them.
#[track_caller]
fn same_far_and_near<T: Element + PartialEq + std::fmt::Debug>(
    blocks: u64,
    n: usize,
    op: impl Fn(&Device, usize) -> Vec<T>,
) {
    let want = op(&near(), 0);
    assert!(want.iter().any(|x| *x != want[0]), "nothing to tell apart");
    assert_eq!(op(&far(blocks), n), want);
}

/// Rows that stand before the last ones, so that `width` of them reach past [`FAR`].
fn rows_before(width: usize) -> usize {
    FAR / width + 3
}

#[test]
fn rmsnorm() {
    let (c, rows) = (4096, 2);
    let (x, dy, w) = (round(&normal(rows * c, 1)), round(&normal(rows * c, 2)), round(&normal(c, 3)));
    // A block has passes of two rows of this width.
    same_far_and_near(2, rows_before(c).next_multiple_of(8), |dev, before| {
        let n = before + rows;
        let (x, w) = (ending(dev, n * c, &x), dev.upload(&w).unwrap());
        let (mut y, mut rstd) = (dev.zeros(DType::Bf16, n * c).unwrap(), dev.zeros(DType::F32, n).unwrap());
        rmsnorm_fwd(dev, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-6).unwrap();
        end::<bf16>(dev, &y, rows * c)
    });
    // Of dw the last rows' sums and the last columns: the sums of all other rows stay zero.
    let (c, rows) = (1 << 15, 2);
    let (x, w) = (round(&normal(rows * c, 1)), round(&normal(c, 3)));
    let mut all = vec![bf16::ZERO; rows * c];
    // In the columns of the last block too.
    for row in 0..rows {
        all[row * c..][..64].copy_from_slice(&dy[row * 128..][..64]);
        all[(row + 1) * c - 64..(row + 1) * c].copy_from_slice(&dy[row * 128 + 64..][..64]);
    }
    let dy = all;
    // Four blocks have the last rows, every fourth each.
    same_far_and_near(4, rows_before(c).next_multiple_of(8), |dev, before| {
        let n = before + rows;
        let (x, dy, w) = (ending(dev, n * c, &x), ending(dev, n * c, &dy), dev.upload(&w).unwrap());
        let rstd = dev.upload(&vec![0.5f32; n]).unwrap();
        let (mut dx, mut dw) = (dev.zeros(DType::Bf16, n * c).unwrap(), dev.zeros(DType::F32, c).unwrap());
        let mut parts = dev.zeros(DType::F32, rmsnorm_parts_len(dev, n, c)).unwrap();
        let to = (dx.view_mut(), dw.view_mut(), parts.view_mut());
        rmsnorm_bwd(dev, dy.view(), x.view(), w.view(), rstd.view(), to.0, to.1, to.2).unwrap();
        // The last block's columns; every other row adds zeros to them.
        let dx = end::<bf16>(dev, &dx, rows * c).into_iter().map(|x| x.to_f32());
        let dw = end::<f32>(dev, &dw, 16);
        assert!(dw.iter().all(|x| *x != 0.0));
        dx.chain(dw).collect::<Vec<_>>()
    });
}

#[test]
fn rope() {
    let (h, d) = (64, 128);
    let x = round(&normal(h * d, 1));
    same_far_and_near(16, rows_before(h * d), |dev, before| {
        let n = before + 1;
        let (table, mut x) =
            (dev.upload(&rope::table(8, &rope::frequencies(d, 1e4))).unwrap(), ending(dev, n * h * d, &x));
        let positions = ending(dev, n, &[7i32]);
        rope_fwd(dev, x.view_mut(), positions.view(), table.view(), h, d).unwrap();
        end::<bf16>(dev, &x, h * d)
    });
}

#[test]
fn swiglu() {
    let len = 256;
    let [gate, up, dh] = [1, 2, 3].map(|s| round(&normal(len, s)));
    same_far_and_near(2, FAR, |dev, before| {
        let n = before + len;
        let (gate, up, mut h) = (ending(dev, n, &gate), ending(dev, n, &up), dev.zeros(DType::Bf16, n).unwrap());
        swiglu_fwd(dev, gate.view(), up.view(), h.view_mut()).unwrap();
        end::<bf16>(dev, &h, len)
    });
    same_far_and_near(2, FAR, |dev, before| {
        let n = before + len;
        let [gate, up, dh] = [&gate, &up, &dh].map(|x| ending(dev, n, x));
        let (mut dgate, mut dup) = (dev.zeros(DType::Bf16, n).unwrap(), dev.zeros(DType::Bf16, n).unwrap());
        swiglu_bwd(dev, dh.view(), gate.view(), up.view(), dgate.view_mut(), dup.view_mut()).unwrap();
        [end::<bf16>(dev, &dgate, len), end::<bf16>(dev, &dup, len)].concat()
    });
}

#[test]
fn embed() {
    let c = 4096;
    let (row, dx) = (round(&normal(c, 1)), normal(c, 2));
    same_far_and_near(u64::MAX, rows_before(c), |dev, before| {
        let (table, ids) = (ending(dev, (before + 1) * c, &row), dev.upload(&[before as i32]).unwrap());
        let mut x = dev.zeros(DType::Bf16, c).unwrap();
        embed_fwd(dev, ids.view(), table.view(), x.view_mut(), c).unwrap();
        end::<bf16>(dev, &x, c)
    });
    same_far_and_near(u64::MAX, rows_before(c), |dev, before| {
        let (mut table, ids) =
            (dev.zeros(DType::F32, (before + 1) * c).unwrap(), dev.upload(&[before as i32]).unwrap());
        let mut order = dev.zeros(DType::I32, embed_order_len(dev, 1)).unwrap();
        embed_bwd(dev, ids.view(), dev.upload(&dx).unwrap().view(), table.view_mut(), order.view_mut(), c).unwrap();
        end::<f32>(dev, &table, c)
    });
}

#[test]
fn fill_and_copy() {
    let x = round(&normal(100, 1));
    same_far_and_near(1, FAR, |dev, before| {
        let (x, mut y) = (ending(dev, before + 100, &x), dev.zeros(DType::Bf16, before + 100).unwrap());
        copy(dev, x.view(), y.view_mut()).unwrap();
        end::<bf16>(dev, &y, 100)
    });
    same_far_and_near(1, FAR, |dev, before| {
        let mut x = dev.zeros(DType::Bf16, before + 100).unwrap();
        let before_end = before + 50;
        fill(dev, x.at_mut(0..before_end), 3.0).unwrap();
        end::<bf16>(dev, &x, 100)
    });
}

/// A sum over all of a gradient: the last of its 1024 parts, whose numbers' squares add up without rounding.
#[test]
fn grad_norm_of_a_far_part() {
    let g: Vec<f32> = (0..300).map(|i| (i % 17) as f32).collect();
    let norm = |dev: &Device, before: usize| {
        let (g, mut out) = (ending(dev, before + g.len(), &g), dev.zeros(DType::F32, 1).unwrap());
        let mut parts = dev.zeros(DType::U64, GRAD_NORM_PARTS).unwrap();
        grad_norm(dev, g.view(), out.view_mut(), parts.view_mut()).unwrap();
        end::<f32>(dev, &out, 1)[0]
    };
    let want: f32 = g.iter().map(|x| x * x).sum();
    assert!(want > 0.0);
    assert_eq!((norm(&near(), 0), norm(&far(1), FAR)), (want, want));
}

/// The head of a vocabulary whose weights, and their gradient, lie far out in its last tokens: the taken ones. Every other
/// token has weight zero, and the logits are large: exp of the distance is 0 there.
#[test]
fn linear_logprob_of_far_tokens() {
    let (n, c, tokens) = (3, 2048, 64);
    let x = round(&normal(n * c, 1).iter().map(|x| x.abs()).collect::<Vec<_>>());
    let w = round(&normal(tokens * c, 2).iter().map(|w| 0.5 + w / 8.0).collect::<Vec<_>>());
    for hopper in [false, true] {
        let run = |dev: &Device, before: usize| {
            let v = before + tokens;
            let (x, w) = (dev.upload(&x).unwrap(), ending(dev, v * c, &w));
            let target = dev.upload(&[0, 40, 63].map(|t| (before + t) as i32)).unwrap();
            let [mut lp, mut lse, mut h] = [(); 3].map(|_| dev.zeros(DType::F32, n).unwrap());
            let mut work = dev.zeros(DType::F32, linear_logprob_workspace(dev, v, c, DType::Bf16)).unwrap();
            let (x, w, t) = (x.view(), w.view(), target.view());
            let out = (lp.view_mut(), lse.view_mut(), h.view_mut());
            linear_logprob_fwd(dev, x, w, t, out.0, out.1, out.2, work.view_mut(), c, 1.0).unwrap();
            let [d_lp, d_h] = [4, 5].map(|s| dev.upload(&normal(n, s)).unwrap());
            let (mut dx, mut dw) = (dev.zeros(DType::Bf16, n * c).unwrap(), dev.zeros(DType::F32, v * c).unwrap());
            let mut space = dev.zeros(DType::F32, linear_logprob_workspace(dev, v, c, DType::Bf16)).unwrap();
            let (d_lp, d_h, to) = (d_lp.view(), d_h.view(), (dx.view_mut(), dw.view_mut()));
            let given = (lse.view(), h.view());
            linear_logprob_bwd(dev, d_lp, d_h, x, w, t, given.0, given.1, to.0, to.1, space.view_mut(), c, 1.0)
                .unwrap();
            let sums = [&lp, &lse, &h].map(|b| end::<f32>(dev, b, n)).concat();
            assert!(sums[n..2 * n].iter().all(|lse| *lse > 200.0), "{sums:?}");
            // The columns of the last blocks.
            let dx = end::<bf16>(dev, &dx, 8).into_iter().map(|x| x.to_f32());
            sums.into_iter().chain(dx).chain(end::<f32>(dev, &dw, 8)).collect::<Vec<_>>()
        };
        let want = run(&near(), 0);
        // Whole blocks of tokens before; the last blocks of a launch have all far tokens, eight of them at least.
        let (before, blocks) = (rows_before(c).next_multiple_of(8 * 2048), if hopper { 1 } else { 8 });
        assert_eq!(run(&far_with(blocks, hopper), before), want, "Hopper's: {hopper}");
    }
}

type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> haggle::Result<()>;

/// A product whose last rows of A (and of C) lie far out.
#[track_caller]
fn far_rows(gemm: Gemm, n: usize, k: usize, width: usize, hopper: bool) {
    let rows = 128;
    let (a, b) = (round(&normal(rows * k, 1)), round(&normal(n * k, 2)));
    let run = |dev: &Device, before: usize| {
        let m = before + rows;
        let (a, b, mut c) = (ending(dev, m * k, &a), dev.upload(&b).unwrap(), dev.zeros(DType::Bf16, m * n).unwrap());
        gemm(dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set).unwrap();
        // The last tile of the last blocks: 16 rows of 8 columns are in it, whatever its size.
        let last: Vec<bf16> = end(dev, &c, 16 * n);
        last.chunks(n).flat_map(|row| row[n - 8..].to_vec()).collect::<Vec<_>>()
    };
    let want = run(&near(), 0);
    assert!(want.iter().any(|x| *x != want[0]), "nothing to tell apart");
    assert_eq!(run(&far_with(4, hopper), rows_before(width).next_multiple_of(rows)), want, "Hopper's: {hopper}");
}

#[test]
fn gemm_with_far_rows() {
    let nt: Gemm = |dev, a, b, c, m, n, k, store| gemm_nt(dev, a, b, c, m, n, k, store);
    for gemm in [nt, gemm_nn] {
        // Far in A; far in C.
        far_rows(gemm, 8, 1 << 16, 1 << 16, false);
        far_rows(gemm, 1 << 16, 16, 1 << 16, false);
        far_rows(gemm, 1 << 16, 16, 1 << 16, true);
    }
}

#[test]
fn gemm_with_far_weights_and_far_steps() {
    // gemm_nt, B [N, K] far; the last columns of C.
    let (k, n_last) = (1 << 16, 128);
    let (a, b) = (round(&normal(16 * k, 1)), round(&normal(n_last * k, 2)));
    same_far_and_near(4, rows_before(k).next_multiple_of(128), |dev, before| {
        let n = before + n_last;
        let (a, b, mut c) = (dev.upload(&a).unwrap(), ending(dev, n * k, &b), dev.zeros(DType::Bf16, 16 * n).unwrap());
        gemm_nt(dev, a.view(), b.view(), c.view_mut(), 16, n, k, Store::Set).unwrap();
        end::<bf16>(dev, &c, 8)
    });
    // gemm_tn, A [K, M] far in its last steps, K tokens.
    let (m, rows) = (1 << 16, 2);
    let (a, b) = (round(&normal(rows * m, 1)), round(&normal(rows * 8, 2)));
    same_far_and_near(1, rows_before(m), |dev, before| {
        let k = before + rows;
        let (a, b, mut c) = (ending(dev, k * m, &a), ending(dev, k * 8, &b), dev.zeros(DType::F32, m * 8).unwrap());
        gemm_tn(dev, a.view(), b.view(), c.view_mut(), m, 8, k, Store::Set).unwrap();
        end::<f32>(dev, &c, 16 * 8)
    });
}

/// The last head of the last sequence of a packed batch, forward and backward, alone or behind `before` tokens.
#[test]
fn attn_packed() {
    let (len, heads) = (5, Heads { q: 256, kv: 256, dim: 128, scale: 0.1 });
    let row = heads.q * heads.dim;
    let [q, k, v, d_o] = [1, 2, 3, 4].map(|s| round(&normal(len * row, s)));
    same_far_and_near(4, rows_before(row), |dev, before| {
        let n = before + len;
        let cu = if before == 0 { vec![0, n as i32] } else { vec![0, before as i32, n as i32] };
        let (cu, [q, k, v, d_o]) = (dev.upload(&cu).unwrap(), [&q, &k, &v, &d_o].map(|x| ending(dev, n * row, x)));
        let (mut o, mut lse) = (dev.zeros(DType::Bf16, n * row).unwrap(), dev.zeros(DType::F32, n * heads.q).unwrap());
        attn_fwd(dev, q.view(), k.view(), v.view(), Packed::apart(cu.view()), o.view_mut(), lse.view_mut(), heads)
            .unwrap();
        let mut d = [DType::Bf16; 3].map(|t| dev.zeros(t, n * row).unwrap());
        let [dq, dk, dv] = &mut d;
        let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        let (q, k, v) = (q.view(), k.view(), v.view());
        attn_bwd(dev, d_o.view(), q, k, v, o.view(), lse.view(), Packed::apart(cu.view()), dq, dk, dv, heads).unwrap();
        let last_head = |x: &Buffer| -> Vec<bf16> {
            end::<bf16>(dev, x, len * row).chunks(row).flat_map(|r| r[row - heads.dim..].to_vec()).collect()
        };
        [&o, &d[0], &d[1], &d[2]].map(last_head).concat()
    });
}

#[test]
fn attn_on_far_pages() {
    let heads = Heads { q: 4, kv: 4, dim: 128, scale: 0.1 };
    let row = heads.q * heads.dim;
    let page = row * CHUNK;
    let [q, k, v] = [1, 2, 3].map(|s| round(&normal(2 * row, s)));
    same_far_and_near(u64::MAX, rows_before(page), |dev, before| {
        let n_pages = before + 2;
        let mut pages = [(); 2].map(|_| dev.zeros(DType::Bf16, pages_len(n_pages, heads)).unwrap());
        // One page a sequence: the last but one, copied to the last afterwards.
        let table = dev.upload(&[before as i32, before as i32]).unwrap();
        let (seq, pos) = (dev.upload(&[0, 0]).unwrap(), dev.upload(&[0, 1]).unwrap());
        let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages: 1, longest: 2 };
        let [q, k, v] = [&q, &k, &v].map(|x| dev.upload(x).unwrap());
        let mut o = dev.zeros(DType::Bf16, 2 * row).unwrap();
        let [k_pages, v_pages] = &mut pages;
        kv_append(dev, k.view(), v.view(), at, k_pages.view_mut(), v_pages.view_mut(), heads).unwrap();
        // Of one segment: no parts.
        let mut none = dev.zeros(DType::F32, 0).unwrap();
        let (k, v) = (k_pages.view(), v_pages.view());
        attn_decode(dev, q.view(), k, v, at, o.view_mut(), none.view_mut(), heads).unwrap();
        kv_copy_page(dev, k_pages.view_mut(), before, before + 1, heads).unwrap();
        [end::<bf16>(dev, &o, 2 * row), end::<bf16>(dev, k_pages, page)].concat()
    });
}

#[test]
fn sample_far_rows() {
    let v = 1 << 17;
    let logits = normal(2 * v, 1);
    same_far_and_near(2, rows_before(v), |dev, before| {
        let n = before + 2;
        let mut z = ending(dev, n * v, &logits);
        let [temperature, top_p, min_p] = [0.8f32, 1.0, 0.0].map(|x| dev.upload(&vec![x; n]).unwrap());
        let (top_k, key) = (dev.upload(&vec![0i32; n]).unwrap(), ending(dev, 2 * n, &[1u64, 2, 4, 5]));
        let pos = ending(dev, n, &[3i32, 6]);
        let how = Sampling {
            temperature: temperature.view(),
            top_k: top_k.view(),
            top_p: top_p.view(),
            min_p: min_p.view(),
            key: key.view(),
        };
        let (mut token, mut logprob) = (dev.zeros(DType::I32, n).unwrap(), dev.zeros(DType::F32, n).unwrap());
        let rows = Rows::Stay(pos.view());
        sample(dev, z.view_mut(), how, rows, token.view_mut(), logprob.view_mut(), v, v).unwrap();
        let tokens = end::<i32>(dev, &token, 2).into_iter().map(|t| t as f32);
        tokens.chain(end::<f32>(dev, &logprob, 2)).collect::<Vec<_>>()
    });
}

#[test]
fn adamw() {
    let [g, w, m, v] = [1, 2, 3, 4].map(|s| normal(300, s).iter().map(|x| x.abs()).collect::<Vec<_>>());
    let how =
        AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, step: 2, element: 0 };
    same_far_and_near(2, FAR, |dev, before| {
        let n = before + 300;
        let [g, mut w, mut m, mut v] = [&g, &w, &m, &v].map(|x| ending(dev, n, x));
        let mut narrow = dev.zeros(DType::Bf16, n).unwrap();
        let narrowed = Some(narrow.view_mut());
        adamw_step(dev, g.view(), w.view_mut(), m.view_mut(), v.view_mut(), narrowed, how).unwrap();
        let wide = [&w, &m, &v].map(|x| end::<f32>(dev, x, 256)).concat();
        wide.into_iter().chain(end::<bf16>(dev, &narrow, 256).iter().map(|x| x.to_f32())).collect()
    });
}

#[test]
fn credit_of_far_groups() {
    let g = 1 << 10;
    let rewards = normal(2 * g, 1);
    same_far_and_near(1, rows_before(g), |dev, before| {
        let n = before + 2;
        let (r, mut advantage) = (ending(dev, n * g, &rewards), dev.zeros(DType::F32, n * g).unwrap());
        let (mut constant, how) = (dev.zeros(DType::I32, n).unwrap(), GroupAdvantage { divide_by_std: true });
        group_advantage(dev, r.view(), advantage.view_mut(), constant.view_mut(), g, how).unwrap();
        end::<f32>(dev, &advantage, 2 * g)
    });
    let k = 32;
    let utility = normal(2 * k, 2);
    same_far_and_near(2, rows_before(k), |dev, before| {
        let n = before + 2;
        let (u, mut phi) = (ending(dev, n * k, &utility), dev.zeros(DType::F32, n * k).unwrap());
        shapley_max(dev, u.view(), phi.view_mut(), k).unwrap();
        end::<f32>(dev, &phi, 2 * k)
    });
    let k = 10;
    let values = normal(2 << k, 3);
    same_far_and_near(2 * k as u64, rows_before(1 << k), |dev, before| {
        let n = before + 2;
        let (v, mut phi) = (ending(dev, n << k, &values), dev.zeros(DType::F32, n * k).unwrap());
        shapley_table(dev, v.view(), phi.view_mut(), k).unwrap();
        end::<f32>(dev, &phi, 2 * k)
    });
}

#[test]
fn noise_of_far_counters() {
    let noise = Noise::new(1, 2);
    let n = FAR + 300;
    let dev = far(2);
    let mut bits = dev.zeros(DType::U64, n).unwrap();
    noise_bits(&dev, bits.view_mut(), noise, 5).unwrap();
    let want: Vec<u64> = (n - 300..n).map(|i| noise.bits(5 + i as u64)).collect();
    assert_eq!(end::<u64>(&dev, &bits, 300), want);
}

#[test]
fn experts_of_tokens() {
    let (e, rows) = (256, 8);
    let (logits, d) = (normal(rows * e, 1), normal(rows, 2));
    same_far_and_near(1, rows_before(e).next_multiple_of(8), |dev, before| {
        let n = before + rows;
        let (logits, mut probs) = (ending(dev, n * e, &logits), dev.zeros(DType::F32, n * e).unwrap());
        let (mut ids, mut gates) = (dev.zeros(DType::I32, n).unwrap(), dev.zeros(DType::F32, n).unwrap());
        route_topk_fwd(dev, logits.view(), probs.view_mut(), ids.view_mut(), gates.view_mut(), [e, 1], false).unwrap();
        let (d, counts, mut dlogits) = (ending(dev, n, &d), dev.upload(&vec![3i32; e]).unwrap(), logits);
        let to = dlogits.view_mut();
        route_topk_bwd(dev, d.view(), probs.view(), ids.view(), gates.view(), to, [e, 1], false).unwrap();
        // So much that what it adds is seen, however many tokens there are.
        route_balance_bwd(dev, probs.view(), counts.view(), dlogits.view_mut(), (n * n) as f32).unwrap();
        [end::<f32>(dev, &probs, rows * e), end(dev, &dlogits, rows * e)].concat()
    });
}

#[test]
fn rows_of_experts() {
    let (c, rows) = (4096, 8);
    let [x, out, y] = [1, 2, 3].map(|s| round(&normal(rows * c, s)));
    let gates = normal(rows, 4);
    same_far_and_near(8, rows_before(c).next_multiple_of(8), |dev, before| {
        // One expert a token: every row stands where it stood.
        let n = before + rows;
        let at = dev.upload(&(0..n as i32).collect::<Vec<_>>()).unwrap();
        let (x, gates) = (ending(dev, n * c, &x), ending(dev, n, &gates));
        let mut rows_of = dev.zeros(DType::Bf16, n * c).unwrap();
        moe_gather_fwd(dev, x.view(), [at.view(), at.view()], rows_of.view_mut(), c).unwrap();
        let mut all = end::<bf16>(dev, &rows_of, rows * c);
        let mut dx = ending(dev, n * c, &y);
        moe_gather_bwd(dev, rows_of.view(), at.view(), dx.view_mut(), c, Store::Add).unwrap();
        all.extend(end::<bf16>(dev, &dx, rows * c));
        let (out, mut y) = (ending(dev, n * c, &out), dx);
        moe_combine_fwd(dev, out.view(), gates.view(), at.view(), y.view_mut(), c).unwrap();
        all.extend(end::<bf16>(dev, &y, rows * c));
        let (mut dout, mut dgates) = (rows_of, dev.zeros(DType::F32, n).unwrap());
        let at = [at.view(), at.view()];
        moe_combine_bwd(dev, x.view(), out.view(), gates.view(), at, dout.view_mut(), dgates.view_mut(), c).unwrap();
        all.extend(end::<bf16>(dev, &dout, rows * c));
        all.extend(round(&end::<f32>(dev, &dgates, rows)));
        all
    });
}

#[test]
fn grouped_products() {
    // Many experts, of which the last has the only rows.
    let (n, k, rows) = (64, 4096, 2);
    let (a, b) = (round(&normal(rows * k, 1)), round(&normal(n * k, 2)));
    let last = |before: usize, rows: usize| [vec![0i32; before + 1], vec![rows as i32]].concat();
    same_far_and_near(4, rows_before(n * k), |dev, before| {
        let (a, b) = (dev.upload(&a).unwrap(), ending(dev, (before + 1) * n * k, &b));
        let (at, mut c) = (dev.upload(&last(before, rows)).unwrap(), dev.zeros(DType::Bf16, rows * n).unwrap());
        gemm_grouped_nt(dev, a.view(), b.view(), c.view_mut(), at.view(), n, k, Store::Set).unwrap();
        let mut all = end::<bf16>(dev, &c, rows * n);
        gemm_grouped_nn(dev, a.view(), b.view(), c.view_mut(), at.view(), n, k, Store::Set).unwrap();
        all.extend(end::<bf16>(dev, &c, rows * n));
        all
    });
    let (a, b) = (round(&normal(rows * n, 3)), round(&normal(rows * n, 4)));
    same_far_and_near(1, rows_before(n * n), |dev, before| {
        let (a, b) = (dev.upload(&a).unwrap(), dev.upload(&b).unwrap());
        let (at, mut c) =
            (dev.upload(&last(before, rows)).unwrap(), dev.zeros(DType::F32, (before + 1) * n * n).unwrap());
        gemm_grouped_tn(dev, a.view(), b.view(), c.view_mut(), at.view(), n, n, Store::Set).unwrap();
        end::<f32>(dev, &c, n * n)
    });
    // Many rows, of which the last expert has the last; behind their tile one that is none.
    let (a, b) = (round(&normal(rows * k, 5)), round(&normal(2 * n * k, 6)));
    same_far_and_near(2, rows_before(k).next_multiple_of(128), |dev, before| {
        let r = before + rows;
        let (a, b) = (ending(dev, r * k, &a), dev.upload(&b).unwrap());
        let at = dev.upload(&[0, before as i32, r as i32]).unwrap();
        let mut c = dev.zeros(DType::Bf16, r * n).unwrap();
        gemm_grouped_nt(dev, a.view(), b.view(), c.view_mut(), at.view(), n, k, Store::Set).unwrap();
        end::<bf16>(dev, &c, rows * n)
    });
}

/// The last 8 columns of a product's output `[M, N]`, of all rows.
fn last_columns(dev: &Device, c: &Buffer, m: usize) -> Vec<bf16> {
    assert!(c.guard_intact());
    let n = c.len() / m;
    (1..=m).flat_map(|row| dev.to_vec::<bf16>(c.at(row * n - 8..row * n))).collect()
}

/// Rows to norm, of which nobody needs h.
fn normed<'a>(x: &'a Buffer, weight: &'a Buffer, h: &'a mut Buffer, rstd: &'a mut Buffer) -> Normed<'a> {
    let (h, rstd) = (h.view_mut(), rstd.view_mut());
    Normed { x: x.view(), weight: weight.view(), eps: 1e-6, h, rstd, keep: false }
}

/// Of few rows, normed on the way: weights and outputs reach as far. Of many: `fused.rs`.
#[test]
fn fused_products() {
    let (m, k, last) = (16, 16, 128);
    let [x, norm, w] = [(m * k, 1), (k, 2), (last * k, 3)].map(|(len, stream)| round(&normal(len, stream)));
    same_far_and_near(4, FAR / k, |dev, before| {
        let n = before + last;
        let (x, norm, w) = (dev.upload(&x).unwrap(), dev.upload(&norm).unwrap(), ending(dev, n * k, &w));
        let (mut h, mut rstd) = (dev.zeros(DType::Bf16, m * k).unwrap(), dev.zeros(DType::F32, m).unwrap());
        let mut q = dev.zeros(DType::Bf16, m * last).unwrap();
        let mut outs = [(); 5].map(|()| dev.zeros(DType::Bf16, m * n).unwrap());
        let [key, value, gate, up, s] = outs.each_mut().map(Buffer::view_mut);
        let few = w.at((n - last) * k..n * k);
        let parts = [(few, q.view_mut()), (w.view(), key), (w.view(), value)];
        let parts = parts.map(|(w, to)| Projection { weight: w.into(), bias: None, to });
        gemm_qkv(dev, normed(&x, &norm, &mut h, &mut rstd), parts).unwrap();
        let pair = [w.view().into(), w.view().into()];
        gemm_swiglu(dev, normed(&x, &norm, &mut h, &mut rstd), pair, [gate, up], s).unwrap();
        [last_columns(dev, &outs[1], m), last_columns(dev, &outs[4], m)].concat()
    });
}

/// One new row at `pos` behind `before` others, its pages the last of the pool: o of its last head, and what went to the pages.
fn last_step(dev: &Device, before: usize, heads: Heads, pos: usize, longest: usize) -> Vec<bf16> {
    let (n, page, own, max_pages) = (before + 1, pages_len(1, heads), pos / CHUNK + 1, longest / CHUNK);
    let first = if before > 0 { rows_before(page) } else { 0 };
    let [q, k, v] = [(heads.q, 1), (heads.kv, 2), (heads.kv, 3)].map(|(h, stream)| {
        let row = h * heads.dim;
        ending(dev, n * row, &round(&normal(row, stream)))
    });
    let mut pages = [4, 5].map(|stream| ending(dev, (first + own) * page, &round(&normal(own * page, stream))));
    let of_row = (0..max_pages).map(|i| (first + i.min(own - 1)) as i32);
    let pages_of = dev.upload(&vec![0; max_pages].into_iter().chain(of_row).collect::<Vec<i32>>()).unwrap();
    let (seq, at) = (ending(dev, n, &[1i32]), ending(dev, n, &[pos as i32]));
    let at = Paged { seq: seq.view(), pos: at.view(), table: pages_of.view(), max_pages, longest };
    let norm = dev.upload(&round(&normal(heads.dim, 6))).unwrap();
    let angles = dev.upload(&rope::table(pos + 1, &rope::frequencies(heads.dim, 1e4))).unwrap();
    let row = heads.q * heads.dim;
    let [mut to, mut o] = [(); 2].map(|()| dev.zeros(DType::Bf16, n * row).unwrap());
    let segments = longest.div_ceil(SEGMENT);
    let parts = if segments > 1 { TICKETS + n * heads.q * segments * (2 + heads.dim) } else { 0 };
    let mut parts = dev.zeros(DType::F32, parts).unwrap();
    let q = Turn::Normed { raw: q.view(), weight: norm.view(), rstd: None, to: to.view_mut() };
    let (k, v, k_norm) = (k.view(), v.view(), Some(norm.view()));
    let rows = NewRows { q, k, v, k_norm, at, table: angles.view(), eps: 1e-6 };
    attn_step(dev, rows, pages.each_mut().map(Buffer::view_mut), o.view_mut(), parts.view_mut(), heads).unwrap();
    assert!(parts.guard_intact());
    let last_head = CHUNK * heads.dim;
    [end(dev, &o, heads.dim), end(dev, &pages[0], last_head), end(dev, &pages[1], last_head)].concat()
}

#[test]
fn attn_step_of_a_far_row_on_far_pages() {
    let heads = Heads { q: 64, kv: 64, dim: 128, scale: 0.1 };
    same_far_and_near(1, rows_before(heads.q * heads.dim), |dev, before| last_step(dev, before, heads, 7, SEGMENT));
}

/// Two segments, whose parts lie far out among those of rows that may have 256 each.
#[test]
fn attn_step_of_far_parts() {
    let (heads, n, longest) = (Heads { q: 64, kv: 1, dim: 128, scale: 0.1 }, 1023, 256 * SEGMENT);
    assert!(n * heads.q * 256 * (2 + heads.dim) > FAR);
    // The two blocks of the last row's last head, which stand a row of blocks apart, are among these.
    same_far_and_near(n as u64 + 1, n - 1, |dev, before| last_step(dev, before, heads, 700, longest));
}
