//! What a launch is: a kernel's name, its grid, its argument block.

use super::tensor_map::{RawMap, TensorMap};
use crate::device::buffer::Life;
use crate::device::{DType, View, ViewMut};
use std::ffi::c_void;
use std::fmt::Display;

/// Most parameters a kernel may have.
pub const MAX_ARGS: usize = 32;

/// One launch, and what an error about it should name.
pub struct Launch<'a> {
    /// The entry point: `rmsnorm_fwd_f32`.
    pub kernel: &'static str,
    /// The op's stem.
    pub op: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The op's shape, in its letters: `format_args!("N={n} C={c}")`.
    pub shape: &'a dyn Display,
}

/// Threads of a block of an elementwise kernel.
const ELEMENTS: usize = 256;
/// Bytes that a thread loads or stores at once, at most.
const VECTOR: usize = 16;

impl<'a> Launch<'a> {
    /// A launch of a kernel of `n` elements of which each thread has `width`.
    pub fn elements(
        kernel: &'static str,
        op: &'static str,
        n: usize,
        width: usize,
        shape: &'a dyn Display,
    ) -> Launch<'a> {
        let grid = [n.div_ceil(ELEMENTS * width) as u32, 1, 1];
        Launch { kernel, op, grid, block: [ELEMENTS as u32, 1, 1], shared_bytes: 0, shape }
    }
}

/// Elements that a thread has: 16 bytes of the widest type, if runs of `run` elements are whole vectors and all tensors
/// start on one; else 1.
pub fn vector_width(run: usize, widest: DType, addresses: &[*const u8]) -> usize {
    let width = VECTOR / widest.size();
    let starts = addresses.iter().all(|address| (*address as usize).is_multiple_of(VECTOR));
    if run.is_multiple_of(width) && starts { width } else { 1 }
}

/// When a launch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// When all launches before it have ended.
    Full,
    /// Perhaps before that: its kernel waits for them itself (kernels/common/dependent.cuh).
    Programmatic,
}

/// One kernel parameter.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A tensor to read.
    In(View<'a>),
    /// A tensor to write.
    Out(ViewMut<'a>),
    /// A tensor to read, through the copy engine of Hopper: `const __grid_constant__ TensorMap`
    Map(TensorMap<'a>),
    /// No tensor: a null pointer.
    Null,
    /// `int32_t`
    I32(i32),
    /// `int64_t`
    I64(i64),
    /// `uint64_t`
    U64(u64),
    /// `float`
    F32(f32),
}

impl Arg<'_> {
    /// The letter of its kind: p pointer, i 32-bit int, l 64-bit int, f float, m tensor map.
    pub(super) fn letter(&self) -> u8 {
        match self {
            Arg::In(_) | Arg::Out(_) | Arg::Null => b'p',
            Arg::I32(_) => b'i',
            Arg::I64(_) | Arg::U64(_) => b'l',
            Arg::F32(_) => b'f',
            Arg::Map(_) => b'm',
        }
    }

    /// Its bytes, lowest first.
    fn bits(&mut self) -> u64 {
        match self {
            Arg::In(view) => view.address() as u64,
            Arg::Out(view) => view.address() as u64,
            Arg::Null | Arg::Map(_) => 0,
            Arg::I32(x) => *x as u32 as u64,
            Arg::I64(x) => *x as u64,
            Arg::U64(x) => *x,
            Arg::F32(x) => x.to_bits() as u64,
        }
    }

    /// The memory it names; empty when it names none.
    fn range(&mut self) -> Range {
        let (start, bytes, writable) = match self {
            Arg::In(view) | Arg::Map(TensorMap { view, .. }) => {
                (view.address() as usize, view.len() * view.dtype().size(), 0)
            }
            Arg::Out(view) => (view.address() as usize, view.len() * view.dtype().size(), 1),
            _ => return Range::default(),
        };
        Range { start, end: start + bytes, argument: 0, writable }
    }

    /// The life of the buffer it names.
    fn life(&self) -> Option<Life> {
        match self {
            Arg::In(view) | Arg::Map(TensorMap { view, .. }) => Some(view.life()),
            Arg::Out(view) => Some(view.life()),
            _ => None,
        }
    }

    fn map(&self) -> Option<&RawMap> {
        match self {
            Arg::Map(TensorMap { raw, .. }) => Some(raw),
            _ => None,
        }
    }

    /// False when something wrote outside the buffer behind it.
    pub(super) fn guard_intact(&self) -> bool {
        match self {
            Arg::In(view) | Arg::Map(TensorMap { view, .. }) => view.guard_intact(),
            Arg::Out(view) => view.guard_intact(),
            _ => true,
        }
    }
}

/// Memory that a parameter names; see `Range` in kernels/emu/runtime.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Range {
    pub start: usize,
    pub end: usize,
    pub argument: u32,
    pub writable: u32,
}

/// A parameter as a kernel gets it, without the borrow it came with: for launches that run again, see [`super::graph`].
pub(super) struct RawArg {
    letter: u8,
    value: u64,
    map: Option<Box<RawMap>>,
    pub range: Range,
}

impl RawArg {
    /// The parameter, and the life of the buffer it names.
    pub(super) fn of(arg: &mut Arg) -> (RawArg, Option<Life>) {
        let map = arg.map().map(|map| Box::new(*map));
        (RawArg { letter: arg.letter(), value: arg.bits(), map, range: arg.range() }, arg.life())
    }
}

/// The argument block, as `cuLaunchKernel` and the emulator take it: a pointer to each parameter.
pub(super) struct ArgBlock<'a> {
    len: usize,
    letters: [u8; MAX_ARGS],
    values: [u64; MAX_ARGS],
    /// Parameters that stand elsewhere.
    maps: [Option<&'a RawMap>; MAX_ARGS],
    ranges: [Range; MAX_ARGS],
    pointers: [*mut c_void; MAX_ARGS],
}

impl<'a> ArgBlock<'a> {
    fn empty() -> ArgBlock<'a> {
        ArgBlock {
            len: 0,
            letters: [0; MAX_ARGS],
            values: [0; MAX_ARGS],
            maps: [None; MAX_ARGS],
            ranges: [Range::default(); MAX_ARGS],
            pointers: [std::ptr::null_mut(); MAX_ARGS],
        }
    }

    fn push(&mut self, letter: u8, value: u64, map: Option<&'a RawMap>, range: Range) {
        let i = self.len;
        (self.letters[i], self.values[i], self.maps[i]) = (letter, value, map);
        self.ranges[i] = Range { argument: i as u32, ..range };
        self.len += 1;
    }

    /// Of at most [`MAX_ARGS`] parameters.
    pub(super) fn new(args: &'a mut [Arg]) -> ArgBlock<'a> {
        let mut block = ArgBlock::empty();
        for arg in args.iter_mut().take(MAX_ARGS) {
            let (letter, value, range) = (arg.letter(), arg.bits(), arg.range());
            block.push(letter, value, arg.map(), range);
        }
        block
    }

    /// Of parameters that were kept.
    pub(super) fn again(args: &'a [RawArg]) -> ArgBlock<'a> {
        let mut block = ArgBlock::empty();
        args.iter().take(MAX_ARGS).for_each(|arg| block.push(arg.letter, arg.value, arg.map.as_deref(), arg.range));
        block
    }

    /// A letter for each parameter, see [`Arg::letter`].
    pub(super) fn letters(&self) -> &[u8] {
        &self.letters[..self.len]
    }

    /// The memory of each parameter.
    pub(super) fn ranges(&self) -> &[Range] {
        &self.ranges[..self.len]
    }

    /// Valid until the block moves or is dropped. What they point to is only read.
    pub(super) fn pointers(&mut self) -> *mut *mut c_void {
        let parameters = self.values.iter_mut().zip(&self.maps);
        self.pointers.iter_mut().zip(parameters).for_each(|(p, (value, map))| {
            *p = match map {
                Some(map) => (&raw const **map).cast_mut().cast(),
                // Little endian: a 4-byte parameter is read from the first bytes of its 8.
                None => (value as *mut u64).cast(),
            }
        });
        self.pointers.as_mut_ptr()
    }
}
