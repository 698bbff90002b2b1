//! The curves: each panel is one small SVG of up to six metrics over steps.

use super::files::RunFiles;
use super::phases::{self, Phase};
use crate::error::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

/// One panel: its heading and the metrics it shows, `(key, label)`.
pub struct Panel {
    /// The heading.
    pub title: &'static str,
    /// What to look for, in one sentence.
    pub note: &'static str,
    /// Metric keys and their labels.
    pub lines: &'static [(&'static str, &'static str)],
}

const fn panel(title: &'static str, note: &'static str, lines: &'static [(&'static str, &'static str)]) -> Panel {
    Panel { title, note, lines }
}

/// All panels of the page, in order.
pub const PANELS: [Panel; 23] = [
    panel(
        "Reward",
        "Mean over the step's episodes; the second line leaves out the -1 of rule breaks.",
        &[("reward/mean", "with penalties"), ("reward/no_penalty", "without"), ("reward/deal", "given a deal")],
    ),
    panel(
        "Held-out products, while training",
        "Mean reward of the policy on products it is not trained on, every eval.every steps; the best one's checkpoint is kept.",
        &[("held_out/reward", "reward")],
    ),
    panel(
        "Deal rate",
        "MI: the budget covers the cost. CI: it does not, so no deal is right.",
        &[("deal_rate", "all"), ("deal_rate/mi", "MI"), ("deal_rate/ci", "CI")],
    ),
    panel(
        "First offer",
        "First bid over the budget: the embedded buyer opens near 0.8 before it is trained.",
        &[("first_offer_ratio", "first bid / budget")],
    ),
    panel(
        "Bargained ratio",
        "(budget - price) / |budget - cost| of deals: 0 at the whole budget, 1 at the seller's cost.",
        &[("bargained_ratio", "bargained")],
    ),
    panel("Overshoot", "Episodes that end on a price above the budget.", &[("overshoot_rate", "overshoot")]),
    panel("Format errors", "Episodes that end on a broken reply.", &[("format_error_rate", "format errors")]),
    panel(
        "Interventions",
        "How often the regulator had to correct the frozen seller.",
        &[("interventions_per_episode", "per episode")],
    ),
    panel("Monotone bids", "Episodes whose bids never fall.", &[("monotone_bids", "monotone")]),
    panel(
        "Slips",
        "Bids at or above the standing ask, bids below the bid before, replies that say what only sellers say.",
        &[
            ("bids/crossed", "crossed bids"),
            ("bids/falling", "falling bids"),
            ("other_sides_words", "other side's words"),
        ],
    ),
    panel(
        "Thought and action",
        "Bids that are what the thought announced.",
        &[("thought_action_agreement", "agreement")],
    ),
    panel("Reasons", "Buyer turns that give a reason for a lower price.", &[("reason_rate", "reason rate")]),
    panel("Turns", "Length of an episode.", &[("turns", "turns")]),
    panel(
        "Sets",
        "Of K candidates: the best one, the mean one, and the shares that repeat nothing and that are no set.",
        &[
            ("sets/best", "best"),
            ("sets/candidate", "mean"),
            ("sets/distinct", "distinct"),
            ("sets/malformed", "malformed"),
        ],
    ),
    panel(
        "Free riding",
        "Advantage of the worst candidate in the best set of a group: above 0 it is paid for its neighbours.",
        &[("credit/worst_in_best", "worst in best")],
    ),
    panel(
        "Importance weights",
        "Weights of tokens an older policy sampled, and the shares that are not 1 and that were cut. On policy: 1, 0, 0.",
        &[
            ("importance/mean_weight", "mean weight"),
            ("importance/not_one", "not 1"),
            ("importance/bounded", "cut or masked"),
        ],
    ),
    panel("Entropy", "Of the policy, per token, in nats.", &[("policy/entropy", "entropy")]),
    panel("Gradient norm", "Before clipping.", &[("grad_norm", "norm")]),
    panel(
        "Speed",
        "Tokens a second: sampled in the rollout, trained in the update.",
        &[("time/sampled_tokens_per_s", "sampled"), ("time/trained_tokens_per_s", "trained")],
    ),
    panel(
        "Time of a step",
        "Seconds.",
        &[
            ("time/prefill_s", "prefill"),
            ("time/decode_s", "decode"),
            ("time/environment_s", "environment"),
            ("time/forward_s", "forward"),
            ("time/backward_s", "backward"),
            ("time/optimizer_s", "optimizer"),
        ],
    ),
    panel(
        "Memory",
        "The most this process ever held, in bytes; flat once every buffer is sized.",
        &[("time/peak_memory_bytes", "peak")],
    ),
    panel("Skipped updates", "Updates whose loss or gradient was not finite.", &[("updates_skipped_total", "skipped")]),
    panel(
        "Rollout against training",
        "Largest difference of a token's logprob; must be 0.",
        &[("rollout/logprob_max_abs_diff", "difference")],
    ),
];

const COLORS: [RGBColor; 6] = [
    RGBColor(31, 92, 153),
    RGBColor(200, 98, 28),
    RGBColor(46, 125, 74),
    RGBColor(122, 78, 145),
    RGBColor(160, 132, 20),
    RGBColor(90, 90, 90),
];
// A line without a colour would not be drawn.
const _: () = {
    let mut i = 0;
    while i < PANELS.len() {
        assert!(PANELS[i].lines.len() <= COLORS.len());
        i += 1;
    }
};
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// A panel as SVG text; `None` when the run has none of its metrics.
pub fn draw(files: &RunFiles, panel: &Panel) -> Result<Option<String>> {
    let lines: Vec<Line> = panel.lines.iter().map(|(key, label)| Line::new(files, key, label)).collect();
    picture(&lines.into_iter().filter(|line| !line.points.is_empty()).collect::<Vec<_>>())
}

fn picture(lines: &[Line]) -> Result<Option<String>> {
    if lines.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (460, 230)).into_drawing_area();
        chart(&area, lines, &Marks::default()).map_err(drawing)?;
        area.present().map_err(|e| drawing(e.into()))?;
    }
    Ok(Some(svg))
}

/// A metric of several runs, a line each; `None` where none has it.
pub fn across(runs: &[(&str, &RunFiles)], key: &str) -> Result<Option<String>> {
    let lines: Vec<Line> = runs.iter().map(|(name, files)| Line::new(files, key, name)).collect();
    picture(&lines.into_iter().filter(|line| !line.points.is_empty()).collect::<Vec<_>>())
}

/// The picture of the README: reward with the final table's marks, and how the play changes.
pub fn headline(files: &RunFiles) -> Result<String> {
    let marks: Vec<(f64, &str)> = [
        ("untrained", "untrained, held out"),
        ("og_narrator", "OG-Narrator, held out"),
        ("trained", "trained, held out"),
    ]
    .into_iter()
    .filter_map(|(buyer, label)| Some((files.final_value(buyer, "reward")?, label)))
    .collect();
    let reward =
        [Line::new(files, "reward/mean", "reward"), Line::new(files, "reward/no_penalty", "without penalties")];
    let reward: Vec<Line> = reward.into_iter().filter(|line| !line.points.is_empty()).collect();
    let play = match files.curve("sets/candidate").is_empty() {
        true => [
            Line::new(files, "deal_rate", "deal rate"),
            Line::new(files, "first_offer_ratio", "first bid / budget"),
            Line::new(files, "bargained_ratio", "bargained ratio"),
        ],
        false => [
            Line::new(files, "sets/candidate", "mean candidate"),
            Line::new(files, "sets/distinct", "distinct"),
            Line::new(files, "sets/malformed", "malformed"),
        ],
    };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (960, 340)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| drawing(e.into()))?;
        let (left, right) = area.split_horizontally(480);
        chart(&left, &reward, &Marks { heights: marks, steps: vec![] }).map_err(drawing)?;
        chart(&right, &play, &Marks { heights: vec![], steps: events(files) }).map_err(drawing)?;
        area.present().map_err(|e| drawing(e.into()))?;
    }
    Ok(svg)
}

/// What stands across a chart: values at a height, events at a step.
#[derive(Default)]
struct Marks {
    heights: Vec<(f64, &'static str)>,
    steps: Vec<(f64, &'static str)>,
}

/// Where the phases after the first begin, as far as they show.
fn events(files: &RunFiles) -> Vec<(f64, &'static str)> {
    let found = phases::of(files).into_iter().flatten().zip(phases::NAMES).skip(1);
    found.filter_map(|(phase, name)| if let Phase::From(step) = phase { Some((step, name)) } else { None }).collect()
}

/// One metric: its points and their moving mean.
struct Line {
    label: String,
    points: Vec<(f64, f64)>,
    smooth: Vec<(f64, f64)>,
}

impl Line {
    fn new(files: &RunFiles, key: &str, label: &str) -> Line {
        let points = files.curve(key);
        let half = points.len() / 20;
        let mean = |at: usize| {
            let near = &points[at.saturating_sub(half)..(at + half + 1).min(points.len())];
            near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64
        };
        let smooth = (0..points.len()).map(|at| (points[at].0, mean(at))).collect();
        Line { label: label.into(), points, smooth }
    }
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn chart(area: &DrawingArea<SVGBackend, Shift>, lines: &[Line], marks: &Marks) -> Drawn {
    let (xs, ys) = ranges(lines, &marks.heights);
    let (last, bottom, top) = (xs.end, ys.start, ys.end);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_top(26)
        .x_label_area_size(30)
        .y_label_area_size(48)
        .build_cartesian_2d(xs, ys)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .x_labels(6)
        .y_labels(5)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(("sans-serif", 12, &INK))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for (step, label) in &marks.steps {
        chart.draw_series(DashedLineSeries::new([(*step, bottom), (*step, top)], 2, 4, INK.mix(0.6).into()))?;
        let font = ("sans-serif", 11).into_font().transform(FontTransform::Rotate90).color(&INK);
        let at = EmptyElement::at((*step, top)) + Text::new((*label).to_string(), (12, 2), font);
        chart.draw_series(std::iter::once(at))?;
    }
    for (height, label) in &marks.heights {
        chart.draw_series(DashedLineSeries::new([(0.0, *height), (last, *height)], 4, 4, INK.mix(0.6).into()))?;
        let at = EmptyElement::at((last, *height))
            + Text::new((*label).to_string(), (-150, -13), ("sans-serif", 11).into_font().color(&INK));
        chart.draw_series(std::iter::once(at))?;
    }
    for (line, color) in lines.iter().zip(COLORS.into_iter().cycle()) {
        chart.draw_series(LineSeries::new(line.points.iter().copied(), color.mix(0.25)))?;
        chart.draw_series(LineSeries::new(line.smooth.iter().copied(), color.stroke_width(2)))?;
    }
    legend(area, lines)?;
    Ok(())
}

/// The lines' names in a row above the chart, where they cover nothing.
fn legend(area: &DrawingArea<SVGBackend, Shift>, lines: &[Line]) -> Drawn {
    let mut x = 56;
    for (line, color) in lines.iter().zip(COLORS.into_iter().cycle()) {
        area.draw(&PathElement::new([(x, 13), (x + 14, 13)], color.stroke_width(3)))?;
        area.draw(&Text::new(line.label.clone(), (x + 18, 7), ("sans-serif", 12).into_font().color(&INK)))?;
        x += 30 + 7 * line.label.chars().count() as i32;
    }
    Ok(())
}

/// The axes' ranges, with room above and below.
fn ranges(lines: &[Line], marks: &[(f64, &str)]) -> (std::ops::Range<f64>, std::ops::Range<f64>) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let heights = || points().map(|p| p.1).chain(marks.iter().map(|m| m.0));
    let (low, high) = (heights().fold(f64::INFINITY, f64::min), heights().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
    let room = ((high - low) * 0.15).max(high.abs() * 0.02).max(1e-3);
    let bottom = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
    (0.0..last, bottom..high + room)
}

/// A number with as many digits as an axis needs.
fn short(y: f64) -> String {
    match y.abs() {
        y_abs if y_abs >= 10_000.0 => format!("{:.0}k", y / 1000.0),
        y_abs if y_abs >= 100.0 => format!("{y:.0}"),
        y_abs if y_abs >= 10.0 => format!("{y:.1}"),
        y_abs if y_abs >= 0.01 || y_abs == 0.0 => format!("{y:.2}"),
        _ => format!("{y:.0e}"),
    }
}

fn drawing(e: Box<dyn std::error::Error>) -> Error {
    Error::data("report.html", format!("a curve could not be drawn: {e}"))
}
