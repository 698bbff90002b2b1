//! Metrics of hand-made episodes, and the keys of the summary.

#![allow(clippy::unwrap_used)]
use haggle::negotiate::metrics::{reward_difference, row, rows};
use haggle::negotiate::*;
use std::sync::Arc;

/// List $100, cost $40, budget $80.
fn played(code: &str, replies: &[(&str, &str, &str)]) -> Episode {
    let product = Arc::new(Product::new(code, "books", "A Book", "", Cents(10_000), Cents(4_000)));
    let mut e = Episode::new(product, Rules::default(), Persona::Neutral);
    for (thought, talk, action) in replies {
        let side = e.next_side().unwrap();
        e.submit(side, &format!("Thought: {thought}\nTalk: {talk}\nAction: {action}")).unwrap();
    }
    e
}

fn three() -> Vec<EpisodeFacts> {
    let deal = played(
        "books_1",
        &[
            ("bid 50%", "I can pay today.", "[BUY] $40 (1x books)"),
            ("ask 80%", "no", "[SELL] $88 (1x books)"),
            ("bid 60%", "ok", "[BUY] $44 (1x books)"),
            ("ask", "no", "[SELL] $20 (1x books)"),
            ("bid 55%", "ok", "[BUY] $50 (1x books)"),
            ("x", "yes", "[DEAL] $50 (1x books)"),
        ],
    );
    let over = played("books_2", &[("bid 100%", "a", "[BUY] $81 (1x books)")]);
    let quit = played("books_2", &[("no", "a", "[REJECT]"), ("walk", "b", "[QUIT]")]);
    [deal, over, quit].iter().map(EpisodeFacts::of).collect()
}

#[test]
fn a_row_is_the_mean_of_its_facts() {
    let facts = three();
    let all = &rows("b", "s", &facts)[0];
    assert_eq!((all.n, all.deal_rate, all.overshoot_rate, all.format_error_rate), (3, 1.0 / 3.0, 1.0 / 3.0, 0.0));
    assert!((all.reward - (0.75 - 1.0 + 0.0) / 3.0).abs() < 1e-12);
    assert!((all.reward_without_penalties - 0.25).abs() < 1e-12);
    assert_eq!(all.bargained_ratio, Some(0.75));
    assert!((all.first_offer_ratio.unwrap() - (0.5 + 81.0 / 80.0) / 2.0).abs() < 1e-12);
    assert!((all.interventions - 1.0 / 3.0).abs() < 1e-12 && all.interventions_by_kind.offer_lifted > 0.3);
    assert_eq!(all.seller_quit_rate, 1.0 / 3.0);
    assert!((all.turns - 5.0 / 3.0).abs() < 1e-12);
    assert!((all.reason_rate - 0.2).abs() < 1e-12);
    assert_eq!(all.monotone_bid_share, Some(1.0));
    // 50 % is $40: agrees; 60 % is $48, 55 % is $44, 100 % is $80: three disagree.
    assert_eq!(all.thought_action_agreement, Some(0.25));
    // Product means .75 and -.5: mean .125, s = .8839, interval 12.706 * .8839 / sqrt(2) = 7.94.
    assert!((all.reward_ci95.unwrap() - 7.94).abs() < 0.01, "{:?}", all.reward_ci95);
}

#[test]
fn scenarios_split_and_empty_groups_have_no_ratios() {
    let rows = rows("b", "s", &three());
    let kinds: Vec<(&str, usize)> = rows.iter().map(|r| (r.scenario.as_str(), r.n)).collect();
    assert_eq!(kinds, [("all", 3), ("mi", 3), ("ci", 0)]);
    assert_eq!((rows[2].bargained_ratio, rows[2].first_offer_ratio, rows[2].reward), (None, None, 0.0));
    assert_eq!((row("b", "s", "all", &[]).n, row("b", "s", "all", &[]).reward_ci95), (0, None));
}

#[test]
fn a_row_serialises_with_the_summary_keys_first() {
    let json = serde_json::to_value(&rows("untrained", "model", &three())[0]).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).take(11).collect();
    assert_eq!(
        keys,
        [
            "buyer",
            "seller",
            "scenario",
            "n",
            "reward",
            "reward_ci95",
            "deal_rate",
            "bargained_ratio",
            "first_offer_ratio",
            "overshoot_rate",
            "format_error_rate"
        ]
    );
    let back: Row = serde_json::from_value(json).unwrap();
    assert_eq!(back.buyer, "untrained");
}

#[test]
fn differences_pair_by_product() {
    let mut better = three();
    better.iter_mut().for_each(|f| f.reward += 0.1);
    let gain = reward_difference(&better, &three());
    assert!((gain.mean - 0.1).abs() < 1e-12 && gain.ci95.unwrap() < 1e-9 && gain.n == 2, "{gain:?}");
    assert!(gain.low().unwrap() > 0.0 && gain.high().unwrap() < 0.2);
}
