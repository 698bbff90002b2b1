//! By how much: the mean difference of reward of two buyers over what both played.
//!
//! The one idea: a ranking says who is better, not by how much; where rewards are numbers, their paired difference says it,
//! with an interval over products, since the games of one product are not independent.

use super::board::two_sided;
use std::collections::BTreeMap;

/// One buyer's episode.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// The buyer.
    pub buyer: String,
    /// The product: the cluster.
    pub product: String,
    /// The category.
    pub category: String,
    /// The persona, where there are some.
    pub persona: String,
    /// The reward.
    pub reward: f64,
    /// The product, seller and seed it was played with: episodes of one scene are compared.
    pub scene: usize,
    /// What a cent is worth in reward.
    pub cent: f64,
}

/// The difference of two buyers' mean reward.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardGap {
    /// The category; `overall` for all.
    pub category: String,
    /// The buyer whose reward is taken.
    pub a: String,
    /// The buyer whose reward is subtracted.
    pub b: String,
    /// The mean difference.
    pub mean: f64,
    /// Its standard error over products; none with fewer than two.
    pub se: Option<f64>,
    /// Its interval.
    pub interval: Option<[f64; 2]>,
    /// Episodes of each.
    pub episodes: usize,
    /// Products.
    pub products: usize,
}

/// Where it stands (categories, then overall), the category, two buyers.
type Pair = (usize, String, String, String);
/// Per product the sum of differences and how many they are.
type Sums<'a> = BTreeMap<&'a str, (f64, usize)>;

/// The differences of every two buyers, in each category and overall. Episodes stand scene by scene.
///
/// The sandwich over clusters, Liang and Zeger 1986, of a mean of paired differences.
pub fn differences(episodes: &[Episode], level: f64) -> Vec<RewardGap> {
    let mut pairs: BTreeMap<Pair, Sums> = BTreeMap::new();
    for scene in episodes.chunk_by(|x, y| x.scene == y.scene) {
        for (at, one) in scene.iter().enumerate() {
            for other in &scene[at + 1..] {
                let own = if one.persona.is_empty() {
                    one.category.clone()
                } else {
                    format!("{} / {}", one.category, one.persona)
                };
                for (last, category) in [(0, own), (1, "overall".to_string())] {
                    let key = (last, category, one.buyer.clone(), other.buyer.clone());
                    let sum = pairs.entry(key).or_default().entry(&one.product).or_default();
                    *sum = (sum.0 + one.reward - other.reward, sum.1 + 1);
                }
            }
        }
    }
    let z = two_sided(level);
    pairs
        .into_iter()
        .map(|((_, category, a, b), sums)| gap(category, a, b, &sums.into_values().collect::<Vec<_>>(), z))
        .collect()
}

fn gap(category: String, a: String, b: String, sums: &[(f64, usize)], z: f64) -> RewardGap {
    let (n, products) = (sums.iter().map(|sum| sum.1).sum::<usize>(), sums.len());
    let mean = sums.iter().map(|sum| sum.0).sum::<f64>() / n as f64;
    let squares: f64 = sums.iter().map(|(sum, n)| (sum - *n as f64 * mean).powi(2)).sum();
    let se = (products > 1).then(|| (squares * products as f64 / (products - 1) as f64).sqrt() / n as f64);
    let interval = se.map(|se| [mean - z * se, mean + z * se]);
    RewardGap { category, a, b, mean, se, interval, episodes: n, products }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(buyer: &str, product: &str, scene: usize, reward: f64) -> Episode {
        let text = String::from;
        let (buyer, product) = (text(buyer), text(product));
        Episode { buyer, product, category: text("books"), persona: text(""), reward, scene, cent: 0.0 }
    }

    #[test]
    fn differences_are_paired_and_their_errors_go_over_products() {
        // Differences 0.2, 0.4 on one product and 0.0 on another: mean 0.2, sums off by 0.2 and -0.2.
        let all: Vec<Episode> = [("p_1", 0, 0.5, 0.3), ("p_1", 1, 0.5, 0.1), ("p_2", 2, 0.4, 0.4)]
            .iter()
            .flat_map(|(p, s, x, y)| [episode("a", p, *s, *x), episode("b", p, *s, *y)])
            .collect();
        let gaps = differences(&all, 0.95);
        assert_eq!(gaps.iter().map(|g| g.category.as_str()).collect::<Vec<_>>(), ["books", "overall"]);
        assert!((gaps[1].mean - 0.2).abs() < 1e-12 && (gaps[1].episodes, gaps[1].products) == (3, 2));
        assert!((gaps[1].se.unwrap() - (2.0 * 0.08_f64).sqrt() / 3.0).abs() < 1e-12, "{gaps:?}");
        assert_eq!(differences(&all[..4], 0.95)[0].interval, None, "one product has no interval");
    }
}
