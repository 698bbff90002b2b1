//! Per-turn latent features: a proxy reward for each turn, regressed on the episode's return.
//!
//! The one idea: `f(x) = w x`, fitted so that its sum over an episode's turns equals the return in least squares; then a
//! turn's credit is its own `f`, shifted so that the episode's turns still sum to the return.
//!
//! Source: LaRe, arXiv:2412.11120 (latent rewards, least squares on the return).
//! Differs: the features are written by hand, not by a language model; the decoder is linear with a ridge.

/// Features of a turn.
pub const FEATURES: usize = 5;

/// What a feature is, in order: always 1; share of the budget offered; rise of the offer since the last; the offer above
/// the standing ask; the turn closes a deal.
pub const FEATURE_NAMES: [&str; FEATURES] = ["bias", "anchor", "concession", "above_ask", "closes"];

/// Weight of the ridge, in turns.
const RIDGE: f64 = 1.0;

/// A turn's features.
pub type Features = [f64; FEATURES];

/// Weights of least `sum_episodes (return - sum_turns w x)^2 + RIDGE |w|^2`.
pub fn fit(episodes: &[(Vec<Features>, f64)]) -> Features {
    let (mut a, mut b) = ([[0.0; FEATURES]; FEATURES], [0.0; FEATURES]);
    for (turns, reward) in episodes {
        let x = summed(turns);
        for i in 0..FEATURES {
            b[i] += x[i] * reward;
            (0..FEATURES).for_each(|j| a[i][j] += x[i] * x[j]);
        }
    }
    (0..FEATURES).for_each(|i| a[i][i] += RIDGE);
    solve(a, b)
}

/// The credit of each turn: its proxy reward, plus an equal share of what the proxies miss of the return.
pub fn credit(turns: &[Features], reward: f64, weights: &Features) -> Vec<f64> {
    let proxy = |x: &Features| x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
    let missed = reward - turns.iter().map(proxy).sum::<f64>();
    turns.iter().map(|x| proxy(x) + missed / turns.len() as f64).collect()
}

fn summed(turns: &[Features]) -> Features {
    let mut sum = [0.0; FEATURES];
    turns.iter().for_each(|x| (0..FEATURES).for_each(|i| sum[i] += x[i]));
    sum
}

/// Gauss without pivoting: the matrix is symmetric and positive.
fn solve(mut a: [[f64; FEATURES]; FEATURES], mut b: Features) -> Features {
    for i in 0..FEATURES {
        for row in i + 1..FEATURES {
            let by = a[row][i] / a[i][i];
            (i..FEATURES).for_each(|j| a[row][j] -= by * a[i][j]);
            b[row] -= by * b[i];
        }
    }
    for i in (0..FEATURES).rev() {
        let known: f64 = (i + 1..FEATURES).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_made_the_returns_are_found_again() {
        let noise = crate::noise::Noise::new(5, 5);
        let true_weights = [0.1, -0.5, 0.3, -1.0, 0.7];
        let turn = |i: u64| std::array::from_fn(|k| if k == 0 { 1.0 } else { noise.child(i).normal(k as u64) });
        let episode = |e: u64| -> (Vec<Features>, f64) {
            let turns: Vec<Features> = (0..3).map(|t| turn(3 * e + t)).collect();
            let reward = summed(&turns).iter().zip(true_weights).map(|(x, w)| x * w).sum();
            (turns, reward)
        };
        let episodes: Vec<(Vec<Features>, f64)> = (0..2_000).map(episode).collect();
        for (got, want) in fit(&episodes).iter().zip(true_weights) {
            // The ridge pulls towards 0 by about one part in the number of turns.
            assert!((got - want).abs() < 1e-3, "got {got}, want {want}");
        }
    }
}
