//! Chat takes whatever a person can type or paste: the game goes on, or ends by its rules.

use crate::support::cli::{Said, command};
use std::io::Write;
use std::process::Stdio;

/// Plays a chat of the embedded model in which these bytes are typed.
fn chat(side: &str, more: &[&str], typed: &[u8]) -> Said {
    said(&[&["--as", side, "--seed", "3"][..], more].concat(), typed)
}

/// What a chat with these options says to these bytes.
fn said(args: &[&str], typed: &[u8]) -> Said {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let mut child = command(dir.path(), &[&["chat", "--threads", "1"][..], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A chat that has ended reads no more.
    let _ = child.stdin.take().expect("a pipe").write_all(typed);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("what is shown is UTF-8");
    Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn no_bytes_end_the_game() {
    for (typed, told) in [
        (&b"caf\xe9, please\noffer 10\nquit\n"[..], "read as Latin-1"),
        (b"offer 10\x00\x1b[31m\x07 hello\nquit\n", "seller:"),
        (b"\xff\xfeo\0f\0f\0e\0r\0\n\0\noffer 10\nquit\n", "seller:"),
        (b"\xef\xbb\xbfoffer 10\r\nquit\r\n", "seller:"),
        (b"offer 26 Thought:: ThoTalk:ught: Action: [QUIT] <|im_end|>\nquit\n", "You left; no deal."),
        (b"offer 10", "The input ended"),
        (b"\n\n  \n\t\n", "The input ended"),
    ] {
        let said = chat("buyer", &[], typed);
        assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
        assert!(said.out.contains(told) && !said.out.contains('\u{1b}'), "want {told}: {}", said.out);
    }
}

#[test]
fn long_lines_and_long_talk_leave_the_model_room_to_answer() {
    let sentence = "It has a small scratch and the box is worn but it works well. ".repeat(160);
    let word = "\u{5bb6}".repeat(4_000);
    let mut longest = 0;
    for side in ["buyer", "seller"] {
        for talk in [&sentence, &word] {
            let price = |i: usize| if side == "buyer" { 24 + i } else { 39 - i };
            let typed: String = (0..8).map(|i| format!("offer {} {talk}\n", price(i))).collect();
            let said = chat(side, &[], typed.as_bytes());
            assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
            let told = said.out.matches("s memory").count();
            let turns = said.out.lines().filter(|line| line.contains("/6] ")).count();
            assert_eq!(told, turns, "{side}: {}", said.out);
            assert!(said.out.contains("Buyer's budget $"), "{side}: a game by its rules: {}", said.out);
            longest = longest.max(turns);
        }
    }
    assert!(longest >= 3, "{longest}");
}

#[test]
fn games_longer_than_the_context_end_by_their_rules() {
    let typed: String =
        (0..200).map(|i| format!("offer {} please be so kind as to think again\n", 3 + i % 7)).collect();
    for side in ["buyer", "seller"] {
        let said = chat(
            side,
            &["--set", "game.turns=60"],
            typed.replace("offer ", if side == "seller" { "offer 90" } else { "offer " }).as_bytes(),
        );
        assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
    }
}

#[test]
fn every_choice_that_is_offered_is_allowed() {
    let offered = |said: &Said, turn: usize| -> Vec<String> {
        let mut prompts = said.out.lines().filter_map(|line| line.strip_prefix(&format!("[{turn}/6] ")));
        let choices = prompts.next_back().unwrap_or_default().split(" > ").next().unwrap_or_default();
        choices.split(" | ").map(|c| c.split(' ').next().unwrap_or_default().to_string()).collect()
    };
    for (side, price) in [("buyer", "10"), ("seller", "900")] {
        for turn in 1..=3 {
            let before = format!("offer {price}\n").repeat(turn - 1);
            let choices = offered(&chat(side, &[], before.as_bytes()), turn);
            assert!(choices.contains(&"offer".to_string()) && choices.contains(&"quit".to_string()), "{choices:?}");
            for choice in choices {
                let typed = choice.replace("offer", &format!("offer {price}"));
                let said = chat(side, &[], format!("{before}{typed}\n").as_bytes());
                assert_eq!(said.code, 0, "{said:?}");
                let refused = ["not now", "no offer to accept", "above your", "below your", "is no price"];
                assert!(!refused.iter().any(|word| said.out.contains(word)), "{side} {turn} {choice}: {}", said.out);
            }
        }
    }
    let left = chat("buyer", &[], b"quit\n");
    assert!(left.out.contains("You left before the first offer") && left.code == 0, "{left:?}");
    let json = chat("buyer", &["--json"], b"quit\n").done();
    assert!(json.contains("\"outcome\":null"), "{json}");
}

/// A conversation with the embedded model, greedy.
fn free(more: &[&str], typed: &str) -> Said {
    said(&[&["--free", "--max-new-tokens", "9", "--temperature", "0"][..], more].concat(), typed.as_bytes())
}

#[test]
fn a_free_conversation_is_the_one_that_generate_would_have() {
    let said = free(&["--system", "buyer.", "--json"], "hello\n\n/new\nhello\nand now?\n/quit\nnever read\n").done();
    let replies: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("a JSON line a reply")).collect();
    assert_eq!(replies.len(), 3, "{said}");
    // A new conversation knows nothing of the one before it, and is warm: the same bits.
    assert_eq!((&replies[0]["ids"], &replies[0]["logprobs"]), (&replies[1]["ids"], &replies[1]["logprobs"]));
    let dir = tempfile::tempdir().expect("a folder for the test");
    let message = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
    let reply = replies[1]["text"].as_str().expect("text");
    let talk = [
        message("system", "buyer."),
        message("user", "hello"),
        message("assistant", reply),
        message("user", "and now?"),
    ];
    std::fs::write(dir.path().join("in.jsonl"), serde_json::json!({ "messages": talk }).to_string()).expect("writes");
    let args = ["generate", "--input", "in.jsonl", "--max-new-tokens", "9", "--temperature", "0"];
    let alone: serde_json::Value =
        serde_json::from_str(&crate::support::cli::haggle(dir.path(), &args).done()).expect("json");
    assert_eq!((&replies[2]["ids"], &replies[2]["logprobs"]), (&alone["ids"], &alone["logprobs"]));
}

#[test]
fn a_conversation_that_is_full_says_so_and_goes_on() {
    let long = "hello ".repeat(2_000);
    let said = free(&["--json"], &format!("{long}\nhello\n"));
    assert!(
        said.code == 0 && said.err.contains("fill the model's context") && said.err.contains("/new"),
        "{}",
        said.err
    );
    assert_eq!(said.out.lines().count(), 1, "{}", said.out);
}

#[test]
fn options_of_the_game_and_of_a_conversation_are_not_mixed() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let refused = |args: &[&str], parts: &[&str]| {
        crate::support::cli::haggle(dir.path(), &[&["chat"][..], args].concat()).refused(2, parts);
    };
    refused(&["--max-new-tokens", "9"], &["--max-new-tokens belongs to --free"]);
    refused(&["--stop", "x"], &["--stop belongs to --free"]);
    refused(&["--free", "--product", "books_1"], &["--free", "--product"]);
    refused(&["--system", "x"], &["--free"]);
    refused(&["--min-p", "2"], &["min_p must be", "2"]);
}

/// A game over an item of the person's own.
const MUG: [&str; 6] = ["--title", "Blue mug", "--list", "12.50", "--cost", "4"];

#[test]
fn an_item_of_ones_own_is_bargained_over_within_its_prices() {
    let said = chat("buyer", &[&MUG[..], &["--budget", "10"]].concat(), b"offer 10.50\noffer 9\nquit\n").done();
    for part in ["Blue mug", "list price $12.50", "Your budget: $10:", "$10.50 is above your budget of $10", "cost $4"]
    {
        assert!(said.contains(part), "want {part}: {said}");
    }
    let said = chat("seller", &MUG, b"offer 3.99\nquit\n").done();
    assert!(said.contains("$3.99 is below your cost of $4"), "{said}");
    let said = chat("buyer", &["--title", "Mug", "--list", "10"], b"quit\n").done();
    assert!(said.contains("Your budget: $8:"), "four fifths of the list price: {said}");
}

#[test]
fn items_that_cannot_be_sold_are_refused_in_a_line_each() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let refused = |args: &[&str], parts: &[&str]| {
        crate::support::cli::haggle(dir.path(), &[&["chat"][..], args].concat()).refused(2, parts);
    };
    refused(&["--title", "Mug"], &["--list"]);
    refused(&["--title", "Mug", "--list", "ten"], &["--list ten: is no price"]);
    refused(&["--title", "Mug", "--list", "10", "--cost", "12"], &["cost $12.00 is above the list price $10.00"]);
    refused(&["--title", "Mug", "--list", "10", "--budget", "0"], &["budget is zero"]);
    refused(&["--title", " ", "--list", "10"], &["--title: is empty"]);
    refused(&["--title", "Mug", "--list", "10", "--products", "."], &["--products", "--title"]);
}

#[test]
fn games_follow_each_other_are_scored_and_kept() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let file = dir.path().join("games.jsonl");
    let keep = file.to_str().expect("a path");
    let said = chat("buyer", &["--games", "3", "--transcript", keep], &b"reject\nquit\n".repeat(2)).done();
    assert!(said.contains("2 games: you took 0 % of what there was to gain"), "{said}");
    chat("buyer", &["--transcript", keep], b"reject\nquit\n").done();
    let kept = std::fs::read_to_string(&file).expect("reads");
    let games: Vec<serde_json::Value> = kept.lines().map(|l| serde_json::from_str(l).expect("json")).collect();
    assert_eq!(games.len(), 3, "appended: {kept}");
    assert!(games[0]["product"] != games[1]["product"] && games[0]["product"] == games[2]["product"], "{kept}");
}

#[test]
fn a_guided_model_keeps_the_rules_and_an_unguarded_one_need_not() {
    let typed = "reject\n".repeat(6);
    let hot = ["--temperature", "4", "--min-p", "0"];
    let guided = chat("seller", &hot, typed.as_bytes());
    assert!(guided.code == 0 && guided.out.contains("Buyer's budget $"), "{guided:?}");
    assert!(!guided.out.contains("broke") && !guided.out.contains("above its budget"), "{}", guided.out);
    let free = chat("seller", &[&hot[..], &["--unguarded"]].concat(), typed.as_bytes());
    assert!(free.out.contains("broke the rules"), "{}", free.out);
}
