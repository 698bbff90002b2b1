//! `haggle doctor`: what this machine has, and a two-second test of the ops on it.

use super::{Exit, Globals, out};
use crate::device::{Buffer, DType, Device};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::ops::attn::{self, Heads, Paged};
use crate::ops::gemm::{Store, gemm_nt};
use clap::Args;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Options of `haggle doctor`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle doctor                    this machine, on all cores
  haggle doctor --threads 1        on one core
  haggle doctor --json             for machines

Exit code 4 when an op gives a wrong result here.")]
pub struct DoctorArgs {}

/// Prints the machine and the self-test.
///
/// # Errors
/// [`Error::Device`] when the device is not there or an op fails its test.
pub fn run(_: &DoctorArgs, globals: &Globals) -> Result<Exit> {
    let config = globals.resolve(&[])?;
    let device = Device::open(&config.device, config.threads)?;
    let mut report = machine(&device);
    let tests = [
        ("gemm against f64", gemm_against_f64(&device)?),
        ("gemm row alone = row in batch", gemm_row_rule(&device)?),
        ("attention packed = paged, to the bit", attention_packed_is_paged(&device)?),
    ];
    for (name, passed) in tests {
        report.insert(name.into(), json!(if passed { "ok" } else { "WRONG" }));
    }
    report.insert("gemm GFLOP/s".into(), json!((gemm_gflops(&device, Duration::from_secs(1))? * 10.0).round() / 10.0));
    print(&report, globals.json);
    match tests.iter().find(|test| !test.1) {
        None => Ok(Exit::Done),
        Some((name, _)) => Err(Error::Device {
            device: device.name().into(),
            what: format!("the self-test `{name}` failed; nothing computed here can be trusted"),
        }),
    }
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
    let gpu = match Device::open("cuda", 0) {
        Ok(_) => "available".to_string(),
        Err(e) => e.to_string(),
    };
    let mut report = Map::new();
    report.insert("haggle".into(), json!(env!("CARGO_PKG_VERSION")));
    report.insert(
        "cpu".into(),
        json!(proc_field("/proc/cpuinfo", "model name").unwrap_or(std::env::consts::ARCH.into())),
    );
    report.insert("cores".into(), json!(cores));
    report.insert("memory".into(), json!(memory()));
    report.insert("device".into(), json!(device.name()));
    match device {
        Device::Cpu(cpu) => report.insert("instructions".into(), json!(format!("{:?}", cpu.isa).to_lowercase())),
        Device::Gpu(gpu) => report.insert("kernels".into(), json!(gpu.kernels().len())),
    };
    report.insert("gpu".into(), json!(gpu));
    report
}

fn memory() -> String {
    let gib = |key| {
        let kib: f64 = proc_field("/proc/meminfo", key)?.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024.0 / 1024.0)
    };
    match (gib("MemTotal"), gib("MemAvailable")) {
        (Some(total), Some(free)) => format!("{total:.1} GiB, {free:.1} available"),
        _ => "unknown".into(),
    }
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

fn product(device: &Device, a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Result<Vec<f32>> {
    let (a, b, mut c) = (device.upload(a), device.upload(b), device.zeros(DType::F32, m * n));
    gemm_nt(device, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set)?;
    Ok(device.to_vec(c.view()))
}

fn gemm_against_f64(device: &Device) -> Result<bool> {
    let (m, n, k) = (37, 65, 301);
    let (a, b) = (numbers(1, m * k), numbers(2, n * k));
    let c = product(device, &a, &b, m, n, k)?;
    Ok((0..m * n).all(|at| {
        let terms = (0..k).map(|i| f64::from(a[at / n * k + i]) * f64::from(b[at % n * k + i]));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
        // k roundings, each at most half a unit of the running sum.
        (f64::from(c[at]) - sum).abs() <= size * k as f64 * f64::from(f32::EPSILON) / 2.0
    }))
}

fn gemm_row_rule(device: &Device) -> Result<bool> {
    let (m, n, k) = (29, 96, 128);
    let (a, b) = (numbers(3, m * k), numbers(4, n * k));
    let whole = product(device, &a, &b, m, n, k)?;
    for row in 0..m {
        let alone = product(device, &a[row * k..(row + 1) * k], &b, 1, n, k)?;
        if !same_bits(&alone, &whole[row * n..(row + 1) * n]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One sequence in training's packed attention, and the same rows over pages.
fn attention_packed_is_paged(device: &Device) -> Result<bool> {
    let (n, heads) = (3 * attn::CHUNK + 5, Heads { q: 4, kv: 2, dim: 32, scale: 0.2 });
    let (wide, narrow) = (n * heads.q * heads.dim, n * heads.kv * heads.dim);
    let upload = |stream, len| device.upload(&numbers(stream, len));
    let (q, k, v) = (upload(5, wide), upload(6, narrow), upload(7, narrow));
    let cu_seqlens = device.upload(&[0, n as i32]);
    let (mut packed, mut lse) = (device.zeros(DType::F32, wide), device.zeros(DType::F32, n * heads.q));
    let (q_view, k_view, v_view) = (q.view(), k.view(), v.view());
    attn::attn_fwd(device, q_view, k_view, v_view, cu_seqlens.view(), packed.view_mut(), lse.view_mut(), heads)?;

    let n_pages = n.div_ceil(attn::CHUNK);
    let pages = || device.zeros(DType::F32, attn::pages_len(n_pages, heads));
    let (mut k_pages, mut v_pages, mut paged): (Buffer, Buffer, Buffer) =
        (pages(), pages(), device.zeros(DType::F32, wide));
    let seq = device.upload(&vec![0i32; n]);
    let pos = device.upload(&(0..n as i32).collect::<Vec<_>>());
    let table = device.upload(&(0..n_pages as i32).rev().collect::<Vec<_>>());
    let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages: n_pages };
    attn::kv_append(device, k_view, v_view, at, k_pages.view_mut(), v_pages.view_mut(), heads)?;
    attn::attn_decode(device, q_view, k_pages.view(), v_pages.view(), at, paged.view_mut(), heads)?;
    Ok(same_bits(&device.to_vec::<f32>(packed.view()), &device.to_vec::<f32>(paged.view())))
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Billions of multiply-adds (counted as two) a second in a square product, over `span`.
pub fn gemm_gflops(device: &Device, span: Duration) -> Result<f64> {
    let n = 512;
    let (a, b) = (device.upload(&numbers(8, n * n)), device.upload(&numbers(9, n * n)));
    let mut c = device.zeros(DType::F32, n * n);
    gemm_nt(device, a.view(), b.view(), c.view_mut(), n, n, n, Store::Set)?;
    let (start, mut runs) = (Instant::now(), 0u32);
    while start.elapsed() < span {
        gemm_nt(device, a.view(), b.view(), c.view_mut(), n, n, n, Store::Set)?;
        runs += 1;
    }
    Ok(f64::from(runs) * 2.0 * (n as f64).powi(3) / start.elapsed().as_secs_f64() / 1e9)
}
