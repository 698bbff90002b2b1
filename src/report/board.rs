//! A board of `haggle rank` as a page: forest plots and rank ranges that a person reads at a glance; it loads nothing.
//!
//! The one idea: a dot is the estimate, its bar the interval, the bar beside it every rank that the model can have; where
//! two bars of ranks do not overlap, the games tell the models apart.

use super::page::escape;
use crate::rank::board::{Board, Place, Standing, half_width, method_name, rating, shape_name};

/// Sizes of the picture, in pixels: a row, names, ratings, ranks, a margin.
const ROW: f64 = 22.0;
const NAMES: f64 = 190.0;
const RATINGS: f64 = 330.0;
const RANKS: f64 = 150.0;
const MARGIN: f64 = 14.0;
/// Lines of a kind at most.
const SHOWN: usize = 40;

/// The whole page.
pub fn page(board: &Board) -> String {
    let mut body = format!("<h1>haggle rank</h1>\n<p class=\"lead\">{}.</p>\n", escape(&board.sentence));
    body += &format!("<p>{}</p>\n", escape(&how(board)));
    body += &list("Be careful", &board.warnings);
    if board.categories.len() > 1 {
        body += &figure(board, &board.overall);
        body += "<h2>Categories</h2>\n<div class=\"grid\">\n";
        body += &board.categories.iter().map(|standing| figure(board, standing)).collect::<String>();
        body += "</div>\n";
    } else {
        body += &figure(board, &board.categories[0]);
    }
    body += &findings(board);
    body += &rewards(board);
    body += &list("What cannot be compared, and what was done", &board.notes);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>haggle rank</title>\n<style>{CSS}</style></head><body>\n{body}</body></html>\n"
    )
}

/// How to read it, and how it was made.
fn how(board: &Board) -> String {
    let shape = board.shape.map_or(String::new(), |shape| format!(", rank {}", shape_name(shape)));
    let tau = board.tau.map_or(String::new(), |tau| format!(", tau {tau:.3}"));
    let clusters = if board.clusters > 0 { format!(", {} clusters", board.clusters) } else { String::new() };
    format!(
        "Dots are ratings (1000 + 400 / ln 10 a logit), thin bars their {:.0} % intervals, thick bars every rank that a model can \
         have, all of a figure at once. {:.0} games{clusters}; method {}{shape}{tau}.",
        100.0 * board.level,
        board.games,
        method_name(board.method)
    )
}

/// A standing as a picture with its caption.
fn figure(board: &Board, standing: &Standing) -> String {
    let n = standing.places.len();
    let half = |place: &Place| half_width(place, board.level);
    let ends: Vec<(f64, f64)> = standing
        .places
        .iter()
        .filter_map(|place| Some((rating(place.theta? - half(place)?), rating(place.theta? + half(place)?))))
        .collect();
    let low = ends.iter().map(|ends| ends.0).fold(f64::INFINITY, f64::min);
    let high = ends.iter().map(|ends| ends.1).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low < high { (low, high) } else { (900.0, 1100.0) };
    let x = |points: f64| NAMES + MARGIN + (points - low) / (high - low) * (RATINGS - 2.0 * MARGIN);
    let height = ROW * (n + 1) as f64 + MARGIN;
    let mut svg = format!("<svg viewBox=\"0 0 {} {height}\" role=\"img\">", NAMES + RATINGS + RANKS);
    svg += &axis(low, high, &x, height);
    for (at, place) in standing.places.iter().enumerate() {
        svg += &row(board, place, at, n, half(place), &x);
    }
    svg += "</svg>";
    let title = format!("{}: {:.0} games", standing.name, standing.games);
    format!("<figure><figcaption>{}</figcaption>{svg}</figure>\n", escape(&title))
}

/// Three labelled lines across the ratings.
fn axis(low: f64, high: f64, x: &dyn Fn(f64) -> f64, height: f64) -> String {
    let line = |points: f64| {
        let (x, bottom) = (x(points), height - ROW);
        format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\" class=\"grid\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
             class=\"mid\">{points:.0}</text>",
            height - 6.0
        )
    };
    let ranks =
        format!("<text x=\"{:.1}\" y=\"{:.1}\" class=\"mid\">rank</text>", NAMES + RATINGS + RANKS / 2.0, height - 6.0);
    [low, 0.5 * (low + high), high].map(line).concat() + &ranks
}

fn row(board: &Board, place: &Place, at: usize, n: usize, half: Option<f64>, x: &dyn Fn(f64) -> f64) -> String {
    let y = ROW * at as f64 + ROW / 2.0 + 2.0;
    let name = escape(&board.models[place.model]);
    let mut svg = format!(
        "<text x=\"{:.0}\" y=\"{:.1}\" class=\"name\"><title>{name}</title>{name}</text>",
        NAMES - 6.0,
        y + 4.0
    );
    match place.theta.zip(half) {
        Some((theta, half)) => {
            let (low, high) = (x(rating(theta - half)), x(rating(theta + half)));
            let class = if place.group == 0 { "" } else { " other" };
            svg +=
                &format!("<line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"bar{class}\"/>");
            svg += &format!("<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" class=\"dot{class}\"/>", x(rating(theta)));
        }
        None => {
            svg += &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" class=\"mid\">not to be compared</text>",
                NAMES + RATINGS / 2.0,
                y + 4.0
            )
        }
    }
    let step = (RANKS - 2.0 * MARGIN) / n as f64;
    let from = NAMES + RATINGS + MARGIN + step * (place.rank_low - 1) as f64;
    let wide = step * (place.rank_high - place.rank_low + 1) as f64;
    svg + &format!(
        "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"10\" class=\"ranks\"><title>ranks {} to {}</title></rect>",
        y - 5.0,
        place.rank_low,
        place.rank_high
    )
}

/// Outliers, and gaps on which both estimates do not agree.
fn findings(board: &Board) -> String {
    let name = |model: usize| &board.models[model];
    let outliers = board.outliers.iter().map(|o| {
        format!(
            "{} behaves differently on {} ({:+.1} standard errors)",
            name(o.model),
            board.categories[o.category].name,
            o.z
        )
    });
    let points = |x: f64| rating(x) - rating(0.0);
    let said = board.disagreements.iter().map(|d| {
        let ends =
            |[gap, low, high]: [f64; 3]| format!("{:+.0} [{:+.0}, {:+.0}]", points(gap), points(low), points(high));
        let where_ = &board.categories[d.category].name;
        format!(
            "{} against {} on {where_}: {} with all categories, {} alone",
            name(d.a),
            name(d.b),
            ends(d.shared),
            ends(d.alone)
        )
    });
    let needed =
        board.overall.needed.iter().map(|(a, b, games)| {
            format!("{} from {}: {games:.0} games at least, were the gap true", name(*a), name(*b))
        });
    list("Who strays", &outliers.collect::<Vec<_>>())
        + &list("Gaps on which both estimates do not agree", &said.collect::<Vec<_>>())
        + &list("What would separate neighbours", &needed.collect::<Vec<_>>())
}

/// Differences of mean reward.
fn rewards(board: &Board) -> String {
    if board.rewards.is_empty() {
        return String::new();
    }
    let mut html =
        "<h2>By how much: difference of mean reward</h2>\n<table><tr><th>buyers<th>category<th>mean<th>interval\
                    <th>episodes<th>products</tr>\n"
            .to_string();
    for gap in &board.rewards {
        let ends = gap.interval.map_or("–".into(), |[low, high]| format!("[{low:+.3}, {high:+.3}]"));
        html += &format!(
            "<tr><td>{} - {}<td>{}<td>{:+.3}<td>{ends}<td>{}<td>{}</tr>\n",
            escape(&gap.a),
            escape(&gap.b),
            escape(&gap.category),
            gap.mean,
            gap.episodes,
            gap.products
        );
    }
    html + "</table>\n"
}

/// A titled list; nothing for nothing.
fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut html = format!("<h2>{}</h2>\n<ul>\n", escape(title));
    html += &lines.iter().take(SHOWN).map(|line| format!("<li>{}</li>\n", escape(line))).collect::<String>();
    if lines.len() > SHOWN {
        html += &format!("<li>and {} more; --json has all</li>\n", lines.len() - SHOWN);
    }
    html + "</ul>\n"
}

const CSS: &str = "
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1440px;margin:2rem auto;padding:0 1.5rem}
h1{font-size:1.7rem;margin-bottom:0}h2{margin-top:2.2rem;border-bottom:1px solid #ddd}.lead{color:#666}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(520px,1fr));gap:1rem}
figure{margin:0;border:1px solid #eee;border-radius:6px;padding:.6rem;max-width:760px}figcaption{font-weight:600}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}
svg .name{text-anchor:end;fill:#222}svg .mid{text-anchor:middle;fill:#666;font-size:11px}svg line.grid{stroke:#e4e4e4}
svg .bar{stroke:#1f5c99;stroke-width:2}svg .dot{fill:#1f5c99}svg .ranks{fill:#c8621c;opacity:.75}
svg .bar.other{stroke:#888}svg .dot.other{fill:#888}
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
th{color:#555;font-weight:600}th:first-child,td:first-child{text-align:left}
";
