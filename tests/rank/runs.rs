//! `haggle rank` on haggle's own games, its page, and what a person reads in the terminal.

use crate::support::cli::haggle;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A line of an evaluation's `games.jsonl`.
fn game(buyer: &str, seller: &str, product: usize, rollout: usize, reward: f64) -> Value {
    json!({
        "buyer": buyer, "seller": seller, "rollout": rollout, "counts": true, "product": format!("books_{product}"),
        "scenario": "mi", "reward": reward, "reward_without_penalties": reward, "deal": true, "bargained": reward,
        "first_offer": 0.5, "overshoot": false, "format_error": false, "seller_quit": false, "turns": 3,
        "interventions": [0, 0, 0, 0], "monotone": true, "thoughts": [0, 0], "reasons": [3, 0],
    })
}

fn write(path: &Path, lines: &[Value]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

/// Three buyers, each better than the next by a tenth on two products of three.
fn evaluation(path: &Path) {
    let mut lines = Vec::new();
    for (seller, product, rollout) in (0..120).map(|i| (["base", "base_begging"][i % 2], i / 4, i % 4 / 2)) {
        let luck = [0.05, 0.4, 0.2][product % 3];
        for (at, buyer) in ["trained", "og_narrator", "untrained"].into_iter().enumerate() {
            let better = if product % 3 == 1 { 0.05 } else { -0.1 };
            lines.push(game(buyer, seller, product, rollout, luck + better * at as f64));
        }
    }
    write(path, &lines);
}

fn rank(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&haggle(dir, &[&["rank", "--json"], args].concat()).done()).unwrap()
}

#[test]
fn an_evaluation_is_ranked_by_reward_with_products_as_clusters() {
    let dir = TempDir::new().unwrap();
    evaluation(&dir.path().join("eval/games.jsonl"));
    let board = rank(dir.path(), &["eval", "--by", "category,persona"]);
    assert_eq!((&board["clusters"], &board["games"]), (&30.into(), &360.0.into()));
    let names: Vec<&str> =
        board["categories"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["books / base", "books / base_begging"]);
    assert_eq!(board["overall"]["models"][0]["model"], "trained");
    let gap = |a: &str, b: &str| {
        let all = board["rewards"].as_array().unwrap();
        all.iter().find(|g| g["category"] == "overall" && g["a"] == a && g["b"] == b).unwrap().clone()
    };
    let found = gap("trained", "untrained");
    // 0.2 ahead on two products of three, 0.1 behind on the third.
    assert!((found["mean"].as_f64().unwrap() - 0.1).abs() < 1e-9, "{found}");
    assert_eq!((&found["episodes"], &found["products"]), (&120.into(), &30.into()));
}

#[test]
fn episodes_of_two_runs_are_compared_where_they_met() {
    let dir = TempDir::new().unwrap();
    let line = |step: u64, rollout: usize, product: usize, reward: f64| {
        json!({
            "step": step, "group": 0, "rollout": rollout, "product": format!("toys_{product}"), "scenario": "mi", "list": 2500,
            "cost": 1000, "budget": 2000, "outcome": {"kind": "quit", "by": "buyer"}, "reward": reward, "advantage": 0.0,
            "turns": [], "buyer": null,
        })
    };
    // A cent is worth 0.001 of this reward: the last game is a tie.
    let own = [line(1, 0, 1, 0.5), line(1, 1, 1, 0.1), line(2, 0, 2, 0.3), line(2, 1, 2, 0.5)];
    let other = [line(1, 0, 1, 0.4), line(1, 1, 1, 0.2), line(2, 0, 2, 0.1), line(2, 1, 2, 0.5009), line(3, 0, 2, 0.0)];
    write(&dir.path().join("a/episodes.jsonl"), &own);
    write(&dir.path().join("b/episodes.jsonl"), &other);
    let board = rank(dir.path(), &["a", "b", "--ties", "half", "--by", "tier"]);
    let first = &board["overall"]["models"][0];
    assert_eq!(
        (&first["model"], &first["wins"], &first["losses"], &first["ties"]),
        (&"a".into(), &2.0.into(), &1.0.into(), &1.0.into())
    );
    assert_eq!(board["categories"][0]["name"], "$20 to $50");
    haggle(dir.path(), &["rank", "a"]).refused(3, &["no two buyers met the same product, seller and seed"]);
    haggle(dir.path(), &["rank", "a", "a"]).refused(3, &["played a game of toys_1 twice"]);
    haggle(dir.path(), &["rank", "a", "b", "--by", "language"]).refused(2, &["--by language", "tier"]);
    std::fs::write(dir.path().join("v.csv"), "model_a,model_b,winner\nx,y,tie\n").unwrap();
    haggle(dir.path(), &["rank", "a", "v.csv"]).refused(3, &["v.csv", "is no run and no evaluation"]);
}

const VOTES: &str = "model_a,model_b,wins_a,wins_b,ties\n<b>,plain,90,20,5\nplain,third,60,40,0\n<b>,third,99,12,0\n";

#[test]
fn the_page_shows_every_model_and_escapes_names() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("v.csv"), VOTES).unwrap();
    let said = haggle(dir.path(), &["rank", "v.csv", "--html"]);
    assert!(said.err.contains("wrote board.html"), "{said:?}");
    let page = std::fs::read_to_string(dir.path().join("board.html")).unwrap();
    assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"), "{page}");
    // A row and a dot each.
    assert_eq!((page.matches("<th scope=\"row\"").count(), page.matches("<b class=\"").count()), (3, 3));
    assert!(!page.contains("http"), "the page loads nothing");
}

#[test]
fn the_table_says_ranks_tiers_and_who_is_among_the_first() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("v.csv"), VOTES).unwrap();
    let text = haggle(dir.path(), &["rank", "v.csv", "--top", "1"]).done();
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_string();
    assert!(row("<b>").ends_with("in") && row("third").ends_with("out"), "{text}");
    assert!(text.contains("<b> is first"), "{text}");
    assert!(text.contains("method btl"), "{text}");
}

#[test]
fn a_board_has_the_same_bits_on_every_run_and_any_number_of_threads() {
    let dir = TempDir::new().unwrap();
    evaluation(&dir.path().join("eval/games.jsonl"));
    let run = |threads: &str| haggle(dir.path(), &["rank", "eval", "--json", "--threads", threads]).done();
    assert!(run("1") == run("1") && run("1") == run("4"));
}
