//! Threads for ops: `run(n, f)` calls `f(0)`..`f(n-1)`, each once, on any thread, and returns when all are done.
//!
//! One job at a time. Each thread has a share of its tasks, consecutive ones, and takes another's when its own are done.
//! So tasks of the same rows run on the same core from op to op, and find there what the op before left in its caches
//! (handing it from core to core costs a training step a fifth where the cores share no cache).
//! A job's number and a share's count of tasks left are one atomic word of its ticket: who lowers the count owns a task,
//! and knows by it that the job it read is still the current one. A worker that comes late finds no task and touches
//! nothing, so nobody ever waits for a thread that is asleep. Waiting is a short spin, then yielding, then sleep: ops
//! follow each other within microseconds, but cores may be shared.

use super::rooms::Room;
use std::any::Any;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Turns of a spin before yielding, some 200 us: a step of decode is sixty ops of some 30 us each, and waking a thread
/// costs more.
const SPINS: usize = 6000;
/// Yields before sleeping.
const YIELDS: usize = 64;

/// A fixed set of threads.
pub struct Pool {
    shared: Arc<State>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(State::new(threads.max(1)));
        let spawn = |i| {
            let (state, room) = (shared.clone(), Room::new());
            let work = move || {
                drop(room); // its own from now on
                state.work(i)
            };
            thread::Builder::new().name(format!("cpu-{i}")).spawn(work)
        };
        // A thread the system refuses is a thread less: results do not depend on their number.
        let workers = (1..threads.max(1)).map_while(|i| spawn(i).ok()).collect();
        Pool { shared, workers }
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` for every `i` in `0..n_tasks`, in parallel; returns when all have returned.
    ///
    /// A call from inside a task, or while another thread's call runs, does all its tasks itself.
    ///
    /// # Panics
    /// When a task panics, with that task's payload, after all other tasks have returned.
    pub fn run(&self, n_tasks: usize, task: impl Fn(usize) + Sync) {
        let caller = if n_tasks < 2 || self.workers.is_empty() { None } else { self.shared.caller.try_lock().ok() };
        match caller {
            Some(caller) => self.shared.run(n_tasks, &task, caller),
            None => (0..n_tasks).for_each(task),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker cannot panic: tasks' panics are caught.
            let _ = worker.join();
        }
    }
}

/// A thread's share of the current job; a cache line of its own, so that a thread that waits gets all of it at once.
#[derive(Default)]
#[repr(align(64))]
struct Ticket {
    /// Number of the job (upper 32 bits), tasks of the share that nobody has taken yet (lower 32 bits).
    word: AtomicU64,
    /// The `Job`.
    job: AtomicPtr<()>,
    /// Its `Call`, as a pointer.
    call: AtomicPtr<()>,
}

#[derive(Default)]
struct State {
    /// A thread each; the caller's is the first.
    tickets: Box<[Ticket]>,
    /// Tasks that are not known to have returned: a thread says so once, when it finds no more.
    pending: AtomicUsize,
    /// Held by who runs a job.
    caller: Mutex<()>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleep: Mutex<()>,
    wake: Condvar,
    sleepers: AtomicUsize,
    caller_sleeps: AtomicBool,
    finished: Condvar,
    closed: AtomicBool,
}

struct Job<'a, F> {
    n_tasks: usize,
    task: &'a F,
}

type Call = unsafe fn(*const (), usize, usize, usize);

/// Runs the task before which `left` tasks of share number `share` of `shares` were left.
///
/// # Safety
/// `job` points to a live `Job<F>`.
unsafe fn call<F: Fn(usize) + Sync>(job: *const (), share: usize, shares: usize, left: usize) {
    // SAFETY: the caller's promise.
    let job = unsafe { &*job.cast::<Job<F>>() };
    (job.task)(end_of_share(job.n_tasks, share, shares) - left);
}

/// One past the last task of a share.
fn end_of_share(n_tasks: usize, share: usize, shares: usize) -> usize {
    n_tasks * (share + 1) / shares
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new(threads: usize) -> State {
        State { tickets: (0..threads).map(|_| Ticket::default()).collect(), ..State::default() }
    }

    fn run<F: Fn(usize) + Sync>(&self, n_tasks: usize, task: &F, caller: MutexGuard<()>) {
        assert!(n_tasks < u32::MAX as usize, "{n_tasks} tasks in one job");
        let job = Job { n_tasks, task };
        self.pending.store(n_tasks, Ordering::Relaxed);
        let number = (self.tickets[0].word.load(Ordering::Relaxed) >> 32).wrapping_add(1) << 32;
        let (mut first, shares) = (0, self.tickets.len());
        for (share, ticket) in self.tickets.iter().enumerate() {
            let end = end_of_share(n_tasks, share, shares);
            ticket.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
            ticket.call.store(call::<F> as Call as *mut (), Ordering::Relaxed);
            ticket.word.store(number | (end - first) as u64, Ordering::SeqCst);
            first = end;
        }
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
        self.take_tasks(0);
        self.wait_done();
        let panic = lock(&self.panic).take();
        drop(caller);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs tasks of the current job until none is left: first the thread's own, then the others'.
    fn take_tasks(&self, thread: usize) {
        let shares = self.tickets.len();
        let ran: usize = (0..shares).map(|i| self.take_share((thread + i) % shares)).sum();
        if ran > 0 && self.pending.fetch_sub(ran, Ordering::SeqCst) == ran && self.caller_sleeps.load(Ordering::SeqCst)
        {
            drop(lock(&self.sleep));
            self.finished.notify_one();
        }
    }

    /// Runs tasks of a share until none is left; how many.
    fn take_share(&self, share: usize) -> usize {
        let (ticket, mut ran) = (&self.tickets[share], 0);
        loop {
            let word = ticket.word.load(Ordering::Acquire);
            let left = (word & u32::MAX as u64) as usize;
            if left == 0 {
                return ran;
            }
            let (job, call) = (ticket.job.load(Ordering::Relaxed), ticket.call.load(Ordering::Relaxed));
            // Success says that this task was free until now: its job is not over, so what was read above is its own.
            if ticket.word.compare_exchange(word, word - 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: `call` and `job` belong together (see above); the job lives until `run` returns, and `run`
            // waits until nothing is pending.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe {
                std::mem::transmute::<*mut (), Call>(call)(job, share, self.tickets.len(), left);
            }));
            if let Err(panic) = result {
                lock(&self.panic).get_or_insert(panic);
            }
            ran += 1;
        }
    }

    fn wait_done(&self) {
        let over = || self.pending.load(Ordering::SeqCst) == 0;
        if patient(over) {
            return;
        }
        let mut guard = lock(&self.sleep);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !over() {
            guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// The life of a worker.
    fn work(&self, thread: usize) {
        let (mut seen, ticket) = (0, &self.tickets[thread].word);
        loop {
            let news = || ticket.load(Ordering::SeqCst) >> 32 != seen || self.closed.load(Ordering::SeqCst);
            if !patient(news) {
                let mut guard = lock(&self.sleep);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !news() {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            seen = ticket.load(Ordering::SeqCst) >> 32;
            self.take_tasks(thread);
        }
    }
}

/// Spins, then yields, until `ready`; false when it is time to sleep.
fn patient(ready: impl Fn() -> bool) -> bool {
    for turn in 0..SPINS + YIELDS {
        if ready() {
            return true;
        }
        if turn < SPINS { spin_loop() } else { thread::yield_now() }
    }
    false
}

/// A mutable slice that several tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub struct Shared<T> {
    ptr: *mut T,
    len: usize,
}

// SAFETY: who calls `part`, or writes through `ptr`, promises that what tasks have at one time is disjoint.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `slice`, which the caller must not touch while tasks run.
    pub fn new(slice: &mut [T]) -> Shared<T> {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first element: for kernels that write tiles of a matrix.
    pub fn ptr(&self) -> *mut T {
        self.ptr
    }

    /// The part `start..start + len`, shared on.
    pub fn at(&self, start: usize, len: usize) -> Shared<T> {
        assert!(start <= self.len && len <= self.len - start, "{start} + {len} outside of {}", self.len);
        Shared { ptr: self.ptr.wrapping_add(start), len }
    }

    /// The part `start..start + len`.
    ///
    /// # Safety
    /// No other part that overlaps this one may be alive, and the shared slice must outlive it.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        debug_assert!(start + len <= self.len);
        // SAFETY: inside the slice; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pool: &Pool, n: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
        pool.run(n, |i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for n in (0..200).chain([1000, 5000]) {
                assert_eq!(counts(&pool, n), vec![1; n]);
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_and_sleeping_callers_too() {
        let pool = Pool::new(3);
        for pause_ms in [0, 1, 5, 20] {
            thread::sleep(std::time::Duration::from_millis(pause_ms));
            pool.run(3, |_| thread::sleep(std::time::Duration::from_millis(3)));
            assert_eq!(counts(&pool, 10), vec![1; 10]);
        }
    }

    #[test]
    fn calls_from_tasks_and_from_two_threads_are_complete() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, |_| {
                            pool.run(7, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 5 * 7);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(50, |i| assert!(i != 31, "task 31"))));
            assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"task 31"));
            assert_eq!(counts(&pool, 64), vec![1; 64]);
        }
    }
}
