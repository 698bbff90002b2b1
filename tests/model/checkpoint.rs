//! A forward that keeps each layer's input alone: the same bits of every gradient, in less memory.

use haggle::device::{DType, Device, Precision};
use haggle::model::config::Experts;
use haggle::model::{
    Activations, Checkpoint, Family, ModelConfig, PackedBatch, Packing, Plan, Use, Weights, backward, forward,
};
use haggle::noise::Noise;

const LAYERS: usize = 3;

fn config(family: Family, compute: DType) -> ModelConfig {
    let mut c = ModelConfig { family, compute, ..ModelConfig::tiny(97) };
    (c.hidden_size, c.num_hidden_layers, c.head_dim, c.intermediate_size) = (32, LAYERS, 32, 48);
    (c.num_attention_heads, c.num_key_value_heads, c.max_position_embeddings) = (2, 1, 160);
    if family == Family::Qwen3Moe {
        c.experts = Some(Experts { count: 4, active: 2, intermediate_size: 24, normalise: true });
    }
    c
}

/// Three sequences, the second on the first one's first tokens.
fn packing() -> Packing {
    let noise = Noise::new(3, 3);
    let ids = |s: usize, len: usize| -> Vec<i32> {
        (0..len).map(|i| noise.below((s * 1000 + i) as u64, 97) as i32).collect()
    };
    let mut packing = Packing::default();
    let first = ids(0, 70);
    packing.push(&first, |i| i >= 37);
    packing.push_on_stem(37, &[&first[..37], &ids(1, 9)].concat(), |_| true);
    packing.push(&ids(2, 33), |_| true);
    packing
}

/// Logprobs and the flat gradient, of two passes one after the other into one gradient.
fn passes(dev: &Device, c: &ModelConfig, checkpoint: Checkpoint) -> [Vec<u32>; 2] {
    let mut w = Weights::init(dev, c.clone(), 5).unwrap();
    let bigger: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 6.0).collect();
    dev.write(w.data_mut(), &bigger);
    w.pack(dev).unwrap();
    let packing = packing();
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, c, n + 3, m + 1).unwrap();
    batch.set(dev, &packing).unwrap();
    let mut plan = Plan::on(dev);
    let mut acts = Activations::checkpointed(&mut plan, c, n + 3, m + 1, Use::Train, checkpoint).unwrap();
    acts.balance = 0.01;
    let noise = Noise::new(8, 8);
    let of = |from: u64| (0..m as u64).map(|i| noise.normal(from + i) as f32).collect::<Vec<_>>();
    let (dl, dh) = (dev.upload(&of(0)).unwrap(), dev.upload(&of(500)).unwrap());
    let mut dw = w.zeros_like(dev).unwrap();
    for _ in 0..2 {
        forward(dev, &w, &batch, &mut acts, 1.0).unwrap();
        backward(dev, &w, &batch, &mut acts, dl.view(), dh.view(), &mut dw, 1.0).unwrap();
    }
    let bits = |x: Vec<f32>| x.iter().map(|x| x.to_bits()).collect();
    [bits(dev.to_vec(acts.logprob())), bits(dev.to_vec(dw.view()))]
}

#[test]
fn gradients_from_each_layers_input_have_the_bits_of_those_from_all_that_is_kept() {
    for family in [Family::Qwen3, Family::Llama, Family::Qwen2, Family::Qwen3Moe] {
        for (dev, compute) in [
            (Device::open("cpu", 2).unwrap(), DType::F32),
            (Device::open_at("cpu", 1, Precision::Medium).unwrap(), DType::F32),
            (Device::open("emu", 2).unwrap(), DType::F32),
            (Device::open("emu", 2).unwrap(), DType::Bf16),
        ] {
            let c = config(family, compute);
            let (kept, run_again) = (passes(&dev, &c, Checkpoint::None), passes(&dev, &c, Checkpoint::Layers));
            assert!(kept[1].iter().filter(|x| **x != 0).count() > kept[1].len() / 2);
            assert!(kept == run_again, "{family:?} {compute:?} {}", dev.name());
        }
    }
}

#[test]
fn the_plan_holds_one_layer_and_each_layers_input() {
    let dev = Device::open("cpu", 1).unwrap();
    for family in [Family::Qwen3, Family::Qwen3Moe] {
        let c = config(family, DType::F32);
        let plan = |layers: usize, checkpoint| {
            let (mut plan, c) = (Plan::dry(&dev), ModelConfig { num_hidden_layers: layers, ..c.clone() });
            Activations::checkpointed(&mut plan, &c, 64, 64, Use::Train, checkpoint).unwrap();
            plan.groups().into_iter().find(|(group, _)| group.starts_with("activations")).unwrap().1
        };
        let input = 64 * c.hidden_size * 4;
        let layer = plan(3, Checkpoint::None) - plan(2, Checkpoint::None);
        assert!(layer > 5 * input, "{layer}");
        assert_eq!(plan(9, Checkpoint::Layers) - plan(2, Checkpoint::Layers), 7 * input, "{family:?}");
        assert_eq!(plan(1, Checkpoint::Layers), plan(1, Checkpoint::None), "{family:?}");
    }
}
