//! `haggle eval`: what it prints and keeps beside the rows.

use crate::support::cli::haggle;
use serde_json::Value;

/// An evaluation of the embedded model against a script, one product.
const EVAL: [&str; 8] =
    ["eval", "--model", "embedded", "--set", "eval.products=1", "--set", "eval.best_of=1", "--protocol"];

#[test]
fn a_protocols_own_row_stands_beside_ours_and_what_differs_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = haggle(dir.path(), &[&EVAL[..], &["paper", "--seller", "boulware", "--out", "e"]].concat()).done();
    let want = ["as paper evaluates", "0.7664", "91.99 %", "0.8385", "0.10 %", "eval.seller is boulware, there base"];
    let more = ["eval.products is 1, there 0", "1 products are held out, there 128", "game.prompt_style is compact"];
    for part in want.iter().chain(&more) {
        assert!(said.contains(part), "no `{part}` in\n{}", said);
    }
    assert!(!said.contains("eval.rollouts is"), "the protocol's own setting was taken");
    let kept = std::fs::read(dir.path().join("e/protocol.json")).expect("reads");
    let kept: Value = serde_json::from_slice(&kept).expect("json");
    assert_eq!(kept["published"]["reward"], 0.7664);
    assert!(kept["differs"].as_array().is_some_and(|all| all.len() > 3), "{kept}");
}

#[test]
fn json_has_the_rows_and_the_published_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = [&EVAL[..], &["paper", "--seller", "boulware", "--json", "--rollouts", "2"]].concat();
    let said = haggle(dir.path(), &args).done();
    let value: Value = serde_json::from_str(&said).expect("json");
    assert_eq!((&value["beside"]["protocol"], value["rows"][0]["n"].as_u64()), (&"paper".into(), Some(2)));
    assert!(value["beside"]["differs"].to_string().contains("eval.rollouts is 2, there 4"), "{value}");
}

#[test]
fn an_unknown_protocol_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    haggle(dir.path(), &[&EVAL[..], &["papers"]].concat()).refused(2, &["--protocol papers", "use one of paper"]);
}

#[test]
fn a_guarded_model_loses_no_game_outright_and_a_protocol_is_not_guarded() {
    let dir = tempfile::tempdir().expect("a folder");
    let hot = ["--set", "rollout.temperature=4", "--set", "eval.min_p=0", "--seller", "boulware", "--json"];
    let share = |more: &[&str]| {
        let args = [&EVAL[..7], &["--set", "eval.products=3"], &hot[..], more].concat();
        let said: Value = serde_json::from_str(&haggle(dir.path(), &args).done()).expect("json");
        let row = said["rows"][0].clone();
        assert_eq!((&row["buyer"], &row["scenario"]), (&"embedded".into(), &"all".into()));
        row["format_error_rate"].as_f64().expect("a share") + row["overshoot_rate"].as_f64().expect("a share")
    };
    assert_eq!((share(&[]), share(&["--guarded"])), (1.0, 0.0));
    let paper = [&EVAL[..], &["paper", "--set", "rollout.constrain=true"]].concat();
    haggle(dir.path(), &paper).refused(2, &["--protocol", "set rollout.constrain = false"]);
}

#[test]
fn an_evaluation_leaves_a_directory_of_its_own_and_several_are_compared() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    let eval = |more: &[&str]| {
        let own = ["--set", "eval.products=9", "--rollouts", "1", "--seller", "boulware,rejector", "--json"];
        let args = [&EVAL[..3], &["--set", "eval.best_of=2"], &own[..], more].concat();
        serde_json::from_str::<Value>(&haggle(at, &args).done()).expect("json")
    };
    let (first, second) = (eval(&[]), eval(&["--guarded"]));
    assert_eq!((&first["run"], &second["run"]), (&"runs/001".into(), &"runs/002".into()));
    assert_eq!(second["evaluation"]["guarded"], true);
    // Nobody is beside itself, and every seller's dialogues are kept.
    assert!(first["differences"].as_array().expect("a list").iter().all(|d| d["minus"] != "embedded"));
    for file in ["embedded+boulware", "embedded+rejector", "og_narrator+rejector"] {
        assert!(at.join(format!("runs/001/evaluator/{file}+F0.8+haggle.jsonl")).is_file(), "{file}");
    }
    let page = std::fs::read_to_string(at.join("runs/001/report.html")).expect("a page");
    assert!(page.contains("An evaluation of embedded") && page.contains("rejector"));
    let said = haggle(at, &["compare", "runs/001", "runs/002", "--html", "both.html"]).done();
    assert!(said.contains("reward, less that of 001") && said.lines().all(|line| line.chars().count() <= 80), "{said}");
    assert!(std::fs::read_to_string(at.join("both.html")).expect("a page").contains("products of both"));
    let one = haggle(at, &["compare", "runs/001"]).done();
    for part in ["reward by seller and buyer", "embedded against", "- og_narrator", "cross"] {
        assert!(one.contains(part), "no `{part}` in {one}");
    }
    assert!(one.lines().all(|line| line.chars().count() <= 80), "{one}");
    let told: Value =
        serde_json::from_str(&haggle(at, &["compare", "runs/001", "runs/001", "--json"]).done()).expect("json");
    assert_eq!((&told["differences"][0]["mean"], &told["differences"][0]["n"]), (&0.0.into(), &9.into()));
    haggle(at, &["compare", "nowhere"]).refused(3, &["nowhere", "is not a run directory"]);
}

#[test]
fn a_folder_the_model_never_saw_is_played_whole_unless_a_part_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    crate::support::cli::write_products(&dir.path().join("p"));
    let products = |more: &[&str]| {
        let own = ["--seller", "rejector", "--rollouts", "1", "--set", "eval.best_of=1", "--json"];
        let args = [&EVAL[..3], &own[..], more].concat();
        let said: Value = serde_json::from_str(&haggle(dir.path(), &args).done()).expect("json");
        (said["evaluation"]["products"].as_u64().expect("a number"), said["evaluation"]["split"].clone())
    };
    let (all, split) = products(&["--products", "p"]);
    assert_eq!((all, split), (28, "all".into()));
    let [test, train] = ["test", "train"].map(|part| products(&["--products", "p", "--split", part]).0);
    assert!(test > 0 && test < train && test + train == 28, "{test} {train}");
}

#[test]
fn a_board_ranks_everyone_who_played_over_all_sellers_and_against_each() {
    let dir = tempfile::tempdir().expect("a folder");
    haggle(dir.path(), &[&["train", "--steps", "1", "--out", "taught"], &crate::support::cli::SMALL[..]].concat())
        .done();
    let games =
        ["--set", "eval.products=8", "--set", "eval.best_of=3", "--rollouts", "2", "--seller", "conceder,linear"];
    let board = ["eval", "--board", "--model", "taught", "--model", "embedded"];
    let said = haggle(dir.path(), &[&board[..], &games, &["--out", "b", "--json"]].concat()).done();
    let said: Value = serde_json::from_str(&said).expect("json");
    let of = |standing: &Value| -> Vec<String> {
        let models = standing["models"].as_array().expect("models").iter();
        let mut names: Vec<String> = models.map(|m| m["model"].as_str().expect("a name").to_string()).collect();
        names.sort();
        names
    };
    let scripts = ["explorer", "fixed_concession", "lowballer", "naive", "og_narrator", "patient"];
    let mut everyone: Vec<&str> = ["embedded", "taught", "taught's best of 3"].into_iter().chain(scripts).collect();
    everyone.sort_unstable();
    assert_eq!(of(&said["overall"]), everyone);
    let sellers: Vec<&Value> = said["categories"].as_array().expect("boards").iter().map(|c| &c["name"]).collect();
    assert_eq!(sellers, ["conceder", "linear"]);
    // The best of three of a buyer is never worse than its first.
    let rating = |name: &str| {
        let models = said["overall"]["models"].as_array().expect("models");
        models.iter().find(|m| m["model"] == name).and_then(|m| m["theta"].as_f64()).expect("a rating")
    };
    assert!(rating("taught's best of 3") >= rating("taught"));
    let page = std::fs::read_to_string(dir.path().join("b/board.html")).expect("a page");
    assert!(page.contains("taught") && page.contains("fixed_concession"));
    haggle(dir.path(), &["eval", "--model", "embedded", "--model", "embedded"])
        .refused(2, &["embedded", "named twice"]);
}

#[test]
fn a_model_taught_menus_plays_a_game_by_its_drafts() {
    let dir = tempfile::tempdir().expect("a folder");
    let taught =
        ["train", "--task", "menu", "--steps", "1", "--set", "task.supervised_tokens=300000", "--out", "menus"];
    haggle(dir.path(), &[&taught[..], &crate::support::cli::SMALL[..]].concat()).done();
    let eval = ["eval", "--set", "eval.products=10", "--set", "eval.best_of=1", "--seller", "conceder", "--json"];
    let said = haggle(dir.path(), &[&eval[..], &["--model", "menus", "--out", "e"]].concat()).done();
    let said: Value = serde_json::from_str(&said).expect("json");
    let row = said["rows"].as_array().expect("rows").iter().find(|row| row["buyer"] == "menus").expect("its row");
    // Played by whole menus, none of its replies has the game's form.
    assert!(row["format_error_rate"].as_f64().expect("a share") < 0.5, "{row}");
    haggle(dir.path(), &[&eval[..], &["--model", "menus", "--guarded"]].concat())
        .refused(2, &["--guarded", "task `menu`", "which no rule of the game guides"]);
    haggle(dir.path(), &[&eval[..], &["--model", "embedded", "--model", "menus", "--guarded"]].concat())
        .refused(2, &["--model menus", "trained on menus", "leave out --guarded"]);
    let sets = ["train", "--task", "recommend", "--steps", "1", "--set", "task.supervised_tokens=0", "--out", "sets"];
    haggle(dir.path(), &[&sets[..], &crate::support::cli::SMALL[..]].concat()).done();
    haggle(dir.path(), &[&eval[..], &["--model", "sets"]].concat())
        .refused(2, &["--model sets", "task `recommend`, which is no game", "sets.json"]);
}
