//! What tests of ranks share: small runs on ranks that are threads, and everything of a run that must have the same bits.

#![allow(clippy::unwrap_used, dead_code)]

use haggle::cli::train;
use haggle::config::{Config, Override};
use haggle::dist::Ranks;
use haggle::dist::threads::Threads;
use haggle::error::Error;
use haggle::train::rl::Event;
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Settings of seconds.
pub const SMALL: [&str; 15] = [
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

/// A config of settings `key=value`, the later ones above those before.
pub fn config_of(settings: &[&str], overrides: &[&str]) -> Config {
    let parse = |text: &&str| {
        let (key, value) = text.split_once('=').unwrap();
        Override { origin: text.to_string(), key: key.into(), value: value.into() }
    };
    Config::load(None, &settings.iter().chain(overrides).map(parse).collect::<Vec<_>>()).unwrap()
}

/// A config of [`SMALL`], with overrides.
pub fn config(overrides: &[&str]) -> Config {
    config_of(&SMALL, overrides)
}

/// Does `act` at each of `world` ranks, which wait so many milliseconds for each other.
pub fn on_threads<T: Send>(world: usize, patience_ms: u64, act: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let ranks = Threads::new(world, Duration::from_millis(patience_ms)).into_iter().map(Ranks::linked);
        let act = &act;
        let each: Vec<_> = ranks.map(|ranks| scope.spawn(move || act(&ranks))).collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Bytes, each with what they are.
pub type Named = Vec<(String, Vec<u8>)>;

/// Milliseconds that no run waits.
pub const PATIENT: u64 = 600_000;

/// Four ranks of little patience, each doing `act`; what they say.
pub fn at_a_table(patience_ms: u64, act: impl Fn(&Ranks) -> Result<(), Error> + Sync) -> Vec<String> {
    let said = on_threads(4, patience_ms, act).into_iter();
    said.map(|said| said.map_or_else(|e| e.to_string(), |()| "well".into())).collect()
}

/// Trains on so many ranks; what each of them says.
pub fn ranked(world: usize, config: &Config, run: &Path, resume: bool) -> Vec<Result<u64, Error>> {
    stopped_after(world, config, run, resume, u64::MAX)
}

/// Trains until the last rank alone has heard, at the end of a step, that it should stop.
pub fn stopped_after(world: usize, config: &Config, run: &Path, resume: bool, steps: u64) -> Vec<Result<u64, Error>> {
    on_threads(world, PATIENT, |ranks| {
        let own = AtomicBool::new(false);
        let hear = &mut |event: Event| {
            if let Event::Step(row) = event {
                own.fetch_or(is_last(ranks) && row["step"] == steps, Ordering::Relaxed);
            }
        };
        train::train_ranked(ranks, config, run, resume, &own, hear).map(|finished| finished.step)
    })
}

/// True for the rank with the highest number.
pub fn is_last(ranks: &Ranks) -> bool {
    ranks.rank() + 1 == ranks.world()
}

/// Trains on so many ranks to the end.
pub fn train(world: usize, config: &Config, run: &Path, resume: bool) {
    for step in ranked(world, config, run, resume) {
        assert_eq!(step.unwrap(), config.grpo.steps as u64);
    }
}

/// The rows of metrics.jsonl without what was measured.
pub fn metrics(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| haggle::run::metrics::without_times(&serde_json::from_str(line).unwrap());
    text.lines().map(|line| serde_json::to_string(&row(line)).unwrap()).collect()
}

/// The latest checkpoint of a run.
pub fn latest(run: &Path) -> PathBuf {
    run.join("checkpoints").join(fs::read_to_string(run.join("latest")).unwrap().trim())
}

/// Everything of a run that must have the same bits.
pub fn bits(run: &Path) -> Named {
    let written = ["episodes.jsonl", "latest", "summary.json", "games.jsonl", "samples.jsonl"];
    let mut all: Vec<_> = written.map(|name| (name.to_string(), fs::read(run.join(name)).unwrap())).into();
    let latest = latest(run);
    let mut kept: Vec<PathBuf> = fs::read_dir(&latest).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    all.extend(
        kept.iter().map(|path| (path.strip_prefix(&latest).unwrap().display().to_string(), fs::read(path).unwrap())),
    );
    all.extend(moments(&latest));
    all.push(("metrics.jsonl".into(), metrics(run).join("\n").into_bytes()));
    all
}

pub fn assert_same_bits(a: &Path, b: &Path) {
    let (a_bits, b_bits) = (bits(a), bits(b));
    assert_eq!(a_bits.len(), b_bits.len());
    for ((name, x), (_, y)) in a_bits.into_iter().zip(b_bits) {
        assert!(x == y, "{name} differs between {} and {}", a.display(), b.display());
    }
}

/// Runs on each number of ranks, all of which must be the same to the bit. Returns the first one's directory.
pub fn same_on(worlds: &[usize], overrides: &[&str], dir: &Path) -> PathBuf {
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

/// The files of a checkpoint that hold moments, in the order of their ranks.
pub fn moment_files(checkpoint: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(checkpoint.join("haggle")).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("optimizer");
    let mut files: Vec<PathBuf> = entries.filter(is_one).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no moments", checkpoint.display());
    files
}

/// Both moments of every parameter of a checkpoint, whoever wrote them, however they were cut.
pub fn moments(checkpoint: &Path) -> Named {
    let files: Vec<Vec<u8>> = moment_files(checkpoint).iter().map(|path| fs::read(path).unwrap()).collect();
    let of = |name: &str| -> Vec<u8> {
        let mut parts: Vec<(usize, Vec<u8>)> = vec![];
        for bytes in &files {
            let (tensors, header) =
                (SafeTensors::deserialize(bytes).unwrap(), SafeTensors::read_metadata(bytes).unwrap().1);
            let tensor = tensors.tensor(name).unwrap();
            let (n, mut at) = (tensor.shape()[0], 0);
            let elements = header.metadata().as_ref().map_or(format!("0..{n}"), |of| of["elements"].clone());
            for part in elements.split(',').filter(|part| !part.is_empty()) {
                let (start, end) = part.split_once("..").unwrap();
                let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
                let (each, len) = (tensor.data().len() / n, end - start);
                parts.push((start, tensor.data()[at * each..(at + len) * each].to_vec()));
                at += len;
            }
            assert_eq!(at, n, "{elements}");
        }
        parts.sort_by_key(|(start, _)| *start);
        parts.into_iter().flat_map(|(_, bytes)| bytes).collect()
    };
    ["m", "v"].map(|name| (format!("moments {name}"), of(name))).into()
}

/// What supervision must have the same: its rows, weights and moments.
pub fn learned(run: &Path) -> (Vec<String>, Vec<u8>, Named) {
    let latest = latest(run);
    (metrics(run), fs::read(latest.join("model.safetensors")).unwrap(), moments(&latest))
}
