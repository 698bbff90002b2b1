//! The command line and the config: help, usage errors, every config problem at once, exit codes.

use crate::support::cli::{command, haggle};
use haggle::device::Device;
use std::process::Stdio;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

const COMMANDS: [&str; 13] = [
    "train", "eval", "compare", "chat", "generate", "score", "init", "config", "doctor", "profile", "rank", "report",
    "show",
];

#[test]
fn help_of_every_command_shows_examples() {
    let dir = dir();
    let all = haggle(dir.path(), &["--help"]).done();
    for name in COMMANDS {
        assert!(all.contains(&format!("\n  {name} ")), "{name} is not in: {all}");
        let help = haggle(dir.path(), &[name, "--help"]).done();
        assert!(help.contains("Examples:\n") && help.contains(&format!("  haggle {name}")), "{help}");
        for option in ["--out", "--seed", "--device", "--threads", "--set", "--config", "--json"] {
            assert!(help.contains(option), "{name} --help lacks {option}");
        }
    }
}

#[test]
fn haggle_alone_is_its_help_and_help_knows_every_command() {
    let dir = dir();
    let help = haggle(dir.path(), &["--help"]).done();
    for args in [&[][..], &["help"]] {
        assert_eq!(haggle(dir.path(), args).done(), help);
    }
    let of = |args: &[&str]| haggle(dir.path(), args).done();
    assert_eq!(of(&["help", "train"]), of(&["train", "--help"]));
}

#[test]
fn usage_errors_are_one_line_with_code_2() {
    let dir = dir();
    haggle(dir.path(), &["confg"]).refused(2, &["confg", "config"]);
    haggle(dir.path(), &["config", "--sed", "3"]).refused(2, &["--sed", "--seed"]);
    haggle(dir.path(), &["config", "--seed", "three"]).refused(2, &["--seed", "three"]);
    haggle(dir.path(), &["config", "--set", "seed"]).refused(2, &["--set seed", "key=value"]);
    haggle(dir.path(), &["report"]).refused(2, &["<RUN>", "were not provided: <RUN>"]);
    haggle(dir.path(), &["train", "--steps", "-5"]).refused(2, &["--steps", "-5"]);
}

#[test]
fn every_config_problem_comes_at_once_with_file_line_and_key() {
    let dir = dir();
    let text =
        "seed = 1\n[grpo]\nstepz = 3\nkl = \"much\"\n\n[rollout]\ngroup_size = 1\ntop_p = 0.5\n\n[rollut]\nx = 1\n";
    std::fs::write(dir.path().join("c.toml"), text).expect("writes");
    let said = haggle(dir.path(), &["config", "--config", "c.toml", "--set", "eval.rollouts=0", "--set", "run.kep=1"]);
    assert_eq!(said.code, 2, "{said:?}");
    let lines: Vec<&str> = said.err.lines().collect();
    let want = [
        ["c.toml:3: grpo.stepz", "did you mean grpo.steps?"],
        ["c.toml:4: grpo.kl", "must be a number 0 or more"],
        ["c.toml:10: [rollut]", "did you mean [rollout]?"],
        ["--set eval.rollouts=0: eval.rollouts", "1 or more"],
        ["--set run.kep=1: run.kep", "did you mean run.keep?"],
        ["c.toml:7: rollout.group_size", "use 2 or more"],
        ["c.toml:8: rollout.top_p", "set 1.0"],
    ];
    assert_eq!(lines.len(), want.len(), "{}", said.err);
    for (line, parts) in lines.iter().zip(want) {
        assert!(parts.iter().all(|part| line.contains(part)), "want {parts:?} in {line}");
    }
}

#[test]
fn a_config_that_is_no_toml_or_not_there_is_named() {
    let dir = dir();
    std::fs::write(dir.path().join("c.toml"), "seed = \n").expect("writes");
    haggle(dir.path(), &["config", "--config", "c.toml"]).refused(2, &["c.toml:1", "not TOML"]);
    haggle(dir.path(), &["config", "--config", "no.toml"]).refused(3, &["no.toml", "cannot read the config"]);
}

#[test]
fn the_printed_config_is_a_config_with_the_same_values() {
    let dir = dir();
    let args = ["config", "--set", "optim.lr=0.001", "--seed", "7", "--threads", "3", "--out", "here"];
    let printed = haggle(dir.path(), &args).done();
    assert!(printed.contains("lr = 0.001") && printed.contains("# Seeds everything random"), "{printed}");
    std::fs::write(dir.path().join("c.toml"), &printed).expect("writes");
    assert_eq!(haggle(dir.path(), &["config", "--config", "c.toml"]).done(), printed);
    let json = haggle(dir.path(), &["config", "--config", "c.toml", "--json"]).done();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["seed"].as_u64(), json["run"]["out"].as_str()), (Some(7), Some("here")));
}

#[test]
fn a_gpu_that_is_not_there_is_code_4() {
    let dir = dir();
    if Device::open("cuda", 0).is_err() {
        haggle(dir.path(), &["doctor", "--device", "cuda"]).refused(4, &["device cuda", "use --device cpu"]);
    }
    haggle(dir.path(), &["doctor", "--device", "cuda:x"]).refused(4, &["`x` is no GPU number"]);
    haggle(dir.path(), &["doctor", "--device", "abacus"]).refused(4, &["device abacus", "unknown"]);
}

#[test]
fn doctor_finds_the_ops_in_order() {
    let dir = dir();
    let text = haggle(dir.path(), &["doctor", "--json", "--threads", "2"]).done();
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let kernels = if Device::open("cuda", 0).is_ok() { "self-test cuda" } else { "self-test emu" };
    for test in ["self-test cpu", kernels] {
        let said = report[test].as_str().unwrap_or_default();
        assert!(said.starts_with("ok: ") && !said.contains("not run"), "{report}");
    }
    for number in ["gemm GFLOP/s", "memory GiB", "memory free GiB"] {
        assert!(report[number].as_f64().is_some_and(|x| x > 0.0), "{number}: {report}");
    }
    assert!(report["built for"].is_string() && report["cuda"].is_string(), "{report}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let dir = dir();
    let mut child =
        command(dir.path(), &["config"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_folder_that_is_no_run_is_named() {
    let dir = dir();
    haggle(dir.path(), &["report", "."]).refused(3, &["not a run directory", "metrics.jsonl"]);
    haggle(dir.path(), &["report", "nowhere"]).refused(3, &["nowhere", "not a run directory"]);
}

#[test]
fn init_teaches_a_base_the_format_of_a_task_and_refuses_what_is_none() {
    let dir = dir();
    haggle(dir.path(), &["init", "--task", "game", "--out", "b"]).refused(2, &["--task", "menu, recommend or summary"]);
    haggle(dir.path(), &["init", "--task", "shop", "--out", "b"]).refused(2, &["task.name", "recommend"]);
    haggle(dir.path(), &["init", "--task", "menu", "--supervised", "--out", "b"]).refused(2, &["--supervised"]);
    haggle(dir.path(), &["init", "--model", "x", "--out", "b"]).refused(2, &["--task"]);
    let small = ["--set", "eval.products=2", "--set", "eval.rollouts=1", "--threads", "1"];
    let made = ["init", "--task", "recommend", "--tokens", "3000", "--out", "b"];
    let said = haggle(dir.path(), &[&made[..], &small].concat()).done();
    assert!(said.contains("2 replies on held-out products"), "{said}");
    let text = std::fs::read_to_string(dir.path().join("b/haggle/init.json")).expect("reads");
    let init: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&init["task"]["name"], &init["task"]["supervised_tokens"]), (&"recommend".into(), &3000.into()));
    let taught = ["train", "--task", "recommend", "--model", "b", "--set", "task.supervised_tokens=0", "--dry-run"];
    haggle(dir.path(), &taught).done();
}
