//! What the benchmarks of whole workloads share: options, the peak, one line a result.

#![allow(dead_code)]

use haggle::device::{DType, Device, Precision};
pub use haggle::model::flops::{head_flops, row_flops};
use haggle::profile::{Peaks, summary};
use std::time::Instant;

/// Options of a benchmark.
pub struct Options {
    /// Where to run.
    pub device: String,
    /// Of matrix products on the CPU: highest or medium.
    pub matmul: String,
    /// CPU threads, 0 for all.
    pub threads: usize,
    /// Measured repetitions, after one to warm up.
    pub repeat: usize,
    /// Print one JSON object a result instead of a table.
    pub json: bool,
    /// Run only the cases whose name contains this.
    pub only: String,
    /// Rows of one engine forward.
    pub rows: usize,
    /// Decode steps run from graphs.
    pub graphs: bool,
    /// Weights and activations in bf16.
    pub bf16: bool,
    /// A workload of seconds on any device.
    pub short: bool,
    /// Say by op and shape where a case's time goes.
    pub ops: bool,
}

impl Options {
    /// From the command line.
    pub fn parse() -> Options {
        let mut o = Options {
            device: "cpu".into(),
            matmul: "highest".into(),
            threads: 0,
            repeat: 5,
            json: false,
            only: String::new(),
            rows: 1024,
            graphs: false,
            bf16: false,
            short: false,
            ops: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            if arg == "--device" {
                o.device = args.next().expect("a device after --device");
                continue;
            }
            if arg == "--matmul" {
                o.matmul = args.next().expect("highest or medium after --matmul");
                continue;
            }
            let mut number = || args.next().and_then(|n| n.parse().ok()).expect("a number after the option");
            match arg.as_str() {
                "--bench" => {}
                "--json" => o.json = true,
                "--graphs" => o.graphs = true,
                "--bf16" => o.bf16 = true,
                "--short" => o.short = true,
                "--ops" => o.ops = true,
                "--threads" => o.threads = number(),
                "--repeat" => o.repeat = number(),
                "--rows" => o.rows = number(),
                case => o.only = case.to_string(),
            }
        }
        o
    }

    /// The device that is asked for.
    pub fn open(&self) -> Device {
        let precision = match self.matmul.as_str() {
            "highest" => Precision::Highest,
            "medium" => Precision::Medium,
            other => panic!("--matmul {other}: use highest or medium"),
        };
        Device::open_at(&self.device, self.threads, precision).expect("a device of that name")
    }
}

/// What a case did in each repetition.
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// Tokens counted.
    pub tokens: usize,
    /// Floating-point operations.
    pub flops: f64,
}

/// Runs a case and prints tokens/s, GFLOP/s and the share of the measured peak (see `haggle::profile::peaks`).
pub fn measure(o: &Options, dev: &Device, work: Workload, mut run: impl FnMut()) {
    if !work.name.contains(o.only.as_str()) {
        return;
    }
    let mut run = || {
        run();
        dev.wait().expect("the device is well");
    };
    run();
    let mut seconds: Vec<f64> = (0..o.repeat.max(1))
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    if o.ops {
        say_ops(dev, &mut run);
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (rate, gflops) = (work.tokens as f64 / median, work.flops / median / 1e9);
    let peak = Peaks::measure(dev, DType::F32).expect("a device that has just run").flops_per_s / 1e9;
    let threads = if let Device::Cpu(cpu) = dev { cpu.pool.threads() } else { 0 };
    if o.json {
        let row = serde_json::json!({
            "case": work.name, "device": dev.name(), "matmul": o.matmul, "threads": threads, "tok_per_s": rate, "seconds": median,
            "seconds_min": seconds[0], "seconds_max": seconds[seconds.len() - 1], "gflops": gflops, "peak_gflops": peak,
            "rss_bytes": most_resident(),
        });
        println!("{row}");
    } else {
        let (min, max) = (seconds[0] * 1e3, seconds[seconds.len() - 1] * 1e3);
        println!(
            "{:<16} {rate:>9.0} tok/s   {:>8.1} ms ({min:.1}..{max:.1})   {gflops:>6.1} GFLOP/s, {:.0} % of {peak:.0}",
            work.name,
            median * 1e3,
            100.0 * gflops / peak
        );
    }
}

/// Bytes of memory that this process held at most; none where the system does not tell.
fn most_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().split(' ').next()?.parse::<u64>().ok()?)
}

/// One more repetition, by op and shape; to stderr.
fn say_ops(dev: &Device, run: impl FnOnce()) {
    dev.start_recording(1 << 20).expect("room for a recording");
    {
        let _step = dev.phase(summary::STEP);
        run();
    }
    let sums = summary::summarise(&dev.stop_recording().expect("the device is well"), true);
    let ms = |ns: u64| ns as f64 / 1e6;
    for op in &sums.ops {
        let (share, rate) = (100.0 * op.ns as f64 / sums.step_ns as f64, op.flops / op.ns as f64);
        let (name, shape, bytes) = (&op.name, &op.shape, op.bytes / op.ns as f64);
        eprintln!(
            "{name:<20} {shape:<40} {:>5} calls {:>8.2} ms {share:>5.1} %  {rate:>6.1} GFLOP/s {bytes:>6.1} GB/s",
            op.calls,
            ms(op.ns)
        );
    }
    eprintln!("between ops {:.2} ms of {:.2}", ms(sums.idle_ns), ms(sums.step_ns));
}
