//! A summary as text for people, and as JSON for machines. Everything is a step's mean.

use crate::cli::out;
use crate::profile::summary::{Row, Summary};
use crate::profile::{Peaks, work::Ran};
use serde_json::{Value, json};

/// The table: what ran, the ceilings, ops, kernels, phases, gaps.
pub fn text(ran: &Ran, s: &Summary, peaks: &Peaks) -> String {
    let (step_ms, per) = (ms(s.step_ns, s), |ns| format!("{:.3}", ms(ns, s)));
    let share = |ns: u64| format!("{:.1} %", 100.0 * ns as f64 / s.step_ns.max(1) as f64);
    let clock = if s.gpu_times { "the GPU's events" } else { "wall clock" };
    let mut text = format!("{}: {} steps of {step_ms:.3} ms, by {clock}\n", ran.title, s.steps);
    text += &format!(
        "copy {:.1} GB/s, in cache {:.1} GB/s, multiply-add {:.1} GFLOP/s, measured just before\n\n",
        peaks.bytes_per_s / 1e9,
        peaks.cache_bytes_per_s / 1e9,
        peaks.flops_per_s / 1e9
    );
    text += &costed(&s.ops, "op", s, peaks);
    text += &format!(
        "\nbusy {} ms ({}), idle {} ms ({})\n",
        per(s.busy_ns),
        share(s.busy_ns),
        per(s.idle_ns),
        share(s.idle_ns)
    );
    let g = &s.gaps;
    text += &format!(
        "gaps {:.0} a step, median {:.1} us, 99 % below {:.1} us, longest {:.1} us (before {})\n",
        g.n as f64 / s.steps.max(1) as f64,
        us(g.median_ns),
        us(g.p99_ns),
        us(g.longest_ns),
        g.longest_before
    );
    let mut phases = vec![["phase", "calls", "ms", "share"].map(String::from).to_vec()];
    phases.extend(s.phases.iter().map(|r| vec![r.name.clone(), calls(r, s), per(r.ns), share(r.ns)]));
    text += &format!("\n{}", out::columns(&phases));
    if !s.kernels.is_empty() {
        text += &format!("\n{}", costed(&s.kernels, "kernel", s, peaks));
    }
    if s.dropped > 0 {
        text += &format!("\n{} spans did not fit: the figures are of a part only; profile fewer steps\n", s.dropped);
    }
    text + &ran.note.map_or(String::new(), |note| format!("\n{note}\n"))
}

/// A table of ops or kernels, with shapes where rows have some.
fn costed(rows: &[Row], what: &str, s: &Summary, peaks: &Peaks) -> String {
    let by_shape = rows.iter().any(|r| !r.shape.is_empty());
    let head = [what, "shape", "calls", "ms", "share", "us/call", "gap ms", "GFLOP/s", "GB/s", "roofline", "bound"];
    let keep = |(i, _): &(usize, String)| by_shape || *i != 1;
    let line = |cells: Vec<String>| cells.into_iter().enumerate().filter(keep).map(|c| c.1).collect::<Vec<String>>();
    let mut lines = vec![line(head.map(String::from).to_vec())];
    lines.extend(rows.iter().map(|r| line(cells(r, s, peaks))));
    out::columns(&lines)
}

fn ms(ns: u64, s: &Summary) -> f64 {
    ns as f64 / 1e6 / s.steps.max(1) as f64
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn calls(row: &Row, s: &Summary) -> String {
    let calls = row.calls as f64 / s.steps.max(1) as f64;
    if calls.fract() == 0.0 { format!("{calls:.0}") } else { format!("{calls:.1}") }
}

fn cells(row: &Row, s: &Summary, peaks: &Peaks) -> Vec<String> {
    let rate = |x: f64| format!("{:.1}", x / row.ns.max(1) as f64);
    vec![
        row.name.clone(),
        row.shape.clone(),
        calls(row, s),
        format!("{:.3}", ms(row.ns, s)),
        format!("{:.1} %", 100.0 * row.ns as f64 / s.step_ns.max(1) as f64),
        format!("{:.1}", us(row.ns) / row.calls.max(1) as f64),
        format!("{:.3}", ms(row.gap_ns, s)),
        rate(row.flops),
        rate(row.bytes),
        format!("{:.0} %", 100.0 * peaks.share(row.flops, row.bytes, row.ns)),
        if peaks.is_memory_bound(row.flops, row.bytes) { "memory".into() } else { "compute".into() },
    ]
}

/// The same as one JSON object.
pub fn json(ran: &Ran, s: &Summary, peaks: &Peaks) -> Value {
    let per = |ns: u64| ms(ns, s);
    let steps = s.steps.max(1) as f64;
    let row = |r: &Row| {
        json!({
            "name": r.name, "shape": r.shape, "calls": r.calls as f64 / steps, "ms": per(r.ns),
            "share": r.ns as f64 / s.step_ns.max(1) as f64, "gap_ms": per(r.gap_ns), "flops": r.flops / steps,
            "bytes": r.bytes / steps, "gflop_per_s": r.flops / r.ns.max(1) as f64,
            "gb_per_s": r.bytes / r.ns.max(1) as f64, "roofline": peaks.share(r.flops, r.bytes, r.ns),
            "bound": if peaks.is_memory_bound(r.flops, r.bytes) { "memory" } else { "compute" },
        })
    };
    let short = |r: &Row| json!({ "name": r.name, "calls": r.calls as f64 / steps, "ms": per(r.ns) });
    json!({
        "what": ran.what, "title": ran.title, "device": ran.device, "steps": s.steps, "step_ms": per(s.step_ns),
        "clock": if s.gpu_times { "cuda events" } else { "wall clock" },
        "copy_gb_per_s": peaks.bytes_per_s / 1e9, "cache_gb_per_s": peaks.cache_bytes_per_s / 1e9, "peak_gflop_per_s": peaks.flops_per_s / 1e9,
        "busy_ms": per(s.busy_ns), "idle_ms": per(s.idle_ns),
        "ops": s.ops.iter().map(row).collect::<Vec<_>>(),
        "kernels": s.kernels.iter().map(row).collect::<Vec<_>>(),
        "phases": s.phases.iter().map(short).collect::<Vec<_>>(),
        "gaps": { "n": s.gaps.n as f64 / steps, "median_us": us(s.gaps.median_ns), "p99_us": us(s.gaps.p99_ns),
                  "longest_us": us(s.gaps.longest_ns), "longest_before": s.gaps.longest_before },
        "dropped": s.dropped,
    })
}
