//! The evaluator's jsonl: its keys, and its own figures computed from the lines alone.

#![allow(clippy::unwrap_used)]
use haggle::negotiate::*;
use haggle::noise::Noise;
use serde_json::Value;
use std::sync::Arc;

fn episodes() -> Vec<Episode> {
    let products: Vec<Arc<Product>> = catalog::embedded().unwrap().into_iter().step_by(9).map(Arc::new).collect();
    let game = |(i, p)| play(Buyer::Patient, Seller::Teacher, p, Rules::default(), Noise::new(4, i as u64));
    products.iter().enumerate().map(game).collect()
}

/// The money of the last `[WORD] $money` of an action, as the evaluator reads it.
fn money(action: &str) -> f64 {
    let text = action.split('$').next_back().unwrap().split(' ').next().unwrap();
    text.replace(',', "").parse().unwrap()
}

#[test]
fn lines_have_the_evaluators_keys() {
    let episode = &episodes()[3];
    let line = export::line(episode, 3, "patient", "teacher");
    for key in ["memo", "time", "index", "errormsg", "history", "buyer", "seller", "inv", "need"] {
        assert!(line.get(key).is_some(), "{key}");
    }
    let first = &line["history"][0];
    assert_eq!((first[0]["role"].as_str(), first[1]["role"].as_str()), (Some("buyer"), Some("seller")));
    for key in ["turn", "role", "thought", "talk", "action", "input_message", "raw_text"] {
        assert!(first[0].get(key).is_some(), "{key}");
    }
    let code = episode.product().code.as_str();
    assert_eq!(line["inv"][code][2].as_f64().unwrap(), episode.product().list.0 as f64 / 100.0);
    assert_eq!(line["need"][0]["codename"], code);
    assert!(first[0]["action"].as_str().unwrap().ends_with(&format!("(1x {code})")));
}

/// What the published evaluator says of a line: deal, wrong action, the buyer's ratio of a deal.
///
/// Its rules: an action is `[WORD]` or `[WORD] $money (Nx code)`, anything else is wrong and ends the line; a deal must name
/// the one item and be within a cent of any offer of the other side; of a zone below a dollar it makes one dollar and moves
/// the budget there.
fn counted(line: &Value) -> (bool, bool, Option<f64>) {
    let (code, item) = line["inv"].as_object().unwrap().iter().next().unwrap();
    let (cost, mut budget) = (item[3].as_f64().unwrap(), line["need"][0]["budget"].as_f64().unwrap());
    let mut offers: [Vec<f64>; 2] = [vec![], vec![]];
    for said in line["history"].as_array().unwrap().iter().flat_map(|pair| pair.as_array().unwrap()) {
        let (text, buyer) = (said["action"].as_str().unwrap(), said["role"] == "buyer");
        let Some((word, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) else {
            return (false, true, None);
        };
        match word {
            "BUY" if buyer => offers[0].push(money(text)),
            "SELL" if !buyer => offers[1].push(money(text)),
            "DEAL" => {
                let named = rest.split_once("(1x ").unwrap().1.split(')').next().unwrap();
                let theirs = &offers[usize::from(buyer)];
                if named != code || !theirs.iter().any(|p| (p - money(text)).abs() <= 0.01) {
                    return (false, true, None);
                }
                let room = match budget - cost {
                    zone if (0.0..1.0).contains(&zone) => {
                        budget = cost + 1.0;
                        1.0
                    }
                    zone if -1.0 < zone && zone < 0.0 => {
                        budget = cost - 1.0;
                        1.0
                    }
                    zone => zone.abs(),
                };
                return (true, false, Some((budget - money(text)) / room));
            }
            "BUY" | "SELL" | "REJECT" | "QUIT" => {}
            _ => return (false, true, None),
        }
    }
    (false, false, None)
}

fn counts_as_we_do(episode: &Episode) -> bool {
    let facts = EpisodeFacts::of(episode);
    let (deal, wrong, ratio) = counted(&export::line(episode, 0, "b", "s"));
    let near = match (ratio, facts.bargained) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-6,
        (a, b) => a == b,
    };
    assert!(near && (deal, wrong) == (facts.deal, facts.format_error), "{ratio:?} {:?}: {facts:?}", (deal, wrong));
    deal
}

#[test]
fn deals_and_ratios_follow_from_the_lines_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(export::file_name("patient", "teacher"));
    let episodes = episodes();
    export::write(&path, "patient", "teacher", &episodes).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let again: Vec<Value> =
        episodes.iter().enumerate().map(|(i, e)| export::line(e, i, "patient", "teacher")).collect();
    assert_eq!(lines, again);
    let deals = episodes.iter().filter(|e| counts_as_we_do(e)).count();
    assert!(deals > 50, "{deals} deals");
}

/// A game over these prices, `B` and `S` lines in turn; `{}` stands for the code.
fn game(code: &str, list: i64, cost: i64, said: &[&str]) -> Episode {
    let product = Arc::new(Product::new(code, "mugs", "A Mug", "", Cents(list), Cents(cost)));
    let rules = Rules { style: Style::Paper, ..Rules::default() };
    let mut episode = Episode::new(product, rules, Persona::Neutral);
    for (i, action) in said.iter().enumerate() {
        let side = if i % 2 == 0 { Side::Buyer } else { Side::Seller };
        let reply = format!("Thought: x\nTalk: y\nAction: {}", action.replace("{}", episode.code()));
        episode.submit(side, &reply).unwrap();
    }
    episode
}

#[test]
fn zones_below_a_dollar_are_counted_as_we_count_them() {
    for (list, cost) in
        [(39_999, 31_999), (1_900, 1_499), (1_900, 1_520), (1_900, 1_521), (1_900, 1_619), (1_900, 1_421)]
    {
        let price = format!("[BUY] ${:.2} (1x {{}})", list as f64 * 0.8 / 100.0 - 0.3);
        let deal = price.replace("BUY", "DEAL");
        let played = game("mugs_1", list, cost.min(list * 4 / 5 - 40), &[&price, &deal]);
        assert!(counts_as_we_do(&played), "{list} {cost}");
        counts_as_we_do(&game("mugs_1", list, cost, &["[BUY] $5 (1x {})", "[QUIT]"]));
    }
}

#[test]
fn what_breaks_the_protocol_is_a_wrong_action_there_too() {
    let offers = ["[BUY] $5 (1x {})", "[SELL] $15.50 (1x {})", "[BUY] $6 (1x {})", "[SELL] $15 (1x {})"];
    // Each is legal to the evaluator, or fails there by another rule.
    for last in
        ["[DEAL] $15.50 (1x {})", "[DEAL] $14 (1x {})", "[SELL] $15 (1x {})", "[BUY] $7 (2x {})", "[BUY] $7", "[QUIT"]
    {
        let played = game("mugs_1", 2_000, 1_000, &[&offers[..], &[last]].concat());
        assert!(matches!(played.outcome(), Some(Outcome::Violation { .. })), "{last}: {:?}", played.outcome());
        assert!(!counts_as_we_do(&played));
    }
    assert!(counts_as_we_do(&game("mugs_1", 2_000, 1_000, &[&offers[..], &["[DEAL] $15 (1x {})"]].concat())));
}

#[test]
fn a_code_of_any_text_is_one_the_evaluator_reads_back() {
    for code in ["mugs_1", "books, 2x (1)_3", "a]b[c_4", "кружки_5", "x y_6"] {
        let mut played = game(code, 2_000, 1_000, &["[REJECT]"]);
        played = if played.outcome().is_some() { game(code, 2_000, 1_000, &[]) } else { played };
        let line = export::line(&played, 0, "b", "s");
        let named = line["need"][0]["codename"].as_str().unwrap();
        assert!(line["inv"].get(named).is_some() && !named.contains([',', ' ', '(', ')', '[', ']']), "{named}");
    }
}

#[test]
fn what_did_not_parse_has_an_empty_action() {
    let product = Arc::new(Product::new("books_1", "books", "A Book", "", Cents(3_000), Cents(1_000)));
    let mut episode = Episode::new(product, Rules::default(), Persona::Neutral);
    episode.submit(Side::Buyer, "I want it").unwrap();
    let line = export::line(&episode, 0, "b", "s");
    assert_eq!(
        (line["errormsg"].as_str(), line["history"][0][0]["action"].as_str()),
        (Some("BUYER:action error"), Some(""))
    );
    assert_eq!(line["history"][0][0]["raw_text"], "I want it");
}

#[test]
fn file_names_are_such_that_the_evaluator_takes_them() {
    assert_eq!(export::file_name("trained", "tit_for_tat"), "trained+tit_for_tat+F0.8+haggle.jsonl");
    assert_eq!(export::file_name("a+b/test", "x"), "a-b-held_out+x+F0.8+haggle.jsonl");
}
