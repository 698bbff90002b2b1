//! Attention: one set of bits, the row rule between packed and paged, refusals; medium precision. The oracle: ops_cases.

use crate::support::attn::{Case, parts};
use crate::support::*;
use haggle::device::DType;
use haggle::ops::attn::*;

/// Odd sizes, one row, one column, more heads than a walk takes, the widest head.
fn cases() -> Vec<Case> {
    vec![
        Case::new(&[1], heads(1, 1, 1)),
        Case::new(&[5], heads(3, 1, 7)),
        Case::new(&[33, 1, 32], heads(2, 2, 33)),
        Case::new(&[0, 64, 31, 0], heads(4, 2, 32)),
        Case::new(&[97, 40], heads(4, 2, 64)),
        Case::new(&[70], heads(18, 1, 48)),
        Case::new(&[45], heads(2, 1, 128)),
        Case::new(&[39], heads(2, 1, MAX_DIM)),
    ]
}

#[test]
fn attn_decode_has_the_bits_of_attn_fwd_in_any_chunking() {
    for (dev, case) in [cpu(2), kernel_device()].iter().flat_map(|dev| cases().into_iter().map(move |case| (dev, case)))
    {
        let (want, _) = case.forward(dev);
        same("attn_decode", "one token a call", &case.o_dims(), &want, &case.paged(dev, |_| 1));
        same("attn_decode", "all at once", &case.o_dims(), &want, &case.paged(dev, |_| usize::MAX / 2));
        same("attn_decode", "chunks of 13", &case.o_dims(), &want, &case.paged(dev, |_| 13));
        same("attn_decode", "mixed prefill and decode", &case.o_dims(), &want, &case.paged(dev, |i| 1 + i * 7 % 40));
    }
}

/// The kernels give the bits of the CPU, in any thread order; only lse ends in another logarithm.
#[test]
fn attn_decode_row_that_shares_pages_equals_row_alone() {
    // Eleven sequences of four pages: the first two of all are the same, the third of some, the last of none.
    let (n, max_pages, n_pages) = (11, 4, 20);
    let seqs: Vec<i32> = (0..n as i32).collect();
    let table: Vec<i32> =
        seqs.iter().flat_map(|s| [7, 2, [3, 3, 3, 8, 8, 9, 0, 1, 1, 4, 5][*s as usize], 9 + s]).collect();
    let positions = [40, 127, 96, 100, 71, 64, 63, 5, 127, 99, 98];
    for heads in [heads(4, 2, 32), heads(3, 1, 20), heads(20, 1, 16), heads(2, 2, 64)] {
        let (width, pages) = (heads.q * heads.dim, pages_len(n_pages, heads));
        let (q, k, v) = (normal(n * width, 1), normal(pages, 2), normal(pages, 3));
        let medium = medium_devices().remove(2).1;
        for (name, dev) in [("cpu", cpu(2)), ("cpu, medium", medium), ("kernels", kernel_device())] {
            let up = |x: &[f32]| match dev.factor_dtype(DType::F32) {
                DType::Bf16 => dev.upload(&round(x)).unwrap(),
                _ => dev.upload(x).unwrap(),
            };
            let (k, v, table) = (up(&k), up(&v), dev.upload(&table).unwrap());
            let decode = |rows: std::ops::Range<usize>| {
                let (seq, pos) =
                    (dev.upload(&seqs[rows.clone()]).unwrap(), dev.upload(&positions[rows.clone()]).unwrap());
                let q = dev.upload(&q[rows.start * width..rows.end * width]).unwrap();
                let longest = max_pages * CHUNK;
                let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages, longest };
                let (mut o, mut parts) = (poisoned(&dev, rows.len() * width), parts(&dev, at, heads));
                attn_decode(&dev, q.view(), k.view(), v.view(), at, o.view_mut(), parts.view_mut(), heads).unwrap();
                take(&dev, &o)
            };
            let alone: Vec<f32> = (0..n).flat_map(|row| decode(row..row + 1)).collect();
            same("attn_decode", name, &[n, heads.q, heads.dim], &alone, &decode(0..n));
            same("attn_decode", name, &[n - 2, heads.q, heads.dim], &alone[2 * width..], &decode(2..n));
        }
    }
}

#[test]
fn attn_on_kernels_equals_the_cpu() {
    for case in cases() {
        let d_o = normal(case.q.len(), 4);
        let (o, lse) = case.forward(&cpu(1));
        let (paged, d) = (case.paged(&cpu(1), |i| 1 + i % 9), case.backward(&cpu(1), &d_o, &lse));
        for (name, dev) in kernel_devices() {
            let got = case.forward(&dev);
            same("attn_fwd", &name, &case.o_dims(), &o, &got.0);
            same("attn_fwd lse", &name, &case.o_dims()[..2], &lse, &got.1);
            same("attn_decode", &name, &case.o_dims(), &paged, &case.paged(&dev, |i| 1 + i % 9));
            let got = case.backward(&dev, &d_o, &lse);
            for (i, stem) in ["attn_bwd dq", "attn_bwd dk", "attn_bwd dv"].iter().enumerate() {
                let dims = if i == 0 { case.o_dims() } else { case.kv_dims() };
                same(stem, &name, &dims, &d[i], &got[i]);
            }
        }
    }
}

#[test]
fn attn_fwd_sequence_alone_equals_sequence_in_batch() {
    let dev = cpu(2);
    let all = Case::new(&[50, 33, 97], heads(4, 2, 32));
    let (o, lse) = all.forward(&dev);
    let (cu, h, hk) = (all.cu(), 4 * 32, 2 * 32);
    for s in 0..3 {
        let (a, b) = (cu[s] as usize, cu[s + 1] as usize);
        let (q, k, v) = (all.q[a * h..b * h].to_vec(), all.k[a * hk..b * hk].to_vec(), all.v[a * hk..b * hk].to_vec());
        let one = Case { lens: vec![b - a], q, k, v, ..all };
        let (o_one, lse_one) = one.forward(&dev);
        same("attn_fwd", "alone", &one.o_dims(), &o[a * h..b * h], &o_one);
        same("attn_fwd lse", "alone", &one.o_dims()[..2], &lse[a * 4..b * 4], &lse_one);
    }
}

#[test]
fn attn_bits_depend_on_no_thread_and_no_vector_width() {
    for case in [Case::new(&[33, 70], heads(4, 2, 32)), Case::new(&[41], heads(3, 1, 20))] {
        let d_o = normal(case.q.len(), 4);
        let mut first = None;
        for (name, dev) in devices() {
            for _ in 0..2 {
                let fwd = case.forward(&dev);
                let d = case.backward(&dev, &d_o, &fwd.1);
                let got = (fwd, d, case.paged(&dev, |i| 1 + i % 9));
                let ((o, lse), d, paged) = first.get_or_insert_with(|| got.clone());
                same("attn_fwd", &name, &case.o_dims(), o, &got.0.0);
                same("attn_fwd lse", &name, &case.o_dims()[..2], lse, &got.0.1);
                same("attn_decode", &name, &case.o_dims(), paged, &got.2);
                for i in 0..3 {
                    let dims = if i == 0 { case.o_dims() } else { case.kv_dims() };
                    same("attn_bwd", &name, &dims, &d[i], &got.1[i]);
                }
            }
        }
    }
}

/// With the floors of o and lse, of gradients, at medium precision: q, k and v are bf16 already, p, ds and do are rounded.
fn medium_cases_and_floors() -> Vec<(Case, f64, f64)> {
    let case = |lens: &[usize], h| Case { is_bf16: false, ..Case::new(lens, h).in_bf16() };
    vec![
        (case(&[1], heads(1, 1, 1)), 1e-9, 8.5e-4),
        (case(&[5], heads(3, 1, 7)), 8.9e-4, 1.2e-2),
        (case(&[33, 1, 32], heads(2, 2, 33)), 7.6e-4, 3.6e-3),
        (case(&[0, 64, 31, 0, 3], heads(4, 2, 32)), 1.2e-3, 4.2e-3),
        (case(&[97, 40], heads(8, 2, 64)), 1.1e-3, 3.6e-3),
        (case(&[70], heads(18, 1, 48)), 1.2e-3, 3.9e-3),
        (case(&[45], heads(4, 1, 128)), 6.6e-4, 4.7e-3),
        (case(&[39], heads(2, 1, MAX_DIM)), 1e-3, 3.9e-3),
    ]
}

#[test]
fn attn_at_medium_precision_matches_the_oracle() {
    let (_, dev) = medium_devices().remove(3);
    for (case, floor, bwd_floor) in medium_cases_and_floors() {
        let (o, lse) = case.forward(&dev);
        let (q, k, v) = (wide(&case.q), wide(&case.k), wide(&case.v));
        let (want_o, want_lse) =
            haggle::ops::attn::oracle::attn_fwd(&q, &k, &v, Sequences::apart(&case.cu()), case.heads);
        near("attn_fwd o", &case.o_dims(), &want_o, &o, floor);
        near("attn_fwd lse", &case.o_dims()[..2], &want_lse, &lse, 2.1e-7);
        let d_o = normal(case.q.len(), 4);
        let [dq, dk, dv] = case.backward(&dev, &d_o, &lse);
        let (want_q, want_k, want_v) =
            haggle::ops::attn::oracle::attn_bwd(&wide(&d_o), &q, &k, &v, Sequences::apart(&case.cu()), case.heads);
        near("attn_bwd dv", &case.kv_dims(), &want_v, &dv, bwd_floor);
        if case.n() > 1 {
            near("attn_bwd dq", &case.o_dims(), &want_q, &dq, bwd_floor);
            near("attn_bwd dk", &case.kv_dims(), &want_k, &dk, bwd_floor);
        }
    }
}

#[test]
fn attn_at_medium_precision_has_one_set_of_bits() {
    for case in cases() {
        let d_o = normal(case.q.len(), 4);
        let mut first = None;
        for (name, dev) in medium_devices() {
            let fwd = case.forward(&dev);
            let d = case.backward(&dev, &d_o, &fwd.1);
            if case.heads.dim % 2 == 0 {
                same("attn_decode", "one token a call", &case.o_dims(), &fwd.0, &case.paged(&dev, |_| 1));
                same("attn_decode", "all at once", &case.o_dims(), &fwd.0, &case.paged(&dev, |_| 1 << 20));
                same("attn_decode", "chunks of 13", &case.o_dims(), &fwd.0, &case.paged(&dev, |_| 13));
                same("attn_decode", "mixed", &case.o_dims(), &fwd.0, &case.paged(&dev, |i| 1 + i * 7 % 40));
            }
            let (want, want_d) = first.get_or_insert_with(|| (fwd.clone(), d.clone()));
            same("attn_fwd", &name, &case.o_dims(), &want.0, &fwd.0);
            same("attn_fwd lse", &name, &case.o_dims()[..2], &want.1, &fwd.1);
            for i in 0..3 {
                same("attn_bwd", &name, &[d[i].len()], &want_d[i], &d[i]);
            }
        }
        assert_ne!(first.unwrap().0.0, case.forward(&cpu(1)).0, "factors are rounded");
    }
}

#[test]
fn pages_of_another_type_than_the_products_take_are_refused() {
    let (_, dev) = medium_devices().remove(2);
    for (dim, dtype, rule) in [(4, DType::F32, "factor_dtype"), (5, DType::Bf16, "D is even")] {
        let h = heads(1, 1, dim);
        let [mut k_pages, mut v_pages] = [(); 2].map(|_| dev.zeros(dtype, pages_len(1, h)).unwrap());
        let (x, zero, mut o) =
            (dev.upload(&vec![1f32; dim]).unwrap(), dev.upload(&[0i32]).unwrap(), poisoned(&dev, dim));
        let at = Paged { seq: zero.view(), pos: zero.view(), table: zero.view(), max_pages: 1, longest: 1 };
        let mut none = parts(&dev, at, h);
        let (k_to, v_to) = (k_pages.view_mut(), v_pages.view_mut());
        refused(kv_append(&dev, x.view(), x.view(), at, k_to, v_to, h), "kv_append", rule);
        let (k, v, o, none) = (k_pages.view(), v_pages.view(), o.view_mut(), none.view_mut());
        refused(attn_decode(&dev, x.view(), k, v, at, o, none, h), "attn_decode", rule);
    }
}

/// Cases in bf16.
fn bf16_cases() -> Vec<Case> {
    let case = |lens: &[usize], h| Case::new(lens, h).in_bf16();
    vec![
        case(&[1], heads(1, 1, 32)),
        case(&[33, 1, 32], heads(2, 2, 64)),
        case(&[0, 64, 31, 0, 65], heads(4, 2, 32)),
        case(&[97, 140], heads(4, 1, 64)),
        case(&[45, 70], heads(6, 2, 128)),
        case(&[40], heads(18, 1, 32)),
    ]
}

#[test]
fn attn_in_bf16_has_one_set_of_bits() {
    for case in bf16_cases() {
        let d_o = floats(&round(&normal(case.q.len(), 4)));
        let mut first = None;
        for (name, dev) in kernel_devices().into_iter().step_by(2) {
            if !adds_as_the_emulator(&dev) {
                first = None;
            }
            let fwd = case.forward(&dev);
            let d = case.backward(&dev, &d_o, &fwd.1);
            same("attn_decode in bf16", "one token a call", &case.o_dims(), &fwd.0, &case.paged(&dev, |_| 1));
            same("attn_decode in bf16", "all at once", &case.o_dims(), &fwd.0, &case.paged(&dev, |_| 1 << 20));
            same("attn_decode in bf16", "mixed", &case.o_dims(), &fwd.0, &case.paged(&dev, |i| 1 + i * 7 % 40));
            let (want, want_d) = first.get_or_insert_with(|| (fwd.clone(), d.clone()));
            same("attn_fwd in bf16", &name, &case.o_dims(), &want.0, &fwd.0);
            same("attn_fwd lse of bf16", &name, &case.o_dims()[..2], &want.1, &fwd.1);
            for i in 0..3 {
                same("attn_bwd in bf16", &name, &[d[i].len()], &want_d[i], &d[i]);
            }
        }
    }
}

#[test]
fn attn_in_bf16_sequence_alone_equals_sequence_in_batch() {
    let (dev, all) = (kernel_device(), Case::new(&[50, 133, 97], heads(4, 2, 32)).in_bf16());
    let d_o = floats(&round(&normal(all.q.len(), 4)));
    let ((o, lse), cu) = (all.forward(&dev), all.cu());
    let d = all.backward(&dev, &d_o, &lse);
    for s in 0..3 {
        let (a, b) = (cu[s] as usize, cu[s + 1] as usize);
        let part = |x: &[f32], width: usize| x[a * width..b * width].to_vec();
        let (q, k, v) = (part(&all.q, 128), part(&all.k, 64), part(&all.v, 64));
        let one = Case { lens: vec![b - a], heads: all.heads, q, k, v, is_bf16: true };
        let (o_one, lse_one) = one.forward(&dev);
        same("attn_fwd in bf16", "alone", &one.o_dims(), &part(&o, 128), &o_one);
        same("attn_fwd lse of bf16", "alone", &[b - a, 4], &part(&lse, 4), &lse_one);
        let d_one = one.backward(&dev, &part(&d_o, 128), &lse_one);
        for (i, width) in [128, 64, 64].into_iter().enumerate() {
            same("attn_bwd in bf16", "alone", &[b - a, width], &part(&d[i], width), &d_one[i]);
        }
    }
}

#[test]
fn attn_in_bf16_refuses_other_head_dims() {
    let case = Case::new(&[3], heads(1, 1, 48)).in_bf16();
    let (dev, cu) = (kernel_device(), [0i32, 3]);
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| case.up(&dev, x));
    let (mut o, mut lse, cu) = (case.poisoned(&dev, case.q.len()), poisoned(&dev, 3), dev.upload(&cu).unwrap());
    let (q, k, v, cu) = (q.view(), k.view(), v.view(), cu.view());
    refused(
        attn_fwd(&dev, q, k, v, Packed::apart(cu), o.view_mut(), lse.view_mut(), case.heads),
        "attn_fwd",
        "D in bf16",
    );
}

/// The kernels store vectors: an output that starts between two of them is refused before anything is written.
#[test]
fn attn_in_bf16_refuses_outputs_off_16_bytes() {
    let case = Case::new(&[3], heads(2, 2, 32)).in_bf16();
    let (dev, cu, n) = (kernel_device(), [0i32, 3], case.q.len());
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| case.up(&dev, x));
    let (q, k, v, cu) = (q.view(), k.view(), v.view(), dev.upload(&cu).unwrap());
    let room = || case.poisoned(&dev, n + 1);
    let (mut o, mut lse, seqs) = (room(), poisoned(&dev, 6), Packed::apart(cu.view()));
    refused(
        attn_fwd(&dev, q, k, v, seqs, o.at_mut(1..n + 1), lse.view_mut(), case.heads),
        "attn_fwd",
        "tensors start on 16 bytes",
    );
    for off in 0..3 {
        let mut d = [room(), room(), room()];
        let [dq, dk, dv] = d.each_mut();
        let at = |i: usize| usize::from(i == off)..n + usize::from(i == off);
        let (dq, dk, dv) = (dq.at_mut(at(0)), dk.at_mut(at(1)), dv.at_mut(at(2)));
        let done = attn_bwd(&dev, q, q, k, v, q, lse.view(), seqs, dq, dk, dv, case.heads);
        refused(done, "attn_bwd", "tensors start on 16 bytes");
    }
}

#[test]
fn attn_keys_far_apart_and_equal_keys() {
    // Scores that differ by hundreds: the new maximum shrinks everything before it to nothing. Equal keys: the mean.
    let mut case = Case::new(&[80], heads(1, 1, 4));
    case.q.fill(1.0);
    for (row, k) in case.k.chunks_mut(4).enumerate() {
        k.fill(if row < 40 { row as f32 * 50.0 } else { 0.0 });
    }
    let dev = cpu(1);
    let (o, _) = case.forward(&dev);
    let q = wide(&case.q);
    let (want, _) = haggle::ops::attn::oracle::attn_fwd(
        &q,
        &wide(&case.k),
        &wide(&case.v),
        Sequences::apart(&case.cu()),
        case.heads,
    );
    near("attn_fwd o", &case.o_dims(), &want, &o, 1e-7);
    case.k.fill(0.5);
    let (o, lse) = case.forward(&dev);
    let mean = |d: usize| case.v.iter().skip(d).step_by(4).map(|x| *x as f64).sum::<f64>() / 80.0;
    near("attn_fwd o", &[4], &(0..4).map(mean).collect::<Vec<_>>(), &o[79 * 4..], 4e-7);
    assert!((lse[79] - (1.0 + 80f32.ln())).abs() < 1e-6);
}

#[test]
fn kv_copy_page_copies_one_page() {
    let (heads, medium) = (heads(2, 1, 3), medium_devices().remove(0).1);
    let page = pages_len(1, heads);
    let start = normal(3 * page, 7);
    let mut pages = medium.upload(&round(&start)).unwrap();
    kv_copy_page(&medium, pages.view_mut(), 1, 2, heads).unwrap();
    let got = floats(&medium.to_vec(pages.view()));
    assert_eq!((&got[..2 * page], &got[2 * page..]), (&floats(&round(&start))[..2 * page], &got[page..2 * page]));
    for dev in [cpu(1), kernel_device()] {
        let mut pages = dev.upload(&start).unwrap();
        kv_copy_page(&dev, pages.view_mut(), 2, 0, heads).unwrap();
        let got = take(&dev, &pages);
        assert_eq!(got[..page], start[2 * page..]);
        assert_eq!(got[page..], start[page..]);
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (h, n) = (heads(2, 1, 4), 3);
    let (q, k, short) = (
        dev.upload(&normal(n * 8, 1)).unwrap(),
        dev.upload(&normal(n * 4, 2)).unwrap(),
        dev.upload(&normal(5, 3)).unwrap(),
    );
    let (mut o, mut lse, cu) = (poisoned(&dev, n * 8), poisoned(&dev, n * 2), dev.upload(&[0i32, 3]).unwrap());
    let (q, k, short) = (q.view(), k.view(), short.view());
    let mut fwd = |q, k, v, cu: &[i32], heads| {
        attn_fwd(&dev, q, k, v, Packed::apart(dev.upload(cu).unwrap().view()), o.view_mut(), lse.view_mut(), heads)
    };
    refused(fwd(short, k, k, &[0, 3], h), "attn_fwd", "q [N, H, D]");
    refused(fwd(q, short, k, &[0, 3], h), "attn_fwd", "k [N, Hk, D]");
    refused(fwd(q, k, short, &[0, 3], h), "attn_fwd", "v [N, Hk, D]");
    refused(fwd(q, k, k, &[0, 2], h), "attn_fwd", "ends at N");
    refused(fwd(q, k, k, &[1, 3], h), "attn_fwd", "from 0");
    refused(fwd(q, k, k, &[], h), "attn_fwd", "from 0");
    refused(fwd(q, k, k, &[0, 2, 1, 3], h), "attn_fwd", "ascends");
    refused(fwd(q, k, k, &[0, 3], Heads { kv: 0, ..h }), "attn_fwd", "Hk >= 1");
    refused(fwd(q, k, k, &[0, 3], Heads { kv: 3, ..h }), "attn_fwd", "H % Hk");
    refused(fwd(q, k, k, &[0, 3], Heads { dim: MAX_DIM + 1, ..h }), "attn_fwd", "D at most");
    assert!(take(&dev, &o).iter().all(|x| x.is_nan()), "a refused op has written");
    let (lse, mut dq, mut dk, mut dv) = (lse.view(), poisoned(&dev, 24), poisoned(&dev, 12), poisoned(&dev, 11));
    let (dq, dk) = (dq.view_mut(), dk.view_mut());
    refused(
        attn_bwd(&dev, q, q, k, k, q, lse, Packed::apart(cu.view()), dq, dk, dv.view_mut(), h),
        "attn_bwd",
        "dv [N, Hk, D]",
    );
    let (seq, pos) = (dev.upload(&[0i32; 3]).unwrap(), dev.upload(&[0i32, 1, 2]).unwrap());
    let at = Paged { seq: seq.view(), pos: pos.view(), table: seq.at(0..1), max_pages: 1, longest: CHUNK };
    let (mut pages, mut v_pages) = (poisoned(&dev, pages_len(1, h)), poisoned(&dev, pages_len(1, h)));
    let (to, v_to) = (pages.view_mut(), v_pages.view_mut());
    refused(kv_append(&dev, short, k, at, to, v_to, h), "kv_append", "k [N, Hk, D]");
    let mut none = parts(&dev, at, h);
    let mut decode = |q, at| attn_decode(&dev, q, pages.view(), v_pages.view(), at, o.view_mut(), none.view_mut(), h);
    refused(decode(short, at), "attn_decode", "q [N, H, D]");
    refused(decode(q, Paged { seq: seq.at(0..2), ..at }), "attn_decode", "seq [N]");
    let far = dev.upload(&[0i32, 1, 32]).unwrap();
    refused(decode(q, Paged { pos: far.view(), ..at }), "attn_decode", "the page of the row");
    let no_page = dev.upload(&[1i32]).unwrap();
    refused(decode(q, Paged { table: no_page.view(), ..at }), "attn_decode", "the page of the row");
}
