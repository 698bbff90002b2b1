//! How fast the emulator is: thread steps (a thread reaching a barrier and going on), shuffles, mma, plain threads.
//!
//! `cargo bench --bench emu -- [--threads N] [--json]`. A step is one fiber switch and its bookkeeping.

#![allow(clippy::unwrap_used)]

use haggle::device::gpu::{Arg, Gpu, Launch, emu::Emu};
use haggle::device::{DType, Device};
use std::sync::Arc;
use std::time::Instant;

struct Case {
    kernel: &'static str,
    what: &'static str,
    block: u32,
    rounds: i32,
    /// Things done by a thread in a round, over 1.
    per_thread: f64,
}

const CASES: [Case; 5] = [
    Case { kernel: "probe_barriers", what: "steps", block: 256, rounds: 2000, per_thread: 1.0 },
    Case { kernel: "probe_barriers", what: "steps", block: 1024, rounds: 500, per_thread: 1.0 },
    Case { kernel: "probe_shuffles", what: "shuffles", block: 256, rounds: 2000, per_thread: 1.0 },
    Case { kernel: "probe_mmas", what: "mma", block: 128, rounds: 2000, per_thread: 1.0 / 32.0 },
    Case { kernel: "probe_threads", what: "threads", block: 256, rounds: 1, per_thread: 1.0 },
];

/// Seconds of the median of seven launches of `blocks` blocks.
fn seconds(gpu: &Gpu, dev: &Device, case: &Case, blocks: u32) -> f64 {
    let len = (blocks * case.block) as usize;
    let mut out = dev.zeros(if case.kernel == "probe_barriers" { DType::I32 } else { DType::F32 }, len).unwrap();
    let (grid, block) = ([blocks, 1, 1], [case.block, 1, 1]);
    let launch = Launch { kernel: case.kernel, op: "bench", grid, block, shared_bytes: 0, shape: &"" };
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            gpu.launch(&launch, &mut [Arg::Out(out.view_mut()), Arg::I32(case.rounds)]).unwrap();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let json = args.iter().any(|a| a == "--json");
    let threads = args.iter().position(|a| a == "--threads").map_or(0, |i| args[i + 1].parse().unwrap());
    let emu = Emu::with_seed(threads, 0).unwrap();
    let threads = emu.threads();
    let gpu = Arc::new(Gpu::Emu(emu));
    let dev = Device::Gpu(gpu.clone());
    for case in &CASES {
        let blocks = if case.kernel == "probe_threads" { 20_000 } else { 4 * threads as u32 };
        let seconds = seconds(&gpu, &dev, case, blocks);
        let rounds = blocks as f64 * case.rounds as f64;
        let rate = rounds * case.block as f64 * case.per_thread / seconds / 1e6;
        let round_us = seconds * threads as f64 / rounds * 1e6;
        if json {
            let row = serde_json::json!({"case": case.kernel, "block": case.block, "threads": threads,
                "what": case.what, "million_per_s": rate, "block_round_us": round_us});
            println!("{row}");
        } else {
            let (kernel, block, what) = (case.kernel, case.block, case.what);
            println!(
                "{kernel:<16} {block:>5} threads a block   {rate:>8.2} M {what}/s   {round_us:>7.2} us a block's round"
            );
        }
    }
}
