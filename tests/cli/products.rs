//! What a run says of its products and models before it begins, and of steps that teach nothing.

use crate::support::cli::{SMALL, haggle, haggle_with};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

/// Records of a category, list prices from `dollars` up.
fn write(folder: &Path, file: &str, category: &str, n: usize, dollars: usize) {
    fs::create_dir_all(folder).expect("makes");
    let record = |i: usize| {
        let list = format!("${}.99", dollars + i);
        json!({"title": format!("Woollen Thing No. {i}"), "list_price": list, "highest_price": list,
            "lowest_price": format!("${}.49", dollars / 2 + i), "category": category, "description": "Of wool."})
    };
    let all: Vec<Value> = (0..n).map(record).collect();
    fs::write(folder.join(file), json!(all).to_string()).expect("writes");
}

#[test]
fn doubles_are_named_and_counted_once() {
    let dir = dir();
    let p = dir.path().join("p");
    write(&p, "books.json", "books", 60, 20);
    fs::copy(p.join("books.json"), p.join("books (1).json")).expect("copies");
    let said = haggle(dir.path(), &["train", "--dry-run", "--threads", "1", "--products", "p"]);
    assert!(
        said.err.contains("books (1).json: is the same file as") && said.err.contains("books.json, and is skipped"),
        "{}",
        said.err
    );
    let out = said.done();
    let line = out.lines().find(|line| line.contains("held out")).expect("a line on the products");
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.iter().sum::<usize>(), 60, "{line}");
}

#[test]
fn the_embedded_model_refuses_a_prompt_style_it_never_saw_before_anything_is_made() {
    let dir = dir();
    let paper = ["--set", "game.prompt_style=paper", "--threads", "1"];
    for command in
        [&["train", "--out", "run"][..], &["train", "--dry-run"], &["eval", "--model", "embedded"], &["chat"]]
    {
        haggle(dir.path(), &[command, &paper].concat())
            .refused(2, &["game.prompt_style", "embedded model", "set compact"]);
    }
    assert!(!dir.path().join("run").exists());
}

#[test]
fn prices_that_the_embedded_model_miscopies_are_counted() {
    let dir = dir();
    write(&dir.path().join("p"), "cars.json", "cars", 40, 9_990);
    let want = ["warning: ", " products list above $9999.99".replace("$9", "$9,").as_str()].map(String::from);
    for command in [
        &["train", "--dry-run"][..],
        &["eval", "--model", "embedded", "--set", "eval.rollouts=1", "--set", "eval.best_of=1"],
        &["chat", "--product", "cars_40"],
    ] {
        let said = haggle(dir.path(), &[command, &["--products", "p", "--threads", "1"]].concat());
        assert!(want.iter().all(|part| said.err.contains(part)), "{}", said.err);
        said.done();
    }
    let near = haggle(dir.path(), &["chat", "--products", "p", "--product", "cars_1"]);
    assert!(!near.err.contains("warning"), "{}", near.err);
}

#[test]
fn a_person_may_bargain_over_a_folder_of_one_product() {
    let dir = dir();
    write(&dir.path().join("p"), "my things (2).json", "", 1, 20);
    let said =
        haggle_with(dir.path(), &["chat", "--products", "p", "--as", "buyer", "--json"], "offer 11\nquit\n").done();
    assert!(said.contains("\"product\":\"my-things-2_1\"") && said.contains("\"by\":\"buyer\""), "{said}");
    haggle(dir.path(), &["train", "--products", "p"]).refused(3, &["1 products leave none for the"]);
}

#[test]
fn every_fault_of_a_folder_is_a_line() {
    let dir = dir();
    let p = dir.path().join("p");
    write(&p, "a.json", "books", 3, 20);
    let text = fs::read_to_string(p.join("a.json")).expect("reads");
    fs::write(p.join("b.json"), text.replace("\"$20.99\"", "NaN").replace("\"$12.49\"", "-1")).expect("writes");
    fs::write(p.join("c.json"), "{").expect("writes");
    let said = haggle(dir.path(), &["train", "--products", "p", "--out", "never"]);
    assert_eq!(said.code, 3);
    let lines: Vec<&str> = said.err.lines().collect();
    let want =
        ["b.json: record 1: `list_price`: NaN", "b.json: record 3: `lowest_price` is negative", "c.json: is not JSON"];
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines.iter().zip(want).all(|(line, want)| line.starts_with("haggle: ") && line.contains(want)),
        "{lines:?}"
    );
    assert!(!dir.path().join("never").exists());
}

#[test]
fn steps_that_teach_nothing_are_told_once_and_counted() {
    let dir = dir();
    haggle(dir.path(), &["init", "--preset", "tiny", "--out", "random", "--threads", "1"]).done();
    let args = [&["train", "--model", "random", "--steps", "3", "--out", "run"][..], &SMALL].concat();
    let said = haggle(dir.path(), &args);
    let told = "every episode ended on a reply that breaks the protocol";
    assert_eq!(said.err.matches(told).count(), 2, "{}", said.err);
    assert!(said.err.contains(&format!("step 1: warning: {told}")), "{}", said.err);
    assert!(said.err.contains(&format!("warning: {told} in 3 of 3 steps")), "{}", said.err);
    said.done();
    let args = [&["eval", "--model", "random"][..], &SMALL].concat();
    let said = haggle(dir.path(), &args);
    assert!(said.err.contains("every game of random against base ended on a reply that breaks"), "{}", said.err);
    said.done();
}

#[test]
fn a_folder_is_checked_and_every_problem_of_it_is_listed() {
    let dir = tempfile::tempdir().expect("a folder");
    let mine = dir.path().join("mine");
    std::fs::create_dir(&mine).expect("makes");
    let good = r#"{"title": "Blue mug", "list_price": 12.5, "cost": 4, "budget": 10}"#;
    std::fs::write(mine.join("mugs.jsonl"), format!("{good}\n")).expect("writes");
    let said = haggle(dir.path(), &["products", "check", "mine"]).done();
    assert!(said.contains("1 products that can be read") && said.contains("list prices from $12.50"), "{said}");
    // More than other commands list before they say how many are left.
    let bad = "{\"title\": \"\", \"list_price\": 1}\n".repeat(30);
    std::fs::write(mine.join("worse.jsonl"), bad).expect("writes");
    let said = haggle(dir.path(), &["products", "check", "mine"]);
    assert_eq!((said.code, said.out.matches("wrong: ").count()), (3, 30), "{said:?}");
    assert!(said.err.contains("mine: 30 records or files are wrong"), "{}", said.err);
    let said = haggle(dir.path(), &["products", "check", "mine", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&said.out).expect("json");
    assert_eq!((value["products"].as_u64(), value["problems"].as_array().map(Vec::len)), (Some(1), Some(30)));
    haggle(dir.path(), &["products", "check", "nowhere"]).refused(3, &["nowhere"]);
}
