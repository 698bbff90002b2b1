//! What a reader should be careful about, and where two honest estimates do not agree.

use super::super::bands::gap_variance;
use super::super::estimate::Estimate;
use super::super::games::Games;
use super::super::linalg::Matrix;
use super::super::residual::TAU_MAX;
use super::super::{Method, Options};
use super::standing::{pairs, two_sided};

/// Games a dimension below which intervals are too short; there each category alone is shown beside.
pub const THIN: f64 = 60.0;
/// The same for bands.
const THIN_BANDS: f64 = 400.0;
/// Fewer clusters than these do not show their spread.
const FEW_CLUSTERS: usize = 30;
/// A ridge that moves a rating further than this many standard errors is said.
const RIDGE_SAID: f64 = 0.1;
/// Games of the most and the least played pair, beyond whose ratio closed forms for even designs are off.
const UNEVEN: f64 = 3.0;

/// A gap whose intervals from the shape and from its category alone do not meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Disagreement {
    /// The category.
    pub category: usize,
    /// The first model.
    pub a: usize,
    /// The second.
    pub b: usize,
    /// The gap and its interval, from all categories together.
    pub shared: [f64; 3],
    /// The same from this category alone.
    pub alone: [f64; 3],
}

/// Every gap whose two intervals do not meet.
pub(super) fn disagreements(
    [made, alone]: [&Estimate; 2],
    covariance: [&[Matrix]; 2],
    level: f64,
) -> Vec<Disagreement> {
    let (t, m) = (made.theta.nrows(), made.theta.ncols());
    let (z, mut found) = (two_sided(level), Vec::new());
    for category in 0..t {
        let [shared, single] = covariance.map(|of| &of[category]);
        let known =
            |a, b| made.groups[category].unknown(a, b).is_none() && alone.groups[category].unknown(a, b).is_none();
        for (a, b) in pairs(m).filter(|(a, b)| known(*a, *b)) {
            let interval = |of: &Estimate, covariance: &Matrix| {
                let gap = of.theta[(category, a)] - of.theta[(category, b)];
                let half = z * gap_variance(covariance, a, b).max(0.0).sqrt();
                [gap, gap - half, gap + half]
            };
            let (shared, alone) = (interval(made, shared), interval(alone, single));
            if shared[1] > alone[2] || alone[1] > shared[2] {
                found.push(Disagreement { category, a, b, shared, alone });
            }
        }
    }
    found
}

/// What to be careful about, a line each.
pub(super) fn warnings(games: &Games, made: &Estimate, options: &Options) -> Vec<String> {
    let each = games.games() / made.dim.max(1) as f64;
    let mut lines = Vec::new();
    if made.dim > 0 && each < THIN {
        let beside = if made.method == Method::Btl { "" } else { "; each category alone is shown beside" };
        lines.push(format!(
            "{each:.0} games a parameter are few (under {THIN}): intervals are too short by some{beside}"
        ));
    } else if made.method != Method::Btl && each < THIN_BANDS {
        lines.push(format!(
            "{each:.0} games a parameter: rank ranges may hold a little less often than they say (under {THIN_BANDS})"
        ));
    }
    if made.tau.is_some_and(|tau| tau >= 0.99 * TAU_MAX) {
        lines.push(format!("categories share next to nothing (tau {TAU_MAX}): take --method btl"));
    }
    if games.parts.is_some() && games.clusters < FEW_CLUSTERS {
        lines.push(format!(
            "{} clusters are few (under {FEW_CLUSTERS}): their spread is known badly, and intervals may be too short",
            games.clusters
        ));
    }
    if made.ridge_moves > RIDGE_SAID {
        lines.push(format!(
            "a ridge of {} games holds ratings that games alone do not; it moves one by {:.1} standard errors",
            made.ridge, made.ridge_moves
        ));
    }
    if made.method == Method::Whitened && uneven(games) > UNEVEN {
        lines.push(format!(
            "pairs were played {:.0}-fold unevenly: the whitened estimate solves for the design, and is longer than `onestep`",
            uneven(games)
        ));
    }
    if options.level < 0.5 {
        lines.push(format!(
            "a level of {} is low: intervals hold {:.0} times in a hundred",
            options.level,
            100.0 * options.level
        ));
    }
    lines
}

/// Games of the most over those of the least played pair.
fn uneven(games: &Games) -> f64 {
    let (t, m) = games.shape();
    let most = games.cells.iter().map(|cell| cell.games).fold(0.0, f64::max);
    let least = games.cells.iter().map(|cell| cell.games).fold(f64::INFINITY, f64::min);
    let all_played = games.cells.len() == t * m * (m - 1) / 2;
    if all_played && least > 0.0 { most / least } else { f64::INFINITY }
}
