//! What cells say at given ratings: per category, the score of each model and the information between models.
//!
//! The one idea: a gap's information is a weighted edge, so a category's is a graph Laplacian over its models. A model of
//! the ratings (one ranking, low rank, one a category) is a linear map into them, so every information, score and
//! variance in this room is one of these small matrices seen through such a map.

use super::games::{Cell, Games, Part, Tally};
use super::linalg::{Matrix, Vector};
use super::link::{Link, Point};

/// How a game's deviation is weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As the likelihood has it.
    Score,
    /// Divided by the information, which makes the operator that of the design alone; the information is at least
    /// [`INFO_FLOOR`].
    Whitened,
}

/// The least information that a whitened score is divided by.
pub const INFO_FLOOR: f64 = 0.01;

/// Sums over games at given ratings; `T` categories, `M` models.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Per category the information between models, `[M, M]`: a Laplacian.
    pub info: Vec<Matrix>,
    /// Per category the score of each model, `[M]`.
    pub score: Vec<Vector>,
    /// Per category the sum of squares of scores, `[M, M]`: a Laplacian.
    pub meat: Vec<Matrix>,
    /// The same of `log nu`, where ties are modelled.
    pub ties: Option<TieMoments>,
    /// The negative log-likelihood.
    pub loss: f64,
}

/// What games say of `log nu`.
#[derive(Debug, Clone)]
pub struct TieMoments {
    /// Per category the information on each model and `log nu` together, `[M]`.
    pub cross: Vec<Vector>,
    /// Its information.
    pub info: f64,
    /// Its score.
    pub score: f64,
    /// Per category the sum of products of scores, `[M]`.
    pub meat_cross: Vec<Vector>,
    /// The sum of squares of its score.
    pub meat: f64,
}

impl Moments {
    /// The sums at ratings `theta [T, M]`.
    pub fn at(games: &Games, theta: &Matrix, link: Link, scale: Scale) -> Moments {
        let (t, m) = games.shape();
        let mut all = Moments {
            info: vec![Matrix::zeros(m, m); t],
            score: vec![Vector::zeros(m); t],
            meat: vec![Matrix::zeros(m, m); t],
            ties: link.knows_ties().then(|| TieMoments::none(t, m)),
            loss: 0.0,
        };
        for cell in &games.cells {
            all.add(cell, theta[(cell.category, cell.a)] - theta[(cell.category, cell.b)], link, scale);
        }
        all
    }

    fn add(&mut self, cell: &Cell, eta: f64, link: Link, scale: Scale) {
        let point = link.at(eta);
        let n = cell.won.total();
        let (by, info) = match scale {
            Scale::Score => (1.0, n * point.info),
            Scale::Whitened => (1.0 / point.info.max(INFO_FLOOR), n),
        };
        let t = cell.category;
        edge(&mut self.info[t], cell.a, cell.b, info);
        edge(&mut self.meat[t], cell.a, cell.b, by * by * squares(&cell.squares, &point));
        difference(&mut self.score[t], cell.a, cell.b, by * residual(&cell.won, &point));
        self.loss += link.loss(eta, &cell.won);
        if let Some(ties) = &mut self.ties {
            difference(&mut ties.cross[t], cell.a, cell.b, n * point.cross);
            ties.info += n * point.tie * (1.0 - point.tie);
            ties.score += cell.won.tie - n * point.tie;
            let w = &cell.squares;
            let off = (1.0 - point.tie) * (0.5 - point.mean) * w.tie
                - point.tie * ((1.0 - point.mean) * w.a - point.mean * w.b);
            difference(&mut ties.meat_cross[t], cell.a, cell.b, off);
            ties.meat += w.tie * (1.0 - point.tie).powi(2) + (w.a + w.b) * point.tie * point.tie;
        }
    }
}

impl TieMoments {
    fn none(t: usize, m: usize) -> TieMoments {
        let zeros = vec![Vector::zeros(m); t];
        TieMoments { cross: zeros.clone(), info: 0.0, score: 0.0, meat_cross: zeros, meat: 0.0 }
    }
}

/// The sum of scores of games less what was expected.
pub fn residual(won: &Tally, point: &Point) -> f64 {
    won.score() - won.total() * point.mean
}

/// The sum of its squares, a game at a time.
pub fn squares(won: &Tally, point: &Point) -> f64 {
    won.a * (1.0 - point.mean).powi(2) + won.b * point.mean.powi(2) + won.tie * (0.5 - point.mean).powi(2)
}

/// Adds `w (e_a - e_b)(e_a - e_b)'`.
pub fn edge(into: &mut Matrix, a: usize, b: usize, w: f64) {
    into[(a, a)] += w;
    into[(b, b)] += w;
    into[(a, b)] -= w;
    into[(b, a)] -= w;
}

/// Adds `x (e_a - e_b)`.
fn difference(into: &mut Vector, a: usize, b: usize, x: f64) {
    into[a] += x;
    into[b] -= x;
}

/// `G / (G - 1)` times the sum over clusters of the squares of their scores, over all categories: `[Q + k, Q + k]`, `Q = T M`,
/// model `m` of category `t` at `t M + m`, `log nu` last where ties are modelled (`k` = 1).
///
/// Source: Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models".
pub fn clustered(games: &Games, parts: &[Part], theta: &Matrix, link: Link, scale: Scale) -> Matrix {
    let (t, m) = games.shape();
    let size = t * m + usize::from(link.knows_ties());
    let mut meat = Matrix::zeros(size, size);
    let point: Vec<Point> = games
        .cells
        .iter()
        .map(|cell| link.at(theta[(cell.category, cell.a)] - theta[(cell.category, cell.b)]))
        .collect();
    let (mut score, mut touched) = (vec![0.0; size], Vec::new());
    for cluster in parts.chunk_by(|x, y| x.cluster == y.cluster) {
        for part in cluster {
            let (cell, point) = (&games.cells[part.cell], &point[part.cell]);
            let by = if scale == Scale::Whitened { 1.0 / point.info.max(INFO_FLOOR) } else { 1.0 };
            let x = by * residual(&part.won, point);
            let at = cell.category * m;
            score[at + cell.a] += x;
            score[at + cell.b] -= x;
            touched.extend([at + cell.a, at + cell.b]);
            if link.knows_ties() {
                score[size - 1] += part.won.tie - part.won.total() * point.tie;
                touched.push(size - 1);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for i in &touched {
            for j in &touched {
                meat[(*i, *j)] += score[*i] * score[*j];
            }
        }
        touched.drain(..).for_each(|at| score[at] = 0.0);
    }
    let n = games.clusters as f64;
    faer::Scale(if n > 1.0 { n / (n - 1.0) } else { 1.0 }) * meat
}
