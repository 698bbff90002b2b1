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

#[test]
fn deals_and_ratios_follow_from_the_lines_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(export::file_name("patient", "teacher"));
    let episodes = episodes();
    export::write(&path, "patient", "teacher", &episodes).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), episodes.len());
    let mut deals = 0;
    for (line, episode) in lines.iter().zip(&episodes) {
        let last = line["history"].as_array().unwrap().last().unwrap().as_array().unwrap().last().unwrap();
        let action = last["action"].as_str().unwrap();
        let facts = EpisodeFacts::of(episode);
        assert_eq!(action.starts_with("[DEAL]"), facts.deal);
        if facts.deal {
            deals += 1;
            let (cost, budget) = (
                line["inv"][&episode.product().code][3].as_f64().unwrap(),
                line["need"][0]["budget"].as_f64().unwrap(),
            );
            let ratio = (budget - money(action)) / (budget - cost).abs().max(1.0);
            assert!((ratio - facts.bargained.unwrap()).abs() < 1e-9);
        }
    }
    assert!(deals > 50, "{deals} deals");
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
    assert_eq!(export::file_name("trained", "tit_for_tat"), "trained+tit_for_tat+F0.8.jsonl");
    assert_eq!(export::file_name("a+b/test", "x"), "a-b-held_out+x+F0.8.jsonl");
}
