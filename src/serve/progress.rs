//! Whether the engine gets on: what `/health` and `/ready` tell.
//!
//! The one idea: a server is well while work moves. One that answers pings and has not stepped while requests wait is not.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Milliseconds without a step, while work waits, after which the server is not well.
const STALL_MS: u64 = 30_000;
/// Steps that fail one after the other, after which it is not.
const MOST_FAILED: usize = 3;

/// What the engine's thread writes and connections read.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    steps: AtomicU64,
    moved_ms: AtomicU64,
    failed: AtomicUsize,
    /// Requests that wait for a seat.
    pub(super) waiting: AtomicUsize,
    /// Answers that are computed.
    pub(super) running: AtomicUsize,
    draining: AtomicBool,
}

/// Why a server takes no requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It was asked to stop, and finishes what runs.
    Draining,
    /// Its engine has not stepped for a while, and work waits.
    Stalled,
    /// Its engine's last steps failed.
    Failing,
}

impl Trouble {
    /// As it stands in answers.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Draining => "draining",
            Trouble::Stalled => "stalled",
            Trouble::Failing => "failing",
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            began: Instant::now(),
            steps: AtomicU64::new(0),
            moved_ms: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }
    }
}

impl Progress {
    /// Notes that the thread is alive: after a step, and while there is nothing to do.
    pub(super) fn moved(&self, stepped: bool) {
        self.steps.fetch_add(u64::from(stepped), Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
        self.moved_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Notes a step that failed.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes no new requests from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// True once [`Progress::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Forwards so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// True while anything waits or runs.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) + self.running.load(Ordering::Relaxed) > 0
    }

    /// What keeps it from serving, if anything does.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble_at(self.now_ms())
    }

    fn trouble_at(&self, now_ms: u64) -> Option<Trouble> {
        let still = now_ms.saturating_sub(self.moved_ms.load(Ordering::Relaxed)) > STALL_MS;
        match () {
            () if self.is_draining() => Some(Trouble::Draining),
            () if self.failed.load(Ordering::Relaxed) >= MOST_FAILED => Some(Trouble::Failing),
            () if still && self.is_busy() => Some(Trouble::Stalled),
            () => None,
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_does_not_step_while_work_waits_is_in_trouble() {
        let progress = Progress::default();
        progress.moved(true);
        assert_eq!(progress.trouble_at(STALL_MS * 2), None, "nothing waits");
        progress.waiting.store(1, Ordering::Relaxed);
        assert_eq!(progress.trouble_at(STALL_MS / 2), None);
        assert_eq!(progress.trouble_at(STALL_MS * 2), Some(Trouble::Stalled));
        (0..MOST_FAILED).for_each(|_| progress.failed());
        assert_eq!(progress.trouble_at(0), Some(Trouble::Failing));
        progress.moved(true);
        assert_eq!((progress.trouble_at(0), progress.steps()), (None, 2));
        progress.drain();
        assert_eq!(progress.trouble_at(0), Some(Trouble::Draining));
    }
}
