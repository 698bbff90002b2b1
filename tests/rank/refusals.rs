//! What `haggle rank` refuses: one line with the file, the row, the value and what would do.

use crate::support::cli::{Said, haggle};
use serde_json::Value;
use tempfile::TempDir;

fn rank(name: &str, text: &str, options: &[&str]) -> Said {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(name), text).unwrap();
    haggle(dir.path(), &[&["rank", name][..], options].concat())
}

const HEAD: &str = "model_a,model_b,winner\n";

#[test]
fn rows_are_refused_by_number_column_and_value() {
    let of = |rows: &str| rank("v.csv", &format!("{HEAD}{rows}"), &[]);
    of("x,y,model_a\nx,y,draw\n")
        .refused(3, &["v.csv", "row 2 (line 3)", "`winner` is \"draw\"", "model_a, model_b, tie"]);
    of("x,y,model_a\nz,z,tie\n").refused(3, &["row 2", "`z` plays against itself"]);
    of("x,,model_a\n").refused(3, &["row 1", "`model_b` is empty"]);
    of("x,y\n").refused(3, &["line 2", "2 fields where the head has 3"]);
    of("").refused(3, &["v.csv", "holds no games"]);
    let jsonl = |rows: &str| rank("v.jsonl", rows, &[]);
    let good = r#"{"model_a":"x","model_b":"y","winner":"tie"}"#;
    jsonl(&format!("{good}\n{{\"model_a\":\"x\"}}\n")).refused(3, &["row 2 (line 2)", "has no `model_b`"]);
    jsonl(&format!("{good}\n{{\"model_a\":\n")).refused(3, &["line 2", "is not JSON"]);
    jsonl(&format!("{good}\n7\n")).refused(3, &["row 2", "want an object"]);
    jsonl(r#"{"model_a":"x","model_b":"y","winner":null}"#).refused(3, &["row 1", "`winner` is null"]);
}

#[test]
fn counts_and_weights_are_refused_by_value() {
    let counts = |row: &str| rank("c.csv", &format!("model_a,model_b,category,wins_a,wins_b,ties\n{row}\n"), &[]);
    counts("x,y,c,3,-1,0").refused(3, &["row 1", "`wins_b` is negative: -1"]);
    counts("x,y,c,3,many,0").refused(3, &["row 1", "`wins_b` is \"many\""]);
    counts("x,y,c,nan,1,0").refused(3, &["`wins_a` is \"nan\""]);
    counts("x,y,,3,1,0").refused(3, &["row 1", "its category is empty"]);
    counts("x,y,c,3,1,0\nx,y,d,0,0,0").refused(3, &["category `d` is empty"]);
    rank("w.csv", "model_a,model_b,winner,weight\nx,y,tie,-0.5\n", &[])
        .refused(3, &["row 1", "`weight` is negative: -0.5"]);
}

#[test]
fn files_of_the_wrong_kind_and_missing_columns_are_named() {
    rank("v.csv", "a,b,winner\nx,y,tie\n", &[])
        .refused(3, &["v.csv", "has no column `model_a`", "its columns are a, b, winner"]);
    rank("v.csv", "model_a,model_b\nx,y\n", &[]).refused(3, &["has neither `winner` nor `wins_a` and `wins_b`"]);
    rank("v.csv", &format!("{HEAD}x,y,tie\n"), &["--by", "language"])
        .refused(3, &["has no column `language`, which --by names"]);
    rank("v.csv", &format!("{HEAD}x,y,tie\n"), &["--cluster", "voter"])
        .refused(3, &["has no column `voter`, which --cluster names"]);
    rank("v.parquet", "PAR1\0\0", &[]).refused(3, &["v.parquet", "cannot be read as Parquet", "write it as csv"]);
    rank("v.bin", "\u{1}\0\u{2}", &[]).refused(3, &["is no text"]);
    rank("v.csv", "", &[]).refused(3, &["is empty"]);
    let dir = TempDir::new().unwrap();
    haggle(dir.path(), &["rank", "gone.csv"]).refused(3, &["gone.csv", "cannot be read"]);
    haggle(dir.path(), &["rank", "."]).refused(3, &["holds neither games.jsonl"]);
}

#[test]
fn options_out_of_range_are_usage() {
    let with = |options: &[&str]| rank("v.csv", &format!("{HEAD}x,y,tie\n"), options);
    with(&["--level", "95"]).refused(2, &["--level 95", "below 1"]);
    with(&["--rank", "two"]).refused(2, &["--rank two", "auto or a number"]);
    with(&["--crossfit", "0"]).refused(2, &["--crossfit 0"]);
    with(&["--by", "a,b,c"]).refused(2, &["--by a,b,c", "one or two columns"]);
    with(&["--ties", "never"]).refused(2, &["never", "half"]);
    with(&["--ridge=-1"]).refused(2, &["--ridge -1"]);
    with(&["--method", "lowrank", "--rank", "9"]).refused(3, &["--rank 9", "this board has ranks 0 to"]);
    with(&["--ties", "drop"]).refused(3, &["all games are ties"]);
}

#[test]
fn covariates_are_numbers_that_say_more_than_who_plays() {
    let of = |rows: &str, options: &[&str]| {
        let text = format!("model_a,model_b,winner,length\n{rows}");
        rank("v.csv", &text, &[&["--covariates", "length"], options].concat())
    };
    of("x,y,tie,long\n", &[]).refused(3, &["row 1", "`length` is \"long\"", "model_a less that of model_b"]);
    rank("v.csv", &format!("{HEAD}x,y,tie\n"), &["--covariates", "length"])
        .refused(3, &["has no column `length`, which --covariates names"]);
    let good = "x,y,model_a,1\ny,z,model_a,2\nz,x,model_a,-1\nx,y,model_b,3\n";
    of(good, &["--method", "lowrank"]).refused(3, &["--covariates goes with --method btl"]);
    of("x,y,model_a,1\ny,x,model_a,-1\nx,y,model_b,1\n", &[]).refused(3, &["cannot be told from the models"]);
}

#[test]
fn a_column_that_names_no_models_is_seen_before_it_is_all_read() {
    let rows: String = (0..2000).map(|i| format!("a{i},b{i},tie\n")).collect();
    rank("v.csv", &format!("{HEAD}{rows}"), &[]).refused(3, &["row 501", "more than 1000 different models"]);
}

fn json(text: &str, options: &[&str]) -> Value {
    serde_json::from_str(&rank("v.csv", text, &[&["--json"], options].concat()).done()).unwrap()
}

fn gap<'a>(board: &'a Value, a: &str, b: &str) -> &'a Value {
    let gaps = board["categories"][0]["gaps"].as_array().unwrap();
    gaps.iter().find(|gap| gap["a"] == a && gap["b"] == b).unwrap()
}

#[test]
fn gaps_that_cannot_be_known_are_null_and_said() {
    let two = "model_a,model_b,wins_a,wins_b\na,b,3,2\nb,c,2,1\na,c,2,2\nx,y,4,1\n";
    let board = json(two, &[]);
    for key in ["gap", "se", "low", "high"] {
        assert!(gap(&board, "a", "x")[key].is_null(), "{board:#}");
        assert!(gap(&board, "a", "b")[key].is_number() && gap(&board, "x", "y")[key].is_number(), "{board:#}");
    }
    let model = |name: &str| {
        let all = board["categories"][0]["models"].as_array().unwrap();
        all.iter().find(|m| m["model"] == name).unwrap().clone()
    };
    assert!(model("x")["theta"].is_null() && model("x")["rating"].is_null() && model("a")["theta"].is_number());
    assert_eq!((&model("a")["rank_low"], &model("a")["rank_high"]), (&1.into(), &5.into()));
    let text = rank("v.csv", two, &[]).done();
    assert!(text.contains("2 groups never met: {a, b, c} {x, y}; between them nothing is known"), "{text}");
    assert!(text.contains("6 pairs cannot be compared"), "{text}");
}

#[test]
fn a_model_that_only_won_has_no_number() {
    let board = json("model_a,model_b,wins_a,wins_b\na,b,3,2\nb,c,2,1\na,c,2,2\nw,a,5,0\nw,b,1,0\n", &[]);
    assert!(gap(&board, "a", "w")["gap"].is_null(), "{board:#}");
    assert!(gap(&board, "a", "w")["unknown"].as_str().unwrap().contains("infinite"));
    assert!(board["notes"].to_string().contains("w only won; its rating is infinite"), "{board:#}");
}

#[test]
fn a_vote_in_several_categories_is_one_cluster() {
    let line = |a: &str, b: &str, winner: &str| {
        format!(
            "{{\"model_a\":\"{a}\",\"model_b\":\"{b}\",\"winner\":\"{winner}\",\"category\":[\"code\",\"math\"]}}\n"
        )
    };
    let rows = [line("x", "y", "model_a"), line("x", "y", "model_b"), line("y", "x", "tie (bothbad)")].concat();
    let said = rank("v.jsonl", &rows, &["--json"]);
    assert!(said.err.contains("3 clusters are few"), "{said:?}");
    let board: Value = serde_json::from_str(&said.done()).unwrap();
    assert_eq!(board["clusters"], 3);
    assert_eq!(board["categories"].as_array().unwrap().len(), 2);
}
