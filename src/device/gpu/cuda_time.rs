//! Times of launches on a GPU: an event before and one behind each, read when recording ends.
//!
//! Events are made when recording starts, so a step makes none.

use crate::device::record::{Event, Kind};
use cudarc::driver::{result, sys};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most launches that are timed.
pub(super) const MAX_TIMED: usize = 1 << 16;

/// Events of launches, by the number of the launch in the recording.
#[derive(Default)]
pub(super) struct Timers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    base: Option<sys::CUevent>,
    pairs: Vec<Pair>,
}

struct Pair {
    start: sys::CUevent,
    end: sys::CUevent,
    /// Both were recorded since recording began.
    done: bool,
}

// SAFETY: handles of the driver, which takes them from any thread whose current context is theirs.
unsafe impl Send for State {}

/// Which end of a launch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Before,
    Behind,
}

fn create() -> Result<sys::CUevent, result::DriverError> {
    result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
}

impl Timers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `n` pairs of events, and records the one all times count from. The context is current.
    pub(super) fn start(&self, n: usize, stream: sys::CUstream) -> Result<(), result::DriverError> {
        let mut state = self.state();
        while state.pairs.len() < n {
            state.pairs.push(Pair { start: create()?, end: create()?, done: false });
        }
        state.pairs.iter_mut().for_each(|p| p.done = false);
        let base = match state.base {
            Some(base) => base,
            None => *state.base.insert(create()?),
        };
        // SAFETY: an event that was just made, the device's stream.
        unsafe { result::event::record(base, stream) }
    }

    /// Records one end of launch number `launch`. The context is current.
    pub(super) fn stamp(&self, launch: usize, end: End, stream: sys::CUstream) -> Result<(), result::DriverError> {
        let mut state = self.state();
        let Some(pair) = state.pairs.get_mut(launch) else { return Ok(()) };
        pair.done = end == End::Behind;
        let event = if end == End::Before { pair.start } else { pair.end };
        // SAFETY: an event that lives as long as the device, the device's stream.
        unsafe { result::event::record(event, stream) }
    }

    /// Puts the GPU's times into the launches of a recording, whose clock read `base_ns` at the base event; a launch that
    /// was not made (an empty grid) has no length. All work is done, the context current.
    ///
    /// Lengths and gaps are added up one by one: the driver counts in f32 milliseconds, too coarse from the base after
    /// some seconds.
    pub(super) fn resolve(&self, events: &mut [Event], base_ns: u64) -> Result<(), result::DriverError> {
        let state = self.state();
        let (Some(mut last), mut at_ns) = (state.base, base_ns as f64) else { return Ok(()) };
        // SAFETY: events of this stream, recorded, their work done.
        let ns = |from, to| unsafe { result::event::elapsed(from, to) }.map(|ms| ms as f64 * 1e6);
        for (event, pair) in events.iter_mut().filter(|e| e.kind == Kind::Kernel).zip(&state.pairs) {
            if pair.done {
                at_ns += ns(last, pair.start)?;
                event.start_ns = at_ns as u64;
                at_ns += ns(pair.start, pair.end)?;
                last = pair.end;
            } else {
                event.start_ns = at_ns as u64;
            }
            event.end_ns = at_ns as u64;
        }
        Ok(())
    }
}
