//! The roofline as one self-contained page: FLOP/s over FLOP per byte, both logarithmic, both ceilings, every op a point.
//!
//! A point's distance to the roof is what its op could gain. Ops that only move bytes have no place on the axis: they
//! stand at its left edge, as high as their share of the copy's bandwidth. Source: Williams et al. 2009, "Roofline".

use super::Peaks;
use super::summary::{Row, Summary};
use std::fmt::Write;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;

/// The axes, in powers of ten.
struct Axes {
    x: [f64; 2],
    y: [f64; 2],
}

impl Axes {
    fn x(&self, intensity: f64) -> f64 {
        let at = (intensity.log10() - self.x[0]) / (self.x[1] - self.x[0]);
        LEFT + at.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, flops_per_s: f64) -> f64 {
        let at = (flops_per_s.log10() - self.y[0]) / (self.y[1] - self.y[0]);
        HEIGHT - BOTTOM - at.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// One op on the picture.
struct Point<'a> {
    row: &'a Row,
    intensity: f64,
    flops_per_s: f64,
}

/// The page; `table` is the text below the picture.
pub fn html(title: &str, s: &Summary, peaks: &Peaks, table: &str) -> String {
    let timed: Vec<&Row> = s.ops.iter().filter(|r| r.ns > 0 && r.bytes > 0.0).collect();
    let axes = axes(&timed, peaks);
    let points: Vec<Point> = timed.into_iter().map(|row| point(row, &axes)).collect();
    let body = svg(&points, peaks, &axes);
    let (title, text) = (escape(title), escape(table));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>haggle profile: {title}</title>\n\
         <style>{CSS}</style></head><body>\n<h1>{title}</h1>\n\
         <p>Each point is an op of the step: right, more arithmetic a byte; up, faster; its area, its share of the step. \
         The lines are what this machine was measured to do at most. Ops that only move bytes (squares) stand at the \
         left edge, as high as their share of the copy's bandwidth.</p>\n{body}<pre>{text}</pre>\n</body></html>\n"
    )
}

/// Axes that hold every point and the ridge.
fn axes(rows: &[&Row], peaks: &Peaks) -> Axes {
    let ridge = peaks.flops_per_s / peaks.bytes_per_s;
    let with_flops = || rows.iter().filter(|r| r.flops > 0.0);
    let lowest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let low_x = lowest(&mut with_flops().map(|r| r.flops / r.bytes)).min(ridge / 10.0);
    let high_x = with_flops().map(|r| r.flops / r.bytes).fold(ridge * 10.0, f64::max);
    let x = [(low_x.log10() - 0.3).floor(), high_x.log10().ceil()];
    // A mover's height depends on where the left edge is.
    let edge = 10f64.powf(x[0]);
    let height = |r: &&Row| if r.flops > 0.0 { r.flops } else { r.bytes * edge } * 1e9 / r.ns as f64;
    let low_y = lowest(&mut rows.iter().map(height)).min(peaks.flops_per_s / 1e3);
    Axes { x, y: [low_y.log10().floor(), (peaks.flops_per_s * 1.5).log10().ceil()] }
}

fn point<'a>(row: &'a Row, axes: &Axes) -> Point<'a> {
    let per_s = 1e9 / row.ns as f64;
    if row.flops > 0.0 {
        return Point { row, intensity: row.flops / row.bytes, flops_per_s: row.flops * per_s };
    }
    let edge = 10f64.powf(axes.x[0]);
    Point { row, intensity: edge, flops_per_s: row.bytes * edge * per_s }
}

fn svg(points: &[Point], peaks: &Peaks, axes: &Axes) -> String {
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    grid(&mut svg, axes);
    let (edge, ridge) = (10f64.powf(axes.x[0]), peaks.flops_per_s / peaks.bytes_per_s);
    // The memory's roof starts where it enters the picture.
    let floor = 10f64.powf(axes.y[0]) / peaks.bytes_per_s;
    let start = edge.max(floor);
    let top = axes.y(peaks.flops_per_s);
    let _ = writeln!(
        svg,
        "<polyline class=\"roof\" points=\"{:.1},{:.1} {:.1},{top:.1} {:.1},{top:.1}\"/>",
        axes.x(start),
        axes.y(start * peaks.bytes_per_s),
        axes.x(ridge),
        WIDTH - RIGHT
    );
    let (gb, gflop) = (peaks.bytes_per_s / 1e9, peaks.flops_per_s / 1e9);
    let _ = writeln!(
        svg,
        "<text class=\"limit\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">copy {gb:.1} GB/s</text>\
         <text class=\"limit\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">multiply-add {gflop:.1} GFLOP/s</text>",
        axes.x(ridge / 2.0) - 8.0,
        axes.y(peaks.flops_per_s / 2.0),
        WIDTH - RIGHT,
        top - 6.0
    );
    let total: u64 = points.iter().map(|p| p.row.ns).sum();
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for p in points {
        mark(&mut svg, p, peaks, axes, total, &mut taken);
    }
    svg + "</svg>\n"
}

fn grid(svg: &mut String, axes: &Axes) {
    for power in axes.x[0] as i32..=axes.x[1] as i32 {
        let (x, bottom) = (axes.x(10f64.powi(power)), HEIGHT - BOTTOM);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            tick(power)
        );
    }
    for power in axes.y[0] as i32..=axes.y[1] as i32 {
        let y = axes.y(10f64.powi(power));
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            tick(power - 9)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">FLOP per byte</text>\
         <text x=\"16\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {:.1})\">GFLOP/s</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0,
        HEIGHT / 2.0,
        HEIGHT / 2.0
    );
}

/// A power of ten, short.
fn tick(power: i32) -> String {
    if (-3..=4).contains(&power) { format!("{}", 10f64.powi(power)) } else { format!("1e{power}") }
}

/// A point with its label, which gives way to those before it.
fn mark(svg: &mut String, p: &Point, peaks: &Peaks, axes: &Axes, total: u64, taken: &mut Vec<(f64, f64)>) {
    let (x, y) = (axes.x(p.intensity), axes.y(p.flops_per_s));
    let size = 4.0 + 16.0 * (p.row.ns as f64 / total.max(1) as f64).sqrt();
    let bound = if peaks.is_memory_bound(p.row.flops, p.row.bytes) { "memory" } else { "compute" };
    let name = escape(&format!("{} {}", p.row.name, p.row.shape));
    let share = 100.0 * peaks.share(p.row.flops, p.row.bytes, p.row.ns);
    let what = format!("{}: {share:.0} % of the roofline, {bound} bound, {} calls", name.trim(), p.row.calls);
    let shape = match p.row.flops > 0.0 {
        true => format!("<circle class=\"{bound}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size:.1}\">"),
        false => format!(
            "<rect class=\"{bound}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\">",
            x - size,
            y - size,
            2.0 * size,
            2.0 * size
        ),
    };
    let end = if p.row.flops > 0.0 { "circle" } else { "rect" };
    let mut label_y = y + 4.0;
    while taken.iter().any(|(tx, ty)| (tx - x).abs() < 110.0 && (ty - label_y).abs() < 12.0) {
        label_y += 12.0;
    }
    taken.push((x, label_y));
    // Near the right edge the label stands left of its point.
    let (label_x, anchor) = if x > WIDTH - 160.0 { (x - size - 3.0, "end") } else { (x + size + 3.0, "start") };
    let _ = writeln!(
        svg,
        "{shape}<title>{what}</title></{end}><text class=\"label\" x=\"{label_x:.1}\" y=\"{label_y:.1}\" \
         text-anchor=\"{anchor}\">{}</text>",
        name.trim()
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const CSS: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#222}\
svg{width:100%;height:auto;font-size:11px}.grid{stroke:#ddd}.roof{fill:none;stroke:#222;stroke-width:2}\
circle,rect{fill-opacity:.55;stroke:#fff}.memory{fill:#2a6fb0}.compute{fill:#c5532b}.limit{font-weight:600}\
.label{font-size:10px}pre{overflow-x:auto;font-size:12px}";
