//! Devices that run the kernels of `kernels/`: a GPU, and the emulator, which runs them on this machine's cores.
//!
//! Launch code (grid, block, shared bytes: one small function an op, a file a family) is the same for every such
//! device. It names a kernel and gives an argument block; [`Gpu::launch`] checks both and runs it.

pub mod card;
pub mod counts;
pub mod cuda;
mod cuda_graph;
pub mod cuda_memory;
pub mod cuda_modules;
mod cuda_overdue;
mod cuda_time;
pub mod emu;
pub mod graph;
pub mod launch;
mod pending;
pub mod proven;
mod tape;
pub mod tensor_map;

pub(crate) use launch::vector_width;
pub use launch::{Arg, Launch};

use crate::device::record::{Cost, Kind, Recorder, Recording};
use crate::device::{Buffer, DType, Element, Room, View, ViewMut, room::host_room};
use crate::error::{Error, Result};
use launch::{ArgBlock, Edge};
use pending::pending;
use proven::{Verdict, Waits};
use std::ffi::c_void;

/// A device that runs kernels.
pub enum Gpu {
    /// The kernels compiled by the host's C++ compiler, a fiber for each CUDA thread.
    Emu(emu::Emu),
    /// An NVIDIA GPU.
    Cuda(cuda::Cuda),
}

impl Gpu {
    /// Runs a kernel over a grid. A grid without blocks is no launch.
    ///
    /// # Errors
    /// [`Error::Device`] when this build has no such kernel or the launch does not fit it, [`Error::Kernel`] when the
    /// kernel did something wrong.
    pub fn launch(&self, launch: &Launch, args: &mut [Arg]) -> Result<()> {
        self.begin(launch, Edge::Full, args)
    }

    /// The same of a kernel that waits itself for the launches before it (kernels/common/dependent.cuh): where the device has
    /// programmatic dependent launches, it begins while they end, inside of a capture. What a kernel reads before it waits, a
    /// weight above all, no launch of that capture may write.
    ///
    /// # Errors
    /// As [`Gpu::launch`].
    pub fn launch_dependent(&self, launch: &Launch, args: &mut [Arg]) -> Result<()> {
        let edge = if self.pdl() { self.tape().edge() } else { Edge::Full };
        self.begin(launch, edge, args)
    }

    fn begin(&self, launch: &Launch, edge: Edge, args: &mut [Arg]) -> Result<()> {
        if args.len() > launch::MAX_ARGS {
            let what = format!("{}: {} arguments, {} go", launch.kernel, args.len(), launch::MAX_ARGS);
            return Err(Error::Device { device: self.name().into(), what });
        }
        let span = self.recorder().open(Kind::Kernel, launch.kernel, Cost::default);
        match self {
            Gpu::Emu(emu) => {
                let pending = (edge == Edge::Programmatic).then(|| self.tape().steps(pending)).flatten();
                emu.launch(launch, pending.as_deref(), &mut ArgBlock::new(args))?;
                emu.check_guards(launch, args)?;
            }
            Gpu::Cuda(cuda) => cuda.launch(launch, edge, &mut ArgBlock::new(args), span.launch())?,
        }
        self.tape().keep(launch, edge, args);
        Ok(())
    }

    /// What is launched, while it is captured.
    fn tape(&self) -> &tape::Tape {
        match self {
            Gpu::Emu(emu) => &emu.tape,
            Gpu::Cuda(cuda) => &cuda.tape,
        }
    }

    /// The recorder of what runs here.
    #[inline]
    pub fn recorder(&self) -> &Recorder {
        match self {
            Gpu::Emu(emu) => &emu.recorder,
            Gpu::Cuda(cuda) => &cuda.recorder,
        }
    }

    /// True when ops may choose the kernels of Hopper's own instructions: with `HAGGLE_SM90=1`, and unsaid where a card has
    /// passed with them ([`proven`]).
    pub fn hopper(&self) -> bool {
        match self {
            Gpu::Emu(emu) => emu.hopper,
            Gpu::Cuda(cuda) => cuda.hopper,
        }
    }

    /// True when launches may begin before those before them have ended (programmatic dependent launches): with `HAGGLE_PDL=1`,
    /// and unsaid where a card has passed with them ([`proven`]).
    pub fn pdl(&self) -> bool {
        match self {
            Gpu::Emu(emu) => emu.pdl,
            Gpu::Cuda(cuda) => cuda.pdl,
        }
    }

    /// What cards of this kind have shown of something that waits for one; nothing counts for the emulator.
    pub fn verdict(&self, waits: Waits) -> Verdict {
        match self {
            Gpu::Emu(_) => Verdict { on: false, why: "off on the emulator, where nobody says otherwise".into() },
            Gpu::Cuda(cuda) => proven::verdict(waits, cuda.capability()),
        }
    }

    /// Multiprocessors; the emulator has an H100's.
    pub fn multiprocessors(&self) -> usize {
        match self {
            Gpu::Emu(_) => emu::MULTIPROCESSORS,
            Gpu::Cuda(cuda) => cuda.multiprocessors(),
        }
    }

    /// True when the host cannot read a buffer in place.
    pub(super) fn has_own_memory(&self) -> bool {
        matches!(self, Gpu::Cuda(_))
    }

    /// See [`crate::device::Device::kind`].
    pub(super) fn kind(&self) -> String {
        match self {
            Gpu::Emu(emu) => format!("emu ({:?})", emu.tensor_cores()),
            Gpu::Cuda(cuda) => format!("cuda ({})", cuda.gpu_name()),
        }
    }

    /// See [`crate::device::Device::gpu_id`].
    pub(super) fn gpu_id(&self) -> Option<&str> {
        match self {
            Gpu::Emu(_) => None,
            Gpu::Cuda(cuda) => Some(cuda.id()),
        }
    }

    /// See [`crate::device::Device::enter`].
    pub(super) fn enter(&self) -> Result<()> {
        match self {
            Gpu::Emu(_) => Ok(()),
            Gpu::Cuda(cuda) => cuda.enter(),
        }
    }

    /// See [`crate::device::Device::stream`].
    pub(super) fn stream(&self) -> *mut c_void {
        match self {
            Gpu::Emu(_) => std::ptr::null_mut(),
            Gpu::Cuda(cuda) => cuda.stream(),
        }
    }

    /// See [`crate::device::Device::is_idle`].
    pub(super) fn is_idle(&self) -> Result<bool> {
        match self {
            Gpu::Emu(emu) => emu.wait().map(|()| true),
            Gpu::Cuda(cuda) => cuda.is_idle(),
        }
    }

    /// See [`crate::device::Device::takes_of_machine`].
    pub(super) fn takes_of_machine(&self) -> bool {
        match self {
            Gpu::Emu(emu) => emu.card().room().is_none(),
            Gpu::Cuda(_) => false,
        }
    }

    /// See [`crate::device::Device::wait`].
    pub(super) fn wait(&self) -> Result<()> {
        match self {
            Gpu::Emu(emu) => emu.wait(),
            Gpu::Cuda(cuda) => cuda.wait(),
        }
    }

    /// See [`crate::device::Device::start_recording`].
    pub(super) fn start_recording(&self, capacity: usize) -> Result<()> {
        match self {
            Gpu::Emu(emu) => emu.recorder.start(capacity, capacity),
            Gpu::Cuda(cuda) => cuda.start_recording(capacity)?,
        }
        Ok(())
    }

    /// See [`crate::device::Device::stop_recording`].
    pub(super) fn stop_recording(&self) -> Result<Recording> {
        match self {
            Gpu::Emu(emu) => Ok(emu.recorder.stop()),
            Gpu::Cuda(cuda) => cuda.stop_recording(),
        }
    }

    /// The device's name as a user would type it.
    pub fn name(&self) -> &'static str {
        match self {
            Gpu::Emu(_) => "emu",
            Gpu::Cuda(_) => "cuda",
        }
    }

    /// Names of all kernels, sorted.
    pub fn kernels(&self) -> Vec<&'static str> {
        match self {
            Gpu::Emu(emu) => emu.kernels(),
            Gpu::Cuda(cuda) => cuda.kernels(),
        }
    }

    /// See [`crate::device::Device::zeros`].
    pub(super) fn zeros(&self, dtype: DType, len: usize) -> Result<Option<Buffer>> {
        match self {
            Gpu::Emu(emu) => Ok(emu.zeros(dtype, len)),
            Gpu::Cuda(cuda) => Ok(cuda.zeros(dtype, len)?.map(|memory| Buffer::cuda(dtype, len, memory))),
        }
    }

    /// See [`crate::device::Device::room`].
    pub(super) fn room(&self) -> Option<Room> {
        match self {
            Gpu::Emu(emu) => emu.card().room().or_else(host_room),
            Gpu::Cuda(cuda) => cuda.room(),
        }
    }

    /// See [`crate::device::Device::write`].
    pub(super) fn write<T: Element>(&self, mut to: ViewMut, data: &[T]) {
        match self {
            Gpu::Emu(_) => to.host_mut::<T>().copy_from_slice(data),
            Gpu::Cuda(cuda) => {
                assert!(to.dtype() == T::DTYPE && to.len() == data.len(), "a view written as another type or length");
                cuda.write(to.address() as u64, data)
            }
        }
    }

    /// See [`crate::device::Device::read`].
    pub(super) fn read<T: Element>(&self, from: View, data: &mut [T]) -> Result<()> {
        match self {
            Gpu::Emu(emu) => {
                // As from a GPU that is lost.
                emu.wait().inspect_err(|_| data.fill(T::default()))?;
                data.copy_from_slice(from.host::<T>());
                Ok(())
            }
            Gpu::Cuda(cuda) => {
                assert!(from.dtype() == T::DTYPE && from.len() == data.len(), "a view read as another type or length");
                cuda.read(from.address() as u64, data)
            }
        }
    }

    /// See [`crate::device::Device::read_both`].
    pub(super) fn read_both<A: Element, B: Element>(&self, a: (View, &mut [A]), b: (View, &mut [B])) -> Result<()> {
        match self {
            Gpu::Emu(_) => self.read(a.0, a.1).and(self.read(b.0, b.1)),
            Gpu::Cuda(cuda) => {
                let fits = a.0.dtype() == A::DTYPE && b.0.dtype() == B::DTYPE;
                let fits = fits && a.0.len() == a.1.len() && b.0.len() == b.1.len();
                assert!(fits, "a view read as another type or length");
                cuda.read_both((a.0.address() as u64, a.1), (b.0.address() as u64, b.1))
            }
        }
    }

    /// What ops without a kernel answer.
    ///
    /// # Errors
    /// Always.
    pub fn no_kernel<T>(&self, op: &'static str) -> Result<T> {
        Err(Error::Device { device: self.name().into(), what: format!("{op} has no kernel yet") })
    }
}

/// What `HAGGLE_SM90` or `HAGGLE_PDL` says: 1 or 0, or nothing.
fn asked(name: &str) -> Option<bool> {
    std::env::var(name).ok().map(|v| v == "1")
}

/// `Ok` when each of an op's tensors, by name, holds numbers of type `want`.
pub(crate) fn holds(op: &'static str, want: DType, tensors: &[(&'static str, DType)]) -> Result<()> {
    match tensors.iter().find(|(_, got)| *got != want) {
        Some((tensor, got)) => Err(Error::DType { op, tensor, want: want.name(), got: got.name() }),
        None => Ok(()),
    }
}

/// The number type of an op's tensors, f32 or bf16, all the same.
///
/// # Errors
/// [`Error::DType`] when they are not.
pub(crate) fn by_dtype(op: &'static str, dtypes: &[DType]) -> Result<DType> {
    let want = dtypes.first().copied().unwrap_or(DType::F32);
    let is_float = |dtype: DType| matches!(dtype, DType::F32 | DType::Bf16);
    match dtypes.iter().find(|got| **got != want || !is_float(**got)) {
        Some(got) => {
            let want = if is_float(want) { want.name() } else { "f32 or bf16" };
            Err(Error::DType { op, tensor: "one of the op's", want, got: got.name() })
        }
        None => Ok(want),
    }
}
