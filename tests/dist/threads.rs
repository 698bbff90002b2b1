//! Training on many ranks, each a thread with its own device: the bits of one rank.
//!
//! With two ranks a + b is b + a, and any order passes; so every case has four at least.

use crate::common::*;
use haggle::cli::train::train_ranked;
use haggle::config::Config;
use haggle::device::Device;
use haggle::dist::agree;
use haggle::dist::lanes::Tree;
use haggle::error::Error;
use haggle::model::config::Experts;
use haggle::run::run_dir::RunDir;
use haggle::setup::base;
use haggle::sft::dialogues::Dialogues;
use haggle::sft::lines::Talk;
use haggle::sft::tune::{self, Told, Tuning};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    let dense = crate::support::small_model::base_in(&dir.path().join("dense"), None);
    same_on(&[1, 4], &[&dense, "dist.lanes=4", "lora.rank=4", "grpo.steps=2"], &dir.path().join("lora"));
    let experts = Experts { count: 8, active: 2, intermediate_size: 16, normalise: true };
    let sparse = crate::support::small_model::base_in(&dir.path().join("sparse"), Some(experts));
    same_on(&[1, 4], &[&sparse, "dist.lanes=4", "loss.balance=0.01", "grpo.steps=2"], &dir.path().join("moe"));
}

#[test]
fn the_emulated_gpu_gives_the_same_bits_on_four_ranks_in_f32_and_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let base = crate::support::small_model::base_in(&dir.path().join("model"), None);
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
    let told = on_threads(4, PATIENT, |ranks| {
        let (config, stop) = (if ranks.rank() == 2 { &other } else { &mine }, AtomicBool::new(false));
        train_ranked(ranks, config, dir.path(), false, &stop, &mut |_| ()).err().unwrap().to_string()
    });
    let host = agree::host();
    for message in told {
        let named = format!("config: rank 2 on {host} has lr = 0.5");
        assert!(message.contains(&named) && !message.contains('\n'), "{message}");
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
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
        ranks.reduce("gradients", &dev, (Tree::Runs, branch.view_mut()), &cuts, &mut held)?;
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
    on_threads(world, PATIENT, |ranks| {
        let dev = Device::open("cpu", 1).unwrap();
        let base = base::open(&dev, "embedded", config).unwrap();
        let stock = tune::stock(&base.chat, talks, &how).unwrap();
        let made = match (ranks.is_first(), run.join("config.toml").exists()) {
            (false, _) => Ok(RunDir::beside(run)),
            (true, true) => RunDir::reopen(run),
            (true, false) => RunDir::create(run, &config.to_toml(true)),
        };
        let (dir, own) = (ranks.agree("the run directory", made).unwrap(), AtomicBool::new(false));
        let hear = &mut |told: Told| {
            if let Told::Step(row) = told {
                own.fetch_or(is_last(ranks) && row["step"] == steps, Ordering::Relaxed);
            }
        };
        tune::run(&how, &stock, &dev, base, (&dir, config, ranks), &own, hear).unwrap()
    })
}

#[test]
fn supervision_on_four_ranks_gives_the_bits_of_one_and_goes_on_on_two() {
    let dir = tempfile::tempdir().unwrap();
    let dialogues = Dialogues::new(5).unwrap();
    let views = (0..).flat_map(|index| dialogues.views(index)).take(25).enumerate();
    let talks: Vec<Talk> = views.map(|(i, (_, messages))| Talk { place: i.to_string(), messages }).collect();
    let config = config(&["dist.lanes=4"]);
    let [one, four, cut] = ["one", "four", "cut"].map(|name| dir.path().join(name));
    assert_eq!(tuned(1, &config, &talks, &one, 99), [true]);
    assert_eq!(tuned(4, &config, &talks, &four, 99), [true; 4]);
    assert_eq!(tuned(4, &config, &talks, &cut, 2), [false; 4]);
    assert_eq!(moment_files(&latest(&cut)).len(), 4);
    assert_eq!(tuned(2, &config, &talks, &cut, 99), [true; 2]);
    let (rows, weights, moments) = learned(&one);
    assert_eq!(rows.len(), 5, "the loss before, and four updates: {rows:?}");
    for run in [&four, &cut] {
        assert_eq!(rows, learned(run).0);
        assert!(weights == learned(run).1 && moments == learned(run).2, "{} differs", run.display());
    }
    // Lanes move the order of sums, as they must to prove anything.
    let plain = dir.path().join("one lane");
    tuned(1, &config_of(&SMALL, &["dist.lanes=1"]), &talks, &plain, 99);
    assert_ne!(weights, learned(&plain).1);
}
