//! What time it is, by a clock that nobody sets.
//!
//! The one idea: the system's clock is read once, when the server starts; from there time passes as the monotonic clock says. So
//! a clock that is set while it serves, by hand or by a time server, ends no negotiation early or late and forgets no key that
//! was answered, and no round was before the one it answers. The next start reads the system's clock anew.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Time that only passes.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    began_ms: u64,
}

impl Default for Clock {
    fn default() -> Clock {
        let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Clock { began: Instant::now(), began_ms }
    }
}

impl Clock {
    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.began_ms + self.began.elapsed().as_millis() as u64
    }
}
