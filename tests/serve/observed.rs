//! What who runs a server sees of it: traces at a collector, which may be slow or gone and harms nothing; and a dashboard whose
//! queries are of metrics that there are.

use crate::common::Server;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ALL: &str = "/v1/negotiations";
const CHAT: &str = "/v1/chat/completions";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";
/// Words that must be in no span.
const WORDS: &str = "It is a bit worn.";

/// A collector on the loopback: the heads and bodies of what it was sent.
struct Collector {
    url: String,
    heard: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Collector {
    fn start() -> Collector {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (url, heard) = (format!("http://{}", socket.local_addr().unwrap()), Arc::new(Mutex::new(vec![])));
        let into = heard.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for wire in socket.incoming().flatten() {
                let into = into.clone();
                std::thread::spawn(move || {
                    while let Some(one) = message(&wire) {
                        into.lock().unwrap().push(one);
                    }
                });
            }
        });
        Collector { url, heard }
    }

    /// The spans of a trace that have come, once they are as many.
    fn spans(&self, trace: impl Fn(&Value) -> bool, n: usize) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let all: Vec<Value> = self.heard.lock().unwrap().iter().flat_map(|(_, body)| spans(body)).collect();
            let own: Vec<Value> = all.into_iter().filter(|span| trace(span)).collect();
            if own.len() >= n {
                return own;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "want {n} spans, have {own:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A message of OTLP, which is taken.
fn message(mut wire: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(wire);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).ok()? > 2 {
        head += &line;
        line.clear();
    }
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    wire.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}").ok()?;
    Some((head, serde_json::from_slice(&body).unwrap()))
}

fn spans(body: &Value) -> Vec<Value> {
    body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

/// A server whose spans go to an address.
fn start(dir: &Path, url: &str, more: &[&str]) -> Server {
    let variables = ["env", &format!("OTEL_EXPORTER_OTLP_ENDPOINT={url}"), "OTEL_SERVICE_NAME=deals"].map(String::from);
    let wrapper: Vec<&str> = variables.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Server::start_under(dir, &wrapper, &["--state", "state", "--api-key-file", "keys"])
}

fn keys(dir: &Path) {
    std::fs::write(dir.join("keys"), "open-sesame-1\n").unwrap();
}

fn post(server: &Server, path: &str, headers: &str, body: &Value) -> crate::common::Answer {
    let head = format!("authorization: Bearer open-sesame-1\r\nconnection: close\r\n{headers}");
    let (mut wire, mut text) = (server.send("POST", path, &head, &body.to_string()), String::new());
    wire.read_to_string(&mut text).unwrap();
    crate::common::answer(&text)
}

fn created(server: &Server) -> String {
    let settings = json!({"role": "seller", "limit_cents": 4_321, "seed": 3,
        "product": {"title": "Steel saw", "description": "", "category": "tools", "list_cents": 10_000}});
    post(server, ALL, "", &settings).json["id"].as_str().unwrap().into()
}

fn bid() -> Value {
    json!({"message": WORDS, "action": {"kind": "offer", "price_cents": 2_000}})
}

fn ns(span: &Value, name: &str) -> u128 {
    span[name].as_str().unwrap().parse().unwrap()
}

/// A number or a word that a span notes.
fn note<'a>(span: &'a Value, key: &str) -> &'a str {
    let one = span["attributes"].as_array().unwrap().iter().find(|note| note["key"] == key);
    let value = &one.unwrap_or_else(|| panic!("no {key} in {span}"))["value"];
    value["intValue"].as_str().or(value["stringValue"].as_str()).unwrap()
}

/// Holds the spans of a trace to one whole with parts inside; their names in order.
fn held(spans: &[Value], parent: &str) -> Vec<String> {
    let whole = spans.iter().find(|span| span["kind"] == 2).unwrap();
    assert_eq!(whole["parentSpanId"], parent);
    let ids: BTreeSet<&str> = spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
    assert!(ids.len() == spans.len() && ids.iter().all(|id| id.len() == 16 && *id != "0".repeat(16)), "{ids:?}");
    let mut parts: Vec<&Value> = spans.iter().filter(|span| span["kind"] == 1).collect();
    for part in &parts {
        assert_eq!((&part["parentSpanId"], &part["traceId"]), (&whole["spanId"], &whole["traceId"]));
        let inside = ns(whole, "startTimeUnixNano") <= ns(part, "startTimeUnixNano")
            && ns(part, "startTimeUnixNano") <= ns(part, "endTimeUnixNano")
            && ns(part, "endTimeUnixNano") <= ns(whole, "endTimeUnixNano");
        assert!(inside, "{part} outside of {whole}");
    }
    parts.sort_by_key(|part| ns(part, "startTimeUnixNano"));
    parts.iter().map(|part| part["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_turn_is_told_as_spans_in_its_clients_trace() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start());
    keys(dir.path());
    let mut server = start(dir.path(), &collector.url, &["OTEL_EXPORTER_OTLP_HEADERS=x-team=a%20b"]);
    let id = created(&server);
    let client = format!("traceparent: 00-{TRACE}-{CLIENT}-01\r\ntracestate: vendor=x\r\nx-request-id: r-7\r\n");
    post(&server, &format!("{ALL}/{id}/messages"), &client, &bid()).ok();
    let own = collector.spans(|span| span["traceId"] == TRACE, 7);
    assert_eq!(held(&own, CLIENT), ["store", "queue", "prefill", "decode", "guard", "store"]);
    assert!(own.iter().all(|span| span["traceState"] == "vendor=x"));
    let named = |name: &str| own.iter().find(|span| span["name"] == name).unwrap();
    let whole = named("POST /v1/negotiations/{id}/messages");
    assert_eq!([note(whole, "http.response.status_code"), note(whole, "haggle.request_id")], ["200", "r-7"]);
    assert!(note(named("prefill"), "gen_ai.usage.input_tokens").parse::<u32>().unwrap() > 10);
    let reused: u32 = note(named("prefill"), "haggle.reused_tokens").parse().unwrap();
    assert!(reused < note(named("prefill"), "gen_ai.usage.input_tokens").parse().unwrap());
    assert!(note(named("decode"), "gen_ai.usage.output_tokens").parse::<u32>().unwrap() > 10);
    assert_eq!(note(named("decode"), "haggle.finish"), "stop");
    // A stream without a client's trace is a trace of its own; it ends with its answer.
    let chat = json!({"messages": [{"role": "user", "content": WORDS}], "stream": true, "max_tokens": 5, "n": 2});
    assert_eq!(post(&server, CHAT, "", &chat).status, 200);
    let other = collector.spans(|span| span["name"] == format!("POST {CHAT}"), 1)[0]["traceId"].clone();
    let own = collector.spans(|span| span["traceId"] == other, 7);
    let mut parts = held(&own, "");
    parts.sort();
    assert_eq!(parts, ["decode", "decode", "prefill", "prefill", "queue", "queue"]);
    // What its client does not record is not recorded, and probes are not; a refusal is.
    let quiet = client.replace("-01\r\n", "-00\r\n").replace(TRACE, &"7".repeat(32));
    post(&server, &format!("{ALL}/{id}/messages"), &quiet, &bid());
    server.get("/health").ok();
    server.get(ALL).refused(401, "want a key");
    // What was recorded last is collected before the server has ended.
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
    let all: Vec<Value> = collector.spans(|_| true, 0);
    let names: BTreeSet<&str> =
        all.iter().filter(|span| span["kind"] == 2).map(|span| span["name"].as_str().unwrap()).collect();
    let want = [
        "GET /v1/negotiations",
        "POST /v1/chat/completions",
        "POST /v1/negotiations",
        "POST /v1/negotiations/{id}/messages",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), want);
    assert!(all.iter().all(|span| span["traceId"] != "7".repeat(32)));
    let heard = collector.heard.lock().unwrap();
    for (head, body) in &*heard {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1") && head.contains("x-team: a b"), "{head}");
        let text = body.to_string();
        assert!(text.contains(r#"{"key":"service.name","value":{"stringValue":"deals"}}"#), "{text}");
        // Nanoseconds and random names hold any four digits now and then.
        let told: String =
            text.split('"').filter(|part| *part == id || !is_number_or_name(part)).collect::<Vec<_>>().join(" ");
        for private in [WORDS, "worn", "4321", "43.21", "open-sesame", &id, "Steel saw"] {
            assert!(!told.contains(private), "`{private}` in {told}");
        }
    }
}

/// Whether it is a time in nanoseconds, or a random name of 16 or 32 hexadecimal digits.
fn is_number_or_name(part: &str) -> bool {
    let nanoseconds = part.len() == 19 && part.bytes().all(|b| b.is_ascii_digit());
    nanoseconds || matches!(part.len(), 16 | 32) && part.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A counter of `/metrics`.
fn counter(server: &Server, name: &str) -> u64 {
    let text = server.ask("GET", "/metrics", Some("open-sesame-1"), "").json;
    let line = text.as_str().unwrap().lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_collector_that_never_answers_or_is_gone_loses_spans_and_harms_nothing() {
    // It takes connections and says nothing; the other is not there.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, timeout) in [(silent.local_addr().unwrap(), 400), (gone, 10_000)] {
        let dir = tempfile::tempdir().unwrap();
        keys(dir.path());
        let more = format!("OTEL_EXPORTER_OTLP_TIMEOUT={timeout}");
        let mut server = start(dir.path(), &format!("http://{address}"), &[&more]);
        let id = created(&server);
        post(&server, &format!("{ALL}/{id}/messages"), "", &bid()).ok();
        let began = Instant::now();
        while counter(&server, "haggle_trace_spans_dropped_total") < 9 {
            assert!(began.elapsed() < Duration::from_secs(60), "spans are not counted");
            let chat = json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 2});
            post(&server, CHAT, "", &chat).ok();
        }
        assert_eq!(counter(&server, "haggle_trace_spans_sent_total"), 0);
        server.signal("-TERM");
        assert_eq!(server.ended(), Some(0));
    }
}

#[test]
fn what_the_variables_of_traces_ask_for_and_we_do_not_do_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = crate::support::cli::command(dir.path(), &["serve", "--port", "0", "--device", "cpu"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317").env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    crate::support::cli::said(command, "")
        .refused(2, &["OTEL_EXPORTER_OTLP_PROTOCOL: `grpc` is not spoken; want http/json"]);
}

/// The metrics that a query of Prometheus names.
fn queried(query: &str) -> BTreeSet<String> {
    const WORDS: [&str; 9] = ["by", "without", "and", "or", "unless", "on", "ignoring", "group_left", "bool"];
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let (mut names, mut rest) = (BTreeSet::new(), query);
    while let Some(at) = rest.find(|c: char| is_name(c) || "{[\"'".contains(c)) {
        rest = &rest[at..];
        let first = rest.chars().next().unwrap();
        if !is_name(first) {
            let end = match first {
                '{' => '}',
                '[' => ']',
                quote => quote,
            };
            rest = &rest[1 + rest[1..].find(end).unwrap() + 1..];
            continue;
        }
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        rest = behind;
        let next = behind.trim_start();
        let calls = next.starts_with('(') || ["by", "without"].iter().any(|word| next.starts_with(word));
        if ["by", "without", "on", "ignoring"].contains(&name) && calls {
            rest = &behind[behind.find(')').unwrap() + 1..];
        } else if !calls && !WORDS.contains(&name) && !first.is_ascii_digit() {
            names.insert(name.into());
        }
    }
    names
}

#[test]
fn every_metric_is_in_the_dashboard_and_every_query_finds_one() {
    let board: Value = serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
    let source = &board["templating"]["list"][0];
    assert_eq!((&source["type"], &source["query"]), (&json!("datasource"), &json!("prometheus")));
    let own = format!("${{{}}}", source["name"].as_str().unwrap());
    let mut asked = BTreeSet::new();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in board["panels"].as_array().unwrap() {
        assert_eq!(panel["datasource"], json!({"type": "prometheus", "uid": own}), "{}", panel["title"]);
        assert!(ids.insert(panel["id"].as_u64()) && places.insert(panel["gridPos"].to_string()), "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            let names = queried(target["expr"].as_str().unwrap());
            assert!(!names.is_empty(), "{target}");
            asked.extend(names);
        }
    }
    let told = told();
    let missing: Vec<&String> = asked.difference(&told).collect();
    assert!(missing.is_empty(), "the dashboard asks for what no server tells: {missing:?}");
    // A histogram is one metric, whichever of its parts is drawn.
    let family = |name: &String| {
        ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_string()
    };
    let drawn: BTreeSet<String> = asked.iter().map(family).collect();
    let all: BTreeSet<String> = told.iter().map(family).collect();
    let undrawn: Vec<&String> = all.difference(&drawn).collect();
    assert!(undrawn.is_empty(), "a metric that no panel draws: {undrawn:?}");
}

/// The names that a server tells after a negotiation that was played to its end.
fn told() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    keys(dir.path());
    let server = Server::start_in(dir.path(), &["--state", "state", "--api-key-file", "keys"]);
    let path = format!("{ALL}/{}/messages", created(&server));
    if post(&server, &path, "", &bid()).ok()["state"] == "open" {
        assert_eq!(post(&server, &path, "", &json!({"action": {"kind": "quit"}})).ok()["state"], "ended");
    }
    let text = server.ask("GET", "/metrics", Some("open-sesame-1"), "").json;
    let lines = text.as_str().unwrap().lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(['{', ' ']).next().unwrap().to_string()).collect()
}

#[test]
fn names_are_read_out_of_queries() {
    let names = |query: &str| queried(query).into_iter().collect::<Vec<_>>();
    assert_eq!(names("histogram_quantile(0.5, sum by (le) (rate(a:b_bucket{x=\"y\"}[5m])))"), ["a:b_bucket"]);
    assert_eq!(names("sum(rate(a_total[$__i])) / on (x) up > 2"), ["a_total", "up"]);
}
