//! A chat server on the loopback that does to a client whatever a test asks for.
#![allow(dead_code)] // each test file uses a part

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The path.
    pub path: String,
    /// The `authorization` header.
    pub key: Option<String>,
    /// The body, null where there is none.
    pub body: Value,
    /// Chat completions asked before, this path alone.
    pub before: usize,
}

impl Asked {
    /// The content of a message, counted from the end.
    pub fn said(&self, from_end: usize) -> &str {
        let messages = self.body["messages"].as_array().unwrap();
        messages[messages.len() - 1 - from_end]["content"].as_str().unwrap()
    }

    /// The instructions.
    pub fn system(&self) -> &str {
        self.body["messages"][0]["content"].as_str().unwrap()
    }

    /// True for the request that only looks whether anybody is there.
    pub fn probes(&self) -> bool {
        self.body["max_tokens"] == 1
    }
}

/// What a client gets.
pub enum Answer {
    /// A status with headers and a JSON body.
    Json(u16, Vec<(&'static str, String)>, Value),
    /// These bytes, and the end of the connection.
    Bytes(Vec<u8>),
    /// Nothing for so long, and the end of the connection.
    Stall(Duration),
}

/// A reply that says `text`.
pub fn says(text: &str) -> Answer {
    let message = json!({ "role": "assistant", "content": text });
    let choices = json!([{ "index": 0, "message": message, "finish_reason": "stop" }]);
    Answer::Json(
        200,
        vec![],
        json!({ "object": "chat.completion", "choices": choices, "usage": { "completion_tokens": 9 } }),
    )
}

/// An error with a message.
pub fn fails(status: u16, message: &str) -> Answer {
    Answer::Json(status, vec![], json!({ "error": { "message": message, "type": "error" } }))
}

/// A seller that never gives in, a function of the conversation alone: it asks for more with each turn until it walks away.
pub fn stubborn(asked: &Asked) -> Answer {
    let turns = asked.body["messages"].as_array().map_or(0, |messages| messages.len() / 2);
    match turns {
        1 | 2 => says("Thought: No.\nTalk: I cannot do that.\nAction: [REJECT]"),
        _ => says("Thought: Enough.\nTalk: Good bye.\nAction: [QUIT]"),
    }
}

/// A server; it ends with the test.
pub struct ChatServer {
    /// Its address, for `model.seller`.
    pub url: String,
    /// All that was asked, in order of arrival.
    pub asked: Arc<Mutex<Vec<Asked>>>,
    /// The most requests at a time.
    pub most: Arc<AtomicUsize>,
}

impl ChatServer {
    /// A server with one model, `tiny-seller`, that answers chat completions as `answer` says.
    pub fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> ChatServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, most) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let own = ChatServer { url, asked: asked.clone(), most: most.clone() };
        let (answer, now) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, asked, most, now) = (answer.clone(), asked.clone(), most.clone(), now.clone());
                std::thread::spawn(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let _ = serve(stream, &*answer, &asked);
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        own
    }

    /// The chat completions that were asked for, probes aside.
    pub fn turns(&self) -> Vec<Asked> {
        let all = self.asked.lock().unwrap().clone();
        all.into_iter().filter(|asked| asked.path.ends_with("/chat/completions") && !asked.probes()).collect()
    }
}

/// One request on one connection.
fn serve(mut stream: TcpStream, answer: &dyn Fn(&Asked) -> Answer, all: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let (mut length, mut key) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => key = Some(value.trim().to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let asked = {
        let mut all = all.lock().unwrap();
        let before = all.iter().filter(|one| one.path == path).count();
        all.push(Asked { path, key, body, before });
        all[all.len() - 1].clone()
    };
    let given = match asked.path.as_str() {
        "/v1/models" => Answer::Json(200, vec![], json!({ "object": "list", "data": [{ "id": "tiny-seller" }] })),
        "/v1/chat/completions" => answer(&asked),
        _ => fails(404, "no such path"),
    };
    write(&mut stream, given)
}

fn write(stream: &mut TcpStream, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Json(status, headers, body) => {
            let body = body.to_string();
            let own: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                 connection: close\r\n{own}\r\n{body}"
            )
        }
        Answer::Bytes(bytes) => stream.write_all(&bytes),
        Answer::Stall(long) => {
            std::thread::sleep(long);
            Ok(())
        }
    }
}

/// A word that names it, and the answer.
pub type Broken = (&'static str, fn() -> Answer);

/// Ways in which an answer is none, and a word that names each.
pub fn broken() -> Vec<Broken> {
    fn bytes(head: &str, body: &str) -> Answer {
        Answer::Bytes(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{head}\r\n\r\n{body}").into_bytes())
    }
    vec![
        ("HTTP 500 (boom)", || fails(500, "boom")),
        ("HTTP 503", || Answer::Json(503, vec![], Value::Null)),
        ("HTTP 429 (slow down)", || {
            let body = json!({ "error": { "message": "slow down" } });
            Answer::Json(429, vec![("retry-after", "0.01".into())], body)
        }),
        ("`choices`", || Answer::Json(200, vec![], json!({ "object": "list" }))),
        ("`content`", || Answer::Json(200, vec![], json!({ "choices": [{ "message": { "content": null } }] }))),
        ("no JSON", || bytes("content-type: application/json\r\ncontent-length: 9", "{\"choices")),
        ("text/html, not JSON", || bytes("content-type: text/html\r\ncontent-length: 14", "<html>Log in</")),
        ("broke off", || bytes("content-type: application/json\r\ncontent-length: 400", "{\"choices\": [{\"mess")),
        ("broke off", || {
            bytes("content-type: application/json\r\ntransfer-encoding: chunked", "zz\r\nnot a chunk\r\n")
        }),
        ("broke off", || {
            let body = format!("{{\"choices\": \"{}\"}}", "x".repeat(3 << 20));
            bytes(&format!("content-type: application/json\r\ncontent-length: {}", body.len()), &body)
        }),
        ("", || Answer::Bytes(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec())),
        ("", || Answer::Bytes(vec![])),
        ("timeout", || Answer::Stall(Duration::from_millis(1_500))),
    ]
}
