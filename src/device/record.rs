//! What ran, when, and what it cost: one recorder a device, off until a profiler turns it on.
//!
//! The one idea: a phase (rollout, forward, ...), an op, a launch each open a [`Span`] and drop it; nested spans nest. They
//! lie in memory taken beforehand, so a step allocates nothing while it is recorded, and what did not fit is counted. Off,
//! a span is one relaxed load and its cost is not computed. Spans of one device are opened by one thread at a time, as its
//! ops are.

use super::traffic::Counters;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What an op must do at least: its products, and each input read once, each output written once.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes.
    pub bytes: f64,
    /// Letters of the shape, `N C`.
    pub letters: &'static str,
    /// Their sizes; those without a letter are 0.
    pub dims: [usize; 3],
}

impl Cost {
    /// The shape as text: `N 64 C 128`.
    pub fn shape(&self) -> String {
        let part = |(letter, dim): (&str, &usize)| format!("{letter} {dim}");
        self.letters.split(' ').filter(|l| !l.is_empty()).zip(&self.dims).map(part).collect::<Vec<_>>().join(" ")
    }
}

/// What a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A stretch of a step: rollout, forward, backward, optimizer.
    Phase,
    /// An op.
    Op,
    /// A launch of a kernel, by the kernel's name.
    Kernel,
}

/// One span of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// Its stem or name.
    pub name: &'static str,
    /// Spans it lies in. Events stand in the order they began: an event's children are those after it, as long as they are
    /// deeper.
    pub depth: u32,
    /// When it began, in nanoseconds since recording did.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What an op costs; of other kinds nothing.
    pub cost: Cost,
}

impl Event {
    /// Its length.
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recording {
    /// In the order they began.
    pub events: Vec<Event>,
    /// Spans that did not fit.
    pub dropped: u64,
    /// Launches carry the GPU's own times; else every time is this machine's wall clock.
    pub gpu_times: bool,
}

const RECORD: u8 = 1;
const NVTX: u8 = 2;

/// Records the spans of one device.
pub struct Recorder {
    mode: AtomicU8,
    state: Mutex<State>,
    /// Copies and waits, always counted.
    pub(super) traffic: Counters,
}

struct State {
    origin: Instant,
    events: Vec<Event>,
    depth: u32,
    dropped: u64,
    kernels: usize,
    max_kernels: usize,
    batch: Keys,
}

/// Keys that the rows of a batch see: what attention costs, for devices whose offsets and positions the host cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keys {
    /// Pairs of a query and a key it sees.
    pub pairs: usize,
    /// Keys that must be read: once for each stretch of rows of one sequence.
    pub read: usize,
}

impl Keys {
    /// Of packed sequences, causal inside each; cu_seqlens `[B + 1]`. Where `prefixes [B, 2]` is not empty, its second column
    /// says how many rows of another sequence each begins with: own rows see those too.
    pub fn packed(cu_seqlens: &[i32], prefixes: &[i32]) -> Keys {
        let lens = || cu_seqlens.windows(2).map(|w| w[1].saturating_sub(w[0]).max(0) as usize);
        let prefix = |s: usize| prefixes.get(2 * s + 1).map_or(0, |len| (*len).max(0) as usize);
        let pairs = |(s, t): (usize, usize)| t * prefix(s) + t * (t + 1) / 2;
        Keys { pairs: lens().enumerate().map(pairs).sum(), read: lens().sum() }
    }

    /// Of rows over pages: row r is position `pos[r]` of sequence `seq[r]`, and sees the keys up to itself.
    pub fn paged(seq: &[i32], pos: &[i32]) -> Keys {
        let seen = |row: usize| pos[row].max(0) as usize + 1;
        // Of rows in a row that are one sequence's, the last one reads what all of them read.
        let last = |row: &usize| seq.get(row + 1) != Some(&seq[*row]);
        let rows = 0..pos.len().min(seq.len());
        Keys { pairs: rows.clone().map(seen).sum(), read: rows.filter(last).map(seen).sum() }
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        let state = State {
            origin: Instant::now(),
            events: Vec::new(),
            depth: 0,
            dropped: 0,
            kernels: 0,
            max_kernels: 0,
            batch: Keys::default(),
        };
        Recorder { mode: AtomicU8::new(0), state: Mutex::new(state), traffic: Counters::default() }
    }
}

impl Recorder {
    /// True while spans are recorded or marked.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.mode.load(Ordering::Relaxed) != 0
    }

    /// Starts anew, with room for `capacity` spans, at most `max_kernels` of them launches.
    pub(super) fn start(&self, capacity: usize, max_kernels: usize) {
        let mut state = self.state();
        state.events = Vec::with_capacity(capacity);
        (state.depth, state.dropped, state.kernels, state.max_kernels) = (0, 0, 0, max_kernels);
        state.origin = Instant::now();
        self.mode.fetch_or(RECORD, Ordering::Relaxed);
    }

    /// Stops, and hands out what was recorded; a span still open ends here.
    pub(super) fn stop(&self) -> Recording {
        self.mode.fetch_and(!RECORD, Ordering::Relaxed);
        let mut state = self.state();
        let now = state.now_ns();
        let mut events = std::mem::take(&mut state.events);
        events.iter_mut().filter(|e| e.end_ns == OPEN).for_each(|e| e.end_ns = now);
        Recording { events, dropped: state.dropped, gpu_times: false }
    }

    /// From now on every span is an NVTX range too; the library must be there.
    pub(super) fn mark_nvtx(&self) {
        self.mode.fetch_or(NVTX, Ordering::Relaxed);
    }

    /// Nanoseconds since recording began.
    pub(super) fn now_ns(&self) -> u64 {
        self.state().now_ns()
    }

    /// Notes what the rows of the batch at hand see.
    pub(super) fn note(&self, keys: impl FnOnce() -> Keys) {
        if self.is_on() {
            self.state().batch = keys();
        }
    }

    /// What was noted last.
    pub(super) fn noted(&self) -> Keys {
        self.state().batch
    }

    /// Opens a span.
    #[inline]
    pub(super) fn open(&self, kind: Kind, name: &'static str, cost: impl FnOnce() -> Cost) -> Span<'_> {
        if self.is_on() { self.begin(kind, name, cost()) } else { Span { recorder: None, at: None, launch: None } }
    }

    fn begin(&self, kind: Kind, name: &'static str, cost: Cost) -> Span<'_> {
        let mode = self.mode.load(Ordering::Relaxed);
        if mode & NVTX != 0 {
            cudarc::nvtx::result::range_push(name);
        }
        if mode & RECORD == 0 {
            return Span { recorder: Some(self), at: None, launch: None };
        }
        let mut state = self.state();
        let is_kernel = kind == Kind::Kernel;
        let fits = state.events.len() < state.events.capacity() && !(is_kernel && state.kernels == state.max_kernels);
        let (at, launch) = (state.events.len(), state.kernels);
        let depth = state.depth;
        state.depth += 1;
        if !fits {
            state.dropped += 1;
            return Span { recorder: Some(self), at: None, launch: None };
        }
        state.kernels += is_kernel as usize;
        // Last, so that the bookkeeping is not in the span.
        let start_ns = state.now_ns();
        state.events.push(Event { kind, name, depth, start_ns, end_ns: OPEN, cost });
        Span { recorder: Some(self), at: Some(at), launch: is_kernel.then_some(launch) }
    }

    fn end(&self, at: Option<usize>) {
        let mode = self.mode.load(Ordering::Relaxed);
        if mode & RECORD != 0 {
            let mut state = self.state();
            let now = state.now_ns();
            state.depth = state.depth.saturating_sub(1);
            if let Some(event) = at.and_then(|at| state.events.get_mut(at)) {
                event.end_ns = now;
            }
        }
        if mode & NVTX != 0 {
            cudarc::nvtx::result::range_pop();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a span that has none yet.
const OPEN: u64 = u64::MAX;

impl State {
    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

/// A stretch of time that ends where this is dropped.
#[must_use = "a span ends where it is dropped"]
pub struct Span<'a> {
    recorder: Option<&'a Recorder>,
    at: Option<usize>,
    launch: Option<usize>,
}

impl Span<'_> {
    /// Which of the recorded launches it is, from 0.
    pub(super) fn launch(&self) -> Option<usize> {
        self.launch
    }
}

impl Drop for Span<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder {
            recorder.end(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::alloc::assert_no_alloc;

    fn spans(recorder: &Recorder) {
        let cost = || Cost { flops: 8.0, bytes: 4.0, letters: "N C", dims: [2, 4, 0] };
        let _step = recorder.open(Kind::Phase, "step", Cost::default);
        for _ in 0..2 {
            let _op = recorder.open(Kind::Op, "gemm_nt", cost);
            let _kernel = recorder.open(Kind::Kernel, "gemm_nt_f32", Cost::default);
        }
    }

    #[test]
    fn spans_nest_and_recording_takes_no_memory() {
        let recorder = Recorder::default();
        spans(&recorder);
        recorder.start(100, 100);
        assert_no_alloc("recording", || spans(&recorder));
        let recording = recorder.stop();
        let found: Vec<_> = recording.events.iter().map(|e| (e.name, e.depth)).collect();
        assert_eq!(found, [("step", 0), ("gemm_nt", 1), ("gemm_nt_f32", 2), ("gemm_nt", 1), ("gemm_nt_f32", 2)]);
        let inside = |inner: &Event, outer: &Event| outer.start_ns <= inner.start_ns && inner.end_ns <= outer.end_ns;
        for (i, e) in recording.events.iter().enumerate() {
            let parent = recording.events[..i].iter().rev().find(|p| p.depth < e.depth);
            assert!(parent.is_none_or(|p| inside(e, p)), "{e:?} in {parent:?}");
        }
        assert_eq!((recording.dropped, recording.events[1].cost.shape().as_str()), (0, "N 2 C 4"));
        assert!(recorder.stop().events.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let recorder = Recorder::default();
        recorder.start(4, 1);
        spans(&recorder);
        let recording = recorder.stop();
        assert_eq!((recording.events.len(), recording.dropped), (4, 1), "one launch too many");
        recorder.start(2, 9);
        spans(&recorder);
        let recording = recorder.stop();
        assert_eq!((recording.events.len(), recording.dropped), (2, 3));
    }

    #[test]
    fn keys_of_packed_and_paged_rows_agree() {
        let (seq, pos) = ([0, 0, 0, 2, 1, 1], [0, 1, 2, 0, 0, 1]);
        assert_eq!(Keys::packed(&[0, 3, 4, 6], &[]), Keys { pairs: 6 + 1 + 3, read: 6 });
        assert_eq!(Keys::packed(&[0, 3, 5], &[0, 0, 0, 2]), Keys { pairs: 6 + 3 + 4, read: 5 });
        assert_eq!(Keys::paged(&seq, &pos), Keys { pairs: 6 + 1 + 3, read: 6 });
        assert_eq!(Keys::paged(&[0, 1], &[9, 4]), Keys { pairs: 15, read: 15 });
        assert_eq!(Keys::packed(&[], &[]), Keys::default());
    }
}
