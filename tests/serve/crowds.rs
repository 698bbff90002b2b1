//! `haggle serve` and crowds: thousands of negotiations that nobody goes on with, thousands of requests that are cancelled in the
//! same moment, a thousand clients that say a byte now and then. It serves on, in memory that stays bounded.
//!
//! `HAGGLE_FAULTS` is how many times as much of each is done: 20 are 10,000 negotiations, 58 are 58,000 cancelled requests.

use crate::common::{Server, times};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const ALL: &str = "/v1/negotiations";
const TEXT: &str = "/v1/completions";
const MIB: u64 = 1 << 20;

fn settings(seed: u64) -> Value {
    let product = json!({"title": format!("Saw number {seed}"), "list_cents": 10_000 + seed});
    json!({"role": "seller", "limit_cents": 4_000, "seed": seed, "product": product})
}

/// Plays turn `n` of a negotiation; what was answered.
fn turn(server: &Server, id: &str, n: u64) -> Value {
    let bid = json!({"message": "It is worn.", "action": {"kind": "offer", "price_cents": 2_000 + n}});
    server.post(&format!("{ALL}/{id}/messages"), &bid).ok()
}

/// Begins negotiations of these seeds, of one turn each, with 16 clients; their ids.
fn begun(server: &Server, seeds: std::ops::Range<u64>) -> Vec<String> {
    let mut ids: Vec<(u64, String)> = std::thread::scope(|scope| {
        let one = |client: u64| {
            let own = seeds.clone().skip(client as usize).step_by(16);
            scope.spawn(move || {
                let mut ids = vec![];
                for seed in own {
                    let id = server.post(ALL, &settings(seed)).json["id"].as_str().unwrap().to_string();
                    turn(server, &id, 1);
                    ids.push((seed, id));
                }
                ids
            })
        };
        let threads: Vec<_> = (0..16).map(one).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    ids.sort();
    ids.into_iter().map(|(_, id)| id).collect()
}

/// What the model said in a round: its ids and the bits of their logprobs, as they are stored.
fn said(dir: &Path, id: &str, n: u64) -> Value {
    let db = rusqlite::Connection::open(dir.join("state/negotiations.sqlite")).unwrap();
    let ask = "SELECT private FROM rounds WHERE id = ? AND n = ?";
    let text: String = db.query_row(ask, rusqlite::params![id, n as i64], |row| row.get(0)).unwrap();
    let private: Value = serde_json::from_str(&text).unwrap();
    assert!(!private["ids"].as_array().unwrap().is_empty());
    json!([private["ids"], private["logprobs"]])
}

#[test]
fn thousands_of_idle_negotiations_cost_no_memory_and_one_that_goes_on_says_the_same() {
    let (dir, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let args = ["--state", "state", "--seats", "8"];
    let server = Server::start_in(dir.path(), &args);
    let n = 500 * times();
    let mut ids = begun(&server, 0..n / 5);
    let before = server.resident();
    ids.extend(begun(&server, n / 5..n));
    let after = server.resident();
    println!("{n} idle negotiations: {} MiB, {} MiB with a fifth of them", after / MIB, before / MIB);
    server.is_well(before, 24 * MIB);
    // Whose pages were given to others long ago, beside a server that never saw another.
    let alone = Server::start_in(own.path(), &args);
    let open = |seed: &u64| server.get(&format!("{ALL}/{}", ids[*seed as usize])).json["state"] == "open";
    let some: Vec<u64> = (0..n).filter(open).step_by(3).take(4).collect();
    assert_eq!(some.len(), 4);
    for seed in some {
        let id = &ids[seed as usize];
        let fresh = begun(&alone, seed..seed + 1).remove(0);
        let [here, there] = [turn(&server, id, 2), turn(&alone, &fresh, 2)];
        assert_eq!((&here["message"], &here["action"]), (&there["message"], &there["action"]), "seed {seed}");
        for round in 1..=2 {
            assert_eq!(said(dir.path(), id, round), said(own.path(), &fresh, round), "seed {seed}, round {round}");
        }
    }
}

/// Connections that this process may have open.
fn most_connections() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().map_or(u64::MAX, |n| n.saturating_sub(200))
}

/// Answers that a server has come to the end of.
fn ended(server: &Server) -> u64 {
    let metrics = server.get("/metrics").json;
    let count = |line: &str| line.strip_prefix("vllm:e2e_request_latency_seconds_count ")?.parse().ok();
    metrics.as_str().unwrap().lines().find_map(count).unwrap()
}

#[test]
fn thousands_of_requests_cancelled_in_the_same_moment_are_let_go_at_once() {
    let server = Server::start(&["--seats", "8", "--queue", "65536"]);
    let long = |i: u64| {
        json!({"prompt": "Hi", "max_tokens": 500, "temperature": 50.0, "seed": i, "stream": i.is_multiple_of(2)})
            .to_string()
    };
    let all = 1_000 * times();
    let (wave, mut left, mut first) = (all.min(14_500).min(most_connections()), all, None);
    while left > 0 {
        let n = left.min(wave);
        left -= n;
        let before = ended(&server);
        let wires: Vec<TcpStream> = (0..n).map(|i| server.send("POST", TEXT, "", &long(i))).collect();
        server.wait_until("all are taken in", |ready| {
            let here = ready["running"].as_u64().unwrap() + ready["waiting"].as_u64().unwrap();
            here + ended(&server) - before >= n
        });
        let (held, began) = (server.resident(), Instant::now());
        drop(wires);
        // Who comes now is served before the last of them is gone, or right after.
        server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 4})).ok();
        server.wait_until("they are let go", |ready| ready["running"] == 0 && ready["waiting"] == 0);
        let (seconds, resident) = (began.elapsed().as_secs_f64(), server.resident());
        println!(
            "{n} cancelled at once: let go in {seconds:.2} s, {} MiB held, {} MiB after",
            held / MIB,
            resident / MIB
        );
        assert!(seconds < 5.0 + n as f64 / 1_000.0, "{n} requests: {seconds} s");
        let first = *first.get_or_insert(resident);
        assert!(held < (192 << 20) + n * (64 << 10), "{} MiB for {n} requests", held / MIB);
        server.is_well(first, 64 * MIB + n * (16 << 10));
    }
}

#[test]
fn a_thousand_clients_that_say_a_byte_now_and_then_keep_nobody_waiting() {
    let server = Server::start(&["--read-timeout", "2"]);
    let half = |_| {
        let mut wire = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        wire.write_all(format!("POST {TEXT} HTTP/1.1\r\nhost:").as_bytes()).unwrap();
        wire
    };
    let slow: Vec<TcpStream> = (0..1_000.min(most_connections())).map(half).collect();
    let before = server.resident();
    let began = Instant::now();
    for _ in 0..5 {
        server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 4})).ok();
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?} for five short answers", began.elapsed());
    for mut wire in slow {
        // An answer that says so, or none; then the end.
        let _ = wire.read_to_end(&mut vec![]);
    }
    server.is_well(before, 32 * MIB);
}
