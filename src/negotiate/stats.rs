//! Means with 95 % intervals.
//!
//! The one idea: episodes of one product are not independent, so the interval of a mean is taken over product means where
//! that makes sense: [`mean_by_product`] and [`paired`] average within a product first.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A mean and the half width of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean; 0 for no values.
    pub mean: f64,
    /// Half width of the 95 % interval, Student's t over the values; `None` with fewer than two: it cannot be known.
    pub ci95: Option<f64>,
    /// How many values.
    pub n: usize,
}

impl Estimate {
    /// Lower end of the interval.
    pub fn low(self) -> Option<f64> {
        Some(self.mean - self.ci95?)
    }

    /// Upper end of the interval.
    pub fn high(self) -> Option<f64> {
        Some(self.mean + self.ci95?)
    }
}

/// Mean and interval of independent values.
pub fn mean(values: &[f64]) -> Estimate {
    let n = values.len();
    if n == 0 {
        return Estimate { mean: 0.0, ci95: None, n };
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    let ci95 = (n > 1).then(|| t_975(n - 1) * (squares / (n - 1) as f64 / n as f64).sqrt());
    Estimate { mean, ci95, n }
}

/// Mean over episodes with the interval over products: values `(product, value)`, averaged within a product first.
/// With the same number of episodes a product the mean is that of the episodes.
pub fn mean_by_product(values: &[(&str, f64)]) -> Estimate {
    mean(&by_product(values).into_values().collect::<Vec<f64>>())
}

/// The difference `a - b` paired by product: product means first, over the products both have.
pub fn paired(a: &[(&str, f64)], b: &[(&str, f64)]) -> Estimate {
    let (a, b) = (by_product(a), by_product(b));
    let differences: Vec<f64> = a.iter().filter_map(|(product, x)| b.get(product).map(|y| x - y)).collect();
    mean(&differences)
}

fn by_product<'a>(values: &[(&'a str, f64)]) -> BTreeMap<&'a str, f64> {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (product, value) in values {
        let sum = sums.entry(product).or_insert((0.0, 0.0));
        sum.0 += value;
        sum.1 += 1.0;
    }
    sums.into_iter().map(|(product, (sum, count))| (product, sum / count)).collect()
}

/// The 97.5 % quantile of Student's t, by the expansion around the normal (Abramowitz and Stegun 1964, 26.7.5);
/// exact values for 1 to 3 degrees, where the expansion is off by more than 0.001.
pub fn t_975(degrees: usize) -> f64 {
    let (z, n) = (1.959_963_984_540_054_f64, degrees as f64);
    match degrees {
        0 => f64::INFINITY,
        1 => 12.706_204_736,
        2 => 4.302_652_73,
        3 => 3.182_446_305,
        _ => {
            let (z3, z5, z7, z9) = (z.powi(3), z.powi(5), z.powi(7), z.powi(9));
            let first = (z3 + z) / (4.0 * n);
            let second = (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n);
            let third = (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n.powi(3));
            let fourth = (79.0 * z9 + 776.0 * z7 + 1482.0 * z5 - 1920.0 * z3 - 945.0 * z) / (92_160.0 * n.powi(4));
            z + first + second + third + fourth
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_equals_the_tables() {
        for (degrees, want) in [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (30, 2.042), (120, 1.980)]
        {
            let got = t_975(degrees);
            assert!((got - want).abs() < 0.002, "t({degrees}) = {got}, want {want}");
        }
    }

    #[test]
    fn mean_of_hand_values() {
        let got = mean(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(got.mean, 2.5);
        // s = 1.29099, s / sqrt(4) = 0.645497, t(3) = 3.18245.
        assert!((got.ci95.unwrap() - 2.0543).abs() < 0.01, "{got:?}");
        assert_eq!(mean(&[]).n, 0);
        assert_eq!((mean(&[5.0]).ci95, mean(&[5.0]).low(), mean(&[]).ci95), (None, None, None));
    }

    #[test]
    fn paired_removes_what_products_share() {
        let a = [("p", 1.1), ("p", 1.3), ("q", 5.2), ("r", -2.8)];
        let b = [("p", 1.0), ("q", 5.0), ("r", -3.0), ("only_b", 9.0)];
        let got = paired(&a, &b);
        assert_eq!(got.n, 3);
        assert!((got.mean - 0.2).abs() < 1e-12 && got.ci95.unwrap() < 1e-9, "{got:?}");
    }
}
