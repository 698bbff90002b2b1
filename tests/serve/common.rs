//! A server of the binary's, and a client of it.
#![allow(dead_code)] // each test file uses a part

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that ends with the test.
pub struct Server {
    child: Child,
    /// Its working directory, where that is its own.
    own: Option<TempDir>,
    /// `http://127.0.0.1:PORT`
    pub url: String,
}

/// An answer: its status, the seconds after which to come again, and its JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<u64>,
    pub json: Value,
}

impl Answer {
    /// The JSON of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }

    /// Asserts an error in OpenAI's shape with this status whose message holds these words.
    #[track_caller]
    pub fn refused(self, status: u16, words: &str) {
        let error = &self.json["error"];
        assert_eq!(self.status, status, "{}", self.json);
        assert!(error["message"].as_str().is_some_and(|said| said.contains(words)), "want `{words}` in {}", self.json);
        assert!(error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some());
    }
}

impl Server {
    /// The embedded model on a free port, on one thread of the CPU.
    pub fn start(args: &[&str]) -> Server {
        let own = tempfile::tempdir().unwrap();
        let mut server = Server::start_in(own.path(), args);
        server.own = Some(own);
        server
    }

    /// The same in a folder.
    pub fn start_in(dir: &Path, args: &[&str]) -> Server {
        Server::spawned(dir, args, Stdio::inherit())
    }

    /// The same, whose stderr is a file.
    pub fn start_logging(dir: &Path, args: &[&str], log: std::fs::File) -> Server {
        Server::spawned(dir, args, log.into())
    }

    /// The same, started by another program that is given its command line.
    pub fn start_under(dir: &Path, wrapper: &[&str], args: &[&str]) -> Server {
        Server::launched(dir, wrapper, args, Stdio::inherit()).unwrap_or_else(|line| panic!("{line:?}"))
    }

    /// The same, where it starts.
    pub fn try_start(dir: &Path, args: &[&str]) -> Option<Server> {
        Server::launched(dir, &[], args, Stdio::null()).ok()
    }

    fn spawned(dir: &Path, args: &[&str], stderr: Stdio) -> Server {
        Server::launched(dir, &[], args, stderr).unwrap_or_else(|line| panic!("{line:?}"))
    }

    /// The server, or what it said instead of its address.
    fn launched(dir: &Path, wrapper: &[&str], args: &[&str], stderr: Stdio) -> Result<Server, String> {
        let own = ["serve", "--port", "0", "--device", "cpu", "--threads", "1"];
        let binary = crate::support::cli::binary();
        let mut command = Command::new(wrapper.first().map_or(binary.as_os_str(), std::ffi::OsStr::new));
        if let [_, rest @ ..] = wrapper {
            command.args(rest).arg(&binary);
        }
        command.args(own).args(args).current_dir(dir);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap_or_default().to_string();
        let server = Server { child, own: None, url };
        let serves = line.starts_with("serving ") && server.url.starts_with("http://127.0.0.1:");
        if serves { Ok(server) } else { Err(line) }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that it holds.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().split(' ').next().unwrap().parse::<u64>().unwrap()
    }

    /// Asserts that it is well, with nothing left to do and at most `more` bytes beyond those that it held before.
    #[track_caller]
    pub fn is_well(&self, before: u64, more: u64) {
        self.wait_until("all of it is let go", |ready| ready["running"] == 0 && ready["waiting"] == 0);
        self.get("/health").ok();
        let grown = self.resident().saturating_sub(before);
        assert!(grown < more, "grown by {} MiB", grown >> 20);
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for its end; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(120), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None, "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, None, &body.to_string())
    }

    /// Any request.
    pub fn ask(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> Answer {
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let mut wire = self.send(method, path, &format!("{key}connection: close\r\n"), body);
        let mut text = Vec::new();
        wire.read_to_end(&mut text).unwrap();
        answer(&String::from_utf8(text).unwrap())
    }

    /// The JSON of a success, where the server lives to the end of it.
    pub fn try_post(&self, path: &str, body: &Value) -> Option<Value> {
        let mut wire = TcpStream::connect(self.url.trim_start_matches("http://")).ok()?;
        let (body, mut text) = (body.to_string(), String::new());
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        wire.write_all((head + &body).as_bytes()).ok()?;
        wire.read_to_string(&mut text).ok()?;
        let is_whole = text.starts_with("HTTP/1.1 20") && text.contains("\r\n\r\n{");
        is_whole.then(|| answer(&text).json).filter(Value::is_object)
    }

    /// Sends a request, and reads nothing yet.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut wire = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n", body.len());
        wire.write_all((head + body).as_bytes()).unwrap();
        wire
    }

    /// The events of a stream, which must end as one.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        self.try_stream(path, body).unwrap_or_else(|| panic!("{path}: another is being answered"))
    }

    /// The same; none where another message is being answered.
    pub fn try_stream(&self, path: &str, body: &Value) -> Option<Vec<Value>> {
        let mut wire = self.send("POST", path, "connection: close\r\n", &body.to_string());
        let mut text = Vec::new();
        wire.read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        if head.starts_with("HTTP/1.1 409") && body.contains("\"busy\"") {
            return None;
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{text}");
        let body = unchunked(body);
        let mut events: Vec<&str> = body.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{body}");
        Some(events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect())
    }

    /// Waits until `/ready` says so.
    pub fn wait_until(&self, what: &str, mut there: impl FnMut(&Value) -> bool) {
        let began = Instant::now();
        while !there(&self.get("/ready").json) {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}: waited too long");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many times as much is done as usual: `HAGGLE_FAULTS`.
pub fn times() -> u64 {
    std::env::var("HAGGLE_FAULTS").map_or(1, |n| n.parse().expect("HAGGLE_FAULTS wants a number"))
}

/// Reads an answer with its head.
pub fn answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let header =
        |name: &str| head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(String::from));
    let retry_after = header("retry-after: ").map(|seconds| seconds.trim().parse().unwrap());
    let body = if header("transfer-encoding: chunked").is_some() { unchunked(body) } else { body.into() };
    Answer { status, retry_after, json: serde_json::from_str(&body).unwrap_or(Value::String(body)) }
}

/// A body without the frame of its chunks.
fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text += &rest[..size];
        body = &rest[(size + 2).min(rest.len())..];
    }
    text
}
