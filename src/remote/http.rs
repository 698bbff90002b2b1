//! One request and its answer: bounded in time and size, and nothing of the key in any message.

use super::Limits;
use crate::error::{Error, Result};
use serde_json::Value;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

/// The most bytes of an answer that are read.
const MOST_BYTES: u64 = 1 << 20;
/// The most characters of a server's message that are told.
const MOST_TOLD: usize = 200;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another try may do better.
    Passing {
        /// What happened.
        what: String,
        /// How long the server asks to be left alone.
        wait: Option<Duration>,
    },
    /// The server takes no such request.
    Refused(String),
}

impl Failure {
    pub(super) fn what(&self) -> &str {
        match self {
            Failure::Passing { what, .. } | Failure::Refused(what) => what,
        }
    }
}

/// Connections to a server, and the key that goes with each request.
pub(super) struct Wire {
    agent: Agent,
    key: Option<String>,
    key_env: String,
}

impl Wire {
    pub(super) fn new(key_env: &str, limits: &Limits) -> Result<Wire> {
        let key = std::env::var(key_env).ok().map(|key| key.trim().to_string()).filter(|key| !key.is_empty());
        if key.as_ref().is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            let what = format!("seller.key_env: the key in {key_env} holds characters that no key has");
            return Err(Error::Config { problems: vec![what] });
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The key goes to the server that was named, and to no other.
            .max_redirects(0)
            .user_agent(concat!("haggle/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(limits.concurrency)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_send_request(Some(limits.read))
            .timeout_send_body(Some(limits.read))
            .timeout_recv_response(Some(limits.read))
            .timeout_recv_body(Some(limits.read))
            .build();
        Ok(Wire { agent: config.into(), key, key_env: key_env.into() })
    }

    /// The JSON at an address.
    pub(super) fn get(&self, url: &str) -> Result<Value, Failure> {
        let request = self.agent.get(url).header("accept", "application/json");
        let request = self.key.iter().fold(request, |r, key| r.header("authorization", format!("Bearer {key}")));
        self.read(request.call())
    }

    /// The JSON that answers a JSON.
    pub(super) fn post(&self, url: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(url).header("accept", "application/json").content_type("application/json");
        let request = self.key.iter().fold(request, |r, key| r.header("authorization", format!("Bearer {key}")));
        self.read(request.send(body.to_string()))
    }

    fn read(&self, answered: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
        let passing = |what: String| Failure::Passing { what: self.told(&what), wait: None };
        let mut answer = answered.map_err(|e| passing(e.to_string()))?;
        let (status, wait) = (answer.status(), asked_wait(answer.headers()));
        let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or("json");
        let is_json = kind.contains("json");
        let not_json = format!("the answer is {}, not JSON", one_line(kind));
        let body = answer.body_mut().with_config().limit(MOST_BYTES).read_to_vec();
        if !status.is_success() {
            return Err(self.failed(status, wait, &body.unwrap_or_default()));
        }
        let body = body.map_err(|e| passing(format!("the answer broke off: {e}")))?;
        if !is_json {
            return Err(passing(not_json));
        }
        serde_json::from_slice(&body).map_err(|e| passing(format!("the answer is no JSON: {e}")))
    }

    /// What an answer that is no success means.
    fn failed(&self, status: StatusCode, wait: Option<Duration>, body: &[u8]) -> Failure {
        let said = message(body);
        let mut what = format!("HTTP {}", status.as_u16());
        if !said.is_empty() {
            what += &format!(" ({})", self.told(&said));
        }
        let passes = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
        match status.as_u16() {
            401 | 403 if self.key.is_none() => what += &format!("; {} holds no key", self.key_env),
            401 | 403 => what += &format!("; is the key in {} right?", self.key_env),
            404 => what += "; does the address end in /v1, and is seller.model one that it has?",
            300..=399 => what += "; redirects are not followed: name the server's own address",
            _ => {}
        }
        if passes { Failure::Passing { what, wait } } else { Failure::Refused(what) }
    }

    /// A text on one line, short, and without the key.
    fn told(&self, text: &str) -> String {
        let text = one_line(text);
        self.key.as_ref().map_or(text.clone(), |key| text.replace(key.as_str(), "***"))
    }
}

/// The server's own words in the body of an error.
fn message(body: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let places = [&parsed["error"]["message"], &parsed["message"], &parsed["detail"], &parsed["error"]];
    let said = places.into_iter().find_map(Value::as_str);
    said.map_or_else(|| String::from_utf8_lossy(&body[..body.len().min(4 * MOST_TOLD)]).into_owned(), String::from)
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MOST_TOLD) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// `Retry-After`, in seconds or as a date.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
            (at.timestamp_millis() - chrono::Local::now().timestamp_millis()) as f64 / 1e3
        }
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_s_message_is_told_on_one_line_without_the_key() {
        let wire = Wire { agent: Agent::new_with_defaults(), key: Some("sk-secret".into()), key_env: "KEY".into() };
        for body in [
            &br#"{"error": {"message": "Bad key\n sk-secret given."}}"#[..],
            br#"{"detail": "Bad key sk-secret given."}"#,
            br#"{"error": "Bad key sk-secret given."}"#,
            b"Bad key\r\n\tsk-secret given.",
        ] {
            let failure = wire.failed(StatusCode::UNAUTHORIZED, None, body);
            assert_eq!(failure, Failure::Refused("HTTP 401 (Bad key *** given.); is the key in KEY right?".into()));
        }
        assert_eq!(one_line(&"ab ".repeat(200)).chars().count(), MOST_TOLD + 3);
        assert!(matches!(wire.failed(StatusCode::BAD_GATEWAY, None, b""), Failure::Passing { .. }));
        assert!(matches!(wire.failed(StatusCode::FOUND, None, b""), Failure::Refused(_)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            asked_wait(&headers)
        };
        assert_eq!(wait("2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
        let later = (chrono::Local::now() + chrono::Duration::seconds(90)).to_rfc2822();
        assert!(wait(&later).is_some_and(|wait| wait.as_secs() > 80), "{later}");
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), None, "a date that is past asks for nothing");
    }
}
