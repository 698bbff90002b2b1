//! Negotiations: a buyer who bids by rule, as client of the server and against the engine alone.

use crate::alone::Alone;
use crate::client::{Server, Told, Way, Wire, cpu_s};
use crate::table::{Pair, Times, joined, rates};
use haggle::negotiate::money::MAX_CENTS;
use haggle::negotiate::{Action, Cents, Product};
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::Mutex;
use std::time::Instant;

const WORDS: &str = "It is a bit worn.";
/// Turns of the buyer, at most.
const TURNS: usize = 5;

/// A game as its buyer sees it.
#[derive(Debug, Clone)]
pub struct Game {
    pub seed: u64,
    /// Turns that were played.
    pub turn: usize,
    /// What the seller asks, where it has asked.
    ask: Option<i64>,
}

/// What the model said: its words, its price, and whether the game goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub words: String,
    pub price: Option<i64>,
    pub open: bool,
}

impl Game {
    pub fn new(seed: u64) -> Game {
        Game { seed, turn: 0, ask: None }
    }

    /// No two games begin alike, so none finds its prompt in another's pages.
    fn title(&self) -> String {
        let letter = |of: u64| char::from(b'A' + (of % 26) as u8);
        format!("{}{}{} saw", letter(self.seed), letter(self.seed / 26), letter(self.seed / 676))
    }

    fn list(&self) -> i64 {
        5_000 + (self.seed as i64 * 37) % 90_000
    }

    fn limit(&self) -> i64 {
        self.list() * 2 / 5
    }

    pub fn product(&self) -> Product {
        let (list, cost) = (Cents(self.list()), Cents(self.limit()));
        Product { budget: Cents(MAX_CENTS + 1), ..Product::new("item", "tools", &self.title(), "", list, cost) }
    }

    fn settings(&self) -> Value {
        let product = json!({"title": self.title(), "category": "tools", "list_cents": self.list()});
        json!({"role": "seller", "limit_cents": self.limit(), "seed": self.seed, "product": product})
    }

    /// The buyer's words and its bid: more each turn, below what is asked.
    pub fn bid(&self) -> (&'static str, Action) {
        let bid = self.list() * (45 + 8 * self.turn as i64) / 100;
        (WORDS, Action::Buy(Cents(self.ask.map_or(bid, |ask| bid.min(ask - 1)))))
    }

    fn message(&self) -> Value {
        let price = self.bid().1.price().unwrap().0;
        json!({"message": WORDS, "action": {"kind": "offer", "price_cents": price}, "stream": true})
    }

    /// Takes what the model said; true while there is another turn.
    pub fn goes_on(&mut self, said: &Said) -> bool {
        self.turn += 1;
        self.ask = said.price.or(self.ask);
        said.open && self.turn < TURNS
    }
}

/// A game at the server, over a connection of its own.
struct Seat {
    wire: Wire,
    id: String,
    game: Game,
}

/// A turn: its times, its tokens, what was said.
type Turn = (Told, usize, Said);

impl Seat {
    fn take(mut wire: Wire, game: Game) -> Seat {
        let made = wire.post("/v1/negotiations", &game.settings(), "").body;
        let made: Value = serde_json::from_str(&made).unwrap();
        Seat { wire, id: made["id"].as_str().unwrap().into(), game }
    }

    /// A turn; true where there is another.
    fn turn(&mut self) -> (Turn, bool) {
        let path = format!("/v1/negotiations/{}/messages", self.id);
        let told = self.wire.post(&path, &self.game.message(), "negotiation.writing");
        // The client shares the machine: it reads the last event alone.
        let events = told.body.lines().filter_map(|line| line.strip_prefix("data: "));
        let mut events = events.rev().filter(|event| *event != "[DONE]");
        let [last, written] = [(); 2].map(|()| -> Value { serde_json::from_str(events.next().unwrap()).unwrap() });
        let tokens = written["tokens"].as_u64().unwrap_or(0) as usize;
        let words = last["message"].as_str().unwrap_or_else(|| panic!("{last}")).to_string();
        let said = Said { words, price: last["action"]["price_cents"].as_i64(), open: last["state"] == "open" };
        let goes_on = self.game.goes_on(&said);
        ((told, tokens, said), goes_on)
    }
}

/// Plays games with so many clients; the seconds, and the turns of each.
fn played(server: &Server, games: Vec<Game>, clients: usize) -> (f64, Vec<Vec<Turn>>) {
    let (began, next) = (Instant::now(), &Mutex::new(games.into_iter().enumerate()));
    let mut all: Vec<(usize, Vec<Turn>)> = std::thread::scope(|scope| {
        let one = |_| {
            scope.spawn(move || {
                let mut done = vec![];
                loop {
                    // Whoever is free takes the next one, as the engine alone does.
                    let taken = next.lock().unwrap().next();
                    let Some((at, game)) = taken else { return done };
                    let mut seat = Seat::take(Wire::open(&server.address), game);
                    let mut turns = vec![];
                    loop {
                        let (turn, goes_on) = seat.turn();
                        turns.push(turn);
                        if !goes_on {
                            break;
                        }
                    }
                    done.push((at, turns));
                }
            })
        };
        let threads: Vec<_> = (0..clients).map(one).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    all.sort_by_key(|(at, _)| *at);
    (seconds, all.into_iter().map(|(_, turns)| turns).collect())
}

/// Negotiations of so many clients at once: times of turns, and tokens a second beside the engine alone at the same games.
pub fn load(server: &Server, alone: &mut Alone, clients: usize, rounds: u64) -> Value {
    // Several games a client: the end, where seats are empty, is small beside them.
    let n = (4 * clients).max(48);
    let (mut first, mut whole, mut pairs) = (Times::default(), Times::default(), vec![]);
    for round in 0..rounds {
        let seed = round * 100_000 + clients as u64 * 300;
        let games: Vec<Game> = (0..n as u64).map(|i| Game::new(seed + i)).collect();
        let began = cpu_s("self");
        let (alone_s, tokens, expected) = alone.games(games.clone(), clients);
        let (alone_cpu_s, began) = (cpu_s("self") - began, server.cpu_s());
        let (served_s, turns) = played(server, games, clients);
        let served_cpu_s = server.cpu_s() - began;
        let told: usize = turns.iter().flatten().map(|(_, n, _)| n).sum();
        let said: Vec<Vec<Said>> =
            turns.iter().map(|turns| turns.iter().map(|(.., said)| said.clone()).collect()).collect();
        assert!(said == expected && told == tokens, "the server played other games than the engine alone");
        turns.iter().flatten().for_each(|(told, ..)| {
            first.push(told.first_s);
            whole.push(told.whole_s);
        });
        pairs.push(Pair { tokens, served_s, alone_s, served_cpu_s, alone_cpu_s });
    }
    let head = json!({"case": "negotiations", "clients": clients, "turns": first.len()});
    let times = json!({
        "first_ms_p50": first.at(0.5), "first_ms_p95": first.at(0.95), "first_ms_p99": first.at(0.99),
        "turn_ms_p50": whole.at(0.5), "turn_ms_p95": whole.at(0.95), "turn_ms_p99": whole.at(0.99),
    });
    joined(&[head, rates(&pairs), times])
}

/// Time to the first token of a game's first turn, of its second, and of that where the server was started between the two.
pub fn warmth(way: &Way, games: Range<u64>) -> Value {
    let state = tempfile::tempdir().unwrap();
    let (mut cold, mut warm, mut anew) = (Times::default(), Times::default(), Times::default());
    let cached = |server: &Server| {
        ["vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"].map(|name| server.counter(name))
    };
    let share = |before: [f64; 2], after: [f64; 2]| 100.0 * (after[0] - before[0]) / (after[1] - before[1]);
    let (mut seats, mut shares) = (vec![], vec![]);
    let server = Server::start(way, state.path());
    for seed in games {
        let mut seat = Seat::take(Wire::open(&server.address), Game::new(seed));
        let ((told, ..), goes_on) = seat.turn();
        cold.push(told.first_s);
        seats.extend(goes_on.then_some(seat));
    }
    let rest = seats.split_off(seats.len() / 2);
    let before = cached(&server);
    for mut seat in seats {
        // The server hangs up on who was silent for a while.
        seat.wire = Wire::open(&server.address);
        warm.push(seat.turn().0.0.first_s);
    }
    shares.push(share(before, cached(&server)));
    drop(server);
    let server = Server::start(way, state.path());
    let before = cached(&server);
    for mut seat in rest {
        seat.wire = Wire::open(&server.address);
        anew.push(seat.turn().0.0.first_s);
    }
    shares.push(share(before, cached(&server)));
    json!({
        "case": "warmth", "model": way.model, "games": cold.len(), "first_turn_ms_p50": cold.at(0.5), "second_turn_ms_p50": warm.at(0.5),
        "second_turn_cached_percent": shares[0], "second_turn_restarted_ms_p50": anew.at(0.5),
        "restarted_cached_percent": shares[1],
    })
}
