//! Group advantage: an episode's reward against the other rollouts of the same product.
//!
//! The one idea: the group is the baseline. Every trained token of an episode carries the episode's one advantage.
//! Sums run in f64 in the order of the group, so bits never depend on batching.

/// How rewards of a group become advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupAdvantage {
    /// Divide by the group's standard deviation (Shao et al. 2024, arXiv:2402.03300, eq. 3); without it the advantage is
    /// mean-centred only (Liu et al. 2025, arXiv:2503.20783).
    pub divide_by_std: bool,
}

/// Added to the standard deviation before dividing.
pub const STD_EPS: f64 = 1e-6;

/// Advantages of rewards `[groups, G]` into `advantage [groups, G]`; returns the number of constant groups, all of
/// whose rewards are the same and whose advantages are therefore exactly zero.
///
/// # Panics
/// If the lengths differ or are no multiple of `group`: a bug of the caller.
pub fn group_advantage(rewards: &[f32], group: usize, how: GroupAdvantage, advantage: &mut [f32]) -> usize {
    assert!(group > 0 && rewards.len() == advantage.len() && rewards.len().is_multiple_of(group));
    let mut constant = 0;
    for (rewards, advantage) in rewards.chunks(group).zip(advantage.chunks_mut(group)) {
        if rewards.iter().all(|r| *r == rewards[0]) {
            advantage.fill(0.0);
            constant += 1;
            continue;
        }
        let mean = rewards.iter().map(|r| *r as f64).sum::<f64>() / group as f64;
        let variance = rewards.iter().map(|r| (*r as f64 - mean).powi(2)).sum::<f64>() / group as f64;
        let scale = if how.divide_by_std { 1.0 / (variance.sqrt() + STD_EPS) } else { 1.0 };
        for (a, r) in advantage.iter_mut().zip(rewards) {
            *a = ((*r as f64 - mean) * scale) as f32;
        }
    }
    constant
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rewards: &[f32], group: usize, divide_by_std: bool) -> (Vec<f32>, usize) {
        let mut advantage = vec![f32::NAN; rewards.len()];
        let constant = group_advantage(rewards, group, GroupAdvantage { divide_by_std }, &mut advantage);
        (advantage, constant)
    }

    #[test]
    fn mean_centred_against_hand_values() {
        let (a, constant) = run(&[1.0, 0.0, 0.5, 0.5, -1.0, 0.0, 0.0, 1.0], 4, false);
        assert_eq!(a, [0.5, -0.5, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0]);
        assert_eq!(constant, 0);
    }

    #[test]
    fn divided_by_std_against_hand_values() {
        let (a, _) = run(&[1.0, -1.0, 1.0, -1.0, 3.0, 0.0, 0.0, 0.0], 4, true);
        let std: f64 = (0.75f64 * 0.75 * 3.0 + 2.25 * 2.25).sqrt() / 2.0;
        for (got, want) in a.iter().zip([1.0, -1.0, 1.0, -1.0, 2.25 / std, -0.75 / std, -0.75 / std, -0.75 / std]) {
            assert!((*got as f64 - want).abs() < 1e-5, "got {got}, want {want}");
        }
    }

    #[test]
    fn constant_groups_are_counted_and_exactly_zero() {
        let (a, constant) = run(&[0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.0, 0.1, 0.2], 3, true);
        assert_eq!(&a[..6], &[0.0; 6]);
        assert!(a[6] < 0.0 && a[8] > 0.0);
        assert_eq!(constant, 2);
    }

    #[test]
    fn groups_do_not_touch_each_other() {
        let (both, _) = run(&[0.7, 0.2, -1.0, 0.4], 2, true);
        assert_eq!(both[..2], run(&[0.7, 0.2], 2, true).0);
        assert_eq!(both[2..], run(&[-1.0, 0.4], 2, true).0);
    }

    proptest::proptest! {
        #[test]
        fn advantages_of_a_group_sum_to_zero(rewards in proptest::collection::vec(-1f32..1.0, 2..32), by_std: bool) {
            let (a, _) = run(&rewards, rewards.len(), by_std);
            let sum: f64 = a.iter().map(|a| *a as f64).sum();
            assert!(sum.abs() < 1e-5, "sum {sum}");
        }
    }
}
