//! The board: each category and all together, with every gap, its interval, and where each model can stand.
//!
//! The one idea: a board says nothing that the games do not: a gap that cannot be known has no number anywhere, and a rank is
//! a range that holds for all models at once.

mod doubts;
mod json;
mod standing;
mod words;

pub use doubts::Disagreement;
pub use json::{METHODS, method_name, rating, shape_name};
pub(super) use standing::two_sided;
pub use standing::{Gap, POINTS, Place, Standing, half_width};

use super::estimate::{self, Estimate, lone};
use super::games::Games;
use super::graph::Groups;
use super::linalg::Matrix;
use super::outliers::Outlier;
use super::rewards::{self, Episode, RewardGap};
use super::shape::Shape;
use super::{Family, Method, Options, bands};
use crate::noise::Noise;
use standing::{Critical, View};

/// Everything that is known of a set of games.
#[derive(Debug, Clone)]
pub struct Board {
    /// Models by name, sorted; places and gaps name them by index.
    pub models: Vec<String>,
    /// A standing each category.
    pub categories: Vec<Standing>,
    /// All categories, by their share of games.
    pub overall: Standing,
    /// What was done.
    pub method: Method,
    /// What ratings may look like; none where each category stands on its own.
    pub shape: Option<Shape>,
    /// Mean held-out loss by shape, where the rank was chosen.
    pub tried: Vec<(Shape, f64)>,
    /// The spread of deviations from the shape, in logits.
    pub tau: Option<f64>,
    /// How far the ratings lie from the shape: above 2, they do.
    pub lack_of_fit: Option<f64>,
    /// Ratings that stray alone.
    pub outliers: Vec<Outlier>,
    /// `log nu` of Davidson's ties.
    pub log_nu: Option<f64>,
    /// Gaps on which the shared and the lone estimate do not agree.
    pub disagreements: Vec<Disagreement>,
    /// The chance that an interval holds.
    pub level: f64,
    /// Games.
    pub games: f64,
    /// Clusters; 0 where games are independent.
    pub clusters: usize,
    /// The dimension of what was fitted.
    pub dim: usize,
    /// What was done and why, a line each.
    pub notes: Vec<String>,
    /// What to be careful about, a line each.
    pub warnings: Vec<String>,
    /// The whole in words.
    pub sentence: String,
    /// Covariates by name, with coefficient and standard error in logits at its usual size.
    pub covariates: Vec<(String, f64, f64)>,
    /// Differences of mean reward, where games are haggle's own.
    pub rewards: Vec<RewardGap>,
}

/// Ranks counted games.
///
/// # Errors
/// One line, when no rating is finite or the rank asked for is not there.
pub fn board(games: Games, options: &Options) -> Result<Board, String> {
    let games = estimate::prepared(games, options);
    if games.games() <= 0.0 {
        return Err("all games are ties, and --ties drop leaves none; take --ties half or davidson".into());
    }
    let (method, why) = estimate::settled(&games, options.method);
    let made = estimate::estimate(&games, method, options)?;
    // What one category alone says stands beside what they say together.
    let alone = match method {
        Method::Btl | Method::Pooled => None,
        _ => estimate::estimate(&games, Method::Btl, options).ok(),
    };
    let t = games.categories.len();
    let thin = made.dim > 0 && games.games() < doubts::THIN * made.dim as f64;
    let covariance: Vec<Matrix> = (0..t).map(|category| made.covariance(&lone(t, category))).collect();
    let of_alone: Option<Vec<Matrix>> =
        alone.as_ref().map(|alone| (0..t).map(|category| alone.covariance(&lone(t, category))).collect());
    let critical = criticals(&covariance, &made.groups, options)?;
    let standing = |category: usize| {
        let view = View {
            name: &games.categories[category],
            share: lone(t, category),
            groups: &made.groups[category],
            covariance: &covariance[category],
            critical: &critical[category],
            alone: alone.as_ref().zip(of_alone.as_ref()).filter(|_| thin).map(|(alone, of)| (alone, &of[category])),
        };
        standing::standing(&games, &made, options.level, view)
    };
    let categories: Vec<Standing> = (0..t).map(standing).collect();
    let overall = match &categories[..] {
        [one] => Standing { name: "overall".into(), ..one.clone() },
        _ => mixed(&games, &made, options)?,
    };
    let both = alone.as_ref().zip(of_alone.as_ref());
    let disagreements = both.map_or(Vec::new(), |(alone, of_alone)| {
        doubts::disagreements([&made, alone], [&covariance, of_alone], options.level)
    });
    let warnings = doubts::warnings(&games, &made, options);
    let sentence = words::sentence(&games.models, &overall);
    Ok(Board {
        categories,
        overall,
        method,
        shape: made.shape,
        tau: made.tau,
        lack_of_fit: made.lack_of_fit,
        log_nu: match made.link {
            super::link::Link::Davidson { log_nu } => Some(log_nu),
            super::link::Link::Half => None,
        },
        disagreements,
        level: options.level,
        games: games.games(),
        clusters: games.clusters,
        dim: made.dim,
        notes: why.into_iter().chain(words::apart(&games, &made)).collect(),
        warnings,
        sentence,
        rewards: Vec::new(),
        covariates: made.covariates,
        tried: made.tried,
        outliers: made.outliers,
        models: games.models,
    })
}

/// All categories together, by their share of games.
fn mixed(games: &Games, made: &Estimate, options: &Options) -> Result<Standing, String> {
    let (t, m) = games.shape();
    let share = estimate::shares(games);
    let (groups, covariance) = (refined(m, &made.groups, &share), made.covariance(&share));
    // Of one standing, a band of the board is one of its category.
    let family = if options.family == Family::Model { Family::Model } else { Family::Category };
    let critical = Critical::of(&covariance, &groups, family, options, noise(options, t))?;
    let view =
        View { name: "overall", share, groups: &groups, covariance: &covariance, critical: &critical, alone: None };
    Ok(standing::standing(games, made, options.level, view))
}

impl Board {
    /// The same board with the differences of mean reward of these episodes beside it.
    pub fn with_rewards(self, episodes: &[Episode], level: f64) -> Board {
        Board { rewards: rewards::differences(episodes, level), ..self }
    }
}

fn noise(options: &Options, category: usize) -> Noise {
    Noise::new(options.seed, 0x6261_6E64).child(category as u64)
}

/// The critical values of each category.
fn criticals(covariance: &[Matrix], groups: &[Groups], options: &Options) -> Result<Vec<Critical>, String> {
    let of = |category: usize| {
        Critical::of(&covariance[category], &groups[category], options.family, options, noise(options, category))
    };
    let mut all = (0..covariance.len()).map(of).collect::<Result<Vec<_>, _>>()?;
    if options.family == Family::Board {
        // Drawn apart, the largest over all categories is at least as large as drawn together (Royen 2014).
        let largest = |draw: usize| all.iter().filter_map(|c| c.draws.get(draw)).copied().fold(0.0, f64::max);
        let value = bands::quantile((0..bands::DRAWS).map(largest).collect(), options.level);
        all.iter_mut().for_each(|critical| critical.by_model.fill(value));
    }
    Ok(all)
}

/// Who can be compared in every category that counts.
fn refined(m: usize, groups: &[Groups], share: &[f64]) -> Groups {
    let counted: Vec<&Groups> = groups.iter().zip(share).filter(|(_, share)| **share > 0.0).map(|(g, _)| g).collect();
    let number = |of: fn(&Groups) -> &Vec<usize>| {
        let mut seen: Vec<Vec<usize>> = Vec::new();
        let mut at = |model: usize| {
            let key: Vec<usize> = counted.iter().map(|groups| of(groups)[model]).collect();
            seen.iter().position(|known| *known == key).unwrap_or_else(|| {
                seen.push(key);
                seen.len() - 1
            })
        };
        (0..m).map(&mut at).collect()
    };
    Groups { met: number(|groups| &groups.met), finite: number(|groups| &groups.finite) }
}
