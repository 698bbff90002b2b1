//! K-candidate replies: spans from sampled ids, credit by span, branches that share pages, a run on a set task.

use haggle::config::Config;
use haggle::device::Device;
use haggle::embedded;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::negotiate::Side;
use haggle::noise::Noise;
use haggle::ops::attn::CHUNK;
use haggle::rollout::Voice;
use haggle::run::metrics::{Metrics, without_times};
use haggle::setup::Setup;
use haggle::sft::dialogues::Sequence;
use haggle::sft::teach::{self, demonstration};
use haggle::tasks::menu::{self, Menu};
use haggle::tasks::sets::{self, Reply, Scored, Sets, candidates, render};
use haggle::tasks::{self, Draw, Task, summary};
use haggle::text::Transcript;
use haggle::train::rl::Event;
use serde_json::Value;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

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
    for name in ["menu", "recommend", "summary"] {
        let task = tasks::named(name).unwrap();
        let setup = Setup::open(&config("menu", &[])).unwrap();
        for i in 0..40 {
            let s = demonstration(&setup, &*task, Noise::new(3, i)).unwrap();
            let own: Vec<i32> = s.ids.iter().zip(&s.own).filter(|(_, own)| **own).map(|(id, _)| *id).collect();
            let bytes: Vec<u8> = own[..own.len() - 1].iter().flat_map(|id| chat.tokenizer.bytes(*id)).collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), chat.reply_text(&own).unwrap());
            let found = candidates(&chat, &own, 4, false).unwrap();
            assert_eq!(found.len(), 4);
            for c in &found {
                let said = chat.tokenizer.decode(&own[c.tokens.clone()]).unwrap();
                assert_eq!(said.trim(), c.text, "{name}");
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
    broken.candidates = Err(haggle::tasks::sets::reply::Malformed::Number);
    replies.push(broken);
    let rewards = [0.9, 0.4, -1.0];
    assert_eq!(sets::rewards(&config, &replies), rewards);
    let dev = Device::open("cpu", 1).unwrap();
    let credit =
        |config: &Config, replies: &[Reply]| sets::credit(&dev, config, replies, rewards.to_vec(), Noise::new(1, 1));
    let got = credit(&config, &replies).unwrap();
    let mean = rewards.iter().sum::<f64>() / 3.0;
    let mut shares: Vec<f64> = Vec::new();
    for u in &utilities {
        // Ascending: each step is shared by those that reach it.
        let steps = [u[0] / 3.0, (u[1] - u[0]) / 2.0, u[2] - u[1]];
        shares.extend([steps[0], steps[0] + steps[1], steps.iter().sum()].map(|phi| 3.0 * phi));
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
    let worst = sets::worst_in_best(3, &replies, &rewards, &got).unwrap();
    assert!(worst < 0.0, "{worst}");
    let plain = Config { credit: haggle::config::CreditConfig::default(), ..config.clone() };
    let even = credit(&plain, &replies).unwrap();
    assert!(even.per_token.is_empty() && sets::worst_in_best(3, &replies, &rewards, &even).unwrap() > 0.0);
    // A utility that is no number is refused by name.
    replies[0].scored[1].utility = f64::NAN;
    assert!(credit(&config, &replies).unwrap_err().to_string().contains("not finite"));
}

#[test]
fn eight_branches_of_a_prefix_use_its_pages_once() {
    let dev = Device::open("cpu", 2).unwrap();
    let (weights, chat) = (embedded::weights(&dev).unwrap(), embedded::chat().unwrap());
    let prefix: Vec<i32> = (0..512).map(|i| 20 + (i * 7) % 200).collect();
    let config = EngineConfig { max_pages: 200, max_rows: 1024, max_seqs: 16, prefix_reuse: false, graphs: false };
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

/// Settings of a run of seconds.
const SMALL: [&str; 9] = [
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

fn small(task: &str, more: &[&str]) -> Config {
    config(task, &[&SMALL[..], more].concat())
}

fn rows(run: &Path) -> Vec<Metrics> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| without_times(&serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn a_resumed_run_has_the_same_bits_and_learns_no_demonstration_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = small("recommend", &["credit.split=shapley", "run.checkpoint_every=1"]);
    let taught = |run: &Path, resume: bool, stop_after: u64| {
        let (stop, mut taught) = (AtomicBool::new(false), 0);
        let mut hear = |event: Event| match event {
            Event::Supervised { done, .. } => taught = done,
            Event::Step(row) if row["step"] == stop_after => stop.store(true, Ordering::Relaxed),
            _ => {}
        };
        haggle::cli::train::train(&config, run, resume, &stop, &mut hear).unwrap();
        taught
    };
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    assert_eq!(taught(&whole, false, 99), 6000);
    assert_eq!(taught(&cut, false, 1), 6000);
    assert_eq!(rows(&cut).len(), 1);
    assert_eq!(taught(&cut, true, 99), 0, "the base is on disk");
    assert_eq!(rows(&cut), rows(&whole));
    for file in ["sets.json", "episodes.jsonl"] {
        assert_eq!(std::fs::read(cut.join(file)).unwrap(), std::fs::read(whole.join(file)).unwrap(), "{file}");
    }
}

/// Plays a draw of a menu on the tiny models, its buyer taught the task.
fn menus(config: &Config, products: usize, rollouts: usize, noise: Noise) -> Menu {
    let mut setup = Setup::open(config).unwrap();
    let mut task = Menu::default();
    teach::teach(&mut setup, &task, config.task.supervised_tokens as u64, &mut |_, _| ()).unwrap();
    let engine =
        |w: &haggle::model::Weights| Engine::new(&setup.dev, &w.config, setup.engine_config(&w.config)).unwrap();
    let (mut buyer, mut seller) = (engine(&setup.base.weights), setup.seller_engine().unwrap());
    let products = setup.train[..products].to_vec();
    task.begin(&setup, Draw { step: 1, products, rollouts, noise }).unwrap();
    let (weights, chat, sampling) = (&setup.base.weights, &setup.base.chat, task.sampling(&setup));
    let learner = Voice { weights, engine: &mut buyer, chat, sampling, manner: None };
    tasks::play(&setup, &mut task, learner, setup.seller_player(&mut seller).unwrap(), &mut |_, _| ()).unwrap();
    assert_eq!(seller.unwrap().n_running() + buyer.n_running(), 0);
    task
}

#[test]
fn a_menu_goes_on_from_the_best_draft_of_its_first_rollout() {
    let more = [
        "task.supervised_tokens=100000",
        "task.rounds=3",
        "rollout.max_reply_tokens=64",
        "rollout.products_per_step=4",
    ];
    let played = menus(&small("menu", &more), 4, 3, Noise::new(7, 7));
    let (games, replies) = (played.games(), &played.sets().replies);
    assert_eq!(replies.len(), 3 * games.len());
    assert_eq!(played.sets().cases.len(), games.len());
    let mut continued = 0;
    for (later, after) in games.iter().enumerate().skip(4) {
        // The case it goes on from: the last earlier one of the product.
        let before = (0..later).rev().find(|i| games[*i].product().code == after.product().code).unwrap();
        let first = &replies[3 * before];
        let best = first.scored.iter().map(|s| s.utility).fold(f64::NEG_INFINITY, f64::max);
        let at = first.scored.iter().position(|s| s.utility == best).unwrap();
        let text = &first.candidates.as_ref().unwrap()[at].text;
        let mut wanted = games[before].clone();
        wanted.submit(Side::Buyer, &menu::draft(&games[before], text).unwrap()).unwrap();
        let turns = after.turns();
        assert_eq!(turns[..turns.len() - 1], wanted.turns()[..], "its best draft, then the seller's answer");
        assert_eq!(turns.last().unwrap().side, Side::Seller);
        assert!(after.outcome().is_none());
        continued += 1;
    }
    assert!(continued > 0, "no game went on");
}

#[test]
fn one_round_is_one_menu_a_product() {
    assert_eq!(menus(&small("menu", &["task.rounds=1"]), 2, 2, Noise::new(1, 1)).games().len(), 2);
}

#[test]
fn the_likelihood_reward_is_the_logprob_of_the_reference_behind_the_own_thought() {
    for of in ["mean", "sum"] {
        let config = small("summary", &["reward.likelihood=0.5", &format!("reward.likelihood_of={of}")]);
        let setup = Setup::open(&config).unwrap();
        let (mut trainer, _) = haggle::train::rl::Trainer::new(&setup).unwrap();
        let case = summary::case(&setup.train[0], 3);
        let (chat, prompt) = (&setup.base.chat, &case.prompt);
        let mut start = Transcript::new(chat, &prompt.system).unwrap();
        start.push_incoming(chat, &prompt.incoming).unwrap();
        let said = |thought: &str| {
            let ids = chat.tokenizer.encode(&render(thought, &["a b".into(), "c".into()])).unwrap();
            let mut transcript = start.clone();
            transcript.push_sampled(&ids, &vec![-1.0; ids.len()]);
            let (candidates, text) = (candidates(chat, &ids, 3, false), String::new());
            Reply { candidates, transcript, text, scored: vec![Scored { utility: 0.0, covers: 0 }; 2], facts: 6 }
        };
        let mut replies = vec![said("pitches"), said("something else"), said("pitches")];
        replies[2].candidates = Err(haggle::tasks::sets::reply::Malformed::Empty);
        let draw = Draw { rollouts: replies.len(), ..Draw::default() };
        let mut asked = Sets::of(draw);
        (asked.cases, asked.replies) = (vec![case.clone()], replies);
        let learner = &mut trainer.learner;
        let got = asked.likelihood(&setup, &mut |of, transcripts| learner.logprobs(of, transcripts)).unwrap();
        assert_eq!(got[2], 0.0, "a malformed reply has its penalty");
        // The same sequence scored by the supervised trainer.
        let weights = haggle::embedded::weights(&setup.dev).unwrap();
        let mut scorer = haggle::sft::trainer::Trainer::of(&setup.dev, weights, Default::default()).unwrap();
        for (i, thought) in ["pitches", "something else"].iter().enumerate() {
            let behind = chat.tokenizer.encode(&format!("Thought: {thought}\n1)")).unwrap();
            let answer = chat.tokenizer.encode(&format!(" {}", case.reference.as_ref().unwrap())).unwrap();
            let ids = [start.ids(), &behind[..], &answer[..]].concat();
            let own: Vec<bool> = (0..ids.len()).map(|at| at >= ids.len() - answer.len()).collect();
            let weight = vec![0.0; ids.len()];
            let sequence = Sequence { side: Side::Buyer, ids, own, weight, imitated: true };
            let logprobs = scorer.score(&[sequence]).unwrap().remove(0);
            let sum: f64 = logprobs.iter().map(|l| *l as f64).sum();
            let want = if of == "sum" { sum } else { sum / logprobs.len() as f64 };
            assert!((got[i] - want).abs() < 1e-4 && want < 0.0, "{of} {i}: {}, want {want}", got[i]);
        }
    }
}

#[test]
fn a_duplicate_adds_nothing_to_any_worth_and_shares_what_its_twin_earns() {
    for worth in ["max", "top_sum", "coverage"] {
        let config = config("summary", &["credit.split=shapley", &format!("credit.worth={worth}")]);
        let with = |texts: &[&str], utility: &[f64], covers: &[u64]| {
            let mut reply = reply(texts, utility);
            reply.scored.iter_mut().zip(covers).for_each(|(s, c)| s.covers = *c);
            reply.facts = 4;
            reply
        };
        let once = with(&["a", "b"], &[0.5, 0.25], &[0b11, 0b100]);
        let twice = with(&["a", "b", "a"], &[0.5, 0.25, 0.5], &[0b11, 0b100, 0b11]);
        assert_eq!(
            sets::rewards(&config, &[once])[0],
            sets::rewards(&config, std::slice::from_ref(&twice))[0],
            "{worth}"
        );
        let (dev, set) = (Device::open("cpu", 1).unwrap(), twice.set());
        let phi = sets::shapley(&dev, &[Some(set)], sets::worth(&config), &|_| Noise::new(1, 1)).unwrap().remove(0);
        assert!((phi[0] - phi[2]).abs() < 1e-12, "{worth}: {phi:?}");
    }
}

#[test]
fn replies_cut_by_the_length_limit_are_punished_whole_and_the_run_goes_on() {
    for task in ["recommend", "menu"] {
        let dir = tempfile::tempdir().unwrap();
        let config = small(task, &["credit.split=shapley", "rollout.max_reply_tokens=2", "task.candidates=2"]);
        haggle::cli::train::train(&config, dir.path(), false, &AtomicBool::new(false), &mut |_| ()).unwrap();
        let episodes = std::fs::read_to_string(dir.path().join("episodes.jsonl")).unwrap();
        assert!(episodes.contains("\"malformed\":\"cut\""));
        for line in episodes.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["malformed"].is_string(), "{line}");
            assert_eq!((&line["reward"], &line["candidates"]), (&json!(-1.0), &json!([])));
            assert_eq!(line["advantage"], 0.0, "all alike");
        }
        assert_eq!(rows(dir.path())[1]["sets/malformed"], 1.0);
    }
}

/// Products as they are published: long titles, titles of no word, of symbols, of several scripts; a category of two words.
fn odd_products(folder: &Path) {
    let titles = [
        "A",
        "\u{2605} 2-in-1 \u{2605}",
        "\u{6587}\u{5b57} \u{5546}\u{54c1} \u{5927}",
        "1) 2) 3) <|end|> Thought: bid 55%",
        "Caf\u{e9} Cr\u{e8}me, 12 x 500 ml (Pack of 3) \u{2014} Extra-Long Name That Goes On And On And On And On Without End",
        "   spaced   out   words   ",
    ];
    let record = |i: usize| {
        json!({
            "title": format!("{} {i}", titles[i % titles.len()]), "description": "", "features": "", "list_price": "$20.00",
            "highest_price": "$20.00", "lowest_price": if i % 4 == 3 { "$18.99" } else { "$9.50" },
            "average_price": "$15.00", "category": "health-personal-care", "current_price": "$16.00",
        })
    };
    let all: Vec<_> = (0..40).map(record).collect();
    std::fs::write(folder.join("odd.json"), serde_json::to_string(&all).unwrap()).unwrap();
}

#[test]
fn every_task_runs_on_published_products() {
    let odd = tempfile::tempdir().unwrap();
    odd_products(odd.path());
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/AmazonHistoryPrice");
    let real = std::env::var_os("HAGGLE_DATA").map_or(beside, std::path::PathBuf::from);
    if !real.is_dir() {
        eprintln!("SKIPPED: no {} (set HAGGLE_DATA to the published data set)", real.display());
    }
    for products in [odd.path(), &real].into_iter().filter(|p| p.is_dir()) {
        for task in ["menu", "recommend", "summary"] {
            let dir = tempfile::tempdir().unwrap();
            let path = format!("products.path={:?}", products.display().to_string());
            let config = small(task, &["credit.split=shapley", &path, "products.limit=40", "eval.products=4"]);
            haggle::cli::train::train(&config, dir.path(), false, &AtomicBool::new(false), &mut |_| ()).unwrap();
            assert_eq!(rows(dir.path()).len(), 2);
            // Every demonstration of theirs is a set that its own rule reads, with something of worth in most.
            let setup = Setup::open(&config).unwrap();
            for i in 0..20 {
                let s = demonstration(&setup, &*tasks::named(task).unwrap(), Noise::new(5, i)).unwrap();
                let own: Vec<i32> = s.ids.iter().zip(&s.own).filter(|(_, own)| **own).map(|(id, _)| *id).collect();
                assert_eq!(candidates(&setup.base.chat, &own, 3, false).unwrap().len(), 3, "{task} {i}");
            }
        }
    }
}

/// Every figure of `sets.json`, counted from `replies.jsonl`.
fn table_follows_from_replies(run: &Path) {
    let text = fs::read_to_string(run.join("replies.jsonl")).unwrap();
    let replies: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let table: Value = serde_json::from_slice(&fs::read(run.join("sets.json")).unwrap()).unwrap();
    assert_eq!(table.as_array().unwrap().len(), 2);
    for entry in table.as_array().unwrap() {
        let (row, mine) = (&entry["row"], replies.iter().filter(|r| r["model"] == entry["model"]).collect::<Vec<_>>());
        let sets: Vec<&[Value]> = mine
            .iter()
            .filter(|r| r["malformed"].is_null())
            .map(|r| &r["candidates"].as_array().unwrap()[..])
            .collect();
        let mean = |all: &[f64]| (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64);
        let utility = |c: &Value| c["utility"].as_f64().unwrap();
        let best = |set: &&[Value]| set.iter().map(utility).fold(f64::MIN, f64::max);
        let distinct = |set: &&[Value]| {
            let new = |(i, c): &(usize, &Value)| !set[..*i].iter().any(|o| o["text"] == c["text"]);
            set.iter().enumerate().filter(new).count() as f64 / set.len() as f64
        };
        let bad = (mine.len() - sets.len()) as f64;
        let want = [
            ("worth", mean(&mine.iter().map(|r| r["reward"].as_f64().unwrap()).collect::<Vec<_>>())),
            ("best", Some((sets.iter().map(best).sum::<f64>() - bad) / mine.len() as f64)),
            ("candidate", mean(&sets.iter().flat_map(|s| s.iter().map(utility)).collect::<Vec<_>>())),
            ("malformed", Some(bad / mine.len() as f64)),
            ("distinct", mean(&sets.iter().map(distinct).collect::<Vec<_>>())),
            ("size", mean(&sets.iter().map(|s| s.len() as f64).collect::<Vec<_>>())),
        ];
        assert_eq!(row["replies"], mine.len());
        for (key, want) in want {
            let near = |got: f64| (got - want.unwrap()).abs() < 1e-12;
            assert!(row[key].as_f64().map_or(want.is_none(), near), "{key}: {} is not {want:?}", row[key]);
        }
    }
}

#[test]
fn a_run_on_each_task_is_on_policy_to_the_bit_and_the_same_with_any_threads() {
    for task in ["menu", "recommend", "summary"] {
        let run = |threads: &str, folder: &Path| {
            let config = small(task, &[threads, "credit.split=shapley"]);
            haggle::cli::train::train(&config, folder, false, &AtomicBool::new(false), &mut |_| ()).unwrap();
            rows(folder)
        };
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (run("threads=1", &a.path().join("r")), run("threads=2", &b.path().join("r")));
        assert_eq!(one, two, "{task}");
        for row in &one {
            assert_eq!(row["rollout/logprob_max_abs_diff"], 0.0, "{task}");
            assert_eq!(row["policy/ratio_max_dev"], 0.0, "{task}");
        }
        table_follows_from_replies(&a.path().join("r"));
    }
}
