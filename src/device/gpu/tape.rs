//! The tape of a device: launches that are kept while a capture is under way. What is made of them: `graph.rs`.

use super::launch::{Arg, Edge, Launch, RawArg};
use crate::device::buffer::Life;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// One launch that was kept.
pub(super) struct Step {
    pub kernel: &'static str,
    pub op: &'static str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub edge: Edge,
    pub args: Vec<RawArg>,
    pub shape: String,
}

/// The captures under way on one device.
#[derive(Default)]
pub(super) struct Tape {
    /// How many, so that a launch without any does not take the lock.
    n: AtomicUsize,
    captures: Mutex<Vec<Capture>>,
}

/// What one thread launches.
pub(super) struct Capture {
    thread: ThreadId,
    pub steps: Vec<Step>,
    pub lives: Vec<Life>,
}

impl Tape {
    fn captures(&self) -> MutexGuard<'_, Vec<Capture>> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&self) {
        self.captures().push(Capture { thread: thread::current().id(), steps: vec![], lives: vec![] });
        self.n.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends this thread's last capture.
    pub(super) fn stop(&self) -> Option<Capture> {
        self.n.fetch_sub(1, Ordering::Relaxed);
        let (mut captures, own) = (self.captures(), thread::current().id());
        captures.iter().rposition(|c| c.thread == own).map(|at| captures.remove(at))
    }

    /// Keeps a launch, if this thread captures. One without blocks is none.
    #[inline]
    pub(super) fn keep(&self, launch: &Launch, edge: Edge, args: &mut [Arg]) {
        if !launch.grid.contains(&0) {
            self.own(|capture| capture.keep(launch, edge, args));
        }
    }

    /// How a launch that may begin early begins: early inside of a capture, whose first launch waits for all before it.
    pub(super) fn edge(&self) -> Edge {
        match self.steps(<[Step]>::is_empty) {
            Some(false) => Edge::Programmatic,
            _ => Edge::Full,
        }
    }

    /// Looks at what this thread has captured so far, if it captures.
    pub(super) fn steps<T>(&self, see: impl FnOnce(&[Step]) -> T) -> Option<T> {
        self.own(|capture| see(&capture.steps))
    }

    #[inline]
    fn own<T>(&self, see: impl FnOnce(&mut Capture) -> T) -> Option<T> {
        // A thread's own capture began on it: what it sees of the counter counts that one.
        if self.n.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let own = thread::current().id();
        self.captures().iter_mut().rfind(|c| c.thread == own).map(see)
    }
}

impl Capture {
    fn keep(&mut self, launch: &Launch, edge: Edge, args: &mut [Arg]) {
        let &Launch { kernel, op, grid, block, shared_bytes, shape } = launch;
        let (args, lives): (Vec<_>, Vec<_>) = args.iter_mut().map(RawArg::of).unzip();
        for life in lives.into_iter().flatten() {
            if !self.lives.iter().any(|l| l.is(&life)) {
                self.lives.push(life);
            }
        }
        self.steps.push(Step { kernel, op, grid, block, shared_bytes, edge, args, shape: shape.to_string() });
    }

    /// `gemm_nt x15, rmsnorm_fwd x9`, in the order of their first launches.
    pub fn ops(&self) -> String {
        let mut counts: Vec<(&str, usize)> = vec![];
        for step in &self.steps {
            match counts.iter_mut().find(|c| c.0 == step.op) {
                Some(count) => count.1 += 1,
                None => counts.push((step.op, 1)),
            }
        }
        let mut text = String::new();
        for (i, (op, n)) in counts.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{op} x{n}");
        }
        text
    }
}
