//! What ranks send in a step, measured and by the formula, and how long a step takes on one process and on two: the tables of
//! docs/ranks.md.
//!
//! `cargo bench --bench ranks` trains the embedded model for two steps on 2, 4 and 8 ranks that are threads, once for each
//! `dist.shard`, and a random one with experts, everywhere and spread, and prints the first two tables: bytes do not depend on
//! where it runs. `cargo bench --bench ranks -- --times [--steps N] [--set KEY=VALUE]...` trains on one and on two processes of
//! one thread each (`mpirun.openmpi` or `mpirun.mpich`, on a quiet machine of two cores at least) and prints the last: means over
//! the steps behind the first.

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/small_model.rs"]
mod small_model;

use haggle::cli::train::train_ranked;
use haggle::config::{Config, Override};
use haggle::device::Device;
use haggle::dist::threads::Threads;
use haggle::dist::{Experts, Ranks, Shard};
use haggle::model::{self, Plan};
use haggle::train::rl::{self, Event};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Settings of all tables.
const STEP: [&str; 9] = [
    "rollout.products_per_step=8",
    "rollout.group_size=4",
    "game.turns=3",
    "grpo.micro_batch_tokens=1024",
    "optim.warmup_steps=0",
    "eval.products=1",
    "eval.rollouts=1",
    "eval.best_of=1",
    "threads=1",
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.iter().any(|arg| arg == "--times") { times(&args) } else { bytes() }
}

fn config(more: &[String]) -> Config {
    let parse = |text: &str| {
        let (key, value) = text.split_once('=').unwrap();
        Override { origin: text.to_string(), key: key.into(), value: value.into() }
    };
    let all = STEP.iter().copied().chain(more.iter().map(String::as_str));
    Config::load(None, &all.map(parse).collect::<Vec<_>>()).unwrap()
}

/// The tables of bytes.
fn bytes() {
    let head = "ranks | a rank holds | sent by the formula | sent, measured | of it episodes and sums |";
    println!("| dist.shard | {head}\n|---|---|---|---|---|---|");
    for (shard, world) in Shard::WORDS.iter().flat_map(|shard| [2, 4, 8].map(|world| (shard, world))) {
        println!("| {shard} | {} |", sent(&[format!("dist.shard={shard}")], world));
    }
    let dir = tempfile::tempdir().unwrap();
    let experts = model::config::Experts { count: 32, active: 4, intermediate_size: 128, normalise: true };
    let base = small_model::base_of(dir.path(), Some(experts), 4, |_, _| ());
    println!("\n| dist.shard | dist.experts | {head}\n|---|---|---|---|---|---|---|");
    for shard in ["gradients", "weights"] {
        for (experts, world) in Experts::WORDS.iter().flat_map(|experts| [2, 4, 8].map(|world| (experts, world))) {
            let more = [base.clone(), format!("dist.shard={shard}"), format!("dist.experts={experts}")];
            println!("| {shard} | {experts} | {} |", sent(&more, world));
        }
    }
}

/// What the first of so many ranks holds, and what the one that sends most sends in the second step.
fn sent(more: &[String], world: usize) -> String {
    let config = config(&[more, &["dist.lanes=8".into(), "grpo.steps=2".into()]].concat());
    let dir = tempfile::tempdir().unwrap();
    let rows = second_steps(&config, world, &dir.path().join("run"));
    let most = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).fold(0.0, f64::max);
    let [sent, formula] = ["time/sent_bytes", "time/sent_bytes_formula"].map(most);
    let mut plan = Plan::dry(&Device::open("cpu", 1).unwrap());
    rl::planned_on(&Ranks::on_paper(0, world), &config, &mut plan).unwrap();
    let mib = |bytes: f64| bytes / (1u64 << 20) as f64;
    let (holds, beside) = (mib(plan.total_bytes() as f64), 100.0 * (sent - formula) / sent);
    format!("{world} | {holds:.1} MiB | {:.3} MiB | {:.3} MiB | {beside:.2} %", mib(formula), mib(sent))
}

/// Each rank's row of the second step.
fn second_steps(config: &Config, world: usize, run: &Path) -> Vec<Value> {
    let train = |ranks: Ranks| {
        let (stop, mut last) = (AtomicBool::new(false), Value::Null);
        let hear = &mut |event: Event| {
            if let Event::Step(row) = event {
                last = serde_json::to_value(row).unwrap();
            }
        };
        train_ranked(&ranks, config, run, false, &stop, hear).unwrap();
        last
    };
    let train = &train;
    std::thread::scope(|scope| {
        let ranks = Threads::new(world, Duration::from_secs(3600)).into_iter().map(Ranks::linked);
        let each: Vec<_> = ranks.map(|ranks| scope.spawn(move || train(ranks))).collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The table of times.
fn times(args: &[String]) {
    let behind = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let steps = behind("--steps").unwrap_or("6".into());
    let own = args.windows(2).filter(|two| two[0] == "--set").map(|two| two[1].clone());
    let own: Vec<String> = own.chain([format!("grpo.steps={steps}"), "dist.lanes=2".into()]).collect();
    println!("| dist.shard | processes | step | rollout | forward and backward | optimizer | the rest | sent a step |");
    println!("|---|---|---|---|---|---|---|---|");
    for shard in Shard::WORDS {
        for world in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let config = config(&[&own[..], &[format!("dist.shard={shard}")]].concat());
            std::fs::write(dir.path().join("step.toml"), config.to_toml(true)).unwrap();
            launched(world, dir.path());
            let rows = std::fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
            let rows: Vec<Value> = rows.lines().skip(1).map(|row| serde_json::from_str(row).unwrap()).collect();
            let mean = |key: &str| {
                rows.iter().map(|row| row[format!("time/{key}")].as_f64().unwrap_or(0.0)).sum::<f64>()
                    / rows.len() as f64
            };
            let (step, rollout, learn, optimizer) =
                (mean("step_s"), mean("rollout_s"), mean("forward_s") + mean("backward_s"), mean("optimizer_s"));
            println!(
                "| {shard} | {world} | {step:.3} s | {rollout:.3} s | {learn:.3} s | {optimizer:.3} s | {:.3} s | {:.2} MiB |",
                step - rollout - learn - optimizer,
                mean("sent_bytes") / (1 << 20) as f64
            );
        }
    }
}

/// Trains by `step.toml` in a folder, on so many processes.
fn launched(world: usize, dir: &Path) {
    let haggle = env!("CARGO_BIN_EXE_haggle");
    let is_here = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let mut command = match (world, ["mpirun.openmpi", "mpirun.mpich"].into_iter().find(is_here)) {
        (1, _) => Command::new(haggle),
        (_, Some(launcher)) => {
            let mut command = Command::new(launcher);
            if launcher == "mpirun.openmpi" {
                command.args(["--oversubscribe", "--bind-to", "none"]);
                command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
            }
            command.args(["-n", &world.to_string(), haggle]);
            command
        }
        (_, None) => panic!("no mpirun.openmpi and no mpirun.mpich is installed (tools/install-mpi)"),
    };
    let output = command.args(["train", "--config", "step.toml", "--out", "run"]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
