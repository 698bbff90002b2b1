//! Experts spread over ranks: rows go to them and back, and no bit of a run depends on it; what a rank then holds and sends;
//! what is refused.
//!
//! Ranks are threads, as in `dist_threads.rs`; over NCCL and as processes they are in `dist_nccl.rs` and `dist_mpi.rs`.

use crate::common::*;
use haggle::cli::train::train_ranked;
use haggle::config::Config;
use haggle::device::{DType, Device};
use haggle::dist::Ranks;
use haggle::model::Plan;
use haggle::model::config::Experts;
use haggle::train::rl::{self, Event};
use serde_json::Value;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::AtomicBool;

const GRADIENTS: &str = "dist.shard=gradients";
const WEIGHTS: &str = "dist.shard=weights";
const SPREAD: &str = "dist.experts=spread";

/// A random model of two layers with so many experts, two of them active, in a folder, as a setting.
fn model(dir: &Path, count: usize) -> String {
    crate::support::small_model::base_of(&dir.join("model"), Some(of(count)), 2, |_, _| ())
}

fn of(count: usize) -> Experts {
    Experts { count, active: 2, intermediate_size: 16, normalise: true }
}

#[test]
fn spread_experts_give_the_bits_of_experts_everywhere_and_of_one_rank_though_groups_are_fewer_than_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let base = model(dir.path(), 8);
    let sets = [&*base, "dist.lanes=8", "loss.balance=0.01"];
    let everywhere = same_on(&[1], &[&sets[..], &[GRADIENTS]].concat(), &dir.path().join("everywhere"));
    let weights = same_on(&[8, 2, 1], &[&sets[..], &[WEIGHTS, SPREAD]].concat(), &dir.path().join("weights"));
    assert_same_bits(&everywhere, &weights);
    let gradients = same_on(&[4], &[&sets[..], &[GRADIENTS, SPREAD]].concat(), &dir.path().join("gradients"));
    assert_same_bits(&everywhere, &gradients);
}

#[test]
fn six_experts_on_four_ranks_with_lanes_dealt_unevenly_updates_a_reference_and_layers_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let base = model(dir.path(), 6);
    let sets = [
        &*base,
        "dist.lanes=4",
        "rollout.products_per_step=7",
        "grpo.optimizer_steps_per_batch=2",
        "grpo.steps=2",
        "loss.importance=tis",
        "optim.moments=bf16",
        "grpo.kl=0.05",
        "loss.kl_in=reward",
        WEIGHTS,
    ];
    let everywhere = same_on(&[1], &sets, &dir.path().join("everywhere"));
    let again = ["train.checkpoint=layers", SPREAD];
    let spread = same_on(&[4], &[&sets[..], &again].concat(), &dir.path().join("spread"));
    assert_same_bits(&everywhere, &spread);
    let in_loss = ["loss.kl_in=loss", SPREAD];
    same_on(&[2, 4], &[&sets[..], &in_loss].concat(), &dir.path().join("in the loss"));
}

/// A router of zeros sends every token to the first experts: more rows than the one rank that has them has room for, and none to
/// the others.
#[test]
fn all_tokens_to_the_experts_of_one_rank_and_none_to_the_others_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let base = crate::support::small_model::base_of(&dir.path().join("model"), Some(of(8)), 2, |dev, weights| {
        for layer in 0..2 {
            let id = weights.layout.find(&format!("model.layers.{layer}.mlp.gate.weight")).unwrap();
            let range = weights.layout.specs[id.0].range();
            dev.write(weights.data_mut().at(range.clone()), &vec![0f32; range.len()]);
        }
    });
    let sets =
        [&*base, "dist.lanes=4", "rollout.products_per_step=4", "rollout.group_size=6", "model.context=512", WEIGHTS];
    let everywhere = same_on(&[1], &sets, &dir.path().join("everywhere"));
    let spread = same_on(&[4], &[&sets[..], &[SPREAD]].concat(), &dir.path().join("spread"));
    assert_same_bits(&everywhere, &spread);
    let first: Value = serde_json::from_str(&metrics(&spread)[0]).unwrap();
    assert_eq!(first["experts/idle"], 2 * (8 - 2), "{first}");
}

#[test]
fn the_emulated_gpu_gives_the_same_bits_in_f32_and_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let base = crate::support::small_model::base_in(&dir.path().join("model"), Some(of(4)));
    for dtype in ["f32", "bf16"] {
        let dtype_is = format!("model.dtype={dtype}");
        let sets = [
            &*base,
            &dtype_is,
            "device=emu",
            "dist.lanes=4",
            "rollout.products_per_step=4",
            "grpo.micro_batch_tokens=256",
            "rollout.max_reply_tokens=6",
            "game.turns=1",
            "eval.products=1",
            "eval.best_of=1",
            "loss.balance=0.01",
            WEIGHTS,
        ];
        let dir = dir.path().join(dtype);
        let everywhere = same_on(&[1], &sets, &dir.join("everywhere"));
        let spread = same_on(&[4], &[&sets[..], &[SPREAD]].concat(), &dir.join("spread"));
        assert_same_bits(&everywhere, &spread);
    }
}

#[test]
fn a_run_goes_on_on_four_two_and_one_rank_wherever_its_experts_are() {
    let dir = tempfile::tempdir().unwrap();
    let base = model(dir.path(), 8);
    let of = |more: &[&str]| config(&[&[&*base, "dist.lanes=4", WEIGHTS], more].concat());
    let whole = dir.path().join("whole");
    train(1, &of(&[]), &whole, false);
    let cut = dir.path().join("cut");
    stopped_after(4, &of(&[]), &cut, false, 1);
    stopped_after(2, &of(&[SPREAD]), &cut, true, 2);
    assert_eq!(moment_files(&latest(&cut)).len(), 2, "each rank writes its own");
    train(1, &of(&[]), &cut, true);
    assert_same_bits(&whole, &cut);
}

fn on_paper(config: &Config, ranks: &Ranks) -> Plan {
    let mut plan = Plan::dry(&Device::open("cpu", 1).unwrap());
    rl::planned_on(ranks, config, &mut plan).unwrap();
    plan
}

#[test]
fn a_rank_holds_its_experts_alone_and_what_is_sent_is_what_the_formula_says() {
    let (dir, world) = (tempfile::tempdir().unwrap(), 4);
    let base = model(dir.path(), 16);
    let of = |more: &[&str]| config(&[&[&*base, "dist.lanes=4", "grpo.steps=1", "eval.every=0"], more].concat());
    let bytes = |more: &[&str], name: &str| {
        let plan = on_paper(&of(more), &Ranks::on_paper(1, world));
        plan.rows.iter().find(|row| row.name == name).map_or(0, |row| row.bytes)
    };
    // Of the layer that is gathered or made in no layer's place more than its own experts.
    let experts = 16 * 3 * 32 * 16 * DType::F32.size();
    for (group, name) in [("weights", "trained, a layer"), ("gradients", "a layer")] {
        let [everywhere, spread] = [bytes(&[WEIGHTS], name), bytes(&[WEIGHTS, SPREAD], name)];
        assert!(everywhere > experts && spread < everywhere - experts / 2, "{group}: {everywhere} {spread}");
    }
    for shard in [GRADIENTS, WEIGHTS] {
        let config = of(&[shard, SPREAD]);
        let told = on_threads(world, PATIENT, |ranks| {
            let (stop, mut plan, mut rows) = (AtomicBool::new(false), vec![], vec![]);
            let hear = &mut |event: Event| match event {
                Event::Ready { plan: held, .. } => plan = held.rows.clone(),
                Event::Step(row) => rows.push(serde_json::to_value(row).unwrap()),
                _ => {}
            };
            train_ranked(ranks, &config, &dir.path().join(shard), false, &stop, hear).unwrap();
            (plan, rows)
        });
        for (rank, (plan, rows)) in told.iter().enumerate() {
            let own = |group: &str| !group.starts_with("weights");
            let paper = on_paper(&config, &Ranks::on_paper(rank, world)).rows;
            let [held, paper] = [plan, &paper].map(|rows| rows.iter().filter(|row| own(row.group)).collect::<Vec<_>>());
            assert_eq!(held, paper, "rank {rank}");
            for row in rows {
                let [sent, formula] =
                    ["time/sent_bytes", "time/sent_bytes_formula"].map(|key| row[key].as_f64().unwrap());
                assert!(sent >= formula && sent < 1.25 * formula, "rank {rank}: {sent} sent, {formula} by the formula");
            }
        }
    }
}

#[test]
fn a_rank_that_leaves_while_others_wait_for_its_rows_is_named_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&[&model(dir.path(), 8), "dist.lanes=4", GRADIENTS, SPREAD]);
    // Rank 2 leaves when the others begin to learn.
    let said = on_threads(4, PATIENT, |ranks| {
        let stop = AtomicBool::new(false);
        let hear = &mut |event: Event| {
            if let (2, Event::Learning { .. }) = (ranks.rank(), &event) {
                resume_unwind(Box::new("gone"));
            }
        };
        let run =
            || train_ranked(ranks, &config, &dir.path().join("run"), false, &stop, hear).err().map(|e| e.to_string());
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_default()
    });
    for rank in [0, 1, 3] {
        let said = said[rank].as_deref().unwrap_or_default();
        assert!(said.contains("(rows of each expert) waits for rank 2, which has left"), "rank {rank}: {said}");
    }
}

#[test]
fn what_does_not_go_with_spread_experts_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let base = model(dir.path(), 8);
    let dry = |more: &[&str]| {
        let sets = more.iter().flat_map(|set| ["--set", *set]);
        crate::support::cli::haggle(dir.path(), &["train", "--dry-run"].into_iter().chain(sets).collect::<Vec<_>>())
    };
    dry(&[SPREAD, &base]).refused(2, &["dist.experts", "round by round", "gradients", "weights"]);
    dry(&[SPREAD, WEIGHTS]).refused(2, &["dist.experts", "no experts to spread", "set everywhere"]);
    dry(&[SPREAD, &base, "lora.rank=4"]).refused(2, &["dist.experts", "an adapter", "set everywhere"]);
    dry(&["dist.experts=nowhere"]).refused(2, &["dist.experts", "everywhere, spread"]);
    let on = |ranks: &str, lanes: &str| {
        let sets = ["--set", &base, "--set", SPREAD, "--set", WEIGHTS, "--set", lanes, "--ranks", ranks];
        crate::support::cli::haggle(dir.path(), &[&["train", "--dry-run"][..], &sets].concat())
    };
    on("16", "dist.lanes=16").refused(2, &["dist.experts", "8 experts", "16 ranks", "set everywhere"]);
    let said = on("4", "dist.lanes=4").done();
    for part in ["of rows to experts and back", "of weights for a rollout"] {
        assert!(said.contains(part), "want `{part}` in: {said}");
    }
    let (data, model) = (dir.path().join("talks.jsonl"), dir.path().join("model"));
    fs::write(&data, "").unwrap();
    let tune = ["sft", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "--set", SPREAD];
    crate::support::cli::haggle(dir.path(), &[&tune[..], &["--set", GRADIENTS]].concat())
        .refused(2, &["dist.experts", "haggle sft", "set everywhere"]);
}
