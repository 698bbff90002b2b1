//! The learner alone: a bandit is learned, a batch may be cut anyhow, what is not finite changes nothing.

use haggle::credit::aggregate::Aggregation;
use haggle::device::Device;
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::config::Experts;
use haggle::model::{Family, ModelConfig, Plan, Weights};

use haggle::ops::loss::PolicyLoss;
use haggle::text::{Chat, Transcript};
use haggle::train::learner::{Learned, Learner, Learning, Sample, parts};
use haggle::train::optimizer::{Hyper, Moments, Optimizer};

/// A model of seconds over the embedded tokenizer.
fn model(dev: &Device, chat: &Chat) -> Weights {
    let tiny = ModelConfig::tiny(chat.tokenizer.vocab());
    let shape = ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        intermediate_size: 32,
        max_position_embeddings: 128,
        ..tiny
    };
    Weights::init(dev, shape, 7).unwrap()
}

fn learner(dev: &Device, chat: &Chat, how: Learning, hyper: Hyper) -> Learner {
    learner_of(dev, model(dev, chat), how, hyper)
}

fn learner_of(dev: &Device, weights: Weights, how: Learning, hyper: Hyper) -> Learner {
    let optimizer = Optimizer::new(dev, parts(&weights), hyper, 100).unwrap();
    Learner::planned(&mut Plan::on(dev), weights, optimizer, how).unwrap()
}

fn learning() -> Learning {
    Learning { micro_batch_tok: 128, ..Learning::default() }
}

/// `n` one-turn transcripts of at most `max_new` tokens, sampled from the weights.
fn sampled(dev: &Device, chat: &Chat, weights: &Weights, n: usize, max_new: usize, seed: u64) -> Vec<Transcript> {
    let mut engine = Engine::new(dev, &weights.config, EngineConfig::sized_for(n, 64)).unwrap();
    let mut all: Vec<Transcript> = Vec::new();
    let mut ids = Vec::new();
    for stream in 0..n as u64 {
        let mut transcript = Transcript::new(chat, "buyer.").unwrap();
        transcript.push_incoming(chat, "turn 1/6").unwrap();
        let how = Sampling::plain(1.0, max_new, chat.end());
        ids.push(engine.add(transcript.ids(), how, NoiseKey { seed, stream }).unwrap());
        all.push(transcript);
    }
    while engine.step(weights).unwrap() {
        while let Some(turn) = engine.next_finished() {
            let at = ids.iter().position(|id| *id == turn.seq).unwrap();
            all[at].push_sampled(turn.ids, turn.logprobs);
        }
    }
    all
}

fn bits(dev: &Device, weights: &Weights) -> Vec<u32> {
    dev.to_vec::<f32>(weights.data()).into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_bandit_is_learned() {
    bandit(Hyper::default());
}

#[test]
fn a_bandit_is_learned_with_moments_in_bf16() {
    bandit(Hyper { moments: Moments::Bf16, ..Hyper::default() });
}

fn bandit(hyper: Hyper) {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let hyper = Hyper { lr: 0.01, warmup_steps: 0, ..hyper };
    let mut learner = learner(&dev, &chat, learning(), hyper);
    let mut means = Vec::new();
    for step in 0..40 {
        let transcripts = sampled(&dev, &chat, &learner.weights, 64, 1, step);
        // One arm in eight pays.
        let pays = |t: &Transcript| if t.ids().last().unwrap() % 8 == 0 { 1.0 } else { 0.0 };
        let rewards: Vec<f32> = transcripts.iter().map(pays).collect();
        let mean = rewards.iter().sum::<f32>() / 64.0;
        let advantage: Vec<f32> = rewards.iter().map(|reward| reward - mean).collect();
        let batch = transcripts.iter().zip(&advantage);
        let samples: Vec<Sample> = batch.map(|(transcript, a)| Sample::even(transcript, *a)).collect();
        let learned = learner.learn(&samples, None).unwrap();
        assert_eq!(learned.logprob_max_abs_diff, 0.0, "step {step}");
        means.push(mean);
    }
    let (first, last) = (means[..4].iter().sum::<f32>() / 4.0, means[36..].iter().sum::<f32>() / 4.0);
    assert!(first < 0.3 && last > 0.9, "first {first}, last {last}: {means:?}");
}

#[test]
fn the_cut_into_micro_batches_and_a_shared_prompt_change_the_order_of_sums_only() {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let run = |micro_batch_tok: usize, share_prefix: bool| -> (Learned, Vec<f32>) {
        let how = Learning { micro_batch_tok, share_prefix, ..learning() };
        let mut learner = learner(&dev, &chat, how, Hyper { warmup_steps: 0, ..Hyper::default() });
        let transcripts = sampled(&dev, &chat, &learner.weights, 24, 20, 3);
        let by = |(i, transcript)| Sample::even(transcript, (i as f32 * 0.7).sin());
        let samples: Vec<Sample> = transcripts.iter().enumerate().map(by).collect();
        let learned = learner.learn(&samples, None).unwrap();
        (learned, dev.to_vec::<f32>(learner.weights.data()))
    };
    let ((large, _), others) = (run(4096, false), [run(128, false), run(128, true), run(4096, true)]);
    assert_eq!((large.shared_tok, others[0].0.shared_tok), (0, 0));
    for (other, _) in &others {
        assert_eq!(other.trained_tok, large.trained_tok);
        assert_eq!(other.packed_tok + other.shared_tok, large.packed_tok);
        assert_eq!((other.logprob_max_abs_diff, large.logprob_max_abs_diff), (0.0, 0.0));
        // on policy: the ratio is exactly one
        assert_eq!((other.sums[5], large.sums[5]), (0.0, 0.0));
        for (got, want) in other.sums.iter().zip(large.sums).chain([(&other.grad_norm, large.grad_norm)]) {
            assert!((got - want).abs() <= 2e-5 * want.abs().max(1e-3), "got {got}, want {want}");
        }
    }
    // In the large batch the prompt is run once, in the small ones once in each.
    let [_, (small, _), (shared, _)] = others;
    assert_eq!(shared.shared_tok % 23, 0);
    assert!(shared.shared_tok > small.shared_tok && small.shared_tok > 0, "{small:?} {shared:?}");
}

#[test]
fn entropy_kl_and_clipping_are_means_over_tokens_whatever_the_aggregation() {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let reference = Weights::init(&dev, model(&dev, &chat).config, 8).unwrap();
    let run = |aggregation| {
        let loss = PolicyLoss { kl: 0.01, ..learning().loss };
        let how = Learning { aggregation, loss, updates: 3, ..learning() };
        // A learning rate of nothing: every update finds the same policy, whatever the others learned.
        let mut learner = learner(&dev, &chat, how, Hyper { lr: 0.0, warmup_steps: 0, ..Hyper::default() });
        let transcripts = sampled(&dev, &chat, &learner.weights, 25, 20, 3);
        // Transcripts of 25 lengths, and stored logprobs that put a share of the ratios outside the clip.
        let moved: Vec<Transcript> = transcripts.iter().enumerate().map(|(i, t)| shifted(&chat, t, i)).collect();
        let samples: Vec<Sample> = moved.iter().map(|t| Sample::even(t, 1.0)).collect();
        let trained: usize = samples.iter().map(Sample::n_trained).sum();
        let learned = learner.learn(&samples, Some(&reference)).unwrap();
        assert_eq!(learned.trained_tok, trained);
        (learned, moved.iter().map(|t| t.logprobs().iter().filter(|lp| **lp < -50.0).count()).sum::<usize>())
    };
    let (token, clipped) = run(Aggregation::TokenMean);
    assert_eq!(token.sums[4], clipped as f32 / token.trained_tok as f32, "the share of clipped tokens, by count");
    assert!(token.sums[2] > 0.0 && token.sums[3] > 1.0, "{token:?}");
    for aggregation in [Aggregation::SequenceMean, Aggregation::Constant { length: 320 }] {
        let other = run(aggregation).0;
        assert_ne!(token.sums[1], other.sums[1], "the loss is aggregated otherwise");
        assert_eq!(token.sums[2..], other.sums[2..]);
    }
}

/// A transcript whose first `3 + i % 5` stored logprobs, as far as it has them, are far below what they were.
fn shifted(chat: &Chat, of: &Transcript, i: usize) -> Transcript {
    let mut moved = Transcript::new(chat, "buyer.").unwrap();
    moved.push_incoming(chat, "turn 1/6").unwrap();
    let from = moved.len();
    let mut logprobs = of.logprobs()[from..].to_vec();
    logprobs.iter_mut().take(3 + i % 5).for_each(|lp| *lp = -60.0);
    let own = from..from + 20usize.min(1 + i).min(of.len() - from);
    moved.push_sampled(&of.ids()[own.clone()], &logprobs[..own.len()]);
    moved
}

#[test]
fn an_update_that_is_not_finite_changes_nothing_and_too_many_end_the_run() {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let hyper = Hyper { max_skipped_steps: 2, ..Hyper::default() };
    let mut learner = learner(&dev, &chat, learning(), hyper);
    let mut broken = Transcript::new(&chat, "buyer.").unwrap();
    broken.push_incoming(&chat, "turn 1/6").unwrap();
    // A stored logprob of -1e30 makes the ratio infinite.
    broken.push_sampled(&[9, 8], &[-1e30, -1.0]);
    let before = (bits(&dev, &learner.weights), learner.weights.version);
    let sample = Sample::even(&broken, -1.0);
    let learned = learner.learn(&[sample], None).unwrap();
    assert_eq!((learned.skipped, learned.applied, learned.not_finite), (1, 0, Some("loss")));
    assert!(learned.logprob_max_abs_diff > 1e29);
    assert_eq!(before, (bits(&dev, &learner.weights), learner.weights.version));
    let message = learner.learn(&[sample], None).unwrap_err().to_string();
    assert!(message.contains("loss was not finite in 2 updates in a row"), "{message}");
}

#[test]
fn later_updates_of_a_batch_take_the_ratio_to_the_stored_logprobs() {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let how = Learning { updates: 4, ..learning() };
    let hyper = Hyper { lr: 0.01, warmup_steps: 0, ..Hyper::default() };
    let mut learner = learner(&dev, &chat, how, hyper);
    let transcripts = sampled(&dev, &chat, &learner.weights, 24, 10, 3);
    let by = |(i, transcript)| Sample::even(transcript, if i % 2 == 0 { 1.0 } else { -1.0 });
    let samples: Vec<Sample> = transcripts.iter().enumerate().map(by).collect();
    let learned = learner.learn(&samples, None).unwrap();
    assert_eq!(learned.applied, 4);
    assert_eq!(learned.logprob_max_abs_diff, 0.0, "compared before the first update, over all tokens");
    assert!(learned.sums[5] > 0.0, "later updates are off policy");
    assert_eq!(learned.trained_tok, samples.iter().map(Sample::n_trained).sum::<usize>());
}

/// KL to the starting weights, step by step, of a model that learns to end on odd tokens under a KL weight.
fn kls(weight: f32) -> Vec<f32> {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let loss = PolicyLoss { kl: weight, ..learning().loss };
    let hyper = Hyper { lr: 0.003, warmup_steps: 0, ..Hyper::default() };
    let mut learner = learner(&dev, &chat, Learning { loss, ..learning() }, hyper);
    let reference = model(&dev, &chat);
    let step = |step| {
        let transcripts = sampled(&dev, &chat, &learner.weights, 32, 4, step);
        let advantage = |t: &Transcript| if t.ids().last().unwrap() % 2 == 0 { 1.0 } else { -1.0 };
        let samples: Vec<Sample> = transcripts.iter().map(|t| Sample::even(t, advantage(t))).collect();
        learner.learn(&samples, Some(&reference)).unwrap().sums[2]
    };
    (0..16).map(step).collect()
}

#[test]
fn the_kl_to_the_reference_is_zero_at_first_and_its_weight_holds_it_down() {
    let (free, held) = (kls(1e-6), kls(30.0));
    assert_eq!((free[0], held[0]), (0.0, 0.0));
    let late = |kls: &[f32]| kls[8..].iter().sum::<f32>() / 8.0;
    assert!(late(&free) > 0.0 && late(&held) < 0.5 * late(&free), "free {free:?}\nheld {held:?}");
}

/// Experts' part of the bandit: what they learn from is what was played, and the balance evens their load.
#[test]
fn experts_are_counted_and_the_balance_evens_their_load() {
    let (dev, chat) = (Device::open("cpu", 2).unwrap(), embedded::chat().unwrap());
    let spread = |balance: f32| -> f64 {
        let experts = Experts { count: 8, active: 2, intermediate_size: 32, normalise: true };
        let dense = model(&dev, &chat).config;
        let shape = ModelConfig { family: Family::Qwen3Moe, experts: Some(experts), ..dense };
        let weights = Weights::init(&dev, shape, 7).unwrap();
        let hyper = Hyper { lr: 0.003, warmup_steps: 0, ..Hyper::default() };
        let mut learner = learner_of(&dev, weights, Learning { balance, ..learning() }, hyper);
        let mut load = vec![];
        for step in 0..30 {
            let transcripts = sampled(&dev, &chat, &learner.weights, 16, 6, step);
            let by = |(i, transcript)| Sample::even(transcript, if i % 2 == 0 { 0.1 } else { -0.1 });
            let samples: Vec<Sample> = transcripts.iter().enumerate().map(by).collect();
            let learned = learner.learn(&samples, None).unwrap();
            assert_eq!(learned.compared_tok[0], learned.compared_tok[1], "step {step}: all bits are the rollout's");
            load = learner.expert_load.clone();
            let rows = learned.packed_tok as u64;
            assert!(load.chunks(8).all(|layer| layer.iter().sum::<u64>() == 2 * rows), "{load:?}");
        }
        let even = load.iter().sum::<u64>() as f64 / load.len() as f64;
        load.iter().map(|n| (*n as f64 / even - 1.0).powi(2)).sum::<f64>() / load.len() as f64
    };
    let (without, with) = (spread(0.0), spread(0.5));
    println!("variance of the load over its mean: {without:.3} without the balance, {with:.3} with it");
    assert!(with < without / 2.0, "{with} with the balance, {without} without");
}
