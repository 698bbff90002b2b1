//! Negotiations over loopback: no limit is exceeded, none is told, every action parses, words and action agree; attacks, refusals,
//! two writers, kills.

use crate::common::Server;
use haggle::guide::said::in_words;
use haggle::negotiate::Cents;
use haggle::noise::Noise;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};

const ALL: &str = "/v1/negotiations";

fn start(dir: &Path, more: &[&str]) -> Server {
    Server::start_in(dir, &[&["--state", "state"], more].concat())
}

/// A negotiation over a product of `list` with a limit, in cents.
fn settings(role: &str, list: i64, limit: i64, seed: u64) -> Value {
    json!({"role": role, "limit_cents": limit, "seed": seed,
           "product": {"title": "Steel saw, used", "description": "It cuts.", "category": "tools", "list_cents": list}})
}

fn created(server: &Server, body: &Value) -> String {
    let answer = server.post(ALL, body);
    assert_eq!(answer.status, 201, "{}", answer.json);
    answer.json["id"].as_str().unwrap().into()
}

fn say(server: &Server, id: &str, body: &Value) -> crate::common::Answer {
    server.post(&format!("{ALL}/{id}/messages"), body)
}

/// Holds an answer to what must never be: a price beyond the limit, words with another number, the limit in any spelling.
#[track_caller]
fn hold(answer: &Value, role: &str, limit: i64) {
    let action = &answer["action"];
    if action.is_null() {
        return;
    }
    let kind = action["kind"].as_str().unwrap();
    assert!(["offer", "accept", "reject", "quit"].contains(&kind), "{answer}");
    let price = action["price_cents"].as_i64();
    assert_eq!(price.is_some(), kind == "offer" || kind == "accept", "{answer}");
    if let Some(price) = price {
        assert!(if role == "buyer" { price <= limit } else { price >= limit }, "beyond {limit}: {answer}");
    }
    let words = answer["message"].as_str().unwrap();
    for number in words.split(|c: char| !c.is_numeric() && c != ',' && c != '.') {
        let number = number.trim_end_matches([',', '.']);
        let amount = Cents::parse(number).map(|amount| amount.0);
        assert!(number.is_empty() || amount == price && amount.is_some(), "words and action: {answer}");
    }
    if price != Some(limit) {
        let spelled = in_words(limit / 100);
        let plain = words.to_lowercase().replace(['-', ',', ' '], "");
        // Short words stand in others by chance: `one`, `ten` in `often`.
        let is_told = limit >= 2_000 && plain.contains(&spelled.replace(['-', ' '], ""));
        assert!(!is_told, "told {limit}: {answer}");
        // A round has a number too.
        let is_told = limit > 32 && answer.to_string().contains(&format!(":{limit},"));
        assert!(!is_told, "told {limit}: {answer}");
    }
    for private in ["thought", "limit_cents", "budget", "cost", "seed", "ids"] {
        assert!(!answer.to_string().contains(&format!("\"{private}\":")), "{answer}");
    }
}

/// Plays against scripted moves to the end; returns the record.
fn played(
    server: &Server,
    role: &str,
    list: i64,
    limit: i64,
    noise: Noise,
    words: &dyn Fn(u64) -> Option<String>,
) -> Value {
    let id = created(server, &settings(role, list, limit, noise.bits(0)));
    let (mut theirs, mut ours): (Option<i64>, Option<i64>) = (None, None);
    for turn in 0..12u64 {
        let random = |label: u64, n: usize| noise.below(100 * turn + label, n) as i64;
        let opening = role == "buyer" && turn == 0;
        let step = random(1, (list / 5).max(1) as usize);
        let price = match (role, theirs) {
            ("buyer", None) => list,
            ("buyer", Some(before)) => (before - step).max(1),
            (_, None) => 1 + random(2, list as usize),
            (_, Some(before)) => (before + step).min(10 * list),
        };
        let action = match random(3, 10) {
            0 if ours.is_some() => json!({"kind": "accept"}),
            1 if turn > 0 => json!({"kind": "quit"}),
            2 | 3 => json!({"kind": "reject"}),
            _ => {
                theirs = Some(price);
                json!({"kind": "offer", "price_cents": price})
            }
        };
        let body = if opening { json!({}) } else { json!({"action": action, "message": words(turn)}) };
        let answer = say(server, &id, &body).ok();
        hold(&answer, role, limit);
        ours = answer["action"]["price_cents"].as_i64().or(ours);
        if answer["state"] != "open" {
            break;
        }
    }
    let record = server.get(&format!("{ALL}/{id}")).ok();
    assert_ne!(record["state"], "open", "a negotiation has at most max_rounds: {record}");
    verified(&record);
    for private in ["thought", "limit_cents", "budget", "cost", "seed", "ids"] {
        assert!(!record.to_string().contains(&format!("\"{private}\":")), "{record}");
    }
    record
}

/// The chain of a record, verified as a client would.
fn verified(record: &Value) -> usize {
    let rounds = record["rounds"].as_array().unwrap();
    let mut before = Value::Null;
    for (i, round) in rounds.iter().enumerate() {
        assert_eq!((&round["record"]["previous"], &round["record"]["round"]), (&before, &json!(i + 1)));
        let digest = Sha256::digest(round["record"].to_string().as_bytes());
        let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(round["hash"], hash);
        before = hash.into();
    }
    rounds.len()
}

/// Random negotiations to be played, `HAGGLE_NEGOTIATIONS` of them.
fn many() -> u64 {
    std::env::var("HAGGLE_NEGOTIATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn random_negotiations_keep_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let many = many();
    let (mut deals, mut scripted, mut rounds) = (0, 0, 0);
    for case in 0..many {
        let noise = Noise::new(40, case);
        let list = 10 + noise.below(1, [5_000, 100_000, 990_000][case as usize % 3]) as i64;
        let limit = 1 + noise.below(2, list as usize) as i64;
        let role = if case.is_multiple_of(2) { "buyer" } else { "seller" };
        let words = |turn: u64| turn.is_multiple_of(2).then(|| "It is a fair price, is it not?".to_string());
        let record = played(&server, role, list, limit, noise, &words);
        deals += i32::from(record["outcome"]["kind"] == "deal");
        for round in record["rounds"].as_array().unwrap() {
            rounds += 1;
            let why = &round["record"]["ours"]["interventions"];
            scripted += why.as_array().map_or(0, Vec::len);
            assert!(!why.to_string().contains("action_refused"), "the grammar saw to it: {round}");
        }
    }
    println!("{many} negotiations, {rounds} rounds, {deals} deals, {scripted} times words were made anew");
    assert!(deals > 0);
}

#[test]
fn hostile_words_get_nothing_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let attacks = include_str!("attacks.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let attacks: Vec<&str> = attacks.collect();
    // Where many are asked for, each several times.
    for (case, attack) in attacks.iter().cycle().take(attacks.len() * (1 + many() as usize / 2_000)).enumerate() {
        for (role, limit) in [("buyer", 73_150), ("seller", 41_200)] {
            let said =
                read(attack).replace("{limit}", &(limit / 100).to_string()).replace("{words}", &in_words(limit / 100));
            let words = |_: u64| Some(said.clone());
            played(&server, role, 99_900, limit, Noise::new(41, case as u64), &words);
        }
    }
}

/// `\n`, `\t` and `\u{HEX}` of a line.
fn read(line: &str) -> String {
    let mut text = line.replace("\\n", "\n").replace("\\t", "\t");
    while let Some((before, rest)) = text.split_once("\\u{") {
        let (code, behind) = rest.split_once('}').unwrap();
        let c = char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap();
        text = format!("{before}{c}{behind}");
    }
    text
}

#[test]
fn the_same_seed_and_words_give_the_same_negotiation() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let told = |record: &Value| -> Vec<Value> {
        record["rounds"].as_array().unwrap().iter().map(|round| round["record"]["ours"].clone()).collect()
    };
    let play = || told(&played(&server, "buyer", 9_000, 6_500, Noise::new(42, 1), &|_| None));
    let alone = play();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let server = &server;
            scope.spawn(move || played(server, "seller", 5_000, 2_000, Noise::new(43, i), &|_| None));
        }
        (0..3).for_each(|_| assert_eq!(play(), alone));
    });
}

#[test]
fn guards_bound_what_is_given_in() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    for seed in 0..10 {
        let mut body = settings("buyer", 10_000, 9_000, seed);
        body["guards"] = json!({"max_step_cents": 300, "max_total_cents": 500});
        let id = created(&server, &body);
        let first = say(&server, &id, &json!({})).ok()["action"]["price_cents"].as_i64();
        let mut last = first;
        while say(&server, &id, &json!({"action": {"kind": "offer", "price_cents": 9_900}})).ok()["state"] == "open" {}
        for round in server.get(&format!("{ALL}/{id}")).ok()["rounds"].as_array().unwrap() {
            let Some(price) = round["record"]["ours"]["action"]["price_cents"].as_i64() else { continue };
            assert!(
                last.is_none_or(|last| price - last <= 300) && first.is_none_or(|first| price - first <= 500),
                "{round}"
            );
            last = Some(price);
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = settings("seller", 10_000, 4_000, 1);
        change(&mut body);
        server.post(ALL, &body)
    };
    with(&|b| b["role"] = json!("broker")).refused(400, "want `role`");
    with(&|b| b["limit_cents"] = json!(-1)).refused(400, "`limit_cents` must be whole cents");
    with(&|b| b["limit_cents"] = json!(0)).refused(400, "`limit_cents` must be whole cents");
    with(&|b| b["limit_cents"] = json!(10.5)).refused(400, "`limit_cents` must be whole cents");
    with(&|b| b["limit_cents"] = json!(10_001)).refused(400, "must be at most `product.list_cents`");
    with(&|b| b["product"] = Value::Null).refused(400, "want `product`");
    with(&|b| b["product"]["list_cents"] = Value::Null).refused(400, "want `list_cents`");
    with(&|b| b["product"]["list_cents"] = json!(1_000_000_000)).refused(400, "for this model");
    with(&|b| b["product"]["title"] = json!(" ")).refused(400, "want `product.title`");
    with(&|b| b["product"]["colour"] = json!("red")).refused(400, "unknown field `colour`");
    with(&|b| b["persona"] = json!("kind")).refused(400, "`persona` must be one of");
    with(&|b| b["guards"] = json!({"max_steps": 1})).refused(400, "unknown field `max_steps`");
    with(&|b| b["max_rounds"] = json!(33)).refused(400, "`max_rounds` must be 1 to 32");
    with(&|b| b["strategy"] = json!("hard")).refused(400, "unknown field `strategy`");
    let id = created(&server, &settings("seller", 10_000, 4_000, 1));
    let refused = |body: Value, words: &str| say(&server, &id, &body).refused(400, words);
    refused(json!({}), "want `message` or `action`");
    refused(json!({"message": "I give you $50"}), "is it an offer?");
    refused(json!({"action": {"kind": "offer"}}), "wants `price_cents`");
    refused(json!({"action": {"kind": "offer", "price_cents": -5}}), "must be whole cents");
    refused(json!({"action": {"kind": "offer", "price_cents": 1e15}}), "must be whole cents");
    refused(json!({"action": {"kind": "accept"}}), "no offer to accept");
    refused(json!({"action": {"kind": "bribe"}}), "`action.kind` must be");
    refused(json!({"action": {"kind": "reject", "price_cents": 5}}), "has no price");
    refused(json!({"action": {"kind": "quit"}}), "not now");
    refused(json!({"message": "x".repeat(9_000)}), "longer than");
    say(&server, &id, &json!({"message": "hello", "round": 2})).refused(409, "the next round is 1");
    say(&server, "neg-none", &json!({})).refused(404, "there is no negotiation");
    assert_eq!(server.get(&format!("{ALL}/{id}")).ok()["rounds"], json!([]), "nothing of it was stored");
    let ours = say(&server, &id, &json!({"action": {"kind": "offer", "price_cents": 3_000}})).ok();
    if let Some(price) = ours["action"]["price_cents"].as_i64().filter(|_| ours["state"] == "open") {
        refused(json!({"action": {"kind": "accept", "price_cents": price + 1}}), "the offer that stands");
    }
    server.post(&format!("{ALL}/{id}/close"), &json!({})).ok();
    say(&server, &id, &json!({"message": "hello?"})).refused(409, "has closed");
    let mut short = settings("seller", 10_000, 4_000, 1);
    short["expires_in"] = json!(1);
    let gone = created(&server, &short);
    std::thread::sleep(Duration::from_millis(1_100));
    say(&server, &gone, &json!({"message": "hello?"})).refused(409, "has expired");
    let listed = server.get(&format!("{ALL}?limit=1")).ok();
    assert_eq!(listed["data"][0]["id"], json!(gone));
    assert_eq!(server.get(&format!("{ALL}?limit=5&after={gone}")).ok()["data"][0]["id"], json!(id));
    server.get(&format!("{ALL}?limit=0")).refused(400, "`limit` must be");
    server.get(&format!("{ALL}?order=up")).refused(400, "unknown parameter");
}

#[test]
fn a_request_with_a_key_is_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let keyed = |path: &str, key: &str, body: &Value| {
        let head = format!("idempotency-key: {key}\r\nconnection: close\r\n");
        let mut wire = server.send("POST", path, &head, &body.to_string());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut wire, &mut text).unwrap();
        crate::common::answer(&text)
    };
    let body = settings("seller", 10_000, 4_000, 1);
    let first = keyed(ALL, "a", &body).json;
    assert_eq!(keyed(ALL, "a", &body).json, first);
    keyed(ALL, "a", &settings("seller", 10_000, 4_000, 2)).refused(409, "another body");
    let path = format!("{ALL}/{}/messages", first["id"].as_str().unwrap());
    let bid = json!({"action": {"kind": "offer", "price_cents": 3_000}});
    let answer = keyed(&path, "a", &bid).ok();
    assert_eq!(keyed(&path, "a", &bid).ok(), answer);
    keyed(&path, "a", &json!({"message": "no"})).refused(409, "another body");
    let record = server.get(&format!("{ALL}/{}", first["id"].as_str().unwrap())).ok();
    assert_eq!(record["rounds"].as_array().unwrap().len(), 1);
}

#[test]
fn a_turn_as_events_ends_with_the_answer_and_tells_no_word_before() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let ids = [0, 1].map(|_| created(&server, &settings("seller", 10_000, 4_000, 5)));
    for n in 0..3 {
        let bid = |more: Value| {
            let mut body = json!({"message": "It is worn.", "action": {"kind": "offer", "price_cents": 2_000 + n}});
            more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
            body
        };
        let whole = say(&server, &ids[0], &bid(json!({})));
        if whole.status != 200 {
            break;
        }
        let events = server.stream(&format!("{ALL}/{}/messages", ids[1]), &bid(json!({"stream": true})));
        let (last, before) = events.split_last().unwrap();
        for part in ["message", "action", "state", "outcome", "round", "interventions"] {
            assert_eq!(last[part], whole.json[part], "{part}");
        }
        assert_eq!(before[0]["object"], "negotiation.heard");
        assert_eq!(before[0]["theirs"]["action"]["price_cents"], 2_000 + n);
        let mut n_written = 0;
        for event in &before[1..] {
            let n = event["tokens"].as_u64().unwrap();
            assert_eq!(event, &json!({"id": ids[1], "object": "negotiation.writing", "tokens": n}));
            assert!(n > n_written, "{event}: after {n_written}");
            n_written = n;
        }
        assert!(before.len() > 1);
        let record = server.get(&format!("{ALL}/{}", ids[1])).ok();
        assert_eq!(record["rounds"][n]["hash"], last["hash"]);
    }
    // An error is the last event, or no stream at all.
    let closed = format!("{ALL}/{}/close", ids[1]);
    server.post(&closed, &json!({})).ok();
    say(&server, &ids[1], &json!({"stream": true, "message": "Hm."})).refused(409, "");
    // Who leaves in the middle has said nothing, and may say it again.
    let id = created(&server, &settings("seller", 10_000, 4_000, 6));
    let body = json!({"action": {"kind": "offer", "price_cents": 2_000}, "stream": true});
    drop(server.send("POST", &format!("{ALL}/{id}/messages"), "", &body.to_string()));
    // The server sees that nobody listens when it next has something to tell.
    let began = Instant::now();
    let again = loop {
        if let Some(events) = server.try_stream(&format!("{ALL}/{id}/messages"), &body) {
            break events;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it is never let go");
        std::thread::sleep(Duration::from_millis(10));
    };
    let rounds = server.get(&format!("{ALL}/{id}")).ok()["rounds"].as_array().unwrap().len();
    assert_eq!(again[again.len() - 1]["round"], rounds);
}

#[test]
fn of_two_writers_at_once_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let id = created(&server, &settings("seller", 10_000, 4_000, 1));
    let bid = |i: i64| json!({"action": {"kind": "offer", "price_cents": 1_000 + i}});
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn({
                    let (server, id) = (&server, &id);
                    move || say(server, id, &bid(i)).status
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let done = statuses.iter().filter(|status| **status == 200).count();
    assert!(done >= 1 && statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    assert_eq!(verified(&server.get(&format!("{ALL}/{id}")).ok()), done);
}

#[test]
fn a_kill_loses_no_acknowledged_turn() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(String, usize, Value)> = vec![];
    for life in 0..6 {
        let server = start(dir.path(), &[]);
        for (id, n, last) in &acknowledged {
            let record = server.get(&format!("{ALL}/{id}")).ok();
            assert!(verified(&record) >= *n, "life {life}: {record}");
            assert_eq!(&record["rounds"][n - 1]["hash"], last, "life {life}");
        }
        // What was begun before goes on.
        if let Some((id, n, _)) = acknowledged.first().cloned() {
            let answer = say(&server, &id, &json!({"action": {"kind": "offer", "price_cents": 1_500}}));
            assert!(answer.status == 200 || answer.json["error"]["code"] == "ended", "{n}: {}", answer.json);
        }
        let told = std::sync::Mutex::new(vec![]);
        std::thread::scope(|scope| {
            for i in 0..3 {
                let (server, told) = (&server, &told);
                scope.spawn(move || {
                    let made = server.try_post(ALL, &settings("seller", 10_000, 4_000, 10 * life + i));
                    let Some(id) = made.and_then(|made| made["id"].as_str().map(String::from)) else { return };
                    for n in 1..6 {
                        let body = json!({"action": {"kind": "offer", "price_cents": 1_000 + n}});
                        // A kill may cut it anywhere, and the model may end it.
                        let Some(answer) = server.try_post(&format!("{ALL}/{id}/messages"), &body) else { return };
                        told.lock().unwrap().push((id.clone(), n as usize, answer["hash"].clone()));
                        if n == 3 && i == 0 {
                            server.signal("-KILL");
                            return;
                        }
                    }
                });
            }
        });
        acknowledged.extend(told.into_inner().unwrap());
    }
    assert!(acknowledged.len() > 20);
}

#[test]
fn a_database_of_a_newer_version_or_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/negotiations.sqlite"), "x".repeat(5_000)).unwrap();
    let args = ["serve", "--port", "0", "--device", "cpu", "--state", "state"];
    crate::support::cli::haggle(dir.path(), &args).refused(3, &["negotiations.sqlite", "is damaged"]);
}
