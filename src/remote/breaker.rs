//! The breaker: a server that fails one request after the other is left alone for a while, and given up in the end.
//!
//! The one idea: behind a cooling one request goes first. When it is answered everything flows again; when it fails all cool
//! once more. Failures of requests that were on their way when it opened say nothing new.

use super::Limits;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often whoever waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Breaker {
    state: Mutex<State>,
    changed: Condvar,
    failures: usize,
    cooling: Duration,
    coolings: usize,
}

#[derive(Default)]
struct State {
    /// Failed requests in a row.
    failures: usize,
    /// Coolings in a row.
    coolings: usize,
    /// Open, until then.
    until: Option<Instant>,
    /// The one that goes first is on its way.
    first: bool,
    /// Times it has opened: failures of an earlier count are old news.
    opened: u64,
    given_up: Option<String>,
}

/// What a request that wants to go is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pass {
    /// Go, and say how it went with this number.
    Go(u64),
    /// The server was given up, for this.
    GivenUp(String),
    /// Nobody wants the answer any more.
    Unwanted,
}

impl Breaker {
    pub(super) fn new(limits: &Limits) -> Breaker {
        let Limits { failures, cooling, coolings, .. } = *limits;
        Breaker { state: Mutex::default(), changed: Condvar::new(), failures, cooling, coolings }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request may go.
    pub(super) fn pass(&self, wanted: &dyn Fn() -> bool) -> Pass {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if let Some(why) = &state.given_up {
                return Pass::GivenUp(why.clone());
            }
            if !wanted() {
                return Pass::Unwanted;
            }
            let rest = match state.until {
                None => return Pass::Go(state.opened),
                Some(until) if now < until => until - now,
                Some(_) if !state.first => {
                    state.first = true;
                    return Pass::Go(state.opened);
                }
                Some(_) => LOOK,
            };
            state = self.changed.wait_timeout(state, rest.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits that long, or until nobody wants the answer any more.
    pub(super) fn pause(&self, long: Duration, wanted: &dyn Fn() -> bool) {
        let end = Instant::now() + long;
        while wanted() && Instant::now() < end {
            std::thread::sleep((end - Instant::now()).min(LOOK));
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        let mut state = self.lock();
        if state.given_up.is_none() {
            *state = State { opened: state.opened, ..State::default() };
        }
        self.changed.notify_all();
    }

    /// The request of a pass failed.
    pub(super) fn failed(&self, pass: u64, what: &str) {
        let mut state = self.lock();
        if pass != state.opened {
            return;
        }
        state.failures += 1;
        if state.until.is_none() && state.failures < self.failures {
            return;
        }
        (state.opened, state.coolings, state.failures, state.first) = (state.opened + 1, state.coolings + 1, 0, false);
        state.until = Some(Instant::now() + self.cooling);
        if state.coolings > self.coolings {
            state.given_up = Some(what.into());
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(failures: usize, coolings: usize) -> Breaker {
        let ms = Duration::from_millis;
        let (concurrency, connect, read, backoff) = (4, ms(1), ms(1), ms(1));
        Breaker::new(&Limits { concurrency, connect, read, retries: 0, backoff, failures, cooling: ms(30), coolings })
    }

    #[test]
    fn it_opens_at_the_last_failure_in_a_row_and_lets_one_go_first() {
        let (breaker, yes) = (breaker(3, 9), || true);
        for _ in 0..2 {
            breaker.failed(0, "no");
        }
        breaker.answered();
        for _ in 0..2 {
            breaker.failed(0, "no");
        }
        assert_eq!(breaker.pass(&yes), Pass::Go(0), "an answer between them begins the count again");
        breaker.failed(0, "no");
        let start = Instant::now();
        assert_eq!(breaker.pass(&yes), Pass::Go(1));
        assert!(start.elapsed() >= Duration::from_millis(25), "it cools first");
        breaker.failed(0, "old news");
        let late = std::cell::Cell::new(0);
        let patience = || {
            late.set(late.get() + 1);
            late.get() < 3
        };
        assert_eq!(breaker.pass(&patience), Pass::Unwanted, "the others wait for the first");
        breaker.answered();
        assert_eq!([breaker.pass(&yes), breaker.pass(&yes)], [Pass::Go(1), Pass::Go(1)]);
    }

    #[test]
    fn it_gives_up_behind_its_last_cooling_and_stays_so() {
        let (breaker, yes) = (breaker(1, 2), || true);
        for opened in 0..3 {
            assert_eq!(breaker.pass(&yes), Pass::Go(opened));
            breaker.failed(opened, &format!("no {opened}"));
        }
        assert_eq!(breaker.pass(&yes), Pass::GivenUp("no 2".into()));
        breaker.answered();
        assert_eq!(breaker.pass(&yes), Pass::GivenUp("no 2".into()));
    }
}
