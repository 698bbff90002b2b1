//! rmsnorm, rope, swiglu, embed: the row rule, one set of bits, refusals. The oracle: ops_cases.

use crate::support::*;
use haggle::device::{Buffer, DType, Device, View, ViewMut};
use haggle::ops::embed::*;
use haggle::ops::norm::*;
use haggle::ops::rope::*;
use haggle::ops::swiglu::*;
use half::bf16;

/// Rows and columns: one of each, odd ones, a head, the tiny width, more than one task, the widest.
const SHAPES: [[usize; 2]; 8] = [[1, 1], [1, 7], [5, 1], [3, 33], [700, 32], [130, 128], [3, 1000], [2, 8192]];

const EPS: f32 = 1e-6;

fn rmsnorm(dev: &Device, x: &[f32], w: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut y, mut rstd) = (poisoned(dev, x.len()), poisoned(dev, x.len() / w.len()));
    rmsnorm_fwd(dev, dev.upload(x).unwrap().view(), dev.upload(w).unwrap().view(), y.view_mut(), rstd.view_mut(), EPS)
        .unwrap();
    (take(dev, &y), take(dev, &rstd))
}

/// dx and dw, added to what stands there.
fn rmsnorm_back(dev: &Device, dy: &[f32], x: &[f32], w: &[f32], dx: &[f32], dw: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let rstd = dev.upload(&rmsnorm(dev, x, w).1).unwrap();
    let (mut dx, mut dw) = (dev.upload(dx).unwrap(), dev.upload(dw).unwrap());
    let (dy, x, w) = (dev.upload(dy).unwrap(), dev.upload(x).unwrap(), dev.upload(w).unwrap());
    let mut parts = poisoned(dev, rmsnorm_parts_len(dev, rstd.len(), w.len()));
    let to = (dx.view_mut(), dw.view_mut(), parts.view_mut());
    rmsnorm_bwd(dev, dy.view(), x.view(), w.view(), rstd.view(), to.0, to.1, to.2).unwrap();
    take(dev, &parts);
    (take(dev, &dx), take(dev, &dw))
}

/// dx under a frozen weight.
fn rmsnorm_back_frozen(dev: &Device, dy: &[f32], x: &[f32], w: &[f32], dx: &[f32]) -> Vec<f32> {
    let rstd = dev.upload(&rmsnorm(dev, x, w).1).unwrap();
    let [dy, x, w, mut dx] = [dy, x, w, dx].map(|x| dev.upload(x).unwrap());
    let mut parts = poisoned(dev, rmsnorm_parts_len(dev, rstd.len(), w.len()));
    rmsnorm_bwd(dev, dy.view(), x.view(), w.view(), rstd.view(), dx.view_mut(), None, parts.view_mut()).unwrap();
    take(dev, &dx)
}

fn rope(dev: &Device, x: &[f32], pos: &[i32], dims: [usize; 2], back: bool) -> Vec<f32> {
    let (mut x, pos, table) = (
        dev.upload(x).unwrap(),
        dev.upload(pos).unwrap(),
        dev.upload(&table(512, &frequencies(dims[1], 1e4))).unwrap(),
    );
    let turn = if back { rope_bwd } else { rope_fwd };
    turn(dev, x.view_mut(), pos.view(), table.view(), dims[0], dims[1]).unwrap();
    take(dev, &x)
}

fn swiglu(dev: &Device, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut h = poisoned(dev, gate.len());
    swiglu_fwd(dev, dev.upload(gate).unwrap().view(), dev.upload(up).unwrap().view(), h.view_mut()).unwrap();
    take(dev, &h)
}

fn swiglu_back(dev: &Device, dh: &[f32], gate: &[f32], up: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (poisoned(dev, gate.len()), poisoned(dev, gate.len()));
    let (dh, gate, up) = (dev.upload(dh).unwrap(), dev.upload(gate).unwrap(), dev.upload(up).unwrap());
    swiglu_bwd(dev, dh.view(), gate.view(), up.view(), dgate.view_mut(), dup.view_mut()).unwrap();
    (take(dev, &dgate), take(dev, &dup))
}

fn embed(dev: &Device, ids: &[i32], rows: &[f32], dim: usize) -> Vec<f32> {
    let mut x = poisoned(dev, ids.len() * dim);
    embed_fwd(dev, dev.upload(ids).unwrap().view(), dev.upload(rows).unwrap().view(), x.view_mut(), dim).unwrap();
    take(dev, &x)
}

/// Scratch of embed_bwd, full of what is no row.
fn order(dev: &Device, n: usize) -> Buffer {
    dev.upload(&vec![i32::MIN; embed_order_len(dev, n)]).unwrap()
}

fn embed_back(dev: &Device, ids: &[i32], dx: &[f32], start: &[f32], dim: usize) -> Vec<f32> {
    let mut dtable = dev.upload(start).unwrap();
    let (ids_buffer, dx, mut order) = (dev.upload(ids).unwrap(), dev.upload(dx).unwrap(), order(dev, ids.len()));
    embed_bwd(dev, ids_buffer.view(), dx.view(), dtable.view_mut(), order.view_mut(), dim).unwrap();
    assert!(order.guard_intact());
    take(dev, &dtable)
}

/// The kernels give the bits of the CPU, in any thread order.
#[test]
fn row_ops_on_kernels_equal_the_cpu() {
    for (name, dev) in kernel_devices().into_iter().step_by(2) {
        for [n, c] in SHAPES {
            let inputs = Inputs::new(n, c, <[f32]>::to_vec);
            let want = row_ops(&cpu(1), &inputs, c);
            for ((op, got), (_, want)) in row_ops(&dev, &inputs, c).iter().zip(&want) {
                same(op, &format!("N={n} C={c} on {name}"), &[got.len()], want, got);
            }
        }
    }
}

/// On Hopper blocks of few wide rows share the weight: rows of one and of two clusters, of two to a block, vectors and none.
#[test]
fn a_cluster_s_norms_have_the_bits_of_the_cpu() {
    for [n, c] in [[2, 8192], [9, 1096], [17, 1031], [140, 2048]] {
        let inputs = Inputs::new(n, c, <[f32]>::to_vec);
        let norms = |dev: &Device| {
            let (y, rstd) = rmsnorm(dev, &inputs.x, &inputs.w);
            let dx = rmsnorm_back_frozen(dev, &inputs.dy, &inputs.x, &inputs.w, &inputs.up);
            [("rmsnorm_fwd y", y), ("rmsnorm_fwd rstd", rstd), ("rmsnorm_bwd dx, w frozen", dx)]
        };
        // The plain kernels in bf16 are held to the oracle.
        let in_bf16 = |dev: &Device| row_ops_in_bf16(dev, &inputs, c)[..4].to_vec();
        let want = [norms(&cpu(1)).to_vec(), in_bf16(&kernel_device())].concat();
        for (name, dev) in hoppers() {
            let got = [norms(&dev).to_vec(), in_bf16(&dev)].concat();
            for ((op, want), (_, got)) in want.iter().zip(&got) {
                same(op, &format!("N={n} C={c} on {name}"), &[got.len()], want, got);
            }
        }
    }
}

/// What the ops of this file take on `[N, C]`.
struct Inputs {
    x: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    dy: Vec<f32>,
    w: Vec<f32>,
    start: Vec<f32>,
    ids: Vec<i32>,
    pos: Vec<i32>,
}

impl Inputs {
    /// With floats as `of` makes them of normal numbers.
    fn new(n: usize, c: usize, of: fn(&[f32]) -> Vec<f32>) -> Inputs {
        Inputs {
            x: of(&normal(n * c, 1)),
            gate: of(&normal(n * c, 8).iter().map(|x| x * 9.0).collect::<Vec<_>>()),
            up: of(&normal(n * c, 2)),
            dy: of(&normal(n * c, 6)),
            w: of(&normal(c, 3)),
            start: of(&normal(50 * c, 7)),
            ids: indices(n, 50, 5),
            pos: indices(n, 512, 4),
        }
    }
}

/// The outputs of every op of this file on `[N, C]`.
fn row_ops(dev: &Device, i: &Inputs, c: usize) -> Vec<(&'static str, Vec<f32>)> {
    let (y, rstd) = rmsnorm(dev, &i.x, &i.w);
    let (dx, dw) = rmsnorm_back(dev, &i.dy, &i.x, &i.w, &i.up, &i.w);
    let (dgate, dup) = swiglu_back(dev, &i.dy, &i.gate, &i.up);
    let mut all = vec![
        ("rmsnorm_fwd y", y),
        ("rmsnorm_fwd rstd", rstd),
        ("rmsnorm_bwd dx", dx),
        ("rmsnorm_bwd dx, w frozen", rmsnorm_back_frozen(dev, &i.dy, &i.x, &i.w, &i.up)),
        ("rmsnorm_bwd dw", dw),
        ("swiglu_fwd", swiglu(dev, &i.gate, &i.up)),
        ("swiglu_bwd dgate", dgate),
        ("swiglu_bwd dup", dup),
        ("embed_fwd", embed(dev, &i.ids, &i.start, c)),
        ("embed_bwd", embed_back(dev, &i.ids, &i.dy, &i.start, c)),
    ];
    if c.is_multiple_of(2) {
        all.push(("rope_fwd", rope(dev, &i.x, &i.pos, [1, c], false)));
        all.push(("rope_bwd", rope(dev, &i.x, &i.pos, [1, c], true)));
    }
    all
}

/// The same in bf16; rstd, dw and the embedding's gradient stay f32.
fn row_ops_in_bf16(dev: &Device, i: &Inputs, c: usize) -> Vec<(&'static str, Vec<f32>)> {
    let up = |x: &[f32]| dev.upload(&round(x)).unwrap();
    let got = |b: &Buffer| floats(&dev.to_vec::<bf16>(b.view()));
    let nan = || dev.upload(&vec![bf16::NAN; i.x.len()]).unwrap();
    let [x, gate, dy, w, rows] = [&i.x, &i.gate, &i.dy, &i.w, &i.start].map(|x| up(x));
    let (more, ids, pos) = (up(&i.up), dev.upload(&i.ids).unwrap(), dev.upload(&i.pos).unwrap());
    let (mut y, mut rstd, mut dx, mut dw) = (nan(), poisoned(dev, i.ids.len()), up(&i.up), dev.upload(&i.w).unwrap());
    let mut frozen = up(&i.up);
    let (mut h, mut dgate, mut dup, mut e) = (nan(), nan(), nan(), nan());
    let (mut dtable, mut scatter) = (dev.upload(&i.start).unwrap(), up(&i.start));
    rmsnorm_fwd(dev, x.view(), w.view(), y.view_mut(), rstd.view_mut(), EPS).unwrap();
    let mut parts = poisoned(dev, rmsnorm_parts_len(dev, i.ids.len(), c));
    let to = (dx.view_mut(), dw.view_mut(), parts.view_mut());
    rmsnorm_bwd(dev, dy.view(), x.view(), w.view(), rstd.view(), to.0, to.1, to.2).unwrap();
    rmsnorm_bwd(dev, dy.view(), x.view(), w.view(), rstd.view(), frozen.view_mut(), None, parts.view_mut()).unwrap();
    swiglu_fwd(dev, gate.view(), more.view(), h.view_mut()).unwrap();
    swiglu_bwd(dev, dy.view(), gate.view(), more.view(), dgate.view_mut(), dup.view_mut()).unwrap();
    embed_fwd(dev, ids.view(), rows.view(), e.view_mut(), c).unwrap();
    let mut order = order(dev, i.ids.len());
    embed_bwd(dev, ids.view(), dy.view(), dtable.view_mut(), order.view_mut(), c).unwrap();
    embed_bwd(dev, ids.view(), dy.view(), scatter.view_mut(), order.view_mut(), c).unwrap();
    assert!([&y, &dx, &frozen, &h, &dgate, &dup, &e, &scatter].iter().all(|b| b.guard_intact()));
    let mut all = vec![
        ("rmsnorm_fwd y", got(&y)),
        ("rmsnorm_fwd rstd", take(dev, &rstd)),
        ("rmsnorm_bwd dx", got(&dx)),
        ("rmsnorm_bwd dx, w frozen", got(&frozen)),
        ("rmsnorm_bwd dw", take(dev, &dw)),
        ("swiglu_fwd", got(&h)),
        ("swiglu_bwd dgate", got(&dgate)),
        ("swiglu_bwd dup", got(&dup)),
        ("embed_fwd", got(&e)),
        ("embed_bwd", take(dev, &dtable)),
    ];
    if c.is_multiple_of(2) {
        let table = dev.upload(&table(512, &frequencies(c, 1e4))).unwrap();
        for (op, back) in [("rope_fwd", false), ("rope_bwd", true)] {
            let mut x = up(&i.x);
            let turn = if back { rope_bwd } else { rope_fwd };
            turn(dev, x.view_mut(), pos.view(), table.view(), 1, c).unwrap();
            all.push((op, got(&x)));
        }
    }
    all.push(("embed_bwd in bf16", got(&scatter)));
    all
}

/// bf16 is storage alone: the CPU's bits on the rounded inputs, rounded once.
#[test]
fn row_ops_in_bf16_equal_the_cpu_rounded_once() {
    let dev = &kernel_device();
    for [n, c] in SHAPES {
        let inputs = Inputs::new(n, c, |x| floats(&round(x)));
        let mut want = row_ops(&cpu(1), &inputs, c);
        let scattered = want.iter().find(|(op, _)| *op == "embed_bwd").unwrap().1.clone();
        want.push(("embed_bwd in bf16", scattered));
        for ((op, got), (_, want)) in row_ops_in_bf16(dev, &inputs, c).iter().zip(&want) {
            let f32_too = ["rmsnorm_fwd rstd", "rmsnorm_bwd dw", "embed_bwd"].contains(op);
            let want = if f32_too { want.clone() } else { floats(&round(want)) };
            same(op, &format!("N={n} C={c} in bf16"), &[got.len()], &want, got);
        }
    }
}

/// Conversions and fills.
#[test]
fn copy_and_fill_on_kernels() {
    let dev = &kernel_device();
    let x = normal(1000, 1);
    for from in [DType::F32, DType::Bf16] {
        for to in [DType::F32, DType::Bf16] {
            let source = if from == DType::F32 { dev.upload(&x).unwrap() } else { dev.upload(&round(&x)).unwrap() };
            let mut y = dev.zeros(to, 1000).unwrap();
            copy(dev, source.view(), y.view_mut()).unwrap();
            let exact = from == DType::F32 && to == DType::F32;
            let want = if exact { x.clone() } else { floats(&round(&x)) };
            let read = |y: &Buffer| if to == DType::F32 { take(dev, y) } else { floats(&dev.to_vec(y.view())) };
            same("copy", "kernels", &[1000], &want, &read(&y));
            fill(dev, y.at_mut(3..997), 0.5).unwrap();
            let want: Vec<f32> = (0..1000).map(|i| if (3..997).contains(&i) { 0.5 } else { want[i] }).collect();
            same("fill", "kernels", &[1000], &want, &read(&y));
        }
    }
}

/// What ops of elements make of the tensors that start `at` elements into their buffers.
fn elements_from(dev: &Device, dtype: DType, at: usize) -> Vec<Vec<f32>> {
    let (n, dims) = (2 * 3 * 32, [3, 32]);
    let tensor = |stream: u64| {
        let x = [vec![7.0; at], normal(n, stream)].concat();
        if dtype == DType::Bf16 { dev.upload(&round(&x)).unwrap() } else { dev.upload(&x).unwrap() }
    };
    let part = || at..at + n;
    let (x, up, positions) = (tensor(1), tensor(2), dev.upload(&[5, 9]).unwrap());
    let table = dev.upload(&table(16, &frequencies(dims[1], 1e4))).unwrap();
    let [mut h, mut dgate, mut dup, mut turned, mut scaled, mut copied, mut filled] = [3, 4, 5, 6, 7, 8, 9].map(tensor);
    let (x, up) = (|| x.view().at(part()), || up.view().at(part()));
    swiglu_fwd(dev, x(), up(), h.at_mut(part())).unwrap();
    swiglu_bwd(dev, x(), up(), x(), dgate.at_mut(part()), dup.at_mut(part())).unwrap();
    rope_fwd(dev, turned.at_mut(part()), positions.view(), table.view(), dims[0], dims[1]).unwrap();
    scale(dev, x(), scaled.at_mut(part()), 0.7).unwrap();
    copy(dev, x(), copied.at_mut(part())).unwrap();
    fill(dev, filled.at_mut(part()), 0.3).unwrap();
    let read = |buffer: &Buffer| {
        if dtype == DType::Bf16 { floats(&dev.to_vec(buffer.view())) } else { dev.to_vec(buffer.view()) }
    };
    let made = [h, dgate, dup, turned, scaled, copied, filled].map(|buffer| read(&buffer));
    made.iter().for_each(|all| assert_eq!(all[..at], vec![7.0; at], "what stands before is not touched"));
    made.into_iter().map(|all| all[at..].to_vec()).collect()
}

#[test]
fn bits_of_kernels_do_not_depend_on_where_a_tensor_starts() {
    for (name, dev) in kernel_devices() {
        for dtype in [DType::F32, DType::Bf16] {
            let aligned = elements_from(&dev, dtype, 0);
            for at in [1, 2, 4, 8] {
                assert_eq!(elements_from(&dev, dtype, at), aligned, "{name}, {dtype:?}, {at} elements in");
            }
        }
    }
}

#[test]
fn rmsnorm_of_zeros_is_zero() {
    let (y, rstd) = rmsnorm(&cpu(1), &[0.0; 40], &[1.0; 20]);
    assert_eq!(y, [0.0; 40]);
    near("rmsnorm_fwd rstd", &[2], &[1e3; 2], &rstd, 1e-7);
}

#[test]
fn rope_turns_back() {
    let dev = cpu(2);
    for (n, h, d) in [(1, 1, 2), (5, 3, 6), (300, 4, 32), (9, 2, 128)] {
        let (x, pos) = (normal(n * h * d, 1), indices(n, 512, 2));
        let y = rope(&dev, &x, &pos, [h, d], false);
        near("rope_bwd of rope_fwd", &[n, h, d], &wide(&x), &rope(&dev, &y, &pos, [h, d], true), 1e-7);
    }
}

#[test]
fn swiglu_far_out_on_both_sides_overflows_nowhere() {
    assert_eq!(swiglu(&cpu(2), &[-200.0, 200.0, 0.0], &[3.0; 3]), [0.0, 600.0, 0.0]);
}

/// More blocks of rows than are fetched at a time, the last one short; more columns than a block of threads has.
#[test]
fn rmsnorm_bwd_of_many_rows_has_the_bits_of_the_cpu() {
    for [n, c] in [[20_000, 5], [8192, 33], [8193, 129]] {
        let [dy, x, dx] = [1, 2, 3].map(|s| normal(n * c, s));
        let (w, dw) = (normal(c, 4), normal(c, 5));
        let run = |dev: &Device| rmsnorm_back(dev, &dy, &x, &w, &dx, &dw);
        let want = run(&cpu(2));
        for (name, dev) in kernel_devices().into_iter().skip(1).step_by(2) {
            let got = run(&dev);
            same("rmsnorm_bwd dx", &name, &[n, c], &want.0, &got.0);
            same("rmsnorm_bwd dw", &name, &[n, c], &want.1, &got.1);
        }
    }
}

/// Vocabularies whose ids are sorted in one pass, two and three; more rows than a turn of every warp; an id with more rows
/// than a block takes at once; ids in descending order; ids that are none, which are skipped.
#[test]
fn embed_bwd_sorts_any_ids() {
    for (n, v) in [(1, 1), (33, 1), (1500, 3), (700, 255), (700, 256), (2100, 5000), (1300, 70_000)] {
        let (c, mut ids) = (3, indices(n, v, 5));
        ids.iter_mut().step_by(4).for_each(|id| *id = v as i32 - 1);
        let descending = (0..n).map(|i| (v - 1 - i % v) as i32).collect::<Vec<_>>();
        let (dx, start) = (normal(n * c, 1), normal(v * c, 2));
        for ids in [ids, descending] {
            let strange = |i: usize| [-1, v as i32, i32::MAX, i32::MIN].get(i % 9).copied();
            let some: Vec<i32> = ids.iter().enumerate().map(|(i, id)| strange(i).unwrap_or(*id)).collect();
            let known: Vec<usize> = (0..n).filter(|i| strange(*i).is_none()).collect();
            let known_ids: Vec<i32> = known.iter().map(|i| ids[*i]).collect();
            let known_dx: Vec<f32> = known.iter().flat_map(|i| dx[i * c..][..c].to_vec()).collect();
            let want = embed_back(&cpu(1), &ids, &dx, &start, c);
            let want_some = embed_back(&cpu(1), &known_ids, &known_dx, &start, c);
            for (name, dev) in kernel_devices() {
                same("embed_bwd", &format!("N {n}, {name}"), &[v, c], &want, &embed_back(&dev, &ids, &dx, &start, c));
                let got = embed_back(&dev, &some, &dx, &start, c);
                same("embed_bwd", &format!("N {n}, strange ids, {name}"), &[v, c], &want_some, &got);
            }
        }
    }
}

#[test]
fn rows_alone_equal_rows_in_batch() {
    let dev = cpu(2);
    let (n, c) = (300, 96);
    let (x, up, w, pos) = (normal(n * c, 1), normal(n * c, 2), normal(c, 3), indices(n, 512, 4));
    let ids = indices(n, n, 5);
    let all = [
        rmsnorm(&dev, &x, &w).0,
        rope(&dev, &x, &pos, [3, 32], false),
        swiglu(&dev, &x, &up),
        embed(&dev, &ids, &x, c),
    ];
    for (first, rows) in [(0, 1), (299, 1), (17, 5), (100, 150)] {
        let part = first * c..(first + rows) * c;
        let pos = &pos[first..first + rows];
        let alone = [
            rmsnorm(&dev, &x[part.clone()], &w).0,
            rope(&dev, &x[part.clone()], pos, [3, 32], false),
            swiglu(&dev, &x[part.clone()], &up[part.clone()]),
            embed(&dev, &ids[first..first + rows], &x, c),
        ];
        for (op, i) in ["rmsnorm_fwd", "rope_fwd", "swiglu_fwd", "embed_fwd"].iter().zip(0..) {
            same(op, "alone", &[rows, c], &all[i][part.clone()], &alone[i]);
        }
    }
}

#[test]
fn bits_depend_on_no_thread_and_no_vector_width() {
    let (n, c) = (333, 130);
    let (x, up, dy, w, pos) = (normal(n * c, 1), normal(n * c, 2), normal(n * c, 6), normal(c, 3), indices(n, 512, 4));
    let ids = indices(n, 50, 5);
    let mut first: Option<Vec<(&str, Vec<f32>)>> = None;
    for (name, dev) in devices().into_iter().chain(kernel_devices()) {
        let (y, rstd) = rmsnorm(&dev, &x, &w);
        let (dx, dw) = rmsnorm_back(&dev, &dy, &x, &w, &up, &w);
        let (dgate, dup) = swiglu_back(&dev, &dy, &x, &up);
        let got = vec![
            ("rmsnorm_fwd y", y),
            ("rmsnorm_fwd rstd", rstd),
            ("rmsnorm_bwd dx", dx),
            ("rmsnorm_bwd dw", dw),
            ("rope_fwd", rope(&dev, &x, &pos, [13, 10], false)),
            ("swiglu_fwd", swiglu(&dev, &x, &up)),
            ("swiglu_bwd dgate", dgate),
            ("swiglu_bwd dup", dup),
            ("embed_bwd", embed_back(&dev, &ids, &dy, &x[..50 * c], c)),
        ];
        let want = first.get_or_insert_with(|| got.clone());
        for ((op, got), (_, want)) in got.iter().zip(want) {
            same(op, &name, &[got.len()], want, got);
        }
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (a, b) = (dev.zeros(DType::F32, 12).unwrap(), dev.zeros(DType::F32, 5).unwrap());
    let (ids, mut y, mut r) = (dev.upload(&[0i32, 1, 7]).unwrap(), poisoned(&dev, 12), poisoned(&dev, 3));
    let w = a.at(0..4);
    refused(rmsnorm_fwd(&dev, b.view(), w, y.view_mut(), r.view_mut(), EPS), "rmsnorm_fwd", "x [N, C]");
    refused(rmsnorm_fwd(&dev, a.view(), w, y.at_mut(0..9), r.view_mut(), EPS), "rmsnorm_fwd", "y [N, C]");
    let mut dw = poisoned(&dev, 3);
    let rstd = a.at(0..3);
    let (mut none, mut some) = (poisoned(&dev, 0), poisoned(&dev, 4));
    let mut bwd =
        |dy: View, dw: ViewMut, parts: ViewMut| rmsnorm_bwd(&dev, dy, a.view(), w, rstd, y.view_mut(), dw, parts);
    refused(bwd(a.view(), dw.view_mut(), none.view_mut()), "rmsnorm_bwd", "dw [C]");
    refused(bwd(b.view(), dw.view_mut(), none.view_mut()), "rmsnorm_bwd", "dy [N, C]");
    refused(bwd(a.view(), some.view_mut(), dw.view_mut()), "rmsnorm_bwd", "parts");
    refused(rope_fwd(&dev, y.view_mut(), ids.view(), a.view(), 1, 6), "rope_fwd", "x [N, H, D]");
    refused(rope_fwd(&dev, y.view_mut(), ids.view(), a.view(), 1, 4), "rope_fwd", "positions");
    refused(rope_fwd(&dev, y.at_mut(0..9), ids.view(), a.view(), 1, 3), "rope_fwd", "D is even");
    refused(rope_bwd(&dev, y.view_mut(), ids.view(), a.view(), 1, 6), "rope_bwd", "dx [N, H, D]");
    refused(swiglu_fwd(&dev, a.view(), b.view(), y.view_mut()), "swiglu_fwd", "up [N, F]");
    refused(swiglu_fwd(&dev, b.view(), b.view(), y.view_mut()), "swiglu_fwd", "h [N, F]");
    let (mut z, a12) = (poisoned(&dev, 12), a.view());
    refused(swiglu_bwd(&dev, b.view(), a12, a12, y.view_mut(), z.view_mut()), "swiglu_bwd", "dh [N, F]");
    refused(swiglu_bwd(&dev, a12, a12, a12, y.at_mut(0..5), z.view_mut()), "swiglu_bwd", "dgate [N, F]");
    refused(embed_fwd(&dev, ids.view(), a.view(), y.view_mut(), 5), "embed_fwd", "x [N, C]");
    refused(embed_fwd(&dev, ids.view(), b.view(), y.view_mut(), 4), "embed_fwd", "table [V, C]");
    refused(embed_fwd(&dev, ids.view(), a.view(), y.view_mut(), 4), "embed_fwd", "ids below V");
    let (mut none, mut some) = (dev.zeros(DType::I32, 0).unwrap(), dev.zeros(DType::I32, 1).unwrap());
    refused(embed_bwd(&dev, ids.view(), a.view(), z.view_mut(), none.view_mut(), 4), "embed_bwd", "ids below V");
    refused(embed_bwd(&dev, ids.view(), a.view(), z.view_mut(), some.view_mut(), 4), "embed_bwd", "order");
    refused(copy(&dev, b.view(), z.view_mut()), "copy", "y [N]");
    assert!(take(&dev, &y).iter().all(|x| x.is_nan()), "a refused op has written");
}
