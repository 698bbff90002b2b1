//! Devices and the memory on them.
//!
//! A [`Device`] owns the threads (or, later, the stream) that ops run on; a [`Buffer`] is memory of one number
//! type on one device; a [`View`] or [`ViewMut`] borrows part of one. Ops take views and nothing else, so what
//! stands above this module never sees a host slice. One of the two places with `unsafe` (the other is `ops`).

pub mod alloc;
mod buffer;
pub mod cpu;
pub mod gpu;
mod host;
mod mapped;
pub mod mpi;
pub mod nccl;
pub mod record;
mod room;
mod traffic;

pub use buffer::{Buffer, DType, Element, Life, View, ViewMut};
pub use gpu::graph::Graph;
pub use mapped::map_file;
pub use traffic::Traffic;

pub use crate::error::Room;

use crate::error::{Error, Result};
use record::{Cost, Keys, Kind, Recorder, Recording, Span};
use std::ffi::c_void;
use std::sync::Arc;

/// Where ops run. Cloning is cheap and names the same device.
#[derive(Clone)]
pub enum Device {
    /// Native Rust on this machine's cores.
    Cpu(Arc<cpu::Cpu>),
    /// Our kernels, on a GPU or emulated.
    Gpu(Arc<gpu::Gpu>),
}

/// What matrix products of f32 multiply, in the words of torch's `set_float32_matmul_precision`. Sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    Highest,
    /// Factors rounded to bf16; attention's stay f32.
    Medium,
}

impl Device {
    /// Opens a device by name (`auto`, `cpu`, `emu`, `cuda`, `cuda:N`) with `threads` CPU threads (0: all cores).
    /// `auto` is the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] for a name this build does not know or a device that is not there.
    pub fn open(name: &str, threads: usize) -> Result<Device> {
        Device::open_at(name, threads, Precision::Highest)
    }

    /// The same with products of another precision.
    ///
    /// # Errors
    /// As [`Device::open`], and for [`Precision::Medium`] on another device than the CPU.
    pub fn open_at(name: &str, threads: usize, precision: Precision) -> Result<Device> {
        match name {
            "auto" | "cpu" => Ok(Device::Cpu(Arc::new(cpu::Cpu::new(threads).with_precision(precision)))),
            other if precision != Precision::Highest => Err(Error::Device {
                device: other.into(),
                what: "multiplies f32 at the highest precision alone; set model.dtype = \"bf16\" there".into(),
            }),
            "emu" => Ok(Device::Gpu(Arc::new(gpu::Gpu::Emu(gpu::emu::Emu::new(threads)?)))),
            cuda if cuda == "cuda" || cuda.starts_with("cuda:") => {
                Ok(Device::Gpu(Arc::new(gpu::Gpu::Cuda(gpu::cuda::Cuda::new(cuda)?))))
            }
            _ => Err(Error::Device { device: name.into(), what: "unknown; use auto, cpu, emu or cuda:N".into() }),
        }
    }

    /// The device's name as a user would type it.
    pub fn name(&self) -> &'static str {
        match self {
            Device::Cpu(_) => "cpu",
            Device::Gpu(gpu) => gpu.name(),
        }
    }

    /// What its bits depend on, for people: a GPU's own name, or whose tensor cores are emulated.
    pub fn kind(&self) -> String {
        match self {
            Device::Cpu(_) => "cpu".into(),
            Device::Gpu(gpu) => gpu.kind(),
        }
    }

    /// Which GPU of all there are it is; none for what is none.
    pub fn gpu_id(&self) -> Option<&str> {
        match self {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => gpu.gpu_id(),
        }
    }

    /// True when the host cannot read a buffer in place.
    fn has_own_memory(&self) -> bool {
        matches!(self, Device::Gpu(gpu) if gpu.has_own_memory())
    }

    /// Makes it this thread's, for libraries that ask the driver for the thread's device.
    fn enter(&self) -> Result<()> {
        match self {
            Device::Cpu(_) => Ok(()),
            Device::Gpu(gpu) => gpu.enter(),
        }
    }

    /// The stream everything runs on, for libraries that put work there; null where there is none.
    fn stream(&self) -> *mut c_void {
        match self {
            Device::Cpu(_) => std::ptr::null_mut(),
            Device::Gpu(gpu) => gpu.stream(),
        }
    }

    /// True when everything asked for is done; waits for nothing.
    fn is_idle(&self) -> Result<bool> {
        match self {
            Device::Cpu(_) => Ok(true),
            Device::Gpu(gpu) => gpu.is_idle(),
        }
    }

    /// The number type of a buffer that matrix products alone read, in a model that computes in `compute`. A CPU at
    /// [`Precision::Medium`] rounds it where it is written, once, and not in each product: the same bits.
    pub fn factor_dtype(&self, compute: DType) -> DType {
        match self {
            Device::Cpu(cpu) if cpu.precision == Precision::Medium => DType::Bf16,
            _ => compute,
        }
    }

    /// A buffer of `len` zeros. Allocation happens here and nowhere else: ops allocate nothing.
    ///
    /// # Errors
    /// [`Error::Memory`] when the device has no more.
    pub fn zeros(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let buffer = match self {
            Device::Cpu(_) => Buffer::host(dtype, len, None),
            Device::Gpu(gpu) => gpu.zeros(dtype, len)?,
        };
        buffer.ok_or_else(|| Error::Memory {
            device: self.name().into(),
            what: format!("{len} {}", dtype.name()),
            bytes: (len as u64).saturating_mul(dtype.size() as u64),
            room: self.room(),
        })
    }

    /// What is free of the device's memory; none where nobody says.
    pub fn room(&self) -> Option<Room> {
        match self {
            Device::Cpu(_) => room::host_room(),
            Device::Gpu(gpu) => gpu.room(),
        }
    }

    /// True where its memory is the machine's, which other processes take of too.
    pub fn takes_of_machine(&self) -> bool {
        match self {
            Device::Cpu(_) => true,
            Device::Gpu(gpu) => gpu.takes_of_machine(),
        }
    }

    /// Bytes that buffers of these sizes take of a room of the device, guards and alignment included where they count.
    pub fn footprint(&self, sizes: &[u64], room: Room) -> u64 {
        let each = |bytes: &u64| match self {
            Device::Gpu(gpu) if gpu.has_own_memory() => gpu::cuda_memory::footprint(*bytes),
            _ if room.mapped => host::mapped_bytes(*bytes),
            _ => *bytes,
        };
        sizes.iter().map(each).fold(0, u64::saturating_add)
    }

    /// A buffer that holds `data`.
    ///
    /// # Errors
    /// As [`Device::zeros`].
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<Buffer> {
        let mut buffer = self.zeros(T::DTYPE, data.len())?;
        self.write(buffer.view_mut(), data);
        Ok(buffer)
    }

    /// Copies host data into a view of the same type and length. A GPU takes it behind what it was asked for before; one that
    /// is lost says so at the next launch, read or wait.
    ///
    /// # Panics
    /// If type or length differ: that is a bug of the caller, not of its data.
    pub fn write<T: Element>(&self, mut to: ViewMut, data: &[T]) {
        self.recorder().traffic.up(size_of_val(data));
        match self {
            Device::Cpu(_) => to.host_mut::<T>().copy_from_slice(data),
            Device::Gpu(gpu) => gpu.write(to, data),
        }
    }

    /// Copies a view to host memory of the same type and length, after everything asked for before.
    ///
    /// # Errors
    /// [`Error::Device`] with what the GPU failed at since: `data` then holds zeros.
    ///
    /// # Panics
    /// If type or length differ.
    pub fn read<T: Element>(&self, from: View, data: &mut [T]) -> Result<()> {
        self.recorder().traffic.down(size_of_val(data));
        self.recorder().traffic.wait();
        match self {
            Device::Cpu(_) => data.copy_from_slice(from.host::<T>()),
            Device::Gpu(gpu) => gpu.read(from, data)?,
        }
        Ok(())
    }

    /// Copies two views as [`Device::read`] does, waiting once for both.
    ///
    /// # Errors
    /// As [`Device::read`].
    ///
    /// # Panics
    /// If a type or length differs.
    pub fn read_both<A: Element, B: Element>(&self, a: (View, &mut [A]), b: (View, &mut [B])) -> Result<()> {
        let traffic = &self.recorder().traffic;
        traffic.down(size_of_val(a.1));
        traffic.down(size_of_val(b.1));
        traffic.wait();
        match self {
            Device::Cpu(_) => {
                a.1.copy_from_slice(a.0.host::<A>());
                b.1.copy_from_slice(b.0.host::<B>());
            }
            Device::Gpu(gpu) => gpu.read_both(a, b)?,
        }
        Ok(())
    }

    /// Copies and waits since this device was opened.
    pub fn traffic(&self) -> Traffic {
        self.recorder().traffic.now()
    }

    /// Waits until everything asked for is done.
    ///
    /// # Errors
    /// [`Error::Device`] with what the GPU failed at since.
    pub fn wait(&self) -> Result<()> {
        self.recorder().traffic.wait();
        match self {
            Device::Cpu(_) => Ok(()),
            Device::Gpu(gpu) => gpu.wait(),
        }
    }

    /// The recorder of what runs here.
    #[inline]
    pub fn recorder(&self) -> &Recorder {
        match self {
            Device::Cpu(cpu) => &cpu.recorder,
            Device::Gpu(gpu) => gpu.recorder(),
        }
    }

    /// Opens the span of an op; its cost is computed only while recording.
    #[inline]
    pub(crate) fn op(&self, stem: &'static str, cost: impl FnOnce() -> Cost) -> Span<'_> {
        self.recorder().open(Kind::Op, stem, cost)
    }

    /// Opens the span of a phase.
    #[inline]
    pub fn phase(&self, name: &'static str) -> Span<'_> {
        self.recorder().open(Kind::Phase, name, Cost::default)
    }

    /// Notes what the rows of the batch at hand see, for the cost of attention; computed only while recording.
    pub(crate) fn note_keys(&self, keys: impl FnOnce() -> Keys) {
        self.recorder().note(keys);
    }

    /// What rows see: from their offsets or positions where the host can read them, else as noted.
    pub(crate) fn keys(&self, here: impl FnOnce() -> Keys) -> Keys {
        if self.has_own_memory() { self.recorder().noted() } else { here() }
    }

    /// True when launches may be captured and run again as a graph: on `emu` and `cuda`, while nothing records launches one
    /// by one and none is waited for (`HAGGLE_CUDA_SYNC=1`).
    pub fn replays(&self) -> bool {
        match self {
            Device::Cpu(_) => false,
            Device::Gpu(gpu) => gpu.replays(),
        }
    }

    /// Does `work` and keeps what it launches from this thread, as a graph called `name`. Copies are not kept.
    ///
    /// # Errors
    /// What `work` says; [`Error::Device`] on the CPU, or when the driver refuses the graph.
    pub fn capture(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        match self {
            Device::Cpu(_) => Err(Error::Device { device: self.name().into(), what: "launches no kernels".into() }),
            Device::Gpu(gpu) => gpu.capture(name, work),
        }
    }

    /// Runs the launches of a graph of this device again, with the same arguments: what they read and write is memory, and
    /// may have changed.
    ///
    /// # Errors
    /// [`Error::Graph`] when a buffer of it is gone, or a launch fails.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        match self {
            Device::Cpu(_) => Err(graph.error("a graph of another device")),
            Device::Gpu(gpu) => gpu.replay(graph),
        }
    }

    /// Starts recording, with room for `capacity` spans.
    ///
    /// # Errors
    /// [`Error::Device`] when the GPU refuses.
    pub fn start_recording(&self, capacity: usize) -> Result<()> {
        match self {
            Device::Cpu(cpu) => cpu.recorder.start(capacity, 0),
            Device::Gpu(gpu) => gpu.start_recording(capacity)?,
        }
        Ok(())
    }

    /// Ends recording, after all work is done, and hands out what was recorded.
    ///
    /// # Errors
    /// [`Error::Device`] with what the GPU failed at since.
    pub fn stop_recording(&self) -> Result<Recording> {
        match self {
            Device::Cpu(cpu) => Ok(cpu.recorder.stop()),
            Device::Gpu(gpu) => gpu.stop_recording(),
        }
    }

    /// A view's contents as a new host vector.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn download<T: Element>(&self, from: View) -> Result<Vec<T>> {
        let mut data = vec![T::default(); from.len()];
        self.read(from, &mut data)?;
        Ok(data)
    }

    /// The same for tests.
    ///
    /// # Panics
    /// Where [`Device::download`] is an error.
    pub fn to_vec<T: Element>(&self, from: View) -> Vec<T> {
        self.download(from).unwrap_or_else(|e| panic!("{e}"))
    }
}
