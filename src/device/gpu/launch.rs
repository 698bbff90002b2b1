//! What a launch is: a kernel's name, its grid, its argument block.

use super::tensor_map::{RawMap, TensorMap};
use crate::device::{View, ViewMut};
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

    /// Start and bytes of the memory it names.
    pub(super) fn range(&mut self) -> Option<(usize, usize)> {
        match self {
            Arg::In(view) | Arg::Map(TensorMap { view, .. }) => {
                Some((view.address() as usize, view.len() * view.dtype().size()))
            }
            Arg::Out(view) => Some((view.address() as usize, view.len() * view.dtype().size())),
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

/// The argument block, as `cuLaunchKernel` and the emulator take it: a pointer to each parameter.
pub(super) struct ArgBlock<'a> {
    values: [u64; MAX_ARGS],
    /// Parameters that stand elsewhere.
    maps: [Option<&'a RawMap>; MAX_ARGS],
    pointers: [*mut c_void; MAX_ARGS],
}

impl<'a> ArgBlock<'a> {
    pub(super) fn new(args: &'a mut [Arg]) -> ArgBlock<'a> {
        let (mut values, mut maps) = ([0; MAX_ARGS], [None; MAX_ARGS]);
        args.iter_mut().zip(&mut values).for_each(|(arg, value)| *value = arg.bits());
        for (arg, map) in args.iter().zip(&mut maps) {
            if let Arg::Map(TensorMap { raw, .. }) = arg {
                *map = Some(raw);
            }
        }
        ArgBlock { values, maps, pointers: [std::ptr::null_mut(); MAX_ARGS] }
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

    /// The same as a slice.
    pub(super) fn slice(&mut self) -> &mut [*mut c_void] {
        self.pointers();
        &mut self.pointers
    }
}
