//! Memory of cards that are not here: `haggle train --dry-run --card`.

use crate::support::cli::haggle;
use serde_json::Value;

/// What the plan says of a model, by card and use.
fn planned(args: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let said = haggle(dir.path(), &[&["train", "--dry-run", "--json"], args].concat()).done();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
    let said: Value = serde_json::from_str(&said).unwrap();
    said["cards"].as_array().unwrap().clone()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap()
}

#[test]
fn serving_qwen3_8b_holds_its_parameters_in_two_bytes_each_and_pages() {
    let rows = planned(&["--model", "qwen3-8b", "--card", "80,141", "--serve-seqs", "16", "--context", "4096"]);
    assert_eq!(rows.len(), 6);
    for (row, gb) in [(&rows[2], 80.0), (&rows[5], 141.0)] {
        assert_eq!((number(row, "card_gb"), &row["fits"]), (gb, &Value::Bool(true)), "{row}");
        let weights = number(&row["plan_bytes"], "weights") / 1e9;
        assert!((16.38..16.45).contains(&weights), "{weights} GB");
        // 2 x 36 layers x 8 heads x 128 x 2 bytes a token; a page more for each sequence.
        let pages = number(&row["plan_bytes"], "kv pages");
        let tokens = pages / (2.0 * 36.0 * 8.0 * 128.0 * 2.0);
        assert!((16.0 * 4096.0..16.0 * 4500.0).contains(&tokens), "{tokens} tokens");
    }
    for row in [&rows[0], &rows[3]] {
        // Master, moments and gradients in f32, and the copy in bf16.
        assert!(number(row, "total_bytes") > 18.0 * 8.19e9 && row["fits"] == Value::Bool(false), "{row}");
    }
    // With moments in bf16, and each layer's input alone kept, the larger card has room for it.
    assert!(rows[0]["advice"].as_str().unwrap().contains("take a smaller model or a larger device"), "{}", rows[0]);
    let advice = rows[3]["advice"].as_str().unwrap();
    assert!(advice.contains("train.checkpoint = \"layers\", optim.moments = \"bf16\" together"), "{advice}");
    let with = ["--set", "engine.pages=129", "--set", "engine.max_rows=64", "--set", "grpo.micro_batch_tokens=4096"];
    let more = ["--set", "train.checkpoint=layers", "--set", "optim.moments=bf16", "--context", "4096"];
    let model = ["--model", "qwen3-8b", "--card", "141"];
    assert_eq!(planned(&[&model[..], &with, &more].concat())[0]["fits"], Value::Bool(true));
}

#[test]
fn an_adapter_over_qwen3_8b_trains_on_a_card_and_the_base_is_there_once() {
    let args = ["--model", "qwen3-8b", "--card", "80", "--context", "4096"];
    let adapter = |more: &[&str]| planned(&[&args, more].concat()).remove(1);
    let row = adapter(&[]);
    assert_eq!(row["what"], "training, an adapter of rank 32");
    let plan = &row["plan_bytes"];
    assert!((16.38..16.5).contains(&(number(plan, "weights") / 1e9)), "{row}");
    // A and B of 7 matrices in 36 layers: 87.3 million of rank 32; two moments and a gradient of them, in f32.
    let parameters = 36.0 * 32.0 * (3.0 * (4096.0 + 12288.0) + 2.0 * (4096.0 + 4096.0) + 2.0 * (4096.0 + 1024.0));
    assert!((number(plan, "optimizer") / (8.0 * parameters) - 1.0).abs() < 0.01, "{row}");
    assert!((number(plan, "gradients") / (4.0 * parameters) - 1.0).abs() < 0.01, "{row}");
    assert!((number(plan, "adapter") / (6.0 * parameters) - 1.0).abs() < 0.01, "{row}");
    assert_eq!(adapter(&["--lora", "rank=8"])["what"], "training, an adapter of rank 8");
}

#[test]
fn the_advice_is_followed_and_then_it_fits_and_no_more_does() {
    let model = ["--model", "qwen3-30b-a3b", "--card", "80", "--context", "8192"];
    let serving = |seqs: &str| planned(&[&model[..], &["--serve-seqs", seqs]].concat()).remove(2);
    let much = serving("512");
    assert_eq!(much["fits"], Value::Bool(false), "{much}");
    let advice = much["advice"].as_str().unwrap();
    let most: u64 = advice.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(serving(&most.to_string())["fits"], Value::Bool(true));
    assert_eq!(serving(&(most + 1).to_string())["fits"], Value::Bool(false));
    let small = serving("1");
    assert!((61.0..61.3).contains(&(number(&small["plan_bytes"], "weights") / 1e9)), "{small}");
}

#[test]
fn what_cannot_be_planned_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dry = ["train", "--dry-run", "--model"];
    let refused = |more: &[&str], code, parts: &[&str]| {
        haggle(dir.path(), &[&dry[..], more].concat()).refused(code, parts);
    };
    refused(&["gpt-2", "--card", "80"], 3, &["gpt-2: no such folder, and no preset", "qwen3-30b-a3b"]);
    refused(&["qwen3-8b", "--card", "0"], 2, &["--card"]);
    haggle(dir.path(), &["train", "--card", "80"]).refused(2, &["--dry-run"]);
    let said = haggle(dir.path(), &["train", "--dry-run", "--model", "qwen3-0.6b", "--card", "80"]).done();
    assert!(said.contains("on a card of 80 GB") && said.contains("Nothing was started."), "{said}");
}
