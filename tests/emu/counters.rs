//! The emulator's counters, each on a kernel whose traffic is known by hand (kernels/emu/planted/counters.cu): done right,
//! and with a planted waste.

use crate::support::{gpu, launch};
use haggle::device::gpu::counts::{Counted, Counts};
use haggle::device::gpu::{Arg, Gpu, emu::Emu};
use haggle::device::{Buffer, DType, Device};
use std::sync::Arc;

fn device(seed: u64) -> Device {
    Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, seed).unwrap())))
}

fn floats(dev: &Device, len: usize) -> Buffer {
    dev.zeros(DType::F32, len).unwrap()
}

/// What one launch did.
fn counted(dev: &Device, kernel: &'static str, grid: u32, threads: u32, args: &mut [Arg]) -> Counted {
    let Gpu::Emu(emu) = gpu(dev) else { panic!("not the emulator") };
    emu.start_counting();
    launch(dev, kernel, grid, threads, 0, args).unwrap();
    let all = emu.stop_counting();
    assert_eq!((all.len(), all[0].kernel, all[0].blocks, all[0].threads), (1, kernel, grid as u64, threads));
    all[0]
}

fn stride(dev: &Device, stride: i32) -> Counted {
    let (x, mut y) = (floats(dev, 8 * 64 * stride as usize), floats(dev, 8 * 64));
    let args = &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(stride)];
    counted(dev, "planted_stride", 8, 64, args)
}

/// 8 blocks of 2 warps; 32 lanes of 4 bytes are 4 sectors side by side.
#[test]
fn a_stride_of_two_reads_twice_the_sectors() {
    for seed in [0, 1] {
        let dev = device(seed);
        let right = stride(&dev, 1);
        let want =
            Counts { read_requests: 16, read_sectors: 64, write_requests: 16, write_sectors: 64, ..Counts::default() };
        assert_eq!((right.counts, right.touched), (want, [64, 64]));
        let wasteful = stride(&dev, 2);
        assert_eq!((wasteful.counts, wasteful.touched), (Counts { read_sectors: 128, ..want }, [128, 64]));
        assert_eq!(stride(&dev, 8).counts.read_sectors, 16 * 32);
    }
}

/// A part of the blocks, spread over the launch, tells of all.
#[test]
fn some_blocks_of_alike_ones_are_scaled_to_what_all_do() {
    let some = |n| Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, 0).unwrap().spread_blocks(n))));
    let (all, two) = (stride(&device(0), 2), stride(&some(2), 2));
    assert_eq!((two.counts, two.touched, two.blocks), (all.counts, all.touched, 8));
    // Of what each block reads whole, no more than there is.
    let wide = |dev: &Device| {
        let (x, mut y) = (floats(dev, 64), floats(dev, 8 * 64));
        counted(dev, "planted_stride", 8, 64, &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(0)])
    };
    assert_eq!(wide(&some(2)).touched[1], wide(&device(0)).touched[1]);
    assert!(wide(&some(2)).touched[0] <= 9);
    // Which run: one of each half, not in one column.
    let dev = some(2);
    let (x, mut y) = (dev.upload(&vec![1f32; 8 * 64]).unwrap(), floats(&dev, 8 * 64));
    counted(&dev, "planted_stride", 8, 64, &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(1)]);
    let written: Vec<usize> =
        dev.to_vec::<f32>(y.view()).chunks(64).enumerate().filter(|(_, c)| c[0] != 0.0).map(|(i, _)| i).collect();
    assert_eq!(written, [2, 4]);
}

#[test]
fn vectors_are_one_request_of_sixteen_sectors() {
    let dev = device(0);
    let (x, mut y) = (floats(&dev, 4 * 128), floats(&dev, 4 * 128));
    let got = counted(&dev, "planted_vectors", 2, 64, &mut [Arg::In(x.view()), Arg::Out(y.view_mut())]).counts;
    assert_eq!([got.read_requests, got.read_sectors, got.write_requests, got.write_sectors], [4, 64, 4, 64]);
}

fn reread(times: i32, ragged: i32) -> Counted {
    let dev = device(1);
    let (x, mut y) = (floats(&dev, 32), floats(&dev, 32));
    let args = &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(times), Arg::I32(ragged)];
    counted(&dev, "planted_reread", 1, 32, args)
}

#[test]
fn what_is_read_again_is_counted_again_and_touched_once() {
    let once = reread(1, 0);
    assert_eq!((once.counts.read_requests, once.counts.read_sectors, once.touched), (1, 4, [4, 4]));
    let often = reread(5, 0);
    assert_eq!((often.counts.read_requests, often.counts.read_sectors, often.touched), (5, 20, [4, 4]));
}

/// Every second lane goes round: the rounds are requests of half the lanes.
#[test]
fn lanes_that_leave_a_loop_early_share_the_requests_they_were_there_for() {
    let ragged = reread(3, 1);
    assert_eq!((ragged.counts.read_requests, ragged.counts.read_sectors), (3, 12));
}

#[test]
fn bank_conflicts_are_counted_by_the_banks_asked() {
    let dev = device(0);
    for (stride, way) in [(1, 1), (2, 2), (8, 8), (31, 1), (32, 32)] {
        let mut y = floats(&dev, 32);
        let got = counted(&dev, "planted_conflict", 1, 32, &mut [Arg::Out(y.view_mut()), Arg::I32(stride)]).counts;
        assert_eq!((got.shared_requests, got.shared_ideal, got.barriers), (2, 2, 1), "stride {stride}");
        assert_eq!((got.shared_wavefronts, got.worst_conflict, got.conflicts()), (2 * way, way, 2 * way - 2));
        assert_eq!(got.shared_bytes, 32 * 32 * 4);
    }
}

#[test]
fn lanes_of_one_store_count_in_the_memory_that_they_are_in() {
    let dev = device(0);
    let mut y = floats(&dev, 32);
    let got = counted(&dev, "planted_two_memories", 1, 32, &mut [Arg::Out(y.view_mut())]).counts;
    assert_eq!(dev.to_vec::<f32>(y.view()), (0..32).map(|i| i as f32).collect::<Vec<_>>());
    // Two stores to the same four sectors, of every other element each.
    assert_eq!((got.write_requests, got.write_sectors), (2, 8));
    assert_eq!((got.shared_requests, got.shared_wavefronts, got.worst_conflict), (2, 2, 1));
}

/// Rows of 16 bytes lie side by side, or all in the same four banks.
#[test]
fn ldmatrix_and_mma_are_counted() {
    let dev = device(0);
    for (row_bytes, way) in [(16, 1), (64, 4), (128, 8)] {
        let mut y = floats(&dev, 32);
        let got = counted(&dev, "planted_matrix", 1, 32, &mut [Arg::Out(y.view_mut()), Arg::I32(row_bytes)]).counts;
        // Two vectors a lane are stored, four cycles each.
        assert_eq!((got.shared_requests, got.shared_ideal, got.shared_wavefronts), (3, 9, 8 + way));
        assert_eq!((got.mma_flops, got.wgmma_flops), (2 * 16 * 8 * 16, 0));
    }
}

#[test]
fn a_launch_that_is_not_counted_runs_the_plain_kernel() {
    let dev = device(0);
    let Gpu::Emu(emu) = gpu(&dev) else { panic!("not the emulator") };
    stride(&dev, 1);
    let (x, mut y) = (floats(&dev, 64), floats(&dev, 64));
    launch(&dev, "planted_stride", 1, 64, 0, &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(1)]).unwrap();
    assert_eq!(emu.stop_counting(), []);
}
