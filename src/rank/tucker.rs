//! Ratings over models, categories and personas as a tensor of low Tucker rank.
//!
//! The one idea: `theta = G x1 U1 x2 U2 x3 U3` moves by its core and by each factor off its own columns; scaled by the
//! core's unfoldings these directions are orthonormal. Models are mode 1, categories 2, personas 3.
//!
//! Source: De Lathauwer, De Moor and Vandewalle 2000 (truncated higher-order SVD); Koch and Lubich 2010 (tangent space).

use super::linalg::{Matrix, beside, complement, eigen, even, truncated};

/// A tensor and its three sizes; the last index runs fastest.
struct Tensor {
    sizes: [usize; 3],
    values: Vec<f64>,
}

impl Tensor {
    /// Ratings `[T, M]`, category `t` persona `t % personas`, as models by categories by personas.
    fn of(theta: &Matrix, personas: usize) -> Tensor {
        let (t, m) = (theta.nrows(), theta.ncols());
        let values = (0..m).flat_map(|model| (0..t).map(move |context| theta[(context, model)])).collect();
        Tensor { sizes: [m, t / personas, personas], values }
    }

    fn ratings(&self) -> Matrix {
        let [m, categories, personas] = self.sizes;
        let t = categories * personas;
        Matrix::from_fn(t, m, |context, model| self.values[model * t + context])
    }

    fn at(&self, i: [usize; 3]) -> f64 {
        self.values[(i[0] * self.sizes[1] + i[1]) * self.sizes[2] + i[2]]
    }

    /// Mode `k` as rows, the two others as columns, the later one fastest.
    fn unfolded(&self, k: usize) -> Matrix {
        let [p, q] = others(k);
        let width = self.sizes[q];
        Matrix::from_fn(self.sizes[k], self.sizes[p] * width, |row, column| {
            let mut i = [0; 3];
            (i[k], i[p], i[q]) = (row, column / width, column % width);
            self.at(i)
        })
    }

    /// The product with `a [n, size k]` along mode `k`.
    fn times(&self, k: usize, a: &Matrix) -> Tensor {
        let [p, q] = others(k);
        let product = a * self.unfolded(k);
        let mut sizes = self.sizes;
        sizes[k] = a.nrows();
        let mut values = vec![0.0; sizes.iter().product()];
        for row in 0..sizes[k] {
            for column in 0..sizes[p] * sizes[q] {
                let mut i = [0; 3];
                (i[k], i[p], i[q]) = (row, column / sizes[q], column % sizes[q]);
                values[(i[0] * sizes[1] + i[1]) * sizes[2] + i[2]] = product[(row, column)];
            }
        }
        Tensor { sizes, values }
    }
}

fn others(k: usize) -> [usize; 2] {
    [[1, 2], [0, 2], [0, 1]][k]
}

/// The factors of the truncated higher-order SVD.
fn factors(tensor: &Tensor, ranks: [usize; 3]) -> Option<[Matrix; 3]> {
    let factor = |k: usize| truncated(tensor.unfolded(k).as_ref(), ranks[k]).map(|(u, _, _)| u);
    Some([factor(0)?, factor(1)?, factor(2)?])
}

fn core(tensor: &Tensor, u: &[Matrix; 3]) -> Tensor {
    let turned = |k: usize| u[k].transpose().to_owned();
    tensor.times(0, &turned(0)).times(1, &turned(1)).times(2, &turned(2))
}

/// Ratings `[T, M]`, each category's mean 0, of these ranks.
pub(super) fn project(theta: &Matrix, ranks: [usize; 3], personas: usize) -> Option<Matrix> {
    let tensor = Tensor::of(theta, personas);
    let u = factors(&tensor, ranks)?;
    Some(core(&tensor, &u).times(0, &u[0]).times(1, &u[1]).times(2, &u[2]).ratings())
}

/// Per context the map from coordinates to ratings: core, then each mode off its own columns.
pub(super) fn maps(theta: &Matrix, ranks: [usize; 3], personas: usize) -> Option<Vec<Matrix>> {
    let tensor = Tensor::of(theta, personas);
    let u = factors(&tensor, ranks)?;
    let g = core(&tensor, &u);
    let rest = [complement(&beside(&u[0], &even(u[0].nrows()))), complement(&u[1]), complement(&u[2])];
    let scale = [inverse_root(&g.unfolded(0))?, inverse_root(&g.unfolded(1))?, inverse_root(&g.unfolded(2))?];
    let row = |k: usize, i: usize| Matrix::from_fn(1, ranks[k], |_, c| u[k][(i, c)]);
    let map = |context: usize| {
        let (j, k) = (context / personas, context % personas);
        let (uj, uk) = (row(1, j), row(2, k));
        let second = kron(&uj, &uk);
        let by_core = kron(&u[0], &second);
        // G seen with two modes fixed at this context or left to the model, scaled to be orthonormal.
        let one = (&scale[0] * (g.unfolded(0) * second.transpose())).transpose().to_owned();
        let two = &u[0] * g.times(2, &uk).unfolded(0) * scale[1].transpose();
        let three = &u[0] * g.times(1, &uj).unfolded(0) * scale[2].transpose();
        let rest_of = |mode: usize, i: usize| Matrix::from_fn(1, rest[mode].ncols(), |_, c| rest[mode][(i, c)]);
        let parts = [by_core, kron(&rest[0], &one), kron(&rest_of(1, j), &two), kron(&rest_of(2, k), &three)];
        parts.into_iter().reduce(|left, right| beside(&left, &right))
    };
    (0..theta.nrows()).map(map).collect()
}

/// `(A A')^(-1/2)`; `None` where `A` has not its rows' rank.
fn inverse_root(a: &Matrix) -> Option<Matrix> {
    let (values, vectors) = eigen(&(a * a.transpose()))?;
    if values.first().is_none_or(|least| *least <= 0.0) {
        return None;
    }
    let scaled = Matrix::from_fn(vectors.nrows(), vectors.ncols(), |i, j| vectors[(i, j)] / values[j].sqrt());
    Some(&scaled * vectors.transpose())
}

/// The Kronecker product.
fn kron(a: &Matrix, b: &Matrix) -> Matrix {
    let (m, n) = (b.nrows(), b.ncols());
    Matrix::from_fn(a.nrows() * m, a.ncols() * n, |i, j| a[(i / m, j / n)] * b[(i % m, j % n)])
}

#[cfg(test)]
mod tests {
    use super::super::shape::{Shape, rows_centred};
    use super::*;
    use crate::noise::Noise;

    fn noise(t: usize, m: usize) -> Matrix {
        let noise = Noise::new(5, 0);
        rows_centred(&Matrix::from_fn(t, m, |i, j| noise.normal((i * m + j) as u64)))
    }

    #[test]
    fn directions_are_orthonormal_and_as_many_as_they_should_be() {
        let personas = 3;
        for shape in [Shape::Tucker { ranks: [2, 2, 2], personas }, Shape::Rank(2), Shape::Pooled] {
            let theta = shape.project(&noise(12, 6)).unwrap();
            let maps = shape.tangent(&theta).unwrap();
            let gram = maps.iter().map(|map| map.transpose() * map).reduce(|a, b| a + b).unwrap();
            assert_eq!(gram.ncols(), shape.dim(12, 6), "{shape:?}");
            let off = (&gram - Matrix::identity(gram.ncols(), gram.ncols())).norm_max();
            assert!(off < 1e-12, "{shape:?}: {off}");
            assert!(maps.iter().all(|map| (even(6).transpose() * map).norm_max() < 1e-12), "{shape:?}");
        }
    }

    #[test]
    fn a_step_along_a_direction_stays_in_the_shape_to_second_order() {
        for shape in [Shape::Tucker { ranks: [2, 2, 2], personas: 3 }, Shape::Rank(2)] {
            let theta = shape.project(&noise(12, 6)).unwrap();
            let maps = shape.tangent(&theta).unwrap();
            let x = crate::rank::linalg::Vector::from_fn(maps[0].ncols(), |i| Noise::new(9, 1).normal(i as u64));
            let off = |h: f64| {
                let moved = &theta + faer::Scale(h) * crate::rank::shape::lifted(&maps, &x);
                (shape.project(&moved).unwrap() - &moved).norm_l2() / (h * h)
            };
            let (coarse, fine) = (off(1e-2), off(1e-3));
            assert!(fine < 2.0 * coarse + 1.0, "{shape:?}: {coarse} {fine}");
        }
    }
}
