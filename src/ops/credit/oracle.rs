//! Credit: group advantages, and Shapley values by their definition, the average over every order of arrival.

use crate::ops::credit::{GroupAdvantage, STD_EPS};

/// Returns advantages `[n, G]`; see [`crate::ops::credit::group_advantage`].
pub fn group_advantage(rewards: &[f64], group: usize, how: GroupAdvantage) -> Vec<f64> {
    let one = |r: &[f64]| -> Vec<f64> {
        let mean = r.iter().sum::<f64>() / group as f64;
        let std = (r.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>() / group as f64).sqrt();
        let scale = if how.divide_by_std { std + STD_EPS } else { 1.0 };
        r.iter().map(|r| if std == 0.0 { 0.0 } else { (r - mean) / scale }).collect()
    };
    rewards.chunks(group).flat_map(one).collect()
}

/// Returns phi `[K]` of the best-of-the-set game of one set; see [`crate::ops::credit::shapley_max`]. Each level is
/// shared equally by those that reach it.
pub fn shapley_max(utility: &[f64]) -> Vec<f64> {
    let mut levels = utility.to_vec();
    levels.sort_by(f64::total_cmp);
    let below = |i: usize| if i == 0 { 0.0 } else { levels[i - 1] };
    let reach = |level: f64| utility.iter().filter(|u| **u >= level).count() as f64;
    let share = |u: &f64| {
        let up_to = (0..levels.len()).filter(|i| levels[*i] <= *u);
        up_to.map(|i| (levels[i] - below(i)) / reach(levels[i])).sum()
    };
    utility.iter().map(share).collect()
}

/// Returns phi `[K]` of one game given by its `2^K` values; see [`crate::ops::credit::shapley_table`]. By definition:
/// what each candidate adds when it comes, averaged over every order of arrival. `K!` orders.
pub fn shapley_orders(k: usize, value: impl Fn(usize) -> f64) -> Vec<f64> {
    let (mut phi, mut orders) = (vec![0.0; k], 0.0);
    let mut order: Vec<usize> = (0..k).collect();
    permutations(&mut order, 0, &mut |order| {
        let mut set = 0;
        for who in order {
            phi[*who] += value(set | 1 << who) - value(set);
            set |= 1 << who;
        }
        orders += 1.0;
    });
    phi.iter().map(|p| p / orders).collect()
}

fn permutations(order: &mut Vec<usize>, from: usize, visit: &mut impl FnMut(&[usize])) {
    if from == order.len() {
        return visit(order);
    }
    for i in from..order.len() {
        order.swap(from, i);
        permutations(order, from + 1, visit);
        order.swap(from, i);
    }
}

/// Returns phi `[K]` of one game given by its `2^K` values, by sets.
pub fn shapley_table(values: &[f64], k: usize) -> Vec<f64> {
    let factorial = |n: usize| (1..=n).map(|i| i as f64).product::<f64>();
    let weight = |set: usize| {
        let size = set.count_ones() as usize;
        factorial(size) * factorial(k - size - 1) / factorial(k)
    };
    let added = |i: usize, set: usize| weight(set) * (values[set | 1 << i] - values[set]);
    (0..k).map(|i| (0..1 << k).filter(|set| set >> i & 1 == 0).map(|set| added(i, set)).sum()).collect()
}
