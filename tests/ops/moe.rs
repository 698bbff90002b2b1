//! A mixture of experts, op by op: grouped rows have the bits of the plain product, kernels those of the CPU; ties, NaN,
//! refusals. The oracle: ops_cases; the whole block: ops_moe_block.

use crate::support::*;
use haggle::device::{Buffer, DType, Device, View, ViewMut};
use haggle::ops::gemm::{Matrix, Store, gemm_nn, gemm_nt, gemm_pack, gemm_tn, panels_len};
use haggle::ops::gemm_grouped::{gemm_grouped_nn, gemm_grouped_nt, gemm_grouped_tn};
use haggle::ops::moe::*;

/// Rows of each expert, N and K: none, one, few and many rows an expert, whole vectors and not, long sums.
const GROUPS: [(&[usize], [usize; 2]); 5] = [
    (&[1], [8, 16]),
    (&[0, 3, 0, 0, 1, 17, 0], [33, 21]),
    (&[40, 0, 9], [72, 136]),
    (&[150, 131], [40, 24]),
    (&[2, 5], [16, 1100]),
];

fn upload(dev: &Device, x: &[f32], dtype: DType) -> Buffer {
    if dtype == DType::Bf16 { dev.upload(&round(x)).unwrap() } else { dev.upload(x).unwrap() }
}

/// An output's numbers, after a look at its guard.
fn numbers(dev: &Device, x: &Buffer) -> Vec<f32> {
    assert!(x.guard_intact(), "the op wrote behind its output");
    if x.dtype() == DType::Bf16 { floats(&dev.to_vec(x.view())) } else { dev.to_vec(x.view()) }
}

fn offsets_of(rows: &[usize]) -> Vec<i32> {
    std::iter::once(0)
        .chain(rows.iter().scan(0, |sum, n| {
            *sum += *n as i32;
            Some(*sum)
        }))
        .collect()
}

/// Number types of the weights where tensors are of this one: on the CPU those that are frozen may be bf16.
fn weights(dev: &Device, dtype: DType) -> Vec<DType> {
    if matches!(dev, Device::Cpu(_)) { vec![DType::F32, DType::Bf16] } else { vec![dtype] }
}

/// Devices and the number types of a model's tensors on them.
fn everywhere() -> Vec<(String, Device, DType)> {
    let on_cpu = devices().into_iter().chain(medium_devices()).map(|(name, dev)| (name, dev, DType::F32));
    let kernels = |dtype: DType| move |(name, dev): (String, Device)| (format!("{name} {}", dtype.name()), dev, dtype);
    let few = || kernel_devices().into_iter().skip(1);
    on_cpu.chain(few().map(kernels(DType::F32))).chain(few().map(kernels(DType::Bf16))).collect()
}

type Rows = fn(&Device, View, View, ViewMut, View, usize, usize, Store) -> haggle::Result<()>;
type Plain = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> haggle::Result<()>;

#[test]
fn a_row_of_a_group_has_the_bits_of_the_plain_product_on_that_row_alone() {
    let nt: Rows = |dev, a, b, c, at, n, k, store| gemm_grouped_nt(dev, a, b, c, at, n, k, store);
    let plain_nt: Plain = |dev, a, b, c, m, n, k, store| gemm_nt(dev, a, b, c, m, n, k, store);
    for (name, dev, dtype) in everywhere() {
        for (stem, grouped, plain) in [("gemm_grouped_nt", nt, plain_nt), ("gemm_grouped_nn", gemm_grouped_nn, gemm_nn)]
        {
            let each = weights(&dev, dtype).into_iter().flat_map(|of| GROUPS.map(|group| (of, group)));
            for (of, (rows, [n, k])) in each {
                let (e, r, offsets) = (rows.len(), rows.iter().sum::<usize>(), offsets_of(rows));
                let (a, b) = (upload(&dev, &normal(r * k, 1), dtype), upload(&dev, &normal(e * n * k, 2), of));
                let at = dev.upload(&offsets).unwrap();
                for store in [Store::Set, Store::Add] {
                    let start = if store == Store::Add { normal(r * n, 3) } else { vec![f32::NAN; r * n] };
                    let (mut got, mut want) = (upload(&dev, &start, dtype), upload(&dev, &start, dtype));
                    grouped(&dev, a.view(), b.view(), got.view_mut(), at.view(), n, k, store).unwrap();
                    for group in 0..e {
                        let b = b.at(group * n * k..(group + 1) * n * k);
                        for row in offsets[group] as usize..offsets[group + 1] as usize {
                            let (a, c) = (a.at(row * k..(row + 1) * k), want.at_mut(row * n..(row + 1) * n));
                            plain(&dev, a, b, c, 1, n, k, store).unwrap();
                        }
                    }
                    let what = format!("{name}, weights {}, {store:?}", of.name());
                    same(stem, &what, &[r, n], &numbers(&dev, &want), &numbers(&dev, &got));
                }
            }
        }
    }
}

#[test]
fn an_experts_gradient_has_the_bits_of_the_plain_product_on_its_rows() {
    for (name, dev, dtype) in everywhere() {
        for (rows, [m, n]) in GROUPS {
            let (e, r, offsets) = (rows.len(), rows.iter().sum::<usize>(), offsets_of(rows));
            let (a, b) = (upload(&dev, &normal(r * m, 1), dtype), upload(&dev, &normal(r * n, 2), dtype));
            let at = dev.upload(&offsets).unwrap();
            for store in [Store::Set, Store::Add] {
                let start = if store == Store::Add { normal(e * m * n, 3) } else { vec![f32::NAN; e * m * n] };
                let (mut got, mut want) = (dev.upload(&start).unwrap(), dev.upload(&start).unwrap());
                gemm_grouped_tn(&dev, a.view(), b.view(), got.view_mut(), at.view(), m, n, store).unwrap();
                for group in 0..e {
                    let (from, to) = (offsets[group] as usize, offsets[group + 1] as usize);
                    let c = want.at_mut(group * m * n..(group + 1) * m * n);
                    gemm_tn(&dev, a.at(from * m..to * m), b.at(from * n..to * n), c, m, n, to - from, store).unwrap();
                }
                let what = format!("{name} {store:?}");
                same("gemm_grouped_tn", &what, &[e, m, n], &numbers(&dev, &want), &numbers(&dev, &got));
            }
        }
    }
}

#[test]
fn panels_of_experts_change_no_bit() {
    for (name, dev) in devices().into_iter().chain(medium_devices()) {
        let each = weights(&dev, DType::F32).into_iter().flat_map(|of| GROUPS.map(|group| (of, group)));
        for (of, (rows, [n, k])) in each {
            let (e, r, len) = (rows.len(), rows.iter().sum::<usize>(), panels_len(&dev, n, k, of));
            let (a, b) = (dev.upload(&normal(r * k, 1)).unwrap(), upload(&dev, &normal(e * n * k, 2), of));
            let (at, mut panels) = (dev.upload(&offsets_of(rows)).unwrap(), poisoned(&dev, e * len));
            for e in 0..e {
                let to = panels.at_mut(e * len..(e + 1) * len);
                gemm_pack(&dev, b.at(e * n * k..(e + 1) * n * k), to, n, k).unwrap();
            }
            let [plain, packed] = [None, Some(panels.view())].map(|panels| {
                let mut c = poisoned(&dev, r * n);
                let b = Matrix { rows: b.view(), panels };
                gemm_grouped_nt(&dev, a.view(), b, c.view_mut(), at.view(), n, k, Store::Set).unwrap();
                take(&dev, &c)
            });
            same("gemm_grouped_nt", &name, &[r, n], &plain, &packed);
        }
    }
}

/// Everything that routing makes of logits, as floats, by name.
fn routed(dev: &Device, logits: &[f32], [e, a]: [usize; 2], normalise: bool) -> Vec<(&'static str, Vec<f32>)> {
    let n = logits.len() / e;
    let r = n * a;
    let ids = |len: usize| dev.upload(&vec![i32::MIN; len]).unwrap();
    let (z, mut probs, mut gates, mut experts) =
        (dev.upload(logits).unwrap(), poisoned(dev, n * e), poisoned(dev, r), ids(r));
    route_topk_fwd(dev, z.view(), probs.view_mut(), experts.view_mut(), gates.view_mut(), [e, a], normalise).unwrap();
    let (mut order, mut place, mut offsets, mut counts) = (ids(r), ids(r), ids(e + 1), ids(e));
    moe_sort(dev, experts.view(), order.view_mut(), place.view_mut(), offsets.view_mut()).unwrap();
    let (mut mean, mut loss, mut dlogits) = (poisoned(dev, e), poisoned(dev, 1), poisoned(dev, n * e));
    route_balance_fwd(dev, probs.view(), offsets.view(), counts.view_mut(), mean.view_mut(), loss.view_mut()).unwrap();
    let dgates = dev.upload(&normal(r, 9)).unwrap();
    let (p, x, g) = (probs.view(), experts.view(), gates.view());
    route_topk_bwd(dev, dgates.view(), p, x, g, dlogits.view_mut(), [e, a], normalise).unwrap();
    let own = take(dev, &dlogits);
    route_balance_bwd(dev, p, counts.view(), dlogits.view_mut(), 0.7).unwrap();
    let whole = |x: &Buffer| -> Vec<f32> {
        assert!(x.guard_intact());
        dev.to_vec::<i32>(x.view()).iter().map(|x| *x as f32).collect()
    };
    let ints =
        [("experts", &experts), ("order", &order), ("place", &place), ("offsets", &offsets), ("counts", &counts)];
    let floats = [("probs", &probs), ("gates", &gates), ("mean", &mean), ("loss", &loss), ("dlogits", &dlogits)];
    let ints = ints.into_iter().map(|(name, x)| (name, whole(x)));
    let floats = floats.into_iter().map(|(name, x)| (name, take(dev, x)));
    ints.chain(floats).chain([("dlogits of gates", own)]).collect()
}

/// N, E, A: one of each, odd ones, the model's, as many as there may be.
const ROUTES: [[usize; 3]; 5] = [[1, 1, 1], [7, 5, 3], [333, 128, 8], [90, 256, 9], [65, 60, 60]];

#[test]
fn kernels_route_with_the_bits_of_the_cpu_whatever_the_threads() {
    for [n, e, a] in ROUTES {
        for normalise in [true, false] {
            let logits: Vec<f32> = normal(n * e, 4).iter().map(|z| 3.0 * z).collect();
            let want = routed(&cpu(1), &logits, [e, a], normalise);
            for (name, dev) in devices().into_iter().chain(kernel_devices()) {
                for ((output, want), (_, got)) in want.iter().zip(routed(&dev, &logits, [e, a], normalise)) {
                    same("route", &format!("{name} {output}"), &[n, e, a], want, &got);
                }
            }
        }
    }
}

/// Rows gathered, combined, and both backwards, by name; inputs are stored as `dtype`.
fn moved(dev: &Device, [n, e, a, c]: [usize; 4], dtype: DType) -> Vec<(&'static str, Vec<f32>)> {
    let (r, experts) = (n * a, indices(n * a, e, 5));
    let ids = |len: usize| dev.upload(&vec![i32::MIN; len]).unwrap();
    let (mut order, mut place, mut offsets) = (ids(r), ids(r), ids(e + 1));
    let experts = dev.upload(&experts).unwrap();
    moe_sort(dev, experts.view(), order.view_mut(), place.view_mut(), offsets.view_mut()).unwrap();
    let input = |len, stream| upload(dev, &normal(len, stream), dtype);
    let none = |len| upload(dev, &vec![f32::NAN; len], dtype);
    let gates = dev.upload(&normal(r, 6)).unwrap();
    let (x, out, dxs, mut y, mut more) =
        (input(n * c, 1), input(r * c, 2), input(r * c, 3), input(n * c, 4), input(n * c, 5));
    let (mut xs, mut dx, mut dout, mut dgates) = (none(r * c), none(n * c), none(r * c), poisoned(dev, r));
    moe_gather_fwd(dev, x.view(), [order.view(), place.view()], xs.view_mut(), c).unwrap();
    moe_gather_bwd(dev, dxs.view(), place.view(), dx.view_mut(), c, Store::Set).unwrap();
    moe_gather_bwd(dev, dxs.view(), place.view(), more.view_mut(), c, Store::Add).unwrap();
    moe_combine_fwd(dev, out.view(), gates.view(), place.view(), y.view_mut(), c).unwrap();
    let at = [order.view(), place.view()];
    moe_combine_bwd(dev, x.view(), out.view(), gates.view(), at, dout.view_mut(), dgates.view_mut(), c).unwrap();
    let all = [("xs", xs), ("dx", dx), ("dx, added to", more), ("y", y), ("dout", dout), ("dgates", dgates)];
    all.into_iter().map(|(name, x)| (name, numbers(dev, &x))).collect()
}

#[test]
fn kernels_move_rows_with_the_bits_of_the_cpu_whatever_the_threads() {
    for dims in [[1, 1, 1, 1], [5, 9, 3, 33], [130, 7, 2, 64], [3, 128, 8, 2048], [40, 4, 4, 130]] {
        let want = moved(&cpu(1), dims, DType::F32);
        for (name, dev) in devices().into_iter().chain(kernel_devices()) {
            for ((output, want), (_, got)) in want.iter().zip(moved(&dev, dims, DType::F32)) {
                same("moe rows", &format!("{name} {output}"), &dims, want, &got);
            }
        }
        let mut first = None;
        for (name, dev) in kernel_devices() {
            let got = moved(&dev, dims, DType::Bf16);
            for ((output, want), (_, got)) in first.get_or_insert_with(|| got.clone()).iter().zip(&got) {
                same("moe rows", &format!("{name} bf16 {output}"), &dims, want, got);
            }
        }
    }
}

#[test]
fn medium_precision_rounds_what_products_read_and_nothing_else() {
    for (_, dev) in medium_devices() {
        let (x, gates) = (upload(&dev, &normal(6, 1), DType::Bf16), dev.upload(&[0.5f32, 0.25, 2.0, 1.0]).unwrap());
        let (order, place) = (dev.upload(&[1i32, 2, 3, 0]).unwrap(), dev.upload(&[3i32, 0, 1, 2]).unwrap());
        let (dy, out) = (dev.upload(&normal(6, 1)).unwrap(), dev.upload(&normal(12, 2)).unwrap());
        let (mut xs, mut dout) =
            (upload(&dev, &[f32::NAN; 12], DType::Bf16), upload(&dev, &[f32::NAN; 12], DType::Bf16));
        let (mut whole, mut dgates, mut again) = (poisoned(&dev, 12), poisoned(&dev, 4), poisoned(&dev, 4));
        moe_gather_fwd(&dev, x.view(), [order.view(), place.view()], xs.view_mut(), 3).unwrap();
        let rows: Vec<f32> =
            [0, 1, 1, 0].iter().flat_map(|t| floats(&round(&normal(6, 1)))[t * 3..][..3].to_vec()).collect();
        assert_eq!(numbers(&dev, &xs), rows);
        let at = [order.view(), place.view()];
        moe_combine_bwd(&dev, dy.view(), out.view(), gates.view(), at, dout.view_mut(), dgates.view_mut(), 3).unwrap();
        moe_combine_bwd(&dev, dy.view(), out.view(), gates.view(), at, whole.view_mut(), again.view_mut(), 3).unwrap();
        assert_eq!(numbers(&dev, &dout), floats(&round(&take(&dev, &whole))));
        assert_eq!(take(&dev, &dgates), take(&dev, &again));
    }
}

#[test]
fn of_equal_logits_the_lower_expert_comes_first_and_nan_is_seen_in_the_gates() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // Logits, and the experts of ranks 0 to 2; NaN, of either sign, is last.
    let rows: [([f32; 5], [f32; 3]); 7] = [
        ([1.0, 3.0, 3.0, 2.0, 3.0], [1.0, 2.0, 4.0]),
        ([0.0, -0.0, 0.0, -1.0, -0.0], [0.0, 1.0, 2.0]),
        ([nan, 1.0, -nan, 2.0, 0.0], [3.0, 1.0, 4.0]),
        ([nan; 5], [0.0, 1.0, 2.0]),
        ([-inf; 5], [0.0, 1.0, 2.0]),
        ([-inf, inf, -inf, nan, 0.0], [1.0, 4.0, 0.0]),
        ([-200.0, 0.0, -201.0, -199.0, -300.0], [1.0, 3.0, 0.0]),
    ];
    for (name, dev) in devices().into_iter().chain(kernel_devices()) {
        for normalise in [true, false] {
            for (logits, want) in rows {
                let found = routed(&dev, &logits, [5, 3], normalise);
                let of = |name: &str| &found.iter().find(|(n, _)| *n == name).unwrap().1;
                assert_eq!(of("experts"), &want, "{name}: {logits:?}");
                let ill = logits.iter().all(|z| *z == -inf) || logits.iter().any(|z| z.is_nan() || *z == inf);
                for output in ["gates", "probs", "loss"] {
                    let all = of(output).iter().all(|x| x.is_nan() == ill);
                    assert!(all, "{name}: {output} {:?} of {logits:?}", of(output));
                }
            }
        }
    }
}

/// One decoded step of a layer's experts: launches and nothing else, so that it can be captured.
#[test]
fn nobody_waits_for_counts_and_a_captured_step_runs_again_for_other_experts() {
    let (n, e, a, c, f) = (3, 16, 2, 24, 8);
    let r = n * a;
    for (name, dev) in emus() {
        let x = |stream| normal(n * c, stream);
        let of = |len: usize, stream| dev.upload(&normal(len, stream)).unwrap();
        let ids = |len: usize| dev.upload(&vec![i32::MIN; len]).unwrap();
        let (w_router, w_up, w_down) = (of(e * c, 7), of(e * f * c, 8), of(e * c * f, 9));
        let [mut logits, mut probs] = [0, 1].map(|_| poisoned(&dev, n * e));
        let (mut experts, mut gates, mut order, mut place, mut at) =
            (ids(r), poisoned(&dev, r), ids(r), ids(r), ids(e + 1));
        let [mut xs, mut out] = [0, 1].map(|_| poisoned(&dev, r * c));
        let (mut h, mut y, mut from) = (poisoned(&dev, r * f), poisoned(&dev, n * c), of(n * c, 1));
        let mut step = |from: View, y: ViewMut| -> haggle::Result<()> {
            gemm_nt(&dev, from, w_router.view(), logits.view_mut(), n, e, c, Store::Set)?;
            let to = (probs.view_mut(), experts.view_mut(), gates.view_mut());
            route_topk_fwd(&dev, logits.view(), to.0, to.1, to.2, [e, a], true)?;
            moe_sort(&dev, experts.view(), order.view_mut(), place.view_mut(), at.view_mut())?;
            moe_gather_fwd(&dev, from, [order.view(), place.view()], xs.view_mut(), c)?;
            gemm_grouped_nt(&dev, xs.view(), w_up.view(), h.view_mut(), at.view(), f, c, Store::Set)?;
            gemm_grouped_nt(&dev, h.view(), w_down.view(), out.view_mut(), at.view(), c, f, Store::Set)?;
            moe_combine_fwd(&dev, out.view(), gates.view(), place.view(), y, c)
        };
        let mut want = Vec::new();
        for stream in [1, 2] {
            dev.write(from.view_mut(), &x(stream));
            dev.write(y.view_mut(), &vec![0.5f32; n * c]);
            let before = dev.traffic();
            step(from.view(), y.view_mut()).unwrap();
            assert_eq!((dev.traffic().waits, dev.traffic().uploads), (before.waits, before.uploads), "{name}");
            want.push(take(&dev, &y));
        }
        assert_ne!(want[0], want[1]);
        let graph = dev.capture("experts", || step(from.view(), y.view_mut())).unwrap();
        for (stream, want) in [1, 2].into_iter().zip(want) {
            dev.write(from.view_mut(), &x(stream));
            dev.write(y.view_mut(), &vec![0.5f32; n * c]);
            dev.replay(&graph).unwrap();
            same("a captured step", &name, &[n, c], &want, &take(&dev, &y));
        }
    }
}

#[test]
fn wrong_shapes_and_numbers_are_refused() {
    let dev = cpu(1);
    let f = |len: usize| dev.zeros(DType::F32, len).unwrap();
    let i = |x: &[i32]| dev.upload(x).unwrap();
    let route = |logits: usize, experts: usize, dims: [usize; 2]| {
        let (mut probs, mut ids, mut gates) = (f(logits), i(&vec![0; experts]), f(experts));
        route_topk_fwd(&dev, f(logits).view(), probs.view_mut(), ids.view_mut(), gates.view_mut(), dims, true)
    };
    route(8, 4, [4, 2]).unwrap();
    refused(route(514, 2, [257, 1]), "route_topk_fwd", "E at most 256");
    refused(route(8, 10, [4, 5]), "route_topk_fwd", "1 <= A <= E");
    refused(route(8, 0, [4, 0]), "route_topk_fwd", "1 <= A <= E");
    refused(route(9, 4, [4, 2]), "route_topk_fwd", "probs [N, E]");
    refused(route(8, 3, [4, 2]), "route_topk_fwd", "gates [N, A]");
    let sort = |experts: &[i32], e: usize| {
        let (mut order, mut place, mut at) = (i(experts), i(experts), i(&vec![0; e + 1]));
        moe_sort(&dev, i(experts).view(), order.view_mut(), place.view_mut(), at.view_mut())
    };
    refused(sort(&[0, 4], 4), "moe_sort", "experts below E");
    refused(sort(&[0, -1], 4), "moe_sort", "experts below E");
    refused(sort(&[0], 257), "moe_sort", "E at most 256");
    let grouped = |offsets: &[i32]| {
        let mut c = f(6);
        gemm_grouped_nt(&dev, f(4).view(), f(12).view(), c.view_mut(), i(offsets).view(), 3, 2, Store::Set)
    };
    grouped(&[0, 1, 2]).unwrap();
    for wrong in [[0, 3, 2], [1, 1, 2], [0, 1, 1], [0, 1, 3]] {
        refused(grouped(&wrong), "gemm_grouped_nt", "offsets [E + 1] ascend from 0 to R");
    }
    refused(grouped(&[0, 2]), "gemm_grouped_nt", "b has E N K elements");
    let mut xs = f(8);
    let mut gather = |x: &Buffer, order: &[i32], place: &[i32]| {
        let at = [i(order), i(place)];
        moe_gather_fwd(&dev, x.view(), at.each_ref().map(Buffer::view), xs.view_mut(), 2)
    };
    refused(gather(&f(4), &[0, 1, 2, 4], &[0, 1, 2, 3]), "moe_gather_fwd", "order below R");
    refused(gather(&f(4), &[0, 1, 2, 3], &[0, 1, 2]), "moe_gather_fwd", "place [R]");
    refused(gather(&f(6), &[0, 1, 2, 3], &[0, 1, 2, 3]), "moe_gather_fwd", "R = N A");
    let (mut counts, mut mean, mut loss) = (i(&[0; 4]), f(4), f(1));
    let none =
        route_balance_fwd(&dev, f(0).view(), i(&[0; 5]).view(), counts.view_mut(), mean.view_mut(), loss.view_mut());
    refused(none, "route_balance_fwd", "tokens N at least");
}
