//! A communicator: the ranks of a run as NCCL knows them, and one group of sends and receives at a time.
//!
//! The one idea: no call blocks. Whoever waits asks NCCL again and again how it goes, so that another thread can end it: NCCL
//! has no time limit of its own, and a rank that is missed would be waited for until the end of days.

use super::library::{BYTES, Code, Config, F32, Handled, IN_PROGRESS, Library, SUCCESS, SUM, UniqueId};
use crate::error::{Error, Result};
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two questions, once something has taken a while.
const EACH: Duration = Duration::from_micros(50);
/// So long nobody sleeps between two questions.
const AT_ONCE: Duration = Duration::from_micros(200);
/// How long the end of a communicator may take.
const END: Duration = Duration::from_secs(30);

/// One move of a group, of bytes of the device.
#[derive(Debug, Clone, Copy)]
pub(super) enum Move {
    Send {
        from: *const u8,
        bytes: usize,
        to: usize,
    },
    Receive {
        into: *mut u8,
        bytes: usize,
        from: usize,
    },
    /// Everybody's bytes, end to end in the order of ranks, from which it is no matter whether its own lie among them.
    GatherAll {
        from: *const u8,
        into: *mut u8,
        bytes: usize,
    },
    /// The sum of everybody's f32 numbers, of which each rank gets its `count`; `into` may lie in `from`.
    SumScattered {
        from: *const u8,
        into: *mut u8,
        count: usize,
    },
    /// The sum of everybody's `count` f32 numbers, to all; `into` may be `from`.
    SumAll {
        from: *const u8,
        into: *mut u8,
        count: usize,
    },
}

/// What there is of it.
enum State {
    Live(Handled),
    /// Nothing, and why.
    Over(String),
}

// SAFETY: a handle may be used from any thread, by one at a time.
unsafe impl Send for State {}

/// The ranks of a run.
pub(super) struct Comm {
    pub(super) library: Arc<Library>,
    pub(super) rank: usize,
    pub(super) world: usize,
    state: Mutex<State>,
}

/// Waits a little between two questions.
pub(super) struct Asking(Instant);

impl Asking {
    pub(super) fn begin() -> Asking {
        Asking(Instant::now())
    }

    pub(super) fn pause(&self) {
        if self.0.elapsed() < AT_ONCE {
            std::thread::yield_now();
        } else {
            std::thread::sleep(EACH);
        }
    }
}

impl Comm {
    /// Joins the ranks that have the same id; waits for all of them, as long as `limit`. `missing` says who has not come.
    pub(super) fn begin(
        library: Arc<Library>,
        id: UniqueId,
        rank: usize,
        world: usize,
        limit: Duration,
        missing: &dyn Fn() -> String,
    ) -> Result<Comm> {
        let (mut handle, mut config) = (std::ptr::null_mut(), Config::not_blocking());
        // SAFETY: both are there until the call returns; the config says how long it is.
        let code = unsafe { (library.init)(&mut handle, world as c_int, id, rank as c_int, &mut config) };
        library.said("ncclCommInitRankConfig", code)?;
        let comm = Comm { library, rank, world, state: Mutex::new(State::Live(handle)) };
        let began = Instant::now();
        while !comm.is_idle("ncclCommInitRankConfig")? {
            if began.elapsed() > limit {
                let what =
                    format!("rank {rank} of {world} waits {} s for all to begin: {}", limit.as_secs(), missing());
                comm.abort(&what);
                return Err(Error::Ranks { what });
            }
            std::thread::sleep(EACH);
        }
        Ok(comm)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle, where the communicator is not over.
    fn live(state: &State) -> Result<Handled> {
        match state {
            State::Live(handle) => Ok(*handle),
            State::Over(why) => Err(Error::Ranks { what: why.clone() }),
        }
    }

    /// True when nothing that was asked for is still being begun; an error ends the communicator.
    pub(super) fn is_idle(&self, what: &str) -> Result<bool> {
        let mut state = self.state();
        let handle = Comm::live(&state)?;
        let mut told = SUCCESS;
        // SAFETY: the handle is live, and this thread has it for itself.
        let code = unsafe { (self.library.async_error)(handle, &mut told) };
        match (code, told) {
            (SUCCESS, SUCCESS) => Ok(true),
            (SUCCESS, IN_PROGRESS) => Ok(false),
            (SUCCESS, code) | (code, _) => Err(self.fails(&mut state, what, code)),
        }
    }

    /// Begins a group of moves on a stream; `what` they are is told where they fail.
    pub(super) fn group(&self, what: &str, moves: &[Move], stream: *mut c_void) -> Result<()> {
        let mut state = self.state();
        let handle = Comm::live(&state)?;
        // SAFETY: the handle is live; what the moves name is memory of the device that lives until the caller has seen the
        // stream done.
        let code = unsafe { self.issue(handle, moves, stream) };
        match code {
            Ok(()) => Ok(()),
            Err((function, code)) => Err(self.fails(&mut state, &format!("{what}: {function}"), code)),
        }
    }

    /// # Safety
    /// The moves' memory must live until they are done.
    unsafe fn issue(&self, comm: Handled, moves: &[Move], stream: *mut c_void) -> Result<(), (&'static str, Code)> {
        let nccl = &self.library;
        let well = |function, code| if matches!(code, SUCCESS | IN_PROGRESS) { Ok(()) } else { Err((function, code)) };
        // SAFETY: the caller's promise.
        unsafe {
            well("ncclGroupStart", (nccl.group_start)())?;
            for one in moves {
                match *one {
                    Move::Send { from, bytes, to } => {
                        let code = (nccl.send)(from.cast(), bytes, BYTES, to as c_int, comm, stream);
                        well("ncclSend", code)?;
                    }
                    Move::Receive { into, bytes, from } => {
                        let code = (nccl.receive)(into.cast(), bytes, BYTES, from as c_int, comm, stream);
                        well("ncclRecv", code)?;
                    }
                    Move::GatherAll { from, into, bytes } => {
                        let code = (nccl.all_gather)(from.cast(), into.cast(), bytes, BYTES, comm, stream);
                        well("ncclAllGather", code)?;
                    }
                    Move::SumScattered { from, into, count } => {
                        let code = (nccl.reduce_scatter)(from.cast(), into.cast(), count, F32, SUM, comm, stream);
                        well("ncclReduceScatter", code)?;
                    }
                    Move::SumAll { from, into, count } => {
                        let code = (nccl.all_reduce)(from.cast(), into.cast(), count, F32, SUM, comm, stream);
                        well("ncclAllReduce", code)?;
                    }
                }
            }
            well("ncclGroupEnd", (nccl.group_end)())
        }
    }

    /// Ends what failed, so that no rank waits for this one.
    fn fails(&self, state: &mut State, what: &str, code: Code) -> Error {
        let what = self.library.trouble(what, code);
        self.end(state, &what);
        Error::Ranks { what }
    }

    /// Ends it at once at this rank, and with that at all: who waits in a collective fails with `why`.
    pub(super) fn abort(&self, why: &str) {
        self.end(&mut self.state(), why);
    }

    fn end(&self, state: &mut State, why: &str) {
        if let State::Live(handle) = std::mem::replace(state, State::Over(why.into())) {
            // SAFETY: the handle was live, and is gone with this.
            unsafe { (self.library.abort)(handle) };
        }
    }

    /// Ends it in peace: every rank comes to this behind its last collective.
    pub(super) fn finish(&self) {
        let mut state = self.state();
        let Ok(handle) = Comm::live(&state) else { return };
        let began = Instant::now();
        // SAFETY: the handle is live, and this thread has it for itself until it is gone.
        unsafe {
            let mut told = (self.library.finalize)(handle);
            while told == IN_PROGRESS && began.elapsed() < END {
                std::thread::sleep(EACH);
                (self.library.async_error)(handle, &mut told);
            }
            if told == SUCCESS {
                (self.library.destroy)(handle);
                *state = State::Over("the ranks have parted".into());
            } else {
                self.end(&mut state, "the ranks have parted");
            }
        }
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        self.abort("the communicator was dropped");
    }
}
