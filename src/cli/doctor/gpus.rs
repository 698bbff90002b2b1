//! The GPUs of this machine, as NVIDIA's management library (NVML, loaded at run time) tells.

use crate::device::gpu::cuda_modules;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde_json::{Map, Value, json};
use std::ffi::OsStr;

/// Lines on the driver and each GPU; one line on what is missing.
pub fn report() -> Map<String, Value> {
    let mut lines = Map::new();
    match gpus(&mut lines) {
        Ok(0) => lines.insert("gpus".into(), json!("none")),
        Ok(n) => lines.insert("gpus".into(), json!(n)),
        Err(NvmlError::LibloadingError(_)) => {
            lines.insert("gpus".into(), json!("no NVML (libnvidia-ml) on this machine: no NVIDIA driver"))
        }
        Err(e) => lines.insert("gpus".into(), json!(format!("NVML does not answer: {e}"))),
    };
    lines
}

fn gpus(lines: &mut Map<String, Value>) -> Result<u32, NvmlError> {
    // Machines without the driver's development files have the library under this name only.
    let nvml = Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init().or_else(|_| Nvml::init())?;
    let (driver, version) = (nvml.sys_driver_version()?, nvml.sys_cuda_driver_version()?);
    lines.insert("driver".into(), json!(format!("{driver}, runs CUDA {}.{}", version / 1000, version % 1000 / 10)));
    let n = nvml.device_count()?;
    for i in 0..n {
        let gpu = nvml.device_by_index(i)?;
        lines.insert(format!("gpu {i}"), json!(one(&gpu)?));
    }
    Ok(n)
}

/// What one GPU says of itself; what it does not know is left out.
fn one(gpu: &Device) -> Result<String, NvmlError> {
    let (name, cc) = (gpu.name()?, gpu.cuda_compute_capability()?);
    let mut parts = vec![name, format!("sm_{}{}", cc.major, cc.minor), fits(cc.major, cc.minor)];
    let mut say = |part: Result<String, NvmlError>| parts.extend(part);
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    say(gpu.memory_info().map(|m| format!("{:.1} of {:.1} GiB in use", gib(m.used), gib(m.total))));
    say(clock(gpu, Clock::SM, "SM"));
    say(clock(gpu, Clock::Memory, "memory"));
    say(gpu.power_usage().map(|mw| match gpu.enforced_power_limit() {
        Ok(limit) => format!("{} of {} W", mw / 1000, limit / 1000),
        Err(_) => format!("{} W", mw / 1000),
    }));
    say(gpu.temperature(TemperatureSensor::Gpu).map(|c| format!("{c} C")));
    say(gpu.current_throttle_reasons().map(throttled));
    say(gpu.is_ecc_enabled().map(|ecc| match ecc.currently_enabled {
        false => "ECC off".into(),
        true => match gpu.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile) {
            Ok(n) => format!("ECC on, {n} uncorrected errors"),
            Err(_) => "ECC on".into(),
        },
    }));
    Ok(parts.join("; "))
}

fn clock(gpu: &Device, which: Clock, name: &str) -> Result<String, NvmlError> {
    let (now, most) = (gpu.clock_info(which)?, gpu.max_clock_info(which)?);
    Ok(format!("{name} at {now} of {most} MHz"))
}

/// Why clocks are held down; a GPU at rest is not.
fn throttled(reasons: ThrottleReasons) -> String {
    let reasons = reasons - ThrottleReasons::GPU_IDLE;
    if reasons.is_empty() {
        return "not throttled".into();
    }
    let names: Vec<&str> = reasons.iter_names().map(|(name, _)| name).collect();
    format!("THROTTLED: {}", names.join(", ").to_lowercase())
}

/// Whether the binary has code for it.
fn fits(major: i32, minor: i32) -> String {
    match cuda_modules::code_for(&cuda_modules::targets(), major, minor) {
        Some(target) if target.starts_with("compute") => format!("runs {target}, compiled by the driver at start"),
        Some(target) => format!("runs {target}"),
        None => "NOT FIT: this binary has no code for it".into(),
    }
}
