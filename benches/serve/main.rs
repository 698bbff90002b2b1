//! Load on `haggle serve` over loopback, beside the engine alone at the same work; and what a start costs.
//!
//! `cargo bench --bench serve -- [CASE] [--model DIR] [--matmul NAME] [--threads N] [--clients N,N] [--rounds R] [--json]`. `start`: from the process to the
//! first 200 of `/ready`, and its memory there. `streams`: completions of a prompt of 128 tokens, 64 sampled ones each.
//! `negotiations`: a buyer who bids by rule. Both with 1 to 256 clients at once, each beside the engine alone, in this process and
//! without connections, in alternation, round after round; texts and prices are held to be the same, so the work is. `http
//! percent` is how many tokens a second less the server has, `http cpu percent` the share of its cores' time that is not the engine's. `warmth`: first token of a game's first turn, of its second, and of
//! that where the server was started between the two. `readers`: 16 streams beside two others that read, and beside one that reads
//! slowly and one that never does. `peers` is asked for by name alone: greedy completions at `--url`, of any server of OpenAI's
//! protocol, or at one of ours; `tools/bench_serve` has it measure llama.cpp's. Client, server and engine share the machine.

#![allow(clippy::unwrap_used)]

mod alone;
mod client;
mod games;
mod streams;
mod table;

use alone::Alone;
use client::{Server, Way};
use serde_json::{Value, json};
use table::{Times, print};

struct Options {
    only: String,
    way: Way,
    /// The first of the prompts, which no two calls should share.
    first: u64,
    clients: Vec<usize>,
    rounds: u64,
    url: Option<String>,
    json: bool,
}

fn options() -> Options {
    let mut o = Options {
        only: String::new(),
        way: Way { model: "embedded".into(), matmul: "highest".into(), threads: 0 },
        first: 0,
        clients: vec![1, 4, 16, 64, 256],
        rounds: 3,
        url: None,
        json: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} wants a value"));
        let whole = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("`{text}` is no whole number"));
        match arg.as_str() {
            "--bench" => {}
            "--json" => o.json = true,
            "--model" => o.way.model = value(),
            "--matmul" => o.way.matmul = value(),
            "--threads" => o.way.threads = whole(&value()) as usize,
            "--first" => o.first = whole(&value()),
            "--url" => o.url = Some(value().trim_start_matches("http://").into()),
            "--rounds" => o.rounds = whole(&value()).max(1),
            "--clients" => o.clients = value().split(',').map(|n| whole(n) as usize).collect(),
            case if ["start", "streams", "negotiations", "warmth", "readers", "peers"].contains(&case) => o.only = arg,
            other => panic!("`{other}` is no case and no option"),
        }
    }
    o
}

/// Starts of the server, one after the other; the last one stays.
fn start(o: &Options) -> Value {
    let state = tempfile::tempdir().unwrap();
    let (mut times, mut memory) = (Times::default(), 0.0);
    for _ in 0..5 {
        let server = Server::start(&o.way, state.path());
        times.push(server.start_s);
        memory = server.memory("VmRSS");
    }
    json!({"case": "start", "model": o.way.model, "ready_ms_p50": times.at(0.5), "ready_ms_max": times.at(1.0), "resident_mib": memory})
}

fn main() {
    let o = options();
    let wanted = |case: &str| o.only.is_empty() && case != "peers" || o.only == case;
    if wanted("peers") {
        let state = tempfile::tempdir().unwrap();
        let own = o.url.is_none().then(|| Server::start(&o.way, state.path()));
        let address = own.as_ref().map_or_else(|| o.url.clone().unwrap(), |own| own.address.clone());
        let name = if own.is_some() { "haggle" } else { "other" };
        o.clients.iter().for_each(|n| print(&[streams::peers(&address, name, *n, o.first)], o.json));
        return;
    }
    if wanted("start") {
        print(&[start(&o)], o.json);
    }
    if wanted("streams") || wanted("negotiations") {
        let state = tempfile::tempdir().unwrap();
        let (server, mut alone) = (Server::start(&o.way, state.path()), Alone::open(&o.way));
        if wanted("streams") {
            // A second or more a round: begin and end, where seats are empty, are small beside it.
            let least = if o.way.model == "embedded" { 320 } else { 48 };
            let load = |n: &usize| streams::load(&server, &mut alone, *n, o.rounds, least);
            let rows: Vec<Value> = o.clients.iter().map(load).collect();
            print(&rows, o.json);
        }
        if wanted("negotiations") {
            let rows: Vec<Value> = o.clients.iter().map(|n| games::load(&server, &mut alone, *n, o.rounds)).collect();
            print(&rows, o.json);
        }
        let (now, most) = (server.memory("VmRSS"), server.memory("VmHWM"));
        print(&[json!({"case": "memory", "resident_mib": now, "resident_mib_max": most})], o.json);
    }
    if wanted("warmth") {
        print(&[games::warmth(&o.way, 500_000..500_040)], o.json);
    }
    if wanted("readers") {
        let state = tempfile::tempdir().unwrap();
        print(&streams::readers(&Server::start(&o.way, state.path())), o.json);
    }
}
