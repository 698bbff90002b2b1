//! `haggle score`, from outside: the numbers, the order of lines, and every complaint with its line.

use haggle::device::Device;
use haggle::model::{ModelConfig, Weights};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn haggle(dir: &Path, model: &Path, input: &str, threads: usize) -> Output {
    std::fs::write(dir.join("ids.jsonl"), input).unwrap();
    let threads = threads.to_string();
    Command::new(crate::support::cli::binary())
        .args(["score", "--threads", &threads, "--model"])
        .arg(model)
        .arg("--input")
        .arg(dir.join("ids.jsonl"))
        .output()
        .unwrap()
}

fn golden() -> std::path::PathBuf {
    // Tests run in the repository's root, or in a bundle that has these files too.
    std::path::absolute("tests/goldens/tied").unwrap()
}

fn logprobs(output: &Output) -> Vec<Vec<Option<f64>>> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |l: &str| {
        let json: serde_json::Value = serde_json::from_str(l).unwrap();
        json["logprobs"].as_array().unwrap().iter().map(|v| v.as_f64()).collect()
    };
    String::from_utf8_lossy(&output.stdout).lines().map(line).collect()
}

#[test]
fn scores_sum_to_the_loss_of_transformers() {
    let dir = TempDir::new().unwrap();
    let golden_json = std::fs::read_to_string(golden().join("golden.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&golden_json).unwrap();
    let records = json["sequences"].as_array().unwrap();
    let input: String = records.iter().map(|ids| format!("{{\"ids\": {ids}}}\n")).collect();
    let got = logprobs(&haggle(dir.path(), &golden(), &input, 1));
    let mut loss = 0.0;
    for (s, line) in got.iter().enumerate() {
        assert_eq!(line.len(), records[s].as_array().unwrap().len());
        assert_eq!(line[0], None);
        loss -= (1..line.len()).map(|i| json["loss_weights"][s][i].as_f64().unwrap() * line[i].unwrap()).sum::<f64>();
    }
    assert!((loss / json["loss"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{loss}");
}

#[test]
fn lines_come_out_in_order_whatever_the_micro_batches() {
    let dir = TempDir::new().unwrap();
    let record = |i: usize| format!("{{\"ids\": {:?}, \"note\": \"kept apart\"}}\n", vec![i % 60; i * 7 % 64]);
    let all: String = (0..200).map(record).collect();
    let together = haggle(dir.path(), &golden(), &all, 2);
    let scored = logprobs(&together);
    assert_eq!(scored.len(), 200);
    assert!(scored[0].is_empty(), "no ids, no logprobs");
    assert_eq!(logprobs(&haggle(dir.path(), &golden(), "\n{\"ids\": [3]}\n\n", 1)), vec![vec![None]]);
    for i in [1, 63, 64, 199] {
        let alone = haggle(dir.path(), &golden(), &record(i), 1);
        assert_eq!(logprobs(&alone)[0], scored[i], "record {i}, to the bit");
    }
}

#[test]
fn what_cannot_be_scored_is_named_with_its_line() {
    let dir = TempDir::new().unwrap();
    let good = "{\"ids\": [1, 2]}\n";
    let long = format!("{good}{{\"ids\": {:?}}}", vec![1; 97]);
    for (input, complaint) in [
        (format!("{good}\n{{\"ids\": [1, 2}}\n"), "line 3: column 14: not JSON"),
        (format!("{good}[1, 2]"), "line 2: want an object with a list `ids`"),
        (format!("{good}{{\"ids\": \"1 2\"}}"), "line 2: want an object"),
        ("{\"ids\": [1, 64]}".into(), "line 1: ids[1] is 64, want a whole number in 0..64"),
        ("{\"ids\": [-1]}".into(), "line 1: ids[0] is -1"),
        ("{\"ids\": [1.5]}".into(), "line 1: ids[0] is 1.5"),
        (long, "line 2: 97 ids, but the model has max_position_embeddings 96"),
        ("\u{0}\n".into(), "line 1: column 1: not JSON"),
    ] {
        let output = haggle(dir.path(), &golden(), &input, 1);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{input}: {said}");
        assert!(said.contains(complaint) && said.contains("ids.jsonl") && said.lines().count() == 1, "{said}");
        assert!(output.stdout.is_empty(), "{input}: nothing is printed before all is checked");
    }
}

#[test]
fn what_overflows_is_an_error_and_no_number() {
    let dir = TempDir::new().unwrap();
    let dev = Device::open("cpu", 1).unwrap();
    let mut w = Weights::init(&dev, ModelConfig::tiny(16), 1).unwrap();
    let n = w.layout.len;
    dev.write(w.data_mut(), &vec![1e15f32; n]);
    w.save(&dev, dir.path()).unwrap();
    let output = haggle(dir.path(), dir.path(), "{\"ids\": [1, 2, 3]}", 1);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("not finite"));
}

#[test]
fn a_missing_model_or_input_is_named() {
    let dir = TempDir::new().unwrap();
    let output = haggle(dir.path(), &dir.path().join("nothing"), "", 1);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing"));
    let dev = Device::open("cpu", 1).unwrap();
    let embedded = logprobs(&haggle(dir.path(), Path::new("embedded"), "{\"ids\": [1, 2047]}", 1));
    assert!(embedded[0][1].is_some_and(|l| l < 0.0));
    Weights::init(&dev, ModelConfig::tiny(16), 1).unwrap().save(&dev, dir.path()).unwrap();
    assert!(logprobs(&haggle(dir.path(), dir.path(), "", 1)).is_empty());
}
