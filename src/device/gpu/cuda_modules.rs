//! What nvcc made of the kernels, and which GPU it runs on: the fatbins in this binary, the GPU that is opened, the kernels
//! loaded into its context.

use super::cuda_memory::{Owner, text};
use crate::error::Error;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::CString;

/// Kernels of one file; the list is made by `build/nvcc.rs` and empty without nvcc.
pub(super) struct Module {
    file: &'static str,
    kernels: &'static [&'static str],
    fatbin: &'static [u8],
}

/// Bytes that stand where the driver may read whole words.
#[allow(dead_code)] // the list is empty without nvcc
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

/// A file's bytes, aligned.
#[allow(unused_macros)]
macro_rules! image {
    ($path:expr) => {{
        static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &IMAGE.0
    }};
}

pub(super) static MODULES: &[Module] = include!(concat!(env!("OUT_DIR"), "/nvcc_kernels.rs"));

/// What the kernels were compiled for, as nvcc names it: `sm_90a` machine code, `compute_90` PTX; empty without nvcc.
pub fn targets() -> Vec<&'static str> {
    if MODULES.is_empty() { vec![] } else { env!("HAGGLE_CUDA_TARGETS").split(' ').collect() }
}

/// Which of `targets` a GPU of this compute capability runs: machine code of its own, of an older minor, or PTX, which the
/// driver compiles. Code for `sm_90a` runs on 9.0 alone.
pub fn code_for<'a>(targets: &[&'a str], major: i32, minor: i32) -> Option<&'a str> {
    let parse = |target: &&'a str| -> Option<(&'a str, bool, bool, i32)> {
        let (is_ptx, number) = match target.strip_prefix("compute_") {
            Some(number) => (true, number),
            None => (false, target.strip_prefix("sm_")?),
        };
        let of_one = number.ends_with('a');
        Some((target, is_ptx, of_one, number.trim_end_matches('a').parse().ok()?))
    };
    let own = major * 10 + minor;
    let runs = |(_, is_ptx, of_one, number): &(&str, bool, bool, i32)| match (is_ptx, of_one) {
        (_, true) => *number == own,
        (true, false) => *number <= own,
        (false, false) => *number <= own && *number / 10 == major,
    };
    let fitting = targets.iter().filter_map(parse).filter(runs);
    // Machine code before PTX, the newest first.
    fitting.max_by_key(|(_, is_ptx, _, number)| (!is_ptx, *number)).map(|(target, ..)| target)
}

/// The CUDA version kernels are built for, as the driver counts: 13.0.
const CUDA_VERSION: i32 = 13_000;
/// Shared memory a block gets without asking: its static arrays and the dynamic together.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

#[derive(Clone, Copy)]
pub(super) struct Function(pub(super) sys::CUfunction);

// SAFETY: handles of the driver, which takes them from any thread whose current context is theirs.
unsafe impl Send for Function {}
unsafe impl Sync for Function {}

/// Lets a function have this much dynamic shared memory.
///
/// # Safety
/// The function is of a loaded module, its context current.
pub(super) unsafe fn allow_shared(function: Function, bytes: u32) -> Result<(), result::DriverError> {
    use sys::CUfunction_attribute::{
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as STATIC,
    };
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let arrays = unsafe { result::function::get_function_attribute(function.0, STATIC) }? as u32;
    if arrays + bytes <= PLAIN_SHARED_BYTES {
        return Ok(());
    }
    // SAFETY: the same.
    unsafe { result::function::set_function_attribute(function.0, MOST, bytes as i32) }
}

/// `Ok` when there is a driver, new enough for the kernels.
pub(super) fn check_driver() -> Result<(), String> {
    // SAFETY: looks for the library, and loads it.
    if !unsafe { sys::is_culib_present() } {
        return Err("no CUDA driver (libcuda) on this machine; install NVIDIA's driver, or use --device cpu".into());
    }
    result::init().map_err(|e| format!("the CUDA driver does not start: {}", text(e)))?;
    let mut version = 0;
    // SAFETY: writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(text)?;
    if version < CUDA_VERSION {
        let (have, want) = (version as f32 / 1000.0, CUDA_VERSION / 1000);
        return Err(format!(
            "the driver is too old: it runs CUDA {have:.1}, the kernels need {want}.0 (driver 580 or newer)"
        ));
    }
    Ok(())
}

/// How many GPUs this process sees.
///
/// # Errors
/// [`Error::Device`] where there is no driver, or none that is new enough.
pub fn visible() -> Result<usize, Error> {
    let count = check_driver().and_then(|()| result::device::get_count().map_err(text));
    count.map(|n| n.max(0) as usize).map_err(|what| Error::Device { device: "cuda".into(), what })
}

/// A GPU that was opened.
pub(super) struct Opened {
    pub name: String,
    /// Its UUID.
    pub id: String,
    /// Its context and memory.
    pub owner: Owner,
    /// Compute capability, major and minor.
    pub capability: [i32; 2],
    /// Shared memory that a block can ask for.
    pub shared_bytes: u32,
    /// Multiprocessors.
    pub multiprocessors: usize,
}

/// The GPU of this number.
pub(super) fn open(index: i32) -> Result<Opened, String> {
    let count = result::device::get_count().map_err(text)?;
    if index < 0 || index >= count {
        return Err(format!("there is no GPU number {index}; this machine has {count}"));
    }
    let device = result::device::get(index).map_err(text)?;
    let name = result::device::get_name(device).map_err(text)?;
    let id = result::device::get_uuid(device).map_err(text)?.bytes;
    let id = id.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
    };
    // SAFETY: `device` was just given by the driver.
    let part = |what| unsafe { result::device::get_attribute(device, what) }.map_err(text);
    let (major, minor, shared_bytes) = (part(MAJOR)?, part(MINOR)?, part(SHARED)? as u32);
    let multiprocessors = part(MULTIPROCESSORS)? as usize;
    if code_for(&targets(), major, minor).is_none() {
        let targets = targets().join(", ");
        return Err(format!(
            "{name} is sm_{major}{minor}, and this binary holds code for {targets} only; use --device cpu"
        ));
    }
    // SAFETY: as above; the context is never released, like the device it belongs to.
    let context = unsafe { result::primary_ctx::retain(device) }.map_err(text)?;
    let owner = Owner::new(context).map_err(text)?;
    Ok(Opened { name, id, owner, capability: [major, minor], shared_bytes, multiprocessors })
}

/// Every kernel of every module.
pub(super) fn load(owner: &Owner, name: &str) -> Result<HashMap<&'static str, Function>, String> {
    owner.enter().map_err(text)?;
    let mut functions = HashMap::new();
    for module in MODULES {
        let fail = |e| format!("{}: cannot be loaded on {name}: {}", module.file, text(e));
        // SAFETY: the image is a whole fatbin, as nvcc wrote it.
        let handle = unsafe { result::module::load_data(module.fatbin.as_ptr().cast()) }.map_err(fail)?;
        // SAFETY: it was just loaded, into this context.
        unsafe { owner.watch(handle) };
        for kernel in module.kernels {
            let symbol = CString::new(*kernel).map_err(|e| e.to_string())?;
            // SAFETY: the module was just loaded and is never unloaded.
            let function = unsafe { result::module::get_function(handle, symbol) }.map_err(fail)?;
            functions.insert(*kernel, Function(function));
        }
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_gets_the_code_that_fits_it() {
        let all = ["sm_80", "sm_90a", "compute_90"];
        let of = |major, minor| code_for(&all, major, minor);
        assert_eq!([of(8, 0), of(8, 6), of(8, 9)], [Some("sm_80"); 3]);
        assert_eq!(of(9, 0), Some("sm_90a"));
        assert_eq!([of(10, 0), of(12, 0)], [Some("compute_90"); 2]);
        assert_eq!([of(7, 5), of(6, 1)], [None; 2]);
        assert_eq!(code_for(&all[..2], 10, 0), None);
        assert_eq!(code_for(&["sm_80", "sm_86"], 8, 9), Some("sm_86"));
        assert!(targets().is_empty() || targets() == all, "{:?}", targets());
    }
}
