//! Biases and penalties: the distribution that is drawn from is the one that is scored, counted as documented, and a row that
//! leans has the same bits alone, in a batch, and on the kernels.

use haggle::device::Device;
use haggle::device::cpu::Cpu;
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, Lean, NoiseKey, Sampling, SeqId};
use haggle::model::{Plan, Weights};
use std::sync::Arc;

/// Ids, the bits of their logprobs, and the likeliest tokens at each.
type Answer = (Vec<i32>, Vec<u32>, Vec<Vec<(i32, f32)>>);

fn cpu(threads: usize) -> Device {
    Device::Cpu(Arc::new(Cpu::new(threads)))
}

fn prompt(i: usize) -> Vec<i32> {
    (0..20 + i as i32).map(|t| 5 + t * 7 % 300).collect()
}

/// Every third sequence leans on nothing.
fn lean(i: usize) -> Lean {
    match i % 3 {
        0 => Lean { presence: 1.5, frequency: 0.75, bias: vec![(40, 6.0), (41, -3.0)], ..Lean::default() },
        1 => Lean { repetition: 1.3, presence: -0.5, bias: vec![(7, 4.0)], ..Lean::default() },
        _ => Lean::default(),
    }
}

fn engine(dev: &Device, weights: &Weights, seats: usize) -> Engine {
    let plan = &mut Plan::on(dev);
    let engine = Engine::planned(plan, &weights.config, EngineConfig::sized_for(seats, 128)).unwrap();
    engine.with_masks(plan).unwrap().with_leans(plan).unwrap()
}

/// `n` tokens of each sequence, all of them in one engine.
fn answered(dev: &Device, seqs: &[usize], n: usize, likeliest: usize) -> Vec<Answer> {
    let weights = embedded::weights(dev).unwrap();
    let mut engine = engine(dev, &weights, seqs.len());
    let ids: Vec<SeqId> = (seqs.iter())
        .map(|i| {
            let sampling = Sampling { likeliest, ..Sampling::plain([1.0, 0.7, 1.3][i / 3 % 3], n, -1) };
            let id = engine.add(&prompt(*i), sampling, NoiseKey { seed: 5, stream: *i as u64 }).unwrap();
            engine.lean(id, &lean(*i)).unwrap();
            id
        })
        .collect();
    while engine.step(&weights).unwrap() {}
    let told = |id: &SeqId| {
        let turn = engine.turn(*id);
        (turn.ids.to_vec(), turn.logprobs.iter().map(|l| l.to_bits()).collect(), turn.likeliest.to_vec())
    };
    ids.iter().map(told).collect()
}

/// The logprobs `[V]` of what follows `ids` at temperature 1.
fn logprobs(weights: &Weights, ids: &[i32], lean: &Lean) -> Vec<f64> {
    let mut engine = engine(&cpu(1), weights, 1);
    let sampling = Sampling { likeliest: 2048, ..Sampling::plain(1.0, 1, -1) };
    let id = engine.add(ids, sampling, NoiseKey { seed: 1, stream: 1 }).unwrap();
    engine.lean(id, lean).unwrap();
    while engine.step(weights).unwrap() {}
    let mut all = vec![f64::NEG_INFINITY; 2048];
    engine.turn(id).likeliest[0].iter().for_each(|(id, logprob)| all[*id as usize] = f64::from(*logprob));
    all
}

#[test]
fn what_is_drawn_is_scored_under_biases_and_counts() {
    let (weights, lean) = (embedded::weights(&cpu(1)).unwrap(), lean(0));
    let (ids, scored, likeliest) = answered(&cpu(2), &[0], 12, 2048).remove(0);
    for step in 0..ids.len() {
        let before = &ids[..step];
        let plain = logprobs(&weights, &[&prompt(0), before].concat(), &Lean::default());
        let moved: Vec<f64> = (plain.iter().enumerate())
            .map(|(id, logprob)| {
                let said = before.iter().filter(|other| **other == id as i32).count() as f64;
                let bias =
                    lean.bias.iter().find(|(other, _)| *other == id as i32).map_or(0.0, |(_, by)| f64::from(*by));
                logprob + bias - 0.75 * said - if said > 0.0 { 1.5 } else { 0.0 }
            })
            .collect();
        let all = moved.iter().map(|z| z.exp()).sum::<f64>().ln();
        for (id, logprob) in likeliest[step].iter().filter(|(_, logprob)| logprob.is_finite()) {
            let want = moved[*id as usize] - all;
            assert!((f64::from(*logprob) - want).abs() < 1e-4, "token {step}, id {id}: {logprob} {want}");
        }
        let own = likeliest[step].iter().find(|(id, _)| *id == ids[step]).unwrap();
        assert_eq!(own.1.to_bits(), scored[step]);
    }
}

#[test]
fn repetition_makes_what_was_asked_less_likely_and_moves_nothing_else() {
    let weights = embedded::weights(&cpu(1)).unwrap();
    let asked = prompt(3);
    let plain = logprobs(&weights, &asked, &Lean::default());
    let moved = logprobs(&weights, &asked, &Lean { repetition: 1.5, ..Lean::default() });
    // Shifts of logits, up to the one of all.
    let shift = |id: usize| moved[id] - plain[id];
    let fresh: Vec<usize> = (0..2048).filter(|id| !asked.contains(&(*id as i32)) && plain[*id].is_finite()).collect();
    let common = shift(fresh[0]);
    assert!(fresh.iter().all(|id| (shift(*id) - common).abs() < 1e-4));
    let asked: Vec<usize> = asked.iter().map(|id| *id as usize).filter(|id| plain[*id].is_finite()).collect();
    assert!(asked.iter().all(|id| shift(*id) < common + 1e-4) && asked.iter().any(|id| shift(*id) < common - 0.1));
}

#[test]
fn a_row_that_leans_has_its_bits_alone_in_a_batch_and_on_the_kernels() {
    let seqs: Vec<usize> = (0..6).collect();
    let together = answered(&cpu(2), &seqs, 12, 0);
    for i in 0..seqs.len() {
        assert_eq!(answered(&cpu(1), &[i], 12, 0), together[i..=i], "sequence {i}");
    }
    let emu = Device::open("emu", 2).unwrap();
    let kernels = answered(&emu, &seqs, 4, 0);
    assert_eq!(answered(&emu, &[1], 4, 0), kernels[1..2]);
    for (got, want) in kernels.iter().zip(&together) {
        assert_eq!(got.0, want.0[..4]);
    }
}

#[test]
fn a_lean_of_nothing_changes_no_bit_and_an_engine_without_room_refuses_others() {
    let dev = cpu(1);
    let weights = embedded::weights(&dev).unwrap();
    let mut engine = Engine::new(&dev, &weights.config, EngineConfig::sized_for(1, 128)).unwrap();
    let id = engine.add(&prompt(2), Sampling::plain(1.0, 12, -1), NoiseKey { seed: 5, stream: 2 }).unwrap();
    engine.lean(id, &Lean::default()).unwrap();
    let refused = engine.lean(id, &lean(0)).unwrap_err().to_string();
    assert!(refused.contains("no room for biases"), "{refused}");
    while engine.step(&weights).unwrap() {}
    let (ids, logprobs, _) = answered(&dev, &[2], 12, 0).remove(0);
    let turn = engine.turn(id);
    assert_eq!((turn.ids, turn.logprobs.iter().map(|l| l.to_bits()).collect()), (&ids[..], logprobs));
}
