//! Masked sampling: what may not come never comes, the distribution that is drawn from is the one that is scored, and a masked
//! row has the same bits alone, in a batch, and on the kernels.

use haggle::device::Device;
use haggle::device::cpu::Cpu;
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling, SeqId};
use haggle::model::Plan;
use haggle::noise::Noise;
use std::sync::Arc;

const WORDS: usize = 2048 / 32;
/// Ids, and the bits of their logprobs.
type Answer = (Vec<i32>, Vec<u32>);
/// The likeliest tokens at each.
type Likeliest = Vec<Vec<(i32, f32)>>;

fn cpu(threads: usize) -> Device {
    Device::Cpu(Arc::new(Cpu::new(threads)))
}

/// The mask before token `step` of sequence `i`: few ids or many, others each time; every third sequence has none.
fn mask(i: usize, step: usize) -> Option<Vec<i32>> {
    let noise = Noise::new(70, (i * 1_000 + step) as u64);
    let many = i.is_multiple_of(2);
    let word = |w: usize| match many {
        true => noise.bits(w as u64) as i32,
        false => i32::from(w == noise.below(9_999, WORDS)) << noise.below(9_998, 31),
    };
    (i % 3 != 2).then(|| (0..WORDS).map(word).collect())
}

fn may(mask: &[i32], id: i32) -> bool {
    mask[id as usize / 32] >> (id % 32) & 1 == 1
}

/// `n` tokens of each sequence, all of them in one engine.
fn answered(dev: &Device, seqs: &[usize], n: usize, likeliest: usize) -> Vec<(Answer, Likeliest)> {
    let weights = embedded::weights(dev).unwrap();
    let sizes = EngineConfig::sized_for(seqs.len(), 128);
    let plan = &mut Plan::on(dev);
    let mut engine = Engine::planned(plan, &weights.config, sizes).unwrap().with_masks(plan).unwrap();
    let sampling =
        |i: usize| Sampling { likeliest, top_k: [0, 7][i % 2], ..Sampling::plain([1.0, 0.7, 0.0, 1.3][i % 4], n, -1) };
    let prompt = |i: usize| -> Vec<i32> { (0..20 + i as i32).map(|t| 5 + t * 7 % 300).collect() };
    let add = |i: &usize| engine.add(&prompt(*i), sampling(*i), NoiseKey { seed: 5, stream: *i as u64 }).unwrap();
    let ids: Vec<SeqId> = seqs.iter().map(add).collect();
    let mut seen = vec![usize::MAX; seqs.len()];
    loop {
        for (at, i) in seqs.iter().enumerate() {
            let told = engine.turn(ids[at]).ids.len();
            if told != seen[at] {
                engine.allow(ids[at], mask(*i, told).as_deref()).unwrap();
                seen[at] = told;
            }
        }
        if !engine.step(&weights).unwrap() {
            break;
        }
    }
    let told = |id: &SeqId| {
        let turn = engine.turn(*id);
        ((turn.ids.to_vec(), turn.logprobs.iter().map(|l| l.to_bits()).collect()), turn.likeliest.to_vec())
    };
    ids.iter().map(told).collect()
}

#[test]
fn only_what_may_come_comes_and_it_is_scored_among_what_may() {
    let seqs: Vec<usize> = (0..6).collect();
    for (i, ((ids, logprobs), likeliest)) in answered(&cpu(2), &seqs, 12, 2048).into_iter().enumerate() {
        for (step, id) in ids.iter().enumerate() {
            let mask = mask(i, step).unwrap_or(vec![-1; WORDS]);
            assert!(may(&mask, *id), "sequence {i}, token {step}");
            let allowed = (0..2048).filter(|id| may(&mask, *id)).count();
            let finite: Vec<_> = likeliest[step].iter().filter(|(_, logprob)| logprob.is_finite()).collect();
            assert_eq!(finite.len(), allowed);
            let mass: f64 = finite.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
            assert!((mass - 1.0).abs() < 1e-4, "{mass}");
            let own = finite.iter().find(|(other, _)| other == id).unwrap();
            assert_eq!(own.1.to_bits(), logprobs[step]);
        }
    }
}

#[test]
fn a_masked_row_has_its_bits_alone_in_a_batch_and_on_the_kernels() {
    let seqs: Vec<usize> = (0..6).collect();
    let plain = |all: Vec<(Answer, Likeliest)>| all.into_iter().map(|(answer, _)| answer).collect::<Vec<_>>();
    let together = plain(answered(&cpu(2), &seqs, 12, 0));
    for i in 0..seqs.len() {
        assert_eq!(plain(answered(&cpu(1), &[i], 12, 0)), together[i..=i], "sequence {i}");
    }
    let emu = Device::open("emu", 2).unwrap();
    let kernels = plain(answered(&emu, &seqs, 4, 0));
    assert_eq!(plain(answered(&emu, &[1], 4, 0)), kernels[1..2]);
    for (got, want) in kernels.iter().zip(&together) {
        assert_eq!(got.0, want.0[..4]);
    }
}

#[test]
fn a_mask_that_allows_all_changes_no_bit_and_one_that_allows_none_is_refused() {
    let dev = cpu(1);
    let weights = embedded::weights(&dev).unwrap();
    let sizes = EngineConfig::sized_for(2, 128);
    let told = |masked: bool| {
        let plan = &mut Plan::on(&dev);
        let mut engine = Engine::planned(plan, &weights.config, sizes).unwrap().with_masks(plan).unwrap();
        let id = engine.add(&[5, 6, 7], Sampling::plain(1.0, 16, -1), NoiseKey { seed: 1, stream: 1 }).unwrap();
        engine.allow(id, masked.then_some(&[-1; WORDS][..])).unwrap();
        while engine.step(&weights).unwrap() {}
        let none = engine.allow(id, Some(&[0; WORDS])).unwrap_err().to_string();
        assert!(none.contains("no token may come next"), "{none}");
        let short = engine.allow(id, Some(&[-1; 3])).unwrap_err().to_string();
        assert!(short.contains("room for 64"), "{short}");
        let turn = engine.turn(id);
        (turn.ids.to_vec(), turn.logprobs.iter().map(|l| l.to_bits()).collect::<Vec<_>>())
    };
    assert_eq!(told(true), told(false));
}
