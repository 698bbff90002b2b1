//! A chat model behind a server that speaks the OpenAI protocol: asked over HTTP, many requests at a time.
//!
//! The one idea: a reply either comes whole and as the protocol says, or it does not come at all. What fails is tried again,
//! later and later; what keeps failing is lost, with its reason; and a server that fails everything is left alone for a
//! while (`breaker.rs`) and then given up. It knows no game: what a lost reply means is for the episode to say.

mod answer;
mod breaker;
mod desk;
mod http;

pub use answer::Said;
pub use desk::{Desk, Heard, Stats};

use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::text::{Message, Role};
use answer::Answer;
use breaker::Breaker;
use http::Failure;
use serde_json::json;
use std::sync::OnceLock;
use std::time::Duration;

/// How a server is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Requests at a time.
    pub concurrency: usize,
    /// Until a connection stands.
    pub connect: Duration,
    /// From the request to the answer's head, and from there to its end.
    pub read: Duration,
    /// Tries behind the first.
    pub retries: usize,
    /// The wait before the second try; it doubles with each, up to a minute.
    pub backoff: Duration,
    /// Failed requests in a row after which all wait.
    pub failures: usize,
    /// How long they wait.
    pub cooling: Duration,
    /// Waits in a row after which the server is given up.
    pub coolings: usize,
}

/// What a server is asked: a conversation to go on with.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The conversation; the last message is the user's.
    pub messages: Vec<Message>,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// Most tokens of the reply.
    pub max_tokens: usize,
    /// What the server's seed and the waits between tries are drawn from.
    pub noise: Noise,
}

/// A server, and what is known of it.
pub struct Server {
    url: String,
    named: Option<String>,
    model: OnceLock<String>,
    wire: http::Wire,
    limits: Limits,
    breaker: Breaker,
}

impl Server {
    /// The server of an address such as `http://host:8000/v1`, and the model of a name (none: the first that it lists), with
    /// the key that the environment variable `key_env` holds, if it holds one. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Config`] for a key that no header can carry.
    pub fn new(url: &str, named: Option<String>, key_env: &str, limits: Limits) -> Result<Server> {
        let wire = http::Wire::new(key_env, &limits)?;
        let breaker = Breaker::new(&limits);
        Ok(Server { url: url.trim_end_matches('/').into(), named, model: OnceLock::new(), wire, limits, breaker })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The model's name; none before [`Server::probe`].
    pub fn model(&self) -> Option<&str> {
        self.model.get().map(String::as_str)
    }

    /// Finds out, once, which model it has and whether it answers: what would fail every episode is refused here.
    ///
    /// # Errors
    /// [`Error::Config`] with what the server says against the request, [`Error::Seller`] when it cannot be reached or does not
    /// answer as the protocol says.
    pub fn probe(&self) -> Result<()> {
        if self.model.get().is_some() {
            return Ok(());
        }
        let noise = Noise::new(0, 0);
        let model = match &self.named {
            Some(named) => named.clone(),
            None => self.tried(noise.child(0), || self.first_model()).map_err(|f| self.refused("GET /models", f))?,
        };
        let messages = vec![
            Message::new(Role::System, "You sell things. Answer in one word."),
            Message::new(Role::User, "Are you there?"),
        ];
        let ask = Ask { messages, temperature: 0.0, max_tokens: 1, noise: noise.child(1) };
        let tried = self.tried(ask.noise, || self.answer(&model, &ask));
        tried.map_err(|f| self.refused("POST /chat/completions", f))?;
        let _ = self.model.set(model);
        Ok(())
    }

    fn refused(&self, request: &str, failure: Failure) -> Error {
        match failure {
            Failure::Refused(what) => {
                let what = format!("model.seller: {} refuses {request}: {what}", self.url);
                Error::Config { problems: vec![what] }
            }
            Failure::Passing { what, .. } => {
                Error::Seller { url: self.url.clone(), what: format!("{request}: {what}") }
            }
        }
    }

    /// Tries a request until it is answered, refused, or has been tried often enough.
    fn tried<T>(&self, noise: Noise, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            match ask() {
                Err(Failure::Passing { wait, .. }) if tries < self.limits.retries => {
                    std::thread::sleep(self.limits.pause(tries, wait, noise));
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    /// The first model that it lists.
    fn first_model(&self) -> Result<String, Failure> {
        let listed = self.wire.get(&format!("{}/models", self.url))?;
        let name = listed["data"][0]["id"].as_str().filter(|name| !name.is_empty());
        name.map(String::from)
            .ok_or_else(|| Failure::Refused("the answer lists no model; name one with --set seller.model=NAME".into()))
    }

    /// One request for one reply.
    fn answer(&self, model: &str, ask: &Ask) -> Result<Answer, Failure> {
        let body = json!({
            "model": model,
            "messages": ask.messages,
            "temperature": ask.temperature,
            "max_tokens": ask.max_tokens,
            // Some servers take 31 bits.
            "seed": ask.noise.bits(0) >> 33,
            "stream": false,
        });
        let answer = self.wire.post(&format!("{}/chat/completions", self.url), &body)?;
        Answer::read(&answer, ask.max_tokens).map_err(|what| Failure::Passing { what, wait: None })
    }
}

/// The longest wait between two tries that a server did not ask for, and the longest that it may ask for.
const LONGEST: Duration = Duration::from_secs(60);
const LONGEST_ASKED: Duration = Duration::from_secs(600);

impl Limits {
    /// How long to wait behind the failed try of a number, from 0: what the server asks for, or twice as long each time, less
    /// up to a half of it that the noise takes off.
    fn pause(&self, tries: usize, asked: Option<Duration>, noise: Noise) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << tries.min(16)).min(LONGEST);
        let jittered = doubled.mul_f64(1.0 - 0.5 * noise.uniform_f64(1 + tries as u64));
        asked.map_or(jittered, |asked| asked.min(LONGEST_ASKED).max(jittered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_shake_and_keep_to_what_the_server_asks_for() {
        let seconds = Duration::from_secs_f64;
        let limits = Limits {
            concurrency: 1,
            connect: seconds(1.0),
            read: seconds(1.0),
            retries: 4,
            backoff: seconds(1.0),
            failures: 8,
            cooling: seconds(1.0),
            coolings: 1,
        };
        let mut differ = false;
        for stream in 0..50 {
            let noise = Noise::new(3, stream);
            for tries in 0..5 {
                let pause = limits.pause(tries, None, noise).as_secs_f64();
                let whole = (1 << tries) as f64;
                assert!(pause >= whole / 2.0 && pause <= whole, "{tries}: {pause}");
                assert_eq!(limits.pause(tries, None, noise), limits.pause(tries, None, noise));
                differ |= limits.pause(tries, None, noise) != limits.pause(tries, None, Noise::new(4, stream));
            }
            assert!(limits.pause(40, None, noise) <= LONGEST);
            assert_eq!(limits.pause(0, Some(seconds(7.0)), noise), seconds(7.0));
            assert_eq!(limits.pause(0, Some(seconds(1e6)), noise), LONGEST_ASKED);
        }
        assert!(differ);
    }
}
