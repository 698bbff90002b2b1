//! A server of the binary's, and a client of any server, as thin as may be: it shares the machine with what it measures.

use haggle::config::Config;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is served, and how it is computed.
pub struct Way {
    pub model: String,
    /// `highest` or `medium`: see `model.matmul_precision`.
    pub matmul: String,
    /// 0 is all cores.
    pub threads: usize,
}

impl Way {
    /// The config that a server of it has.
    pub fn config(&self) -> Config {
        let mut config = Config::load(None, &[]).unwrap();
        (config.model.base, config.model.matmul_precision) = (self.model.clone(), self.matmul.clone());
        (config.device, config.threads) = ("cpu".into(), self.threads);
        config
    }
}

/// A server of its own process, which ends with this.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    /// From the start of the process to the first 200 of `/ready`.
    pub start_s: f64,
}

impl Server {
    /// Serves a model, with its negotiations in `state`.
    pub fn start(way: &Way, state: &Path) -> Server {
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_haggle"));
        command.args(["serve", "--port", "0", "--queue", "4096", "--no-defaults", "--device", "cpu"]);
        command.args(["--model", &way.model, "--threads", &way.threads.to_string()]);
        command.args(["--set", &format!("model.matmul_precision=\"{}\"", way.matmul), "--state"]).arg(state);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().to_string();
        let mut server = Server { child, address, start_s: 0.0 };
        while Wire::open(&server.address).ask("GET", "/ready", "", &mut |_| ()).0 != 200 {
            std::thread::sleep(Duration::from_millis(1));
        }
        server.start_s = began.elapsed().as_secs_f64();
        server
    }

    /// MiB of memory that it holds, or held at most: `VmRSS`, `VmHWM`.
    pub fn memory(&self, what: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
        line.trim().split(' ').next().unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Seconds that the cores spent on it so far.
    pub fn cpu_s(&self) -> f64 {
        cpu_s(&self.child.id().to_string())
    }

    /// A counter of `/metrics`.
    pub fn counter(&self, name: &str) -> f64 {
        let text = Wire::open(&self.address).ask("GET", "/metrics", "", &mut |_| ()).1;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds that the cores spent on a process: its number, or `self`.
pub fn cpu_s(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name, which may hold anything: user and system time are the 12th and 13th, in hundredths.
    let ticks = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// What came of a request: seconds to its first token and to its end, and its body.
#[derive(Debug, Clone)]
pub struct Told {
    pub first_s: f64,
    pub whole_s: f64,
    /// Seconds between two pieces of it.
    pub gaps_s: Vec<f64>,
    pub body: String,
}

impl Told {
    /// The events of its stream.
    pub fn events(&self) -> impl Iterator<Item = Value> + '_ {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap())
    }

    /// The text of a completion, and its tokens.
    pub fn text(&self) -> (String, usize) {
        let (mut text, mut n) = (String::new(), 0);
        for event in self.events() {
            text += event["choices"][0]["text"].as_str().unwrap_or_default();
            n = event["usage"]["completion_tokens"].as_u64().map_or(n, |n| n as usize);
        }
        (text, n)
    }
}

/// A connection that is kept.
pub struct Wire(BufReader<TcpStream>);

impl Wire {
    pub fn open(address: &str) -> Wire {
        let wire = TcpStream::connect(address).unwrap();
        wire.set_nodelay(true).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        Wire(BufReader::with_capacity(1 << 14, wire))
    }

    /// Posts JSON and reads the answer; the first token is the first piece that holds `first`.
    pub fn post(&mut self, path: &str, body: &Value, first: &str) -> Told {
        let (body, began) = (body.to_string(), Instant::now());
        let (mut first_s, mut last, mut gaps_s) = (None, None::<Instant>, vec![]);
        let (status, body) = self.ask("POST", path, &body, &mut |piece| {
            let now = Instant::now();
            if first_s.is_some() || piece.contains(first) {
                first_s.get_or_insert_with(|| (now - began).as_secs_f64());
                gaps_s.extend(last.replace(now).map(|before| (now - before).as_secs_f64()));
            }
        });
        assert!((200..300).contains(&status), "{status}: {body}");
        let whole_s = began.elapsed().as_secs_f64();
        Told { first_s: first_s.unwrap_or(whole_s), whole_s, gaps_s, body }
    }

    /// Sends a request and reads none of its answer.
    pub fn send(&mut self, method: &str, path: &str, body: &str) {
        let kind = "content-type: application/json";
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all((head + body).as_bytes()).unwrap();
    }

    /// Reads some bytes of an answer, whatever they are.
    pub fn sip(&mut self, bytes: &mut [u8]) -> bool {
        self.0.read(bytes).is_ok_and(|n| n > 0)
    }

    /// Any request; the status and the body, of which each piece is told as it comes.
    pub fn ask(&mut self, method: &str, path: &str, body: &str, heard: &mut dyn FnMut(&str)) -> (u16, String) {
        self.send(method, path, body);
        let (mut status, mut length, mut text) = (0, None, String::new());
        loop {
            let line = self.line();
            let lower = line.to_ascii_lowercase();
            match (line.is_empty(), lower.strip_prefix("http/1.1 "), lower.strip_prefix("content-length: ")) {
                (true, ..) => break,
                (_, Some(rest), _) => status = rest[..3].parse().unwrap(),
                (.., Some(n)) => length = Some(n.parse::<usize>().unwrap()),
                _ => {}
            }
        }
        if let Some(n) = length {
            text = self.bytes(n);
            heard(&text);
            return (status, text);
        }
        loop {
            let n = usize::from_str_radix(self.line().split(';').next().unwrap(), 16).unwrap();
            let piece = self.bytes(n);
            self.line();
            if n == 0 {
                return (status, text);
            }
            heard(&piece);
            text += &piece;
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the server hung up");
        line.trim_end().to_string()
    }

    fn bytes(&mut self, n: usize) -> String {
        let mut bytes = vec![0; n];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}
