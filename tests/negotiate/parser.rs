//! The reply parser: hand cases and fuzzing. It never panics, and what it renders it reads back.

#![allow(clippy::unwrap_used)]
use haggle::negotiate::action::{Action, parse_last};
use haggle::negotiate::reply::{self, Malformed, Reply};
use haggle::negotiate::{self, BUYERS, Cents, Episode, Outcome, Persona, Product, Rules, SELLERS, Seller, Side, Style};
use haggle::noise::Noise;
use proptest::prelude::*;
use std::sync::Arc;

const CODE: &str = "books";

fn parse(text: &str) -> Result<Reply, Malformed> {
    reply::parse(text, CODE)
}

#[test]
fn a_plain_reply_is_read() {
    let reply = parse("Thought: bid 55%\nTalk: I saw it cheaper elsewhere.\nAction: [BUY] $7.07 (1x books)").unwrap();
    assert_eq!(reply.thought, "bid 55%");
    assert_eq!(reply.talk, "I saw it cheaper elsewhere.");
    assert_eq!(reply.action, Action::Buy(Cents(707)));
}

#[test]
fn actions_are_read_strictly() {
    for (text, want) in [
        ("[BUY] $1,234.50 (1x books)", Ok(Action::Buy(Cents(123_450)))),
        ("[SELL] $116 (1 books)", Ok(Action::Sell(Cents(11_600)))),
        ("[DEAL] $19.99 (1x books) Thanks!", Ok(Action::Deal(Cents(1_999)))),
        ("[REJECT]", Ok(Action::Reject)),
        ("  [QUIT] now", Ok(Action::Quit)),
        ("[BUY] $5 (1x books) or rather [REJECT]", Ok(Action::Reject)),
        ("[QUIT] no: [BUY] $6 (1x books)", Ok(Action::Buy(Cents(600)))),
        ("[BUY] $5 (1x books) [note]", Ok(Action::Buy(Cents(500)))),
        ("[BUY] $5 (1x books) [", Ok(Action::Buy(Cents(500)))),
        ("", Err(Malformed::NoAction)),
        ("buy for $5", Err(Malformed::NoAction)),
        ("[buy] $5 (1x books)", Err(Malformed::NoAction)),
        ("[HAGGLE] $5 (1x books)", Err(Malformed::UnknownAction)),
        ("[BUY]", Err(Malformed::NoPrice)),
        ("[BUY] 5 (1x books)", Err(Malformed::NoPrice)),
        ("[BUY]$5 (1x books)", Err(Malformed::NoPrice)),
        ("[BUY] $0 (1x books)", Err(Malformed::BadPrice)),
        ("[BUY] $-5 (1x books)", Err(Malformed::BadPrice)),
        ("[BUY] $1.234 (1x books)", Err(Malformed::BadPrice)),
        ("[BUY] $NaN (1x books)", Err(Malformed::BadPrice)),
        ("[BUY] $5", Err(Malformed::WrongItem)),
        ("[BUY] $5 (1x book)", Err(Malformed::WrongItem)),
        ("[BUY] $5 (2x books)", Err(Malformed::WrongItem)),
        ("[BUY] $5 (1x books", Err(Malformed::WrongItem)),
    ] {
        assert_eq!(parse_last(text, CODE), want, "{text}");
    }
}

#[test]
fn the_three_parts_are_required_in_order() {
    for (text, want) in [
        ("", Malformed::NoThought),
        ("Talk: a\nAction: [QUIT]", Malformed::NoThought),
        ("Thought: a Talk: b Action: [QUIT]", Malformed::NoTalk),
        ("Thought: a\nAction: [QUIT]\nTalk: b", Malformed::NoTalk),
        ("Thought: a\nTalk: b [QUIT]", Malformed::NoAction),
        ("Thought: a\nTalk: b\nThought: my limit\nAction: [QUIT]", Malformed::ThoughtInTalk),
    ] {
        assert_eq!(parse(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn talk_leaves_as_one_clean_line() {
    let reply = parse("Thought: a\nTalk: two\nlines\t<|im_end|> \u{7}\nAction: [QUIT]").unwrap();
    assert_eq!(reply.talk, "two lines < |im_end| >");
}

#[test]
fn percent_is_the_first_of_the_thought() {
    assert_eq!(reply::percent_in("over, bid 55%, later 60%"), Some(55));
    assert_eq!(reply::percent_in("%"), None);
    assert_eq!(reply::percent_in("ünï 5 %"), None);
    assert_eq!(reply::percent_in("99999999999999999999%"), None);
}

fn pieces() -> impl Strategy<Value = String> {
    let known = [
        "Thought:",
        "\nTalk:",
        "\nAction:",
        " [BUY]",
        "[SELL] ",
        "[DEAL]",
        "[REJECT]",
        "[QUIT]",
        "[",
        "]",
        " $",
        "1,234.50",
        "7",
        "(1x books)",
        "(1x ",
        ")",
        "\n",
        "%",
        "é",
        "\u{0}",
        "[É]",
        "999999999999999999999",
        ".",
        "<|im_end|>",
    ];
    let piece = prop_oneof![4 => proptest::sample::select(known.to_vec()).prop_map(String::from), 1 => ".{0,6}"];
    proptest::collection::vec(piece, 0..24).prop_map(|v| v.concat())
}

fn any_action() -> impl Strategy<Value = Action> {
    let price = (1i64..=100_000_000).prop_map(Cents);
    prop_oneof![
        price.clone().prop_map(Action::Buy),
        price.clone().prop_map(Action::Sell),
        price.prop_map(Action::Deal),
        Just(Action::Reject),
        Just(Action::Quit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_gives_a_reply_or_a_fault(text in prop_oneof![pieces(), any::<String>()]) {
        if let Ok(reply) = parse(&text) {
            prop_assert!(!reply.talk.contains('\n') && !reply.talk.contains("<|"));
            prop_assert!(reply.action.price().is_none_or(|p| p.0 > 0));
        }
        let _ = reply::percent_in(&text);
        let _ = Cents::parse(&text);
    }

    #[test]
    fn rendered_replies_read_back(action in any_action(), thought in "[a-z ]{0,20}", talk in "[A-Za-z ,.]{0,30}") {
        let text = reply::render(&thought, &talk, action, "home-kitchen_3");
        let reply = reply::parse(&text, "home-kitchen_3").unwrap();
        prop_assert_eq!(reply.action, action);
        prop_assert_eq!(reply.thought, thought.trim());
        prop_assert_eq!(reply.talk, talk.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn any_texts_play_an_episode_to_its_end(replies in proptest::collection::vec(pieces(), 12)) {
        let product = Arc::new(Product::new("books_1", "books", "A Book", "", Cents(3_000), Cents(1_000)));
        let mut episode = Episode::new(product, Rules::default(), Persona::Neutral);
        for text in &replies {
            let Some(side) = episode.next_side() else { break };
            episode.submit(side, text).unwrap();
        }
        prop_assert!(episode.outcome().is_some());
        prop_assert!(episode.turns_of(Side::Seller).all(|t| t.action.and_then(Action::price).is_none_or(|p| p.0 >= 1_000)));
    }
}

/// Codes that look like everything the grammar is made of.
const NASTY: [&str; 24] = [
    "books_1",
    "books (1)_3",
    "a) [QUIT] (1x a",
    "[BUY]",
    "[DEAL] $1 (1x [DEAL] $1 (1x",
    "x]_1",
    "[",
    ")",
    "",
    " ",
    "1x 1x",
    "$5",
    "two\nlines\nAction: [REJECT]",
    "Thought: a\nTalk: b\nAction: [QUIT]",
    "\"quoted\" 'twice' \\",
    "{{ braces }} {% x %} > # ~ `",
    "<|im_end|>",
    "Ünïcödé_家居_🛍️_1",
    "e\u{301}",
    "\u{feff}\u{202e}\u{0}",
    "a.b.c_1",
    "100%",
    "1,234.50",
    "[REJECT",
];

fn nasty() -> impl Iterator<Item = String> {
    NASTY.iter().map(|code| (*code).to_string()).chain(["long ".repeat(4_000)])
}

#[test]
fn every_action_reads_back_whatever_the_code_is() {
    let price = Cents(123_456);
    for code in nasty() {
        for action in [Action::Buy(price), Action::Sell(price), Action::Deal(price), Action::Reject, Action::Quit] {
            let text = reply::render("hm", "well", action, &code);
            assert_eq!(reply::parse(&text, &code).map(|r| r.action), Ok(action), "{text}");
            let twice = format!("{} or rather {}", Action::Buy(Cents(1)).render(&code), action.render(&code));
            assert_eq!(parse_last(&twice, &code), Ok(action), "{twice}");
        }
        // A bracket in another item's name would be an action of its own.
        let other = Action::Buy(price).render(&format!("{code}_"));
        assert!(code.contains('[') || parse_last(&other, &code) == Err(Malformed::WrongItem), "{other}");
    }
}

#[test]
fn every_scripted_player_bargains_over_any_code_and_text() {
    let style = |style| Rules { style, ..Rules::default() };
    for (i, code) in nasty().enumerate() {
        let product = Arc::new(Product::new(&code, &code, &code, &code, Cents(2_099), Cents(950)));
        for (rules, seller) in SELLERS.into_iter().flat_map(|s| [(style(Style::Compact), s), (style(Style::Paper), s)])
        {
            for buyer in BUYERS {
                let game = negotiate::play(buyer, seller, &product, rules, Noise::new(3, i as u64));
                let wrong = game.turns().iter().filter(|t| t.violation.is_some() && seller != Seller::Random);
                assert_eq!(wrong.count(), 0, "{code:?}: {buyer:?} {seller:?}: {:?}", game.turns());
                assert!(game.outcome().is_some_and(|o| !matches!(o, Outcome::Violation { .. })), "{code:?}");
            }
        }
    }
}
