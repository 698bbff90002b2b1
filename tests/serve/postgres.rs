//! Several servers behind one Postgres: a negotiation goes on at any of them, of two writers one is told, a database that is lost
//! is a 503 and comes back. And both stores, held to one list of cases. Against a real Postgres; skipped, loudly, where none is
//! installed; `HAGGLE_REQUIRE_POSTGRES=1` makes a skip a failure.

use crate::common::{Answer, Server};
use crate::store::{CASES, Database, PASSWORD};
use haggle::serve::deal::{Postgres, Sqlite, Store};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const ALL: &str = "/v1/negotiations";

/// A server on a database, which reads its password from the environment.
fn start(dir: &Path, url: &str) -> Server {
    Server::start_under(dir, &["env", &format!("PGPASSWORD={PASSWORD}")], &["--state", url])
}

fn settings(seed: u64) -> Value {
    json!({"role": "seller", "limit_cents": 4_000, "seed": seed,
           "product": {"title": "Steel saw, used", "description": "It cuts.", "category": "tools", "list_cents": 10_000}})
}

fn created(server: &Server, seed: u64) -> String {
    let answer = server.post(ALL, &settings(seed));
    assert_eq!(answer.status, 201, "{}", answer.json);
    answer.json["id"].as_str().unwrap().into()
}

fn bid(n: i64) -> Value {
    json!({"message": "It is a bit worn.", "action": {"kind": "offer", "price_cents": 2_000 + n}})
}

fn say(server: &Server, id: &str, body: &Value) -> Answer {
    server.post(&format!("{ALL}/{id}/messages"), body)
}

fn record(server: &Server, id: &str) -> Value {
    server.get(&format!("{ALL}/{id}")).ok()
}

/// A request that may come again.
fn keyed(server: &Server, path: &str, key: &str, body: &Value) -> Answer {
    let head = format!("idempotency-key: {key}\r\nconnection: close\r\n");
    let (mut wire, mut text) = (server.send("POST", path, &head, &body.to_string()), String::new());
    std::io::Read::read_to_string(&mut wire, &mut text).unwrap();
    crate::common::answer(&text)
}

/// Two requests at the same time.
fn at_once(ask: &(dyn Fn(usize) -> Answer + Sync)) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..2).map(|i| scope.spawn(move || ask(i))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn sqlite_holds_what_every_store_holds() {
    for (name, case) in CASES {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        case(&|| Box::new(Sqlite::open(dir.path()).unwrap()) as Box<dyn Store>);
    }
}

#[test]
fn postgres_holds_what_every_store_holds() {
    let Some(database) = Database::start("postgres_holds_what_every_store_holds") else { return };
    for (i, (name, case)) in CASES.into_iter().enumerate() {
        println!("{name}");
        let url = database.new_database(&format!("case_{i}"));
        case(&|| Box::new(Postgres::open(&url, Some(PASSWORD)).unwrap()) as Box<dyn Store>);
    }
    refuses_what_it_cannot_keep_its_word_on(&database);
}

/// Databases that cannot be used, each with one line.
fn refuses_what_it_cannot_keep_its_word_on(database: &Database) {
    let dir = tempfile::tempdir().unwrap();
    let refused = |url: &str, code: i32, words: &[&str]| {
        let mut command =
            crate::support::cli::command(dir.path(), &["serve", "--port", "0", "--device", "cpu", "--state", url]);
        let said = crate::support::cli::said(
            {
                command.env("PGPASSWORD", PASSWORD);
                command
            },
            "",
        );
        said.refused(code, words);
    };
    database.psql("case_0", "UPDATE haggle.version SET n = 9").unwrap();
    refused(&database.url("case_0"), 3, &["/case_0: is of version 9, this haggle reads up to 1: run the newer one"]);
    let latin = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    database.psql("postgres", latin).unwrap();
    refused(&database.url("latin"), 3, &["is in the encoding LATIN1: make a database in UTF8"]);
    refused(&database.url("nowhere"), 3, &["database \"nowhere\" does not exist"]);
    refused("postgres://127.0.0.1:1/x", 3, &["postgres://127.0.0.1:1/x: error connecting to server"]);
    refused("postgres://haggle@127.0.0.1:port/x", 2, &["--state: want postgres://USER@HOST/DATABASE"]);
}

#[test]
fn a_negotiation_goes_on_at_another_server_with_the_bits_it_would_have_had() {
    let test = "a_negotiation_goes_on_at_another_server_with_the_bits_it_would_have_had";
    let Some(database) = Database::start(test) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), database.new_database("deals"));
    let alone = Server::start_in(dir.path(), &["--state", "state"]);
    let servers = [start(dir.path(), &url), start(dir.path(), &url)];
    for seed in 0..3 {
        let ids = [created(&alone, seed), created(&servers[0], seed)];
        for n in 0..4 {
            let own = say(&alone, &ids[0], &bid(n));
            let other = say(&servers[(seed as usize + n as usize) % 2], &ids[1], &bid(n));
            assert_eq!(own.status, other.status, "{} {}", own.json, other.json);
            for part in ["message", "action", "state", "outcome", "round", "interventions"] {
                assert_eq!(own.json[part], other.json[part], "seed {seed}, round {n}: {part}");
            }
        }
        // Token ids and logprobs too, which no answer tells.
        let file = rusqlite::Connection::open(dir.path().join("state/negotiations.sqlite")).unwrap();
        let mut ask = file.prepare("SELECT private FROM rounds WHERE id = ? ORDER BY n").unwrap();
        let own: Vec<String> = ask.query_map([&ids[0]], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let other = format!("SELECT private FROM haggle.rounds WHERE id = '{}' ORDER BY n", ids[1]);
        assert!(own[0].contains("\"logprobs\":[") && !own[0].contains("\"logprobs\":[]"), "{}", own[0]);
        assert_eq!(own, database.psql("deals", &other).unwrap().lines().collect::<Vec<_>>());
        let records = servers.each_ref().map(|server| record(server, &ids[1]));
        assert_eq!(records[0], records[1]);
        // Closed at one, it is closed at the other.
        let closed = servers[0].post(&format!("{ALL}/{}/close", ids[1]), &json!({})).ok();
        say(&servers[1], &ids[1], &bid(9)).refused(409, closed["state"].as_str().unwrap());
    }
    let lists = servers.each_ref().map(|server| server.get(&format!("{ALL}?limit=2")).ok());
    assert_eq!((lists[0]["data"].as_array().unwrap().len(), &lists[0]), (2, &lists[1]));
}

#[test]
fn of_two_writers_at_two_servers_one_is_told_and_a_key_is_answered_once() {
    let test = "of_two_writers_at_two_servers_one_is_told_and_a_key_is_answered_once";
    let Some(database) = Database::start(test) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), database.new_database("deals"));
    let servers = [start(dir.path(), &url), start(dir.path(), &url)];
    let mut refused = 0;
    for seed in 0..6 {
        let id = created(&servers[0], seed);
        // Different words at the same time: each is answered in a round of its own, or told to read anew.
        let told = at_once(&|i| say(&servers[i], &id, &bid(i as i64)));
        let done = told.iter().filter(|answer| answer.status == 200).count();
        refused += told.iter().filter(|answer| answer.status == 409).count();
        assert!(done >= 1 && told.iter().all(|answer| [200, 409].contains(&answer.status)), "{told:?}");
        let before = record(&servers[1], &id);
        assert_eq!(before["rounds"].as_array().unwrap().len(), done);
        if before["state"] != "open" {
            continue;
        }
        // The same words with the same key at the same time: one round, one answer.
        let path = format!("{ALL}/{id}/messages");
        let told = at_once(&|i| keyed(&servers[i], &path, &format!("k{seed}"), &bid(7)));
        assert_eq!((told[0].status, &told[0].json), (200, &told[1].json), "{told:?}");
        assert_eq!(record(&servers[0], &id)["rounds"].as_array().unwrap().len(), done + 1);
        let made = at_once(&|i| keyed(&servers[i], ALL, &format!("new{seed}"), &settings(seed)));
        assert_eq!((made[0].status, &made[0].json), (201, &made[1].json), "{made:?}");
        keyed(&servers[1], ALL, &format!("new{seed}"), &settings(99)).refused(409, "another body");
    }
    println!("{refused} of 12 were told that another was first");
}

#[test]
fn a_database_that_is_lost_is_a_503_and_comes_back_with_every_acknowledged_turn() {
    let test = "a_database_that_is_lost_is_a_503_and_comes_back_with_every_acknowledged_turn";
    let Some(mut database) = Database::start(test) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), database.new_database("deals"));
    let log = dir.path().join("log");
    let wrapper = ["env", &format!("PGPASSWORD={PASSWORD}")];
    let to_log = ["sh", "-c", "exec \"$@\" 2>log", "sh"];
    let server = Server::start_under(dir.path(), &[&to_log[..], &wrapper].concat(), &["--state", &url]);
    let mut acknowledged: Vec<(String, Value)> = vec![];
    for signal in ["-INT", "-QUIT"] {
        // It is lost in the middle of turns.
        std::thread::scope(|scope| {
            let server = &server;
            let players: Vec<_> = (0..3).map(|i| scope.spawn(move || played(server, i))).collect();
            std::thread::sleep(Duration::from_millis(700));
            database.end(signal);
            players.into_iter().for_each(|player| acknowledged.extend(player.join().unwrap()));
        });
        let answer = server.post(ALL, &settings(1));
        assert_eq!((answer.retry_after, &answer.json["error"]["code"]), (Some(1), &json!("storage_unavailable")));
        answer.refused(503, "the database of negotiations does not answer");
        server.get(ALL).refused(503, "the database of negotiations does not answer");
        // What needs no database goes on.
        let chat = json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 4});
        server.post("/v1/chat/completions", &chat).ok();
        assert_eq!((server.get("/health").status, server.get("/ready").status), (200, 200));
        database.begin();
        for (id, round) in &acknowledged {
            let rounds = record(&server, id)["rounds"].clone();
            let n = round["round"].as_u64().unwrap() as usize;
            assert_eq!(rounds[n - 1]["hash"], round["hash"], "{signal}: an acknowledged turn is gone");
        }
        say(&server, &created(&server, 5), &bid(0)).ok();
    }
    assert!(acknowledged.len() > 5, "{}", acknowledged.len());
    a_database_that_hangs_is_not_waited_for(&database, &server);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(
        said.contains("negotiations are refused until it answers") && said.contains("/deals: answers again"),
        "{said}"
    );
    assert!(!said.contains(PASSWORD) && said.lines().count() < 12, "{said}");
}

/// Plays until something is refused; the rounds that were acknowledged.
fn played(server: &Server, player: u64) -> Vec<(String, Value)> {
    let mut told = vec![];
    for game in 0..1_000 {
        let made = server.post(ALL, &settings(100 * player + game));
        let Some(id) = made.json["id"].as_str().filter(|_| made.status == 201) else { return told };
        for n in 0..3 {
            let answer = say(server, id, &bid(n));
            match answer.status {
                200 => told.push((id.to_string(), answer.json)),
                409 => break,
                _ => return told,
            }
        }
    }
    told
}

/// Someone else holds a lock: the request is given up, and the one behind it is done once the lock is gone.
fn a_database_that_hangs_is_not_waited_for(database: &Database, server: &Server) {
    let id = created(server, 6);
    std::thread::scope(|scope| {
        scope.spawn(|| database.psql("deals", "BEGIN; LOCK TABLE haggle.rounds; SELECT pg_sleep(14); COMMIT").unwrap());
        std::thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        say(server, &id, &bid(0)).refused(503, "does not answer");
        assert!(began.elapsed() < Duration::from_secs(13), "it was waited for");
    });
    say(server, &id, &bid(0)).ok();
}
