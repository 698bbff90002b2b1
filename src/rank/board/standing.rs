//! One category's standing: places and gaps.

use super::super::bands::{self, gap_variance};
use super::super::estimate::Estimate;
use super::super::games::{Games, Tally};
use super::super::graph::{Groups, Unknown};
use super::super::linalg::Matrix;
use super::super::{Family, Options};
use crate::noise::Noise;
use statrs::distribution::{ContinuousCDF, Normal};

/// Rating points a logit.
pub const POINTS: f64 = 400.0 / std::f64::consts::LN_10;
/// The rating of a model as good as the mean.
pub const MIDDLE: f64 = 1000.0;

/// A model's place.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The model.
    pub model: usize,
    /// Its group of finite gaps, from 0, the largest first: ratings of two groups say nothing of each other.
    pub group: usize,
    /// Its rating in logits, its group's mean 0; none for a model alone among others.
    pub theta: Option<f64>,
    /// The rating's standard error.
    pub se: Option<f64>,
    /// The best rank it can have.
    pub rank_low: usize,
    /// The worst rank it can have.
    pub rank_high: usize,
    /// The first model of the tier that it is in, counted from 1 by rating; none without a rating.
    pub tier: Option<usize>,
    /// Its chance, ties counted half, against a model of its group drawn at random: the estimate and its interval.
    pub win: Option<[f64; 3]>,
    /// What came of its games.
    pub won: Tally,
    /// Games.
    pub games: f64,
    /// Rating and standard error from this category alone, where games are few for what is shared.
    pub alone: Option<[f64; 2]>,
}

/// The gap of two models.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// The first model.
    pub a: usize,
    /// The second.
    pub b: usize,
    /// How much better the first is in logits, and the standard error; none where it cannot be known.
    pub known: Option<[f64; 2]>,
    /// Why not.
    pub unknown: Option<Unknown>,
    /// Its interval.
    pub interval: Option<[f64; 2]>,
    /// True when the band over the whole family leaves 0 out.
    pub separated: bool,
}

/// A category's standing.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The category.
    pub name: String,
    /// Places: groups by size, models of a group from the best.
    pub places: Vec<Place>,
    /// Every gap of two models.
    pub gaps: Vec<Gap>,
    /// The critical value of its band: the largest over models.
    pub critical: f64,
    /// Games.
    pub games: f64,
    /// Between neighbours that are not separated, how many games of this category would do at least, were the gap true:
    /// `(better, worse, games)`.
    pub needed: Vec<(usize, usize, f64)>,
}

/// The critical values of a family.
#[derive(Debug, Clone)]
pub(super) struct Critical {
    /// One each model.
    pub by_model: Vec<f64>,
    /// The largest gap of each draw.
    pub draws: Vec<f64>,
}

impl Critical {
    pub(super) fn of(
        covariance: &Matrix,
        groups: &Groups,
        family: Family,
        options: &Options,
        noise: Noise,
    ) -> Result<Critical, String> {
        let m = covariance.nrows();
        let known = |a, b| groups.unknown(a, b).is_none();
        let gaps = bands::Gaps::of(covariance, known, noise)
            .ok_or("the ratings' errors are not finite; give a ridge with --ridge 0.5")?;
        if family == Family::Model {
            let own = gaps.largest_of_each(bands::DRAWS).into_iter();
            let by_model = own.map(|draws| bands::quantile(draws, options.level)).collect();
            return Ok(Critical { by_model, draws: Vec::new() });
        }
        let draws = gaps.largest(bands::DRAWS);
        Ok(Critical { by_model: vec![bands::quantile(draws.clone(), options.level); m], draws })
    }
}

/// Every pair of `m`.
pub(super) fn pairs(m: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..m).flat_map(move |a| (a + 1..m).map(move |b| (a, b)))
}

/// The two-sided quantile of a standard normal number.
pub(in super::super) fn two_sided(level: f64) -> f64 {
    Normal::standard().inverse_cdf(0.5 + 0.5 * level)
}

/// Half the width of a rating's interval, in logits.
pub fn half_width(place: &Place, level: f64) -> Option<f64> {
    place.se.map(|se| two_sided(level) * se)
}

/// What a standing is made of.
pub(super) struct View<'a> {
    pub name: &'a str,
    /// The mixture of categories.
    pub share: Vec<f64>,
    pub groups: &'a Groups,
    pub covariance: &'a Matrix,
    pub critical: &'a Critical,
    pub alone: Option<(&'a Estimate, &'a Matrix)>,
}

/// A view with its ratings.
struct Seen<'a> {
    view: View<'a>,
    made: &'a Estimate,
    theta: Vec<f64>,
    z: f64,
}

/// The standing of a mixture of categories.
pub(super) fn standing(games: &Games, made: &Estimate, level: f64, view: View) -> Standing {
    let m = games.models.len();
    let mixed = |model: usize| view.share.iter().enumerate().map(|(t, share)| share * made.theta[(t, model)]).sum();
    let seen = Seen { theta: (0..m).map(mixed).collect(), z: two_sided(level), made, view };
    let gaps: Vec<Gap> = pairs(m).map(|(a, b)| seen.gap(a, b)).collect();
    let counted = |category: usize| seen.view.share[category] > 0.0;
    let (won, games_of) = played(games, &counted);
    let mut places = Vec::new();
    for (group, members) in seen.view.groups.by_size().iter().enumerate() {
        let place =
            |model: &usize| Place { won: won[*model], games: games_of[*model], ..seen.place(group, members, *model) };
        let mut own: Vec<Place> = members.iter().map(place).collect();
        own.sort_by(|x, y| y.theta.unwrap_or(0.0).total_cmp(&x.theta.unwrap_or(0.0)).then(x.model.cmp(&y.model)));
        tiers(&mut own, |a, b| seen.beats(a, a, b));
        places.extend(own);
    }
    let total =
        (0..games.categories.len()).filter(|t| counted(*t)).flat_map(|t| games.of(t)).map(|cell| cell.games).sum();
    let critical = seen.view.critical.by_model.iter().copied().fold(0.0, f64::max);
    let needed = needed(&places, &gaps, m, critical, total);
    Standing { name: seen.view.name.into(), places, gaps, critical, games: total, needed }
}

impl Seen<'_> {
    /// The standard error of a gap.
    fn se(&self, a: usize, b: usize) -> f64 {
        gap_variance(self.view.covariance, a, b).max(0.0).sqrt()
    }

    fn gap(&self, a: usize, b: usize) -> Gap {
        let unknown = self.view.groups.unknown(a, b);
        let (gap, se) = (self.theta[a] - self.theta[b], self.se(a, b));
        let known = unknown.is_none().then_some([gap, se]);
        let critical = self.view.critical.by_model[a].max(self.view.critical.by_model[b]);
        let interval = known.map(|[gap, se]| [gap - self.z * se, gap + self.z * se]);
        Gap { a, b, known, unknown, interval, separated: known.is_some() && gap.abs() > critical * se }
    }

    /// True when `a` is certainly better than `b`, by the band of model `by`.
    fn beats(&self, by: usize, a: usize, b: usize) -> bool {
        let known = self.view.groups.unknown(a, b).is_none();
        known && self.theta[a] - self.theta[b] > self.view.critical.by_model[by] * self.se(a, b)
    }

    /// A model's place among the members of its group, its tier aside.
    fn place(&self, group: usize, members: &[usize], model: usize) -> Place {
        let (m, rated) = (self.theta.len(), members.len() > 1);
        let middle = members.iter().map(|member| self.theta[*member]).sum::<f64>() / members.len() as f64;
        let others = || (0..m).filter(|other| *other != model);
        let lone_category = self.view.share.iter().position(|share| *share == 1.0);
        Place {
            model,
            group,
            theta: rated.then_some(self.theta[model] - middle),
            se: rated.then(|| centred_variance(self.view.covariance, members, model).max(0.0).sqrt()),
            rank_low: 1 + others().filter(|other| self.beats(model, *other, model)).count(),
            rank_high: m - others().filter(|other| self.beats(model, model, *other)).count(),
            tier: None,
            win: rated.then(|| win(self.made, &self.theta, self.view.covariance, members, model, self.z)),
            won: Tally::default(),
            games: 0.0,
            alone: self.view.alone.zip(lone_category).and_then(|(alone, category)| by_itself(alone, category, model)),
        }
    }
}

/// The index of a pair among all gaps of `m` models.
pub fn pair_at(m: usize, a: usize, b: usize) -> usize {
    let (a, b) = (a.min(b), a.max(b));
    a * (2 * m - a - 1) / 2 + b - a - 1
}

/// Marks tiers: a model that the first of a tier certainly beats begins the next.
fn tiers(places: &mut [Place], beats: impl Fn(usize, usize) -> bool) {
    let mut first = 0;
    for at in 0..places.len() {
        if beats(places[first].model, places[at].model) {
            first = at;
        }
        places[at].tier = places[at].theta.map(|_| first + 1);
    }
}

/// What came of each model's games, and how many they were.
fn played(games: &Games, counted: &dyn Fn(usize) -> bool) -> (Vec<Tally>, Vec<f64>) {
    let m = games.models.len();
    let (mut won, mut n) = (vec![Tally::default(); m], vec![0.0; m]);
    for cell in games.cells.iter().filter(|cell| counted(cell.category)) {
        for (model, tally) in [(cell.a, cell.won), (cell.b, cell.won.swapped())] {
            won[model] = won[model].plus(tally);
            n[model] += cell.games;
        }
    }
    (won, n)
}

/// The variance of a rating less its group's mean.
fn centred_variance(covariance: &Matrix, members: &[usize], model: usize) -> f64 {
    let n = members.len() as f64;
    let weight = |other: usize| if other == model { 1.0 - 1.0 / n } else { -1.0 / n };
    members.iter().map(|i| weight(*i) * members.iter().map(|j| weight(*j) * covariance[(*i, *j)]).sum::<f64>()).sum()
}

/// The chance against a model of the group drawn at random, and its interval by the delta method on logits.
fn win(made: &Estimate, theta: &[f64], covariance: &Matrix, members: &[usize], model: usize, z: f64) -> [f64; 3] {
    let others: Vec<usize> = members.iter().copied().filter(|other| *other != model).collect();
    let n = others.len() as f64;
    let (mut chance, mut slope, mut weights) = (0.0, 0.0, vec![(model, 0.0)]);
    for other in others {
        let point = made.link.at(theta[model] - theta[other]);
        chance += point.mean / n;
        slope += point.info / n;
        weights.push((other, -point.info / n));
    }
    weights[0].1 = slope;
    let variance: f64 =
        weights.iter().map(|(i, x)| x * weights.iter().map(|(j, y)| y * covariance[(*i, *j)]).sum::<f64>()).sum();
    let spread = chance * (1.0 - chance);
    let (logit, half) = ((chance / (1.0 - chance)).ln(), z * variance.max(0.0).sqrt() / spread);
    let back = |x: f64| 1.0 / (1.0 + (-x).exp());
    if spread > 0.0 { [chance, back(logit - half), back(logit + half)] } else { [chance; 3] }
}

/// Rating and error from one category alone.
fn by_itself((alone, covariance): (&Estimate, &Matrix), category: usize, model: usize) -> Option<[f64; 2]> {
    let members = alone.groups[category].by_size().into_iter().find(|group| group.contains(&model))?;
    let variance = centred_variance(covariance, &members, model);
    (members.len() > 1).then(|| [alone.theta[(category, model)], variance.max(0.0).sqrt()])
}

/// How many games would separate neighbours, at least, were the estimated gap the true one.
fn needed(places: &[Place], gaps: &[Gap], m: usize, critical: f64, games: f64) -> Vec<(usize, usize, f64)> {
    let one = |pair: &[Place]| {
        let gap = &gaps[pair_at(m, pair[0].model, pair[1].model)];
        let [size, se] = gap.known?;
        (!gap.separated && size != 0.0).then(|| (pair[0].model, pair[1].model, games * (critical * se / size).powi(2)))
    };
    places.windows(2).filter_map(one).collect()
}
