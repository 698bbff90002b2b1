//! The report stands alone, shows what the run holds, and survives a killed run.

use super::*;
use std::fs;

/// A row of `summary.json`.
fn table_row(buyer: &str, seller: &str, reward: f64) -> String {
    format!(
        r#"{{"buyer":"{buyer}","seller":"{seller}","scenario":"all","n":10,"reward":{reward},"reward_ci95":0.05,"deal_rate":0.5,
            "bargained_ratio":null,"first_offer_ratio":0.8,"overshoot_rate":0.1,"format_error_rate":0.0,
            "reward_without_penalties":{reward},"deal_rate_ci95":null,"seller_quit_rate":0.0,"turns":3.5,"interventions":0.0,
            "interventions_by_kind":{{"offer_lifted":0.0,"acceptance_voided":0.0,"malformed":0.0,"illegal":0.0}},
            "monotone_bid_share":1.0,"thought_action_agreement":1.0,"reason_rate":0.25}}"#
    )
}

/// A line of `samples.jsonl`, and its last turn's words.
fn sample(when: &str, seller: &str, talk: &str) -> String {
    let line = format!(
        r#"{{"when":"{when}","buyer":"{when}","seller":"{seller}","code":"books_1","title":"A <script> & more","scenario":"mi",
            "list":2000,"cost":1000,"budget":1600,
            "turns":[{{"side":"buyer","thought":"bid 55%","talk":"{talk}","action":"[BUY] $8.80 (1x books)"}}],
            "outcome":{{"kind":"deal","price":1299}},"reward":0.5}}"#
    );
    line.replace('\n', " ") + "\n"
}

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
        format!("[{}, {}]", table_row("untrained", "base", -0.1), table_row("trained", "base", 0.25)),
    )
    .unwrap();
    let samples = sample("before", "base", "I take it.") + &sample("after", "base", "Too dear.");
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
        "+0.250 ±0.050",
        "share of the gain",
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
    let reply = |model: &str, reward: f64, candidates: &str| {
        format!(
            r#"{{"model":"{model}","product":"books_1","asked":"Which <b>?","reply":"no list","candidates":[{candidates}],"reward":{reward},"malformed":null}}"#
        ) + "\n"
    };
    let replies = reply("untrained", -1.0, "")
        + &reply("trained", 0.9, r#"{"text":"the <i> one","tokens":[1,2],"utility":0.75}"#);
    fs::write(dir.path().join("replies.jsonl"), replies).unwrap();
    let html = fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    for wanted in [
        "finished",
        "<th>worth</th>",
        "0.750",
        "0.125",
        "Free riding",
        "Importance ratios",
        "25.00 %",
        "62.50 %",
        "Which &lt;b&gt;?",
        "<b>0.125 → 0.750</b><span></span>",
        "Before: reward -1.00",
        "no list",
        "After: reward 0.90",
        "the &lt;i&gt; one <code>utility 0.75</code>",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }
    let curve = fs::read_to_string(dir.path().join("curve.svg")).unwrap();
    assert!(curve.contains("mean candidate") && !curve.contains("deal rate") && curve.contains("trained, held out"));
}

#[test]
fn an_evaluation_shows_seller_by_buyer_what_is_ahead_and_dialogues_of_every_seller() {
    let dir = run_dir();
    fs::remove_file(dir.path().join("metrics.jsonl")).unwrap();
    let sellers = ["base", "boulware"];
    let rows: Vec<String> = sellers
        .iter()
        .flat_map(|seller| [table_row("untrained", seller, 0.125), table_row("mine", seller, 0.375)])
        .collect();
    fs::write(dir.path().join("summary.json"), format!("[{}]", rows.join(","))).unwrap();
    let difference = |n: usize| {
        format!(
            r#"{{"buyer":"mine","minus":"untrained","seller":"base","scenario":"all","n":{n},"mean":0.25,"ci95":0.1}}"#
        )
    };
    let about = r#"{"command":"haggle eval --model mine","model":"mine","guarded":false,"products":10,"split":"test","games":40,
                    "seconds":2.0}"#;
    fs::write(dir.path().join("evaluation.json"), about).unwrap();
    let samples = ["before", "after"].map(|when| sellers.map(|seller| sample(when, seller, when)).concat()).concat();
    fs::write(dir.path().join("samples.jsonl"), samples).unwrap();
    for (n, marked) in [(10, true), (7, false)] {
        fs::write(dir.path().join("differences.json"), format!("[{}]", difference(n))).unwrap();
        let html = fs::read_to_string(write(dir.path()).unwrap()).unwrap();
        for wanted in [
            "Mean reward of mine against base, in 10 games",
            "<tr><td>boulware</td><td>+0.125 ±0.050</td><td>+0.375 ±0.050</td></tr>",
            "mine against</th><th>games",
            "<summary>against boulware: 1 products</summary>",
            "over budget",
            "broken replies",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
        assert_eq!(html.contains("<td>+0.250 ±0.100*</td>"), marked, "a handful of products has no verdict");
        assert!(!html.contains("Curves") && !html.contains("before and after training"));
    }
}

#[test]
fn a_page_loads_itself_again_while_the_run_goes_on() {
    let dir = run_dir();
    let again = |html: String| html.contains("http-equiv=\"refresh\"");
    assert!(!again(fs::read_to_string(write(dir.path()).unwrap()).unwrap()));
    fs::remove_file(dir.path().join("summary.json")).unwrap();
    assert!(again(fs::read_to_string(write(dir.path()).unwrap()).unwrap()));
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
