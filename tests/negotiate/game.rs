//! The rules of the game: legality, ends, regulation, reward, and what each side is shown.

#![allow(clippy::unwrap_used)]
use haggle::negotiate::prompts;
use haggle::negotiate::protocol::Illegal;
use haggle::negotiate::reply::Malformed;
use haggle::negotiate::reward::{reward, reward_without_penalties};
use haggle::negotiate::*;
use std::sync::Arc;

/// List $100, cost $40, budget $80.
fn product() -> Arc<Product> {
    Arc::new(Product::new("books_7", "books", "House of Earth and Blood", "A novel.", Cents(10_000), Cents(4_000)))
}

fn episode() -> Episode {
    Episode::new(product(), Rules::default(), Persona::Neutral)
}

fn say(thought: &str, talk: &str, action: &str) -> String {
    format!("Thought: {thought}\nTalk: {talk}\nAction: {action}")
}

/// Plays actions alternately from the buyer and returns the episode.
fn after(actions: &[&str]) -> Episode {
    let mut e = episode();
    for action in actions {
        let side = e.next_side().expect("the episode ended early");
        e.submit(side, &say("t", "hello", action)).unwrap();
    }
    e
}

#[test]
fn the_buyer_opens_and_sides_alternate() {
    let mut e = episode();
    assert_eq!(e.next_side(), Some(Side::Buyer));
    assert!(e.submit(Side::Seller, "x").is_err());
    e.submit(Side::Buyer, &say("t", "hi", "[BUY] $50 (1x books)")).unwrap();
    assert_eq!((e.next_side(), e.turn()), (Some(Side::Seller), 1));
    e.submit(Side::Seller, &say("t", "hi", "[SELL] $90 (1x books)")).unwrap();
    assert_eq!((e.next_side(), e.turn()), (Some(Side::Buyer), 2));
    assert_eq!((e.standing(Side::Buyer), e.standing(Side::Seller)), (Some(Cents(5_000)), Some(Cents(9_000))));
}

#[test]
fn a_deal_copies_the_standing_offer_to_the_cent() {
    let e = after(&["[BUY] $50 (1x books)", "[SELL] $70.01 (1x books)", "[DEAL] $70.01 (1x books)"]);
    assert_eq!(e.outcome(), Some(Outcome::Deal { price: Cents(7_001), by: Side::Buyer }));
    let mut e = e;
    assert!(e.submit(Side::Buyer, "x").unwrap_err().to_string().contains("over"));
    let e = after(&["[BUY] $50 (1x books)", "[SELL] $70.01 (1x books)", "[DEAL] $70 (1x books)"]);
    assert_eq!(e.outcome(), Some(Outcome::Violation { why: Violation::Protocol(Illegal::DealPriceDiffers) }));
    let e = after(&["[BUY] $50 (1x books)", "[DEAL] $50 (1x books)"]);
    assert_eq!(e.outcome(), Some(Outcome::Deal { price: Cents(5_000), by: Side::Seller }));
}

#[test]
fn only_the_latest_offer_stands_and_a_rejection_does_not_withdraw_it() {
    let e = after(&["[BUY] $50 (1x books)", "[SELL] $90 (1x books)", "[BUY] $55 (1x books)", "[REJECT]"]);
    assert_eq!(e.standing(Side::Seller), Some(Cents(9_000)));
    let e = after(&[
        "[BUY] $50 (1x books)",
        "[SELL] $79 (1x books)",
        "[REJECT]",
        "[SELL] $75 (1x books)",
        "[DEAL] $79 (1x books)",
    ]);
    assert_eq!(e.outcome(), Some(Outcome::Violation { why: Violation::Protocol(Illegal::DealPriceDiffers) }));
}

#[test]
fn buyer_violations_end_the_episode_at_minus_one() {
    for (actions, why) in [
        (vec!["[DEAL] $50 (1x books)"], Violation::Protocol(Illegal::BadOpening)),
        (vec!["[QUIT]"], Violation::Protocol(Illegal::BadOpening)),
        (vec!["[SELL] $50 (1x books)"], Violation::Protocol(Illegal::WrongSide)),
        (vec!["[REJECT]", "[REJECT]", "[DEAL] $50 (1x books)"], Violation::Protocol(Illegal::NothingToAccept)),
        (vec!["[BUY] $50 (1x shoes)"], Violation::Format(Malformed::WrongItem)),
    ] {
        let e = after(&actions);
        assert_eq!(e.outcome(), Some(Outcome::Violation { why }), "{actions:?}");
        assert_eq!(reward(e.product(), e.outcome().unwrap()), -1.0);
        assert_eq!(reward_without_penalties(e.product(), e.outcome().unwrap()), 0.0);
    }
}

#[test]
fn a_price_above_budget_is_an_overshoot_whether_offered_or_accepted() {
    assert_eq!(after(&["[BUY] $80 (1x books)"]).outcome(), None);
    assert_eq!(after(&["[BUY] $80.01 (1x books)"]).outcome(), Some(Outcome::Overshoot { price: Cents(8_001) }));
    let e = after(&["[BUY] $50 (1x books)", "[SELL] $90 (1x books)", "[DEAL] $90 (1x books)"]);
    assert_eq!(e.outcome(), Some(Outcome::Overshoot { price: Cents(9_000) }));
    assert_eq!(reward(e.product(), e.outcome().unwrap()), -1.0);
}

#[test]
fn quitting_and_the_turn_limit_pay_nothing() {
    let e = after(&["[BUY] $50 (1x books)", "[SELL] $90 (1x books)", "[QUIT]"]);
    assert_eq!(e.outcome(), Some(Outcome::Quit { by: Side::Buyer }));
    let e = after(&["[REJECT]", "[QUIT]"]);
    assert_eq!(e.outcome(), Some(Outcome::Quit { by: Side::Seller }));
    let twelve: Vec<&str> = (0..6).flat_map(|_| ["[BUY] $50 (1x books)", "[SELL] $90 (1x books)"]).collect();
    assert_eq!(after(&twelve[..11]).outcome(), None);
    let e = after(&twelve);
    assert_eq!(e.outcome(), Some(Outcome::Deadlock));
    assert_eq!((reward(e.product(), Outcome::Deadlock), e.turns().len()), (0.0, 12));
    let short = Rules { max_turns: 2, ..Rules::default() };
    let mut e = Episode::new(product(), short, Persona::Neutral);
    for _ in 0..4 {
        let side = e.next_side().unwrap();
        e.submit(side, &say("t", "no", "[REJECT]")).unwrap();
    }
    assert_eq!(e.outcome(), Some(Outcome::Deadlock));
}

#[test]
fn reward_is_the_share_of_the_zone_with_a_guard() {
    let p = product();
    let deal = |price| Outcome::Deal { price: Cents(price), by: Side::Buyer };
    assert_eq!(reward(&p, deal(6_000)), 0.5);
    assert_eq!(reward(&p, deal(4_000)), 1.0);
    assert_eq!(reward(&p, deal(8_000)), 0.0);
    // Conflicting interest: budget $80, cost $90: a deal at cost costs the whole distance.
    let ci = Product::new("x_1", "x", "x", "", Cents(10_000), Cents(9_000));
    assert_eq!(reward(&ci, deal(9_000)), -1.0);
    // Zone of 20 cents: divided by a dollar, not by 0.2.
    let thin = Product::new("x_1", "x", "x", "", Cents(10_000), Cents(7_980));
    assert!((reward(&thin, deal(7_990)) - 0.1).abs() < 1e-12);
    let none = Product::new("x_1", "x", "x", "", Cents(10_000), Cents(8_000));
    assert_eq!(reward(&none, deal(8_000)), 0.0);
}

#[test]
fn the_regulator_never_lets_the_seller_under_its_cost_and_never_concedes() {
    let cases = [
        ("[SELL] $39.99 (1x books)", Intervention::OfferLifted),
        ("[DEAL] $35 (1x books)", Intervention::AcceptanceVoided),
        ("[DEAL] $36 (1x books)", Intervention::Illegal),
        ("[BUY] $60 (1x books)", Intervention::Illegal),
        ("sold!", Intervention::Malformed),
    ];
    for (action, kind) in cases {
        let mut e = after(&["[BUY] $30 (1x books)", "[SELL] $85 (1x books)", "[BUY] $35 (1x books)"]);
        let turn = e.submit(Side::Seller, &say("t", "ok, yours", action)).unwrap().clone();
        assert_eq!(turn.intervention, Some(kind), "{action}");
        assert_eq!(turn.action, Some(Action::Sell(Cents(8_500))), "the standing ask is repeated");
        assert!(!e.view(Side::Buyer).contains("yours"), "the voided talk is not heard");
        assert_eq!(e.outcome(), None);
        e.submit(Side::Buyer, &say("t", "hm", "[REJECT]")).unwrap();
        assert!(e.view(Side::Seller).starts_with("rule: [SELL] $85 (1x books)\n"), "the seller hears what counted");
    }
    let e = after(&["[BUY] $30 (1x books)", "[DEAL] $30 (1x books)"]);
    assert_eq!(e.standing(Side::Seller), Some(Cents(10_000)), "the list price when nothing was asked yet");
    let e = after(&["[BUY] $40 (1x books)", "[DEAL] $40 (1x books)"]);
    assert_eq!(e.outcome(), Some(Outcome::Deal { price: Cents(4_000), by: Side::Seller }), "at cost is allowed");
}

#[test]
fn the_floor_in_the_prompt_is_the_regulators() {
    let e = episode();
    assert!(e.system_prompt(Side::Seller).contains("cost $40"));
    let mut at = after(&["[BUY] $30 (1x books)"]);
    assert_eq!(at.submit(Side::Seller, &say("t", "x", "[SELL] $40 (1x books)")).unwrap().intervention, None);
}

#[test]
fn compact_texts_are_as_documented() {
    let mut e = episode();
    assert_eq!(
        e.system_prompt(Side::Buyer),
        "buyer. books: House of Earth and Blood\nlist $100 budget $80\nbids 20% $16 30% $24 40% $32 45% $36 50% $40 55% $44 \
         60% $48 65% $52 70% $56 75% $60 80% $64 85% $68 90% $72 95% $76 100% $80"
    );
    assert_eq!(
        e.system_prompt(Side::Seller),
        "seller. books: House of Earth and Blood\nlist $100 cost $40\nasks 0% $40 10% $46 20% $52 30% $58 40% $64 50% $70 \
         60% $76 70% $82 80% $88 90% $94 100% $100"
    );
    assert_eq!(e.view(Side::Buyer), "turn 1/6");
    e.submit(Side::Buyer, &say("secret plan", "I can pay today.", "[BUY] $48 (1x books)")).unwrap();
    assert_eq!(e.view(Side::Seller), "Talk: I can pay today.\nAction: [BUY] $48 (1x books)\nturn 1/6 bid 10%");
    e.submit(Side::Seller, &say("secret floor", "Fair price.", "[SELL] $75.50 (1x books)")).unwrap();
    assert_eq!(e.view(Side::Buyer), "Talk: Fair price.\nAction: [SELL] $75.50 (1x books)\nturn 2/6 ask 95%");
    e.submit(Side::Buyer, &say("t", "No.", "[REJECT]")).unwrap();
    assert_eq!(e.view(Side::Seller), "Talk: No.\nAction: [REJECT]\nturn 2/6 bid 10% same");
    e.submit(Side::Seller, &say("t", "Hm.", "[SELL] $64 (1x books)")).unwrap();
    assert_eq!(e.view(Side::Buyer), "Talk: Hm.\nAction: [SELL] $64 (1x books)\nturn 3/6 ask 80% down");
}

#[test]
fn thoughts_and_private_numbers_stay_with_their_side_in_both_styles() {
    for style in [Style::Compact, Style::Paper] {
        let rules = Rules { style, ..Rules::default() };
        let mut e = Episode::new(product(), rules, Persona::Begging);
        let code = e.code().to_string();
        let buyer = say("BUYERTHOUGHT", "My limit is $80, so 80.00 and no more.", &format!("[BUY] $48 (1x {code})"));
        let turn = e.submit(Side::Buyer, &buyer).unwrap();
        assert_eq!((turn.redactions, turn.talk.as_str()), (2, "My limit is $***, so *** and no more."));
        let heard = e.view(Side::Seller);
        assert!(!heard.contains("BUYERTHOUGHT") && !heard.contains("80.00") && !heard.contains("$80"), "{heard}");
        let seller = say("SELLERTHOUGHT", "It cost me $40.00!", &format!("[SELL] $90 (1x {code})"));
        e.submit(Side::Seller, &seller).unwrap();
        let heard = e.view(Side::Buyer);
        assert!(!heard.contains("SELLERTHOUGHT") && !heard.contains("40.00"), "{heard}");
        let p = e.product();
        for side in [Side::Buyer, Side::Seller] {
            assert_eq!(prompts::leak(p, side, &e.system_prompt(side), &[]), None);
        }
        // `$40` stands on the buyer's card as half its budget: a coincidence of numbers, not a leak.
        let told = prompts::leak(p, Side::Seller, "the budget is $80", &[]);
        assert_eq!((told, prompts::leak(p, Side::Buyer, "it cost $40", &[])), (Some(Cents(8_000)), None));
        assert_eq!(prompts::leak(p, Side::Seller, "you offered $80", &[Cents(8_000)]), None);
    }
}

#[test]
fn paper_prompts_hold_the_full_record_and_the_persona_of_the_seller_only() {
    let rules = Rules { style: Style::Paper, ..Rules::default() };
    let e = Episode::new(product(), rules, Persona::Insulting);
    let (buyer, seller) = (e.system_prompt(Side::Buyer), e.system_prompt(Side::Seller));
    assert!(buyer.contains("A novel.") && buyer.contains("books_7") && buyer.contains("at most $80.00"));
    assert!(
        seller.contains("rude") && !buyer.contains("rude") && !seller.contains("80.00") && !buyer.contains("40.00")
    );
}

#[test]
fn dialogue_is_what_a_model_of_that_side_saw_and_wrote() {
    let e = after(&["[BUY] $50 (1x books)", "nonsense", "[QUIT]"]);
    let seller = e.dialogue(Side::Seller);
    assert_eq!(seller.len(), 1);
    assert!(seller[0].0.contains("[BUY] $50") && seller[0].1.contains("nonsense"));
    assert_eq!(e.dialogue(Side::Buyer)[0].0, "turn 1/6");
}
