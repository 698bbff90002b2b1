//! The emulator as a device: kernels found by name in the table that `build/emu.rs` made, blocks run on the pool.
//!
//! Buffers are host memory with guard lines. What a kernel does wrong ends its launch and comes back as
//! [`Error::Kernel`]. `HAGGLE_EMU_SEED` shuffles the order in which threads run (0: natural); results must not move.
//! `HAGGLE_EMU_CHECK=1`, at build time and at run time, runs kernels whose every access is checked: many times slower,
//! see kernels/emu/check.h for what it finds. `HAGGLE_PDL=1` holds launches that could begin early to the rule of that
//! (kernels/emu/dependent.h). `HAGGLE_EMU_TENSOR_CORES` says whose sums `mma` gives, `hopper` (the default)
//! or `ampere`: see [`TensorCores`]. What launches do to memory is counted on demand: [`super::counts`]. Its memory and its faults are in [`super::card`].

use super::card::Card;
use super::counts::{self, Counted, Counts};
use super::launch::{Arg, ArgBlock, Launch, Range};
use super::pending::{Pending, taken_for_constant};
use super::tape::Tape;
use crate::device::cpu::pool::Pool;
use crate::device::record::Recorder;
use crate::device::{Buffer, DType};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// The most threads a block may have.
const MAX_THREADS: u32 = 1024;
/// The most dynamic shared memory a block may have (sm_90).
const MAX_SHARED_BYTES: u32 = 227 * 1024;

/// Multiprocessors of the card it stands for: an H100 SXM.
pub(super) const MULTIPROCESSORS: usize = 132;

/// A kernel of the table; see `Entry` in kernels/emu/runtime.h.
#[repr(C)]
struct Entry {
    name: *const c_char,
    call: unsafe extern "C" fn(*mut *mut c_void),
    parameters: *const c_char,
    build: u32,
    restricted: u32,
    cluster: u32,
}

#[repr(C)]
struct Report {
    set: u32,
    block: [u32; 3],
    thread: [u32; 3],
    what: [u8; 320],
}

/// See `Launch` in kernels/emu/runtime.h.
#[repr(C)]
struct RawLaunch {
    entry: *const Entry,
    args: *mut *mut c_void,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    tensor_cores: u32,
    n_ranges: u32,
    ranges: *const Range,
    dependent: u32,
    n_pending: u32,
    pending: *const Pending,
    waits: u64,
    counts: *mut Counts,
    marks: *mut u8,
    seed: u64,
    next_turn: u64,
    turns: u64,
    first_cluster: u64,
    failed_block: u64,
    lock: u32,
    report: Report,
}

#[cfg(haggle_emu)]
unsafe extern "C" {
    /// Ends with null.
    static haggle_emu_table: [*const Entry; 1];
    fn haggle_emu_worker_new() -> *mut c_void;
    fn haggle_emu_worker_free(worker: *mut c_void);
    fn haggle_emu_work(worker: *mut c_void, launch: *mut RawLaunch);
}

/// Whose tensor cores `mma.sync` has, to the bit, by the model of arXiv:2511.10909 (kernels/emu/tensor.h). The two differ:
/// rollout and training must run on one of them. `wgmma` is Hopper's alone. No others are known well enough: not fp8's, not
/// Blackwell's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TensorCores {
    /// H100, H200.
    Hopper = 0,
    /// A100.
    Ampere = 1,
}

impl TensorCores {
    fn from_env() -> Result<TensorCores> {
        match std::env::var("HAGGLE_EMU_TENSOR_CORES").as_deref() {
            Err(_) | Ok("hopper") => Ok(TensorCores::Hopper),
            Ok("ampere") => Ok(TensorCores::Ampere),
            Ok(other) => Err(device_error(format!("HAGGLE_EMU_TENSOR_CORES={other}: hopper or ampere"))),
        }
    }
}

/// What one operating-system thread needs to run a block: stacks and shared memory.
struct Worker(*mut c_void);

// SAFETY: a worker is used by one thread at a time: each task of a launch has its own, and launches are one at a time.
unsafe impl Send for Worker {}

/// The emulator.
pub struct Emu {
    pool: Pool,
    /// Locked while a launch runs: launches follow each other, as on a stream.
    workers: Mutex<Vec<Worker>>,
    kernels: HashMap<&'static str, &'static Entry>,
    /// Those of the counted build, by the names of the plain ones.
    counted: HashMap<&'static str, &'static Entry>,
    seed: u64,
    checked: bool,
    tensor_cores: TensorCores,
    runs: Blocks,
    /// See [`super::Gpu::hopper`].
    pub(super) hopper: bool,
    /// See [`super::Gpu::pdl`].
    pub(super) pdl: bool,
    card: Arc<Card>,
    counter: counts::Counter,
    /// What ran, when a profiler asks.
    pub recorder: Recorder,
    /// What is launched, while it is captured.
    pub(super) tape: Tape,
}

// SAFETY: entries are constants of the program; everything else is Sync.
unsafe impl Send for Emu {}
unsafe impl Sync for Emu {}

/// What a kernel did wrong.
fn fact(launch: &Launch, what: String, block: Option<[u32; 3]>, thread: Option<[u32; 3]>) -> Error {
    let (op, kernel, shape) = (launch.op, launch.kernel.into(), launch.shape.to_string());
    Error::Kernel { op, kernel, shape, block, thread, what }
}

fn device_error(what: impl Into<String>) -> Error {
    Error::Device { device: "emu".into(), what: what.into() }
}

impl Emu {
    /// The emulator on `threads` threads (0: all cores), in the thread order that `HAGGLE_EMU_SEED` says.
    ///
    /// # Errors
    /// [`Error::Device`] when the build had no C++ compiler, or this machine lacks what the kernels were built for.
    pub fn new(threads: usize) -> Result<Emu> {
        let seed = match std::env::var("HAGGLE_EMU_SEED") {
            Ok(text) => text.parse().map_err(|_| device_error(format!("HAGGLE_EMU_SEED={text}: not a number")))?,
            Err(_) => 0,
        };
        Emu::with_seed(threads, seed)
    }

    /// The emulator with a seed of its thread order (0: natural).
    ///
    /// # Errors
    /// As [`Emu::new`].
    pub fn with_seed(threads: usize, seed: u64) -> Result<Emu> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool = Pool::new(if threads == 0 { cores } else { threads });
        let checked = std::env::var("HAGGLE_EMU_CHECK").is_ok_and(|v| v == "1");
        let workers = (0..pool.threads()).map(|_| new_worker()).collect::<Result<Vec<_>>>()?;
        let kernels = table()?;
        let of_plain = |(name, entry): (&&'static str, &&'static Entry)| Some((name.strip_suffix("_counted")?, *entry));
        Ok(Emu {
            pool,
            workers: Mutex::new(workers),
            counted: kernels.iter().filter_map(of_plain).collect(),
            kernels,
            seed,
            checked,
            tensor_cores: TensorCores::from_env()?,
            runs: Blocks::All,
            hopper: super::asked("HAGGLE_SM90").unwrap_or(false),
            pdl: super::asked("HAGGLE_PDL").unwrap_or(false),
            card: Arc::new(Card::from_env()?),
            counter: counts::Counter::default(),
            recorder: Recorder::default(),
            tape: Tape::default(),
        })
    }

    /// The same emulator, which runs only the last `n` blocks of each launch: what a kernel does far out in tensors that
    /// are too large to walk whole. What the other blocks would have written is missing: for tests of addresses.
    pub fn last_blocks(mut self, n: u64) -> Emu {
        self.runs = Blocks::Last(n.max(1));
        self
    }

    /// The same emulator, which runs only `n` blocks of each launch, spread evenly over its grid: what a launch too large to
    /// walk does, counted; one while nobody counts. What the other blocks would have written is missing: for counting alone.
    pub fn spread_blocks(mut self, n: u64) -> Emu {
        self.runs = Blocks::Spread(n.max(1));
        self
    }

    /// The same emulator with a card of `bytes`.
    pub fn with_bytes(mut self, bytes: u64) -> Emu {
        self.card = Arc::new(Card::of(bytes));
        self
    }

    /// The same emulator with a card that is lost at the n-th launch of a kernel.
    pub fn with_loss(mut self, kernel: &str, n: u64) -> Emu {
        self.card = Arc::new(Card::losing(kernel, n));
        self
    }

    /// Whose tensor cores it has.
    pub fn tensor_cores(&self) -> TensorCores {
        self.tensor_cores
    }

    /// Its memory.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// See [`super::Gpu::zeros`].
    pub(super) fn zeros(&self, dtype: DType, len: usize) -> Option<Buffer> {
        let share = self.card.take((len as u64).checked_mul(dtype.size() as u64)?)?;
        Buffer::host(dtype, len, Some(share))
    }

    /// See [`super::Gpu::wait`].
    pub(super) fn wait(&self) -> Result<()> {
        self.card.fault().map_or(Ok(()), |fault| Err(device_error(fault)))
    }

    /// The same emulator, whose ops choose Hopper's kernels where they have some, or not, whatever `HAGGLE_SM90` says.
    pub fn with_hopper(mut self, hopper: bool) -> Emu {
        self.hopper = hopper;
        self
    }

    /// The same emulator, where launches may begin before those before them have ended, and are held to the rule of that
    /// (kernels/emu/dependent.h), or not, whatever `HAGGLE_PDL` says.
    pub fn with_pdl(mut self, pdl: bool) -> Emu {
        self.pdl = pdl;
        self
    }

    /// Whether this build has the counted kernels beside the plain ones, whose every access is a call.
    pub fn sees_accesses(&self) -> bool {
        self.counted.contains_key("rmsnorm_fwd_f32")
    }

    /// The same emulator with another card's tensor cores, whatever `HAGGLE_EMU_TENSOR_CORES` says.
    pub fn with_tensor_cores(mut self, tensor_cores: TensorCores) -> Emu {
        self.tensor_cores = tensor_cores;
        self
    }

    /// Counts what launches do from now on, by kernels built for that: `HAGGLE_EMU_COUNT=1` when building makes them.
    pub fn start_counting(&self) {
        self.counter.start();
    }

    /// The launches since, in their order; none when nobody counted.
    pub fn stop_counting(&self) -> Vec<Counted> {
        self.counter.stop()
    }

    /// The threads blocks run on.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Names of all kernels, sorted; without those of the checked and the counted build.
    pub fn kernels(&self) -> Vec<&'static str> {
        let plain = |name: &&str| !["_checked", "_counted"].iter().any(|build| name.ends_with(build));
        let mut names: Vec<_> = self.kernels.keys().copied().filter(plain).collect();
        names.sort_unstable();
        names
    }

    /// See [`super::Gpu::launch`]; `pending`: what launches before may still be writing, where it may begin before they have
    /// ended.
    pub(super) fn launch(&self, launch: &Launch, pending: Option<&[Pending]>, block: &mut ArgBlock) -> Result<()> {
        let counting = self.counter.is_on();
        let entry = self.check(launch, block, counting, pending.is_some())?;
        if launch.grid.contains(&0) {
            // Launches are counted as they are recorded: all of them.
            self.counter.add(launch, Counts::default(), std::iter::empty(), 0);
            return Ok(());
        }
        if self.card.loses(launch.kernel) {
            return Ok(());
        }
        self.wait()?;
        if let Some(argument) = taken_for_constant(block.ranges(), entry.restricted, pending.unwrap_or_default()) {
            let what =
                format!("dependent: argument {argument} is __restrict__, and a launch before may still be writing it");
            return Err(fact(launch, what, None, None));
        }
        let cluster = u64::from(entry.cluster);
        let (turns, first_cluster) = self.runs.of(blocks(launch.grid) / cluster, counting);
        let (mut did, mut marks) = (Counts::default(), if counting { counts::marks(block.ranges()) } else { vec![] });
        let mut raw = RawLaunch {
            entry,
            args: block.pointers(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            tensor_cores: self.tensor_cores as u32,
            n_ranges: block.ranges().len() as u32,
            ranges: block.ranges().as_ptr(),
            dependent: pending.is_some() as u32,
            n_pending: pending.map_or(0, |all| all.len() as u32),
            pending: pending.map_or(std::ptr::null(), |all| all.as_ptr()),
            waits: 0,
            counts: if counting { &raw mut did } else { std::ptr::null_mut() },
            marks: marks.as_mut_ptr(),
            seed: self.seed,
            next_turn: 0,
            turns,
            first_cluster,
            failed_block: 0,
            lock: 0,
            report: Report { set: 0, block: [0; 3], thread: [0; 3], what: [0; 320] },
        };
        self.run(&mut raw);
        if raw.report.set == 0 && raw.dependent != 0 && raw.waits == 0 {
            let what = "dependent: no thread waits (griddepcontrol.wait), on which the launch behind it relies";
            return Err(fact(launch, what.into(), None, None));
        }
        if raw.report.set == 0 {
            self.counter.add(launch, did, counts::touched(block.ranges(), &marks), turns * cluster);
            return Ok(());
        }
        let end = raw.report.what.iter().position(|b| *b == 0).unwrap_or(0);
        let what = String::from_utf8_lossy(&raw.report.what[..end]).into_owned();
        Err(fact(launch, what, Some(raw.report.block), Some(raw.report.thread)))
    }

    /// `Ok` when a launch left the guards of its buffers whole.
    pub(super) fn check_guards(&self, launch: &Launch, args: &[Arg]) -> Result<()> {
        match args.iter().position(|a| !a.guard_intact()) {
            Some(i) => Err(fact(launch, format!("wrote outside the buffer of argument {i}"), None, None)),
            None => Ok(()),
        }
    }

    /// The kernel, if it takes this launch.
    fn check(&self, launch: &Launch, block: &ArgBlock, counting: bool, dependent: bool) -> Result<&'static Entry> {
        let name = launch.kernel;
        let entry = self.entry(name, counting, dependent)?;
        // SAFETY: a constant, zero-terminated string of the table.
        let want = unsafe { CStr::from_ptr(entry.parameters) }.to_bytes();
        if block.letters() != want {
            let (got, want) = (String::from_utf8_lossy(block.letters()), String::from_utf8_lossy(want));
            return Err(device_error(format!("{name} takes parameters {want}, the launch gives {got}")));
        }
        let threads = launch.block.iter().try_fold(1u32, |n, d| n.checked_mul(*d)).unwrap_or(0);
        if threads == 0 || threads > MAX_THREADS {
            return Err(device_error(format!("{name}: a block of {:?} threads, 1 to {MAX_THREADS} go", launch.block)));
        }
        if !launch.grid[0].is_multiple_of(entry.cluster) {
            let (got, each) = (launch.grid[0], entry.cluster);
            return Err(device_error(format!("{name}: a grid {got} blocks wide, its clusters have {each}")));
        }
        if launch.shared_bytes > MAX_SHARED_BYTES {
            let got = launch.shared_bytes;
            return Err(device_error(format!("{name}: {got} bytes of shared memory, a block has {MAX_SHARED_BYTES}")));
        }
        Ok(entry)
    }

    fn entry(&self, name: &str, counting: bool, dependent: bool) -> Result<&'static Entry> {
        let missing = |what| device_error(format!("no {what} named {name}"));
        let counted = self.counted.get(name).copied();
        if counting {
            return counted.ok_or_else(|| missing("counted kernel (HAGGLE_EMU_COUNT=1 when building makes them)"));
        }
        if dependent
            && !self.checked
            && let Some(entry) = counted
        {
            return Ok(entry);
        }
        if !self.checked || name.ends_with("_checked") {
            return self.kernels.get(name).copied().ok_or_else(|| missing("kernel"));
        }
        let checked = self.kernels.get(format!("{name}_checked").as_str()).copied();
        checked.ok_or_else(|| missing("checked kernel (HAGGLE_EMU_CHECK=1 when building makes them)"))
    }

    fn run(&self, raw: &mut RawLaunch) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = workers.len().min(usize::try_from(blocks(raw.grid)).unwrap_or(usize::MAX));
        let (workers, raw) = (Shared(workers.as_ptr()), Shared(raw as *mut RawLaunch as *const RawLaunch));
        self.pool.run(tasks, move |task| {
            let (workers, raw) = (&workers, &raw);
            // SAFETY: `task` is below the number of workers and each task takes its own; the lock on them is held until
            // `run` returns. The launch outlives the call; what workers share in it, they access atomically.
            #[cfg(haggle_emu)]
            unsafe {
                haggle_emu_work((*workers.0.add(task)).0, raw.0.cast_mut());
            }
            #[cfg(not(haggle_emu))]
            let _ = (workers, raw, task);
        });
    }
}

/// Which blocks of a launch run.
#[derive(Debug, Clone, Copy)]
enum Blocks {
    All,
    /// So many, the last ones.
    Last(u64),
    /// So many, spread evenly, while somebody counts.
    Spread(u64),
}

impl Blocks {
    /// How many run of `n`, and the first of those over which they are spread.
    fn of(self, n: u64, counting: bool) -> (u64, u64) {
        match self {
            Blocks::All => (n, 0),
            Blocks::Last(some) => (some.min(n), n.saturating_sub(some)),
            Blocks::Spread(some) if counting => (some.min(n), 0),
            Blocks::Spread(_) => (n.min(1), 0),
        }
    }
}

fn blocks(grid: [u32; 3]) -> u64 {
    grid.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64))
}

/// A pointer that tasks may share.
struct Shared<T>(*const T);

// SAFETY: see where it is used.
unsafe impl<T> Send for Shared<T> {}
unsafe impl<T> Sync for Shared<T> {}

#[cfg(haggle_emu)]
impl Drop for Emu {
    fn drop(&mut self) {
        let workers = self.workers.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: made by `haggle_emu_worker_new`, freed once.
        workers.drain(..).for_each(|w| unsafe { haggle_emu_worker_free(w.0) });
    }
}

#[cfg(haggle_emu)]
fn new_worker() -> Result<Worker> {
    // SAFETY: no condition.
    let worker = unsafe { haggle_emu_worker_new() };
    if worker.is_null() { Err(device_error("out of memory for the threads' stacks")) } else { Ok(Worker(worker)) }
}

#[cfg(haggle_emu)]
fn table() -> Result<HashMap<&'static str, &'static Entry>> {
    #[cfg(all(target_arch = "x86_64", haggle_emu_avx2))]
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")) {
        return Err(device_error(
            "its kernels were built on a machine with AVX2 and FMA, which this one lacks: build here",
        ));
    }
    let mut kernels = HashMap::new();
    // SAFETY: the table ends with null, and each of its entries and their strings are constants.
    unsafe {
        let mut at = (&raw const haggle_emu_table).cast::<*const Entry>();
        while let Some(entry) = (*at).as_ref() {
            kernels.insert(CStr::from_ptr(entry.name).to_str().unwrap_or_default(), entry);
            at = at.add(1);
        }
    }
    Ok(kernels)
}

#[cfg(not(haggle_emu))]
fn new_worker() -> Result<Worker> {
    Err(device_error("this build has none: no C++ compiler was found; install one (g++ or clang++) and build again"))
}

#[cfg(not(haggle_emu))]
fn table() -> Result<HashMap<&'static str, &'static Entry>> {
    Ok(HashMap::new())
}
