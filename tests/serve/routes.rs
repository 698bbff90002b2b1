//! `haggle serve` over loopback: the answers of `haggle generate` to the bit, streams, refusals, queues, clients that leave.

use crate::common::{Server, answer};
use crate::support::cli::haggle;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A chat that `haggle generate --chat 'turn 1/6'` asks too.
fn chat(more: Value) -> Value {
    with(json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 24, "seed": 7}), more)
}

/// A text of nearly as many tokens as are asked for: at this temperature all tokens are about as likely.
fn long(n: usize, more: Value) -> Value {
    with(json!({"prompt": "Hi", "max_tokens": n, "temperature": 50.0, "seed": 3}), more)
}

fn with(mut body: Value, more: Value) -> Value {
    more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    body
}

fn content(body: &Value) -> &str {
    body["choices"][0]["message"]["content"].as_str().unwrap()
}

/// `haggle generate`'s answers, a line each.
fn generated(args: &[&str]) -> Vec<Value> {
    let all = [&["generate", "--device", "cpu", "--json"], args].concat();
    let lines = haggle(Path::new("."), &all).done();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn answers_are_those_of_generate_to_the_bit_whatever_else_is_served() {
    let seeded = ["--chat", "turn 1/6", "--n", "3", "--seed", "7", "--temperature", "0.9", "--max-new-tokens", "24"];
    let want = generated(&seeded);
    let server = Server::start(&["--seats", "5"]);
    let asked = chat(json!({"n": 3, "temperature": 0.9, "logprobs": true, "return_token_ids": true}));
    let alone = server.post(CHAT, &asked).ok();
    let same = |got: &Value| {
        for (i, want) in want.iter().enumerate() {
            let choice = &got["choices"][i];
            let entries = choice["logprobs"]["content"].as_array().unwrap();
            let logprobs: Vec<&Value> = entries.iter().map(|entry| &entry["logprob"]).collect();
            assert_eq!(json!(logprobs), want["logprobs"], "answer {i}");
            assert_eq!((&choice["token_ids"], &choice["message"]["content"]), (&want["ids"], &want["text"]));
            assert_eq!(choice["finish_reason"], want["finish_reason"]);
        }
    };
    same(&alone);
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (server, other) = (&server, long(60, json!({"seed": i, "n": 2, "top_k": 50 * i})));
            scope.spawn(move || server.post(TEXT, &other).ok());
        }
        (0..3).for_each(|_| same(&server.post(CHAT, &asked).ok()));
    });
}

#[test]
fn chunks_joined_are_the_whole_answer() {
    let server = Server::start(&[]);
    let asked =
        chat(json!({"n": 2, "temperature": 1.3, "logprobs": true, "top_logprobs": 2, "return_token_ids": true}));
    let whole = server.post(CHAT, &asked).ok();
    let events = server.stream(CHAT, &with(asked, json!({"stream": true, "stream_options": {"include_usage": true}})));
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &whole["usage"]["total_tokens"]));
    for i in 0..2 {
        let mine: Vec<&Value> = chunks.iter().map(|event| &event["choices"][0]).filter(|c| c["index"] == i).collect();
        assert_eq!(mine[0]["delta"], json!({"role": "assistant", "content": ""}));
        let text: String = mine.iter().map(|c| c["delta"]["content"].as_str().unwrap()).collect();
        let gathered = |place: &dyn Fn(&Value) -> Value| -> Vec<Value> {
            mine.iter().filter_map(|c| place(c).as_array().cloned()).flatten().collect()
        };
        let choice = &whole["choices"][i];
        assert_eq!(json!(text), choice["message"]["content"]);
        assert_eq!(json!(gathered(&|c| c["token_ids"].clone())), choice["token_ids"]);
        assert_eq!(json!(gathered(&|c| c["logprobs"]["content"].clone())), choice["logprobs"]["content"]);
        assert_eq!(mine[mine.len() - 1]["finish_reason"], choice["finish_reason"]);
        assert!(mine[..mine.len() - 1].iter().all(|c| c["finish_reason"].is_null()));
    }
}

#[test]
fn no_chunk_holds_a_part_of_a_stop_string_or_half_a_character() {
    let server = Server::start(&[]);
    for seed in 0..12 {
        // Bytes in any order: most of them are halves of characters.
        let asked = long(40, json!({"seed": seed}));
        let text = server.post(TEXT, &asked).ok()["choices"][0]["text"].as_str().unwrap().to_string();
        let chars: Vec<char> = text.chars().collect();
        let stop: String = chars[chars.len() / 2..(chars.len() / 2 + 4).min(chars.len())].iter().collect();
        let want = &text[..text.find(&stop).unwrap()];
        let events = server.stream(TEXT, &with(asked, json!({"stop": [stop, "never said"], "stream": true})));
        let mut told = String::new();
        for event in &events {
            told += event["choices"][0]["text"].as_str().unwrap();
            assert!(want.starts_with(&told), "{told:?} of {text:?}, stop {stop:?}");
        }
        assert_eq!(told, want);
        assert_eq!(events[events.len() - 1]["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn alternatives_are_the_likeliest_and_measured_as_the_sampled_token_is() {
    let server = Server::start(&[]);
    let greedy = server.post(CHAT, &chat(json!({"temperature": 0, "logprobs": true, "top_logprobs": 5}))).ok();
    let entries = greedy["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(entries.len() > 4);
    for entry in entries {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (5, &entry["token"], &entry["logprob"]));
        assert!(top.windows(2).all(|pair| pair[0]["logprob"].as_f64() >= pair[1]["logprob"].as_f64()));
    }
    let none = server.post(CHAT, &chat(json!({"temperature": 0, "logprobs": true, "top_logprobs": 0}))).ok();
    assert_eq!(none["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
    assert_eq!(content(&none), content(&greedy), "asking moves no sample");
    let text = server.post(TEXT, &json!({"prompt": "Thought:", "logprobs": 3, "max_tokens": 6, "temperature": 0})).ok();
    let logprobs = &text["choices"][0]["logprobs"];
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 3);
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), logprobs["token_logprobs"].as_array().unwrap().len());
}

#[test]
fn what_was_used_is_counted_and_a_prompt_seen_before_is_cached() {
    let server = Server::start(&[]);
    let ids = server.post("/tokenize", &json!({"messages": chat(json!({}))["messages"]})).ok();
    let first = server.post(CHAT, &chat(json!({}))).ok()["usage"].clone();
    assert_eq!(first["prompt_tokens"], ids["count"]);
    assert_eq!(
        first["total_tokens"].as_u64(),
        Some(first["prompt_tokens"].as_u64().unwrap() + first["completion_tokens"].as_u64().unwrap())
    );
    assert_eq!(first["prompt_tokens_details"]["cached_tokens"], 0);
    let second = server.post(CHAT, &chat(json!({}))).ok()["usage"].clone();
    assert_eq!(second["prompt_tokens_details"]["cached_tokens"].as_u64(), Some(ids["count"].as_u64().unwrap() - 1));
    let by_ids = server.post(TEXT, &json!({"prompt": ids["tokens"], "seed": 7, "max_tokens": 24})).ok();
    assert_eq!(by_ids["choices"][0]["text"], content(&server.post(CHAT, &chat(json!({}))).ok()));
    let models = server.get("/v1/models").ok();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!("embedded"), &json!(1024)));
}

#[test]
fn what_is_not_known_or_not_computed_is_refused_by_name() {
    let server = Server::start(&["--max-body", "64"]);
    for (more, words) in [
        (json!({"tempreature": 1}), "unknown field `tempreature`"),
        (json!({"min_tokens": 5}), "`min_tokens` is not supported"),
        (json!({"response_format": {"type": "xml"}}), "`response_format`: want a `type`"),
        (json!({"tools": [{"type": "function"}]}), "template takes none"),
        (json!({"stop": ""}), "an empty string in `stop`"),
        (json!({"stop": [1]}), "`stop` must hold strings"),
        (json!({"n": 1000}), "`n` must be 1 to 128, is 1000"),
        (json!({"n": 0}), "`n` must be"),
        (json!({"temperature": -1}), "temperature must be 0 or more"),
        (json!({"temperature": "hot"}), "`temperature` must be a number, is a string"),
        (json!({"top_p": 0}), "top_p must be above 0"),
        (json!({"max_tokens": 0}), "max_tokens must be 1 or more"),
        (json!({"max_tokens": 3, "max_completion_tokens": 4}), "give one of them"),
        (json!({"top_logprobs": 2}), "needs `logprobs`"),
        (json!({"logprobs": true, "top_logprobs": 21}), "at most 20"),
        (json!({"stream_options": {"include_usage": true}}), "needs `stream`"),
        (json!({"seed": 1.5}), "`seed` must be a whole number"),
        (json!({"messages": []}), "`messages` is empty"),
        (json!({"messages": "hi"}), "`messages` must be a list"),
        (json!({"messages": [{"content": "hi"}]}), "messages[0]: want a string `role`"),
        (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "reads text alone"),
        (json!({"messages": [{"role": "user", "content": "hi ".repeat(2000)}]}), "leaves no room"),
    ] {
        server.post(CHAT, &chat(more)).refused(400, words);
    }
    server.post(CHAT, &chat(json!({"model": "gpt-4"}))).refused(404, "there is no model `gpt-4`");
    for (prompt, words) in [
        (json!([]), "`prompt` is empty"),
        (json!(""), "the prompt is empty"),
        (json!([2048]), "token id 2048 is not one of"),
        (json!([-1]), "token id -1"),
        (json!([1.5]), "`prompt` holds 1.5"),
        (json!(7), "`prompt` must be a text"),
    ] {
        server.post(TEXT, &json!({ "prompt": prompt })).refused(400, words);
    }
    server.post(TEXT, &json!({"prompt": "a", "best_of": 2})).refused(400, "`best_of` is not supported");
    server.post(TEXT, &json!({})).refused(400, "want `prompt`");
    server.ask("POST", CHAT, None, "{").refused(400, "the body is not JSON");
    server.ask("POST", CHAT, None, "[1]").refused(400, "must be a JSON object");
    server.post(CHAT, &chat(json!({"user": "x".repeat(70_000)}))).refused(413, "larger than 65536 bytes");
    server.get("/v1/nothing").refused(404, "there is no GET /v1/nothing");
    server.get(CHAT).refused(405, "takes no GET");
    // Labels, neutral values and nulls pass.
    let fine = json!({"user": "me", "presence_penalty": 0, "logit_bias": null, "response_format": {"type": "text"}, "store": false});
    server.post(CHAT, &chat(fine)).ok();
}

#[test]
fn malformed_http_is_answered_or_hung_up_on_and_the_server_goes_on() {
    let server = Server::start(&[]);
    for junk in [
        &b"\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"POST / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: \x00\r\n\r\n",
    ] {
        let mut wire = std::net::TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        wire.write_all(junk).unwrap();
        let _ = wire.shutdown(std::net::Shutdown::Write);
        let _ = wire.read_to_end(&mut Vec::new());
    }
    server.get("/health").ok();
}

#[test]
fn who_sends_a_byte_now_and_then_is_hung_up_on() {
    let server = Server::start(&["--read-timeout", "1"]);
    let connect = |begin: &str| {
        let mut wire = std::net::TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        wire.write_all(begin.as_bytes()).unwrap();
        wire
    };
    let half_body = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
    let wires: Vec<_> =
        ["", "GET", "GET / HTTP/1.1\r\nhost:", &half_body].repeat(25).into_iter().map(connect).collect();
    server.get("/health").ok();
    for mut wire in wires {
        // Until it is closed, with an answer or without one.
        let _ = wire.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn keys_guard_all_but_health() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "# ours\nsk-right\n").unwrap();
    let server = Server::start(&["--api-key-file", keys.to_str().unwrap()]);
    server.get("/health").ok();
    for key in [None, Some("sk-wrong"), Some("")] {
        server.ask("GET", "/v1/models", key, "").refused(401, "want a key");
        server.ask("POST", CHAT, key, "{").refused(401, "want a key");
        server.ask("GET", "/nothing", key, "").refused(401, "want a key");
    }
    server.ask("POST", CHAT, Some("sk-right"), &chat(json!({})).to_string()).ok();
}

#[test]
fn the_official_python_client_works_unchanged() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openai/bin/python");
    if !python.exists() {
        eprintln!("SKIPPED: no OpenAI client in target/openai; tools/install-openai installs it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys"), "sk-right\n").unwrap();
    let server = Server::start_in(dir.path(), &["--api-key-file", "keys"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/openai_client.py");
    let said = Command::new(python).arg(script).arg(&server.url).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!((out.trim(), said.status.success()), ("held", true), "{err}");
}

#[test]
fn a_client_that_leaves_frees_its_seat_streaming_or_not() {
    let server = Server::start(&["--seats", "1"]);
    for stream in [true, false] {
        let asked = long(1000, json!({"stream": stream, "n": 100}));
        let mut wire = server.send("POST", TEXT, "", &asked.to_string());
        server.wait_until("it runs", |ready| ready["running"] == 1);
        if stream {
            wire.read_exact(&mut [0; 64]).unwrap();
        }
        drop(wire);
        server.wait_until("it was let go", |ready| ready["running"] == 0 && ready["waiting"] == 0);
    }
    server.post(CHAT, &chat(json!({}))).ok();
}

#[test]
fn a_client_that_never_reads_holds_up_nobody() {
    let server = Server::start(&["--seats", "2"]);
    let _mute = server.send("POST", TEXT, "", &long(1000, json!({"stream": true, "logprobs": 20})).to_string());
    server.wait_until("it runs", |ready| ready["running"] == 1);
    let answered = server.post(CHAT, &chat(json!({}))).ok();
    assert!(answered["usage"]["completion_tokens"].as_u64() > Some(1));
    server.wait_until("the engine is through with it", |ready| ready["running"] == 0);
}

#[test]
fn beyond_the_queue_clients_are_told_when_to_come_again() {
    let server = Server::start(&["--seats", "1", "--queue", "1"]);
    let busy = long(1000, json!({"n": 100, "stream": true})).to_string();
    let _first = server.send("POST", TEXT, "", &busy);
    server.wait_until("it runs", |ready| ready["running"] == 1);
    // One is at the bench, one in the queue.
    let _second = server.send("POST", TEXT, "", &busy);
    server.wait_until("it waits", |ready| ready["waiting"] == 2);
    let full = server.post(CHAT, &chat(json!({})));
    assert_eq!(full.retry_after, Some(1));
    full.refused(429, "as many requests wait");
}

#[test]
fn an_answer_that_takes_too_long_is_given_up() {
    let server = Server::start(&["--seats", "1", "--timeout", "1"]);
    server.post(TEXT, &long(1000, json!({"n": 128}))).refused(504, "--timeout");
    server.post(CHAT, &chat(json!({}))).ok();
}

#[test]
fn asked_to_stop_it_finishes_what_runs_and_takes_no_more() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start(&[]);
        let mut running =
            server.send("POST", TEXT, "connection: close\r\n", &long(600, json!({"logprobs": 0})).to_string());
        server.wait_until("it runs", |ready| ready["running"] == 1);
        server.signal(signal);
        let began = Instant::now();
        while server.get("/health").status != 503 {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        server.post(CHAT, &chat(json!({}))).refused(503, "takes no more");
        let mut text = String::new();
        running.read_to_string(&mut text).unwrap();
        let whole = answer(&text).ok();
        assert!(whole["usage"]["completion_tokens"].as_u64() > Some(20), "{whole}");
        assert_eq!(server.ended(), Some(0), "{signal}");
    }
}

#[test]
fn what_cannot_serve_is_refused_before_anything_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = |args: &[&str]| haggle(dir.path(), &[&["serve", "--device", "cpu"], args].concat());
    run(&["--port", &port]).refused(3, &[&port, "is in use"]);
    run(&["--model", "nowhere"]).refused(3, &["nowhere"]);
    run(&["--api-key-file", "none"]).refused(3, &["none"]);
    std::fs::write(dir.path().join("empty"), "# no key\n").unwrap();
    run(&["--api-key-file", "empty"]).refused(3, &["holds no key"]);
    run(&["--seats", "0"]).refused(2, &["--seats"]);
    run(&["--host", "localhost:1"]).refused(2, &["--host"]);
    assert!(run(&["--dry-run"]).done().contains("MiB"));
}

#[test]
fn metrics_count_what_was_asked_and_tell_no_limit() {
    let server = Server::start(&[]);
    server.post(CHAT, &chat(json!({"n": 2}))).ok();
    server.post(CHAT, &chat(json!({"n": 0}))).refused(400, "`n` must be");
    let bid = json!({"action": {"kind": "offer", "price_cents": 3_000}});
    let product = json!({"title": "A saw", "list_cents": 10_000});
    let made = server.post("/v1/negotiations", &json!({"role": "seller", "limit_cents": 4_321, "product": product}));
    server.post(&format!("/v1/negotiations/{}/messages", made.json["id"].as_str().unwrap()), &bid).ok();
    server.wait_until("all is answered", |ready| ready["running"] == 0);
    let text = server.get("/metrics").json.as_str().unwrap().to_string();
    for line in [
        "vllm:num_requests_running 0",
        "vllm:num_requests_waiting 0",
        "vllm:time_to_first_token_seconds_count 3",
        "haggle_http_answers_total{status=\"400\"} 1",
        "haggle_http_answers_total{status=\"201\"} 1",
    ] {
        assert!(text.lines().any(|own| own == line), "want `{line}` in {text}");
    }
    for name in [
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:kv_cache_usage_perc",
        "haggle_negotiation_rounds_total",
    ] {
        assert!(text.contains(name), "{name}");
    }
    assert!(!text.contains("4321"), "{text}");
}

#[test]
fn a_key_that_asks_too_often_is_told_when_to_come_again() {
    let server = Server::start(&["--rate", "3"]);
    (0..3).for_each(|_| drop(server.post("/tokenize", &json!({"prompt": "a"})).ok()));
    let more = server.post("/tokenize", &json!({"prompt": "a"}));
    assert!(more.retry_after.is_some_and(|seconds| (1..=20).contains(&seconds)), "{more:?}");
    more.refused(429, "asks more often than it may");
    server.get("/ready").ok();
}

#[test]
fn requests_have_names_and_what_is_logged_holds_no_key_and_no_words() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys"), "sk-right\n").unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let server = Server::start_logging(dir.path(), &["--log", "--api-key-file", "keys"], log);
    let body = chat(json!({})).to_string();
    for name in ["mine-1", "not fine"] {
        let head = format!("authorization: Bearer sk-right\r\nx-request-id: {name}\r\nconnection: close\r\n");
        let mut text = String::new();
        server.send("POST", CHAT, &head, &body).read_to_string(&mut text).unwrap();
        let own = text.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        assert_eq!(own == name, name == "mine-1", "{own}");
    }
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["request_id"], &lines[0]["status"]),
        (2, &json!("mine-1"), &json!(200)),
        "{log}"
    );
    assert!(!log.contains("sk-right") && !log.contains("turn 1/6"), "{log}");
}

#[test]
fn the_openapi_document_names_every_route_and_no_other() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").ok();
    let source = include_str!("../../src/serve/http.rs");
    let mut served: Vec<&str> = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let mut told: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    served.sort();
    told.sort();
    assert_eq!(told, served);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let answer = server.ask(&method.to_uppercase(), &path.replace("{id}", "neg-none"), None, "");
            assert_ne!(answer.status, 405, "{method} {path}");
            assert_ne!(answer.json["error"]["code"], "unknown_route", "{method} {path}");
        }
    }
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openai/bin/python");
    if python.exists() {
        let code = "import json, sys, openapi_spec_validator as v; v.validate(json.load(open(sys.argv[1])))";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/openapi.json");
        let said = Command::new(python).args(["-c", code]).arg(file).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn the_page_is_whole_and_asks_nobody_else() {
    let server = Server::start(&[]);
    let page = server.get("/").json.as_str().unwrap().to_string();
    assert!(page.starts_with("<!doctype html>") && page.contains("</html>"));
    assert!(!page.contains("http://") && !page.contains("https://"), "it loads nothing from elsewhere");
    let products = server.get("/v1/products").ok();
    let first = &products["data"][0];
    assert!(
        products["data"].as_array().unwrap().len() >= 12
            && first["list_cents"].as_i64() >= first["cost_cents"].as_i64()
    );
}
