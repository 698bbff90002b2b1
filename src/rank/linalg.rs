//! Dense algebra for the room: a few words over `faer`, which runs here without threads, in one order.
//!
//! The one idea: a machine gives the same bits on every run. Another kind of CPU may differ in the last ones, where its
//! vectors are wider.

use faer::linalg::solvers::DenseSolveCore;
use faer::prelude::Solve;
use faer::{Col, Mat, MatRef, Side};

/// Numbers in rows and columns.
pub type Matrix = Mat<f64>;
/// Numbers in a column.
pub type Vector = Col<f64>;

/// A Cholesky factor.
pub struct Factor(faer::linalg::solvers::Llt<f64>);

impl Factor {
    /// The factor of a symmetric matrix; `None` where it is not positive definite.
    pub fn of(a: &Matrix) -> Option<Factor> {
        a.llt(Side::Lower).ok().map(Factor)
    }

    /// `A^-1 b`.
    pub fn solve(&self, b: &Vector) -> Vector {
        self.0.solve(b)
    }

    /// `A^-1 B`.
    pub fn solve_matrix(&self, b: &Matrix) -> Matrix {
        self.0.solve(b)
    }

    /// `A^-1`, symmetric to the bit.
    pub fn inverse(&self) -> Matrix {
        symmetric(&self.0.inverse())
    }
}

/// Eigenvalues, ascending, and their vectors as columns; `None` for what is not finite.
pub fn eigen(a: &Matrix) -> Option<(Vec<f64>, Matrix)> {
    let parts = a.self_adjoint_eigen(Side::Lower).ok()?;
    Some((parts.S().column_vector().iter().copied().collect(), parts.U().to_owned()))
}

/// The mean of a matrix and its transpose.
pub fn symmetric(a: &Matrix) -> Matrix {
    Matrix::from_fn(a.nrows(), a.ncols(), |i, j| 0.5 * (a[(i, j)] + a[(j, i)]))
}

/// The inverse of a symmetric positive semidefinite matrix off its null space, and the null space's columns.
///
/// What lies below `1e-10` of the largest eigenvalue is null.
pub fn pseudo_inverse(a: &Matrix) -> Option<(Matrix, Matrix)> {
    let (values, vectors) = eigen(a)?;
    let top = values.last().copied().unwrap_or(0.0).max(0.0);
    let n_null = values.iter().filter(|value| **value <= 1e-10 * top || **value <= 0.0).count();
    let kept = vectors.subcols(n_null, values.len() - n_null);
    let scaled = Matrix::from_fn(kept.nrows(), kept.ncols(), |i, j| kept[(i, j)] / values[n_null + j]);
    Some((symmetric(&(&scaled * kept.transpose())), vectors.subcols(0, n_null).to_owned()))
}

/// A root `R` with `R R' = A` of a symmetric positive semidefinite matrix.
pub fn root(a: &Matrix) -> Option<Matrix> {
    let (values, vectors) = eigen(a)?;
    Some(Matrix::from_fn(a.nrows(), a.ncols(), |i, j| vectors[(i, j)] * values[j].max(0.0).sqrt()))
}

/// The `rank` largest singular triples of a matrix: `U [m, r]`, values, `V [n, r]`.
pub fn truncated(a: MatRef<f64>, rank: usize) -> Option<(Matrix, Vec<f64>, Matrix)> {
    let parts = a.thin_svd().ok()?;
    let values = parts.S().column_vector().iter().take(rank).copied().collect();
    Some((parts.U().subcols(0, rank).to_owned(), values, parts.V().subcols(0, rank).to_owned()))
}

/// An orthonormal basis of what is orthogonal to the columns of `a [n, k]`, as `[n, n - k]`.
pub fn complement(a: &Matrix) -> Matrix {
    let q = a.qr().compute_Q();
    q.subcols(a.ncols(), a.nrows() - a.ncols()).to_owned()
}

/// A column of ones over `sqrt(n)`.
pub fn even(n: usize) -> Matrix {
    Matrix::from_fn(n, 1, |_, _| 1.0 / (n as f64).sqrt())
}

/// `A B A'`.
pub fn congruent(a: &Matrix, b: &Matrix) -> Matrix {
    symmetric(&(a * b * a.transpose()))
}

/// Blocks beside each other.
pub fn beside(left: &Matrix, right: &Matrix) -> Matrix {
    let n = left.ncols();
    Matrix::from_fn(left.nrows(), n + right.ncols(), |i, j| if j < n { left[(i, j)] } else { right[(i, j - n)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laplacian() -> Matrix {
        // A triangle and a pair that never met: two null directions.
        let edges = [(0, 1, 2.0), (1, 2, 1.0), (0, 2, 0.5), (3, 4, 3.0)];
        let mut l = Matrix::zeros(5, 5);
        for (a, b, w) in edges {
            (l[(a, a)], l[(b, b)]) = (l[(a, a)] + w, l[(b, b)] + w);
            (l[(a, b)], l[(b, a)]) = (-w, -w);
        }
        l
    }

    #[test]
    fn the_pseudo_inverse_inverts_off_the_null_space() {
        let l = laplacian();
        let (inverse, null) = pseudo_inverse(&l).unwrap();
        assert_eq!(null.ncols(), 2);
        let back = &l * &inverse * &l;
        assert!((&back - &l).norm_max() < 1e-12);
        assert!((&l * &null).norm_max() < 1e-12);
    }

    #[test]
    fn roots_and_complements_are_what_they_say() {
        let l = laplacian();
        let r = root(&l).unwrap();
        assert!((&r * r.transpose() - &l).norm_max() < 1e-12);
        let c = complement(&even(5));
        assert_eq!(c.ncols(), 4);
        assert!((c.transpose() * &c - Matrix::identity(4, 4)).norm_max() < 1e-12);
        assert!((c.transpose() * even(5)).norm_max() < 1e-12);
    }
}
