//! The layers of Qwen3-30B-A3B, two of them with 8 of the 128 experts: a folder of theirs goes through rollout, forward and
//! backward on the CPU and on a card that has what the plan says and not a byte more.

use haggle::config::{Config, Override};
use haggle::device::Device;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::config::{Experts, preset};
use haggle::model::{ModelConfig, Plan, Weights};
use haggle::setup::{base, memory};
use haggle::text::Transcript;
use haggle::train::learner::{Learned, Learner, Learning, Sample, parts};
use haggle::train::optimizer::{Hyper, Optimizer};
use std::path::Path;
use std::sync::Arc;

/// Tokens that may stand in one forward and backward.
const TOKENS: usize = 64;

fn config(folder: &Path, device: &str, dtype: &str) -> Config {
    let keys = [
        ("model.base", folder.display().to_string()),
        ("device", device.into()),
        ("model.dtype", dtype.into()),
        ("model.context", TOKENS.to_string()),
        ("rollout.products_per_step", "1".into()),
        ("rollout.group_size", "2".into()),
        ("rollout.max_reply_tokens", "4".into()),
        ("grpo.micro_batch_tokens", TOKENS.to_string()),
        ("engine.max_rows", TOKENS.to_string()),
        ("grpo.kl", "0".into()),
    ];
    let set =
        |(key, value): &(&str, String)| Override { origin: "test".into(), key: (*key).into(), value: value.clone() };
    Config::load(None, &keys.iter().map(set).collect::<Vec<_>>()).unwrap()
}

/// Two replies to one prompt, sampled, and what an update learned from them.
fn step(dev: &Device, config: &Config, folder: &Path) -> (Learned, Learner) {
    let chat = embedded::chat().unwrap();
    let weights = Weights::load(dev, folder).unwrap().within(config.model.context);
    let weights = weights.compute_in(dev, config.compute()).unwrap();
    let transcripts = sampled(dev, &weights, &chat);
    let samples = [Sample::even(&transcripts[0], 0.5), Sample::even(&transcripts[1], -0.5)];
    let optimizer = Optimizer::new(dev, parts(&weights), Hyper { warmup_steps: 0, ..Hyper::default() }, 10).unwrap();
    let how = Learning { micro_batch_tok: TOKENS, ..Learning::default() };
    let mut learner = Learner::planned(&mut Plan::on(dev), weights, optimizer, how).unwrap();
    (learner.learn(&samples, None).unwrap(), learner)
}

fn sampled(dev: &Device, weights: &Weights, chat: &haggle::text::Chat) -> Vec<Transcript> {
    let mut engine =
        Engine::new(dev, &weights.config, EngineConfig { max_rows: TOKENS, ..EngineConfig::sized_for(2, TOKENS) })
            .unwrap();
    let mut transcript = Transcript::new(chat, "buyer.").unwrap();
    transcript.push_incoming(chat, "turn 1/6").unwrap();
    let mut all = vec![transcript.clone(), transcript];
    let sampling = Sampling::plain(1.0, 3, -1);
    let key = |stream| NoiseKey { seed: 1, stream };
    let ids: Vec<_> = (0..2).map(|i| engine.add(all[i].ids(), sampling, key(i as u64)).unwrap()).collect();
    while engine.step(weights).unwrap() {
        while let Some(turn) = engine.next_finished() {
            all[ids.iter().position(|id| *id == turn.seq).unwrap()].push_sampled(turn.ids, turn.logprobs);
        }
    }
    all
}

/// Writes random layers of its shape, two with 8 experts each, over the embedded model's vocabulary.
fn cut_to(folder: &Path) -> ModelConfig {
    let chat = embedded::chat().unwrap();
    let whole = preset("qwen3-30b-a3b").unwrap();
    assert_eq!((whole.hidden_size, whole.num_attention_heads, whole.num_key_value_heads), (2048, 32, 4));
    let experts = whole.experts.map(|experts| Experts { count: 8, ..experts });
    let small = ModelConfig::tiny(chat.tokenizer.vocab());
    let ends = small.eos_token_ids.clone();
    let shape =
        ModelConfig { num_hidden_layers: 2, experts, vocab_size: small.vocab_size, eos_token_ids: ends, ..whole };
    let dev = Device::open("cpu", 2).unwrap();
    base::save(&dev, &Weights::init(&dev, shape.clone(), 3).unwrap(), &chat, folder).unwrap();
    shape
}

#[test]
fn layers_of_the_30b_go_forward_and_backward_within_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("layers");
    let experts = cut_to(&folder).experts.unwrap();
    for (name, dtype) in [("cpu", "f32"), ("emu", "bf16")] {
        let config = config(&folder, name, dtype);
        let open = |bytes| match name {
            "emu" => Device::Gpu(Arc::new(Gpu::Emu(Emu::new(2).unwrap().with_bytes(bytes)))),
            _ => Device::open("cpu", 2).unwrap(),
        };
        let plan = memory::fit(&open(u64::MAX), &config, &haggle::train::rl::planned).unwrap();
        let dev = open(plan.total_bytes() as u64);
        let (learned, learner) = step(&dev, &config, &folder);
        assert_eq!(learned.logprob_max_abs_diff, 0.0, "{name}: rollout and training choose the same experts");
        assert!(learned.grad_norm.is_finite() && learned.grad_norm > 0.0, "{name}: {learned:?}");
        let rows: u64 = learner.expert_load.iter().sum();
        assert_eq!(
            rows,
            (learned.packed_tok * 2 * experts.active) as u64,
            "{name}: every row of both layers has its experts"
        );
    }
}
