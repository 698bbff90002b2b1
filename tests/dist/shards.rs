//! What a rank keeps of a run, in memory and on disk, what its plan says of that, and what it sends.
//!
//! Ranks are threads, as in `dist_threads.rs`, which holds their bits to those of one.

use crate::common::*;
use haggle::cli::train::train_ranked;
use haggle::config::Config;
use haggle::device::Device;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::dist::Ranks;
use haggle::model::Plan;
use haggle::model::plan::PlanRow;
use haggle::setup::memory;
use haggle::sft::teach;
use haggle::train::rl::{self, Event};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
            assert_eq!(moment_files(&latest(&cut)).len(), world, "each rank writes its own");
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
    let files = moment_files(&latest(&run));
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
fn above_one_rank_a_bf16_run_keeps_its_f32_parameters_in_shards_and_goes_on_on_others_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let base = crate::support::small_model::base_in(&dir.path().join("model"), None);
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

/// The plan of each rank of a run, and its rows of metrics.
fn plans_and_rows(world: usize, config: &Config, run: &Path) -> Vec<(Vec<PlanRow>, Vec<Value>)> {
    on_threads(world, PATIENT, |ranks| {
        let (stop, mut plan, mut rows) = (AtomicBool::new(false), vec![], vec![]);
        let hear = &mut |event: Event| match event {
            Event::Ready { plan: held, .. } => plan = held.rows.clone(),
            Event::Step(row) => rows.push(serde_json::to_value(row).unwrap()),
            _ => {}
        };
        train_ranked(ranks, config, run, false, &stop, hear).unwrap();
        (plan, rows)
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
    let said: Value = serde_json::from_str(&crate::support::cli::haggle(dir.path(), &args).done()).unwrap();
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
    let dry = |more: &[&str]| {
        crate::support::cli::haggle(dir.path(), &[&["train", "--dry-run", "--ranks", "8"], more].concat())
    };
    let said = dry(&["--set", "dist.lanes=8"]).done();
    for part in ["8, a device each", "1 of the lanes", "at 450 GB/s (NVLink)", "at 50 GB/s (a network card", "% of it"]
    {
        assert!(said.contains(part), "want `{part}` in: {said}");
    }
    dry(&[]).refused(2, &["dist.lanes: 1 lanes are no tree that 8 ranks can share", "as 8"]);
    dry(&["--set", "dist.lanes=8", "--link", "0"]).refused(2, &["--link", "above 0"]);
    crate::support::cli::haggle(dir.path(), &["train", "--ranks", "8"]).refused(2, &["--dry-run"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
}
