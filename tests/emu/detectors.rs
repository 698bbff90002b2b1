//! The emulator's detectors, each on a kernel with a planted bug (kernels/emu/planted): what is reported, where, and
//! that the same kernel done right is not.

use crate::support::{launch, normal};
use haggle::device::gpu::{Arg, Gpu, emu::Emu};
use haggle::device::{Buffer, Device};
use haggle::{Error, Result};
use std::sync::Arc;

fn device(seed: u64) -> Device {
    Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, seed).unwrap())))
}

/// x `[256]` to y `[256]`, one block.
fn x_to_y(dev: &Device, kernel: &'static str, threads: u32) -> Result<Vec<f32>> {
    let (x, mut y) = (dev.upload(&normal(256, 1)).unwrap(), dev.upload(&[f32::NAN; 256]).unwrap());
    launch(dev, kernel, 1, threads, 256, &mut [Arg::In(x.view()), Arg::Out(y.view_mut())])?;
    Ok(dev.to_vec(y.view()))
}

/// y `[256]` and perhaps a number.
fn y_only(kernel: &'static str, threads: u32, number: Option<i32>) -> Result<()> {
    let dev = device(0);
    let mut y = dev.zeros(haggle::device::DType::F32, 256).unwrap();
    let mut args = vec![Arg::Out(y.view_mut())];
    args.extend(number.map(Arg::I32));
    launch(&dev, kernel, 1, threads, 0, &mut args)
}

/// The report names kernel, block, thread, and what happened.
#[track_caller]
fn reports<T>(result: Result<T>, kernel: &'static str, thread: Option<[u32; 3]>, what: &[&str]) {
    match result {
        Ok(_) => panic!("{kernel}: nothing was reported"),
        Err(Error::Kernel { kernel: k, block, thread: t, what: w, .. }) => {
            println!("{kernel}: block {block:?}, thread {t:?}: {w}");
            assert_eq!(k, kernel);
            assert!(what.iter().all(|part| w.contains(part)), "{kernel}: reported `{w}`, want {what:?}");
            assert!(thread.is_none() || thread == t, "{kernel}: reported for {t:?}, want {thread:?}");
        }
        Err(other) => panic!("{kernel}: reported otherwise: {other}"),
    }
}

#[test]
fn a_right_kernel_is_not_reported_and_its_bits_have_no_order() {
    let want = x_to_y(&device(0), "planted_right", 256).unwrap();
    for seed in 0..20 {
        for kernel in ["planted_right", "planted_right_checked"] {
            let got = x_to_y(&device(seed), kernel, 256).unwrap();
            assert_eq!(got, want, "{kernel} with seed {seed}");
        }
    }
}

#[test]
fn a_missing_barrier_changes_results_with_the_thread_order() {
    let right = x_to_y(&device(0), "planted_right", 256).unwrap();
    let wrong = |kernel, seed| x_to_y(&device(seed), kernel, 256).unwrap() != right;
    assert!((1..5).all(|seed| wrong("planted_missing_barrier", seed)));
    let outcomes: Vec<_> =
        (0..5).map(|seed| x_to_y(&device(seed), "planted_missing_second_barrier", 256).unwrap()).collect();
    assert!(outcomes.iter().any(|o| o != &outcomes[0]), "no order of threads shows the missing second barrier");
}

#[test]
fn a_missing_barrier_is_a_race_in_every_order() {
    for seed in 0..5 {
        let dev = device(seed);
        // Which of the two threads comes first is the order's: it races, or it reads what nobody has written.
        let first = "planted_missing_barrier_checked";
        reports(x_to_y(&dev, first, 256), first, None, &["shared array `s_x`"]);
        let second = "planted_missing_second_barrier_checked";
        reports(x_to_y(&dev, second, 256), second, None, &["race: ", "`s_x`"]);
    }
}

#[test]
fn lanes_that_share_memory_need_syncwarp() {
    let run = |right| {
        let dev = device(0);
        let (x, mut y) = (dev.upload(&normal(32, 1)).unwrap(), dev.upload(&[0f32; 32]).unwrap());
        let args = &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(right)];
        launch(&dev, "planted_missing_syncwarp_checked", 1, 32, 0, args)
    };
    run(1).unwrap();
    reports(run(0), "planted_missing_syncwarp_checked", None, &["`s_x`"]);
}

#[test]
fn divergent_barriers_are_named_with_both_places() {
    let what = ["divergent barrier: waits at", "barriers.cu:", "thread (100, 0, 0) has returned"];
    reports(y_only("planted_divergent_barrier", 256, Some(100)), "planted_divergent_barrier", Some([0, 0, 0]), &what);
    y_only("planted_divergent_barrier", 256, Some(256)).unwrap();
    let what = ["divergent barrier: waits at emu/planted/barriers.cu:", "others of its block at"];
    reports(y_only("planted_two_barriers", 256, None), "planted_two_barriers", Some([32, 0, 0]), &what);
}

#[test]
fn divergent_warps_and_deadlocks_are_named() {
    let what = ["divergent warp operation", "lane 5 of its mask 0xffffffff never comes, it has returned"];
    reports(y_only("planted_divergent_shuffle", 256, None), "planted_divergent_shuffle", None, &what);
    let what = ["divergent warp operation: is at", "lane 0 at"];
    reports(y_only("planted_two_operations", 32, None), "planted_two_operations", Some([31, 0, 0]), &what);
    let what = ["divergent warp operation", "lane 0 of its mask 0xffffffff never comes, it waits elsewhere"];
    reports(y_only("planted_deadlock", 64, None), "planted_deadlock", Some([40, 0, 0]), &what);
}

#[test]
fn writing_behind_a_shared_array_is_seen() {
    let what = ["shared array `s_first` of 256 bytes"];
    reports(y_only("planted_shared_overrun", 64, Some(1)), "planted_shared_overrun", None, &what);
    y_only("planted_shared_overrun", 64, Some(0)).unwrap();
    let what = ["out of bounds: writes 4 bytes at offset 256 of shared array `s_first`, which has 256"];
    let name = "planted_shared_overrun_checked";
    reports(y_only(name, 64, Some(1)), name, Some([63, 0, 0]), &what);
    y_only(name, 64, Some(0)).unwrap();
}

/// y is the part `64..192` of a buffer of 192, so that one place behind it is outside, and before it is not.
fn overrun(kernel: &'static str, shift: i32) -> (Result<()>, Buffer) {
    let dev = device(0);
    let mut y = dev.zeros(haggle::device::DType::F32, 192).unwrap();
    let result = launch(&dev, kernel, 2, 64, 0, &mut [Arg::Out(y.at_mut(64..192)), Arg::I32(shift)]);
    (result, y)
}

#[test]
fn writing_outside_a_buffer_is_seen_and_outside_a_view_when_checked() {
    overrun("planted_global_overrun", 0).0.unwrap();
    let (result, y) = overrun("planted_global_overrun", 1);
    reports(result, "planted_global_overrun", None, &["wrote outside the buffer of argument 0"]);
    assert!(!y.guard_intact());
    let name = "planted_global_overrun_checked";
    let (result, y) = overrun(name, 1);
    reports(result, name, Some([63, 0, 0]), &["out of bounds: writes 4 bytes, 0 bytes behind argument 0"]);
    assert!(y.guard_intact(), "a checked kernel is stopped before it writes");
    reports(overrun(name, -1).0, name, Some([0, 0, 0]), &["writes 4 bytes, 4 bytes before argument 0"]);
}

#[test]
fn reading_outside_and_writing_an_input_are_seen_when_checked() {
    let dev = device(0);
    let name = "planted_global_underread_checked";
    reports(x_to_y(&dev, name, 64), name, Some([0, 0, 0]), &["reads 4 bytes, 4 bytes before argument 0"]);
    let name = "planted_writes_input_checked";
    reports(x_to_y(&dev, name, 64), name, Some([0, 0, 0]), &["writes to argument 0, which is an input"]);
}

#[test]
fn uninitialised_shared_memory_is_poison_and_named_when_checked() {
    let y = x_to_y(&device(0), "planted_uninitialised", 64).unwrap();
    assert!(y[..32].iter().all(|v| v.is_finite()) && y[32..64].iter().all(|v| v.is_nan()));
    let name = "planted_uninitialised_checked";
    let what = ["uninitialised: reads byte 128 of shared array `dynamic`"];
    reports(x_to_y(&device(0), name, 64), name, Some([32, 0, 0]), &what);
}

#[test]
fn a_missing_wait_of_cp_async_is_poison_and_named_when_checked() {
    let run = |kernel: &'static str, right| {
        let dev = device(0);
        let (x, mut y) = (dev.upload(&normal(128, 1)).unwrap(), dev.upload(&[0f32; 32]).unwrap());
        launch(&dev, kernel, 1, 32, 0, &mut [Arg::In(x.view()), Arg::Out(y.view_mut()), Arg::I32(right)])?;
        Ok(dev.to_vec::<f32>(y.view()))
    };
    let want: Vec<f32> = normal(128, 1).into_iter().rev().take(32).collect();
    for kernel in ["planted_missing_wait", "planted_missing_wait_checked"] {
        assert_eq!(run(kernel, 1).unwrap(), want);
    }
    assert!(run("planted_missing_wait", 0).unwrap().iter().all(|y| y.is_nan()));
    let name = "planted_missing_wait_checked";
    reports(run(name, 0), name, Some([0, 0, 0]), &["uninitialised: reads byte 508 of shared array `s_x`"]);
}

#[test]
fn misaligned_vectors_and_overflow_are_seen_when_checked() {
    let name = "planted_misaligned_checked";
    reports(x_to_y(&device(0), name, 8), name, Some([5, 0, 0]), &["misaligned access at", "no multiple of 16"]);
    let name = "planted_overflow_checked";
    reports(y_only(name, 32, Some(40000)), name, Some([0, 0, 0]), &["integer overflow at"]);
    y_only(name, 32, Some(4)).unwrap();
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_is_refused() {
    let dev = device(0);
    let mut y = dev.zeros(haggle::device::DType::F32, 256).unwrap();
    let mut refused = |kernel: &'static str, threads, number: Arg, what: &str| {
        let error = launch(&dev, kernel, 1, threads, 0, &mut [Arg::Out(y.view_mut()), number]).unwrap_err();
        assert!(matches!(&error, Error::Device { what: w, .. } if w.contains(what)), "{error}");
    };
    refused("planted_nowhere", 1, Arg::I32(1), "no kernel named planted_nowhere");
    refused("planted_divergent_barrier", 1, Arg::I64(1), "takes parameters pi, the launch gives pl");
    refused("planted_divergent_barrier", 1025, Arg::I32(1), "1 to 1024");
    refused("planted_divergent_barrier", 0, Arg::I32(1), "1 to 1024");
}

/// After a report the device goes on.
#[test]
fn the_device_survives_reports() {
    let dev = device(3);
    let want = x_to_y(&dev, "planted_right", 256).unwrap();
    for _ in 0..50 {
        x_to_y(&dev, "planted_uninitialised_checked", 64).unwrap_err();
        assert_eq!(x_to_y(&dev, "planted_right", 256).unwrap(), want);
    }
}
