//! Clusters on the emulator: blocks that meet and read each other's shared memory, and the faults of those that do so wrongly.

use crate::support::{counts, emus, gpu, launch};
use haggle::device::gpu::tensor_map::Shape;
use haggle::device::gpu::{Arg, Gpu, emu::Emu};
use haggle::device::{DType, Device};
use haggle::{Error, Result};
use half::bf16;
use std::sync::Arc;

#[test]
fn blocks_of_a_cluster_hand_numbers_around_in_any_order_of_threads() {
    let (clusters, threads, rounds) = (3, 96, 7);
    // After r rounds a block has what the r blocks behind it have added.
    let of = |rank: i32, thread: i32| (1..=rounds).map(|i| (rank + i) % 4).sum::<i32>() + thread + 4000;
    let want: Vec<i32> = (0..clusters * 4).flat_map(|b| (0..threads).map(move |t| of(b % 4, t))).collect();
    for (name, dev) in emus() {
        let mut y = dev.zeros(DType::I32, want.len()).unwrap();
        let args = &mut [Arg::Out(y.view_mut()), Arg::I32(rounds)];
        launch(&dev, "probe_cluster", clusters as u32 * 4, threads as u32, 0, args).unwrap();
        assert_eq!(dev.to_vec::<i32>(y.view()), want, "{name}");
    }
}

#[test]
fn a_grid_that_is_no_multiple_of_its_clusters_is_refused() {
    let dev = Device::open("emu", 1).unwrap();
    let mut y = dev.zeros(DType::I32, 6 * 96).unwrap();
    let refused = launch(&dev, "probe_cluster", 6, 96, 0, &mut [Arg::Out(y.view_mut()), Arg::I32(1)]).unwrap_err();
    assert!(refused.to_string().contains("a grid 6 blocks wide, its clusters have 4"), "{refused}");
}

/// What is reported of a launch of two clusters with a planted fault.
fn planted(kernel: &'static str, seed: u64, fault: i32) -> Result<Vec<i32>> {
    let dev = Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, seed).unwrap())));
    let mut y = dev.zeros(DType::I32, 8 * 64).unwrap();
    launch(&dev, kernel, 8, 64, 0, &mut [Arg::Out(y.view_mut()), Arg::I32(fault)])?;
    Ok(dev.to_vec(y.view()))
}

#[test]
fn a_right_cluster_is_not_reported() {
    let want: Vec<i32> = (0..8).flat_map(|block| [(block + 1) % 4; 64]).collect();
    for seed in 0..12 {
        for kernel in ["planted_cluster", "planted_cluster_checked"] {
            assert_eq!(planted(kernel, seed, 0).unwrap(), want, "{kernel} with seed {seed}");
        }
    }
}

#[test]
fn each_planted_fault_of_a_cluster_is_reported() {
    let cases = [
        (1, "planted_cluster", "has no `s_x` yet: no barrier.cluster has passed since it began"),
        (2, "planted_cluster_checked", "of its cluster with no barrier.cluster after thread"),
        (3, "planted_cluster_checked", "of its cluster with no barrier.cluster after thread"),
        (4, "planted_cluster", "block 2 of its cluster has returned"),
        (5, "planted_cluster_checked", "of its cluster, which has ended"),
    ];
    for (fault, kernel, what) in cases {
        for _ in 0..2 {
            reported(planted(kernel, 0, fault), fault, what);
            // What a fault leaves behind must not reach the next launch.
            assert!(planted("planted_cluster_checked", 0, 0).is_ok(), "after fault {fault}");
        }
    }
}

#[track_caller]
fn reported<T: std::fmt::Debug>(got: Result<T>, fault: i32, what: &str) {
    match got {
        Err(Error::Kernel { what: got, .. }) => assert!(got.contains(what), "fault {fault}: reported `{got}`"),
        other => panic!("fault {fault}: {other:?}"),
    }
}

/// What the blocks of a cluster do is counted, and none of it again in the next launch.
#[test]
fn a_cluster_s_blocks_are_counted_all_and_once() {
    let gpu = Arc::new(Gpu::Emu(Emu::new(2).unwrap()));
    let (dev, Gpu::Emu(emu)) = (Device::Gpu(gpu.clone()), &*gpu) else { unreachable!() };
    if !counts(emu) {
        return;
    }
    let mut y = dev.zeros(DType::I32, 8 * 96).unwrap();
    let mut counted = |kernel, blocks, threads, args: &[i32]| {
        emu.start_counting();
        let mut all = vec![Arg::Out(y.view_mut())];
        all.extend(args.iter().copied().map(Arg::I32));
        launch(&dev, kernel, blocks, threads, 0, &mut all).unwrap();
        emu.stop_counting()[0].counts
    };
    for _ in 0..2 {
        let got = counted("probe_cluster", 8, 96, &[5]);
        // Eight blocks of three warps: 5 rounds of a store and a load of shared memory and two meetings, then a row of 128 bytes.
        assert_eq!((got.shared_requests, got.barriers, got.write_sectors), (8 * 3 * 10, 8 * 10, 8 * 3 * 4));
        let alone = counted("probe_indices", 2, 64, &[]);
        assert_eq!((alone.shared_requests, alone.write_sectors), (0, 2 * 2 * 4));
    }
}

/// What two blocks have that bring each other halves of a tile, in a launch of two clusters; by bits.
fn multicast(kernel: &'static str, seed: u64, fault: i32) -> Result<Vec<u16>> {
    let dev = Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, seed).unwrap())));
    let x = dev.upload(&(0..64 * 64).map(|i| bf16::from_bits(i as u16)).collect::<Vec<_>>())?;
    let mut y = dev.zeros(DType::Bf16, 4 * 64 * 64)?;
    let map = gpu(&dev).tensor_map("probe", x.view(), Shape { dims: &[64, 64], strides: &[64], boxes: &[64, 32] })?;
    let args = &mut [Arg::Map(map), Arg::Out(y.view_mut()), Arg::I32(fault)];
    launch(&dev, kernel, 4, 64, 1024 + 2 * 64 * 64, args)?;
    Ok(dev.to_vec::<bf16>(y.view()).into_iter().map(bf16::to_bits).collect())
}

#[test]
fn halves_of_a_tile_come_to_all_blocks_of_a_cluster() {
    let of = |line: usize, at: usize| (line * 64 + ((at / 8) ^ (line % 8)) * 8 + at % 8) as u16;
    let want: Vec<u16> =
        (0..4).flat_map(|_| (0..64).flat_map(move |line| (0..64).map(move |at| of(line, at)))).collect();
    for seed in 0..12 {
        for kernel in ["planted_multicast", "planted_multicast_checked"] {
            assert_eq!(multicast(kernel, seed, 0).unwrap(), want, "{kernel} with seed {seed}");
        }
    }
}

#[test]
fn each_planted_fault_of_a_multicast_is_reported() {
    let cases = [
        (1, "no barrier.cluster"),
        (2, "multicast to 0x5, the cluster has 2 blocks"),
        (3, "whose phase 0 lacks 0 of 1 arrivals and 4096 bytes"),
        (4, "of block 0 of its cluster, which has ended"),
        // Blocks that have not read the tile are taken for such that have, and the mbarrier does not wait for them.
        (5, "of its cluster, which has ended"),
        (6, "brings 4096 bytes to block 0 of its cluster, which has ended"),
        (7, "brings 4096 bytes to block 1 of its cluster, which has ended"),
    ];
    for (fault, what) in cases {
        for kernel in ["planted_multicast", "planted_multicast_checked"] {
            reported(multicast(kernel, 0, fault), fault, what);
            assert!(multicast(kernel, 0, 0).is_ok(), "after fault {fault}");
        }
    }
}
