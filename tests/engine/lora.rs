//! The row rule with an adapter: decode, prefill, training, cold, warm, branched and evicted have one row's bits, on every
//! device; and what was computed without it, or with another one, is never taken for it.

use crate::support::engine::*;
use haggle::device::{DType, Device};
use haggle::infer::{Engine, EngineConfig};
use haggle::model::adapter::TARGETS;
use haggle::model::config::Experts;
use haggle::model::{Adapter, Family, Lora, ModelConfig, Plan, Weights};
use haggle::noise::Noise;
use std::sync::Arc;

/// The engine tests' model, of heads that attention takes in bf16 too.
fn base(dev: &Device, compute: DType) -> Arc<Weights> {
    base_of(dev, compute, ModelConfig { head_dim: 32, ..model() })
}

fn base_of(dev: &Device, compute: DType, config: ModelConfig) -> Arc<Weights> {
    let mut w = Weights::init(dev, config, 3).unwrap();
    let larger: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| 4.0 * x).collect();
    dev.write(w.data_mut(), &larger);
    w.compute_in(dev, compute).unwrap().shared()
}

/// An adapter that moves every distribution: B other than zero.
fn adapted(dev: &Device, base: &Arc<Weights>, seed: u64, targets: &[&'static str]) -> Weights {
    let lora = Lora { rank: 5, alpha: 8.0, rank_stabilised: false, dropout: 0.0, targets: targets.to_vec() };
    let new = Adapter::planned(&mut Plan::on(dev), &base.config, &base.layout, lora, seed).unwrap();
    let mut w = Weights::over(dev, base, Some(new)).unwrap();
    let noise = Noise::new(seed, 5);
    let data = dev.to_vec::<f32>(w.data());
    let moved: Vec<f32> = data.iter().enumerate().map(|(i, x)| x + 0.3 * noise.normal(i as u64) as f32).collect();
    dev.write(w.data_mut(), &moved);
    w.pack(dev).unwrap();
    w
}

fn holds_on(dev: &Device, compute: DType, targets: &[&'static str]) -> Vec<Played> {
    holds_over(dev, base(dev, compute), targets)
}

fn holds_over(dev: &Device, base: Arc<Weights>, targets: &[&'static str]) -> Vec<Played> {
    let eps = episodes();
    let w = adapted(dev, &base, 1, targets);
    let (want, stats) = play(dev, &w, sized(400, 256), &eps);
    assert!(stats.prefix_reused_tok > 0, "groups share their prompts");
    hold_late_and_in_training(dev, &w, &eps, &want);
    let plain = play(dev, &Weights::over(dev, &base, None).unwrap(), sized(400, 256), &eps).0;
    assert_ne!(plain, want, "the adapter moves what is sampled");
    assert_eq!(plain, play(dev, &base, sized(400, 256), &eps).0, "weights without an adapter are the base");
    want
}

#[test]
fn a_row_has_its_bits_with_an_adapter_on_cpu_and_emu() {
    let cpu = holds_on(&Device::open("cpu", 2).unwrap(), DType::F32, &TARGETS);
    let emu = holds_on(&Device::open("emu", 2).unwrap(), DType::F32, &TARGETS);
    assert_eq!(cpu, emu);
}

#[test]
fn a_row_has_its_bits_with_an_adapter_in_bf16_and_of_some_targets() {
    holds_on(&Device::open("emu", 2).unwrap(), DType::Bf16, &TARGETS);
    holds_on(&Device::open("cpu", 1).unwrap(), DType::F32, &["q_proj", "down_proj"]);
}

#[test]
fn a_row_has_its_bits_with_an_adapter_of_the_attention_beside_experts() {
    let experts = Some(Experts { count: 5, active: 2, intermediate_size: 24, normalise: true });
    let config = ModelConfig { family: Family::Qwen3Moe, experts, ..model() };
    let targets = Lora::all_linear(&config);
    let [cpu, emu] = ["cpu", "emu"].map(|name| {
        let dev = Device::open(name, 2).unwrap();
        holds_over(&dev, base_of(&dev, DType::F32, config.clone()), &targets)
    });
    assert_eq!(cpu, emu);
}

#[test]
fn one_engine_never_mixes_base_and_adapters_and_sees_an_update_at_once() {
    let dev = Device::open("cpu", 2).unwrap();
    let (eps, base) = (episodes(), base(&dev, DType::F32));
    let [first, second] = [1, 2].map(|seed| adapted(&dev, &base, seed, &TARGETS));
    let mut moved = adapted(&dev, &base, 1, &TARGETS);
    let mut engine = Engine::new(&dev, &first.config, sized(400, 256)).unwrap();
    let alone = |w: &Weights| play(&dev, w, sized(400, 256), &eps).0;
    for w in [&base, &first, &second, &base, &first] {
        assert_eq!(play_on(&mut engine, w, &eps), alone(w));
    }
    assert_eq!(play_on(&mut engine, &moved, &eps), alone(&first), "the same numbers");
    let doubled: Vec<f32> = dev.to_vec::<f32>(moved.data()).iter().map(|x| 1.5 * x).collect();
    dev.write(moved.data_mut(), &doubled);
    let mut refused = Engine::new(&dev, &moved.config, sized(400, 256)).unwrap();
    refused.add(&eps[0].prompt, eps[0].sampling, eps[0].key).unwrap();
    assert!(refused.step(&moved).unwrap_err().to_string().contains("packed since"), "an update is packed, or refused");
    moved.pack(&dev).unwrap();
    let after = play_on(&mut engine, &moved, &eps);
    assert!(after == alone(&moved) && after != alone(&first));
}

#[test]
fn graphs_replay_an_adapter_and_see_its_update() {
    let dev = Device::open("emu", 2).unwrap();
    let (eps, base) = (episodes(), base(&dev, DType::F32));
    let mut w = adapted(&dev, &base, 1, &TARGETS);
    let graphs = EngineConfig { graphs: true, ..sized(400, 256) };
    let mut engine = Engine::new(&dev, &w.config, graphs).unwrap();
    for scale in [1.0, 1.5] {
        let data: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| scale * x).collect();
        dev.write(w.data_mut(), &data);
        w.pack(&dev).unwrap();
        assert_eq!(play_on(&mut engine, &w, &eps), play(&dev, &w, sized(400, 256), &eps).0, "times {scale}");
        assert!(engine.take_stats().replays > 0);
    }
    assert_eq!(play_on(&mut engine, &base, &eps), play(&dev, &base, sized(400, 256), &eps).0, "the base alone");
}

#[test]
fn an_engine_without_room_for_the_rank_refuses_the_adapter() {
    let dev = Device::open("cpu", 1).unwrap();
    let base = base(&dev, DType::F32);
    let mut engine = Engine::new(&dev, &base.config, sized(40, 64)).unwrap();
    let episode = &episodes()[0];
    engine.add(&episode.prompt, episode.sampling, episode.key).unwrap();
    let said = engine.step(&adapted(&dev, &base, 1, &TARGETS)).unwrap_err().to_string();
    assert!(said.contains("r <= max_rank"), "{said}");
}

#[test]
fn a_new_adapter_changes_no_bit_of_its_base() {
    let dev = Device::open("cpu", 2).unwrap();
    let (eps, base) = (episodes(), base(&dev, DType::F32));
    let lora = Lora { rank: 3, alpha: 6.0, rank_stabilised: false, dropout: 0.0, targets: TARGETS.to_vec() };
    let new = Adapter::planned(&mut Plan::on(&dev), &base.config, &base.layout, lora, 7).unwrap();
    let w = Weights::over(&dev, &base, Some(new)).unwrap();
    assert_eq!(play(&dev, &w, sized(400, 256), &eps).0, play(&dev, &base, sized(400, 256), &eps).0);
    let a: Vec<f32> = dev.to_vec(w.data().at(w.trained()[0].range()));
    let (bound, mean) = (1.0 / 32f32.sqrt(), a.iter().map(|x| x.abs()).sum::<f32>() / a.len() as f32);
    assert!(a.iter().all(|x| x.abs() < bound) && (mean / bound - 0.5).abs() < 0.1, "A is uniform: {mean} of {bound}");
}
