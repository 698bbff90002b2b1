//! `haggle sft`: what it reads, what it refuses, that it learns, goes on to the same bits, and leaves a model.

use crate::support::cli::{Said, command, haggle, write_products};
use haggle::embedded;
use haggle::negotiate::{Outcome, Rules, Seller, Style};
use haggle::sft::dialogues::Dialogues;
use haggle::sft::talk;
use haggle::text::{Chat, Message, Role};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Conversations that a model has never seen: a rule that a few updates teach.
fn write_talks(file: &Path, n: usize) {
    let line = |i: usize| {
        let system = json!({ "role": "system", "content": "Say the word." });
        let turn = |i: usize| {
            let asked = format!("Talk: number {}", i % 7);
            [
                json!({ "role": "user", "content": asked }),
                json!({ "role": "assistant", "content": "Thought: yes yes yes" }),
            ]
        };
        let said: Vec<Value> = std::iter::once(system).chain(turn(i)).chain(turn(i / 7)).collect();
        format!("{}\n", json!({ "messages": said }))
    };
    std::fs::write(file, (0..n).map(line).collect::<String>()).unwrap();
}

const SMALL: [&str; 8] = ["--batch", "4", "--lr", "0.003", "--save-every", "2", "--threads", "1"];

fn sft(dir: &Path, out: &str, more: &[&str]) -> Said {
    let args = ["sft", "--model", "embedded", "--data", "talks.jsonl", "--out", out];
    haggle(dir, &[&args[..], &SMALL, more].concat())
}

fn rows(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let mut rows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    rows.iter_mut().for_each(|row| row.as_object_mut().unwrap().retain(|key, _| !key.starts_with("time/")));
    rows
}

#[test]
fn a_model_learns_a_file_and_is_a_model_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_talks(&at.join("talks.jsonl"), 64);
    let told = sft(at, "run", &["--val", "0.1", "--epochs", "2"]).done();
    assert!(told.contains("held-out loss") && told.contains("haggle chat --model run"), "{told}");
    let rows = rows(&at.join("run"));
    // 57 to learn from in updates of 4, twice; the held-out loss before, after each epoch.
    assert_eq!(rows.len(), 1 + 30);
    let losses: Vec<f64> = rows.iter().filter_map(|row| row["val_loss"].as_f64()).collect();
    assert_eq!(losses.len(), 3);
    assert!(losses[0] > 2.0 && losses[2] < 0.5, "{losses:?}");
    let tokens: u64 = rows[1]["trained_tokens"].as_u64().unwrap();
    assert!(tokens > 0 && tokens < rows[1]["tokens"].as_u64().unwrap());
    for file in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        assert!(at.join("run/checkpoints/step-000030").join(file).is_file(), "{file}");
    }
    haggle(at, &["train", "--model", "run", "--dry-run"]).done();
    haggle(at, &["train", "--resume", "--out", "run"]).refused(3, &["is a run of haggle sft"]);
    sft(at, "run", &[]).refused(3, &["already holds a run"]);
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_talks(&at.join("talks.jsonl"), 60);
    let more = ["--epochs", "3", "--val", "0.1"];
    sft(at, "whole", &more).done();
    let args = [&["sft", "--model", "embedded", "--data", "talks.jsonl", "--out", "run"][..], &SMALL, &more].concat();
    let mut child = command(at, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now();
    while rows(&at.join("run")).len() < 8 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
        assert!(patience.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resume = |more: &[&str]| haggle(at, &[&["sft", "--resume", "--out", "run"], more].concat());
    let changed = resume(&["--seed", "9"]);
    assert!(changed.code == 2 && changed.err.contains("seed: 9, not 1"), "{changed:?}");
    resume(&["--lr", "1"]).refused(2, &["--resume", "--lr"]);
    let talks = std::fs::read(at.join("talks.jsonl")).unwrap();
    write_talks(&at.join("talks.jsonl"), 61);
    resume(&[]).refused(3, &["talks.jsonl", "not what the run began with"]);
    std::fs::write(at.join("talks.jsonl"), talks).unwrap();
    resume(&[]).done();
    assert_eq!(rows(&at.join("run")), rows(&at.join("whole")));
    let last = |run: &str| std::fs::read(at.join(run).join("checkpoints/step-000042/model.safetensors")).unwrap();
    assert!(last("run") == last("whole"));
    haggle(at, &["sft", "--resume", "--out", "nowhere"]).refused(3, &["nowhere", "no run of haggle sft"]);
}

#[test]
fn every_line_that_is_wrong_is_named_and_long_ones_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (at, file) = (dir.path(), dir.path().join("talks.jsonl"));
    let line = |roles: &[&str]| {
        let said: Vec<Value> = roles.iter().map(|role| json!({ "role": role, "content": "a" })).collect();
        json!({ "messages": said }).to_string()
    };
    let wrong = [
        ("{".into(), "is not JSON"),
        ("[]".into(), "has no `messages`"),
        (r#"{"messages": "a"}"#.into(), "`messages` is no list"),
        (line(&["user", "narrator"]), "message 2: unknown role \"narrator\""),
        (line(&["system", "user"]), "has no assistant turn"),
        (line(&["system", "system", "user", "assistant"]), "has 2 system messages"),
        (line(&["user", "assistant", "system"]), "the system message is not the first"),
        (line(&["system", "assistant", "user"]), "an assistant turn comes first"),
        (r#"{"messages": [{"role": "user"}]}"#.into(), "message 1 has no `content`"),
        (r#"{"messages": [{"role": "user", "content": null}]}"#.into(), "message 1: `content` is no text"),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}"#.into(),
            "says nothing",
        ),
    ];
    let good = line(&["system", "user", "assistant"]);
    let text: String = wrong.iter().map(|(text, _)| format!("{good}\r\n\n{text}\n")).collect();
    std::fs::write(&file, text).unwrap();
    let said = sft(at, "run", &[]);
    assert!(said.code == 3 && !at.join("run").exists(), "{said:?}");
    assert_eq!(said.err.lines().count(), wrong.len(), "{}", said.err);
    for (i, ((_, what), told)) in wrong.iter().zip(said.err.lines()).enumerate() {
        let place = format!("haggle: talks.jsonl:{}: ", 3 * i + 3);
        assert!(told.starts_with(&place) && told.contains(what), "want {place}{what}: {told}");
    }
    std::fs::write(&file, "{\n".repeat(50)).unwrap();
    assert!(sft(at, "run", &[]).err.ends_with("... and 30 more lines\n"));
    std::fs::write(&file, "\n").unwrap();
    sft(at, "run", &[]).refused(3, &["talks.jsonl", "holds no conversation"]);
    std::fs::write(&file, b"{\"messages\": \"\xff\"}\n").unwrap();
    sft(at, "run", &[]).refused(3, &["talks.jsonl:1: is not UTF-8 (byte 15)"]);
    // What is longer than the context is left out.
    let long = json!({ "messages": [{ "role": "user", "content": "word ".repeat(3_000) }, { "role": "assistant", "content": "b" }] });
    std::fs::write(&file, format!("{good}\n{long}\n{good}\n{good}\n{long}\n")).unwrap();
    let said = sft(at, "run", &["--val", "0"]);
    assert!(
        said.code == 0 && said.err.contains("2 conversations are longer than") && said.err.contains("talks.jsonl:2"),
        "{said:?}"
    );
    std::fs::write(&file, format!("{long}\n")).unwrap();
    sft(at, "none", &[]).refused(2, &["0 conversations leave none", "1 are longer"]);
    sft(at, "none", &["--val", "1"]).refused(2, &["--val"]);
    sft(at, "none", &["--lr", "0"]).refused(2, &["--lr"]);
    assert!(!at.join("none").exists());
}

#[test]
fn generated_conversations_are_those_of_the_game_in_either_style() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_products(&at.join("p"));
    let generate = |style: &str, file: &str, more: &[&str]| {
        let args = ["sft", "--generate", "40", "--prompts", style, "--write", file, "--seed", "4"];
        haggle(at, &[&args[..], more].concat())
    };
    for style in ["compact", "paper"] {
        let (file, again) = (format!("{style}.jsonl"), format!("{style}-again.jsonl"));
        for file in [&file, &again] {
            let told = generate(style, file, &["--products", "p"]).done();
            assert!(told.contains("40 conversations") && told.contains(style), "{told}");
        }
        let text = std::fs::read_to_string(at.join(&file)).unwrap();
        assert_eq!(text, std::fs::read_to_string(at.join(&again)).unwrap(), "a function of the seed");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 40);
        let content = |line: &Value, at: usize| line["messages"][at]["content"].as_str().unwrap().to_string();
        let role = |line: &Value, at: usize| line["messages"][at]["role"].clone();
        for line in &lines {
            assert_eq!([role(line, 0), role(line, 1), role(line, 2)], ["system", "user", "assistant"]);
            assert!(content(line, 2).starts_with("Thought: ") && content(line, 2).contains("\nAction: ["));
            assert_eq!(content(line, 0).contains("STRICTLY follow this format"), style == "paper");
        }
        assert!(lines.iter().any(|line| content(line, 0).contains("Notebook No.")), "over the products of the folder");
        generate(style, &file, &[]).refused(3, &[&file, "is there already"]);
    }
    generate("paper", "buyer.jsonl", &["--roles", "buyer"]).done();
    let buyers = std::fs::read_to_string(at.join("buyer.jsonl")).unwrap();
    assert!(buyers.lines().all(|line| line.contains("You are buying") && !line.contains("You are selling")));
    generate("compact", "strangers.jsonl", &["--sellers", "base=1,chatterer=3"]).done();
    let met = std::fs::read_to_string(at.join("strangers.jsonl")).unwrap();
    let chatters = |line: &&str| line.contains("My cousin") || line.contains("The weather") || line.contains("My dog");
    let strangers: Vec<&str> = met.lines().filter(chatters).collect();
    assert!((15..40).contains(&strangers.len()), "{} of 40", strangers.len());
    assert!(strangers.iter().all(|line| line.contains("buyer.")), "nobody learns to sell from a stranger");
    generate("compact", "none.jsonl", &["--sellers", "base_begging"]).refused(2, &["base_begging", "no script"]);
    haggle(at, &["sft", "--generate", "3"]).refused(2, &["--write"]);
    // No word of them breaks a rule, whoever sells.
    let sellers = [Seller::Teacher, Seller::Rejector, Seller::Chatterer, Seller::Injector, Seller::Person];
    let stream = Dialogues::new(4).unwrap().under(Rules { style: Style::Paper, ..Rules::default() });
    let stream = stream.against(sellers.map(|seller| (seller, 1.0)).to_vec());
    for index in 0..400 {
        let (.., episode) = stream.episode(index);
        assert!(!matches!(episode.outcome(), Some(Outcome::Violation { .. } | Outcome::Overshoot { .. }) | None));
        assert!(episode.turns().iter().all(|turn| turn.intervention.is_none() && turn.violation.is_none()));
        for (side, messages) in stream.views(index) {
            let replies: Vec<&str> =
                messages.iter().filter(|m| m.role == Role::Assistant).map(|m| &*m.content).collect();
            assert_eq!(replies, episode.dialogue(side).iter().map(|(_, said)| *said).collect::<Vec<_>>());
        }
    }
}

fn messages(said: &[(Role, &str)]) -> Vec<Message> {
    said.iter().map(|(role, text)| Message::new(*role, *text)).collect()
}

/// The words that carry loss, one text a sequence.
fn learned(chat: &Chat, said: &[Message]) -> Vec<String> {
    let own = |s: &haggle::sft::dialogues::Sequence| -> Vec<i32> {
        assert!(s.weight.iter().zip(&s.own).all(|(w, own)| *w == f32::from(u8::from(*own))));
        s.ids.iter().zip(&s.own).filter(|(_, own)| **own).map(|(id, _)| *id).collect()
    };
    let sequences = talk::sequences(chat, said).unwrap();
    sequences.iter().map(|s| chat.tokenizer.decode(&own(s)).unwrap()).collect()
}

use Role::{Assistant, System, User};

#[test]
fn loss_is_on_the_assistant_s_words_and_the_ends_of_its_turns_whatever_the_shape() {
    let chat = embedded::chat().unwrap();
    let played =
        messages(&[(System, "a b"), (User, "c"), (Assistant, "d e"), (User, "f"), (Assistant, "g"), (User, "h")]);
    assert_eq!(learned(&chat, &played), ["d e<|end|>g<|end|>"]);
    let whole = talk::sequences(&chat, &played).unwrap();
    assert_eq!(
        chat.tokenizer.decode(&whole[0].ids).unwrap(),
        "<|system|>a b<|end|><|user|>c<|end|><|assistant|>d e<|end|><|user|>f<|end|><|assistant|>g<|end|>"
    );
    // Without instructions, and with two turns of one side in a row.
    let bare = messages(&[(User, "c"), (Assistant, "d"), (User, "f"), (User, "f"), (Assistant, "g"), (Assistant, "h")]);
    assert_eq!(learned(&chat, &bare), ["d<|end|>g<|end|>h<|end|>"]);
    let text = chat.tokenizer.decode(&talk::sequences(&chat, &bare).unwrap()[0].ids).unwrap();
    assert_eq!(text, chat.render(&bare, false).unwrap());
}

#[test]
fn where_a_template_rewrites_earlier_turns_each_turn_is_learned_behind_its_own_rendering() {
    // It drops what stands before `|` in earlier turns, when no system message says otherwise.
    let template = "{%- for m in messages -%}{{- '<|' + m['role'] + '|>' -}}\
        {%- if m['role'] == 'assistant' and not loop.last and messages[0]['role'] != 'system' -%}{{- m['content'].split('|')[-1] -}}\
        {%- else -%}{{- m['content'] -}}{%- endif -%}{{- '<|end|>' -}}{%- endfor -%}\
        {%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}";
    let tokenizer = embedded::chat().unwrap().tokenizer;
    let config = json!({ "eos_token": "<|end|>" }).as_object().unwrap().clone();
    let chat = Chat::new(tokenizer, template, config, Path::new("template")).unwrap();
    let said = messages(&[(User, "a"), (Assistant, "why|b"), (User, "c"), (Assistant, "how|d")]);
    assert_eq!(learned(&chat, &said), ["why|b<|end|>", "how|d<|end|>"]);
    let sequences = talk::sequences(&chat, &said).unwrap();
    let text = |i: usize| chat.tokenizer.decode(&sequences[i].ids).unwrap();
    assert_eq!(text(0), "<|user|>a<|end|><|assistant|>why|b<|end|>");
    assert_eq!(text(1), "<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>how|d<|end|>");
}
