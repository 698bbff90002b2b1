//! A board in words.

use super::super::estimate::{Estimate, groups};
use super::super::games::Games;
use super::super::graph::listed;
use super::standing::Standing;

/// Names listed at most.
const NAMED: usize = 6;

/// What a standing says, in one line.
pub(super) fn sentence(models: &[String], standing: &Standing) -> String {
    let known = standing.gaps.iter().filter(|gap| gap.known.is_some()).count();
    let separated = standing.gaps.iter().filter(|gap| gap.separated).count();
    let mut text = match (known, separated) {
        (0, _) => "no two models can be compared".to_string(),
        (known, 0) => format!("none of {known} pairs are separated"),
        (known, all) if known == all => format!("all {known} pairs are separated"),
        (known, some) => format!("{some} of {known} pairs are separated"),
    };
    let tiers: Vec<&[super::Place]> =
        standing.places.chunk_by(|x, y| x.group == y.group && x.tier.is_some() && x.tier == y.tier).collect();
    if let Some(first) = tiers.first().filter(|first| first.len() == 1 && first[0].rank_high == 1) {
        text += &format!("; {} is first", models[first[0].model]);
    }
    let rated = tiers.iter().filter(|tier| tier[0].group == 0 && tier[0].tier.is_some());
    if let Some((from, size)) = rated
        .map(|tier| (tier[0].tier.unwrap_or(1), tier.len()))
        .max_by_key(|(from, size)| (*size, std::cmp::Reverse(*from)))
        && size > 1
    {
        text += &format!("; ranks {from} to {} are one tier", from + size - 1);
    }
    let open = standing.gaps.len() - known;
    if open > 0 {
        text += &format!("; {open} pairs cannot be compared");
    }
    text
}

/// Categories whose games fall apart, and models that only won or only lost, a line each.
pub(super) fn apart(games: &Games, made: &Estimate) -> Vec<String> {
    let name = |models: &[usize]| {
        let shown: Vec<&str> = models.iter().take(NAMED).map(|model| games.models[*model].as_str()).collect();
        let more = models.len().saturating_sub(NAMED);
        if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
    };
    let mut lines = Vec::new();
    for (category, groups) in groups(games).iter().enumerate() {
        let where_ = format!("category `{}`", games.categories[category]);
        let bridged = made.groups[category].whole();
        let met = listed(&groups.met);
        if met.len() > 1 {
            let parts: Vec<String> = met.iter().map(|part| format!("{{{}}}", name(part))).take(NAMED).collect();
            let after = if bridged { "other categories join them" } else { "between them nothing is known" };
            lines.push(format!("{where_}: {} groups never met: {}; {after}", met.len(), parts.join(" ")));
        }
        let split = listed(&groups.finite).len() > met.len();
        if split {
            for line in one_sided(games, category) {
                let after = if bridged {
                    "its rating comes from other categories and the ridge"
                } else {
                    "its rating is infinite"
                };
                lines.push(format!("{where_}: {line}; {after}"));
            }
        }
    }
    lines
}

/// Models that won, or lost, every game of a category.
fn one_sided(games: &Games, category: usize) -> Vec<String> {
    let mut points = vec![(0.0, 0.0); games.models.len()];
    for cell in games.of(category) {
        let (a, b) = (cell.won.score(), cell.won.swapped().score());
        points[cell.a] = (points[cell.a].0 + a, points[cell.a].1 + b);
        points[cell.b] = (points[cell.b].0 + b, points[cell.b].1 + a);
    }
    let said = |(model, (own, others)): (usize, &(f64, f64))| match (*own > 0.0, *others > 0.0) {
        (true, false) => Some(format!("{} only won", games.models[model])),
        (false, true) => Some(format!("{} only lost", games.models[model])),
        _ => None,
    };
    let all: Vec<String> = points.iter().enumerate().filter_map(said).collect();
    if all.is_empty() { vec!["some models only won against all others together".into()] } else { all }
}
