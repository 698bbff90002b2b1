//! The whole model on our kernels, run by the emulator, and by a GPU where there is one: logits, every gradient tensor, rollouts and a GRPO step have
//! the bits of the CPU device, and a rollout's logprobs those of the training forward.

use crate::support::engine::{CONTEXT, Episode, VOCAB, hold_late_and_in_training, play, sized, tokens};
use haggle::device::{DType, Device};
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::config::Experts;
use haggle::model::{
    Activations, Family, KvPages, ModelConfig, PackedBatch, Packing, PagedRows, Plan, Use, Weights, backward, forward,
    forward_paged,
};
use haggle::noise::Noise;
use haggle::ops::credit::{GroupAdvantage, group_advantage};
use haggle::ops::loss::PolicyLoss;
use haggle::text::{Chat, Transcript};
use haggle::train::learner::{Learner, Learning, Sample, parts};
use haggle::train::optimizer::{Hyper, Optimizer};

fn cpu() -> Device {
    Device::open("cpu", 2).unwrap()
}

/// The emulator in its natural thread order and in a shuffled one, and the first GPU where there is one.
fn devices() -> Vec<Device> {
    crate::support::kernel_devices()
        .into_iter()
        .skip(1)
        .filter(|(name, _)| !name.starts_with("emu, 1"))
        .map(|d| d.1)
        .collect()
}

fn config(vocab: usize, tied: bool) -> ModelConfig {
    ModelConfig {
        hidden_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        intermediate_size: 80,
        max_position_embeddings: CONTEXT,
        tie_word_embeddings: tied,
        ..ModelConfig::tiny(vocab)
    }
}

/// Random weights, large enough that distributions are far from flat.
fn weights(dev: &Device, c: ModelConfig) -> Weights {
    let mut w = Weights::init(dev, c, 5).unwrap();
    let data: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 4.0).collect();
    dev.write(w.data_mut(), &data);
    w
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Four sequences, one of a single token, one longer than two pages; every other token of them carries loss.
fn packing(c: &ModelConfig) -> Packing {
    let mut packing = Packing::default();
    for (s, len) in [2, 33, 1, 70].into_iter().enumerate() {
        let ids: Vec<i32> = tokens(s as u64, len).iter().map(|t| t % c.vocab_size as i32).collect();
        packing.push(&ids, |i| i % 2 == 1 || s == 1);
    }
    packing
}

/// Tensors by name.
type Named = Vec<(String, Vec<f32>)>;

/// Logprobs, entropies, and the gradient of every tensor.
fn learned(dev: &Device, c: ModelConfig) -> (Vec<f32>, Vec<f32>, Named) {
    let w = weights(dev, c);
    let packing = packing(&w.config);
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, &w.config, n, m).unwrap();
    batch.set(dev, &packing).unwrap();
    let mut acts = Activations::new(dev, &w.config, n, m, Use::Train).unwrap();
    forward(dev, &w, &batch, &mut acts, 1.25).unwrap();
    let (logprob, entropy) = (dev.to_vec::<f32>(acts.logprob()), dev.to_vec::<f32>(acts.entropy()));
    let noise = |stream| (0..m as u64).map(|i| Noise::new(9, stream).normal(i) as f32).collect::<Vec<f32>>();
    let (dlogprob, dentropy) = (dev.upload(&noise(1)).unwrap(), dev.upload(&noise(2)).unwrap());
    let mut dw = w.zeros_like(dev).unwrap();
    backward(dev, &w, &batch, &mut acts, dlogprob.view(), dentropy.view(), &mut dw, 1.25).unwrap();
    assert!(dw.guard_intact());
    let flat = dev.to_vec::<f32>(dw.view());
    let tensors = w.layout.specs.iter().map(|s| (s.name.clone(), flat[s.range()].to_vec())).collect();
    (logprob, entropy, tensors)
}

#[test]
fn forward_and_every_gradient_tensor_have_the_bits_of_the_cpu() {
    let experts = Experts { count: 5, active: 2, intermediate_size: 40, normalise: false };
    let all = Family::ALL.into_iter().flat_map(|family| [(family, true), (family, false)]);
    for (family, tied) in all {
        let experts = (family == Family::Qwen3Moe).then_some(experts);
        let c = ModelConfig { family, experts, ..config(VOCAB, tied) };
        let want = learned(&cpu(), c.clone());
        assert!(want.0.iter().any(|lp| *lp < -1.0) && want.2.iter().all(|(_, g)| g.iter().any(|g| *g != 0.0)));
        for dev in devices() {
            let got = learned(&dev, c.clone());
            assert_eq!(bits(&got.0), bits(&want.0), "logprobs, {family:?}, tied {tied}");
            assert_eq!(bits(&got.1), bits(&want.1), "entropies, {family:?}, tied {tied}");
            for ((name, got), (_, want)) in got.2.iter().zip(&want.2) {
                let off = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(bits(got) == bits(want), "gradient of {name}, {family:?}, tied {tied}: off by up to {off:e}");
            }
        }
    }
}

/// Logits `[T, V]` of a sequence that is fed in chunks from pages.
fn paged_logits(dev: &Device, w: &Weights, ids: &[i32], chunk: usize) -> Vec<f32> {
    let max_pages = 4;
    let mut rows = PagedRows::new(dev, &w.config, 100, 1, max_pages, 100).unwrap();
    let mut kv = KvPages::new(dev, &w.config, max_pages + 1).unwrap();
    let mut acts = Activations::new(dev, &w.config, 100, 100, Use::Decode).unwrap();
    let mut logits = Vec::new();
    for (i, part) in ids.chunks(chunk).enumerate() {
        let at = i * chunk;
        let pos: Vec<i32> = (at..at + part.len()).map(|p| p as i32).collect();
        let all: Vec<i32> = (0..part.len() as i32).collect();
        rows.set(dev, part, &pos, &vec![0; part.len()], &[3, 0, 4, 1], &all).unwrap();
        forward_paged(dev, w, &rows, &mut kv, &mut acts).unwrap();
        logits.extend(dev.to_vec::<f32>(acts.logits()));
    }
    logits
}

#[test]
fn logits_have_the_bits_of_the_cpu_however_a_prompt_is_cut() {
    let ids = tokens(3, 70);
    let want = paged_logits(&cpu(), &weights(&cpu(), config(VOCAB, true)), &ids, 70);
    for (dev, chunk) in devices().into_iter().zip([70, 9, 70]) {
        let got = paged_logits(&dev, &weights(&dev, config(VOCAB, true)), &ids, chunk);
        assert_eq!(bits(&got), bits(&want), "chunks of {chunk}");
    }
}

/// Groups of two rollouts a prompt, two turns each, prompts around the page size, every kind of sampling.
fn episodes() -> Vec<Episode> {
    let one = |g: usize, len: usize, r: usize| {
        let how = Sampling::plain([1.0, 0.7, 1.0, 0.0][g], 5, 3);
        Episode {
            prompt: tokens(g as u64, len),
            incoming: vec![tokens(100 + (g * 2 + r) as u64, [4, 33][r])],
            sampling: Sampling { top_k: [0, 5, 0, 0][g], top_p: [1.0, 0.9, 1.0, 1.0][g], ..how },
            key: NoiseKey { seed: 5, stream: (g * 10 + r) as u64 },
            after: 0,
        }
    };
    let groups = [1, 31, 65, 33].into_iter().enumerate();
    groups.flat_map(|(g, len)| [one(g, len, 0), one(g, len, 1)]).collect()
}

#[test]
fn rollouts_have_the_bits_of_the_cpu_and_of_the_training_forward() {
    let (eps, dev) = (episodes(), crate::support::kernel_device());
    let (on_cpu, w) = (weights(&cpu(), config(VOCAB, true)), weights(&dev, config(VOCAB, true)));
    let want = play(&cpu(), &on_cpu, sized(60, 256), &eps).0;
    // All at once with prefixes reused; few rows a step, few pages, no reuse, added late.
    let (got, stats) = play(&dev, &w, sized(60, 256), &eps);
    assert_eq!(got, want, "all at once");
    assert!(stats.prefix_reused_tok > 0, "{stats:?}");
    hold_late_and_in_training(&dev, &w, &eps, &want);
}

/// Transcripts of `n` one-turn rollouts.
fn rollouts(dev: &Device, chat: &Chat, w: &Weights, n: usize) -> Vec<Transcript> {
    let mut engine = Engine::new(dev, &w.config, EngineConfig::sized_for(n, 64)).unwrap();
    let (mut all, mut ids): (Vec<Transcript>, Vec<_>) = (Vec::new(), Vec::new());
    for stream in 0..n as u64 {
        let mut transcript = Transcript::new(chat, "buyer.").unwrap();
        transcript.push_incoming(chat, "turn 1/6").unwrap();
        let how = Sampling::plain(1.0, 6, chat.end());
        ids.push(engine.add(transcript.ids(), how, NoiseKey { seed: 1, stream }).unwrap());
        all.push(transcript);
    }
    while engine.step(w).unwrap() {
        while let Some(turn) = engine.next_finished() {
            let at = ids.iter().position(|id| *id == turn.seq).unwrap();
            all[at].push_sampled(turn.ids, turn.logprobs);
        }
    }
    all
}

/// Two GRPO steps: tokens, and the bits of logprobs, loss sums, gradient norms, weights.
fn grpo(dev: &Device) -> (Vec<Vec<i32>>, Vec<Vec<u32>>) {
    let chat = embedded::chat().unwrap();
    let shape = ModelConfig { hidden_size: 32, num_hidden_layers: 1, ..config(chat.tokenizer.vocab(), true) };
    let weights = weights(dev, shape);
    let loss = PolicyLoss { entropy: 0.01, ..PolicyLoss::default() };
    let how = Learning { micro_batch_tok: 128, loss, ..Learning::default() };
    let hyper = Hyper { lr: 0.01, warmup_steps: 0, weight_decay: 0.1, ..Hyper::default() };
    let optimizer = Optimizer::new(dev, parts(&weights), hyper, 10).unwrap();
    let mut learner = Learner::planned(&mut Plan::on(dev), weights, optimizer, how).unwrap();
    let (mut ids, mut numbers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let played = rollouts(dev, &chat, &learner.weights, 8);
        let rewards: Vec<f32> = played.iter().map(|t| (t.ids().last().unwrap() % 8) as f32 / 8.0).collect();
        let mut advantage = vec![0.0; 8];
        let (on, mut out) = (dev.upload(&rewards).unwrap(), dev.zeros(DType::F32, 8).unwrap());
        let mut constant = dev.zeros(DType::I32, 2).unwrap();
        let how = GroupAdvantage { divide_by_std: true };
        group_advantage(dev, on.view(), out.view_mut(), constant.view_mut(), 4, how).unwrap();
        dev.read(out.view(), &mut advantage).unwrap();
        let samples: Vec<Sample> =
            played.iter().zip(&advantage).map(|(transcript, a)| Sample::even(transcript, *a)).collect();
        let learned = learner.learn(&samples, None).unwrap();
        assert_eq!(learned.logprob_max_abs_diff, 0.0, "a rollout's logprobs are those of the training forward");
        assert_eq!(learned.applied, 1);
        ids.extend(played.iter().map(|t| t.ids().to_vec()));
        numbers.extend(played.iter().map(|t| bits(t.logprobs())));
        numbers.push(bits(&[&learned.sums[..], &[learned.grad_norm]].concat()));
        numbers.push(bits(&dev.to_vec::<f32>(learner.weights.data())));
    }
    (ids, numbers)
}

#[test]
fn grpo_steps_have_the_bits_of_the_cpu() {
    let (want, got) = (grpo(&cpu()), grpo(&crate::support::kernel_device()));
    assert_eq!(got.0, want.0, "sampled tokens");
    for (i, (got, want)) in got.1.iter().zip(&want.1).enumerate() {
        let off = got.iter().zip(want).filter(|(a, b)| a != b).count();
        assert_eq!(off, 0, "numbers {i} of 20: {off} of {} differ", want.len());
    }
    assert_ne!(want.1[9], want.1[19], "the second step moves the weights again");
}

#[test]
fn a_buffer_of_another_type_is_refused() {
    let dev = crate::support::kernel_device();
    let (x, mut y) = (dev.zeros(DType::Bf16, 8).unwrap(), dev.zeros(DType::F32, 8).unwrap());
    let result = haggle::ops::credit::shapley_max(&dev, x.view(), y.view_mut(), 4);
    assert!(matches!(result, Err(haggle::Error::DType { op: "shapley_max", .. })), "{result:?}");
}
