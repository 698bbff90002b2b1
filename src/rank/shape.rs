//! What ratings may look like across categories: one ranking, low rank, low Tucker rank over personas, or anything.
//!
//! The one idea: a shape is known by two things, how to bring ratings into it and which directions it can move in at a
//! point; fit, inference and bands need no more. Ratings are `theta [T, M]`, each category's mean 0.
//!
//! Source: the tangent space of matrices of fixed rank, Vandereycken 2013, "Low-rank matrix completion by Riemannian
//! optimization"; of fixed Tucker rank, Koch and Lubich 2010, "Dynamical tensor approximation". Ratings completed as a
//! low-rank matrix: arXiv:2605.29395, arXiv:2604.05460.

use super::linalg::{self, Matrix, complement, even};
use super::tucker;

/// What ratings may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The same ratings in every category.
    Pooled,
    /// A matrix of this rank over categories and models; at least 1.
    Rank(usize),
    /// A tensor over models, categories and personas of these ranks; category `t` is persona `t % personas`.
    Tucker {
        /// Ranks over models, categories, personas; each at least 1.
        ranks: [usize; 3],
        /// Personas.
        personas: usize,
    },
}

impl Shape {
    /// The largest rank that `t` categories of `m` models have: at it, nothing is shared.
    pub fn full(t: usize, m: usize) -> usize {
        t.min(m.saturating_sub(1))
    }

    /// Brings ratings into the shape: the nearest of its rank; for Tucker, by the truncated higher-order SVD.
    ///
    /// `None` for what is not finite.
    pub fn project(self, theta: &Matrix) -> Option<Matrix> {
        let theta = rows_centred(theta);
        match self {
            Shape::Pooled => {
                let t = theta.nrows();
                let mean = |j: usize| (0..t).map(|i| theta[(i, j)]).sum::<f64>() / t as f64;
                let means: Vec<f64> = (0..theta.ncols()).map(mean).collect();
                Some(Matrix::from_fn(t, theta.ncols(), |_, j| means[j]))
            }
            Shape::Rank(rank) => {
                let (u, s, v) = linalg::truncated(theta.as_ref(), rank)?;
                Some(rows_centred(&(Matrix::from_fn(u.nrows(), rank, |i, j| u[(i, j)] * s[j]) * v.transpose())))
            }
            Shape::Tucker { ranks, personas } => tucker::project(&theta, ranks, personas),
        }
    }

    /// The directions at a point, orthonormal together: per category the map `[M, D]` from coordinates to ratings.
    ///
    /// `None` for what is not finite.
    pub fn tangent(self, theta: &Matrix) -> Option<Vec<Matrix>> {
        let (t, m) = (theta.nrows(), theta.ncols());
        match self {
            Shape::Pooled => {
                let basis = faer::Scale(1.0 / (t as f64).sqrt()) * complement(&even(m));
                Some(vec![basis; t])
            }
            Shape::Rank(rank) => {
                let (u, _, v) = linalg::truncated(theta.as_ref(), rank)?;
                Some(matrix_maps(&u, &v))
            }
            Shape::Tucker { ranks, personas } => tucker::maps(theta, ranks, personas),
        }
    }

    /// The dimension `D` of its directions.
    pub fn dim(self, t: usize, m: usize) -> usize {
        match self {
            Shape::Pooled => m.saturating_sub(1),
            Shape::Rank(r) => r * (t + m - 1 - r),
            Shape::Tucker { ranks: [r1, r2, r3], personas } => {
                r1 * r2 * r3 + r1 * (m - 1 - r1) + r2 * (t / personas - r2) + r3 * (personas - r3)
            }
        }
    }
}

/// Per category `[e_t (x) V, U_t (x) V_rest]`, where `V_rest` completes `[V, 1]`.
fn matrix_maps(u: &Matrix, v: &Matrix) -> Vec<Matrix> {
    let (t, m, r) = (u.nrows(), v.nrows(), v.ncols());
    let rest = complement(&linalg::beside(v, &even(m)));
    let map = |category: usize| {
        let mut map = Matrix::zeros(m, t * r + r * rest.ncols());
        map.subcols_mut(category * r, r).copy_from(v);
        for k in 0..r {
            let at = t * r + k * rest.ncols();
            map.subcols_mut(at, rest.ncols()).copy_from(faer::Scale(u[(category, k)]) * &rest);
        }
        map
    };
    (0..t).map(map).collect()
}

/// Ratings that a point in coordinates adds, `[T, M]`.
pub fn lifted(maps: &[Matrix], x: &linalg::Vector) -> Matrix {
    let rows: Vec<_> = maps.iter().map(|map| map * x).collect();
    Matrix::from_fn(maps.len(), maps.first().map_or(0, Matrix::nrows), |t, m| rows[t][m])
}

/// Each category's ratings less their mean.
pub fn rows_centred(theta: &Matrix) -> Matrix {
    let m = theta.ncols();
    let means: Vec<f64> = (0..theta.nrows()).map(|t| (0..m).map(|j| theta[(t, j)]).sum::<f64>() / m as f64).collect();
    Matrix::from_fn(theta.nrows(), m, |t, j| theta[(t, j)] - means[t])
}
