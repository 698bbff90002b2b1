//! A recording as a Chrome trace, for Perfetto (ui.perfetto.dev) or chrome://tracing.
//!
//! One process; phases and ops on the host's track, kernels below, on the GPU's own clock where there is one.

use crate::device::record::{Event, Kind, Recording};
use std::fmt::Write;

const HOST: u32 = 1;
const KERNELS: u32 = 2;

/// The trace's JSON; times in microseconds.
pub fn json(title: &str, recording: &Recording) -> String {
    let mut text = String::from("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    let kernels = if recording.gpu_times { "kernels (GPU clock)" } else { "kernels" };
    for (what, track, name) in [
        ("process_name", HOST, format!("haggle: {title}")),
        ("thread_name", HOST, "phases and ops".into()),
        ("thread_name", KERNELS, kernels.into()),
    ] {
        let name = serde_json::Value::from(name);
        let _ = writeln!(
            text,
            "{{\"ph\":\"M\",\"pid\":1,\"tid\":{track},\"name\":\"{what}\",\"args\":{{\"name\":{name}}}}},"
        );
    }
    let lines: Vec<String> = recording.events.iter().map(line).collect();
    text + &lines.join(",\n") + "\n]}\n"
}

/// One complete event.
fn line(e: &Event) -> String {
    let (track, kind) = match e.kind {
        Kind::Phase => (HOST, "phase"),
        Kind::Op => (HOST, "op"),
        Kind::Kernel => (KERNELS, "kernel"),
    };
    let args = match e.kind {
        Kind::Op => {
            let (shape, flops, bytes) = (e.cost.shape(), e.cost.flops, e.cost.bytes);
            format!(",\"args\":{{\"shape\":\"{shape}\",\"flops\":{flops},\"bytes\":{bytes}}}")
        }
        _ => String::new(),
    };
    // Ends are cut, not rounded, like starts: so children stay inside.
    let us = |ns: u64| format!("{}.{:03}", ns / 1000, ns % 1000);
    format!(
        "{{\"ph\":\"X\",\"pid\":1,\"tid\":{track},\"cat\":\"{kind}\",\"name\":\"{}\",\"ts\":{},\"dur\":{}{args}}}",
        e.name,
        us(e.start_ns),
        us(e.ns())
    )
}
