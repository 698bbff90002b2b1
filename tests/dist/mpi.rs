//! `haggle train` by real processes under MPI's own launchers, Open MPI's and MPICH's: the bits of one process, and what is
//! said of ranks that are killed, that sleep, that are of another run. Skipped, loudly, where neither is installed;
//! `HAGGLE_REQUIRE_MPI=1` makes a skip a failure.

use crate::common::{assert_same_bits, learned};
use crate::support::cli::{Said, said};
use haggle::model::config::Experts;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = "
threads = 1
[dist]
lanes = 4
[game]
turns = 2
[rollout]
products_per_step = 2
group_size = 2
max_reply_tokens = 64
[grpo]
steps = 3
micro_batch_tokens = 512
entropy = 0.01
[run]
checkpoint_every = 1
[eval]
products = 1
rollouts = 1
best_of = 1
";

/// The launchers that are here.
fn launchers(test: &str) -> Vec<&'static str> {
    let here = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let found: Vec<&str> = ["mpirun.openmpi", "mpirun.mpich"].into_iter().filter(here).collect();
    if found.is_empty() {
        assert!(std::env::var_os("HAGGLE_REQUIRE_MPI").is_none(), "no mpirun.openmpi and no mpirun.mpich is installed");
        eprintln!("SKIPPED {test}: no mpirun.openmpi and no mpirun.mpich is installed");
    }
    found
}

/// `launcher -n N haggle args`, once for each of several programs.
fn launch(launcher: &str, programs: &[(usize, Vec<String>)]) -> Command {
    let mut command = Command::new(launcher);
    if launcher == "mpirun.openmpi" {
        command.args(["--oversubscribe", "--bind-to", "none"]);
        command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    }
    for (i, (n, args)) in programs.iter().enumerate() {
        let between = (i > 0).then_some(":");
        command.args(between).args(["-n", &n.to_string()]).arg(crate::support::cli::binary()).args(args);
    }
    command
}

/// The arguments of a run, begun or gone on with.
fn args(dir: &Path, run: &Path, more: &[&str]) -> Vec<String> {
    let config = dir.join("small.toml");
    fs::write(&config, CONFIG).unwrap();
    let begun = run.join("config.toml").exists();
    let how = if begun { vec!["--resume".into()] } else { vec!["--config".into(), config.display().to_string()] };
    let head = ["train".into(), "--out".into(), run.display().to_string()];
    head.into_iter().chain(how).chain(more.iter().map(|s| s.to_string())).collect()
}

fn ran(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn trained(launcher: &str, n: usize, dir: &Path, run: &Path) {
    let output = ran(&mut launch(launcher, &[(n, args(dir, run, &[]))]));
    assert!(output.status.success(), "{launcher} -n {n}: {}", errors(&output));
}

fn rows(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// A run on this many ranks, spawned, once it has `steps` steps behind it.
fn running(launcher: &str, n: usize, dir: &Path, run: &Path, steps: usize, more: &[&str]) -> Child {
    let mut command = launch(launcher, &[(n, args(dir, run, more))]);
    // The board of the ranks before.
    let _ = fs::remove_dir_all(run.join("ranks"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while rows(run) < steps || pid(run, n - 1).is_none() {
        assert!(began.elapsed() < Duration::from_secs(500), "no step {steps} within its time");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// The process of a rank, from the board.
fn pid(run: &Path, rank: usize) -> Option<u64> {
    let note = fs::read(run.join(format!("ranks/{rank:04}.json"))).ok()?;
    serde_json::from_slice::<serde_json::Value>(&note).ok()?["pid"].as_u64()
}

fn signal(name: &str, pid: u64) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

#[test]
fn processes_give_the_bits_of_one_with_open_mpi_and_with_mpich() {
    let dir = tempfile::tempdir().unwrap();
    let found = launchers("processes_give_the_bits_of_one_with_open_mpi_and_with_mpich");
    let one = dir.path().join("one");
    if !found.is_empty() {
        let mut command = Command::new(crate::support::cli::binary());
        command.args(args(dir.path(), &one, &[]));
        assert!(ran(&mut command).status.success());
    }
    for launcher in found {
        for n in [2, 4] {
            let run = dir.path().join(format!("{launcher}-{n}"));
            trained(launcher, n, dir.path(), &run);
            assert_same_bits(&one, &run);
            sent_what_the_formula_says(&run, n);
        }
    }
}

/// What the first rank sent in a step: gradients and weights by the formula, and episodes and sums beside them.
fn sent_what_the_formula_says(run: &Path, n: usize) {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let [sent, formula] =
            ["sent_bytes", "sent_bytes_formula"].map(|key| row[format!("time/{key}")].as_f64().unwrap());
        assert!(formula > 1e6 && sent >= formula && sent < formula * 1.5, "sent {sent}, by the formula {formula}");
        assert_eq!(row["time/ranks"], n);
    }
}

#[test]
fn the_doctor_finds_the_sum_of_four_ranks_to_be_that_of_one() {
    let dir = tempfile::tempdir().unwrap();
    for launcher in launchers("the_doctor_finds_the_sum_of_four_ranks_to_be_that_of_one") {
        let words = ["doctor", "--ranks", "--json", "--device", "cpu", "--threads", "1"].map(String::from);
        let mut command = launch(launcher, &[(4, words.into())]);
        command.current_dir(dir.path());
        let output = ran(&mut command);
        assert!(output.status.success(), "{}", errors(&output));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["ranks"], 4);
        assert_eq!(found["sum"], "ok: the bits of one rank, at every rank");
        assert!(found["all-to-all of 16 MiB"].as_str().unwrap().ends_with("GB/s a rank"), "{found}");
    }
}

#[test]
fn a_run_that_one_rank_is_asked_to_stop_and_one_is_killed_goes_on_on_fewer_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for launcher in
        launchers("a_run_that_one_rank_is_asked_to_stop_and_one_is_killed_goes_on_on_fewer_to_the_same_bits")
    {
        let (whole, cut) = (dir.path().join(format!("{launcher}-whole")), dir.path().join(format!("{launcher}-cut")));
        // What ranks keep in parts is theirs alone: a lost rank must not cost it.
        let shard = if launcher == "mpirun.mpich" { "dist.shard=weights" } else { "dist.shard=moments" };
        let long = ["--set", "grpo.steps=24", "--set", shard];
        let output = ran(&mut launch(launcher, &[(4, args(dir.path(), &whole, &long))]));
        assert!(output.status.success(), "{}", errors(&output));
        let child = running(launcher, 4, dir.path(), &cut, 1, &long);
        signal("TERM", pid(&cut, 2).unwrap());
        let stopped = child.wait_with_output().unwrap();
        assert!(!stopped.status.success(), "stopped ranks say so by their code");
        let (before, kept) = (rows(&cut), fs::read_to_string(cut.join("latest")).unwrap());
        assert_eq!(kept.trim(), format!("step-{before:06}"), "what was stopped is saved");
        assert!(before < 20, "stopped after {before} of 24 steps");
        let child = running(launcher, 2, dir.path(), &cut, before + 1, &[]);
        signal("KILL", pid(&cut, 1).unwrap());
        assert!(!child.wait_with_output().unwrap().status.success(), "a killed rank ends all");
        assert!(rows(&cut) < 24, "killed behind its last step");
        trained(launcher, 1, dir.path(), &cut);
        assert_same_bits(&whole, &cut);
    }
}

#[test]
fn a_rank_that_sleeps_is_named_with_its_host_phase_and_collective_and_the_run_ends() {
    let dir = tempfile::tempdir().unwrap();
    for launcher in launchers("a_rank_that_sleeps_is_named_with_its_host_phase_and_collective_and_the_run_ends") {
        let run = dir.path().join(launcher);
        let child =
            running(launcher, 2, dir.path(), &run, 1, &["--set", "dist.timeout_s=2", "--set", "grpo.steps=500"]);
        let asleep = pid(&run, 1).unwrap();
        signal("STOP", asleep);
        let began = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(began.elapsed() < Duration::from_secs(90), "ended after {:?}", began.elapsed());
        let (said, host) = (errors(&output), haggle::dist::agree::host());
        assert_eq!(output.status.code(), Some(i32::from(haggle::dist::board::MISSED)), "{said}");
        let line =
            said.lines().find(|line| line.contains("haggle: ranks: collective")).unwrap_or_else(|| panic!("{said}"));
        let named = format!("for rank 1 ({host}, pid {asleep}): last seen in phase ");
        assert!(line.contains(&named) && line.contains("behind collective"), "{line}");
    }
}

#[test]
fn a_rank_of_another_config_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    for launcher in launchers("a_rank_of_another_config_is_named_and_nothing_is_written") {
        let run = dir.path().join(launcher);
        let other = args(dir.path(), &run, &["--set", "optim.lr=0.5"]);
        let output = ran(&mut launch(launcher, &[(1, args(dir.path(), &run, &[])), (1, other)]));
        let named = format!("haggle: ranks: config: rank 1 on {} has lr = 0.5", haggle::dist::agree::host());
        assert!(!output.status.success() && errors(&output).contains(&named), "{}", errors(&output));
        assert!(!run.exists(), "nothing is written");
    }
}

#[test]
fn a_library_of_another_mpi_than_the_launchers_is_refused_with_both_names() {
    let dir = tempfile::tempdir().unwrap();
    let found = launchers("a_library_of_another_mpi_than_the_launchers_is_refused_with_both_names");
    if found.len() < 2 {
        return;
    }
    for (launcher, library, name) in
        [("mpirun.openmpi", "libmpich.so.12", "MPICH"), ("mpirun.mpich", "libmpi.so.40", "Open MPI")]
    {
        let mut command = launch(launcher, &[(2, args(dir.path(), &dir.path().join(launcher), &[]))]);
        command.env("HAGGLE_MPI", library);
        let output = ran(&mut command);
        let said = errors(&output);
        assert!(!output.status.success(), "{said}");
        let line = said.lines().find(|line| line.contains("they are of two MPIs")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains(name) && line.contains("counts rank 0 of 1"), "{line}");
    }
}

#[test]
fn ranks_are_for_train_sft_and_eval_and_lanes_that_they_do_not_divide_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let as_launched = |args: &[&str]| -> Said {
        let mut command = crate::support::cli::command(dir.path(), args);
        command.envs([("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("HAGGLE_MPI", "libnone.so")]);
        said(command, "")
    };
    as_launched(&["init", "--out", "new"]).refused(6, &["haggle init", "2 ranks", "haggle train, sft and eval share"]);
    let generate = ["sft", "--generate", "4", "--write", "talks.jsonl"];
    as_launched(&generate).refused(6, &["haggle sft --generate", "2 ranks"]);
    as_launched(&["train"]).refused(6, &["no MPI library", "libnone.so", "HAGGLE_MPI"]);
    for launcher in launchers("ranks_are_for_train_sft_and_eval_and_lanes_that_they_do_not_divide_are_refused") {
        let run = dir.path().join(launcher);
        let output = ran(&mut launch(launcher, &[(2, args(dir.path(), &run, &["--set", "dist.lanes=3"]))]));
        let (said, key) = (errors(&output), "haggle: dist.lanes: 3 lanes are no tree that 2 ranks can share");
        assert!(!output.status.success() && said.contains(key), "{said}");
        assert!(!run.exists(), "nothing is written");
    }
}

/// Runs one process and, of each launcher, four: the run directories.
fn one_and_four(test: &str, dir: &Path, args: &dyn Fn(&Path) -> Vec<String>) -> Vec<PathBuf> {
    let found = launchers(test);
    let one = dir.join("one");
    let mut command = Command::new(crate::support::cli::binary());
    let alone = ran(command.args(args(&one)));
    assert!(alone.status.success(), "{}", errors(&alone));
    let each = found.into_iter().map(|launcher| {
        let run = dir.join(launcher);
        let output = ran(&mut launch(launcher, &[(4, args(&run))]));
        assert!(output.status.success(), "{launcher}: {}", errors(&output));
        run
    });
    std::iter::once(one.clone()).chain(each).collect()
}

#[test]
fn experts_spread_over_processes_give_the_bits_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let experts = Experts { count: 8, active: 2, intermediate_size: 16, normalise: true };
    let base = crate::support::small_model::base_in(&dir.path().join("model"), Some(experts));
    let more = ["--set", &base, "--set", "dist.shard=weights", "--set", "dist.experts=spread"];
    let args = |run: &Path| args(dir.path(), run, &more);
    let runs = one_and_four("experts_spread_over_processes_give_the_bits_of_one", dir.path(), &args);
    runs[1..].iter().for_each(|run| assert_same_bits(&runs[0], run));
}

#[test]
fn sft_by_processes_gives_the_bits_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let talks = dir.path().join("talks.jsonl");
    let generate = ["sft", "--generate", "24", "--write", &talks.display().to_string()];
    crate::support::cli::haggle(dir.path(), &generate).done();
    let args = |run: &Path| {
        let (data, out) = (talks.display().to_string(), run.display().to_string());
        let words = ["sft", "--model", "embedded", "--data", &data, "--out", &out, "--batch", "6", "--save-every", "2"];
        let more = ["--val", "0.2", "--threads", "1", "--device", "cpu", "--set", "dist.lanes=4"];
        words.iter().chain(&more).map(|word| word.to_string()).collect()
    };
    let runs = one_and_four("sft_by_processes_gives_the_bits_of_one", dir.path(), &args);
    let first = learned(&runs[0]);
    assert!(first.0.len() > 2 && first.0[1].contains("grad_norm"), "{:?}", first.0);
    for run in &runs[1..] {
        let other = learned(run);
        assert_eq!(first.0, other.0, "{}", run.display());
        assert!(first.1 == other.1 && first.2 == other.2, "weights or moments of {}", run.display());
    }
}

#[test]
fn an_evaluation_by_processes_finds_what_one_finds() {
    let dir = tempfile::tempdir().unwrap();
    let args = |run: &Path| {
        let out = run.display().to_string();
        let words =
            ["eval", "--model", "embedded", "--out", &out, "--threads", "1", "--device", "cpu", "--rollouts", "2"];
        let more = ["--set", "eval.products=3", "--set", "eval.best_of=2", "--seller", "base,boulware"];
        words.iter().chain(&more).map(|word| word.to_string()).collect()
    };
    let runs = one_and_four("an_evaluation_by_processes_finds_what_one_finds", dir.path(), &args);
    for run in &runs[1..] {
        for file in ["games.jsonl", "summary.json"] {
            let [one, four] = [&runs[0], run].map(|run| fs::read(run.join(file)).unwrap());
            assert!(!one.is_empty() && one == four, "{file} of {}", run.display());
        }
    }
}
