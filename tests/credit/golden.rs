//! The family of losses and advantages against goldens that torch's autograd made in f64 (`tools/golden_credit.py`).

use crate::support::*;
use haggle::credit::aggregate::Aggregation;
use haggle::credit::importance::*;
use haggle::credit::{gdpo, opo, reinforce_pp, rloo};
use haggle::device::DType;
use haggle::ops::credit::{GroupAdvantage, group_advantage};
use haggle::ops::loss::*;
use serde_json::Value;

const GOLDEN: &str = include_str!("../goldens/credit/credit.json");

fn golden() -> Value {
    serde_json::from_str(GOLDEN).unwrap()
}

fn list(of: &Value) -> Vec<f64> {
    of.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn narrow(of: &Value) -> Vec<f32> {
    list(of).iter().map(|x| *x as f32).collect()
}

/// Loss and slopes as the learner puts them together: token weights, corrections, the op.
fn loss(
    golden: &Value,
    how: PolicyLoss,
    aggregation: Aggregation,
    change: Option<(Correction, Level)>,
) -> (f32, Vec<f32>) {
    let lengths: Vec<usize> = list(&golden["lengths"]).iter().map(|l| *l as usize).collect();
    let [lp, mut old, reference, a, h] =
        ["logprob", "old", "reference", "advantage", "entropy"].map(|key| narrow(&golden[key]));
    let all = lp.len();
    let mut weight: Vec<f32> =
        lengths.iter().flat_map(|l| vec![aggregation.weight(*l, all, lengths.len()); *l]).collect();
    let mut start = 0;
    for l in &lengths {
        let at = start..start + l;
        let sampled = old[at.clone()].to_vec();
        match change {
            Some((Correction::None, _)) => sequence_ratio(&lp[at.clone()], &sampled, &mut old[at.clone()]),
            Some((by, level)) => {
                let mut counts = Histogram::default();
                correct(&lp[at.clone()], &sampled, by, level, &mut weight[at.clone()], &mut counts);
                assert_eq!(counts.tokens(), *l as u64);
                old[at.clone()].copy_from_slice(&lp[at.clone()]);
            }
            None => {}
        }
        start += l;
    }
    let dev = cpu(1);
    let mut out = [poisoned(&dev, all), poisoned(&dev, all), poisoned(&dev, POLICY_SUMS.len())];
    let inputs = [&lp, &old, &reference, &a, &weight, &h].map(|x| dev.upload(x).unwrap());
    let [lp, old, reference, a, w, h] = inputs.each_ref().map(|b| b.view());
    let [d, dh, sums] = &mut out;
    policy_loss(&dev, lp, old, reference, a, w, h, d.view_mut(), dh.view_mut(), sums.view_mut(), how).unwrap();
    (take(&dev, &out[2])[0], take(&dev, &out[0]))
}

#[test]
fn losses_and_their_gradients_equal_torch_s() {
    let golden = golden();
    let dapo = PolicyLoss { clip_low: 0.2, clip_high: 0.28, ..PolicyLoss::default() };
    let even = PolicyLoss::default();
    let kl = |kl_estimator| PolicyLoss { kl: 0.05, kl_estimator, ..dapo };
    let (token, sequence) = (Aggregation::TokenMean, Aggregation::SequenceMean);
    let (tis, mis) = (Correction::Truncate { cap: 1.1 }, Correction::Mask { low: 0.8, high: 1.25 });
    let cases = [
        ("grpo", even, sequence, None),
        ("dr_grpo", even, Aggregation::Constant { length: 8 }, None),
        ("dapo", dapo, token, None),
        ("dual_clip", PolicyLoss { dual_clip: 1.3, ..dapo }, token, None),
        ("cispo", PolicyLoss { objective: Objective::Cispo, ..dapo }, token, None),
        ("gspo", dapo, sequence, Some((Correction::None, Level::Sequence))),
        ("tis", dapo, token, Some((tis, Level::Token))),
        ("tis_sequence", dapo, token, Some((tis, Level::Sequence))),
        ("mis", dapo, token, Some((mis, Level::Token))),
        ("k1", kl(Kl::K1), token, None),
        ("k2", kl(Kl::K2), token, None),
        ("k3", kl(Kl::K3), token, None),
        ("entropy", PolicyLoss { entropy: 0.02, ..dapo }, token, None),
    ];
    assert_eq!(cases.len(), golden["losses"].as_object().unwrap().len(), "every golden is held");
    for (name, how, aggregation, change) in cases {
        let want = &golden["losses"][name];
        let (value, slopes) = loss(&golden, how, aggregation, change);
        near(&format!("{name} loss"), &[1], &[want["loss"].as_f64().unwrap()], &[value], 7.0e-8);
        near(&format!("{name} dlogprob"), &[slopes.len()], &list(&want["dlogprob"]), &slopes, 7.2e-8);
    }
}

#[test]
fn advantages_equal_torch_s() {
    let golden = golden();
    let (rewards, lengths) = (list(&golden["rewards"]), list(&golden["reward_lengths"]));
    let lengths: Vec<usize> = lengths.iter().map(|l| *l as usize).collect();
    let sizes = [4; 3];
    let grouped = |divide_by_std| {
        let dev = cpu(1);
        let rewards = dev.upload(&narrow(&golden["rewards"])).unwrap();
        let (mut a, mut constant) = (poisoned(&dev, 12), dev.zeros(DType::I32, 3).unwrap());
        let how = GroupAdvantage { divide_by_std };
        group_advantage(&dev, rewards.view(), a.view_mut(), constant.view_mut(), 4, how).unwrap();
        dev.to_vec::<f32>(a.view()).iter().map(|a| *a as f64).collect()
    };
    let with = |rule: &dyn Fn(&mut [f64])| {
        let mut a = vec![f64::NAN; 12];
        rule(&mut a);
        a
    };
    let parts = golden["parts"].as_array().unwrap();
    let weights: Vec<f64> = parts.iter().map(|p| p[0].as_f64().unwrap()).collect();
    let lists: Vec<Vec<f64>> = parts.iter().map(|p| list(&p[1])).collect();
    let cases: [(&str, Vec<f64>); 7] = [
        ("grpo", grouped(true)),
        ("dr_grpo", grouped(false)),
        ("rloo", with(&|a| rewards.chunks(4).zip(a.chunks_mut(4)).for_each(|(r, a)| rloo::rloo(r, a)))),
        ("reinforce_pp", with(&|a| reinforce_pp::reinforce_pp(&rewards, &lengths, &sizes, false, a))),
        ("reinforce_pp_baseline", with(&|a| reinforce_pp::reinforce_pp(&rewards, &lengths, &sizes, true, a))),
        (
            "opo",
            with(&|a| {
                let groups = rewards.chunks(4).zip(lengths.chunks(4)).zip(a.chunks_mut(4));
                groups.for_each(|((r, l), a)| opo::opo(r, l, a));
            }),
        ),
        ("gdpo", with(&|a| gdpo::gdpo(&lists, &weights, &sizes, a))),
    ];
    assert_eq!(cases.len(), golden["advantages"].as_object().unwrap().len(), "every golden is held");
    for (name, got) in cases {
        let got: Vec<f32> = got.iter().map(|a| *a as f32).collect();
        near(name, &[12], &list(&golden["advantages"][name]), &got, 4.7e-8);
    }
}

#[test]
fn on_policy_every_weight_is_exactly_one() {
    let lp: Vec<f32> = normal(40, 1).iter().map(|x| -x.abs()).collect();
    for how in [Correction::Truncate { cap: 1.0 }, Correction::Mask { low: 1.0, high: 1.0 }] {
        for level in [Level::Token, Level::Sequence] {
            let (mut weight, mut counts) = (vec![0.3f32; 40], Histogram::default());
            correct(&lp, &lp, how, level, &mut weight, &mut counts);
            assert!(weight.iter().all(|w| *w == 0.3), "{how:?} {level:?}");
            assert_eq!((counts.not_one, counts.bounded, counts.ratios[5]), (0, 0, 40));
        }
    }
    let mut stand_in = vec![f32::NAN; 40];
    sequence_ratio(&lp, &lp, &mut stand_in);
    assert_eq!(stand_in, lp, "so the ratio is exactly 1");
}
