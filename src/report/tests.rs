//! The report stands alone, shows what the run holds, and survives a killed run.

use super::*;
use std::fs;

fn run_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (1..=30)
        .map(|s| {
            format!(
                "{{\"step\":{s},\"reward/mean\":{},\"deal_rate\":0.5,\"rollout/logprob_max_abs_diff\":0.0}}\n",
                s as f64 / 60.0
            )
        })
        .collect();
    fs::write(dir.path().join("metrics.jsonl"), rows).unwrap();
    fs::write(dir.path().join("config.toml"), "seed = 1\n[model]\nbase = \"<b>\"\n").unwrap();
    fs::write(
        dir.path().join("summary.json"),
        r#"[{"buyer":"untrained","seller":"base","scenario":"all","n":10,"reward":-0.1,"reward_ci95":[-0.2,0.0]},
            {"buyer":"trained","seller":"base","scenario":"all","n":10,"reward":0.25,"reward_ci95":[0.2,0.3]}]"#,
    )
    .unwrap();
    let sample = |when: &str, talk: &str| {
        format!(
            r#"{{"when":"{when}","code":"books_1","title":"A <script> & more","scenario":"mi","list":2000,"cost":1000,"budget":1600,
            "turns":[{{"side":"buyer","thought":"bid 55%","talk":"{talk}","action":"[BUY] $8.80 (1x books)"}}],
            "outcome":{{"kind":"deal","price":1299}},"reward":0.5}}"#
        )
        .replace('\n', " ")
    };
    let samples = format!("{}\n{}\n", sample("before", "I take it."), sample("after", "Too dear."));
    fs::write(dir.path().join("samples.jsonl"), samples).unwrap();
    dir
}

#[test]
fn the_page_holds_curves_table_and_dialogues_and_loads_nothing() {
    let dir = run_dir();
    let path = write(dir.path()).unwrap();
    let html = fs::read_to_string(path).unwrap();
    assert_eq!(html.matches("<svg").count(), 3, "reward, deal rate, logprob difference");
    for wanted in [
        "0.250 [0.200, 0.300]",
        "A &lt;script&gt; &amp; more",
        "I take it.",
        "Too dear.",
        "deal at $12.99",
        "&lt;b&gt;",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }
    for loads in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!html.contains(loads), "{loads}");
    }
    let at = |what: &str| html.find(what).unwrap_or_else(|| panic!("no {what}"));
    let order = ["-0.100 → 0.250", "I take it.", "<h2>Curves", "<h2>Held-out products"].map(at);
    assert!(order.is_sorted(), "headline, dialogues, curves, tables: {order:?}");
    let curve = fs::read_to_string(dir.path().join("curve.svg")).unwrap();
    assert!(curve.starts_with("<svg") && curve.contains("trained, held out"));
}

#[test]
fn a_set_run_shows_its_table_and_importance_its_histogram() {
    let dir = tempfile::tempdir().unwrap();
    let row = |step: usize, one: f64| {
        format!(
            "{{\"step\":{step},\"reward/mean\":0.5,\"sets/candidate\":0.25,\"credit/worst_in_best\":-0.1,\
             \"importance/mean_weight\":1.0,\"importance/ratio_one\":{one},\"importance/ratio_up\":{}}}\n",
            1.0 - one
        )
    };
    fs::write(dir.path().join("metrics.jsonl"), row(1, 1.0) + &row(2, 0.25)).unwrap();
    let sets = r#"[{"model":"untrained","task":"menu","row":{"replies":8,"worth":0.125}},
                   {"model":"trained","task":"menu","row":{"replies":8,"worth":0.75}}]"#;
    fs::write(dir.path().join("sets.json"), sets).unwrap();
    let html = fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    for wanted in
        ["finished", "<th>worth</th>", "0.750", "0.125", "Free riding", "Importance ratios", "25.00 %", "62.50 %"]
    {
        assert!(html.contains(wanted), "{wanted}");
    }
    let curve = fs::read_to_string(dir.path().join("curve.svg")).unwrap();
    assert!(curve.contains("mean candidate") && !curve.contains("deal rate") && curve.contains("trained, held out"));
}

#[test]
fn a_torn_last_line_is_left_out_and_a_broken_one_is_named() {
    let dir = run_dir();
    let path = dir.path().join("metrics.jsonl");
    fs::write(&path, "{\"step\":1,\"reward/mean\":0.5}\n{\"step\":2,\"rew").unwrap();
    assert_eq!(RunFiles::read(dir.path()).unwrap().curve("reward/mean"), [(1.0, 0.5)]);
    write(dir.path()).unwrap();
    fs::write(&path, "{\"step\":1}\nnonsense\n{\"step\":3}\n").unwrap();
    let message = write(dir.path()).unwrap_err().to_string();
    assert!(message.contains("metrics.jsonl: line 2"), "{message}");
}

#[test]
fn a_run_without_steps_still_has_a_page_and_another_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = write(dir.path()).unwrap_err().to_string();
    assert!(message.contains("not a run directory"), "{message}");
    fs::write(dir.path().join("metrics.jsonl"), "").unwrap();
    write(dir.path()).unwrap();
}

#[test]
fn the_papers_phases_are_marked_where_the_curves_show_them_and_else_it_says_that_they_do_not() {
    let dir = run_dir();
    let row = |step: usize, offer: f64| {
        format!("{{\"step\":{step},\"first_offer_ratio\":{offer},\"deal_rate\":0.8,\"bargained_ratio\":0.2}}\n")
    };
    let rows: String = (1..=40).map(|step| row(step, if step < 20 { 0.9 } else { 0.5 })).collect();
    fs::write(dir.path().join("metrics.jsonl"), rows).unwrap();
    let html = fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    for wanted in [
        "<td>naive</td><td>from step 1</td>",
        "<td>aggressive openings</td><td>from step 18</td>",
        "<td>deadlock</td><td>no: the deal rate never falls 0.08 below 0.80 after that</td>",
        "<td>persuasion</td><td>no: deadlock does not show</td>",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }
    let curve = fs::read_to_string(dir.path().join("curve.svg")).unwrap();
    assert!(curve.contains("aggressive openings") && !curve.contains("deadlock"));
}
