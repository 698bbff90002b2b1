//! Gradients and weights in shards, summed and gathered layer by layer: one order of sums, whatever the number of ranks and
//! whichever of the two is in shards; what a rank then holds and sends; what ends a run.
//!
//! Ranks are threads, as in `dist_threads.rs`; over NCCL and as processes they are in `dist_nccl.rs` and `dist_mpi.rs`.

use crate::common::*;
use haggle::cli::train::train_ranked;
use haggle::config::Config;
use haggle::device::Device;
use haggle::dist::Ranks;
use haggle::model::config::Experts;
use haggle::model::plan::PlanRow;
use haggle::model::{Phase, Plan};
use haggle::train::rl::{self, Event};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::AtomicBool;

const GRADIENTS: &str = "dist.shard=gradients";
const WEIGHTS: &str = "dist.shard=weights";

#[test]
fn gradients_and_weights_in_shards_give_one_order_of_sums_on_any_ranks_though_groups_are_fewer_than_ranks() {
    let (dir, lanes) = (tempfile::tempdir().unwrap(), "dist.lanes=8");
    let gradients = same_on(&[1, 8], &[lanes, GRADIENTS], &dir.path().join("gradients"));
    let weights = same_on(&[4, 2, 1], &[lanes, WEIGHTS], &dir.path().join("weights"));
    assert_same_bits(&gradients, &weights);
    // Rounds move the order of sums, as they must to prove anything.
    let lane_by_lane = dir.path().join("moments");
    train(1, &config(&[lanes, "grpo.steps=1"]), &lane_by_lane, false);
    assert_ne!(metrics(&lane_by_lane)[0], metrics(&weights)[0]);
}

#[test]
fn lanes_dealt_unevenly_in_rounds_over_updates_with_weights_and_a_reference_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "dist.lanes=4",
        "rollout.products_per_step=5",
        "grpo.optimizer_steps_per_batch=2",
        "grpo.steps=2",
        "loss.importance=tis",
        "optim.moments=bf16",
        "grpo.kl=0.05",
        "loss.kl_in=reward",
    ];
    let gradients = same_on(&[4], &[&sets[..], &[GRADIENTS]].concat(), &dir.path().join("gradients"));
    let weights = same_on(&[1, 4], &[&sets[..], &[WEIGHTS]].concat(), &dir.path().join("weights"));
    assert_same_bits(&gradients, &weights);
}

#[test]
fn six_lanes_on_three_and_six_ranks_and_a_mixture_of_experts_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let experts = Experts { count: 8, active: 2, intermediate_size: 16, normalise: true };
    let base = crate::support::small_model::base_in(&dir.path().join("model"), Some(experts));
    same_on(
        &[1, 3, 6],
        &[&base, "dist.lanes=6", WEIGHTS, "loss.balance=0.01", "grpo.steps=2"],
        &dir.path().join("runs"),
    );
}

#[test]
fn the_emulated_gpu_gives_the_same_bits_in_f32_and_in_bf16() {
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
            "grpo.micro_batch_tokens=256",
            "rollout.max_reply_tokens=6",
            "game.turns=1",
            "eval.products=1",
            "eval.best_of=1",
        ];
        let dir = dir.path().join(dtype);
        let gradients = same_on(&[4], &[&sets[..], &[GRADIENTS]].concat(), &dir.join("gradients"));
        let weights = same_on(&[1, 4], &[&sets[..], &[WEIGHTS]].concat(), &dir.join("weights"));
        assert_same_bits(&gradients, &weights);
    }
}

/// The weights and moments of a run.
fn learned_bits(run: &Path) -> Vec<(String, Vec<u8>)> {
    let latest = latest(run);
    let mut all = moments(&latest);
    all.push(("weights".into(), fs::read(latest.join("model.safetensors")).unwrap()));
    all
}

#[test]
fn of_one_micro_batch_a_lane_and_without_clipping_rounds_are_the_sums_of_lanes() {
    let dir = tempfile::tempdir().unwrap();
    let sets = ["dist.lanes=4", "grpo.micro_batch_tokens=8192", "optim.grad_clip=1e9", "grpo.steps=2"];
    let run = |world: usize, shard: &str| {
        let run = dir.path().join(shard.replace('=', "-"));
        train(world, &config(&[&sets[..], &[shard]].concat()), &run, false);
        learned_bits(&run)
    };
    let lane_by_lane = run(1, "dist.shard=moments");
    for (shard, world) in [(GRADIENTS, 4), (WEIGHTS, 2)] {
        for ((name, want), (_, got)) in lane_by_lane.iter().zip(run(world, shard)) {
            assert!(*want == got, "{name} differs with {shard}");
        }
    }
}

#[test]
fn a_run_goes_on_on_four_two_and_one_rank_from_the_parts_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&["dist.lanes=4", WEIGHTS]);
    let whole = dir.path().join("whole");
    train(2, &config, &whole, false);
    let cut = dir.path().join("cut");
    for (world, steps) in [4, 2].into_iter().zip([1, 2]) {
        stopped_after(world, &config, &cut, steps > 1, steps);
        let files = moment_files(&latest(&cut));
        assert_eq!(files.len(), world, "each rank writes its own");
        let bytes = fs::read(&files[1]).unwrap();
        let elements = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap()["elements"].clone();
        assert!(elements.matches("..").count() > 3, "a part of each bucket: {elements}");
    }
    train(1, &config, &cut, true);
    assert_same_bits(&whole, &cut);
}

/// What a rank of a run holds, and its rows.
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

fn on_paper(config: &Config, ranks: &Ranks) -> Plan {
    let mut plan = Plan::dry(&Device::open("cpu", 1).unwrap());
    rl::planned_on(ranks, config, &mut plan).unwrap();
    plan
}

#[test]
fn the_plan_counts_the_larger_phase_and_what_is_sent_is_what_the_formula_says() {
    let (dir, world) = (tempfile::tempdir().unwrap(), 4);
    let held: Vec<usize> = ["dist.shard=moments", GRADIENTS, WEIGHTS]
        .map(|shard| on_paper(&config(&["dist.lanes=4", shard]), &Ranks::on_paper(0, world)).total_bytes())
        .into();
    assert!(held.windows(2).all(|two| two[1] < two[0]), "each holds less than the one before: {held:?}");
    for shard in [GRADIENTS, WEIGHTS] {
        let config = config(&["dist.lanes=4", "eval.every=1", "grpo.steps=2", shard]);
        let told = plans_and_rows(world, &config, &dir.path().join(shard));
        for (rank, (plan, rows)) in told.iter().enumerate() {
            let added = |rows: &[PlanRow]| -> Vec<PlanRow> {
                rows.iter().filter(|row| row.group != "weights" || row.name.starts_with("trained")).cloned().collect()
            };
            let paper = on_paper(&config, &Ranks::on_paper(rank, world));
            assert_eq!(added(plan), added(&paper.rows), "rank {rank}");
            let in_phases = plan.iter().filter(|row| row.phase != Phase::Always).count();
            assert_eq!(in_phases > 0, shard == WEIGHTS);
            for row in rows {
                let [sent, formula] =
                    ["time/sent_bytes", "time/sent_bytes_formula"].map(|key| row[key].as_f64().unwrap());
                // Episodes, sums and parts of the norm are beside it.
                assert!(sent >= formula && sent < 1.25 * formula, "rank {rank}: {sent} sent, {formula} by the formula");
            }
        }
    }
}

#[test]
fn a_rank_that_leaves_while_others_gather_a_layer_is_named_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&["dist.lanes=4", WEIGHTS]);
    // Rank 2 leaves when the others begin to learn.
    let said = on_threads(4, PATIENT, |ranks| {
        let stop = AtomicBool::new(false);
        let hear = &mut |event: Event| {
            if let (2, Event::Learning { .. }) = (ranks.rank(), &event) {
                resume_unwind(Box::new("gone"));
            }
        };
        let run = || train_ranked(ranks, &config, dir.path(), false, &stop, hear).err().map(|e| e.to_string());
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_default()
    });
    for rank in [0, 1, 3] {
        let said = said[rank].as_deref().unwrap_or_default();
        assert!(said.contains("(weights of a layer) waits for rank 2, which has left"), "rank {rank}: {said}");
    }
}

#[test]
fn an_adapter_and_supervision_with_weights_in_shards_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dry = |more: &[&str]| crate::support::cli::haggle(dir.path(), &[&["train", "--dry-run"], more].concat());
    dry(&["--set", WEIGHTS, "--set", "lora.rank=4"]).refused(2, &["dist.shard", "an adapter", "set moments"]);
    dry(&["--set", "dist.shard=all"]).refused(2, &["dist.shard", "moments, gradients, weights"]);
    let said = dry(&["--set", WEIGHTS, "--set", "dist.lanes=8", "--ranks", "8"]).done();
    for part in ["while it plays", "while it learns, the larger counts", "of weights for a rollout"] {
        assert!(said.contains(part), "want `{part}` in: {said}");
    }
    let (data, model) = (dir.path().join("talks.jsonl"), dir.path().join("model"));
    crate::support::small_model::base_in(&model, None);
    fs::write(&data, "").unwrap();
    let tune = ["sft", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "--set", WEIGHTS];
    crate::support::cli::haggle(dir.path(), &tune).refused(2, &["dist.shard", "haggle sft", "gradients or moments"]);
}
