//! A board in the terminal.

use crate::cli::out;
use crate::rank::board::{Board, POINTS, Place, Standing, half_width, method_name, rating, shape_name};
use crate::rank::shape::Shape;

/// Lines of a kind at most.
const SHOWN: usize = 8;

/// The whole board: each category, then all together, then what should be known of it.
pub fn text(board: &Board, top: Option<usize>) -> String {
    let mut text = String::new();
    if board.categories.len() > 1 {
        for standing in &board.categories {
            text += &format!("{} ({} games)\n{}\n", standing.name, count(standing.games), rows(board, standing, top));
        }
        text += &format!("overall ({} games, categories by their share of them)\n", count(board.games));
        text += &format!("{}\n", rows(board, &board.overall, top));
    } else {
        // The one category, whose name says nothing more.
        text += &format!("{} games\n{}\n", count(board.games), rows(board, &board.categories[0], top));
    }
    text += &format!("{}.\n", board.sentence);
    text + &method(board) + &findings(board) + &rewards(board)
}

fn rows(board: &Board, standing: &Standing, top: Option<usize>) -> String {
    let alone = standing.places.iter().any(|place| place.alone.is_some());
    let head = ["model", "rating", "±", "rank", "tier", "wins against", "games"].map(String::from);
    let mut head: Vec<String> = head.into_iter().collect();
    head.extend(alone.then(|| "this category alone".into()));
    head.extend(top.map(|k| format!("top {k}")));
    let mut cells = vec![head];
    let groups = standing.places.last().map_or(0, |place| place.group);
    for place in &standing.places {
        let mut row = vec![
            named(board, place, groups),
            place.theta.map_or_else(dash, |theta| format!("{:.0}", rating(theta))),
            half_width(place, board.level).map_or_else(dash, |half| format!("{:.0}", POINTS * half)),
            range(place),
            place.tier.map_or_else(dash, |tier| tier.to_string()),
            place.win.map_or_else(dash, |[p, low, high]| {
                format!("{:.0} % [{:.0}, {:.0}]", 100.0 * p, 100.0 * low, 100.0 * high)
            }),
            count(place.games),
        ];
        if alone {
            row.push(
                place.alone.map_or_else(dash, |[theta, se]| format!("{:.0} (se {:.0})", rating(theta), POINTS * se)),
            );
        }
        row.extend(top.map(|k| among(place, k)));
        cells.push(row);
    }
    out::columns(&cells)
}

/// A model's name, and its group where there are several.
fn named(board: &Board, place: &Place, groups: usize) -> String {
    let name = &board.models[place.model];
    if groups == 0 { name.clone() } else { format!("{name} (group {})", place.group + 1) }
}

fn range(place: &Place) -> String {
    if place.rank_low == place.rank_high {
        return place.rank_low.to_string();
    }
    format!("{} to {}", place.rank_low, place.rank_high)
}

/// Whether a model is among the first `k`.
fn among(place: &Place, k: usize) -> String {
    match (place.rank_high <= k, place.rank_low > k) {
        (true, _) => "in",
        (_, true) => "out",
        _ => "may be",
    }
    .into()
}

fn dash() -> String {
    "-".into()
}

fn count(n: f64) -> String {
    format!("{n:.0}")
}

/// How the board was made, in a line or two.
fn method(board: &Board) -> String {
    let mut text = format!("\nmethod {}", method_name(board.method));
    match board.shape {
        Some(Shape::Pooled) => text += ": one ranking for all categories",
        Some(shape) => text += &format!(": rank {} over {} categories", shape_name(shape), board.categories.len()),
        None => {}
    }
    if let Some(tau) = board.tau {
        text += &format!("; ratings stray from it by {:.0} points (tau {tau:.3})", POINTS * tau);
    }
    if let Some(z) = board.lack_of_fit {
        text += &format!("; lack of fit z {z:.1}");
    }
    if let Some(log_nu) = board.log_nu {
        text += &format!("; ties nu {:.3}", log_nu.exp());
    }
    if board.clusters > 0 {
        text += &format!("; {} clusters", board.clusters);
    }
    text + "\n"
}

/// Outliers, gaps on which estimates do not agree, neighbours, what cannot be compared.
fn findings(board: &Board) -> String {
    let (models, category) = (&board.models, |at: usize| &board.categories[at].name);
    let mut lines: Vec<String> = Vec::new();
    for (name, x, se) in &board.covariates {
        let (x, half) = (POINTS * x, POINTS * 1.96 * se);
        lines.push(format!("{name}: its usual difference is worth {x:+.0} ±{half:.0} points"));
    }
    for o in &board.outliers {
        lines.push(format!(
            "{} behaves differently on {} ({:+.1} standard errors)",
            models[o.model],
            category(o.category),
            o.z
        ));
    }
    let said = board.disagreements.iter().map(|d| {
        let points = |x: f64| POINTS * x;
        let interval =
            |[gap, low, high]: [f64; 3]| format!("{:+.0} [{:+.0}, {:+.0}]", points(gap), points(low), points(high));
        format!(
            "{} against {} on {}: {} with all categories, {} with this one alone",
            models[d.a],
            models[d.b],
            category(d.category),
            interval(d.shared),
            interval(d.alone)
        )
    });
    lines.extend(limited(said.collect(), "gaps on which both estimates do not agree"));
    let needed = board.overall.needed.iter().map(|(a, b, games)| {
        format!("to separate {} from {}: {games:.0} games at least, were the gap true", models[*a], models[*b])
    });
    lines.extend(limited(needed.collect(), "neighbours"));
    lines.extend(limited(board.notes.clone(), "notes"));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Differences of mean reward, over all categories.
fn rewards(board: &Board) -> String {
    let overall: Vec<_> = board.rewards.iter().filter(|gap| gap.category == "overall").collect();
    if overall.is_empty() {
        return String::new();
    }
    let mut cells = vec![["difference of reward", "episodes", "products", "mean", ""].map(String::from).to_vec()];
    for gap in overall {
        let certain = match gap.interval {
            None => "one product: no interval",
            Some([low, _]) if low > 0.0 => "above 0",
            Some([_, high]) if high < 0.0 => "below 0",
            Some(_) => "unclear",
        };
        let half = gap.interval.map_or(String::new(), |[low, high]| format!(" ±{:.3}", 0.5 * (high - low)));
        cells.push(vec![
            format!("{} - {}", gap.a, gap.b),
            gap.episodes.to_string(),
            gap.products.to_string(),
            format!("{:+.3}{half}", gap.mean),
            certain.into(),
        ]);
    }
    format!("\n{}", out::columns(&cells))
}

/// The first lines, and how many more there are.
fn limited(mut lines: Vec<String>, what: &str) -> Vec<String> {
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    lines.extend((more > 0).then(|| format!("... and {more} more {what} (--json has all)")));
    lines
}
