//! Load on `haggle serve` over loopback: 1 to 64 clients at once, streams and negotiations, beside the engine alone.
//!
//! `cargo bench --bench serve -- [streams|turns] [--model DIR] [--clients N] [--json]`. A stream is a prompt of about 128 tokens and
//! 64 sampled ones; `first` is the time from the request to its first event, `all` to the last. The engine alone plays the same
//! prompts in one batch, in this process: what is between the two is HTTP, JSON and waiting for a seat. A turn is a message to a
//! negotiation and its answer; `cold` is the first of each, `warm` a later one, whose prompt the prefix cache holds but for the
//! new words. Client, server and engine share the machine's cores.

#![allow(clippy::unwrap_used)]

use haggle::device::Device;
use haggle::generate::{How, Request, run};
use haggle::infer::{Engine, EngineConfig, Lean, Sampling};
use haggle::setup::base;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const NEW: usize = 64;
/// Streams of a client.
const EACH: usize = 4;

struct Options {
    only: String,
    model: String,
    most: usize,
    json: bool,
}

fn options() -> Options {
    let mut o = Options { only: String::new(), model: "embedded".into(), most: 64, json: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--json" => o.json = true,
            "--model" => o.model = args.next().expect("a folder after --model"),
            "--clients" => o.most = args.next().and_then(|n| n.parse().ok()).expect("a number after --clients"),
            case => o.only = case.into(),
        }
    }
    o
}

/// A server of its own state, which ends with the benchmark.
struct Server(Child, String, #[allow(dead_code)] tempfile::TempDir);

impl Server {
    fn start(model: &str) -> Server {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_haggle"));
        command.args(["serve", "--port", "0", "--model", model, "--queue", "4096", "--state"]).arg(state.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().to_string();
        Server(child, address, state)
    }

    /// Asks; the seconds to the first byte of the body and to the last, and the body.
    fn ask(&self, path: &str, body: &Value) -> (f64, f64, String) {
        let (body, began) = (body.to_string(), Instant::now());
        let mut wire = TcpStream::connect(&self.1).unwrap();
        wire.set_nodelay(true).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        wire.write_all((head + &body).as_bytes()).unwrap();
        let (mut text, mut first, mut part) = (Vec::new(), 0.0, [0u8; 16_384]);
        loop {
            let n = wire.read(&mut part).unwrap();
            if n == 0 {
                break;
            }
            text.extend_from_slice(&part[..n]);
            let head = text.windows(4).position(|four| four == b"\r\n\r\n");
            if first == 0.0 && head.is_some_and(|at| text.len() > at + 4) {
                first = began.elapsed().as_secs_f64();
            }
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HTTP/1.1 20"), "{text}");
        (first, began.elapsed().as_secs_f64(), text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The share `q` of sorted numbers, in ms.
fn at(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize] * 1e3
}

fn said(o: &Options, row: Value) {
    if o.json {
        return println!("{row}");
    }
    let cells: Vec<String> = row
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| match value.as_f64() {
            Some(x) if value.is_f64() => format!("{name} {x:.1}"),
            _ => format!("{name} {}", value.as_str().map_or(value.to_string(), String::from)),
        })
        .collect();
    println!("{}", cells.join("   "));
}

fn prompt(i: usize) -> Vec<i32> {
    (0..128).map(|t| 5 + ((i * 131 + t * 17) % 1_900) as i32).collect()
}

/// A request of `NEW` tokens: at this temperature hardly any ends before.
fn stream(i: usize) -> Value {
    json!({"prompt": prompt(i), "max_tokens": NEW, "temperature": 50.0, "seed": 3, "stream": true, "stream_options": {"include_usage": true}})
}

/// Tokens a second of the engine alone, with all prompts at once in as many seats as the server has.
fn engine_alone(o: &Options, clients: usize) -> f64 {
    let config = haggle::config::Config::load(None, &[]).unwrap();
    let dev = Device::open("cpu", 0).unwrap();
    let weights = base::weights(&dev, &o.model, &config).unwrap();
    let prompts = base::prompts(&o.model, &config).unwrap();
    let mut engine = Engine::new(&dev, &weights.config, EngineConfig::sized_for(64.min(clients), 256)).unwrap();
    let requests: Vec<Request> =
        (0..clients * EACH).map(|i| Request { label: 1, sample: i as u64, prompt: prompt(i) }).collect();
    let how =
        How { sampling: Sampling::plain(50.0, NEW, -1), lean: Lean::default(), ends: vec![], stops: vec![], seed: 3 };
    let began = Instant::now();
    run(&mut engine, &weights, &prompts.tokenizer, &requests, &how, &mut |_, _| Ok(())).unwrap();
    (requests.len() * NEW) as f64 / began.elapsed().as_secs_f64()
}

fn streams(o: &Options, clients: usize) {
    let server = Server::start(&o.model);
    server.ask("/v1/completions", &stream(9_999));
    let began = Instant::now();
    let mut all: Vec<(f64, f64, usize)> = std::thread::scope(|scope| {
        let one = |client: usize| {
            let server = &server;
            scope.spawn(move || -> Vec<_> {
                let ask = |k: usize| {
                    let (first, last, text) = server.ask("/v1/completions", &stream(client * EACH + k));
                    let told = text.rsplit("\"completion_tokens\":").next().unwrap();
                    (first, last, told.split(',').next().unwrap().parse::<usize>().unwrap())
                };
                (0..EACH).map(ask).collect()
            })
        };
        let threads: Vec<_> = (0..clients).map(one).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let rate = all.iter().map(|(.., n)| n).sum::<usize>() as f64 / began.elapsed().as_secs_f64();
    drop(server);
    let sorted = |all: &mut Vec<(f64, f64, usize)>, of: fn(&(f64, f64, usize)) -> f64| {
        let mut times: Vec<f64> = all.iter().map(of).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let (first, last) = (sorted(&mut all, |one| one.0), sorted(&mut all, |one| one.1));
    said(
        o,
        json!({
            "case": "streams", "clients": clients, "tok_per_s": rate, "engine_tok_per_s": engine_alone(o, clients),
            "first_ms_p50": at(&first, 0.5), "first_ms_p95": at(&first, 0.95), "first_ms_p99": at(&first, 0.99),
            "all_ms_p50": at(&last, 0.5), "all_ms_p99": at(&last, 0.99),
        }),
    );
}

fn turns(o: &Options, clients: usize) {
    let server = Server::start(&o.model);
    let product = json!({"title": "Steel saw, used", "category": "tools", "list_cents": 9_900});
    let began = Instant::now();
    let all: Vec<(Vec<f64>, Vec<f64>)> = std::thread::scope(|scope| {
        let one = |client: usize| {
            let (server, product) = (&server, &product);
            scope.spawn(move || {
                let (mut cold, mut warm) = (vec![], vec![]);
                for k in 0..EACH {
                    let new = json!({"role": "seller", "limit_cents": 4_000, "product": product, "seed": client * EACH + k});
                    let text = server.ask("/v1/negotiations", &new).2;
                    let id = text.rsplit("{\"id\":\"").next().unwrap().split('"').next().unwrap().to_string();
                    for turn in 0..4 {
                        let bid = json!({"message": "It is a bit worn.", "action": {"kind": "offer", "price_cents": 3_000 + turn}});
                        let (_, last, text) = server.ask(&format!("/v1/negotiations/{id}/messages"), &bid);
                        if turn == 0 { cold.push(last) } else { warm.push(last) }
                        if !text.contains("\"state\":\"open\"") {
                            break;
                        }
                    }
                }
                (cold, warm)
            })
        };
        let threads: Vec<_> = (0..clients).map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    let sorted = |of: Vec<&Vec<f64>>| {
        let mut times: Vec<f64> = of.into_iter().flatten().copied().collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let cold = sorted(all.iter().map(|one| &one.0).collect());
    let warm = sorted(all.iter().map(|one| &one.1).collect());
    said(
        o,
        json!({
            "case": "turns", "clients": clients, "turns_per_s": (cold.len() + warm.len()) as f64 / seconds,
            "cold_ms_p50": at(&cold, 0.5), "cold_ms_p99": at(&cold, 0.99),
            "warm_ms_p50": at(&warm, 0.5), "warm_ms_p95": at(&warm, 0.95), "warm_ms_p99": at(&warm, 0.99),
        }),
    );
}

fn main() {
    let o = options();
    for clients in [1, 4, 16, 64, 256].into_iter().filter(|n| *n <= o.most) {
        if "streams".contains(&o.only) {
            streams(&o, clients);
        }
        if "turns".contains(&o.only) {
            turns(&o, clients);
        }
    }
}
