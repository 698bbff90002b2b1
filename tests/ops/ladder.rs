//! The teaching ladders: every rung computes the op, keeps the row rule and has the bits of its chain; its counters show what
//! its idea claims; its kernel stands on the page that it names.

use crate::support::*;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::record::Kind;
use haggle::device::{Buffer, DType, Device};
use haggle::ops::attn::{self, Heads, Packed, attn_fwd};
use haggle::ops::case::{Purpose, Stage};
use haggle::ops::gemm::{self, Store, gemm_nt};
use haggle::ops::logprob::{self, linear_logprob_fwd, linear_logprob_workspace};
use haggle::profile::ladder::{Climbed, Did, Ladder, Sums, bought, climb};
use half::bf16;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A buffer of NaN, as bf16.
fn poisoned_bf16(dev: &Device, len: usize) -> Buffer {
    dev.upload(&vec![bf16::NAN; len]).unwrap()
}

#[track_caller]
fn take_bf16(dev: &Device, buffer: &Buffer) -> Vec<f32> {
    assert!(buffer.guard_intact(), "wrote behind its output");
    floats(&dev.to_vec::<bf16>(buffer.view()))
}

#[test]
fn every_rung_is_as_near_to_the_oracle_as_its_op() {
    for (name, dev) in kernel_devices() {
        let mut stage = Stage::new(&dev, DType::Bf16, Purpose::Odd);
        for dims in [[1, 1, 8], [33, 65, 136], [64, 64, 64], [130, 260, 72]] {
            gemm::cases::climb(&mut stage, dims).unwrap();
        }
        for (lens, of) in [
            (&[1][..], heads(1, 1, 64)),
            (&[33, 0, 1, 32], heads(4, 2, 64)),
            (&[97, 140], heads(4, 1, 128)),
            (&[attn::SEGMENT + 1], heads(1, 1, 64)),
        ] {
            attn::cases::climb(&mut stage, lens, of).unwrap();
        }
        for (dims, inv) in [([1, 2049, 8], 1.0), ([70, 4100, 24], 0.7)] {
            logprob::cases::climb(&mut stage, dims, inv).unwrap();
        }
        let wrong: Vec<_> = stage.checks.iter().filter(|check| !check.passed()).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
        let climbed: BTreeSet<&str> = stage.calls.iter().map(|call| call.stem).collect();
        let all = gemm::ladder::RUNGS.len() + attn::ladder::RUNGS.len() + logprob::ladder::RUNGS.len();
        assert!(name.starts_with("cuda") || climbed.len() == all, "{name}: {climbed:?}");
    }
}

/// The emulator has every rung.
fn emu(seed: u64) -> Device {
    Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, seed).unwrap())))
}

/// c of each rung.
fn products(dev: &Device, a: &[f32], b: &[f32], dims: [usize; 3]) -> Vec<(&'static str, Vec<f32>)> {
    let (a, b) = (dev.upload(&round(a)).unwrap(), dev.upload(&round(b)).unwrap());
    let of = |(rung, how): &(haggle::ops::ladder::Rung, gemm::ladder::How)| {
        let mut c = poisoned_bf16(dev, dims[0] * dims[1]);
        gemm::ladder::gemm_nt(gpu(dev), how, [a.view(), b.view()], c.view_mut(), dims).unwrap();
        (rung.stem, take_bf16(dev, &c))
    };
    gemm::ladder::RUNGS.iter().map(of).collect()
}

#[test]
fn a_row_of_a_product_alone_is_the_row_in_the_batch_on_every_rung() {
    let ([m, n, k], dev) = ([70, 72, 72], emu(1));
    let (a, b) = (normal(m * k, 1), normal(n * k, 2));
    let whole = products(&dev, &a, &b, [m, n, k]);
    for (from, rows) in [(0, 1), (31, 1), (69, 1), (13, 40)] {
        let part = products(&dev, &a[from * k..][..rows * k], &b, [rows, n, k]);
        for ((stem, whole), (_, part)) in whole.iter().zip(&part) {
            same(stem, &format!("rows {from}.. by {rows}"), &[rows, n], &whole[from * n..][..rows * n], part);
        }
    }
}

#[test]
fn rungs_of_one_chain_have_the_same_bits_and_those_on_tensor_cores_the_products() {
    for dims in [[70, 100, 72], [130, 264, 200]] {
        let ([m, n, k], dev) = (dims, emu(2));
        let (a, b) = (normal(m * k, 1), normal(n * k, 2));
        let rungs = products(&dev, &a, &b, dims);
        let mut c = poisoned_bf16(&dev, m * n);
        let (a, b) = (dev.upload(&round(&a)).unwrap(), dev.upload(&round(&b)).unwrap());
        gemm_nt(&dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set).unwrap();
        let product = take_bf16(&dev, &c);
        same(rungs[1].0, "as v1", &[m, n], &rungs[0].1, &rungs[1].1);
        rungs[2..].iter().for_each(|(stem, c)| same(stem, "as gemm_nt", &[m, n], &product, c));
    }
}

/// o and lse of each rung.
fn attentions(
    dev: &Device,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    lens: &[usize],
    of: Heads,
) -> Vec<(&'static str, [Vec<f32>; 2])> {
    let cu = dev.upload(&offsets(lens)).unwrap();
    let [q, k, v] = [q, k, v].map(|x| dev.upload(&round(x)).unwrap());
    let (n, longest) = (lens.iter().sum::<usize>(), *lens.iter().max().unwrap());
    let x = attn::ladder::Inputs { q: q.view(), k: k.view(), v: v.view(), cu_seqlens: cu.view(), longest };
    let run = |(rung, how): &(haggle::ops::ladder::Rung, attn::ladder::How)| {
        let (mut o, mut lse) = (poisoned_bf16(dev, q.len()), poisoned(dev, n * of.q));
        let mut scratch = poisoned(dev, attn::ladder::scratch_bytes(*how, n, longest, of) / 4);
        attn::ladder::attn_fwd(gpu(dev), *how, x, [o.view_mut(), lse.view_mut()], scratch.view_mut(), of).unwrap();
        assert!(scratch.guard_intact());
        (rung.stem, [take_bf16(dev, &o), take(dev, &lse)])
    };
    attn::ladder::RUNGS.iter().map(run).collect()
}

fn offsets(lens: &[usize]) -> Vec<i32> {
    std::iter::once(0)
        .chain(lens.iter().scan(0, |at, len| {
            *at += *len as i32;
            Some(*at)
        }))
        .collect()
}

#[test]
fn a_token_of_a_sequence_alone_is_the_token_in_the_batch_on_every_rung() {
    let (dev, of, lens) = (emu(1), heads(4, 2, 64), [40, 1, 71]);
    let n = lens.iter().sum::<usize>();
    let (wide, narrow) = (of.q * of.dim, of.kv * of.dim);
    let (q, k, v) = (normal(n * wide, 1), normal(n * narrow, 2), normal(n * narrow, 3));
    let whole = attentions(&dev, &q, &k, &v, &lens, of);
    // A whole sequence, and the beginning of one.
    for (from, rows) in [(0, 40), (40, 1), (41, 71), (41, 33)] {
        let part = |x: &[f32], width: usize| x[from * width..][..rows * width].to_vec();
        let (q, k, v) = (part(&q, wide), part(&k, narrow), part(&v, narrow));
        let alone = attentions(&dev, &q, &k, &v, &[rows], of);
        for ((stem, [o, lse]), (_, [o_alone, lse_alone])) in whole.iter().zip(&alone) {
            same(stem, &format!("o of {from}.. by {rows}"), &[rows, wide], &part(o, wide), o_alone);
            same(stem, &format!("lse of {from}.. by {rows}"), &[rows, of.q], &part(lse, of.q), lse_alone);
        }
    }
}

#[test]
fn rungs_of_attention_of_one_chain_have_the_bits_of_the_product() {
    let (dev, of, lens) = (emu(2), heads(4, 2, 64), [70, 133]);
    let n = lens.iter().sum::<usize>();
    let (wide, narrow) = (n * of.q * of.dim, n * of.kv * of.dim);
    let (q, k, v) = (normal(wide, 1), normal(narrow, 2), normal(narrow, 3));
    let rungs = attentions(&dev, &q, &k, &v, &lens, of);
    let cu = dev.upload(&offsets(&lens)).unwrap();
    // v4, v5: attn_fwd in bf16. v2, v3: attn_fwd in f32 of the same numbers, rounded at the store.
    let mut o = [poisoned_bf16(&dev, wide), poisoned(&dev, wide)];
    for (o, narrow) in o.iter_mut().zip([true, false]) {
        let up = |x: &[f32]| if narrow { dev.upload(&round(x)) } else { dev.upload(&floats(&round(x))) }.unwrap();
        let ([q, k, v], mut lse) = ([up(&q), up(&k), up(&v)], poisoned(&dev, n * of.q));
        let packed = Packed::apart(cu.view());
        attn_fwd(&dev, q.view(), k.view(), v.view(), packed, o.view_mut(), lse.view_mut(), of).unwrap();
    }
    let [product, plain] = [take_bf16(&dev, &o[0]), floats(&round(&take(&dev, &o[1])))];
    rungs[1..3].iter().for_each(|(stem, [o, _])| same(stem, "as attn_fwd in f32", &[n, of.q, of.dim], &plain, o));
    rungs[3..].iter().for_each(|(stem, [o, _])| same(stem, "as attn_fwd", &[n, of.q, of.dim], &product, o));
    same(rungs[2].0, "lse of v2", &[n, of.q], &rungs[1].1[1], &rungs[2].1[1]);
}

const C: usize = 40;
const V: usize = 4200;

/// logprob, lse, entropy `[3, N]` of each rung, at last of the op.
fn heads_of(dev: &Device, x: &[f32], w: &[f32], target: &[i32]) -> Vec<(&'static str, Vec<f32>)> {
    let n = target.len();
    let (x, w, target) = (dev.upload(&round(x)).unwrap(), dev.upload(&round(w)).unwrap(), dev.upload(target).unwrap());
    let outs = || [(); 3].map(|()| poisoned(dev, n));
    let all = |out: &[Buffer; 3]| out.iter().flat_map(|out| take(dev, out)).collect::<Vec<_>>();
    let mut found = Vec::new();
    for (rung, how) in &logprob::ladder::RUNGS {
        let (mut out, mut work) = (outs(), poisoned(dev, logprob::ladder::scratch(gpu(dev), *how, [n, V, C])));
        let views = out.each_mut().map(Buffer::view_mut);
        let inputs = [x.view(), w.view(), target.view()];
        logprob::ladder::linear_logprob_fwd(dev, *how, inputs, views, work.view_mut(), C, 0.7).unwrap();
        assert!(work.guard_intact());
        found.push((rung.stem, all(&out)));
    }
    let (mut out, mut work) = (outs(), poisoned(dev, linear_logprob_workspace(dev, V, C, DType::Bf16)));
    let [lp, lse, h] = out.each_mut().map(Buffer::view_mut);
    linear_logprob_fwd(dev, x.view(), w.view(), target.view(), lp, lse, h, work.view_mut(), C, 0.7).unwrap();
    found.push(("linear_logprob_fwd", all(&out)));
    found
}

#[test]
fn a_row_of_the_head_alone_is_the_row_in_the_batch_and_the_upper_rungs_have_the_ops_bits() {
    let (dev, n) = (emu(1), 300);
    let (x, w, target) = (normal(n * C, 1), normal(V * C, 2), indices(n, V, 3));
    let whole = heads_of(&dev, &x, &w, &target);
    let op = &whole.last().unwrap().1;
    whole[1..].iter().for_each(|(stem, out)| same(stem, "as linear_logprob_fwd", &[3, n], op, out));
    for (from, rows) in [(0, 1), (299, 1), (130, 3)] {
        let alone = heads_of(&dev, &x[from * C..][..rows * C], &w, &target[from..][..rows]);
        for ((stem, whole), (_, alone)) in whole.iter().zip(&alone) {
            let of_rows: Vec<f32> = whole.chunks(n).flat_map(|out| out[from..][..rows].to_vec()).collect();
            same(stem, &format!("rows {from}.. by {rows}"), &[3, rows], &of_rows, alone);
        }
    }
}

/// What the emulator counts of a ladder; none where the build does not count.
fn counted(name: &str, shape: &str) -> Option<(Vec<Climbed>, Vec<Sums>)> {
    if !counts(&Emu::new(0).unwrap()) {
        return None;
    }
    let ladder = Ladder::at(name, Some(shape)).unwrap();
    let climbed = climb(&emu(0), &ladder).unwrap();
    let sums = climbed.iter().map(|rung| match &rung.did {
        Did::Counted(sums) => sums.clone(),
        Did::Timed(_) => panic!("the emulator times nothing"),
    });
    let sums = sums.collect();
    Some((climbed, sums))
}

#[test]
fn each_rung_of_gemm_does_what_its_idea_claims() {
    let Some((climbed, sums)) = counted("gemm", "M=256,N=256,K=128") else { return };
    let names: Vec<&str> = climbed.iter().map(Climbed::name).collect();
    assert_eq!(
        names,
        ["v1_naive", "v2_shared", "v3_tensor", "v4_swizzled", "v5_ring", "v6_wide", "v7_wgmma", "v8_cluster"]
    );
    let [v1, v2, v3, v4, v5, v6, v7, v8] = &sums[..] else { panic!() };
    // A warp's 32 elements share 2 rows of a and 16 of b, an element of each sector a step; then 32 of each, read once a tile.
    assert_eq!(v1.counts.read_sectors, (256 * 256 / 32 * (2 + 16)) * 128);
    assert_eq!(v2.counts.read_sectors, 256 / 32 * (256 / 32) * 64 * 128 * 2 / 32);
    assert_eq!((v1.counts.mma_flops, v2.counts.mma_flops, v2.counts.conflicts()), (0, 0, 0));
    assert_eq!(v3.counts.mma_flops, 2 * 256 * 256 * 128);
    assert_eq!((v3.counts.worst_conflict, v4.counts.worst_conflict), (8, 1));
    assert!(v3.counts.conflicts() > 0 && v4.counts.conflicts() == 0, "{v3:?} {v4:?}");
    assert!(v4.counts.shared_wavefronts * 4 < v3.counts.shared_wavefronts);
    assert_eq!(v4.counts.read_sectors, v3.counts.read_sectors);
    assert!(v5.counts.flight_bytes > v4.counts.flight_bytes && v5.counts.read_sectors == v4.counts.read_sectors);
    assert!(v6.counts.read_sectors < v5.counts.read_sectors);
    assert_eq!((v7.counts.mma_flops, v7.counts.wgmma_flops), (0, 2 * 256 * 256 * 128));
    // Of 384 lines a block, two blocks together ask for 512.
    assert_eq!(v8.counts.read_sectors * 3, v7.counts.read_sectors * 2);
    assert_eq!(
        (v8.counts.wgmma_flops, v8.counts.flight_bytes),
        (v7.counts.wgmma_flops, v7.counts.flight_bytes * 2 / 3)
    );
    // Nothing but c passes through threads: a warp stages its sixteen rows by 64 stores and 16 loads of 16 bytes a thread.
    assert_eq!((v7.counts.shared_wavefronts, v7.counts.conflicts()), (2 * 8 * (64 + 16 * 4), 0));
    assert!(v7.counts.shared_wavefronts <= v6.counts.shared_wavefronts / 4, "{v6:?}");
    let bought = bought(&climbed[0], &climbed[1]);
    assert!(bought.gains[0].ends_with("x fewer bytes asked for"), "{bought:?}");
    faster(&sums, &names);
}

#[test]
fn each_rung_of_attention_does_what_its_idea_claims() {
    let Some((climbed, sums)) = counted("attn", "T=384+128,H=2") else { return };
    let [v1, v2, v3, v4, v5] = &sums[..] else { panic!() };
    assert_eq!(climbed.iter().map(|rung| rung.scratch_bytes).collect::<Vec<_>>(), [512 * 2 * 384 * 4, 0, 0, 0, 0]);
    assert!(v2.sectors() < v1.sectors());
    assert!(v3.counts.read_sectors * 20 < v2.counts.read_sectors, "{} of {}", v3.sectors(), v2.sectors());
    assert!(v3.counts.mma_flops == 0 && v4.counts.mma_flops > 0);
    assert!(
        v4.counts.shared_wavefronts * 4 < v3.counts.shared_wavefronts
            && v4.counts.read_sectors < v3.counts.read_sectors
    );
    assert!(v5.counts.mma_flops == 0 && v5.counts.wgmma_flops > 0);
    faster(&sums, &climbed.iter().map(Climbed::name).collect::<Vec<_>>());
}

#[test]
fn each_rung_of_the_head_does_what_its_idea_claims() {
    let Some((climbed, sums)) = counted("head", "N=600,V=2304,C=16") else { return };
    let [v1, v2, v3] = &sums[..] else { panic!() };
    let scratch: Vec<usize> = climbed.iter().map(|rung| rung.scratch_bytes).collect();
    assert_eq!(scratch[0], 600 * 2304 * 4);
    assert!(scratch[0] > 2 * scratch[1] && scratch[1] > 10 * scratch[2], "{scratch:?}");
    assert_eq!((v1.launches, v2.launches, v3.launches), (2, 9, 2));
    assert!(v3.sectors() * 10 < v2.sectors(), "{} of {}", v3.sectors(), v2.sectors());
}

/// On a card that is busy no rung is predicted to be slower than the one below it.
fn faster(sums: &[Sums], names: &[&str]) {
    for (pair, names) in sums.windows(2).zip(names.windows(2)) {
        assert!(pair[1].busy.us <= 1.001 * pair[0].busy.us, "{names:?}: {:?}, {:?}", pair[0].busy, pair[1].busy);
    }
}

#[test]
fn the_kernel_of_a_rung_stands_on_its_page() {
    let (dev, root) = (emu(0), std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"));
    let rungs = Ladder::NAMES.iter().flat_map(|name| Ladder::at(name, None).unwrap().rungs());
    let mut stage = Stage::new(&dev, DType::Bf16, Purpose::Few);
    dev.start_recording(1 << 10).unwrap();
    gemm::cases::climb(&mut stage, [16, 16, 64]).unwrap();
    attn::cases::climb(&mut stage, &[5], heads(2, 1, 64)).unwrap();
    logprob::cases::climb(&mut stage, [3, 2100, 16], 1.0).unwrap();
    let recording = dev.stop_recording().unwrap();
    let kernels: BTreeSet<&str> = recording.events.iter().filter(|e| e.kind == Kind::Kernel).map(|e| e.name).collect();
    for rung in rungs {
        let page = std::fs::read_to_string(root.join(rung.page)).unwrap();
        let mut own = kernels.iter().filter(|kernel| page.contains(&format!("{kernel}(")));
        assert!(own.next().is_some(), "{}: no kernel of {} was launched, of {kernels:?}", rung.stem, rung.page);
    }
}

#[test]
fn what_a_rung_does_not_take_is_refused() {
    let dev = emu(0);
    let (a, mut c) = (dev.upload(&vec![bf16::ONE; 12 * 12]).unwrap(), poisoned_bf16(&dev, 144));
    for (rung, how) in &gemm::ladder::RUNGS[2..4] {
        let refusal = gemm::ladder::gemm_nt(gpu(&dev), how, [a.view(), a.view()], c.view_mut(), [12; 3]);
        refused(refusal, "lab_gemm", "whole vectors");
        let short = gemm::ladder::gemm_nt(gpu(&dev), how, [a.view(), a.view()], c.view_mut(), [12, 12, 16]);
        refused(short, "lab_gemm", "a [M, K]");
        assert!(rung.page.starts_with("lab/gemm/"));
    }
    let (q, cu) = (dev.upload(&[bf16::ONE; 3 * 32]).unwrap(), dev.upload(&[0, 3]).unwrap());
    let (mut o, mut lse, mut none) = (poisoned_bf16(&dev, 3 * 32), poisoned(&dev, 3), poisoned(&dev, 0));
    let x = attn::ladder::Inputs { q: q.view(), k: q.view(), v: q.view(), cu_seqlens: cu.view(), longest: 3 };
    for (_, how) in &attn::ladder::RUNGS {
        let out = [o.view_mut(), lse.view_mut()];
        let refusal = attn::ladder::attn_fwd(gpu(&dev), *how, x, out, none.view_mut(), heads(1, 1, 32));
        refused(refusal, "lab_attn", "D is 64 or 128");
    }
}
