//! K-candidate replies: spans from sampled ids, credit by span, branches that share pages, a run on a set task.

#![allow(clippy::unwrap_used)]

use haggle::config::Config;
use haggle::credit::shapley::shapley_max;
use haggle::device::Device;
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::noise::Noise;
use haggle::ops::attn::CHUNK;
use haggle::sets::{Scored, Task, render};
use haggle::text::Transcript;
use haggle::train::set_steps::demonstration;
use haggle::train::sets::{self, Reply, candidates};
use haggle::train::setup::Setup;

fn config(task: &str, sets: &[&str]) -> Config {
    let mut all: Vec<_> = ["device=cpu", "threads=2"].iter().chain(sets).map(|s| s.to_string()).collect();
    all.push(format!("task.name={task}"));
    let one = |text: &String| {
        let (key, value) = text.split_once('=').unwrap();
        haggle::config::Override { origin: text.clone(), key: key.into(), value: value.into() }
    };
    Config::parse("", "", &all.iter().map(one).collect::<Vec<_>>()).unwrap()
}

/// A reply with these candidates and utilities, as if it had been sampled.
fn reply(texts: &[&str], utility: &[f64]) -> Reply {
    let chat = embedded::chat().unwrap();
    let texts: Vec<String> = texts.iter().map(|t| t.to_string()).collect();
    let mut ids = chat.tokenizer.encode(&render("drafts", &texts)).unwrap();
    ids.push(chat.end());
    let mut transcript = Transcript::new(&chat, "buyer.").unwrap();
    transcript.push_incoming(&chat, "turn 1/6").unwrap();
    transcript.push_sampled(&ids, &vec![-1.0; ids.len()]);
    let scored = utility.iter().map(|u| Scored { utility: *u, covers: 0 }).collect();
    let text = chat.reply_text(&ids).unwrap();
    Reply { candidates: candidates(&chat, &ids, 8, false), transcript, text, scored, facts: 0 }
}

#[test]
fn the_bytes_of_ids_are_the_text_and_spans_cover_the_candidates() {
    let chat = embedded::chat().unwrap();
    for task in [Task::Menu, Task::Recommend, Task::Summary] {
        let setup = Setup::open(&config("menu", &[])).unwrap();
        for i in 0..40 {
            let s = demonstration(&setup, task, Noise::new(3, i)).unwrap();
            let own: Vec<i32> = s.ids.iter().zip(&s.own).filter(|(_, own)| **own).map(|(id, _)| *id).collect();
            let bytes: Vec<u8> = own[..own.len() - 1].iter().flat_map(|id| chat.tokenizer.bytes(*id)).collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), chat.reply_text(&own).unwrap());
            let found = candidates(&chat, &own, 4, false).unwrap();
            assert_eq!(found.len(), 4);
            for c in &found {
                let said = chat.tokenizer.decode(&own[c.tokens.clone()]).unwrap();
                assert_eq!(said.trim(), c.text, "{task:?}");
            }
            assert_eq!(candidates(&chat, &own, 3, false).unwrap_err().key(), "too_many");
        }
    }
}

#[test]
fn candidates_carry_their_own_advantage_and_shared_tokens_the_set_s() {
    let sets = ["credit.split=shapley", "rollout.group_size=3", "task.candidates=3"];
    let config = config("recommend", &sets);
    let utilities = [[0.2, 0.5, 0.9], [0.1, 0.1, 0.4]];
    let mut replies: Vec<Reply> = utilities.iter().map(|u| reply(&["A", "B", "C"], u)).collect();
    // The third reply names its candidates wrongly: it is punished whole.
    let mut broken = reply(&["A"], &[]);
    broken.candidates = Err(haggle::sets::reply::Malformed::Number);
    replies.push(broken);
    let got = sets::credit(&config, &replies, Noise::new(1, 1)).unwrap();
    let rewards = [0.9, 0.4, -1.0];
    let mean = rewards.iter().sum::<f64>() / 3.0;
    let mut shares: Vec<f64> = Vec::new();
    for u in &utilities {
        let mut phi = vec![0.0; 3];
        shapley_max(u, &mut phi).unwrap();
        shares.extend(phi.iter().map(|p| 3.0 * p));
    }
    let mean_share = shares.iter().sum::<f64>() / 6.0;
    for (i, reply) in replies.iter().enumerate() {
        let each = &got.per_token[i];
        assert_eq!(each.len(), reply.transcript.sampled().iter().filter(|s| **s).count());
        let spans: Vec<_> = reply.candidates.iter().flatten().map(|c| c.tokens.clone()).collect();
        for (at, a) in each.iter().enumerate() {
            let want = match spans.iter().position(|s| s.contains(&at)) {
                Some(k) => shares[3 * i + k] - mean_share,
                None => rewards[i] - mean,
            };
            assert!((*a as f64 - want).abs() < 1e-6, "reply {i}, token {at}: {a}, want {want}");
        }
    }
    // In the best set the worst candidate is pushed down, where plain GRPO would push it up.
    let worst = sets::worst_in_best(&config, &replies, &got).unwrap();
    assert!(worst < 0.0, "{worst}");
    let plain = Config { credit: haggle::config::CreditConfig::default(), ..config.clone() };
    let even = sets::credit(&plain, &replies, Noise::new(1, 1)).unwrap();
    assert!(even.per_token.is_empty() && sets::worst_in_best(&plain, &replies, &even).unwrap() > 0.0);
    // A utility that is no number is refused by name.
    replies[0].scored[1].utility = f64::NAN;
    assert!(sets::credit(&config, &replies, Noise::new(1, 1)).unwrap_err().to_string().contains("not finite"));
}

#[test]
fn eight_branches_of_a_prefix_use_its_pages_once() {
    let dev = Device::open("cpu", 2).unwrap();
    let (weights, chat) = (embedded::weights(&dev).unwrap(), embedded::chat().unwrap());
    let prefix: Vec<i32> = (0..512).map(|i| 20 + (i * 7) % 200).collect();
    let config = EngineConfig { max_pages: 200, max_rows: 1024, max_seqs: 16, prefix_reuse: false };
    let one = Sampling::plain(1.0, 1, -1);
    let key = |stream| NoiseKey { seed: 5, stream };
    let mut engine = Engine::new(&dev, &weights.config, config).unwrap();
    let root = engine.add(&prefix, one, key(0)).unwrap();
    while engine.step(&weights).unwrap() {}
    let held = engine.pages_used();
    assert_eq!(held, 512usize.div_ceil(CHUNK), "the last token of a turn is not run in it");
    let four = Sampling::plain(1.0, 4, -1);
    let seqs: Vec<_> = (1..=8).map(|k| engine.fork(root, four, key(k)).unwrap()).collect();
    assert_eq!(engine.pages_used(), held, "a branch copies nothing");
    let said = chat.tokenizer.encode("bid 55%").unwrap();
    for (i, seq) in seqs.iter().enumerate() {
        engine.extend(*seq, &said[..1 + i % said.len()]).unwrap();
    }
    while engine.step(&weights).unwrap() {}
    // What each says lies on one page of its own behind the shared ones.
    assert_eq!(engine.pages_used(), held + 8);
    // Each branch says what a sequence of its own would have said.
    for (i, seq) in seqs.iter().enumerate() {
        let mut alone = Engine::new(&dev, &weights.config, config).unwrap();
        let asked = engine.ids(*seq)[..engine.ids(*seq).len() - 4].to_vec();
        let own = alone.add(&asked, four, key(i as u64 + 1)).unwrap();
        while alone.step(&weights).unwrap() {}
        assert_eq!(alone.ids(own), engine.ids(*seq), "branch {i}");
    }
}

#[test]
fn a_run_on_each_task_is_on_policy_to_the_bit_and_the_same_with_any_threads() {
    for task in ["menu", "recommend", "summary"] {
        let run = |threads: &str, folder: &std::path::Path| {
            let sets = [
                threads,
                "credit.split=shapley",
                "grpo.steps=2",
                "rollout.products_per_step=2",
                "rollout.group_size=3",
                "task.candidates=3",
                "task.supervised_tokens=6000",
                "rollout.max_reply_tokens=16",
                "products.limit=20",
                "eval.products=2",
                "eval.rollouts=2",
            ];
            let stop = std::sync::atomic::AtomicBool::new(false);
            haggle::train::rl::run(&config(task, &sets), folder, false, &stop, &mut |_| ()).unwrap();
            let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
            let rows = text.lines().map(|l| serde_json::from_str::<haggle::train::metrics::Metrics>(l).unwrap());
            rows.map(|row| haggle::train::metrics::without_times(&row)).collect::<Vec<_>>()
        };
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (run("threads=1", &a.path().join("r")), run("threads=2", &b.path().join("r")));
        assert_eq!(one, two, "{task}");
        for row in &one {
            assert_eq!(row["rollout/logprob_max_abs_diff"], 0.0, "{task}");
            assert_eq!(row["policy/ratio_max_dev"], 0.0, "{task}");
        }
        assert!(a.path().join("r/sets.json").is_file());
    }
}
