//! Tensor maps: a tensor in global memory as Hopper's copy engine sees it, a kernel's parameter by value.
//!
//! One function makes them, and refuses what the engine does not take. On `cuda` the driver encodes the map, on `emu` it
//! is the emulator's own struct of the same fields (kernels/emu/tensor_map.h). Innermost dimensions stand first.

use super::Gpu;
use super::cuda_memory::text;
use crate::device::{DType, View};
use crate::error::{Error, Result};
use cudarc::driver::sys;

/// Most dimensions a map of ours has.
const MAX_RANK: usize = 3;

/// The map, in whatever form the device reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct RawMap(pub(super) [u64; 16]);

/// A map and the memory it names.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap<'a> {
    pub(super) view: View<'a>,
    pub(super) raw: RawMap,
}

/// Dimensions of a tensor of bf16, and of the boxes that are copied of it: lines of 64 elements, swizzled by 128 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'s> {
    /// Elements.
    pub dims: &'s [usize],
    /// Elements from one index to the next, of every dimension but the innermost.
    pub strides: &'s [usize],
    /// Elements of a box; 64 of the innermost.
    pub boxes: &'s [usize],
}

/// What `cuTensorMapEncodeTiled` and the emulator are told.
pub(super) struct Encoding {
    pub base: u64,
    pub rank: usize,
    pub dims: [u64; MAX_RANK],
    /// Bytes; the first is an element's.
    pub strides: [u64; MAX_RANK],
    pub boxes: [u32; MAX_RANK],
}

impl Gpu {
    /// The map of a bf16 tensor in `view`, for op `op`.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the rule of the copy engine that is broken, [`Error::DType`], [`Error::Device`] when the
    /// driver refuses.
    pub fn tensor_map<'a>(&self, op: &'static str, view: View<'a>, shape: Shape) -> Result<TensorMap<'a>> {
        let encoding = check(op, view, shape)?;
        let raw = match self {
            Gpu::Emu(_) => emulated(&encoding),
            Gpu::Cuda(_) => encode(&encoding)?,
        };
        Ok(TensorMap { view, raw })
    }
}

/// The rules of the copy engine (CUDA driver API, `cuTensorMapEncodeTiled`), and that the tensor lies in the view.
fn check(op: &'static str, view: View, shape: Shape) -> Result<Encoding> {
    if view.dtype() != DType::Bf16 {
        return Err(Error::DType { op, tensor: "a tensor map's", want: "bf16", got: view.dtype().name() });
    }
    let Shape { dims, strides, boxes } = shape;
    let size = DType::Bf16.size();
    let hold =
        |rule, want: usize, got: usize| if want == got { Ok(()) } else { Err(Error::Shape { op, rule, want, got }) };
    hold("a tensor map has 2 or 3 dimensions", dims.len().clamp(2, MAX_RANK), dims.len())?;
    hold("a stride for each dimension but the first", dims.len() - 1, strides.len())?;
    hold("a box of each dimension", dims.len(), boxes.len())?;
    hold("boxes are 64 elements wide", 64, boxes[0])?;
    hold("a tensor map starts on 16 bytes", 0, view.address() as usize % 16)?;
    for (dim, part) in dims.iter().zip(boxes) {
        hold("dimensions of a tensor map are 1 to 2^32", (*dim).clamp(1, 1 << 32), *dim)?;
        hold("boxes are 1 to 256", (*part).clamp(1, 256), *part)?;
    }
    for stride in strides {
        hold("strides of a tensor map are multiples of 16 bytes", 0, stride * size % 16)?;
        hold("strides of a tensor map are below 2^40 bytes", (stride * size).min((1 << 40) - 16), stride * size)?;
    }
    let far: usize = dims[1..].iter().zip(strides).map(|(dim, stride)| (dim - 1) * stride).sum();
    hold("a tensor map's elements at most", (far + dims[0]).min(view.len()), far + dims[0])?;
    let mut encoding = Encoding {
        base: view.address() as u64,
        rank: dims.len(),
        dims: [1; MAX_RANK],
        strides: [size as u64; MAX_RANK],
        boxes: [1; MAX_RANK],
    };
    for i in 0..dims.len() {
        (encoding.dims[i], encoding.boxes[i]) = (dims[i] as u64, boxes[i] as u32);
        encoding.strides[i] = if i == 0 { size as u64 } else { (strides[i - 1] * size) as u64 };
    }
    Ok(encoding)
}

/// `TensorMap` of kernels/emu/tensor_map.h: base, dims, strides, then box, rank, element and swizzle bytes, 32 bits each.
fn emulated(e: &Encoding) -> RawMap {
    let mut raw = [0; 16];
    raw[0] = e.base;
    raw[1..4].copy_from_slice(&e.dims);
    raw[4..7].copy_from_slice(&e.strides);
    let words = [e.boxes[0], e.boxes[1], e.boxes[2], e.rank as u32, DType::Bf16.size() as u32, 128];
    for (to, pair) in raw[7..10].iter_mut().zip(words.chunks(2)) {
        *to = pair[0] as u64 | (pair[1] as u64) << 32;
    }
    RawMap(raw)
}

/// The driver's map of bf16, swizzled by 128 bytes, zero outside.
fn encode(e: &Encoding) -> Result<RawMap> {
    use sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 as BFLOAT16;
    use sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as FILL_ZERO;
    use sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE as NOT_INTERLEAVED;
    use sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_128B as PROMOTE_128B;
    use sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B as SWIZZLE_128B;
    /// Where the driver writes one, aligned as CUDA 13 declares its type.
    #[repr(C, align(128))]
    struct Written([u64; 16]);
    let (mut raw, steps) = (Written([0; 16]), [1u32; 3]);
    // SAFETY: writes the 128 bytes of a map, aligned to 128; reads `rank` dims, boxes and steps, `rank` - 1 strides.
    let done = unsafe {
        sys::cuTensorMapEncodeTiled(
            raw.0.as_mut_ptr().cast(),
            BFLOAT16,
            e.rank as u32,
            e.base as *mut std::ffi::c_void,
            e.dims.as_ptr(),
            e.strides[1..].as_ptr(),
            e.boxes.as_ptr(),
            steps.as_ptr(),
            NOT_INTERLEAVED,
            SWIZZLE_128B,
            PROMOTE_128B,
            FILL_ZERO,
        )
    };
    let fail =
        |error| Error::Device { device: "cuda".into(), what: format!("cuTensorMapEncodeTiled: {}", text(error)) };
    done.result().map_err(fail).map(|()| RawMap(raw.0))
}
