//! `haggle serve` where things go wrong: kills at any moment, a full disk, a damaged database, requests that are garbage, clients
//! that leave or never read. What was acknowledged is there, the server answers on, and its memory stays bounded.
//!
//! `HAGGLE_FAULTS` is how many times as much of each is done; 1 where it is not set.

use crate::common::{Server, times};
use haggle::noise::Noise;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const ALL: &str = "/v1/negotiations";
const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A round that was acknowledged: negotiation, number, hash.
type Round = (String, usize, Value);

fn start(dir: &Path) -> Server {
    Server::start_in(dir, &["--state", "state"])
}

fn settings(seed: u64) -> Value {
    json!({"role": "seller", "limit_cents": 4_000, "seed": seed, "product": {"title": "Saw", "list_cents": 10_000}})
}

fn bid(n: u64) -> Value {
    json!({"action": {"kind": "offer", "price_cents": 1_000 + n}})
}

/// Rounds of a record, whose chain is whole.
fn verified(record: &Value) -> Vec<Value> {
    let mut before = Value::Null;
    let rounds = record["rounds"].as_array().unwrap();
    for (i, round) in rounds.iter().enumerate() {
        let text = round["record"].to_string();
        let hash: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(round["hash"], hash, "round {} of {record}", i + 1);
        assert!(i == 0 || round["record"]["previous"] == before, "round {} of {record}", i + 1);
        before = round["hash"].clone();
    }
    rounds.clone()
}

/// Asserts that a server has these rounds.
fn holds(server: &Server, acknowledged: &[Round]) {
    for (id, n, hash) in acknowledged {
        let rounds = verified(&server.get(&format!("{ALL}/{id}")).ok());
        assert_eq!(&rounds[n - 1]["hash"], hash, "round {n} of {id}");
    }
}

/// Negotiates until the server is gone or `most` rounds are done; what was acknowledged.
fn haggled(server: &Server, seed: u64, most: usize) -> Vec<Round> {
    let mut told = vec![];
    for game in 0.. {
        let Some(made) = server.try_post(ALL, &settings(100 * seed + game)) else { return told };
        let Some(id) = made["id"].as_str() else { return told };
        for n in 1..6 {
            let Some(answer) = server.try_post(&format!("{ALL}/{id}/messages"), &bid(n)) else { return told };
            told.push((id.to_string(), n as usize, answer["hash"].clone()));
            if told.len() == most {
                return told;
            }
            if answer["state"] != "open" {
                break;
            }
        }
    }
    told
}

/// Asserts that a server is well, with nothing left to do and little more memory than before.
#[track_caller]
fn well(server: &Server, before: u64) {
    server.is_well(before, 64 << 20);
}

fn connect(server: &Server) -> TcpStream {
    let wire = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    wire.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    wire
}

#[test]
fn a_kill_at_any_moment_under_load_loses_no_acknowledged_turn() {
    let (dir, noise) = (tempfile::tempdir().unwrap(), Noise::new(80, 1));
    let (mut acknowledged, mut last): (Vec<Round>, Vec<Round>) = (vec![], vec![]);
    for life in 0..5 * times() {
        let server = start(dir.path());
        holds(&server, &last);
        let told = Mutex::new(vec![]);
        std::thread::scope(|scope| {
            for i in 0..4 {
                let (server, told) = (&server, &told);
                scope.spawn(move || {
                    let own = haggled(server, 4 * life + i, usize::MAX);
                    told.lock().unwrap().extend(own);
                });
            }
            std::thread::sleep(Duration::from_millis(150 + noise.below(life, 900) as u64));
            server.signal("-KILL");
        });
        last = told.into_inner().unwrap();
        acknowledged.extend(last.clone());
    }
    holds(&start(dir.path()), &acknowledged);
    assert!(acknowledged.len() >= 5, "{} turns were acknowledged", acknowledged.len());
}

#[test]
fn a_full_disk_refuses_turns_keeps_what_was_acknowledged_and_room_again_serves_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    // A disk of its own, in a namespace of its own.
    let own = ["unshare", "--map-root-user", "--mount", "sh", "-c"];
    let mount = "mount -t tmpfs -o size=1m tmpfs state";
    let can = Command::new(own[0]).args(&own[1..]).arg(mount).current_dir(dir.path()).output();
    if !can.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: this machine lets no test mount a disk of its own (unshare, tmpfs)");
        return;
    }
    let script = format!("{mount} && exec \"$@\"");
    let server = Server::start_under(dir.path(), &[&own[..], &[&script, "sh"]].concat(), &["--state", "state"]);
    let mut acknowledged = haggled(&server, 1, 6);
    assert_eq!(acknowledged.len(), 6);
    let filler = format!("/proc/{}/root{}/state/filler", server.pid(), dir.path().canonicalize().unwrap().display());
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    // Pages that the database has already take a few rounds more.
    let began = Instant::now();
    let refused = loop {
        let answer = server.post(ALL, &settings(7));
        if answer.status != 201 {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the disk is never full");
    };
    refused.refused(500, "nothing was changed");
    acknowledged.extend(haggled(&server, 2, 1));
    holds(&server, &acknowledged);
    server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 4})).ok();
    server.get("/health").ok();
    std::fs::remove_file(&filler).unwrap();
    acknowledged.extend(haggled(&server, 3, 3));
    assert!(acknowledged.len() >= 9);
    holds(&server, &acknowledged);
}

#[test]
fn a_database_with_garbage_in_it_is_refused_or_told_and_never_believed() {
    let noise = Noise::new(81, 1);
    for case in 0..6 * times() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = start(dir.path());
        let acknowledged = haggled(&server, case, 8);
        server.signal("-TERM");
        assert_eq!(server.ended(), Some(0));
        let path = dir.path().join("state/negotiations.sqlite");
        let mut bytes = std::fs::read(&path).unwrap();
        let of = |i: u64, below: usize| noise.below(1_000 * case + i, below);
        let (at, len) = (of(0, bytes.len()), 1 + of(1, 4_096));
        let end = (at + len).min(bytes.len());
        bytes[at..end].iter_mut().enumerate().for_each(|(i, byte)| *byte = of(2 + i as u64 % 900, 256) as u8);
        std::fs::write(&path, bytes).unwrap();
        let args = ["--state", "state"];
        let Some(server) = Server::try_start(dir.path(), &args) else { continue };
        for (id, ..) in &acknowledged {
            let answer = server.get(&format!("{ALL}/{id}"));
            match answer.status {
                200 => assert!(answer.json["rounds"].is_array()),
                404 | 500 => assert!(answer.json["error"]["message"].is_string(), "{}", answer.json),
                other => panic!("{other}: {}", answer.json),
            }
        }
        server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 4})).ok();
        server.get("/health").ok();
    }
}

#[test]
fn garbage_on_the_wire_is_answered_or_hung_up_on() {
    let server = Server::start(&["--read-timeout", "1"]);
    let body = json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 2}).to_string();
    let whole =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let before = server.resident();
    for case in 0..150 * times() {
        let (noise, mut bytes) = (Noise::new(82, case), whole.clone().into_bytes());
        for i in 0..1 + noise.below(0, 4) as u64 {
            let (at, n) = (noise.below(9 * i + 1, bytes.len()), noise.below(9 * i + 2, 12));
            match noise.below(9 * i + 3, 4) {
                0 => bytes[at] = noise.bits(9 * i + 4) as u8,
                1 => drop(bytes.drain(at..(at + n).min(bytes.len() - 1).max(at))),
                2 => drop(bytes.splice(at..at, std::iter::repeat_n(noise.bits(9 * i + 4) as u8, n))),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut wire = connect(&server);
        let _ = wire.write_all(&bytes);
        let _ = wire.shutdown(std::net::Shutdown::Write);
        let mut answer = vec![];
        let _ = wire.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(!status.starts_with('5'), "case {case}: {answer}");
    }
    well(&server, before);
}

#[test]
fn fields_of_any_value_are_computed_or_refused_and_break_nothing() {
    let server = Server::start(&["--seats", "4"]);
    let id = server.post(ALL, &settings(1)).json["id"].as_str().unwrap().to_string();
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1e308),
        json!(1e-320),
        json!(9_007_199_254_740_993u64),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}\u{202e}\u{e0041}"),
        json!("9".repeat(400)),
        json!([]),
        json!([[[[]]]]),
        json!([null, 1, "a"]),
        json!({}),
        json!({"": {"": {}}}),
        json!({"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}),
        json!({"type": "function"}),
        json!({"0": 1e300}),
    ];
    let chat = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 2});
    let text = json!({"prompt": "a", "max_tokens": 2});
    let message = json!({"text": "hm", "action": {"kind": "offer", "price_cents": 5}});
    let to = format!("{ALL}/{id}/messages");
    let mut names: Vec<&str> =
        "model stream n temperature top_k top_p min_p max_tokens max_completion_tokens stop seed logprobs \
        top_logprobs stream_options response_format logit_bias presence_penalty frequency_penalty repetition_penalty \
        tools tool_choice messages prompt echo prompt_logprobs return_token_ids chat_template_kwargs user role product \
        limit_cents max_rounds expires_in_s temperature persona guards text action"
            .split_whitespace()
            .collect();
    names.dedup();
    for (route, whole) in [(CHAT, &chat), (TEXT, &text), (ALL, &settings(2)), (&to[..], &message)] {
        for name in &names {
            for value in &odd {
                let mut body = whole.clone();
                body[*name] = value.clone();
                let answer = server.post(route, &body);
                assert!(answer.status < 500, "{route} {body}: {}", answer.json);
            }
        }
    }
    // As deep as it goes, and deeper.
    for depth in [60, 120, 200, 5_000] {
        let deep = format!("{{\"messages\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(server.ask("POST", CHAT, None, &deep).status, 400, "{depth}");
    }
    server.get("/health").ok();
}

#[test]
fn a_body_that_never_ends_is_cut_and_costs_no_memory() {
    let server = Server::start(&["--max-body", "64"]);
    let before = server.resident();
    for head in ["transfer-encoding: chunked", "content-length: 99999999999"] {
        let mut wire = connect(&server);
        wire.write_all(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n").as_bytes()).unwrap();
        let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
        let sent = (0..20_000).take_while(|_| wire.write_all(chunk.as_bytes()).is_ok()).count();
        assert!(sent < 20_000, "{head}: 320 MiB were taken");
    }
    well(&server, before);
}

#[test]
fn thousands_of_requests_that_are_cancelled_leave_nothing_behind() {
    let server = Server::start(&["--seats", "8"]);
    let long = |i: u64| {
        json!({"prompt": "Hi", "max_tokens": 500, "temperature": 50.0, "seed": i, "stream": i.is_multiple_of(2)})
            .to_string()
    };
    // Once as much as the queue takes, so that what is kept for it is there.
    (0..100).for_each(|i| drop(server.send("POST", TEXT, "", &long(i))));
    server.wait_until("they are let go", |ready| ready["running"] == 0 && ready["waiting"] == 0);
    let before = server.resident();
    for i in 0..2_000 * times() {
        drop(server.send("POST", TEXT, "", &long(i)));
    }
    well(&server, before);
    server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 4})).ok();
}

#[test]
fn clients_that_never_read_hold_up_nobody_and_no_more_than_their_answers() {
    let server = Server::start(&["--seats", "8"]);
    let before = server.resident();
    let long =
        json!({"prompt": "Hi", "max_tokens": 900, "temperature": 50.0, "seed": 3, "stream": true, "logprobs": 20})
            .to_string();
    let mute: Vec<TcpStream> = (0..16).map(|_| server.send("POST", TEXT, "", &long)).collect();
    server.wait_until("they run", |ready| ready["running"] == 8);
    // Among them, and in time.
    server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 4})).ok();
    well(&server, before);
    drop(mute);
    server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 4})).ok();
}
