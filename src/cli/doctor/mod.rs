//! `haggle doctor`: what this machine has, whether this binary fits it, and a self-test of every kernel.

mod gpus;
mod ranks;

use super::{Exit, Globals, out};
use crate::device::gpu::cuda_modules;
use crate::device::gpu::proven::Waits;
use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::ops::gemm::{Store, gemm_nt};
use crate::selftest::{self, Check};
use clap::Args;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Options of `haggle doctor`.
#[derive(Args)]
#[command(after_help = "\
Says what the machine has (with an NVIDIA driver: clocks, power, throttling, memory, ECC), for which GPUs the binary was
built, and holds every op to its oracle: on the device in use, and the kernels on a GPU, or on the emulator where there is
none. About five seconds.

Examples:
  haggle doctor                    this machine, on all cores
  haggle doctor --device cuda:0    that GPU
  haggle doctor --threads 1        on one core
  haggle doctor --json             for machines
  mpirun -n 2 haggle doctor --ranks    what the ranks of a launcher tell each other, and how fast
  haggle doctor --ranks            whether NCCL, by which ranks on GPUs meet, is here and starts

Exit code 4 when an op gives a wrong result here.")]
pub struct DoctorArgs {
    /// Test the ranks that mpirun, srun or torchrun started instead: transport, speed, and the bits of their sums
    #[arg(long)]
    ranks: bool,
}

/// Prints the machine and the self-test.
///
/// # Errors
/// [`Error::Device`] when the device is not there or an op fails its test.
pub fn run(args: &DoctorArgs, globals: &Globals) -> Result<Exit> {
    let config = globals.resolve(&[])?;
    if args.ranks {
        if let Some(report) = ranks::report(&config)? {
            print(&report, globals.json);
        }
        return Ok(Exit::Done);
    }
    let device = config.open_device()?;
    let mut report = machine(&device);
    report.extend(gpus::report());
    let mut wrong = Vec::new();
    for dev in tested(&device, config.threads) {
        let (key, found) = (format!("self-test {}", dev.name()), self_test(&dev)?);
        report.insert(key, json!(found.0));
        wrong.extend(found.1.into_iter().map(|check| (dev.name(), check)));
    }
    if matches!(device, Device::Cpu(_)) {
        let gflops = gemm_gflops(&device, Duration::from_millis(500))?;
        report.insert("gemm GFLOP/s".into(), json!((gflops * 10.0).round() / 10.0));
    }
    print(&report, globals.json);
    wrong.iter().for_each(|(name, check)| out::note(&format!("haggle: {}", fault(name, check))));
    match wrong.first() {
        None => Ok(Exit::Done),
        Some((name, _)) => Err(Error::Device {
            device: (*name).into(),
            what: format!("{} self-tests failed; nothing computed here can be trusted", wrong.len()),
        }),
    }
}

/// The device in use, and beside a CPU what runs the kernels: a GPU, or else the emulator if this build has it.
fn tested(device: &Device, threads: usize) -> Vec<Device> {
    let kernels = || Device::open("cuda", threads).or_else(|_| Device::open("emu", threads)).ok();
    let beside = if matches!(device, Device::Cpu(_)) { kernels() } else { None };
    std::iter::once(device.clone()).chain(beside).collect()
}

/// A line on what was found, and what is wrong.
fn self_test(dev: &Device) -> Result<(String, Vec<Check>)> {
    let start = Instant::now();
    let found = selftest::run(dev)?;
    let seconds = start.elapsed().as_secs_f64();
    let kernels = if found.n_run > 0 { format!(" of {} kernels", found.n_run) } else { String::new() };
    let not_run = match found.not_run.as_slice() {
        [] => String::new(),
        not_run => format!("; not run: {}", not_run.join(", ")),
    };
    let n = found.checks.len();
    let wrong: Vec<Check> = found.checks.into_iter().filter(|c| !c.passed()).collect();
    let verdict = if wrong.is_empty() { "ok".into() } else { format!("{} WRONG", wrong.len()) };
    Ok((format!("{verdict}: {n} outputs{kernels} against the oracle, {seconds:.1} s{not_run}"), wrong))
}

fn fault(device: &str, check: &Check) -> String {
    let Check { stem, what, error, limit } = check;
    format!("{device}: {stem}: {what}: off by {error:.1e} of the largest, at most {limit:.1e} goes")
}

fn print(report: &Map<String, Value>, as_json: bool) {
    if as_json {
        return out::line(&Value::Object(report.clone()).to_string());
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let rows: Vec<(&str, String)> = report.iter().map(|(key, value)| (key.as_str(), text(value))).collect();
    out::print(&out::pairs(&rows));
}

fn machine(device: &Device) -> Map<String, Value> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut report = Map::new();
    let mut say = |key: &str, value: Value| report.insert(key.into(), value);
    say("haggle", json!(env!("CARGO_PKG_VERSION")));
    say("cpu", json!(proc_field("/proc/cpuinfo", "model name").unwrap_or(std::env::consts::ARCH.into())));
    say("cores", json!(cores));
    say("memory GiB", json!(gib("MemTotal")));
    say("memory free GiB", json!(gib("MemAvailable")));
    say("device", json!(device.name()));
    match device {
        Device::Cpu(cpu) => say("instructions", json!(format!("{:?}", cpu.isa).to_lowercase())),
        Device::Gpu(gpu) => say("kernels", json!(gpu.kernels().len())),
    };
    if let Device::Gpu(gpu) = device {
        say("engine.graphs auto", json!(gpu.verdict(Waits::Graphs).why));
        say("HAGGLE_SM90 unset", json!(gpu.verdict(Waits::Hopper).why));
        say("HAGGLE_PDL unset", json!(gpu.verdict(Waits::Pdl).why));
    }
    let targets = cuda_modules::targets().join(", ");
    let none = "no GPU code: nvcc was not found when this binary was built";
    say("built for", json!(if targets.is_empty() { none } else { targets.as_str() }));
    say("cuda", json!(Device::open("cuda", 0).map_or_else(|e| e.to_string(), |_| "available".into())));
    report
}

/// A size of `/proc/meminfo` in GiB, to a tenth; none where there is none.
fn gib(key: &str) -> Option<f64> {
    let kib: f64 = proc_field("/proc/meminfo", key)?.split_whitespace().next()?.parse().ok()?;
    Some((kib / 1024.0 / 1024.0 * 10.0).round() / 10.0)
}

fn proc_field(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_string())
}

/// `len` numbers from -1 to 1.
fn numbers(stream: u64, len: usize) -> Vec<f32> {
    let noise = Noise::new(1, stream);
    (0..len).map(|i| noise.uniform(i as u64) * 2.0 - 1.0).collect()
}

/// Billions of multiply-adds (counted as two) a second in a square product, over `span`.
pub fn gemm_gflops(device: &Device, span: Duration) -> Result<f64> {
    let n = 512;
    let (a, b) = (device.upload(&numbers(8, n * n))?, device.upload(&numbers(9, n * n))?);
    let mut c = device.zeros(DType::F32, n * n)?;
    gemm_nt(device, a.view(), b.view(), c.view_mut(), n, n, n, Store::Set)?;
    let (start, mut runs) = (Instant::now(), 0u32);
    while start.elapsed() < span {
        gemm_nt(device, a.view(), b.view(), c.view_mut(), n, n, n, Store::Set)?;
        runs += 1;
    }
    Ok(f64::from(runs) * 2.0 * (n as f64).powi(3) / start.elapsed().as_secs_f64() / 1e9)
}
