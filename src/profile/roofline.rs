//! The roofline as one self-contained page: FLOP/s over FLOP per byte, both logarithmic, the ceilings of memory, cache and
//! arithmetic, every op a point with its name beside it.
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
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>haggle profile: {title}</title>\n\
         <style>{CSS}</style></head><body><main>\n<h1>{title}</h1>\n\
         <p>Each point is an op of the step: right, more arithmetic a byte; up, faster; its area, its share of the step. The \
         solid line is what this machine can do at most from memory, the broken one from a cache: a point between the two was \
         read from a cache. Ops that only move bytes (squares) stand at the left edge, as high as their share of the copy's \
         bandwidth.</p>\n\
         <p><span class=\"key memory\"></span> memory sets its limit <span class=\"key compute\"></span> arithmetic does</p>\n\
         <div class=\"box\" role=\"region\" tabindex=\"0\" aria-label=\"The roofline\">{body}</div>\n\
         <pre tabindex=\"0\">{text}</pre>\n</main></body></html>\n"
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
    let high_y = rows.iter().map(height).fold(peaks.flops_per_s * 1.5, f64::max);
    Axes { x, y: [low_y.log10().floor(), high_y.log10().ceil()] }
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
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"ops under the roofline\">\n");
    grid(&mut svg, axes);
    let (gb, gflop) = (|rate: f64| rate / 1e9, peaks.flops_per_s / 1e9);
    let mut labels = Labels::default();
    for (class, name, bytes_per_s) in [
        ("cache", format!("cache {:.0} GB/s", gb(peaks.cache_bytes_per_s)), peaks.cache_bytes_per_s),
        ("roof", format!("memory {:.1} GB/s", gb(peaks.bytes_per_s)), peaks.bytes_per_s),
    ] {
        let along = roof(&mut svg, class, &name, bytes_per_s, peaks.flops_per_s, axes);
        along.into_iter().for_each(|at| labels.take(at, 16.0));
    }
    let _ = writeln!(
        svg,
        "<text class=\"limit\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">multiply-add {gflop:.1} GFLOP/s</text>",
        WIDTH - RIGHT,
        axes.y(peaks.flops_per_s) - 6.0
    );
    let total: u64 = points.iter().map(|p| p.row.ns).sum();
    let sizes: Vec<f64> = points.iter().map(|p| 4.0 + 16.0 * (p.row.ns as f64 / total.max(1) as f64).sqrt()).collect();
    let at = |p: &Point| (axes.x(p.intensity), axes.y(p.flops_per_s));
    points.iter().zip(&sizes).for_each(|(p, size)| labels.take(at(p), *size));
    for (p, size) in points.iter().zip(sizes) {
        mark(&mut svg, p, peaks, at(p), size, &mut labels);
    }
    svg + "</svg>\n"
}

/// The most that bytes at this rate allow, up to the most that the arithmetic allows, and its name along it; places on the name,
/// which no label of a point is to cover.
fn roof(
    svg: &mut String,
    class: &str,
    name: &str,
    bytes_per_s: f64,
    flops_per_s: f64,
    axes: &Axes,
) -> impl IntoIterator<Item = (f64, f64)> + use<> {
    let (edge, ridge, top) = (10f64.powf(axes.x[0]), flops_per_s / bytes_per_s, axes.y(flops_per_s));
    // It starts where it enters the picture.
    let start = edge.max(10f64.powf(axes.y[0]) / bytes_per_s);
    let (x, y) = (axes.x(start), axes.y(start * bytes_per_s));
    let corner = axes.x(ridge);
    let _ = writeln!(
        svg,
        "<polyline class=\"{class}\" points=\"{x:.1},{y:.1} {corner:.1},{top:.1} {:.1},{top:.1}\"/>",
        WIDTH - RIGHT
    );
    let turn = ((top - y) / (corner - x).max(1.0)).atan();
    let (x, y) = (x + 0.55 * (corner - x), y + 0.55 * (top - y) - 6.0);
    let degrees = turn.to_degrees();
    let _ = writeln!(
        svg,
        "<text class=\"limit\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" transform=\"rotate({degrees:.1} {x:.1} {y:.1})\">{name}</text>"
    );
    (-6..=6).map(move |i| (x + 9.0 * f64::from(i) * turn.cos(), y - 4.0 + 9.0 * f64::from(i) * turn.sin()))
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

/// A point with its label; one that found no room beside it is tied to it by a line.
fn mark(svg: &mut String, p: &Point, peaks: &Peaks, (x, y): (f64, f64), size: f64, labels: &mut Labels) {
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
    let wide = LETTER * name.trim().chars().count() as f64;
    let Label { x: label_x, y: label_y, far } = labels.place((x, y), size, wide);
    if far {
        let near = if label_x > x { label_x } else { label_x + wide };
        let _ = write!(
            svg,
            "<line class=\"tie\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{near:.1}\" y2=\"{:.1}\"/>",
            label_y - 3.0
        );
    }
    let _ = writeln!(
        svg,
        "{shape}<title>{what}</title></{end}><text class=\"label\" x=\"{label_x:.1}\" y=\"{label_y:.1}\">{}</text>",
        name.trim()
    );
}

/// Characters of a label are that wide, and its lines that high.
const LETTER: f64 = 6.3;
const LINE: f64 = 11.0;

/// Where a label stands: its left end and its foot; `far` when not beside its point.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Label {
    x: f64,
    y: f64,
    far: bool,
}

/// What of the picture is taken, as boxes `[left, top, right, bottom]`.
#[derive(Debug, Default)]
struct Labels {
    taken: Vec<[f64; 4]>,
}

impl Labels {
    /// A point takes its place before any label.
    fn take(&mut self, (x, y): (f64, f64), size: f64) {
        let half = 0.6 * size;
        self.taken.push([x - half, y - half, x + half, y + half]);
    }

    /// The free place nearest to a point, right of it before left; where nothing is free, beside it.
    fn place(&mut self, (x, y): (f64, f64), size: f64, wide: f64) -> Label {
        let away = |ring: usize| 14.0 * ring as f64;
        let places = (0..=10usize).flat_map(|ring| {
            (-(ring as i32)..=ring as i32).flat_map(move |row| {
                [x + size + 3.0 + away(ring), x - size - 3.0 - away(ring) - wide].map(|left| Label {
                    x: left,
                    y: y + 4.0 + LINE * f64::from(row),
                    far: ring > 0,
                })
            })
        });
        let found = places.into_iter().find(|label| self.is_free(label, wide));
        let label = found.unwrap_or(Label { x: x + size + 3.0, y: y + 4.0, far: false });
        self.taken.push(bounds(&label, wide));
        label
    }

    fn is_free(&self, label: &Label, wide: f64) -> bool {
        let [left, top, right, bottom] = bounds(label, wide);
        let inside = left >= LEFT && right <= WIDTH && top >= 0.0 && bottom <= HEIGHT - BOTTOM;
        inside && self.taken.iter().all(|[l, t, r, b]| right < *l || left > *r || bottom < *t || top > *b)
    }
}

fn bounds(label: &Label, wide: f64) -> [f64; 4] {
    [label.x, label.y - 0.8 * LINE, label.x + wide, label.y + 0.1 * LINE]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const CSS: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{overflow-wrap:anywhere}.box{overflow-x:auto}svg{width:100%;min-width:760px;height:auto;font-size:11px}svg text{fill:#222}\
.grid{stroke:#ddd}.roof,.cache{fill:none;stroke:#222;stroke-width:2}.cache{stroke-width:1;stroke-dasharray:6 4}\
circle,rect{fill-opacity:.55;stroke:#fff}.memory{fill:#2a6fb0}.compute{fill:#c5532b}.key.memory{background:#2a6fb0}.key.compute{background:#c5532b}\
.key{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-left:.8em}.limit{font-weight:600}.tie{stroke:#888;stroke-width:.7}\
.label{font-size:10px}pre{overflow-x:auto;font-size:12px}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}svg text{fill:#ddd}.grid{stroke:#333}.roof,.cache{stroke:#ddd}\
circle,rect{stroke:#161616;fill-opacity:.8}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_overlap_nothing_stay_in_the_picture_and_are_tied_where_they_are_far() {
        // Twenty ops in one heap, two at the edges.
        let heap = (0..20).map(|i| (300.0 + f64::from(i % 5), 200.0 + f64::from(i / 5)));
        let points: Vec<(f64, f64)> = heap.chain([(WIDTH - RIGHT, TOP), (LEFT, HEIGHT - BOTTOM)]).collect();
        let mut labels = Labels::default();
        points.iter().for_each(|at| labels.take(*at, 5.0));
        let placed: Vec<Label> = points.iter().map(|at| labels.place(*at, 5.0, 70.0)).collect();
        for (i, label) in placed.iter().enumerate() {
            let [left, top, right, bottom] = bounds(label, 70.0);
            assert!(left >= LEFT && right <= WIDTH && top >= 0.0 && bottom <= HEIGHT - BOTTOM, "{label:?}");
            for other in &placed[..i] {
                let [l, t, r, b] = bounds(other, 70.0);
                assert!(right < l || left > r || bottom < t || top > b, "{label:?} over {other:?}");
            }
            let near = (label.x - points[i].0).abs().min((label.x + 70.0 - points[i].0).abs()) < 9.0;
            assert!(label.far || near && (label.y - points[i].1 - 4.0).abs() < 1e-9, "{label:?} is not tied");
        }
        assert!(placed.iter().filter(|label| label.far).count() > 10);
    }
}
