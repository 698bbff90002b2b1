//! The desk: requests go in, replies come out as they arrive, a few threads between.
//!
//! The one idea: whoever asks never waits for the network unless it has nothing else to do. A thread takes a request and
//! keeps it until it is answered or lost; so there are never more requests on their way than threads.

use super::breaker::Pass;
use super::http::Failure;
use super::{Ask, Said, Server};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A reply.
    Said(Said),
    /// None will come, for this.
    Lost(String),
}

/// What was asked at a desk, and what it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Requests sent, tries again included.
    pub requests: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Replies that never came.
    pub lost: u64,
    /// Tokens of replies, where the server counts them.
    pub tokens: u64,
    /// Seconds in which there was nothing to do but to wait.
    pub wait_s: f64,
}

impl Stats {
    /// Adds what was asked elsewhere.
    pub fn add(&mut self, other: &Stats) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.lost += other.lost;
        self.tokens += other.tokens;
        self.wait_s += other.wait_s;
    }
}

/// What came of the request of a ticket; an error when the server was given up.
type Outcome = (usize, Result<Heard, String>);

/// What the threads share.
struct Shared {
    server: Arc<Server>,
    gone: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
    tokens: AtomicU64,
}

/// See the module. Dropped, it wants nothing any more.
pub struct Desk {
    shared: Arc<Shared>,
    asked: Sender<(usize, Ask)>,
    heard: Receiver<Outcome>,
    pending: usize,
    lost: u64,
    wait_s: f64,
}

impl Desk {
    /// A desk before a server that was probed, for at most `most` requests at a time.
    pub fn new(server: &Arc<Server>, most: usize) -> Desk {
        let counts = || AtomicU64::new(0);
        let shared = Arc::new(Shared {
            server: server.clone(),
            gone: AtomicBool::new(false),
            requests: counts(),
            failures: counts(),
            tokens: counts(),
        });
        let (asked, asks) = channel();
        let (hears, heard) = channel();
        let asks = Arc::new(Mutex::new(asks));
        for _ in 0..server.limits.concurrency.min(most).max(1) {
            let (shared, asks, hears) = (shared.clone(), asks.clone(), hears.clone());
            std::thread::spawn(move || shared.serve(&asks, &hears));
        }
        Desk { shared, asked, heard, pending: 0, lost: 0, wait_s: 0.0 }
    }

    /// Hands in a request under a ticket.
    pub fn ask(&mut self, ticket: usize, ask: Ask) {
        // The threads live as long as the desk.
        self.pending += usize::from(self.asked.send((ticket, ask)).is_ok());
    }

    /// Requests that wait for an answer.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// The next outcome, waited for at most that long; none when there is none yet.
    ///
    /// # Errors
    /// [`Error::Seller`] when the server was given up.
    pub fn next(&mut self, at_most: Duration) -> Result<Option<(usize, Heard)>> {
        if self.pending == 0 {
            return Ok(None);
        }
        let start = Instant::now();
        let came = self.heard.recv_timeout(at_most);
        if !at_most.is_zero() {
            self.wait_s += start.elapsed().as_secs_f64();
        }
        let given_up = |what: String| Error::Seller { url: self.shared.server.url.clone(), what };
        match came {
            Ok((ticket, Ok(heard))) => {
                self.pending -= 1;
                self.lost += u64::from(matches!(heard, Heard::Lost(_)));
                Ok(Some((ticket, heard)))
            }
            Ok((_, Err(what))) => Err(given_up(what)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(given_up("the threads that ask it have ended".into())),
        }
    }

    /// What was asked here since the last call.
    pub fn take_stats(&mut self) -> Stats {
        let count = |of: &AtomicU64| of.swap(0, Ordering::Relaxed);
        let Shared { requests, failures, tokens, .. } = &*self.shared;
        let (lost, wait_s) = (std::mem::take(&mut self.lost), std::mem::take(&mut self.wait_s));
        Stats { requests: count(requests), failures: count(failures), lost, tokens: count(tokens), wait_s }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn wanted(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }

    /// A thread's life: until the desk is gone.
    fn serve(&self, asks: &Mutex<Receiver<(usize, Ask)>>, hears: &Sender<Outcome>) {
        loop {
            // One waits at the channel, the others for it.
            let next = asks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((ticket, ask)) = next else { return };
            let Some(outcome) = self.outcome(&ask) else { return };
            if hears.send((ticket, outcome)).is_err() {
                return;
            }
        }
    }

    /// Asks until there is an answer, or none to be had; none when nobody wants it any more.
    fn outcome(&self, ask: &Ask) -> Option<Result<Heard, String>> {
        let Server { breaker, limits, model, .. } = &*self.server;
        let model = model.get().map_or("", String::as_str);
        for tries in 0.. {
            let pass = match breaker.pass(&|| self.wanted()) {
                Pass::Go(pass) => pass,
                Pass::GivenUp(what) => return Some(Err(what)),
                Pass::Unwanted => return None,
            };
            self.requests.fetch_add(1, Ordering::Relaxed);
            let failure = match self.server.answer(model, ask) {
                Ok(answer) => {
                    breaker.answered();
                    self.tokens.fetch_add(answer.tokens, Ordering::Relaxed);
                    return Some(Ok(Heard::Said(answer.said)));
                }
                Err(failure) => failure,
            };
            self.failures.fetch_add(1, Ordering::Relaxed);
            breaker.failed(pass, failure.what());
            match failure {
                Failure::Passing { wait, .. } if tries < limits.retries => {
                    breaker.pause(limits.pause(tries, wait, ask.noise), &|| self.wanted());
                }
                failure => return Some(Ok(Heard::Lost(format!("{} (try {})", failure.what(), tries + 1)))),
            }
        }
        None
    }
}
