//! How each game moves each rating, and what follows: the one-step estimate, and every variance in this room.
//!
//! The one idea: with `g_s [M]` the scores of category `s`, every estimator here moves the ratings of category `t` by
//! `local_t g_t + reach_t core sum_s reach_s' g_s`. Ratings of one category alone are local, a low rank is reach and
//! core, a low rank with a random residual is both. So one-step estimates, Fisher, sandwich and cluster variances of
//! anything linear are written once.

use super::linalg::{Factor, Matrix, Vector, congruent, symmetric};
use super::moments::Moments;

/// How scores move ratings; `D` shared parameters, `log nu` the last of them where ties are modelled.
#[derive(Debug, Clone)]
pub struct Influence {
    /// Per category what its own scores do to its own ratings, `[M, M]`; none where nothing is local.
    local: Option<Vec<Matrix>>,
    /// Per category the ratings a shared parameter moves, `[M, D]`.
    reach: Vec<Matrix>,
    /// The covariance of the shared parameters, `[D, D]`.
    core: Matrix,
    /// Per category the information between ratings and shared parameters, and the residual's variance, where there is one.
    residual: Option<(Vec<Matrix>, f64)>,
    /// How many of the shared parameters, the last ones, move no rating by themselves: `log nu`, covariates.
    extra: usize,
}

/// How the spread of scores is known.
#[derive(Debug, Clone, Copy)]
pub enum Spread<'a> {
    /// From the model: its information.
    Model,
    /// From the games' own squares.
    Games(&'a Moments),
    /// From clusters of games, `[Q + k, Q + k]`: [`super::moments::clustered`].
    Clusters(&'a Matrix),
}

impl Influence {
    /// Each category on its own, `local [M, M]` each; ties link them where they are modelled.
    pub fn local(local: Vec<Matrix>, moments: &Moments) -> Option<Influence> {
        match &moments.ties {
            Some(ties) => {
                let cross: Vec<Matrix> = ties.cross.iter().map(|cross| cross.as_mat().to_owned()).collect();
                Influence::linked(local, &cross, &Matrix::from_fn(1, 1, |_, _| ties.info))
            }
            None => {
                let m = local.first().map_or(0, Matrix::nrows);
                let cross = vec![Matrix::zeros(m, 0); local.len()];
                Influence::linked(local, &cross, &Matrix::zeros(0, 0))
            }
        }
    }

    /// Each category on its own but for `k` parameters of `info [k, k]` that all share, `cross [M, k]` with each.
    pub fn linked(local: Vec<Matrix>, cross: &[Matrix], info: &Matrix) -> Option<Influence> {
        let reach: Vec<Matrix> = local.iter().zip(cross).map(|(local, cross)| -(local * cross)).collect();
        let mut left = info.clone();
        for (reach, cross) in reach.iter().zip(cross) {
            left += cross.transpose() * reach;
        }
        // What ratings already say all of is not determined.
        if (0..left.nrows()).any(|i| left[(i, i)] <= 1e-10 * info[(i, i)]) {
            return None;
        }
        let core = if left.nrows() == 0 { left } else { Factor::of(&symmetric(&left))?.inverse() };
        Some(Influence { local: Some(local), reach, extra: core.nrows(), core, residual: None })
    }

    /// The covariance of the shared parameters, as far as the model knows it.
    pub fn core(&self) -> &Matrix {
        &self.core
    }

    /// Ratings that are `map_t x` in category `t`, `map_t [M, D]`, with information `info_t`, and a ridge on `x`.
    ///
    /// `None` where the information does not determine `x`.
    pub fn shared(maps: &[Matrix], moments: &Moments, ridge: f64) -> Option<Influence> {
        let drift = drift(maps, moments);
        let info = information(maps, &drift, moments, ridge);
        let core = Factor::of(&info)?.inverse();
        let extra = usize::from(moments.ties.is_some());
        Some(Influence { local: None, reach: widened(maps, moments), core, residual: None, extra })
    }

    /// The same with a given covariance of `x`.
    pub fn given(maps: &[Matrix], core: Matrix) -> Influence {
        Influence { local: None, reach: maps.to_vec(), core, residual: None, extra: 0 }
    }

    /// The same with a residual of variance `tau2` on every rating.
    pub fn residual(maps: &[Matrix], moments: &Moments, ridge: f64, tau2: f64) -> Option<Influence> {
        if tau2 <= 0.0 {
            return Influence::shared(maps, moments, ridge);
        }
        let drift = drift(maps, moments);
        let mut info = information(maps, &drift, moments, ridge);
        let wide = widened(maps, moments);
        let (mut local, mut reach) = (Vec::new(), Vec::new());
        for (t, laplacian) in moments.info.iter().enumerate() {
            let mut own = laplacian.clone();
            (0..own.nrows()).for_each(|i| own[(i, i)] += 1.0 / tau2);
            let factor = Factor::of(&own)?;
            let solved = factor.solve_matrix(&drift[t]);
            info -= drift[t].transpose() * &solved;
            reach.push(&wide[t] - &solved);
            local.push(factor.inverse());
        }
        let core = Factor::of(&symmetric(&info))?.inverse();
        let extra = usize::from(moments.ties.is_some());
        Some(Influence { local: Some(local), reach, core, residual: Some((drift, tau2)), extra })
    }

    /// The same when the scores come from `by` times as many games as the information.
    pub fn rescaled(mut self, by: f64) -> Influence {
        self.core = faer::Scale(1.0 / by) * &self.core;
        self
    }

    /// What the scores move the ratings by, `[T, M]`.
    pub fn moved(&self, moments: &Moments) -> Matrix {
        let x = &self.core * self.gathered(moments);
        let n_models = self.reach.first().map_or(0, Matrix::nrows);
        let mut moved = Matrix::zeros(self.reach.len(), n_models);
        for (t, reach) in self.reach.iter().enumerate() {
            let mut own = reach * &x;
            if let Some(local) = &self.local {
                own += &local[t] * &moments.score[t];
            }
            (0..n_models).for_each(|i| moved[(t, i)] = own[i]);
        }
        moved
    }

    /// The scores of the shared parameters.
    fn gathered(&self, moments: &Moments) -> Vector {
        let mut all = Vector::zeros(self.core.nrows());
        for (reach, score) in self.reach.iter().zip(&moments.score) {
            all += reach.transpose() * score;
        }
        if let (1, Some(ties)) = (self.extra, &moments.ties) {
            let last = all.nrows() - 1;
            all[last] += ties.score;
        }
        all
    }

    /// The covariance of `sum_t share_t theta_t`, `[M, M]`.
    pub fn covariance(&self, share: &[f64], spread: Spread) -> Matrix {
        let sum = self.sum_of_reach(share);
        match spread {
            Spread::Model => {
                let mut all = congruent(&sum, &self.core);
                for (local, share) in self.local.iter().flatten().zip(share).filter(|(_, share)| **share != 0.0) {
                    all += faer::Scale(share * share) * local;
                }
                all
            }
            Spread::Games(moments) => self.of_games(share, &sum, moments) + self.of_residual(share, &sum),
            Spread::Clusters(meat) => self.of_clusters(share, &sum, meat) + self.of_residual(share, &sum),
        }
    }

    fn sum_of_reach(&self, share: &[f64]) -> Matrix {
        let mut sum = Matrix::zeros(self.reach.first().map_or(0, Matrix::nrows), self.core.nrows());
        for (reach, share) in self.reach.iter().zip(share).filter(|(_, share)| **share != 0.0) {
            sum += faer::Scale(*share) * reach;
        }
        sum
    }

    /// What the scores of category `s` do to the target, `[M, M]`.
    fn effect(&self, s: usize, share: f64, sum_core: &Matrix) -> Matrix {
        let mut effect = sum_core * self.reach[s].transpose();
        if let (Some(local), true) = (&self.local, share != 0.0) {
            effect += faer::Scale(share) * &local[s];
        }
        effect
    }

    fn of_games(&self, share: &[f64], sum: &Matrix, moments: &Moments) -> Matrix {
        let (m, sum_core) = (sum.nrows(), sum * &self.core);
        let mut all = Matrix::zeros(m, m);
        let tie = self.tie_effect(&sum_core);
        for (s, share) in share.iter().enumerate() {
            let effect = self.effect(s, *share, &sum_core);
            all += congruent(&effect, &moments.meat[s]);
            if let (Some(tie), Some(ties)) = (&tie, &moments.ties) {
                let cross = (&effect * &ties.meat_cross[s]) * tie.transpose();
                all += &cross + cross.transpose();
            }
        }
        if let (Some(tie), Some(ties)) = (&tie, &moments.ties) {
            all += faer::Scale(ties.meat) * (tie * tie.transpose());
        }
        symmetric(&all)
    }

    fn of_clusters(&self, share: &[f64], sum: &Matrix, meat: &Matrix) -> Matrix {
        let (m, sum_core) = (sum.nrows(), sum * &self.core);
        let mut effect = Matrix::zeros(m, meat.nrows());
        for (s, share) in share.iter().enumerate() {
            effect.subcols_mut(s * m, m).copy_from(self.effect(s, *share, &sum_core));
        }
        let (own, seen) = (sum_core.ncols() - self.extra, meat.ncols() - self.extra);
        effect.subcols_mut(seen, self.extra).copy_from(sum_core.subcols(own, self.extra));
        congruent(&effect, meat)
    }

    /// What the score of `log nu` does to the target, `[M]`.
    fn tie_effect(&self, sum_core: &Matrix) -> Option<Vector> {
        (self.extra == 1).then(|| sum_core.col(sum_core.ncols() - 1).to_owned())
    }

    /// What the residuals' own spread adds where scores do not follow from the model.
    fn of_residual(&self, share: &[f64], sum: &Matrix) -> Matrix {
        let (m, sum_core) = (sum.nrows(), sum * &self.core);
        let mut all = Matrix::zeros(m, m);
        let (Some((drift, tau2)), Some(local)) = (&self.residual, &self.local) else { return all };
        for (s, share) in share.iter().enumerate() {
            let mut effect = -(&sum_core * (drift[s].transpose() * &local[s]));
            effect += faer::Scale(*share) * &local[s];
            all += faer::Scale(1.0 / tau2) * (&effect * effect.transpose());
        }
        symmetric(&all)
    }
}

/// Per category the information between ratings and shared parameters, `[M, D]`.
pub fn drift(maps: &[Matrix], moments: &Moments) -> Vec<Matrix> {
    let of = |(t, map): (usize, &Matrix)| {
        let own = &moments.info[t] * map;
        match &moments.ties {
            Some(ties) => super::linalg::beside(&own, &ties.cross[t].as_mat().to_owned()),
            None => own,
        }
    };
    maps.iter().enumerate().map(of).collect()
}

/// The score of the shared parameters at ratings `theta`, `[D]`, with a ridge `lambda`; ties aside.
pub fn score(maps: &[Matrix], moments: &Moments, theta: &Matrix, lambda: f64) -> Vector {
    let mut all = Vector::zeros(maps.first().map_or(0, Matrix::ncols));
    for (t, map) in maps.iter().enumerate() {
        let own = Vector::from_fn(map.nrows(), |i| moments.score[t][i] - lambda * theta[(t, i)]);
        all += map.transpose() * &own;
    }
    all
}

/// Maps with a column of nothing for `log nu`, where ties are modelled: it moves no rating.
pub fn widened(maps: &[Matrix], moments: &Moments) -> Vec<Matrix> {
    let wide = |map: &Matrix| match &moments.ties {
        Some(_) => super::linalg::beside(map, &Matrix::zeros(map.nrows(), 1)),
        None => map.clone(),
    };
    maps.iter().map(wide).collect()
}

/// The information of the shared parameters, `[D, D]`, with a ridge on all but `log nu`.
pub fn information(maps: &[Matrix], drift: &[Matrix], moments: &Moments, ridge: f64) -> Matrix {
    let (d, wide) = (maps.first().map_or(0, Matrix::ncols), drift.first().map_or(0, Matrix::ncols));
    let mut info = Matrix::zeros(wide, wide);
    for (map, drift) in maps.iter().zip(drift) {
        let mut rows = info.subrows_mut(0, d);
        rows += map.transpose() * drift;
    }
    (0..d).for_each(|i| info[(i, i)] += ridge);
    if let Some(ties) = &moments.ties {
        (0..d).for_each(|i| info[(d, i)] = info[(i, d)]);
        info[(d, d)] = ties.info;
    }
    symmetric(&info)
}
