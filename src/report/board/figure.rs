//! A standing as a table whose cells hold the picture: what is drawn can also be read, copied and heard.
//!
//! The one idea: every mark is a span at a percentage of its cell, so that a figure is as wide as its place and its words keep
//! their size; and all figures of a page share one axis, so that a category is compared with another by eye.

use super::super::parts::escape;
use crate::rank::board::{Board, POINTS, Place, Standing, half_width, rating};
use std::fmt::Write;

/// Ticks of an axis, about.
const TICKS: f64 = 4.0;
/// How far an axis goes beyond the ratings, in their span, for intervals.
const BEYOND: f64 = 0.5;

/// The ratings that a page shows, in points, and where its ticks are.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis for all standings of a board: wide enough for its intervals, unless some are much wider than its ratings.
    pub fn of(board: &Board) -> Axis {
        let places = board.categories.iter().chain([&board.overall]).flat_map(|standing| &standing.places);
        let spans = places.filter_map(|place| Some((rating(place.theta?), POINTS * half_width(place, board.level)?)));
        let (mut dots, mut ends) = ((f64::INFINITY, f64::NEG_INFINITY), (f64::INFINITY, f64::NEG_INFINITY));
        for (at, half) in spans {
            dots = (dots.0.min(at), dots.1.max(at));
            ends = (ends.0.min(at - half), ends.1.max(at + half));
        }
        if dots.0 > dots.1 {
            return Axis::between(rating(-0.5), rating(0.5));
        }
        let beyond = BEYOND * (dots.1 - dots.0).max(POINTS);
        Axis::between(ends.0.max(dots.0 - beyond), ends.1.min(dots.1 + beyond))
    }

    /// An axis from `low` to `high`, its ticks at round numbers: 1, 2 or 5 times a power of ten apart.
    fn between(low: f64, high: f64) -> Axis {
        let wanted = (high - low) / TICKS;
        let power = 10_f64.powf(wanted.log10().floor());
        let step = [1.0, 2.0, 5.0].into_iter().map(|k| k * power).find(|step| *step >= wanted).unwrap_or(10.0 * power);
        let first = (low / step).ceil() as i64;
        let ticks = (first..).map(|k| k as f64 * step).take_while(|tick| *tick <= high).collect();
        Axis { low, high, ticks }
    }

    /// Where a rating stands, in percent of the axis; at its end what lies beyond.
    fn at(&self, points: f64) -> f64 {
        (100.0 * (points - self.low) / (self.high - self.low)).clamp(0.0, 100.0)
    }

    /// Its lines in a cell.
    fn lines(&self) -> String {
        self.ticks.iter().map(|tick| format!("<u style=\"left:{:.1}%\"></u>", self.at(*tick))).collect()
    }

    /// Its numbers, for the head.
    fn numbers(&self) -> String {
        let number = |tick: &f64| format!("<span style=\"left:{:.1}%\">{tick:.0}</span>", self.at(*tick));
        self.ticks.iter().map(number).collect()
    }
}

/// A standing with its caption.
pub fn figure(board: &Board, standing: &Standing, axis: &Axis) -> String {
    let n = standing.places.len();
    let mut html = format!(
        "<figure><table class=\"standing\"><caption>{}: {:.0} games</caption>\n<thead><tr><th scope=\"col\">model</th><th \
         class=\"plot\" aria-hidden=\"true\">{}</th><th scope=\"col\">rating</th><th class=\"plot ranks\" aria-hidden=\"true\"><span \
         style=\"left:0\">1</span><span style=\"left:100%\">{n}</span></th><th scope=\"col\">rank</th><th scope=\"col\" \
         class=\"wins\">wins</th></tr></thead>\n<tbody>\n",
        escape(&standing.name),
        standing.games,
        axis.numbers()
    );
    for place in &standing.places {
        html += &row(board, place, n, axis);
    }
    html + "</tbody></table></figure>\n"
}

fn row(board: &Board, place: &Place, n: usize, axis: &Axis) -> String {
    let name = escape(&board.models[place.model]);
    let half = half_width(place, board.level);
    let said = match place.theta.zip(half) {
        Some((theta, half)) => format!("{:.0} ± {:.0}", rating(theta), POINTS * half),
        None => "not to be compared".into(),
    };
    let wins = place.win.map_or("–".into(), |[chance, _, _]| format!("{:.0} %", 100.0 * chance));
    let ranks = if place.rank_low == place.rank_high {
        format!("{}", place.rank_low)
    } else {
        format!("{}–{}", place.rank_low, place.rank_high)
    };
    let each = 100.0 / n as f64;
    let (from, wide) = (each * (place.rank_low - 1) as f64, each * (place.rank_high + 1 - place.rank_low) as f64);
    format!(
        "<tr><th scope=\"row\" title=\"{name}\">{name}</th><td class=\"plot\" aria-hidden=\"true\">{}{}</td><td>{said}</td><td \
         class=\"plot ranks\" aria-hidden=\"true\"><s style=\"left:{from:.1}%;width:{wide:.1}%\"></s></td><td>{ranks}</td><td \
         class=\"wins\">{wins}</td></tr>\n",
        axis.lines(),
        marks(place, half, axis)
    )
}

/// The estimate and its interval, and behind it in grey those of this category alone, where games are few.
fn marks(place: &Place, half: Option<f64>, axis: &Axis) -> String {
    let mut html = String::new();
    let mut bar = |theta: f64, half: f64, class: &str| {
        let (low, high) = (axis.at(rating(theta - half)), axis.at(rating(theta + half)));
        let _ = write!(
            html,
            "<i class=\"{class}\" style=\"left:{low:.1}%;width:{:.1}%\"></i><b class=\"{class}\" style=\"left:{:.1}%\"></b>",
            high - low,
            axis.at(rating(theta))
        );
    };
    let Some(((theta, se), half)) = place.theta.zip(place.se).zip(half) else { return html };
    if let Some([theta, alone]) = place.alone.filter(|_| se > 0.0) {
        bar(theta, half / se * alone, "alone");
    }
    bar(theta, half, if place.group == 0 { "" } else { "other" });
    html
}

/// What the figures look like.
pub const CSS: &str = "
.grid{grid-template-columns:repeat(auto-fill,minmax(min(480px,100%),1fr))}figure{max-width:860px}
table.standing{display:table;width:100%;table-layout:auto;overflow:visible}.standing caption{font-weight:600;text-align:left}
.standing th,.standing td{padding:.2rem .4rem;font-variant-numeric:tabular-nums}
.standing tbody th{font-weight:normal;color:inherit;max-width:12rem;overflow:hidden;text-overflow:ellipsis}
.standing .plot{position:relative;width:50%;min-width:5rem}.standing .plot.ranks{width:16%;min-width:3rem}
.standing .plot + th,.standing .plot + td{padding-left:1rem}.standing .plot.ranks{border-left:.8rem solid transparent}
.plot span{position:absolute;bottom:.2rem;transform:translateX(-50%);font-size:.75rem;font-weight:normal}
.plot u{position:absolute;top:0;bottom:0;width:1px;background:#e4e4e4}
.plot i,.plot b,.plot s{position:absolute;top:50%}.plot i{height:2px;margin-top:-1px;background:#1f5c99}
.plot b{width:9px;height:9px;margin:-4.5px;border-radius:50%;background:#1f5c99}
.plot s{height:10px;margin-top:-5px;background:#c8621c;border-radius:2px}
.plot .other{background:#888}.plot i.alone{height:8px;margin-top:-4px;background:#bbb}.plot b.alone{background:#999}
@media(max-width:560px){.standing .ranks,.standing .wins{display:none}.standing tbody th{max-width:7.5rem;white-space:normal}
.standing th,.standing td,.standing .plot + th,.standing .plot + td{padding:.2rem}}
@media(prefers-color-scheme:dark){.plot u{background:#3a3a3a}.plot i,.plot b{background:#6fb1ee}.plot s{background:#e08a4a}
.plot .other{background:#999}.plot i.alone{background:#555}.plot b.alone{background:#777}}
";

#[cfg(test)]
mod tests {
    use super::Axis;

    #[test]
    fn ticks_are_round_numbers_between_the_ends() {
        assert_eq!(Axis::between(487.0, 1486.0).ticks, [500.0, 1000.0]);
        assert_eq!(Axis::between(203.0, 1967.0).ticks, [500.0, 1000.0, 1500.0]);
        assert_eq!(Axis::between(985.0, 1021.0).ticks, [990.0, 1000.0, 1010.0, 1020.0]);
    }

    #[test]
    fn what_lies_beyond_the_axis_stands_at_its_end() {
        let axis = Axis::between(0.0, 200.0);
        assert_eq!([axis.at(-50.0), axis.at(50.0), axis.at(1e9)], [0.0, 25.0, 100.0]);
    }
}
