//! Hopper's instructions on the emulator: bulk tensor copies, mbarriers, wgmma; that planted faults in their use are
//! reported; and the kernels written with them against their twins.

use crate::support::{emus, floats, gpu, launch, normal, round, same, tensor};
use haggle::device::gpu::tensor_map::{Shape, TensorMap};
use haggle::device::gpu::{Arg, Gpu, emu::Emu};
use haggle::device::{DType, Device, View};
use haggle::ops::gemm::Store;
use haggle::ops::gemm::gpu::{NN, NT, Op, TN, by_tile};
use haggle::ops::gemm::tiles::{SM90_128X256, T16X32, Tile};
use haggle::{Error, Result};
use half::bf16;
use std::sync::Arc;

#[test]
fn mbarriers_pass_a_ring_of_slots_in_any_order() {
    let rounds = 9;
    let x = normal(rounds * 32, 1);
    let want: Vec<f32> = x.chunks(32).flat_map(|row| row.iter().rev().map(|x| 2.0 * x)).collect();
    for (name, dev) in emus() {
        let (x, mut y) = (dev.upload(&x).unwrap(), dev.upload(&vec![f32::NAN; rounds * 32]).unwrap());
        let args = &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(rounds as i32)];
        launch(&dev, "probe_mbarrier", 1, 64, 0, args).unwrap();
        assert_eq!(dev.to_vec::<f32>(y.view()), want, "{name}");
    }
}

/// Where element `at` of line `line` of 64 lies.
fn swizzled(line: usize, at: usize) -> usize {
    line * 64 + ((at / 8) ^ (line % 8)) * 8 + at % 8
}

#[test]
fn a_bulk_copy_brings_a_swizzled_box_and_zeros_outside() {
    // Columns, rows and planes of a tensor whose rows are 104 apart.
    let (dims, strides) = ([100usize, 7, 3], [104usize, 7 * 104]);
    let x: Vec<bf16> = (0..3 * 7 * 104).map(|i| bf16::from_bits(i as u16 + 1)).collect();
    let cases = [
        (2, [64, 16, 1], [0i32, 0, 0]),
        (2, [64, 8, 1], [50, -2, 0]),
        (3, [64, 4, 2], [-8, 5, 1]),
        (3, [64, 1, 3], [64, 6, 1]),
    ];
    for (name, dev) in emus() {
        for (rank, boxes, at) in cases {
            let tensor = dev.upload(&x).unwrap();
            let shape = Shape { dims: &dims[..rank], strides: &strides[..rank - 1], boxes: &boxes[..rank] };
            let map = gpu(&dev).tensor_map("probe", tensor.view(), shape).unwrap();
            let elements = boxes.iter().product::<usize>();
            let mut out = dev.zeros(DType::Bf16, elements).unwrap();
            let numbers = [rank as i32, elements as i32, at[0], at[1], at[2]].map(Arg::I32);
            let mut args = vec![Arg::Map(map), Arg::Out(out.view_mut())];
            args.extend(numbers);
            launch(&dev, "probe_bulk_copy", 1, 32, 1024 + 2 * elements as u32, &mut args).unwrap();
            let got: Vec<bf16> = dev.to_vec(out.view());
            for (line, i) in (0..boxes[1] * boxes[2]).flat_map(|line| (0..64).map(move |i| (line, i))) {
                let place = [at[0] + i as i32, at[1] + (line % boxes[1]) as i32, at[2] + (line / boxes[1]) as i32];
                let inside = place.iter().zip(dims).all(|(p, dim)| (0..dim as i32).contains(p));
                let from = || x[place[2] as usize * strides[1] + place[1] as usize * strides[0] + place[0] as usize];
                let want = if inside { from().to_bits() } else { 0 };
                assert_eq!(got[swizzled(line, i)].to_bits(), want, "{name}: box {boxes:?} at {at:?}, {place:?}");
            }
        }
    }
}

#[test]
fn wgmma_multiplies_every_layout_as_a_chain_of_steps() {
    let cases = [(32, 0, 0), (64, 0, 0), (64, 0, 1), (64, 1, 0), (128, 2, 0), (128, 2, 1), (256, 3, 0)];
    for (name, dev) in emus() {
        for ((n, turned, in_registers), add) in cases.iter().flat_map(|case| [(*case, 0), (*case, 1)]) {
            let (a, b, c) = (round(&normal(64 * 64, 1)), round(&normal(64 * n, 2)), normal(64 * n, 3));
            let a_at = |i: usize, k: usize| a[if turned & 1 == 1 { k * 64 + i } else { i * 64 + k }].to_f32();
            let b_at = |k: usize, j: usize| b[if turned & 2 == 2 { k * n + j } else { j * 64 + k }].to_f32();
            let start = |at: usize| if add == 1 { c[at] } else { 0.0 };
            let want = tensor::product(tensor::HOPPER, [64, n, 64], start, a_at, b_at);
            // What is not added to must not matter.
            let d = if add == 1 { c.clone() } else { vec![f32::NAN; 64 * n] };
            let (a, b, mut d) = (dev.upload(&a).unwrap(), dev.upload(&b).unwrap(), dev.upload(&d).unwrap());
            let mut args = vec![Arg::In(a.view()), Arg::In(b.view()), Arg::Out(d.view_mut())];
            args.extend([n as i32, turned, add, in_registers].map(Arg::I32));
            launch(&dev, "probe_wgmma", 1, 128, 1024 + 128 * (64 + n as u32), &mut args).unwrap();
            let what = format!("{name}, turned {turned}, add {add}, a in registers {in_registers}");
            same("wgmma", &what, &[64, n], &want, &dev.to_vec(d.view()));
        }
    }
}

/// The product of planted_sm90 with a fault.
fn planted(kernel: &'static str, fault: i32) -> Result<Vec<f32>> {
    let dev = emus().remove(0).1;
    let (a, b) = (dev.upload(&round(&normal(64 * 64, 1))).unwrap(), dev.upload(&round(&normal(64 * 64, 2))).unwrap());
    let mut y = dev.upload(&[0f32; 64 * 64]).unwrap();
    let args = &mut [
        Arg::Map(tile_map(&dev, a.view())?),
        Arg::Map(tile_map(&dev, b.view())?),
        Arg::Out(y.view_mut()),
        Arg::I32(fault),
    ];
    launch(&dev, kernel, 1, 128, 1024 + 2 * 8192, args)?;
    Ok(dev.to_vec(y.view()))
}

fn tile_map<'a>(dev: &Device, view: View<'a>) -> Result<TensorMap<'a>> {
    gpu(dev).tensor_map("probe", view, Shape { dims: &[64, 64], strides: &[64], boxes: &[64, 64] })
}

#[track_caller]
fn reports(result: Result<Vec<f32>>, fault: i32, part: &str) {
    match result {
        Ok(_) => panic!("fault {fault}: nothing was reported, want `{part}`"),
        Err(Error::Kernel { what, .. }) => {
            println!("fault {fault}: {what}");
            assert!(what.contains(part), "fault {fault}: reported `{what}`, want `{part}`");
        }
        Err(other) => panic!("fault {fault}: reported otherwise: {other}"),
    }
}

#[test]
fn planted_faults_of_sm90_are_reported() {
    let (a, b) = (floats(&round(&normal(64 * 64, 1))), floats(&round(&normal(64 * 64, 2))));
    let want = tensor::product(tensor::HOPPER, [64; 3], |_| 0.0, |i, k| a[i * 64 + k], |k, j| b[j * 64 + k]);
    for kernel in ["planted_sm90", "planted_sm90_checked"] {
        same(kernel, "right", &[64, 64], &want, &planted(kernel, 0).unwrap());
    }
    let faults = [
        (1, "the mbarrier at byte 0 of shared array `s_bar` is not initialised"),
        (
            2,
            "deadlock: waits for the mbarrier at byte 0 of shared array `s_bar`, whose phase 0 lacks 1 of 2 arrivals and 0 bytes",
        ),
        (3, "has no fence.mbarrier_init after its initialisation"),
        (4, "was initialised by thread 0 with no barrier since"),
        (5, "whose phase 0 lacks 0 of 1 arrivals and 8192 bytes"),
        (6, "a bulk copy into its shared memory is still under way"),
        (7, "takes 1 arrivals a phase, this is one more"),
        (8, "misaligned cp.async.bulk.tensor"),
        (9, "a bulk copy into its shared memory is still under way"),
        (10, "a bulk copy into its shared memory is still under way"),
        (11, "asks for swizzle mode 2"),
        (12, "wgmma without wgmma.fence"),
        (13, "have not run the same number of wgmma"),
        (14, "has changed between its start and its wait"),
        (16, "a wgmma of this warp was not waited for"),
    ];
    // Where every kernel is checked, an operand that is on its way is told as what nobody has written.
    let checked = std::env::var("HAGGLE_EMU_CHECK").is_ok_and(|v| v == "1");
    for (fault, what) in faults {
        let what = if checked && [6, 10].contains(&fault) { "which nobody has written" } else { what };
        reports(planted("planted_sm90", fault), fault, what);
    }
    let early = planted("planted_sm90", 15).unwrap();
    assert!(early.iter().all(|y| y.is_nan()), "accumulators read before the wait are poison");
}

#[test]
fn operands_written_by_threads_need_a_fence_when_checked() {
    let run = |kernel, right| {
        let dev = emus().remove(0).1;
        let (a, mut y) = (dev.upload(&round(&normal(64 * 64, 1))).unwrap(), dev.upload(&[0f32; 64 * 64]).unwrap());
        let args = &mut [Arg::In(a.view()), Arg::Out(y.view_mut()), Arg::I32(right)];
        launch(&dev, kernel, 1, 128, 1024 + 8192, args)?;
        Ok(dev.to_vec(y.view()))
    };
    let want = run("planted_unfenced", 1).unwrap();
    same("planted_unfenced_checked", "right", &[64, 64], &want, &run("planted_unfenced_checked", 1).unwrap());
    reports(run("planted_unfenced_checked", 0), 0, "unfenced: wgmma reads byte");
}

#[test]
fn tensors_the_copy_engine_does_not_take_are_refused() {
    let dev = emus().remove(0).1;
    let x = dev.zeros(DType::Bf16, 64 * 64 + 8).unwrap();
    let refused = |view: View, dims: &[usize], strides: &[usize], boxes: &[usize], rule: &str| {
        crate::support::refused(gpu(&dev).tensor_map("probe", view, Shape { dims, strides, boxes }), "probe", rule);
    };
    let all = x.view();
    refused(all.at(1..4096), &[64, 8], &[64], &[64, 8], "starts on 16 bytes");
    refused(all, &[64, 8], &[65], &[64, 8], "multiples of 16 bytes");
    refused(all, &[64, 66], &[64], &[64, 8], "elements at most");
    refused(all, &[64, 0], &[64], &[64, 8], "1 to 2^32");
    refused(all, &[64, 8], &[64], &[32, 8], "64 elements wide");
    refused(all, &[64, 8], &[64], &[64, 257], "boxes are 1 to 256");
    refused(all, &[64], &[], &[64], "2 or 3 dimensions");
    let floats = dev.zeros(DType::F32, 64 * 64).unwrap();
    let shape = Shape { dims: &[64, 64], strides: &[64], boxes: &[64, 64] };
    assert!(matches!(gpu(&dev).tensor_map("probe", floats.view(), shape), Err(Error::DType { .. })));
}

/// The emulator, in its natural thread order and a shuffled one, plain and with Hopper's kernels.
fn pairs() -> [(Device, Device); 2] {
    [0, 1].map(|seed| {
        let emu = |hopper| Emu::with_seed(2, seed).unwrap().with_hopper(hopper);
        let device = |hopper| Device::Gpu(Arc::new(Gpu::Emu(emu(hopper))));
        (device(false), device(true))
    })
}

/// Each product, and whether its operands are stored K by K.
const GEMMS: [(&str, &Op, [bool; 2]); 3] =
    [("gemm_nt_sm90", &NT, [false, false]), ("gemm_nn_sm90", &NN, [false, true]), ("gemm_tn_sm90", &TN, [true, true])];

/// The tiles by tensor maps that a product has.
fn tiles((_, op, _): (&str, &'static Op, [bool; 2])) -> impl Iterator<Item = Tile> {
    op.tiles(true).filter(|tile| tile.by_maps())
}

/// A product into bf16 or f32 by this tile, whichever would be chosen; where it is Hopper's and does not take the shape, by
/// another.
fn product(
    dev: &Device,
    tile: Tile,
    (stem, op, by_k): (&str, &Op, [bool; 2]),
    [a, b]: [&[bf16]; 2],
    c: &[f32],
    [m, n, k]: [usize; 3],
    store: Store,
    into: DType,
) -> Vec<f32> {
    let (a, b) = (dev.upload(a).unwrap(), dev.upload(b).unwrap());
    let mut c = if into == DType::F32 { dev.upload(c).unwrap() } else { dev.upload(&round(c)).unwrap() };
    let lines = [if by_k[0] { m } else { k }, if by_k[1] { n } else { k }];
    let takes = tile.by_maps() && k > 0 && lines.iter().all(|line| line % 8 == 0);
    let tile = if takes { tile } else { T16X32 };
    dev.start_recording(16).unwrap();
    by_tile(gpu(dev), op, tile, [a.view(), b.view()], c.view_mut(), [m, n, k], store).unwrap();
    let kernels: Vec<_> = dev.stop_recording().unwrap().events.iter().map(|e| e.name).collect();
    let hopper = kernels.iter().any(|name| name.starts_with(stem));
    assert_eq!(hopper, takes, "{stem} M {m} N {n} K {k}: ran {kernels:?}");
    assert!(c.guard_intact());
    if into == DType::F32 { dev.to_vec(c.view()) } else { floats(&dev.to_vec(c.view())) }
}

/// Few rows, one tile and several, edges of tiles, one step of K and more than the ring, lines that maps do not take.
#[test]
fn products_of_sm90_have_the_bits_of_their_twins_on_the_emulator() {
    let straight =
        vec![[1, 1, 8], [17, 1, 8], [128, 256, 64], [130, 257, 200], [64, 40, 520], [70, 300, 65], [20, 20, 0]];
    let turned =
        vec![[8, 8, 1], [24, 8, 1], [128, 256, 64], [136, 264, 201], [64, 40, 520], [70, 304, 72], [72, 301, 72]];
    for (gemm, dims) in GEMMS.iter().flat_map(|gemm| {
        let all = if gemm.2 == [false, false] { &straight } else { &turned };
        all.iter().map(move |dims| (*gemm, *dims))
    }) {
        let [m, n, k] = dims;
        let (a, b, c) = (round(&normal(m * k, 1)), round(&normal(n * k, 2)), normal(m * n, 3));
        // gemm_nn gives the gradient of an input, bf16 alone.
        let types = if gemm.0 == "gemm_nn_sm90" { vec![DType::Bf16] } else { vec![DType::Bf16, DType::F32] };
        for ((plain, hopper), into) in pairs().iter().flat_map(|pair| types.iter().map(move |into| (pair, *into))) {
            for store in [Store::Set, Store::Add] {
                // What Set finds in C must not matter.
                let c = if store == Store::Set { vec![f32::NAN; m * n] } else { c.clone() };
                let run = |dev, tile| product(dev, tile, gemm, [&a, &b], &c, dims, store, into);
                let want = run(plain, T16X32);
                for tile in tiles(gemm) {
                    let what = format!("K {k}, {store:?} into {} by {} columns", into.name(), tile.columns);
                    same(gemm.0, &what, &[m, n], &want, &run(hopper, tile));
                }
            }
        }
    }
}

/// Across tiles, and where the portable kernels take over. Rows of gemm_tn are columns of A: its row rule is that of
/// columns of dz, which training does not cut.
#[test]
fn products_of_sm90_row_alone_equals_row_in_batch() {
    let ([m, n, k], [_, (_, dev)]) = ([300, 264, 136], pairs());
    for gemm in &GEMMS[..2] {
        let into = if gemm.0 == "gemm_nn_sm90" { DType::Bf16 } else { DType::F32 };
        let (a, b) = (round(&normal(m * k, 1)), round(&normal(n * k, 2)));
        let run =
            |tile, a: &[bf16], m| product(&dev, tile, *gemm, [a, &b], &vec![0.0; m * n], [m, n, k], Store::Set, into);
        let whole = run(SM90_128X256, &a, m);
        for (start, rows) in [(0, 1), (299, 1), (31, 17), (100, 64), (120, 130)] {
            for tile in [T16X32].into_iter().chain(tiles(*gemm)) {
                let part = run(tile, &a[start * k..][..rows * k], rows);
                same(gemm.0, &format!("rows {start}.. by {rows}"), &[rows, n], &whole[start * n..][..rows * n], &part);
            }
        }
    }
}
