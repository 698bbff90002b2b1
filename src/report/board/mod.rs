//! A board of `haggle rank` as a page: forest plots and rank ranges that a person reads at a glance; it loads nothing.
//!
//! The one idea: a dot is the estimate, its bar the interval, the bar beside it every rank that the model can have; where
//! two bars of ranks do not overlap, the games tell the models apart.

mod figure;

use super::parts::{CSS, boxed, escape};
use crate::rank::board::{Board, method_name, rating, shape_name};
use crate::rank::rewards::RewardGap;
use figure::{Axis, figure};

/// Lines of a kind at most.
const SHOWN: usize = 40;

/// The whole page.
pub fn page(board: &Board) -> String {
    let mut body = format!("<h1>haggle rank</h1>\n<p class=\"lead\">{}.</p>\n", escape(&board.sentence));
    body += &format!("<p>{}</p>\n", escape(&how(board)));
    body += &list("Be careful", &board.warnings);
    let axis = Axis::of(board);
    if board.categories.len() > 1 {
        body += &figure(board, &board.overall, &axis);
        body += "<h2>Categories</h2>\n<div class=\"grid\">\n";
        body += &board.categories.iter().map(|standing| figure(board, standing, &axis)).collect::<String>();
        body += "</div>\n";
    } else {
        body += &figure(board, &board.categories[0], &axis);
    }
    body += &findings(board);
    body += &rewards(board);
    body += &list("What cannot be compared, and what was done", &board.notes);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>haggle rank</title>\n<style>{CSS}{}</style></head><body><main>\n{body}</main></body></html>\n",
        figure::CSS
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

/// Differences of mean reward: over all, and folded those of each category.
fn rewards(board: &Board) -> String {
    if board.rewards.is_empty() {
        return String::new();
    }
    let of = |category: &str| differences(category, board.rewards.iter().filter(|gap| gap.category == category));
    let mut html = format!("<h2>By how much: difference of mean reward</h2>\n{}", of("overall"));
    for standing in board.categories.iter().filter(|_| board.categories.len() > 1) {
        let name = &standing.name;
        html += &format!("<details><summary>{}</summary>\n{}</details>\n", escape(name), of(name));
    }
    html
}

fn differences<'a>(category: &str, gaps: impl Iterator<Item = &'a RewardGap>) -> String {
    let head = ["buyers", "mean", "interval", "episodes", "products"].map(String::from).to_vec();
    let row = |gap: &RewardGap| {
        let ends = gap.interval.map_or("–".into(), |[low, high]| format!("[{low:+.3}, {high:+.3}]"));
        let (names, mean) = (format!("{} - {}", gap.a, gap.b), format!("{:+.3}", gap.mean));
        vec![names, mean, ends, gap.episodes.to_string(), gap.products.to_string()]
    };
    // A box is known by its name, and no two have the same.
    let title = format!("Differences of mean reward, {category}");
    boxed(&title, &std::iter::once(head).chain(gaps.map(row)).collect())
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
