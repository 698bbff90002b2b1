//! Training on many ranks, each a thread with its own device: the bits of one rank.
//!
//! With two ranks a + b is b + a, and any order passes; so every case has four at least.

#![allow(clippy::unwrap_used)]

mod cli_common;
mod dist_common;

use haggle::cli::train;
use haggle::config::{Config, Override};
use haggle::device::Device;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::dist::threads::Threads;
use haggle::dist::{Ranks, agree};
use haggle::embedded;
use haggle::error::Error;
use haggle::model::config::Experts;
use haggle::model::plan::PlanRow;
use haggle::model::{Family, ModelConfig, Plan, Weights};
use haggle::run::run_dir::RunDir;
use haggle::setup::{base, memory};
use haggle::sft::dialogues::Dialogues;
use haggle::sft::lines::Talk;
use haggle::sft::teach;
use haggle::sft::tune::{self, Told, Tuning};
use haggle::train::rl::{self, Event};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Settings of seconds.
const SMALL: [&str; 15] = [
    "rollout.products_per_step=3",
    "rollout.group_size=2",
    "rollout.max_reply_tokens=64",
    "game.turns=2",
    "grpo.steps=3",
    "grpo.micro_batch_tokens=512",
    "grpo.entropy=0.01",
    "optim.warmup_steps=0",
    "reward.length=0.5",
    "run.checkpoint_every=1",
    "eval.every=2",
    "eval.products=2",
    "eval.rollouts=1",
    "eval.best_of=2",
    "threads=1",
];

/// A config of them, with overrides `key=value`.
fn config(overrides: &[&str]) -> Config {
    let all = SMALL.iter().chain(overrides).map(|s| s.to_string());
    let parsed: Vec<Override> = all
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap();
            Override { origin: text.clone(), key: key.into(), value: value.into() }
        })
        .collect();
    Config::load(None, &parsed).unwrap()
}

/// Trains on so many ranks; what each of them says.
fn ranked(world: usize, config: &Config, run: &Path, resume: bool) -> Vec<Result<u64, Error>> {
    std::thread::scope(|scope| {
        let ranks = Threads::new(world, Duration::from_secs(600)).into_iter().map(Ranks::linked);
        let each: Vec<_> = ranks
            .map(|ranks| {
                scope.spawn(move || {
                    let stop = AtomicBool::new(false);
                    let finished = train::train_ranked(&ranks, config, run, resume, &stop, &mut |_| ());
                    finished.map(|finished| finished.step)
                })
            })
            .collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn train(world: usize, config: &Config, run: &Path, resume: bool) {
    for step in ranked(world, config, run, resume) {
        assert_eq!(step.unwrap(), config.grpo.steps as u64);
    }
}

/// The rows of metrics.jsonl without what was measured.
fn metrics(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| haggle::run::metrics::without_times(&serde_json::from_str(line).unwrap());
    text.lines().map(|line| serde_json::to_string(&row(line)).unwrap()).collect()
}

/// Everything of a run that must have the same bits.
fn bits(run: &Path) -> Vec<(String, Vec<u8>)> {
    let written = ["episodes.jsonl", "latest", "summary.json", "games.jsonl", "samples.jsonl"];
    let mut all: Vec<_> = written.map(|name| (name.to_string(), fs::read(run.join(name)).unwrap())).into();
    let latest = run.join("checkpoints").join(fs::read_to_string(run.join("latest")).unwrap().trim());
    let mut kept: Vec<PathBuf> = fs::read_dir(&latest).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    all.extend(
        kept.iter().map(|path| (path.strip_prefix(&latest).unwrap().display().to_string(), fs::read(path).unwrap())),
    );
    all.extend(dist_common::moments(&latest));
    all.push(("metrics.jsonl".into(), metrics(run).join("\n").into_bytes()));
    all
}

fn assert_same_bits(a: &Path, b: &Path) {
    let (a_bits, b_bits) = (bits(a), bits(b));
    assert_eq!(a_bits.len(), b_bits.len());
    for ((name, x), (_, y)) in a_bits.into_iter().zip(b_bits) {
        assert!(x == y, "{name} differs between {} and {}", a.display(), b.display());
    }
}

/// Runs on each number of ranks, all of which must be the same to the bit. Returns the first one's directory.
fn same_on(worlds: &[usize], overrides: &[&str], dir: &Path) -> PathBuf {
    let config = config(overrides);
    let at = |world: &usize| dir.join(format!("on-{world}"));
    for world in worlds {
        train(*world, &config, &at(world), false);
    }
    let rows = metrics(&at(&worlds[0]));
    let moved = rows.iter().filter(|row| {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        row["grad_norm"].as_f64().unwrap() > 1e-6
    });
    assert_eq!(moved.count(), config.grpo.steps, "every step must learn something: {rows:?}");
    worlds[1..].iter().for_each(|world| assert_same_bits(&at(&worlds[0]), &at(world)));
    at(&worlds[0])
}

/// A random model of one small layer, in a folder.
fn small_model(folder: &Path, experts: Option<Experts>) -> String {
    let (dev, chat) = (Device::open("cpu", 1).unwrap(), embedded::chat().unwrap());
    let shape = ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 32,
        intermediate_size: 32,
        max_position_embeddings: 1024,
        family: if experts.is_some() { Family::Qwen3Moe } else { Family::Qwen3 },
        experts,
        ..ModelConfig::tiny(chat.tokenizer.vocab())
    };
    fs::create_dir_all(folder).unwrap();
    base::save(&dev, &Weights::init(&dev, shape, 7).unwrap(), &chat, folder).unwrap();
    folder.display().to_string()
}

#[test]
fn one_two_four_and_eight_ranks_give_the_same_bits_though_groups_are_fewer_than_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let eight = same_on(&[1, 2, 4, 8], &["dist.lanes=8"], dir.path());
    // Lanes move the order of sums, as they must to prove anything.
    let one = dir.path().join("one lane");
    train(1, &config(&["dist.lanes=1"]), &one, false);
    assert_ne!(metrics(&one), metrics(&eight));
}

#[test]
fn lanes_dealt_unevenly_over_updates_with_weights_and_a_reference_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "dist.lanes=4",
        "rollout.products_per_step=5",
        "grpo.optimizer_steps_per_batch=2",
        "loss.importance=tis",
        "optim.moments=bf16",
        "grpo.kl=0.05",
    ];
    same_on(&[1, 4, 2], &sets, dir.path());
}

#[test]
fn three_lanes_on_three_ranks_give_the_same_bits_with_the_kl_in_the_reward() {
    let dir = tempfile::tempdir().unwrap();
    same_on(&[1, 3], &["dist.lanes=3", "loss.kl_in=reward", "grpo.optimizer_steps_per_batch=2"], dir.path());
}

#[test]
fn guided_replies_are_scored_among_the_same_tokens_on_every_rank() {
    let dir = tempfile::tempdir().unwrap();
    let guided = ["dist.lanes=4", "rollout.constrain=true", "rollout.temperature=2"];
    for (name, kl_in) in [("loss", "loss.kl_in=loss"), ("reward", "loss.kl_in=reward")] {
        let sets = [&guided[..], &["grpo.kl=0.05", kl_in]].concat();
        let run = same_on(&[1, 4], &sets, &dir.path().join(name));
        for row in metrics(&run) {
            let row: serde_json::Value = serde_json::from_str(&row).unwrap();
            assert_eq!((&row["rollout/bitwise_frac"], &row["format_error_rate"]), (&1.0.into(), &0.0.into()), "{row}");
        }
    }
}

#[test]
fn an_adapter_and_a_mixture_of_experts_give_the_same_bits_on_four_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let dense = format!("model.base={}", small_model(&dir.path().join("dense"), None));
    same_on(&[1, 4], &[&dense, "dist.lanes=4", "lora.rank=4", "grpo.steps=2"], &dir.path().join("lora"));
    let experts = Experts { count: 8, active: 2, intermediate_size: 16, normalise: true };
    let sparse = format!("model.base={}", small_model(&dir.path().join("sparse"), Some(experts)));
    same_on(&[1, 4], &[&sparse, "dist.lanes=4", "loss.balance=0.01", "grpo.steps=2"], &dir.path().join("moe"));
}

#[test]
fn the_emulated_gpu_gives_the_same_bits_on_four_ranks_in_f32_and_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let base = format!("model.base={}", small_model(&dir.path().join("model"), None));
    for dtype in ["f32", "bf16"] {
        let dtype_is = format!("model.dtype={dtype}");
        let sets = [
            &*base,
            &dtype_is,
            "device=emu",
            "dist.lanes=4",
            "grpo.steps=2",
            "rollout.max_reply_tokens=6",
            "reward.length=0.5",
            "game.turns=1",
            "eval.products=1",
            "eval.best_of=1",
        ];
        same_on(&[1, 4], &sets, &dir.path().join(dtype));
    }
}

#[test]
fn a_run_of_a_set_task_gives_the_same_bits_on_four_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "dist.lanes=4",
        "task.name=menu",
        "task.supervised_tokens=3000",
        "rollout.max_reply_tokens=64",
        "reward.length=0",
    ];
    let config = config(&[&sets[..], &["grpo.steps=1"]].concat());
    let [one, four] = [1, 4].map(|world| {
        let run = dir.path().join(world.to_string());
        train(world, &config, &run, false);
        run
    });
    assert_eq!(metrics(&one), metrics(&four));
    assert_eq!(fs::read(one.join("episodes.jsonl")).unwrap(), fs::read(four.join("episodes.jsonl")).unwrap());
}

/// The files of the latest checkpoint that hold moments.
fn moment_files(run: &Path) -> Vec<PathBuf> {
    let latest = run.join("checkpoints").join(fs::read_to_string(run.join("latest")).unwrap().trim());
    dist_common::moment_files(&latest)
}

#[test]
fn a_run_goes_on_on_any_ranks_from_the_shards_of_others_to_the_bits_of_the_undisturbed_one() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let config = config(&["dist.lanes=4", "optim.moments=bf16"]);
    train(1, &config, &whole, false);
    // The stop is asked of every rank before each step: each begins with one step done. Of one rank there is one file.
    for worlds in [[4, 2, 1], [1, 4, 2]] {
        let cut = dir.path().join(format!("{worlds:?}"));
        for (world, steps) in worlds.into_iter().zip([1, 2]) {
            let all = stopped_after(world, &config, &cut, steps > 1, steps);
            assert!(all.iter().all(|step| *step.as_ref().unwrap() == steps), "{all:?}");
            assert_eq!(moment_files(&cut).len(), world, "each rank writes its own");
        }
        train(worlds[2], &config, &cut, true);
        assert_same_bits(&whole, &cut);
    }
}

#[test]
fn a_shard_that_is_missing_damaged_or_of_another_checkpoint_is_named_with_its_rank_and_nothing_is_changed() {
    let (dir, config) = (tempfile::tempdir().unwrap(), config(&["dist.lanes=4"]));
    let run = dir.path().join("run");
    stopped_after(4, &config, &run, false, 2);
    let files = moment_files(&run);
    let third = fs::read(&files[2]).unwrap();
    let refused = |world: usize, wants: &[&str]| {
        let before = metrics(&run);
        for said in ranked(world, &config, &run, true) {
            let said = said.unwrap_err().to_string();
            assert!(wants.iter().all(|want| said.contains(want)) && !said.contains('\n'), "want {wants:?} in: {said}");
        }
        assert_eq!(before, metrics(&run));
    };
    fs::remove_file(&files[2]).unwrap();
    refused(2, &["optimizer-00003-of-00004.safetensors: rank 2's part of the optimizer's moments, is missing"]);
    let mut damaged = third.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&files[2], damaged).unwrap();
    refused(1, &["optimizer-00003-of-00004.safetensors: rank 2's part", "does not match its checksum"]);
    fs::write(&files[2], third).unwrap();
    train(2, &config, &run, true);
}

#[test]
fn a_rank_whose_weights_differ_is_named_even_when_it_is_the_first() {
    for odd in [0, 2] {
        let said = at_a_table(60_000, |ranks| {
            agree::same(ranks, "weights after this step", if ranks.rank() == odd { 0xbad } else { 0xcafe })
        });
        let (host, want) = (agree::host(), format!("weights after this step: rank {odd} on "));
        for said in said {
            let named = said.contains(&format!("{want}{host} has 00000bad, the 3 others have 0000cafe"));
            assert!(named && !said.contains('\n'), "{said}");
        }
    }
    assert_eq!(at_a_table(60_000, |ranks| agree::same(ranks, "weights", 7)), ["well"; 4]);
}

#[test]
fn above_one_rank_a_bf16_run_keeps_its_f32_parameters_in_shards_and_goes_on_on_others_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let base = format!("model.base={}", small_model(&dir.path().join("model"), None));
    let (lanes, reply) = ("dist.lanes=4", "rollout.max_reply_tokens=6");
    let sets =
        [&base, "model.dtype=bf16", "device=emu", lanes, reply, "game.turns=1", "eval.products=1", "eval.best_of=1"];
    let (config, dev) = (config(&[&sets[..], &["grpo.steps=2"]].concat()), Device::open("emu", 1).unwrap());
    let trained = |rank, world| {
        let mut plan = Plan::dry(&dev);
        rl::planned_on(&Ranks::on_paper(rank, world), &config, &mut plan).unwrap();
        let bytes = |name: &str| plan.rows.iter().find(|row| row.name == name).unwrap().bytes;
        (bytes("trained"), bytes("trained, in bf16"))
    };
    let (master, read) = trained(0, 1);
    assert_eq!(master, 2 * read);
    let shards: Vec<(usize, usize)> = (0..4).map(|rank| trained(rank, 4)).collect();
    assert!(shards.iter().all(|(_, whole)| *whole == read), "what forwards read is whole: {shards:?}");
    assert_eq!(shards.iter().map(|(own, _)| own).sum::<usize>(), master, "each has a part alone: {shards:?}");
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    train(1, &config, &whole, false);
    stopped_after(4, &config, &cut, false, 1);
    train(2, &config, &cut, true);
    assert_same_bits(&whole, &cut);
}

/// Trains until the last rank alone has heard, at the end of a step, that it should stop.
fn stopped_after(world: usize, config: &Config, run: &Path, resume: bool, steps: u64) -> Vec<Result<u64, Error>> {
    std::thread::scope(|scope| {
        let ranks = Threads::new(world, Duration::from_secs(600)).into_iter().map(Ranks::linked);
        let each: Vec<_> = ranks
            .map(|ranks| {
                scope.spawn(move || {
                    let own = AtomicBool::new(false);
                    let hear = &mut |event: Event| {
                        if let Event::Step(row) = event {
                            let last = ranks.rank() + 1 == ranks.world();
                            own.fetch_or(last && row["step"] == steps, Ordering::Relaxed);
                        }
                    };
                    train::train_ranked(&ranks, config, run, resume, &own, hear).map(|finished| finished.step)
                })
            })
            .collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn lanes_that_ranks_do_not_divide_are_refused_by_key_with_a_number_that_works() {
    let dir = tempfile::tempdir().unwrap();
    for result in ranked(4, &config(&["dist.lanes=6"]), dir.path(), false) {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("dist.lanes") && message.contains("as 8"), "{message}");
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
}

#[test]
fn a_rank_of_another_config_is_named_with_its_host_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (config(&["dist.lanes=4"]), config(&["dist.lanes=4", "optim.lr=0.5"]));
    let told: Vec<String> = std::thread::scope(|scope| {
        let ranks = Threads::new(4, Duration::from_secs(600)).into_iter().map(Ranks::linked);
        let each: Vec<_> = ranks
            .map(|ranks| {
                let config = if ranks.rank() == 2 { &other } else { &mine };
                let run = dir.path();
                scope.spawn(move || {
                    let stop = AtomicBool::new(false);
                    train::train_ranked(&ranks, config, run, false, &stop, &mut |_| ()).err().unwrap().to_string()
                })
            })
            .collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let host = haggle::dist::agree::host();
    for message in told {
        let named = format!("config: rank 2 on {host} has lr = 0.5");
        assert!(message.contains(&named) && !message.contains('\n'), "{message}");
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
}

/// Four ranks at a table of little patience, each doing `act`; what they say.
fn at_a_table(patience: u64, act: impl Fn(&Ranks) -> Result<(), Error> + Sync) -> Vec<String> {
    std::thread::scope(|scope| {
        let ranks = Threads::new(4, Duration::from_millis(patience)).into_iter().map(Ranks::linked);
        let act = &act;
        let each: Vec<_> = ranks.map(|ranks| scope.spawn(move || act(&ranks))).collect();
        let said = each.into_iter().map(|rank| rank.join().unwrap());
        said.map(|said| said.map_or_else(|e| e.to_string(), |()| "well".into())).collect()
    })
}

#[test]
fn a_rank_that_left_that_sleeps_or_that_is_elsewhere_is_named_by_all_who_wait() {
    let left = at_a_table(60_000, |ranks| if ranks.rank() == 2 { Ok(()) } else { ranks.meet("weights") });
    let waiting = |said: &[String]| [&said[0], &said[1], &said[3]].map(String::clone);
    for said in waiting(&left) {
        assert_eq!(said, "ranks: collective 1 (weights) waits for rank 2, which has left");
    }
    let sleeps = at_a_table(300, |ranks| {
        ranks.meet("start")?;
        if ranks.rank() == 2 {
            std::thread::sleep(Duration::from_millis(1500));
        }
        ranks.meet("gradients")
    });
    for said in waiting(&sleeps) {
        assert_eq!(said, "ranks: collective 2 (gradients) waits 0 s for rank 2");
    }
    let elsewhere = at_a_table(60_000, |ranks| ranks.meet(if ranks.rank() == 3 { "weights" } else { "stop" }));
    for said in elsewhere {
        assert_eq!(said, "ranks: rank 0 is at collective 1 (stop), rank 3 at collective 1 (weights)");
    }
}

#[test]
fn what_fails_at_one_rank_is_told_to_all_with_its_number() {
    let said = at_a_table(60_000, |ranks| {
        let mine = if ranks.rank() == 1 { Err(Error::Training { what: "a NaN".into() }) } else { Ok(()) };
        ranks.agree("start", mine)
    });
    assert_eq!(said[1], "training stopped: a NaN");
    for other in [0, 2, 3] {
        assert_eq!(said[other], "ranks: rank 1 failed: training stopped: a NaN");
    }
}

#[test]
fn the_bytes_sent_for_gradients_are_those_of_a_ring() {
    let (n, world) = (100_000, 4);
    let sent = at_a_table(60_000, |ranks| {
        let dev = Device::open("cpu", 1)?;
        let cuts = haggle::dist::shards::shards(n, world);
        let value = |i: usize| (i as f32 * 0.37 + ranks.rank() as f32).sin();
        let mut branch = dev.upload(&(0..n).map(value).collect::<Vec<f32>>())?;
        let longest = haggle::dist::shards::longest(n, world);
        let mut held = (0..3).map(|_| dev.upload(&vec![0f32; longest])).collect::<Result<Vec<_>, _>>()?;
        ranks.reduce("gradients", &dev, branch.view_mut(), &cuts, &mut held)?;
        ranks.share("sums", &dev, branch.view_mut(), &cuts)?;
        // Every rank sends all but its own piece, and its own to all others: 2 (N - 1) / N of all bytes, on average.
        let own = cuts[ranks.rank()].len();
        assert_eq!(ranks.sent_bytes(), 4 * ((n - own) + own * (world - 1)) as u64);
        // ((0 + 1) + (2 + 3)), whoever adds.
        let of = |i: usize, rank: usize| (i as f32 * 0.37 + rank as f32).sin();
        for (i, got) in dev.to_vec::<f32>(branch.view()).into_iter().enumerate() {
            let want = (of(i, 0) + of(i, 1)) + (of(i, 2) + of(i, 3));
            assert_eq!(got.to_bits(), want.to_bits(), "element {i} at rank {}", ranks.rank());
        }
        Ok(())
    });
    assert_eq!(sent, ["well"; 4]);
}

/// The plan of each rank of a run, and its rows of metrics.
fn plans_and_rows(world: usize, config: &Config, run: &Path) -> Vec<(Vec<PlanRow>, Vec<Value>)> {
    std::thread::scope(|scope| {
        let ranks = Threads::new(world, Duration::from_secs(600)).into_iter().map(Ranks::linked);
        let each: Vec<_> = ranks
            .map(|ranks| {
                scope.spawn(move || {
                    let (stop, mut plan, mut rows) = (AtomicBool::new(false), vec![], vec![]);
                    let hear = &mut |event: Event| match event {
                        Event::Ready { plan: held, .. } => plan = held.rows.clone(),
                        Event::Step(row) => rows.push(serde_json::to_value(row).unwrap()),
                        _ => {}
                    };
                    train::train_ranked(&ranks, config, run, false, &stop, hear).unwrap();
                    (plan, rows)
                })
            })
            .collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Bytes of a plan by group, the frozen weights' aside: what training adds.
fn added(rows: &[PlanRow]) -> BTreeMap<&str, usize> {
    let mut groups = BTreeMap::new();
    for row in rows.iter().filter(|row| row.group != "weights" || row.name.starts_with("trained")) {
        *groups.entry(row.group).or_insert(0) += row.bytes;
    }
    groups
}

#[test]
fn the_plan_on_paper_is_what_each_rank_holds_and_its_bytes_are_those_that_are_sent() {
    let (dir, world, lanes) = (tempfile::tempdir().unwrap(), 4, "dist.lanes=8");
    let (config, dev) = (config(&[lanes]), Device::open("cpu", 1).unwrap());
    let held = plans_and_rows(world, &config, &dir.path().join("run"));
    let on_paper = |ranks: &Ranks| {
        let mut plan = Plan::dry(&dev);
        rl::planned_on(ranks, &config, &mut plan).unwrap();
        plan.rows
    };
    for (rank, (plan, _)) in held.iter().enumerate() {
        let paper = on_paper(&Ranks::on_paper(rank, world));
        assert_eq!(added(plan), added(&paper), "rank {rank}");
    }
    // A quarter of the moments, two lanes of eight: two gradients and three sums of a shard, not four gradients.
    let alone = on_paper(&Ranks::alone());
    let n = added(&alone)["gradients"] / 4 / 4;
    let longest = haggle::dist::shards::longest(n, world);
    let [moments, gradients] = ["optimizer", "gradients"].map(|group| added(&held[0].0)[group]);
    assert!(moments - 8 * longest < 16 << 10, "{moments} bytes of {n} parameters");
    assert!(gradients - 4 * 2 * n - 4 * 3 * longest < 1 << 10, "{gradients} bytes of {n} parameters");

    let sets: Vec<&str> = SMALL.iter().chain([&lanes]).flat_map(|set| ["--set", set]).collect();
    let args = [&["train", "--dry-run", "--json", "--ranks", "4", "--link", "1e9"][..], &sets].concat();
    let said: Value = serde_json::from_str(&cli_common::haggle(dir.path(), &args).done()).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let sends = &said["ranks"]["sends"];
    let formula = held.iter().map(|(_, rows)| number(&rows[0]["time/sent_bytes_formula"])).fold(0.0, f64::max);
    assert_eq!(number(&sends["bytes_a_step"]), formula, "{sends}");
    assert_eq!(number(&sends["links"][0]["seconds_a_step"]), formula / 1e9);
    for (rank, (_, rows)) in held.iter().enumerate() {
        for row in rows {
            // Episodes, sums and parts of the norm are beside it.
            let [sent, formula] = ["time/sent_bytes", "time/sent_bytes_formula"].map(|key| number(&row[key]));
            assert!(sent >= formula && sent < 1.25 * formula, "rank {rank}: {sent} sent, {formula} by the formula");
        }
    }
    let (plan, rank) = (&said["plan_bytes"], said["ranks"]["rank"].as_u64().unwrap() as usize);
    for group in ["optimizer", "gradients"] {
        assert_eq!(plan[group], added(&held[rank].0)[group], "{plan}");
    }
    assert_eq!(said["ranks"]["moment_bytes"], 8 * longest);
}

#[test]
fn a_rank_is_held_to_its_own_plan_and_to_its_share_of_the_machine() {
    let (config, lanes) = (config(&["dist.lanes=4", "device=emu"]), 4);
    let card = |bytes| Device::Gpu(Arc::new(Gpu::Emu(Emu::new(1).unwrap().with_bytes(bytes))));
    let (alone, one_of_four) = (Ranks::alone(), Ranks::on_paper(0, lanes));
    let bytes = |ranks: &Ranks| teach::fits(&card(u64::MAX), &config, ranks).unwrap().total_bytes() as u64;
    let need = bytes(&one_of_four);
    assert!(need < bytes(&alone), "{need} bytes");
    assert!(teach::fits(&card(need), &config, &one_of_four).is_ok());
    for (bytes, ranks) in [(need - 1, &one_of_four), (need, &alone)] {
        let said = teach::fits(&card(bytes), &config, ranks).err().unwrap().to_string();
        assert!(said.contains("are free"), "{said}");
    }
    let cpu = Device::open("cpu", 1).unwrap();
    assert!(memory::fit_beside(&cpu, &config, &rl::planned, 2).is_ok());
    let said = memory::fit_beside(&cpu, &config, &rl::planned, 1 << 40).err().unwrap().to_string();
    assert!(said.contains("limited by the other ranks on this machine"), "{said}");
}

#[test]
fn ranks_on_paper_need_a_dry_run_and_lanes_that_they_divide_and_say_what_links_take() {
    let dir = tempfile::tempdir().unwrap();
    let dry = |more: &[&str]| cli_common::haggle(dir.path(), &[&["train", "--dry-run", "--ranks", "8"], more].concat());
    let said = dry(&["--set", "dist.lanes=8"]).done();
    for part in ["8, a device each", "1 of the lanes", "at 450 GB/s (NVLink)", "at 50 GB/s (a network card", "% of it"]
    {
        assert!(said.contains(part), "want `{part}` in: {said}");
    }
    dry(&[]).refused(2, &["dist.lanes: 1 lanes are no tree that 8 ranks can share", "as 8"]);
    dry(&["--set", "dist.lanes=8", "--link", "0"]).refused(2, &["--link", "above 0"]);
    cli_common::haggle(dir.path(), &["train", "--ranks", "8"]).refused(2, &["--dry-run"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
}

/// Tunes on so many ranks, until the last one alone hears that `steps` updates are done; true for those that did all.
fn tuned(world: usize, config: &Config, talks: &[Talk], run: &Path, steps: u64) -> Vec<bool> {
    let how = Tuning {
        model: "embedded".into(),
        model_crc: 0,
        data: vec![],
        epochs: 1,
        batch: 5,
        lr: 1e-3,
        val: 0.2,
        max_tokens: 4096,
        micro_tokens: 512,
        save_every: 2,
        keep: 2,
        seed: 3,
    };
    std::thread::scope(|scope| {
        let ranks = Threads::new(world, Duration::from_secs(600)).into_iter().map(Ranks::linked);
        let each: Vec<_> = ranks
            .map(|ranks| {
                let how = &how;
                scope.spawn(move || {
                    let dev = Device::open("cpu", 1).unwrap();
                    let base = base::open(&dev, "embedded", config).unwrap();
                    let stock = tune::stock(&base.chat, talks, how).unwrap();
                    let made = match (ranks.is_first(), run.join("config.toml").exists()) {
                        (false, _) => Ok(RunDir::beside(run)),
                        (true, true) => RunDir::reopen(run),
                        (true, false) => RunDir::create(run, &config.to_toml(true)),
                    };
                    let (dir, own) = (ranks.agree("the run directory", made).unwrap(), AtomicBool::new(false));
                    let last = ranks.rank() + 1 == ranks.world();
                    let hear = &mut |told: Told| {
                        if let Told::Step(row) = told {
                            own.fetch_or(last && row["step"] == steps, Ordering::Relaxed);
                        }
                    };
                    tune::run(how, &stock, &dev, base, (&dir, config, &ranks), &own, hear).unwrap()
                })
            })
            .collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn supervision_on_four_ranks_gives_the_bits_of_one_and_goes_on_on_two() {
    let dir = tempfile::tempdir().unwrap();
    let dialogues = Dialogues::new(5).unwrap();
    let views = (0..).flat_map(|index| dialogues.views(index)).take(25).enumerate();
    let talks: Vec<Talk> = views.map(|(i, (_, messages))| Talk { place: i.to_string(), messages }).collect();
    let config = config(&["dist.lanes=4"]);
    let kept = |run: &Path| {
        let latest = run.join("checkpoints").join(fs::read_to_string(run.join("latest")).unwrap().trim());
        (metrics(run), fs::read(latest.join("model.safetensors")).unwrap(), dist_common::moments(&latest))
    };
    let [one, four, cut] = ["one", "four", "cut"].map(|name| dir.path().join(name));
    assert_eq!(tuned(1, &config, &talks, &one, 99), [true]);
    assert_eq!(tuned(4, &config, &talks, &four, 99), [true; 4]);
    assert_eq!(tuned(4, &config, &talks, &cut, 2), [false; 4]);
    assert_eq!(moment_files(&cut).len(), 4);
    assert_eq!(tuned(2, &config, &talks, &cut, 99), [true; 2]);
    let (rows, weights, moments) = kept(&one);
    assert_eq!(rows.len(), 5, "the loss before, and four updates: {rows:?}");
    for run in [&four, &cut] {
        assert_eq!(rows, kept(run).0);
        assert!(weights == kept(run).1 && moments == kept(run).2, "{} differs", run.display());
    }
    // Lanes move the order of sums, as they must to prove anything.
    let plain = dir.path().join("one lane");
    tuned(1, &self::config(&["dist.lanes=1"]), &talks, &plain, 99);
    assert_ne!(weights, kept(&plain).1);
}
