//! Ops that do several at once, gemm_qkv, gemm_swiglu, qk_rope_fwd, qk_rope_append: the bits of the ops one after another on
//! every device, the row rule, far addresses, refusals. The oracle: ops_cases.

use crate::support::attn::parts_of;
use crate::support::*;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{Buffer, DType, Device, View};
use haggle::ops::attn::{CHUNK, Heads, Paged, SEGMENT, attn_decode_workspace, pages_len};
use haggle::ops::attn_step::{self, attn_step};
use haggle::ops::case::{Purpose, Stage};
use haggle::ops::gemm::Matrix;
use haggle::ops::gemm_fused::{self, Normed, Projection, gemm_qkv, gemm_swiglu};
use haggle::ops::qk_rope::{self, NewRows, Turn, qk_rope_append, qk_rope_fwd};
use haggle::ops::rope::{frequencies, table};
use half::bf16;
use std::sync::Arc;

const EPS: f32 = 1e-6;
/// Positions.
const T: usize = 256;

/// All cases of both families, of which what must hold exactly is held: guards, and the bits of the ops one after another.
#[test]
fn every_device_has_the_bits_of_the_ops_one_after_another() {
    let hopper = Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, 3).unwrap().with_hopper(true))));
    let all = devices().into_iter().chain(medium_devices()).chain(kernel_devices());
    let (mut held, mut wrong) = (0, vec![]);
    for (name, dev) in all.chain([("emu, Hopper's kernels".into(), hopper)]) {
        let on_cpu = matches!(dev, Device::Cpu(_));
        for dtype in [DType::F32, DType::Bf16].into_iter().take(if on_cpu { 1 } else { 2 }) {
            let mut stage = Stage::new(&dev, dtype, Purpose::Odd);
            gemm_fused::cases::all(&mut stage).unwrap();
            qk_rope::cases::all(&mut stage).unwrap();
            attn_step::cases::all(&mut stage).unwrap();
            for check in stage.checks.iter().filter(|check| check.limit == 0.0) {
                held += 1;
                if !check.passed() {
                    wrong.push(format!("{name}: {check:?}"));
                }
            }
        }
    }
    assert!(held > 1000, "{held} held");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Buffers of a number type that begin `at` elements in, and what they hold.
struct Made<'a> {
    dev: &'a Device,
    dtype: DType,
    at: usize,
}

impl Made<'_> {
    fn buffer(&self, x: &[f32]) -> Buffer {
        let all = [vec![7.0; self.at], x.to_vec()].concat();
        if self.dtype == DType::Bf16 { self.dev.upload(&round(&all)).unwrap() } else { self.dev.upload(&all).unwrap() }
    }

    fn nan(&self, len: usize) -> Buffer {
        self.buffer(&vec![f32::NAN; len])
    }

    fn of<'b>(&self, buffer: &'b Buffer) -> View<'b> {
        buffer.at(self.at..buffer.len())
    }

    fn floats(&self, buffer: &Buffer) -> Vec<f32> {
        assert!(buffer.guard_intact(), "the op wrote behind its output");
        let all = match buffer.dtype() {
            DType::Bf16 => floats(&self.dev.to_vec::<bf16>(buffer.view())),
            _ => self.dev.to_vec::<f32>(buffer.view()),
        };
        assert_eq!(all[..self.at], vec![7.0; self.at], "what stands before is not touched");
        all[self.at..].to_vec()
    }
}

/// q, k, v, then s, of rows x `[M, K]`; gate and up too where they are kept.
fn products(made: &Made, x: &[f32], [n_q, n_kv, f, k]: [usize; 4], keep: bool) -> Vec<Vec<f32>> {
    let (m, at, dev) = (x.len() / k, made.at, made.dev);
    let (x, norm) = (made.buffer(x), made.buffer(&normal(k, 90)));
    let columns = [n_q, n_kv, n_kv];
    let weights = [0, 1, 2].map(|i: usize| made.buffer(&normal(columns[i] * k, 91 + i as u64)));
    let biases = [0, 1, 2].map(|i: usize| made.buffer(&normal(columns[i], 95 + i as u64)));
    let pair = [98, 99].map(|stream| made.buffer(&normal(f * k, stream)));
    let mut outs = columns.map(|n| made.nan(m * n));
    let mut wide = [(); 3].map(|()| made.nan(m * f));
    let (mut h, mut rstd) = (made.nan(m * k), poisoned(dev, m));
    let normed = |h: &mut Buffer, rstd: &mut Buffer, run: &mut dyn FnMut(Normed)| {
        let (len, x, weight) = (h.len(), made.of(&x), made.of(&norm));
        run(Normed { x, weight, eps: EPS, h: h.at_mut(at..len), rstd: rstd.view_mut(), keep });
    };
    normed(&mut h, &mut rstd, &mut |rows| {
        let mut i = 0;
        let parts = outs.each_mut().map(|to| {
            let (len, weight) = (to.len(), Matrix::from(made.of(&weights[i])));
            i += 1;
            Projection { weight, bias: Some(made.of(&biases[i - 1])), to: to.at_mut(at..len) }
        });
        gemm_qkv(dev, rows, parts).unwrap();
    });
    normed(&mut h, &mut rstd, &mut |rows| {
        let [gate, up, s] = wide.each_mut().map(|to| {
            let len = to.len();
            to.at_mut(at..len)
        });
        gemm_swiglu(dev, rows, pair.each_ref().map(|w| Matrix::from(made.of(w))), [gate, up], s).unwrap();
    });
    let [gate, up, s] = &wide;
    let kept = if keep { vec![gate, up, &h] } else { vec![] };
    outs.iter().chain([s]).chain(kept).map(|x| made.floats(x)).collect()
}

/// A row among few, which are normed on the way, and among many, which are not; kept and not.
#[test]
fn rows_of_products_alone_equal_rows_in_batch() {
    let (m, sizes) = (150, [72, 40, 136, 200]);
    let [n_q, n_kv, f, k] = sizes;
    let x = normal(m * k, 1);
    for (name, dev) in [("cpu".to_string(), cpu(2))].into_iter().chain(kernel_devices()) {
        for dtype in [DType::F32, DType::Bf16].into_iter().take(if matches!(dev, Device::Cpu(_)) { 1 } else { 2 }) {
            let made = Made { dev: &dev, dtype, at: 0 };
            let whole = products(&made, &x, sizes, false);
            for (first, rows) in [(0, 1), (149, 1), (31, 5), (70, 16), (17, 17), (40, 64)] {
                let alone = products(&made, &x[first * k..][..rows * k], sizes, rows % 2 == 0);
                for ((alone, whole), n) in alone.iter().zip(&whole).zip([n_q, n_kv, n_kv, f]) {
                    same(
                        "products",
                        &format!("{rows} rows, {name}"),
                        &[rows, n],
                        &whole[first * n..][..rows * n],
                        alone,
                    );
                }
            }
        }
    }
}

#[test]
fn bits_of_products_do_not_depend_on_where_a_tensor_starts() {
    let (name, dev) = kernel_devices().swap_remove(2);
    for dtype in [DType::F32, DType::Bf16] {
        for m in [3, 40] {
            let x = normal(m * 72, 2);
            let run = |at| products(&Made { dev: &dev, dtype, at }, &x, [40, 16, 24, 72], true);
            let aligned = run(0);
            [1, 2, 4].iter().for_each(|at| assert_eq!(run(*at), aligned, "{name}, {dtype:?}, {at} elements in"));
        }
    }
}

/// q and k of the packed op, q and both pages of the paged one, of rows x `[N, (H + 2 Hk) D]`.
fn turned(made: &Made, x: &[f32], positions: &[i32], heads: Heads, normed: bool) -> Vec<Vec<f32>> {
    let (n, at, dev, Heads { q: h, kv, dim: d, .. }) = (positions.len(), made.at, made.dev, heads);
    let width = (h + 2 * kv) * d;
    let part = |from: usize, heads: usize| -> Vec<f32> {
        (0..n).flat_map(|row| x[row * width + from * d..][..heads * d].to_vec()).collect()
    };
    let [q, k, v] = [(0, h), (h, kv), (h + kv, kv)].map(|(from, heads)| made.buffer(&part(from, heads)));
    let norms = [80, 81].map(|stream| made.buffer(&normal(d, stream)));
    let angles = dev.upload(&table(T, &frequencies(d, 1e4))).unwrap();
    let pos = dev.upload(positions).unwrap();
    fn turn<'a>(made: &Made, raw: &'a Buffer, norm: &'a Buffer, to: &'a mut Buffer, normed: bool) -> Turn<'a> {
        let len = to.len();
        let to = to.at_mut(made.at..len);
        let raw = raw.at(made.at..raw.len());
        match normed {
            true => Turn::Normed { raw, weight: norm.at(made.at..norm.len()), rstd: None, to },
            false => Turn::InPlace(to),
        }
    }
    let start = |x: &Buffer| made.buffer(&made.floats(x));
    let (mut to_q, mut to_k, mut paged_q) = (start(&q), start(&k), start(&q));
    let (q_turn, k_turn) = (turn(made, &q, &norms[0], &mut to_q, normed), turn(made, &k, &norms[1], &mut to_k, normed));
    qk_rope_fwd(dev, q_turn, k_turn, pos.view(), angles.view(), heads, EPS).unwrap();
    let (max_pages, n_pages) = (T / CHUNK, n * T / CHUNK);
    let seq: Vec<i32> = (0..n as i32).collect();
    let (seq, pages) = (dev.upload(&seq).unwrap(), dev.upload(&(0..n_pages as i32).collect::<Vec<_>>()).unwrap());
    let rows = Paged { seq: seq.view(), pos: pos.view(), table: pages.view(), max_pages, longest: T };
    let mut to = [(); 2].map(|()| made.buffer(&vec![0.25; pages_len(n_pages, heads)]));
    let k_norm = normed.then(|| made.of(&norms[1]));
    let to_pages = to.each_mut().map(|to| {
        let len = to.len();
        to.at_mut(at..len)
    });
    let q_turn = turn(made, &q, &norms[0], &mut paged_q, normed);
    let (k, v, table) = (made.of(&k), made.of(&v), angles.view());
    qk_rope_append(dev, NewRows { q: q_turn, k, v, k_norm, at: rows, table, eps: EPS }, to_pages, heads).unwrap();
    [&to_q, &to_k, &paged_q, &to[0], &to[1]].map(|x| made.floats(x)).into()
}

#[test]
fn rows_of_heads_alone_equal_rows_in_batch() {
    let heads = Heads { q: 6, kv: 2, dim: 32, scale: 1.0 };
    let (n, width, page) = (40, 10 * 32, pages_len(T / CHUNK, heads));
    let (x, positions) = (normal(n * width, 3), indices(n, T, 4));
    for (name, dev) in [("cpu".to_string(), cpu(2))].into_iter().chain(kernel_devices()) {
        for dtype in [DType::F32, DType::Bf16].into_iter().take(if matches!(dev, Device::Cpu(_)) { 1 } else { 2 }) {
            for normed in [true, false] {
                let made = Made { dev: &dev, dtype, at: 0 };
                let whole = turned(&made, &x, &positions, heads, normed);
                for (first, rows) in [(0, 1), (39, 1), (7, 5), (10, 20)] {
                    let (x, at) = (&x[first * width..][..rows * width], &positions[first..first + rows]);
                    let alone = turned(&made, x, at, heads, normed);
                    for ((alone, whole), n) in alone.iter().zip(&whole).zip([6 * 32, 2 * 32, 6 * 32, page, page]) {
                        same(
                            "heads",
                            &format!("{rows} rows, {name}"),
                            &[rows, n],
                            &whole[first * n..][..rows * n],
                            alone,
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bits_of_heads_do_not_depend_on_where_a_tensor_starts() {
    let heads = Heads { q: 3, kv: 1, dim: 32, scale: 1.0 };
    let (x, positions) = (normal(9 * 5 * 32, 5), indices(9, T, 6));
    let (name, dev) = kernel_devices().swap_remove(2);
    for dtype in [DType::F32, DType::Bf16] {
        for normed in [true, false] {
            let run = |at| turned(&Made { dev: &dev, dtype, at }, &x, &positions, heads, normed);
            let aligned = run(0);
            [1, 2, 4].iter().for_each(|at| assert_eq!(run(*at), aligned, "{name}, {dtype:?}, {at} elements in"));
        }
    }
}

/// A position that the angles do not reach is a row of NaN, a page that is none a row that is not written.
#[test]
fn strange_rows_on_kernels_are_nan_or_not_written() {
    let heads = Heads { q: 2, kv: 1, dim: 32, scale: 1.0 };
    for (name, dev) in kernel_devices() {
        let made = Made { dev: &dev, dtype: DType::F32, at: 0 };
        let got = turned(&made, &normal(3 * 4 * 32, 7), &[5, -1, T as i32], heads, true);
        let page = pages_len(T / CHUNK, heads);
        for (i, n) in [(0, 64), (1, 32), (2, 64)] {
            assert!(got[i][..n].iter().all(|x| x.is_finite()), "{name}");
            assert!(got[i][n..].iter().all(|x| x.is_nan()), "{name}");
        }
        for pages in &got[3..] {
            assert!(pages[..page].iter().any(|x| *x != 0.25) && pages[page..].iter().all(|x| *x == 0.25), "{name}");
        }
    }
}

/// Rows of more than 2^31 elements, of which the emulator runs the last blocks; a page as far out.
#[test]
fn heads_at_the_far_end_of_tensors() {
    let heads = Heads { q: 64, kv: 32, dim: 128, scale: 1.0 };
    let far = Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, 0).unwrap().last_blocks(16))));
    let x = round(&normal(64 * 128, 1));
    let run = |dev: &Device, before: usize| -> Vec<bf16> {
        let n = before + 1;
        let ending = |len: usize, end: &[bf16]| {
            let mut buffer = dev.zeros(DType::Bf16, len).unwrap();
            dev.write(buffer.at_mut(len - end.len()..len), end);
            buffer
        };
        let (raw, k, v) = (ending(n * 8192, &x), ending(n * 4096, &x[..4096]), ending(n * 4096, &x[4096..]));
        let norm = dev.upload(&round(&normal(128, 2))).unwrap();
        let mut pos = dev.zeros(DType::I32, n).unwrap();
        dev.write(pos.at_mut(n - 1..n), &[7]);
        let angles = dev.upload(&table(8, &frequencies(128, 1e4))).unwrap();
        let (seq, n_pages) = (dev.zeros(DType::I32, n).unwrap(), if before > 0 { (1 << 31) / 131072 + 1 } else { 1 });
        let page = dev.upload(&[n_pages as i32 - 1]).unwrap();
        let at = Paged { seq: seq.view(), pos: pos.view(), table: page.view(), max_pages: 1, longest: 8 };
        let mut to = [n * 8192, n * 8192, n * 4096].map(|len| dev.zeros(DType::Bf16, len).unwrap());
        let mut pages = [(); 2].map(|()| dev.zeros(DType::Bf16, pages_len(n_pages, heads)).unwrap());
        let [q, paged, to_k] = to.each_mut().map(Buffer::view_mut);
        let weight = norm.view();
        let q = Turn::Normed { raw: raw.view(), weight, rstd: None, to: q };
        let to_k = Turn::Normed { raw: k.view(), weight, rstd: None, to: to_k };
        qk_rope_fwd(dev, q, to_k, pos.view(), angles.view(), heads, EPS).unwrap();
        let q = Turn::Normed { raw: raw.view(), weight, rstd: None, to: paged };
        let to_pages = pages.each_mut().map(Buffer::view_mut);
        let (k, v, table) = (k.view(), v.view(), angles.view());
        let rows = NewRows { q, k, v, k_norm: Some(weight), at, table, eps: EPS };
        qk_rope_append(dev, rows, to_pages, heads).unwrap();
        let last = |x: &Buffer, n: usize| dev.to_vec::<bf16>(x.at(x.len() - n..x.len()));
        let [q, paged, k] = &to;
        let page = pages_len(1, heads);
        [last(q, 8192), last(paged, 8192), last(k, 4096), last(&pages[0], page), last(&pages[1], page)].concat()
    };
    let want = run(&kernel_device(), 0);
    assert!(want.iter().any(|x| *x != want[0]));
    assert!(run(&far, (1 << 31) / 4096 + 3) == want);
}

#[test]
fn products_at_the_far_end_of_tensors() {
    let (k, n, rows) = (8, 1 << 14, 128);
    let (x, w) = (round(&normal(rows * k, 1)), round(&normal(n * k, 2)));
    let run = |dev: &Device, before: usize| -> Vec<bf16> {
        let (m, weight) = (before + rows, dev.upload(&w).unwrap());
        let mut all = dev.zeros(DType::Bf16, m * k).unwrap();
        dev.write(all.at_mut(before * k..m * k), &x);
        let norm = dev.upload(&vec![bf16::ONE; k]).unwrap();
        let (mut h, mut rstd) = (dev.zeros(DType::Bf16, m * k).unwrap(), dev.zeros(DType::F32, m).unwrap());
        // On a far device rmsnorm runs its last blocks too, which have the last rows.
        let mut outs = [(); 5].map(|()| dev.zeros(DType::Bf16, m * n).unwrap());
        let [q, key, value, gate, s] = outs.each_mut().map(Buffer::view_mut);
        let part = |to| Projection { weight: weight.view().into(), bias: None, to };
        macro_rules! rows {
            () => {
                Normed {
                    x: all.view(),
                    weight: norm.view(),
                    eps: EPS,
                    h: h.view_mut(),
                    rstd: rstd.view_mut(),
                    keep: false,
                }
            };
        }
        gemm_qkv(dev, rows!(), [q, key, value].map(part)).unwrap();
        let mut up = dev.zeros(DType::Bf16, m * n).unwrap();
        let pair = [gate, up.view_mut()];
        let weights = [weight.view().into(), weight.view().into()];
        gemm_swiglu(dev, rows!(), weights, pair, s).unwrap();
        // The last column of tiles: of v, and of s.
        [&outs[2], &outs[4]].into_iter().flat_map(|x| dev.to_vec::<bf16>(x.at(x.len() - 64..x.len()))).collect()
    };
    let want = run(&kernel_device(), 0);
    assert!(want.iter().any(|x| *x != want[0]));
    for hopper in [false, true] {
        let far = Emu::with_seed(2, 0).unwrap().last_blocks(4).with_hopper(hopper);
        let far = Device::Gpu(Arc::new(Gpu::Emu(far)));
        assert!(run(&far, (1usize << 31).div_ceil(n).next_multiple_of(128)) == want, "Hopper's: {hopper}");
    }
}

/// Keys of the longest sequence of a step: segments, and more.
const LONG: usize = 2 * SEGMENT + 64;

/// o of new rows x `[N, (H + 2 Hk) D]` of these sequences, whose pages hold noise of their own, and their pages of keys and values.
fn stepped(made: &Made, x: &[f32], seqs: &[u64], positions: &[i32], heads: Heads, normed: bool) -> [Vec<f32>; 3] {
    let (n, at, dev, Heads { q: h, kv, dim: d, .. }) = (seqs.len(), made.at, made.dev, heads);
    let width = (h + 2 * kv) * d;
    let part = |from: usize, heads: usize| -> Buffer {
        let rows = (0..n).flat_map(|row| x[row * width + from * d..][..heads * d].to_vec());
        made.buffer(&rows.collect::<Vec<_>>())
    };
    let (q, k, v) = (part(0, h), part(h, kv), part(h + kv, kv));
    let norms = [80, 81].map(|stream| made.buffer(&normal(d, stream)));
    let angles = dev.upload(&table(LONG, &frequencies(d, 1e4))).unwrap();
    let (max_pages, longest) = (LONG / CHUNK, LONG);
    let len = pages_len(max_pages, heads);
    let noise = |of: u64| -> Vec<f32> { seqs.iter().flat_map(|seq| normal(len, 100 + 2 * seq + of)).collect() };
    let [mut k_pages, mut v_pages] = [0, 1].map(|of| made.buffer(&noise(of)));
    let seq = dev.upload(&(0..n as i32).collect::<Vec<_>>()).unwrap();
    let (pos, pages) = (dev.upload(positions).unwrap(), (0..(n * max_pages) as i32).collect::<Vec<_>>());
    let pages = dev.upload(&pages).unwrap();
    let rows = Paged { seq: seq.view(), pos: pos.view(), table: pages.view(), max_pages, longest };
    let (mut to, mut o) = (made.buffer(&made.floats(&q)), made.nan(n * h * d));
    let (to_len, o_len) = (to.len(), o.len());
    let to = to.at_mut(at..to_len);
    let q = match normed {
        true => Turn::Normed { raw: made.of(&q), weight: made.of(&norms[0]), rstd: None, to },
        false => Turn::InPlace(to),
    };
    let (k, v, k_norm) = (made.of(&k), made.of(&v), normed.then(|| made.of(&norms[1])));
    let new = NewRows { q, k, v, k_norm, at: rows, table: angles.view(), eps: EPS };
    let mut parts = parts_of(dev, attn_decode_workspace(dev, n, longest, heads));
    let pages_end = k_pages.len();
    let to = [k_pages.at_mut(at..pages_end), v_pages.at_mut(at..pages_end)];
    attn_step(dev, new, to, o.at_mut(at..o_len), parts.view_mut(), heads).unwrap();
    assert!(parts.guard_intact());
    [&o, &k_pages, &v_pages].map(|x| made.floats(x))
}

/// Among few rows, whose segments are walked side by side, and among many, whose are not.
#[test]
fn rows_of_a_step_alone_equal_rows_in_batch() {
    let heads = Heads { q: 4, kv: 2, dim: 32, scale: 0.2 };
    let (n, width) = (14, 8 * 32);
    let positions: Vec<i32> = [0, 1, 31, 32, 500, 511, 512, 513, 1000, 1023, 1024, 1087, 77, 3].to_vec();
    let (x, page) = (normal(n * width, 8), pages_len(LONG / CHUNK, heads));
    let seqs: Vec<u64> = (0..n as u64).collect();
    for (name, dev) in [("cpu".to_string(), cpu(2))].into_iter().chain(kernel_devices()) {
        for dtype in [DType::F32, DType::Bf16].into_iter().take(if matches!(dev, Device::Cpu(_)) { 1 } else { 2 }) {
            let (made, normed) = (Made { dev: &dev, dtype, at: 0 }, dtype == DType::F32);
            let whole = stepped(&made, &x, &seqs, &positions, heads, normed);
            for (first, rows) in [(0, 1), (11, 1), (4, 5), (7, 7)] {
                let some = first..first + rows;
                let x = &x[first * width..][..rows * width];
                let alone = stepped(&made, x, &seqs[some.clone()], &positions[some], heads, normed);
                for ((alone, whole), n) in alone.iter().zip(&whole).zip([4 * 32, page, page]) {
                    same(
                        "attn_step",
                        &format!("{rows} rows, {name}"),
                        &[rows, n],
                        &whole[first * n..][..rows * n],
                        alone,
                    );
                }
            }
        }
    }
}

/// In f32 a tensor starts anywhere; in bf16 pages, of which whole vectors are read, start on one.
#[test]
fn bits_of_a_step_do_not_depend_on_where_a_tensor_starts() {
    let heads = Heads { q: 4, kv: 2, dim: 32, scale: 0.2 };
    let (x, dev) = (normal(3 * 8 * 32, 9), kernel_devices().swap_remove(3).1);
    for (dtype, starts) in [(DType::F32, [1, 2]), (DType::Bf16, [8, 16])] {
        let run = |at| stepped(&Made { dev: &dev, dtype, at }, &x, &[3, 4, 5], &[9, 600, 1], heads, true);
        let aligned = run(0);
        starts.iter().for_each(|at| assert_eq!(run(*at), aligned, "{dtype:?}, {at} elements in"));
    }
}

#[test]
fn a_step_in_bf16_refuses_an_output_off_16_bytes() {
    let (heads, dev) = (Heads { q: 4, kv: 2, dim: 32, scale: 0.2 }, kernel_devices().swap_remove(3).1);
    let bf16 = |n: usize| dev.zeros(DType::Bf16, n).unwrap();
    let (mut q, k, mut o, one) = (bf16(128), bf16(64), bf16(129), dev.upload(&[0i32]).unwrap());
    let (mut pages, table) = ([bf16(2048), bf16(2048)], dev.zeros(DType::F32, 32).unwrap());
    let mut none = dev.zeros(DType::F32, 0).unwrap();
    let mut step = |at: usize| {
        let rows = Paged { seq: one.view(), pos: one.view(), table: one.view(), max_pages: 1, longest: 1 };
        let (turn, to) = (Turn::InPlace(q.view_mut()), pages.each_mut().map(|pages| pages.view_mut()));
        let new = NewRows { q: turn, k: k.view(), v: k.view(), k_norm: None, at: rows, table: table.view(), eps: EPS };
        attn_step(&dev, new, to, o.at_mut(at..at + 128), none.view_mut(), heads)
    };
    step(0).unwrap();
    refused(step(1), "attn_step", "tensors start on 16 bytes");
}

#[test]
fn wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (a, w) = (dev.zeros(DType::F32, 24).unwrap(), dev.zeros(DType::F32, 4).unwrap());
    let pos = dev.upload(&[0i32, 1]).unwrap();
    let mut z = [(); 8].map(|()| poisoned(&dev, 24));
    let heads = Heads { q: 2, kv: 1, dim: 4, scale: 1.0 };
    let [q, k, h, r, kp, vp, s, up] = z.each_mut();
    let mut fwd = |q_len: usize, k_len: usize, d: usize, table: View| {
        let (q, k) = (Turn::InPlace(q.at_mut(0..q_len)), Turn::InPlace(k.at_mut(0..k_len)));
        qk_rope_fwd(&dev, q, k, pos.view(), table, Heads { dim: d, ..heads }, EPS)
    };
    refused(fwd(15, 8, 4, a.view()), "qk_rope_fwd", "queries and keys [N, heads, D]");
    refused(fwd(16, 9, 4, a.view()), "qk_rope_fwd", "queries and keys [N, heads, D]");
    refused(fwd(12, 6, 3, a.view()), "qk_rope_fwd", "D is even");
    refused(fwd(16, 8, 4, a.at(0..4)), "qk_rope_fwd", "positions below T");
    let one = dev.upload(&[0i32]).unwrap();
    let (mut o, mut none) = (poisoned(&dev, 7), poisoned(&dev, 0));
    let mut append = |k_len: usize, norm: Option<View>, pages: usize, step: bool| {
        let at = Paged { seq: one.view(), pos: one.view(), table: one.view(), max_pages: 1, longest: 1 };
        let to = [kp.at_mut(0..pages), vp.at_mut(0..pages)];
        let (q, k, v) = (Turn::InPlace(q.at_mut(0..8)), a.at(0..k_len), a.at(0..4));
        let rows = NewRows { q, k, v, k_norm: norm, at, table: a.view(), eps: EPS };
        match step {
            true => attn_step(&dev, rows, to, o.view_mut(), none.view_mut(), heads),
            false => qk_rope_append(&dev, rows, to, heads),
        }
    };
    refused(append(5, None, 0, false), "qk_rope_append", "k [N, Hk, D]");
    refused(append(4, Some(w.view()), 0, false), "qk_rope_append", "norms of both or of neither");
    refused(append(4, None, 0, false), "qk_rope_append", "the page of the row is in the table and in the pool");
    refused(append(4, None, 0, true), "attn_step", "o [N, H, D]");
    refused(append(5, None, 0, true), "attn_step", "k [N, Hk, D]");
    let mut swiglu = |weight: usize, to: usize| {
        let (h, rstd) = (h.at_mut(0..8), r.at_mut(0..2));
        let rows = Normed { x: a.at(0..8), weight: w.view(), eps: EPS, h, rstd, keep: true };
        let pair = [k.at_mut(0..to), up.at_mut(0..6)];
        gemm_swiglu(&dev, rows, [a.at(0..weight).into(), a.at(0..12).into()], pair, s.at_mut(0..6))
    };
    refused(swiglu(11, 6), "gemm_swiglu", "a weight has N K elements");
    refused(swiglu(12, 5), "gemm_swiglu", "gate [M, N]");
    let mut qkv = |x: usize, v: usize, bias: usize| {
        let (h, rstd) = (h.at_mut(0..8), r.at_mut(0..2));
        let rows = Normed { x: a.at(0..x), weight: w.view(), eps: EPS, h, rstd, keep: true };
        let part = |n: usize, to| Projection { weight: a.at(0..n * 4).into(), bias: Some(a.at(0..bias)), to };
        gemm_qkv(&dev, rows, [part(3, s.at_mut(0..6)), part(3, up.at_mut(0..6)), part(v, k.at_mut(0..2 * v))])
    };
    refused(qkv(7, 3, 3), "gemm_qkv", "x [M, K]");
    refused(qkv(8, 2, 3), "gemm_qkv", "as many values as keys");
    refused(qkv(8, 3, 2), "gemm_qkv", "bias [N]");
    assert!(take(&dev, s).iter().all(|x| x.is_nan()), "a refused op has written");
}
