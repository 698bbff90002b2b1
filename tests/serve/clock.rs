//! `haggle serve` while the machine's clock is set, by hours and days, forth and back: what is promised for a while is kept for it.
//!
//! `serve_clock.c` is loaded into the server and moves its time of day; without a C compiler the test says so and is skipped.

use crate::common::{Answer, Server};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ALL: &str = "/v1/negotiations";
const TEXT: &str = "/v1/completions";
const HOUR: i64 = 3_600;

/// What moves a program's time of day, where it can be built.
fn built(dir: &Path) -> Option<PathBuf> {
    let to = dir.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/clock.c");
    let done = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&to).arg(source).arg("-ldl").status();
    done.is_ok_and(|status| status.success()).then_some(to)
}

/// A server whose clock is set by [`Clocked::set`].
struct Clocked {
    dir: tempfile::TempDir,
    server: Server,
}

impl Clocked {
    fn start(args: &[&str]) -> Option<Clocked> {
        let dir = tempfile::tempdir().unwrap();
        let Some(moves) = built(dir.path()) else {
            eprintln!("SKIPPED: no C compiler (cc) here builds tests/serve/clock.c");
            return None;
        };
        std::fs::write(dir.path().join("step"), "0").unwrap();
        let preload = format!("LD_PRELOAD={}", moves.display());
        let step = format!("CLOCK_STEP={}", dir.path().join("step").display());
        let server =
            Server::start_under(dir.path(), &["env", &preload, &step], &[&["--state", "state"], args].concat());
        Some(Clocked { dir, server })
    }

    /// Sets the server's clock, and sees that it is set.
    fn set(&self, hours: i64) {
        std::fs::write(self.dir.path().join("step"), (hours * HOUR).to_string()).unwrap();
        let told = self.server.post(TEXT, &json!({"prompt": "Hi", "max_tokens": 1})).ok();
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let off = told["created"].as_i64().unwrap() - real - hours * HOUR;
        assert!(off.abs() < 60, "its clock was not set: {off} s off");
    }
}

fn settings(seed: u64, expires_in_s: u64) -> Value {
    let product = json!({"title": "Saw", "list_cents": 10_000});
    json!({"role": "seller", "limit_cents": 4_000, "seed": seed, "product": product, "expires_in": expires_in_s})
}

/// Posts under a key.
fn once(server: &Server, key: &str, body: &Value) -> Answer {
    let mut wire =
        server.send("POST", ALL, &format!("connection: close\r\nidempotency-key: {key}\r\n"), &body.to_string());
    let mut text = String::new();
    wire.read_to_string(&mut text).unwrap();
    crate::common::answer(&text)
}

fn bid(server: &Server, id: &str, cents: u64) -> Answer {
    let action = json!({"kind": "offer", "price_cents": cents});
    server.post(&format!("{ALL}/{id}/messages"), &json!({"action": action}))
}

#[test]
fn a_set_clock_ends_no_negotiation_early_or_late_and_forgets_no_answered_key() {
    let Some(clocked) = Clocked::start(&[]) else { return };
    let server = &clocked.server;
    let body = settings(1, HOUR as u64);
    let made = once(server, "first", &body);
    assert_eq!(made.status, 201, "{}", made.json);
    for (i, hours) in [5, -10, 24 * 8, -24 * 400, 24 * 400, 0].into_iter().enumerate() {
        clocked.set(hours);
        // Each writes under a key of its own, which forgets those that are old.
        let other = once(server, &format!("other {i}"), &settings(2 + i as u64, HOUR as u64));
        assert_eq!(other.status, 201, "{hours} h: {}", other.json);
        assert_eq!(once(server, "first", &body).json, made.json, "{hours} h: answered anew");
        let id = other.json["id"].as_str().unwrap();
        clocked.set(-hours);
        bid(server, id, 2_000 + i as u64).ok();
        clocked.set(hours / 2);
        let record = server.get(&format!("{ALL}/{id}")).ok();
        let [made, at] =
            [&record["created_ms"], &record["rounds"][0]["record"]["at_ms"]].map(|at| at.as_u64().unwrap());
        assert!((made..made + 60_000).contains(&at), "{hours} h: made at {made}, answered at {at}");
    }
    let short = server.post(ALL, &settings(20, 1)).json["id"].as_str().unwrap().to_string();
    clocked.set(-24);
    std::thread::sleep(Duration::from_millis(1_100));
    bid(server, &short, 2_000).refused(409, "has expired");
    server.get("/health").ok();
}

#[test]
fn a_set_clock_moves_no_deadline_and_no_rate() {
    let Some(clocked) = Clocked::start(&["--timeout", "60", "--read-timeout", "20", "--rate", "60"]) else { return };
    let server = &clocked.server;
    let long = json!({"prompt": "Hi", "max_tokens": 600, "temperature": 50.0, "seed": 3, "stream": true,
                      "stream_options": {"include_usage": true}});
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| server.stream(TEXT, &long));
        let mut slow = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
        slow.write_all(format!("POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{").as_bytes()).unwrap();
        server.wait_until("it runs", |ready| ready["running"] == 1);
        [7, -7, 24 * 30, -24 * 30, 0].into_iter().for_each(|hours| clocked.set(hours));
        let told = stream.join().unwrap();
        assert_eq!(told.last().unwrap()["usage"]["completion_tokens"], 600, "a stream was cut");
        let mut told = [0];
        slow.set_nonblocking(true).unwrap();
        let still = slow.read(&mut told);
        assert!(still.is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "who was still asking was hung up on");
    });
    let asked = |n: usize| {
        let began = Instant::now();
        let one = json!({"prompt": "Hi", "max_tokens": 1});
        let told: Vec<u16> = (0..n).map(|_| server.post(TEXT, &one).status).collect();
        (told.iter().filter(|status| **status == 200).count(), began.elapsed().as_secs_f64())
    };
    asked(80);
    for hours in [24, -24] {
        std::fs::write(clocked.dir.path().join("step"), (hours * HOUR).to_string()).unwrap();
        let (taken, seconds) = asked(10);
        assert!(taken as f64 <= seconds + 2.0, "{hours} h: {taken} in {seconds} s, at one a second");
    }
    std::thread::sleep(Duration::from_millis(2_500));
    assert!((1..=5).contains(&asked(10).0), "none was let through after a while");
}
