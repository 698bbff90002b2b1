//! Another checkpoint under the same server.
//!
//! The one idea: an answer is one model's. So what runs finishes with the weights it began with while new answers wait for a seat;
//! then the weights change hands between two steps, and what waits goes on. Where the new ones cannot be read, or are of another
//! shape or text, nothing changes and whoever asked is told why. Both copies are in memory while one is read; where two have no room,
//! that is why.

use super::metrics::Metrics;
use super::refusal::Refusal;
use crate::error::{Error, Result};
use crate::model::Weights;
use axum::http::StatusCode;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// Reads the newest weights of the model that is served.
pub type Loader<'a> = Box<dyn FnMut() -> Result<Weights> + 'a>;

/// Who waits to hear of a reload.
type Waiters = Vec<Sender<std::result::Result<u64, Refusal>>>;

/// Reloads that are asked for.
pub struct Reloads {
    /// Set by a signal.
    signalled: &'static AtomicBool,
    waiters: Mutex<Waiters>,
    done: AtomicU64,
}

impl Reloads {
    /// None yet; `signalled` asks for one whenever it is set.
    pub fn new(signalled: &'static AtomicBool) -> Reloads {
        Reloads { signalled, waiters: Mutex::default(), done: AtomicU64::new(0) }
    }

    /// Asks for one; what came of it, the number of reloads so far, is sent.
    pub(super) fn ask(&self) -> Receiver<std::result::Result<u64, Refusal>> {
        let (sender, heard) = channel();
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        heard
    }

    /// How many were done.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// True while one is asked for.
    pub(super) fn wanted(&self) -> bool {
        self.signalled.load(Ordering::Relaxed)
            || !self.waiters.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Puts newer weights in the place of `weights`, and tells all who asked.
    pub(super) fn exchange(&self, weights: &mut Weights, load: &mut Loader, metrics: &Metrics) {
        // Asked for from here on is another one.
        self.signalled.store(false, Ordering::Relaxed);
        let waiters = std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
        let read = load().and_then(|new| successor(weights, new));
        metrics.reloaded(read.is_ok());
        let told = match read {
            Ok(new) => {
                *weights = new;
                let n = self.done.fetch_add(1, Ordering::Relaxed) + 1;
                note("reloaded the model");
                Ok(n)
            }
            Err(e) => {
                let what = format!("the model stays as it was: {}", e.to_string().replace('\n', "; "));
                note(&what);
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, what).with_code("reload_failed"))
            }
        };
        // Who asked may be gone.
        waiters.into_iter().for_each(|waiter| drop(waiter.send(told.clone())));
    }
}

/// A line for who runs the server; nobody need listen.
fn note(what: &str) {
    let _ = std::io::stderr().lock().write_all(format!("haggle: {what}\n").as_bytes());
}

/// Weights that can stand in the place of others: of one shape, and of a version that no page was filled under.
fn successor(old: &Weights, mut new: Weights) -> Result<Weights> {
    if new.config != old.config {
        return Err(Error::data(
            "config.json",
            "is of another shape than the model that is served: start the server anew",
        ));
    }
    new.renumber(old.version.wrapping_add(1));
    Ok(new)
}
