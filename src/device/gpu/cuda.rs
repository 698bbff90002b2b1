//! The CUDA device: the fatbins that `build/nvcc.rs` embeds, loaded and launched through the driver API.
//!
//! One context, one stream: work runs in the order it was asked for. A launch returns before it has run, so a fault may
//! show at a later call; from then on every launch answers with it. `HAGGLE_CUDA_SYNC=1` waits after each launch, which
//! names the kernel at fault. `HAGGLE_SM90=1` has ops choose the kernels of Hopper's own instructions where they have some;
//! other GPUs refuse it. `HAGGLE_PDL=1` has launches of a capture begin while those before them end, where their kernels wait
//! themselves; GPUs before sm_90 refuse it. Where one is not set, what cards have shown decides ([`super::proven`]). Its
//! refusals are tested everywhere, and the kernels and their launch code run on the emulator.

use super::cuda_graph::Exec;
use super::cuda_memory::{Memory, Owner, text};
use super::cuda_modules::{Function, MODULES, Opened, allow_shared, check_driver, load, open};
use super::cuda_time::{End, MAX_TIMED, Timers};
use super::launch::{ArgBlock, Edge, Launch};
use super::proven::{Waits, verdict};
use super::tape::{Step, Tape};
use crate::device::record::{Recorder, Recording};
use crate::device::{DType, Element, Room};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A GPU.
pub struct Cuda {
    owner: Arc<Owner>,
    functions: HashMap<&'static str, Function>,
    name: String,
    /// Which GPU of all there are.
    id: String,
    wait: bool,
    /// Shared memory that a block can have.
    shared_bytes: u32,
    /// Compute capability, major and minor.
    capability: [i32; 2],
    multiprocessors: usize,
    /// See [`super::Gpu::hopper`].
    pub(super) hopper: bool,
    /// See [`super::Gpu::pdl`].
    pub(super) pdl: bool,
    timers: Timers,
    /// The recorder's clock at the event that launches' times count from.
    base_ns: AtomicU64,
    /// What ran, when a profiler asks.
    pub recorder: Recorder,
    /// What is launched, while it is captured.
    pub(super) tape: Tape,
}

impl Cuda {
    /// Opens `cuda` or `cuda:N`.
    ///
    /// # Errors
    /// [`Error::Device`] naming what is missing: driver, GPU, kernels in this binary, code for this GPU.
    pub fn new(device: &str) -> Result<Cuda> {
        let fail = |what: String| Error::Device { device: device.into(), what };
        let index = match device.strip_prefix("cuda:") {
            Some(n) => n.parse().map_err(|_| fail(format!("`{n}` is no GPU number; use cuda:0")))?,
            None => 0,
        };
        if MODULES.is_empty() {
            return Err(fail(
                "this binary has no CUDA kernels: nvcc was not found when it was built; run tools/install-nvcc \
                             and build again, or use --device cpu"
                    .into(),
            ));
        }
        check_driver().map_err(fail)?;
        let Opened { name, id, owner, capability, shared_bytes, multiprocessors } = open(index).map_err(fail)?;
        let [major, minor] = capability;
        let on = |name, waits| super::asked(name).unwrap_or_else(|| verdict(waits, capability).on);
        let (hopper, pdl) = (on("HAGGLE_SM90", Waits::Hopper), on("HAGGLE_PDL", Waits::Pdl));
        if hopper && capability != [9, 0] {
            return Err(fail(format!("HAGGLE_SM90=1 is for sm_90, {name} is sm_{major}{minor}: unset it")));
        }
        if pdl && major < 9 {
            return Err(fail(format!("HAGGLE_PDL=1 is for sm_90 and newer, {name} is sm_{major}{minor}: unset it")));
        }
        let functions = load(&owner, &name).map_err(fail)?;
        let wait = std::env::var("HAGGLE_CUDA_SYNC").is_ok_and(|v| v == "1");
        let recorder = Recorder::default();
        if std::env::var("HAGGLE_NVTX").is_ok_and(|v| v == "1") {
            // SAFETY: looks for the library, and loads it.
            if !unsafe { cudarc::nvtx::sys::is_culib_present() } {
                return Err(fail(
                    "HAGGLE_NVTX=1, but libnvToolsExt is not on this machine: CUDA 13 ships NVTX without a library; \
                     put one of CUDA 12 (pip: nvidia-nvtx-cu12) on LD_LIBRARY_PATH, or use haggle profile --trace"
                        .into(),
                ));
            }
            recorder.mark_nvtx();
        }
        let (owner, timers, base_ns) = (Arc::new(owner), Timers::default(), AtomicU64::new(0));
        Ok(Cuda {
            owner,
            functions,
            name,
            id,
            wait,
            shared_bytes,
            capability,
            multiprocessors,
            hopper,
            pdl,
            timers,
            base_ns,
            recorder,
            tape: Tape::default(),
        })
    }

    /// The GPU's own name.
    pub fn gpu_name(&self) -> &str {
        &self.name
    }

    /// Which GPU of all there are it is: its UUID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its compute capability, major and minor: `[9, 0]` is Hopper.
    pub fn capability(&self) -> [i32; 2] {
        self.capability
    }

    /// Its multiprocessors.
    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Names of all kernels, sorted.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.functions.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// Memory of `len` zeros; none when the GPU has no more.
    pub(super) fn zeros(&self, dtype: DType, len: usize) -> Result<Option<Memory>> {
        let Some(bytes) = len.checked_mul(dtype.size()) else { return Ok(None) };
        Memory::zeros(&self.owner, bytes).map_err(|e| Error::Device {
            device: self.name.clone(),
            what: format!("{bytes} bytes of GPU memory: {}", text(e)),
        })
    }

    /// What is free of the GPU's memory; none after a fault.
    pub(super) fn room(&self) -> Option<Room> {
        self.owner.room().ok()
    }

    /// Copies host data to a place on the GPU, through pinned memory.
    pub(super) fn write<T: Element>(&self, to: u64, data: &[T]) {
        self.owner.write(to, bytemuck::cast_slice(data));
    }

    /// Copies from the GPU, after everything asked for before.
    pub(super) fn read<T: Element>(&self, from: u64, data: &mut [T]) -> Result<()> {
        self.owner.read(from, bytemuck::cast_slice_mut(data));
        self.well()
    }

    /// Copies two places, with one wait.
    pub(super) fn read_both<A: Element, B: Element>(&self, a: (u64, &mut [A]), b: (u64, &mut [B])) -> Result<()> {
        self.owner.read_all(&mut [(a.0, bytemuck::cast_slice_mut(a.1)), (b.0, bytemuck::cast_slice_mut(b.1))]);
        self.well()
    }

    /// `Ok` when nothing has failed that the driver told of.
    fn well(&self) -> Result<()> {
        let fail = |what| Err(Error::Device { device: self.name.clone(), what });
        self.owner.fault().map_or(Ok(()), fail)
    }

    /// Makes it this thread's.
    pub(super) fn enter(&self) -> Result<()> {
        self.owner.enter().map_err(|e| Error::Device { device: self.name.clone(), what: text(e) })
    }

    /// The stream everything runs on.
    pub(super) fn stream(&self) -> *mut c_void {
        self.owner.stream().cast()
    }

    /// True when everything asked for is done.
    pub(super) fn is_idle(&self) -> Result<bool> {
        let idle = self.owner.is_idle();
        self.well().map(|()| idle)
    }

    /// Waits until everything asked for is done.
    pub(super) fn wait(&self) -> Result<()> {
        let fail = |what| Error::Device { device: self.name.clone(), what };
        self.owner.enter().and_then(|()| self.owner.wait()).map_err(|e| fail(self.owner.text(e)))?;
        self.well()
    }

    /// See [`super::Gpu::start_recording`].
    pub(super) fn start_recording(&self, capacity: usize) -> Result<()> {
        self.wait()?;
        let n = capacity.min(MAX_TIMED);
        self.timers.start(n, self.owner.stream()).and_then(|()| self.owner.wait()).map_err(|e| self.no_timer(e))?;
        self.recorder.start(capacity, n);
        self.base_ns.store(self.recorder.now_ns(), Ordering::Relaxed);
        Ok(())
    }

    /// See [`super::Gpu::stop_recording`].
    pub(super) fn stop_recording(&self) -> Result<Recording> {
        let waited = self.wait();
        let mut recording = self.recorder.stop();
        waited?;
        let base_ns = self.base_ns.load(Ordering::Relaxed);
        self.timers.resolve(&mut recording.events, base_ns).map_err(|e| self.no_timer(e))?;
        recording.gpu_times = true;
        Ok(recording)
    }

    fn no_timer(&self, e: result::DriverError) -> Error {
        Error::Device { device: self.name.clone(), what: format!("cannot time launches: {}", text(e)) }
    }

    /// See [`super::Gpu::launch`]; `timed` is its number in a recording.
    pub(super) fn launch(&self, launch: &Launch, edge: Edge, block: &mut ArgBlock, timed: Option<usize>) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let fact = |what: String| Error::Kernel {
            op: launch.op,
            kernel: launch.kernel.into(),
            shape: launch.shape.to_string(),
            block: None,
            thread: None,
            what,
        };
        if let Some(fault) = self.owner.fault() {
            return Err(fact(format!("not launched: {fault}")));
        }
        if launch.shared_bytes > self.shared_bytes {
            let (wants, has) = (launch.shared_bytes, self.shared_bytes);
            return Err(fact(format!("wants {wants} bytes of shared memory a block; {} has {has}", self.name)));
        }
        let function = self.function(launch.kernel)?;
        let stamp = |end| timed.map_or(Ok(()), |n| self.timers.stamp(n, end, self.owner.stream()));
        let entered = self.owner.enter().and_then(|()| stamp(End::Before));
        // SAFETY: the function is of a module that is never unloaded; the argument block has a value for each parameter
        // (held by the emulator's check of the same launch code) and is read before the call returns; the pointers in it
        // are to memory that outlives the stream's work, because freed memory is reused on the same stream only.
        let done = unsafe { entered.and_then(|()| start(function, launch, edge, block, self.owner.stream())) };
        let done = done.and_then(|()| stamp(End::Behind));
        done.and_then(|()| if self.wait { self.owner.wait() } else { Ok(()) }).map_err(|e| {
            let what = format!(
                "{} (grid {:?}, block {:?}, {} bytes shared)",
                self.owner.text(e),
                launch.grid,
                launch.block,
                launch.shared_bytes
            );
            self.owner.set_fault(format!("kernel {} failed before: {what}", launch.kernel));
            fact(what)
        })?;
        self.owner.note(launch.kernel);
        Ok(())
    }

    fn function(&self, kernel: &str) -> Result<Function> {
        let missing = || Error::Device { device: "cuda".into(), what: format!("no kernel named {kernel}") };
        self.functions.get(kernel).copied().ok_or_else(missing)
    }

    /// True when each launch is waited for: `HAGGLE_CUDA_SYNC=1`.
    pub(super) fn waits(&self) -> bool {
        self.wait
    }

    /// Launches that were kept, as the driver's graph: one after another, as on the stream.
    pub(super) fn graph(&self, steps: &[Step]) -> Result<Exec> {
        if let Some(step) = steps.iter().find(|step| step.shared_bytes > self.shared_bytes) {
            let (wants, has) = (step.shared_bytes, self.shared_bytes);
            let what = format!("{} wants {wants} bytes of shared memory a block; this card has {has}", step.kernel);
            return Err(Error::Device { device: self.name.clone(), what });
        }
        let functions = steps.iter().map(|step| self.function(step.kernel)).collect::<Result<Vec<_>>>()?;
        Exec::new(&self.owner, steps, &functions)
            .map_err(|e| Error::Device { device: self.name.clone(), what: format!("cannot make a graph: {}", text(e)) })
    }

    /// Runs a graph behind everything asked for before; `name` is what a fault found later is told by.
    ///
    /// # Errors
    /// What the driver says, or the fault that keeps it from being asked.
    pub(super) fn replay(&self, exec: &Exec, name: &str) -> std::result::Result<(), String> {
        if let Some(fault) = self.owner.fault() {
            return Err(format!("not launched: {fault}"));
        }
        exec.launch().map_err(|e| {
            let what = self.owner.text(e);
            self.owner.set_fault(format!("graph {name} failed before: {what}"));
            what
        })?;
        self.owner.note(name);
        Ok(())
    }
}

/// # Safety
/// As `cuLaunchKernelEx`; the context is current.
unsafe fn start(
    function: Function,
    launch: &Launch,
    edge: Edge,
    block: &mut ArgBlock,
    stream: sys::CUstream,
) -> Result<(), result::DriverError> {
    let mut early = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: launch.grid[0],
        gridDimY: launch.grid[1],
        gridDimZ: launch.grid[2],
        blockDimX: launch.block[0],
        blockDimY: launch.block[1],
        blockDimZ: launch.block[2],
        sharedMemBytes: launch.shared_bytes,
        hStream: stream,
        attrs: &mut early,
        numAttrs: (edge == Edge::Programmatic) as u32,
    };
    // SAFETY: the caller's promise; the driver reads the attribute before it returns.
    unsafe {
        allow_shared(function, launch.shared_bytes)?;
        sys::cuLaunchKernelEx(&config, function.0, block.pointers(), std::ptr::null_mut()).result()
    }
}
