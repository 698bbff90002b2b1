//! Group advantage: an episode's reward against the other rollouts of the same product.
//!
//! The one idea: the group is the baseline. Every trained token of an episode carries the episode's one advantage.
//! Sums run in f64 in the order of the group, so bits never depend on batching.

use crate::device::cpu::credit::one_group;
pub use crate::ops::credit::{GroupAdvantage, STD_EPS};

/// Advantages of rewards `[groups, G]` into `advantage [groups, G]`; returns the number of constant groups, all of
/// whose rewards are the same and whose advantages are therefore exactly zero.
///
/// # Panics
/// If the lengths differ or are no multiple of `group`: a bug of the caller.
pub fn group_advantage(rewards: &[f32], group: usize, how: GroupAdvantage, advantage: &mut [f32]) -> usize {
    assert!(group > 0 && rewards.len() == advantage.len() && rewards.len().is_multiple_of(group));
    let mut constant = 0;
    for (rewards, advantage) in rewards.chunks(group).zip(advantage.chunks_mut(group)) {
        constant += one_group(rewards, how, advantage) as usize;
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
