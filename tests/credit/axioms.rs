//! The axioms of the Shapley value as properties of what the trainer calls, and hand values of every worth and split.

use haggle::credit::set::*;
use haggle::credit::shapley::*;
use haggle::device::{DType, Device};
use haggle::noise::Noise;
use haggle::ops::credit::shapley_table;
use haggle::tasks::sets::shapley;
use proptest::prelude::*;

const NOISE: Noise = Noise { seed: 3, stream: 9 };

/// Twice the largest difference seen in 2 000 cases of each property, 2.12e-7: the ops read and write f32.
const NEAR: f64 = 4.24e-7;

fn near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= NEAR, "candidate {i}: got {g}, want {w}, off {:e}", (g - w).abs());
    }
}

fn cpu() -> Device {
    Device::open("cpu", 1).unwrap()
}

fn max_of(utility: &[f64]) -> Vec<f64> {
    shapley_of(&Set::of(utility), Worth::Max)
}

fn table_of(values: &[f64], k: usize) -> Vec<f64> {
    let dev = cpu();
    let values = dev.upload(&values.iter().map(|v| *v as f32).collect::<Vec<_>>()).unwrap();
    let mut phi = dev.zeros(DType::F32, k).unwrap();
    shapley_table(&dev, values.view(), phi.view_mut(), k).unwrap();
    dev.to_vec::<f32>(phi.view()).iter().map(|phi| *phi as f64).collect()
}

fn shapley_of(set: &Set, worth: Worth) -> Vec<f64> {
    shapley(&cpu(), &[Some(set.clone())], worth, &|_| NOISE).unwrap().remove(0)
}

fn split(set: &Set, worth: Worth, how: Split) -> Vec<f64> {
    set.split(worth, how).unwrap()
}

/// The definition: the mean over every order of arrival.
fn by_definition(k: usize, value: &dyn Fn(u64) -> f64) -> Vec<f64> {
    fn visit(left: &mut Vec<usize>, set: u64, value: &dyn Fn(u64) -> f64, phi: &mut [f64], each: f64) {
        for at in 0..left.len() {
            let who = left.remove(at);
            let orders: f64 = (1..=left.len()).map(|n| n as f64).product();
            phi[who] += each * orders * (value(set | 1 << who) - if set == 0 { 0.0 } else { value(set) });
            visit(left, set | 1 << who, value, phi, each);
            left.insert(at, who);
        }
    }
    let mut phi = vec![0.0; k];
    let orders: f64 = (1..=k).map(|n| n as f64).product();
    visit(&mut (0..k).collect(), 0, value, &mut phi, 1.0 / orders);
    phi
}

const WORTHS: [Worth; 5] = [
    Worth::Max,
    Worth::TopSum { m: 2 },
    Worth::Coverage,
    Worth::MaxMinusCost { cost: 0.25 },
    Worth::Softmax { temperature: 0.5 },
];

fn sets(most: usize) -> impl Strategy<Value = Set> {
    let candidate = (prop_oneof![-1.0..1.0, Just(0.0), Just(0.5)], 0u64..256);
    prop::collection::vec(candidate, 1..=most).prop_map(|all| Set {
        utility: all.iter().map(|c| c.0).collect(),
        covers: all.iter().map(|c| c.1).collect(),
        facts: 8,
        same: vec![],
    })
}

proptest! {
    #[test]
    fn shapley_equals_its_definition_for_every_worth(set in sets(6)) {
        for worth in WORTHS {
            let want = by_definition(set.utility.len(), &|mask| set.worth(worth, mask));
            near(&shapley_of(&set, worth), &want);
        }
    }

    #[test]
    fn efficiency_the_values_sum_to_the_worth_of_all(set in sets(10)) {
        for worth in WORTHS {
            let total: f64 = shapley_of(&set, worth).iter().sum();
            prop_assert!((total - set.worth(worth, set.all())).abs() <= NEAR, "{worth:?}: {total}");
            let total: f64 = split(&set, worth, Split::Uniform).iter().sum();
            prop_assert!((total - set.worth(worth, set.all())).abs() <= NEAR, "{worth:?}: {total}");
        }
    }

    #[test]
    fn symmetry_equal_candidates_get_the_same(set in sets(8), a in 0usize..8, b in 0usize..8) {
        let mut set = set;
        let (a, b) = (a % set.utility.len(), b % set.utility.len());
        (set.utility[b], set.covers[b]) = (set.utility[a], set.covers[a]);
        for worth in WORTHS {
            let phi = shapley_of(&set, worth);
            prop_assert!((phi[a] - phi[b]).abs() <= NEAR, "{worth:?}: {phi:?}");
        }
        let phi = max_of(&set.utility);
        prop_assert_eq!(phi[a].to_bits(), phi[b].to_bits());
    }

    #[test]
    fn null_player_who_adds_nothing_to_any_set_gets_nothing(set in sets(8), who in 0usize..8) {
        let mut set = set;
        let who = who % set.utility.len();
        // No set is worth less than nothing, so a candidate of 0 that covers nothing adds nothing to any.
        set.utility.iter_mut().for_each(|u| *u = u.abs());
        (set.utility[who], set.covers[who]) = (0.0, 0);
        for worth in [Worth::Max, Worth::TopSum { m: 2 }, Worth::Coverage] {
            prop_assert!(shapley_of(&set, worth)[who].abs() <= NEAR, "{worth:?}");
        }
        prop_assert_eq!(max_of(&set.utility)[who], 0.0);
    }

    #[test]
    fn additivity_a_sum_of_games_has_the_sum_of_values(
        a in prop::collection::vec(-1f64..1.0, 31), b in prop::collection::vec(-1f64..1.0, 31), by in -3f64..3.0,
    ) {
        let game = |of: &[f64]| -> Vec<f64> { std::iter::once(0.0).chain(of.iter().copied()).collect() };
        let both: Vec<f64> = game(&a).iter().zip(game(&b)).map(|(a, b)| a + by * b).collect();
        let (a, b) = (table_of(&game(&a), 5), table_of(&game(&b), 5));
        let want: Vec<f64> = a.iter().zip(b).map(|(a, b)| a + by * b).collect();
        near(&table_of(&both, 5), &want);
    }

    #[test]
    fn permuted_candidates_have_permuted_values(utility in prop::collection::vec(-1f64..1.0, 1..40), stream: u64) {
        let order = Noise::new(1, stream).shuffled(utility.len());
        let moved: Vec<f64> = order.iter().map(|i| utility[*i]).collect();
        let (phi, moved) = (max_of(&utility), max_of(&moved));
        for (to, from) in order.iter().enumerate() {
            prop_assert_eq!(moved[to].to_bits(), phi[*from].to_bits());
        }
    }

    #[test]
    fn the_closed_form_equals_the_table(utility in prop::collection::vec(-1f64..1.0, 1..=10)) {
        let set = Set::of(&utility);
        let values: Vec<f64> = (0..1u64 << utility.len()).map(|mask| set.worth(Worth::Max, mask)).collect();
        near(&max_of(&utility), &table_of(&values, utility.len()));
    }

    #[test]
    fn the_better_candidate_never_gets_less(utility in prop::collection::vec(-1f64..1.0, 2..20)) {
        let phi = max_of(&utility);
        for i in 0..phi.len() {
            for j in 0..phi.len() {
                prop_assert!(utility[i] < utility[j] || phi[i] >= phi[j]);
            }
        }
    }
}

#[test]
fn shapley_max_against_hand_values() {
    near(&max_of(&[0.2, 0.5, 0.9]), &[0.2 / 3.0, 0.2 / 3.0 + 0.15, 0.2 / 3.0 + 0.15 + 0.4]);
    near(&max_of(&[0.7]), &[0.7]);
    near(&max_of(&[-0.7]), &[-0.7]);
    near(&max_of(&[0.6, 0.6, 0.6]), &[0.2; 3]);
    // The worst of all is worse than saying nothing: all pay for the step from 0 down to it.
    near(&max_of(&[-1.0, 0.5]), &[-0.5, 1.0]);
    near(&max_of(&[-1.0, -0.2, -0.2]), &[-1.0 / 3.0, -1.0 / 3.0 + 0.4, -1.0 / 3.0 + 0.4]);
}

#[test]
fn the_estimate_is_within_its_standard_error_and_the_error_is_honest() {
    let utility: Vec<f64> = (0..24).map(|i| NOISE.uniform_f64(i) - 0.2).collect();
    let (set, exact) = (Set::of(&utility), max_of(&utility));
    // Over 40 estimates of 24 values: the squared errors beside what the standard errors say of them.
    let (mut squared, mut said) = (0.0, 0.0);
    for run in 0..40 {
        let got = shapley_sampled(24, 64, NOISE.child(run), |mask| set.worth(Worth::Max, mask)).unwrap();
        let total: f64 = got.phi.iter().sum();
        assert!((total - set.worth(Worth::Max, set.all())).abs() < 1e-12, "efficiency in every order: {total}");
        for i in 0..24 {
            squared += (got.phi[i] - exact[i]).powi(2);
            said += got.standard_error[i].powi(2);
        }
    }
    assert!((0.85..1.15).contains(&(squared / said)), "squared errors {squared}, standard errors say {said}");
    let one = shapley_sampled(3, 1, NOISE, |mask| f64::from(mask.count_ones())).unwrap();
    assert_eq!((one.phi, one.standard_error), (vec![1.0; 3], vec![f64::INFINITY; 3]));
}

#[test]
fn splits_of_the_best_against_hand_values() {
    let set = Set::of(&[0.2, 0.5, 0.9]);
    let of = |how| split(&set, Worth::Max, how);
    near(&of(Split::Uniform), &[0.3; 3]);
    near(&of(Split::LeaveOneOut), &[0.0, 0.0, 0.4]);
    near(&of(Split::Own), &[0.2, 0.5, 0.9]);
    // The typical candidate is worth 1.6 / 3: it beats what is left without the best.
    near(&of(Split::Difference), &[0.0, 0.0, 0.9 - 1.6 / 3.0]);
    let costly = Worth::MaxMinusCost { cost: 0.1 };
    near(&split(&set, costly, Split::Own), &[0.1, 0.4, 0.8]);
    near(&split(&set, costly, Split::LeaveOneOut), &[-0.1, -0.1, 0.3]);
}

#[test]
fn worths_against_hand_values() {
    let mut set = Set { utility: vec![1.0, 3.0, 2.0], covers: vec![0b011, 0b110, 0b010], facts: 4, same: vec![] };
    let worth = |w, mask| set.worth(w, mask);
    assert_eq!(worth(Worth::Max, 0b101), 2.0);
    assert_eq!(worth(Worth::TopSum { m: 2 }, 0b111), 5.0);
    assert_eq!(worth(Worth::TopSum { m: 5 }, 0b111), 6.0);
    let twice = Set { same: vec![0, 1, 1], ..Set::of(&[1.0, 3.0, 3.0]) };
    assert_eq!(twice.worth(Worth::TopSum { m: 3 }, 0b111), 4.0, "a duplicate is worth nothing more");
    near(&shapley_of(&twice, Worth::TopSum { m: 3 }), &[1.0, 1.5, 1.5]);
    assert_eq!(worth(Worth::Coverage, 0b101), 0.5);
    assert_eq!(worth(Worth::Coverage, 0b111), 0.75);
    assert_eq!(worth(Worth::MaxMinusCost { cost: 0.5 }, 0b011), 2.0);
    let softmax = (1.0 * (-1f64).exp() + 2.0) / ((-1f64).exp() + 1.0);
    assert!((worth(Worth::Softmax { temperature: 1.0 }, 0b101) - softmax).abs() < 1e-15);
    WORTHS.iter().for_each(|w| assert_eq!(worth(*w, 0), 0.0, "{w:?}"));
    // Above 16 candidates without a closed form the values are estimated, and still sum to the worth.
    set = Set::of(&(0..20).map(|i| NOISE.uniform_f64(i)).collect::<Vec<_>>());
    let total: f64 = shapley_of(&set, Worth::TopSum { m: 3 }).iter().sum();
    assert!((total - set.worth(Worth::TopSum { m: 3 }, set.all())).abs() < 1e-12);
}

#[test]
fn sets_of_every_size_are_divided_as_if_each_were_alone() {
    let set = |k: u64| (k > 0).then(|| Set::of(&(0..k).map(|i| NOISE.child(k).uniform_f64(i)).collect::<Vec<_>>()));
    let sets: Vec<Option<Set>> = [3, 0, 20, 3, 1, 8, 20].map(set).into();
    for worth in [Worth::Max, Worth::TopSum { m: 2 }, Worth::Softmax { temperature: 0.5 }] {
        let all = shapley(&cpu(), &sets, worth, &|i| NOISE.child(i as u64)).unwrap();
        for (i, set) in sets.iter().enumerate() {
            let Some(set) = set else {
                assert!(all[i].is_empty());
                continue;
            };
            let alone = shapley(&cpu(), &[Some(set.clone())], worth, &|_| NOISE.child(i as u64)).unwrap();
            assert_eq!(all[i], alone[0], "{worth:?} {i}");
        }
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let refused = |got: haggle::Result<Vec<Vec<f64>>>, word: &str| {
        let message = got.unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    let divided = |utility: &[f64], worth| shapley(&cpu(), &[Some(Set::of(utility))], worth, &|_| NOISE);
    let own = |utility: &[f64]| Set::of(utility).split(Worth::Max, Split::Own).map(|phi| vec![phi]);
    let sampled = |k, pairs, value: f64| shapley_sampled(k, pairs, NOISE, |_| value).map(|s| vec![s.phi]);
    for bad in [f64::NAN, f64::INFINITY] {
        refused(divided(&[0.5, bad], Worth::Max), "not finite");
        refused(divided(&[0.5, bad], Worth::TopSum { m: 2 }), "not finite");
        refused(own(&[bad]), "not finite");
        refused(sampled(2, 4, bad), "not finite");
    }
    refused(sampled(0, 4, 0.0), "1 to 64");
    refused(sampled(2, 0, 0.0), "pairs");
    refused(divided(&[], Worth::Max), "1 to 64");
    refused(divided(&[0.0; 65], Worth::Max), "1 to 64");
    refused(divided(&[1.0], Worth::Coverage), "covers [K]");
}
