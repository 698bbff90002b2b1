//! GRPO on guided replies: tokens are scored among those that they were drawn among, by rollout and by training alike.

use haggle::cli::train;
use haggle::config::{Config, Override};
use haggle::device::Device;
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::{Plan, Weights};
use haggle::text::{Chat, Mask, Transcript};
use haggle::train::learner::{Learner, Learning, Sample, parts};
use haggle::train::optimizer::{Hyper, Optimizer};
use haggle::train::rl;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A config of seconds, with overrides `key=value`.
fn config(overrides: &[&str]) -> Config {
    let small = [
        "rollout.constrain=true",
        "rollout.products_per_step=2",
        "rollout.group_size=3",
        "grpo.steps=2",
        "grpo.micro_batch_tokens=1024",
        "optim.warmup_steps=0",
        "reward.length=0.1",
        "eval.products=2",
        "eval.rollouts=1",
        "eval.best_of=1",
        "threads=1",
    ];
    let parse = |text: &&str| {
        let (key, value) = text.split_once('=').unwrap();
        Override { origin: text.to_string(), key: key.into(), value: value.into() }
    };
    Config::load(None, &small.iter().chain(overrides).map(parse).collect::<Vec<_>>()).unwrap()
}

/// The rows of a run, without what was measured.
fn train(overrides: &[&str], run: &Path) -> Vec<Value> {
    train::train(&config(overrides), run, false, &AtomicBool::new(false), &mut |_| ()).unwrap();
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| haggle::run::metrics::without_times(&serde_json::from_str(line).unwrap()).into()).collect()
}

/// Every token's logprob has the bits of rollout, no game is lost outright, and every step learns.
#[track_caller]
fn hold(rows: &[Value], steps: usize) {
    assert_eq!(rows.len(), steps);
    for row in rows {
        assert_eq!(
            (&row["rollout/logprob_max_abs_diff"], &row["rollout/bitwise_frac"]),
            (&0.0.into(), &1.0.into()),
            "{row}"
        );
        assert_eq!((&row["format_error_rate"], &row["overshoot_rate"]), (&0.0.into(), &0.0.into()), "{row}");
        assert!(row["policy/trained_tokens"].as_u64().unwrap() > 100 && row["updates_skipped"] == 0, "{row}");
        assert!(row["grad_norm"].as_f64().unwrap() > 1e-4, "{row}");
    }
}

#[test]
fn guided_tokens_are_trained_on_with_the_bits_of_rollout_and_no_game_is_lost_outright() {
    let dir = tempfile::tempdir().unwrap();
    // Hot, so that a free buyer breaks its form.
    let hot = ["rollout.temperature=2.5", "grpo.kl=0.01", "grpo.optimizer_steps_per_batch=2", "grpo.steps=3"];
    let sets = [&hot[..], &["eval.every=1"]].concat();
    let (run, free) = (dir.path().join("guided"), dir.path().join("free"));
    let rows = train(&sets, &run);
    hold(&rows, 3);
    for row in &rows {
        assert!(row["policy/kl"].as_f64().unwrap() >= 0.0, "{row}");
        assert!(row["policy/ratio_max_dev"].as_f64().unwrap() > 0.0, "the second update is off policy: {row}");
        assert!(row["held_out/reward"].is_f64(), "{row}");
    }
    // The evaluation during training is guided as the final one.
    let summary: Value = serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap();
    let trained =
        summary.as_array().unwrap().iter().find(|row| row["buyer"] == "trained" && row["scenario"] == "all").unwrap();
    assert_eq!(rows[2]["held_out/reward"], trained["reward"]);
    let free = train(&[&hot[..], &["rollout.constrain=false", "grpo.steps=1"]].concat(), &free);
    assert!(free[0]["format_error_rate"].as_f64().unwrap() > 0.5, "nothing to guide: {}", free[0]);
}

#[test]
fn shared_prompts_adapters_corrections_and_other_games_in_the_place_of_dull_ones_are_guided_too() {
    let dir = tempfile::tempdir().unwrap();
    for (i, sets) in [
        &["train.share_prefix=false", "grpo.kl=0.05", "loss.kl_in=reward"][..],
        &["lora.rank=4", "train.checkpoint=layers", "grpo.kl=0.05"],
        &["credit.resample_rounds=2", "loss.importance=tis", "rollout.sellers=base=1,rejector=1"],
    ]
    .into_iter()
    .enumerate()
    {
        hold(&train(&[sets, &["rollout.temperature=1.5"]].concat(), &dir.path().join(i.to_string())), 2);
    }
}

#[test]
fn the_emulated_gpu_trains_on_guided_tokens_with_the_bits_of_the_cpu_and_in_bf16_with_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let base = crate::support::small_model::base_in(&dir.path().join("model"), None);
    let sets = [&base, "rollout.max_reply_tokens=6", "game.turns=2", "rollout.group_size=2", "eval.products=1"];
    let run = |name: &str, more: &[&str]| train(&[&sets[..], more].concat(), &dir.path().join(name));
    let [cpu, emu] = ["cpu", "emu"].map(|device| run(device, &[&format!("device={device}")]));
    hold(&cpu, 2);
    assert_eq!(cpu, emu);
    hold(&run("bf16", &["device=emu", "model.dtype=bf16"]), 2);
}

/// `n` replies of one token, each drawn among some.
fn drawn(dev: &Device, chat: &Chat, weights: &Weights, mask: &Mask, n: usize, seed: u64) -> Vec<Transcript> {
    let plan = &mut Plan::on(dev);
    let mut engine =
        Engine::planned(plan, &weights.config, EngineConfig::sized_for(n, 64)).unwrap().with_masks(plan).unwrap();
    let (mut all, mut ids): (Vec<Transcript>, Vec<_>) = (vec![], vec![]);
    for stream in 0..n as u64 {
        let mut transcript = Transcript::new(chat, "buyer.").unwrap();
        transcript.push_incoming(chat, "turn 1/6").unwrap();
        let id = engine.add(transcript.ids(), Sampling::plain(1.0, 1, chat.end()), NoiseKey { seed, stream }).unwrap();
        engine.allow(id, Some(mask)).unwrap();
        ids.push(id);
        all.push(transcript);
    }
    while engine.step(weights).unwrap() {
        while let Some(turn) = engine.next_finished() {
            let at = ids.iter().position(|id| *id == turn.seq).unwrap();
            all[at].push_drawn(turn.ids, turn.logprobs, std::slice::from_ref(mask));
        }
    }
    all
}

fn learner(dev: &Device, weights: Weights, guided: bool) -> Learner {
    let hyper = Hyper { lr: 0.01, warmup_steps: 0, ..Hyper::default() };
    let optimizer = Optimizer::new(dev, parts(&weights), hyper, 100).unwrap();
    let how = Learning { micro_batch_tok: 128, guided, ..Learning::default() };
    Learner::planned(&mut Plan::on(dev), weights, optimizer, how).unwrap()
}

/// Tokens `from..to`, as a mask.
fn mask(chat: &Chat, tokens: std::ops::Range<usize>) -> Mask {
    let mut words = vec![0i32; chat.tokenizer.vocab().div_ceil(32)];
    tokens.for_each(|t| words[t / 32] |= 1i32.wrapping_shl(t as u32 % 32));
    words.into()
}

#[test]
fn a_bandit_of_some_arms_is_learned() {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let (mut learner, arms) =
        (learner(&dev, crate::support::small_model::weights(&dev, &chat, 128, None), true), mask(&chat, 100..164));
    let mut means = vec![];
    for step in 0..40 {
        let transcripts = drawn(&dev, &chat, &learner.weights, &arms, 64, step);
        let pays = |t: &Transcript| if t.ids().last().unwrap() % 8 == 0 { 1.0 } else { 0.0 };
        let rewards: Vec<f32> = transcripts.iter().map(pays).collect();
        let mean = rewards.iter().sum::<f32>() / 64.0;
        let advantage: Vec<f32> = rewards.iter().map(|reward| reward - mean).collect();
        let samples: Vec<Sample> = transcripts.iter().zip(&advantage).map(|(t, a)| Sample::even(t, *a)).collect();
        let learned = learner.learn(&samples, None).unwrap();
        assert_eq!(learned.logprob_max_abs_diff, 0.0, "step {step}");
        // Of 64 arms, not of the vocabulary.
        assert!(learned.sums[3] <= 64f32.ln() + 1e-4, "entropy {} at step {step}", learned.sums[3]);
        means.push(mean);
    }
    let (first, last) = (means[..4].iter().sum::<f32>() / 4.0, means[36..].iter().sum::<f32>() / 4.0);
    assert!(first < 0.3 && last > 0.9, "first {first}, last {last}: {means:?}");
}

#[test]
fn a_token_that_its_mask_forbids_and_masks_where_there_is_no_room_are_refused() {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let weights = || crate::support::small_model::weights(&dev, &chat, 128, None);
    let arms = mask(&chat, 100..164);
    let right = drawn(&dev, &chat, &weights(), &arms, 4, 1);
    let wrong = |mask: &Mask| {
        let mut wrong = Transcript::new(&chat, "buyer.").unwrap();
        wrong.push_incoming(&chat, "turn 1/6").unwrap();
        wrong.push_drawn(&[120], &[-1.0], std::slice::from_ref(mask));
        wrong
    };
    let learn = |guided: bool, planted: Option<Transcript>| {
        let mut learner = learner(&dev, weights(), guided);
        let before = dev.to_vec::<f32>(learner.weights.data());
        let samples: Vec<Sample> = right.iter().chain(&planted).map(|t| Sample::even(t, 1.0)).collect();
        let message = learner.learn(&samples, None).map(|_| ()).map_err(|e| e.to_string());
        assert!(message.is_ok() || dev.to_vec::<f32>(learner.weights.data()) == before);
        message
    };
    assert_eq!(learn(true, None), Ok(()));
    let forbidden = learn(true, Some(wrong(&mask(&chat, 0..120)))).unwrap_err();
    assert!(forbidden.contains("drew token 120 among tokens that it is none of"), "{forbidden}");
    let short = learn(true, Some(wrong(&[-1; 4].into()))).unwrap_err();
    assert!(short.contains("words of a mask"), "{short}");
    let no_room = learn(false, None).unwrap_err();
    assert!(no_room.contains("a batch made for masks"), "{no_room}");
}

#[test]
fn the_room_of_masks_is_in_the_memory_plan() {
    let dev = Device::open("cpu", 1).unwrap();
    let planned = |guided: &str| {
        let mut plan = Plan::dry(&dev);
        rl::planned(&config(&[guided]), &mut plan).unwrap();
        plan
    };
    let (guided, free) = (planned("rollout.constrain=true"), planned("rollout.constrain=false"));
    let bytes = |plan: &Plan, name: &str| plan.rows.iter().filter(|row| row.name == name).map(|row| row.bytes).sum();
    let names = ["masks of targets", "mask of rows", "ids that may come next"];
    let [words, of, sampling]: [usize; 3] = names.map(|name| bytes(&guided, name));
    let vocab = embedded::shape().unwrap().vocab_size;
    assert!(of >= 4 * 1024 && words == of * vocab.div_ceil(32) && sampling > 0, "{words} {of} {sampling}");
    assert_eq!(guided.total_bytes() - free.total_bytes(), words + of + sampling);
    assert!(names.iter().all(|name| bytes(&free, name) == 0));
}

#[test]
fn masks_are_told_to_other_ranks_as_they_are() {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let mut told =
        drawn(&dev, &chat, &crate::support::small_model::weights(&dev, &chat, 128, None), &mask(&chat, 100..164), 1, 1)
            .remove(0);
    told.push_incoming(&chat, "turn 2/6").unwrap();
    let [one, other] = [mask(&chat, 5..9), mask(&chat, 100..164)];
    told.push_drawn(&[6, 110, 7], &[-1.0; 3], &[one.clone(), other, one]);
    told.push_incoming(&chat, "turn 3/6").unwrap();
    let mut packet = haggle::dist::Packet::new();
    told.write(&mut packet);
    let heard = Transcript::read(&mut haggle::dist::Unpack::of(&packet.bytes)).unwrap();
    assert!(heard == told && (0..told.len()).filter(|at| heard.mask(*at).is_some()).count() == 4);
}
