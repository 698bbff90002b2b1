//! Streams of `/v1/completions`: beside the engine alone, beside readers that do not read, and at any server's address.

use crate::alone::Alone;
use crate::client::{Server, Told, Wire, cpu_s};
use crate::table::{Pair, Times, joined, rates};
use haggle::infer::Sampling;
use haggle::noise::Noise;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PROMPT: usize = 128;
const NEW: usize = 64;
/// So hot that hardly any answer ends before `NEW`.
const HOT: f32 = 50.0;
const SEED: u64 = 3;
/// Clients that read, beside those that do not.
const READERS: usize = 16;
/// Requests of each of them.
const EACH: usize = 6;

/// Ids of a prompt that begins as no other does.
fn ids(i: u64) -> Vec<i32> {
    let noise = Noise::new(90, i);
    (0..PROMPT as u64).map(|t| 5 + noise.below(t, 1_900) as i32).collect()
}

/// Words of a prompt of about as many tokens.
fn words(i: u64) -> String {
    const ALL: &str = "the old lamp on a table near window was sold to man who asked for less and paid more than he had said \
                       because morning rain kept other buyers away from market while seller told them about his price";
    let (noise, all) = (Noise::new(91, i), ALL.split_whitespace().collect::<Vec<_>>());
    let words: Vec<&str> = (0..PROMPT as u64 - 8).map(|t| all[noise.below(t, all.len())]).collect();
    format!("Story {i}: {}", words.join(" "))
}

fn request(prompt: Value, more: Value) -> Value {
    let mut body =
        json!({"prompt": prompt, "max_tokens": NEW, "stream": true, "stream_options": {"include_usage": true}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn hot(i: u64) -> Value {
    request(json!(ids(i)), json!({"temperature": HOT, "seed": SEED}))
}

/// Asks all of it with so many clients, which keep their connections or not; the seconds, and what came of each.
fn asked(address: &str, bodies: &[Value], clients: usize, keep: bool) -> (f64, Vec<Told>) {
    let (began, next) = (Instant::now(), &AtomicUsize::new(0));
    let mut all: Vec<(usize, Told)> = std::thread::scope(|scope| {
        let one = |_| {
            scope.spawn(move || {
                let mut wire = Wire::open(address);
                // Whoever is free takes the next one, as the engine alone does.
                let own = std::iter::from_fn(|| {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    bodies.get(at).map(|body| (at, body))
                });
                own.map(|(at, body)| {
                    if !keep {
                        wire = Wire::open(address);
                    }
                    (at, wire.post("/v1/completions", body, "\"text\""))
                })
                .collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..clients).map(one).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    all.sort_by_key(|(at, _)| *at);
    (seconds, all.into_iter().map(|(_, told)| told).collect())
}

/// Times of streams: to the first token, between two pieces, to the end.
#[derive(Default)]
struct Heard {
    first: Times,
    gaps: Times,
    whole: Times,
}

impl Heard {
    fn take(&mut self, told: &[Told]) {
        for one in told {
            self.first.push(one.first_s);
            self.whole.push(one.whole_s);
            self.gaps.extend(&one.gaps_s);
        }
    }
}

/// Streams of so many clients at once, `least` of them or more, beside the engine alone at the same prompts.
pub fn load(server: &Server, alone: &mut Alone, clients: usize, rounds: u64, least: usize) -> Value {
    let n = (4 * clients).max(least) as u64;
    let (mut heard, mut pairs) = (Heard::default(), vec![]);
    for round in 0..rounds {
        let seed = round * 100_000 + clients as u64 * 600;
        let prompts: Vec<Vec<i32>> = (0..n).map(|i| ids(seed + i)).collect();
        let bodies: Vec<Value> = (0..n).map(|i| hot(seed + i)).collect();
        let began = cpu_s("self");
        let (alone_s, texts) = alone.streams(&prompts, Sampling::plain(HOT, NEW, -1), SEED, clients);
        let (alone_cpu_s, began) = (cpu_s("self") - began, server.cpu_s());
        let (served_s, told) = asked(&server.address, &bodies, clients, true);
        let served_cpu_s = server.cpu_s() - began;
        let said: Vec<(String, usize)> = told.iter().map(Told::text).collect();
        assert!(said.iter().map(|(text, _)| text).eq(&texts), "the server said what the engine alone does not");
        let tokens = said.iter().map(|(_, n)| n).sum();
        pairs.push(Pair { tokens, served_s, alone_s, served_cpu_s, alone_cpu_s });
        heard.take(&told);
    }
    let head = json!({"case": "streams", "clients": clients});
    let times = json!({
        "first_ms_p50": heard.first.at(0.5), "first_ms_p95": heard.first.at(0.95), "first_ms_p99": heard.first.at(0.99),
        "gap_ms_p50": heard.gaps.at(0.5), "gap_ms_p99": heard.gaps.at(0.99), "all_ms_p99": heard.whole.at(0.99),
    });
    joined(&[head, rates(&pairs), times])
}

/// Clients that read, beside two more that do, or that read slowly and never.
pub fn readers(server: &Server) -> Vec<Value> {
    [("two more that read", false), ("one slow, one that never reads", true)]
        .map(|(beside, bad)| row(server, beside, bad))
        .to_vec()
}

fn row(server: &Server, beside: &str, bad: bool) -> Value {
    let done = AtomicBool::new(false);
    let mut heard = Heard::default();
    let long = |i: u64| {
        // More than the buffers of a connection hold.
        let more = json!({"temperature": HOT, "seed": SEED, "max_tokens": 800, "n": 4, "logprobs": 20});
        request(json!(ids(800_000 + i)), more).to_string()
    };
    std::thread::scope(|scope| {
        for who in 0..2u64 {
            let (done, long) = (&done, &long);
            scope.spawn(move || {
                let mut asked = 0;
                while !done.load(Ordering::Relaxed) {
                    let mut wire = Wire::open(&server.address);
                    wire.send("POST", "/v1/completions", &long(who + 2 * asked + if bad { 1_000 } else { 0 }));
                    asked += 1;
                    let (mut sip, mut gulp) = ([0; 64], [0; 1 << 16]);
                    while !done.load(Ordering::Relaxed) {
                        match (bad, who) {
                            (true, 0) => std::thread::sleep(Duration::from_millis(50)),
                            (true, _) => std::thread::sleep(Duration::from_millis(20)),
                            (false, _) => {}
                        }
                        let (mute, bytes) = (bad && who == 1, if bad { &mut sip[..] } else { &mut gulp[..] });
                        // The head of a stream that is over is followed by silence: ask again on another connection.
                        if !mute && (!wire.sip(bytes) || bytes.windows(6).any(|six| six == b"[DONE]")) {
                            break;
                        }
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        let bodies: Vec<Value> =
            (0..(READERS * EACH) as u64).map(|i| hot(900_000 + i + if bad { 1_000 } else { 0 })).collect();
        heard.take(&asked(&server.address, &bodies, READERS, true).1);
        done.store(true, Ordering::Relaxed);
    });
    json!({
        "case": "readers", "clients": READERS, "beside": beside, "first_ms_p50": heard.first.at(0.5),
        "first_ms_p95": heard.first.at(0.95), "gap_ms_p95": heard.gaps.at(0.95), "all_ms_p95": heard.whole.at(0.95),
    })
}

/// Greedy streams at any server of OpenAI's protocol.
pub fn peers(address: &str, name: &str, clients: usize, prompt: u64) -> Value {
    let n = (2 * clients).max(6) as u64;
    let bodies: Vec<Value> = (0..=n)
        .map(|i| request(json!(words(prompt + 100_000 * clients as u64 + i)), json!({"temperature": 0.0})))
        .collect();
    asked(address, &bodies[n as usize..], 1, false);
    let mut heard = Heard::default();
    let (seconds, told) = asked(address, &bodies[..n as usize], clients, false);
    heard.take(&told);
    let tokens: usize = told.iter().map(|told| told.text().1).sum();
    json!({
        "case": "peers", "server": name, "clients": clients, "tokens": tokens, "tok_per_s": tokens as f64 / seconds,
        "first_ms_p50": heard.first.at(0.5), "first_ms_p95": heard.first.at(0.95), "gap_ms_p50": heard.gaps.at(0.5),
        "gap_ms_p95": heard.gaps.at(0.95),
    })
}
