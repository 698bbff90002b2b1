//! Typed memory: buffers, and the views that ops take.

use super::gpu::card::Share;
use super::gpu::cuda_memory::Memory;
use super::host::HostMemory;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// The number types a buffer can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// bfloat16: storage only, arithmetic is in f32.
    Bf16,
    /// 32-bit signed integer (token ids, offsets, positions).
    I32,
    /// 64-bit unsigned integer (noise keys).
    U64,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::Bf16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::U64 => 8,
        }
    }

    /// The name used in messages and in safetensors headers.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::U64 => "u64",
        }
    }
}

/// A Rust number type that has a [`DType`].
pub trait Element: bytemuck::Pod + Default {
    /// Its tag.
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for half::bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u64 {
    const DTYPE: DType = DType::U64;
}

enum Storage {
    /// The memory, and on the emulator its share of the card.
    Host(HostMemory, #[expect(dead_code, reason = "held to be dropped")] Option<Share>),
    Cuda(Memory),
}

/// Memory of one number type on one device, zeroed at birth, 64-byte aligned, between two guard lines.
pub struct Buffer {
    dtype: DType,
    len: usize,
    storage: Storage,
    life: Arc<()>,
}

/// The life of a buffer, for those that know its address and do not hold it: the address is good while the life is not
/// over, whoever moves the buffer.
#[derive(Debug, Clone)]
pub struct Life(Weak<()>);

impl Life {
    /// True once the buffer was dropped.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// True when both are of one buffer.
    pub fn is(&self, other: &Life) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Buffer {
    /// On the host, on a card or not; none when the machine has no more.
    pub(super) fn host(dtype: DType, len: usize, share: Option<Share>) -> Option<Buffer> {
        let memory = HostMemory::zeroed(len.checked_mul(dtype.size())?)?;
        Some(Buffer { dtype, len, storage: Storage::Host(memory, share), life: Arc::default() })
    }

    pub(super) fn cuda(dtype: DType, len: usize, memory: Memory) -> Buffer {
        Buffer { dtype, len, storage: Storage::Cuda(memory), life: Arc::default() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its number type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Size in bytes, without the guard.
    pub fn size_bytes(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_> {
        View { buffer: self, dtype: self.dtype, start: 0, len: self.len }
    }

    /// Part of it, to read.
    pub fn at(&self, range: Range<usize>) -> View<'_> {
        self.view().at(range)
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let len = self.len;
        ViewMut { buffer: self, start: 0, len }
    }

    /// Part of it, to write.
    pub fn at_mut(&mut self, range: Range<usize>) -> ViewMut<'_> {
        assert!(range.start <= range.end && range.end <= self.len, "view {range:?} outside a buffer of {}", self.len);
        ViewMut { buffer: self, start: range.start, len: range.len() }
    }

    /// False when something wrote outside the buffer, just before or behind it. Tests ask after every op.
    pub fn guard_intact(&self) -> bool {
        match &self.storage {
            Storage::Host(memory, _) => memory.guard_intact(),
            Storage::Cuda(memory) => memory.guard_intact(),
        }
    }

    /// Its life.
    pub fn life(&self) -> Life {
        Life(Arc::downgrade(&self.life))
    }

    fn bytes(&self) -> *const u8 {
        match &self.storage {
            Storage::Host(memory, _) => memory.as_ptr(),
            Storage::Cuda(memory) => memory.address() as *const u8,
        }
    }

    fn bytes_mut(&mut self) -> *mut u8 {
        match &mut self.storage {
            Storage::Host(memory, _) => memory.as_mut_ptr(),
            Storage::Cuda(memory) => memory.address() as *mut u8,
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer[{} {}]", self.len, self.dtype.name())
    }
}

/// Part of a [`Buffer`], to read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    buffer: &'a Buffer,
    dtype: DType,
    start: usize,
    len: usize,
}

impl<'a> View<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its number type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Part of this view.
    pub fn at(self, range: Range<usize>) -> View<'a> {
        assert!(range.start <= range.end && range.end <= self.len, "view {range:?} outside a view of {}", self.len);
        View { start: self.start + range.start, len: range.len(), ..self }
    }

    /// The same memory as numbers of another type: a workspace that holds both.
    pub(crate) fn cast(self, dtype: DType) -> View<'a> {
        let (from, to) = (self.dtype.size(), dtype.size());
        View { dtype, start: self.start * from / to, len: self.len * from / to, ..self }
    }

    /// Where it starts, for a kernel.
    pub(crate) fn address(&self) -> *const u8 {
        self.buffer.bytes().wrapping_add(self.start * self.dtype.size())
    }

    /// See [`Buffer::guard_intact`].
    pub(super) fn guard_intact(&self) -> bool {
        self.buffer.guard_intact()
    }

    /// See [`Buffer::life`].
    pub fn life(&self) -> Life {
        self.buffer.life()
    }

    /// The elements, when the buffer is host memory of type `T`. For devices and ops only.
    pub(crate) fn host<T: Element>(&self) -> &'a [T] {
        assert_eq!(T::DTYPE, self.dtype, "view read as another type");
        assert!(matches!(self.buffer.storage, Storage::Host(..)), "a GPU's memory read as the host's");
        // SAFETY: the storage is 64-byte aligned, lives as long as 'a, holds `buffer.len` initialised elements of
        // this type (checked above), and start + len <= buffer.len by construction.
        unsafe { std::slice::from_raw_parts(self.buffer.bytes().cast::<T>().add(self.start), self.len) }
    }
}

/// Part of a [`Buffer`], to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    buffer: &'a mut Buffer,
    start: usize,
    len: usize,
}

impl<'a> ViewMut<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its number type.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype
    }

    /// The same part, to read.
    pub fn view(&self) -> View<'_> {
        View { buffer: self.buffer, dtype: self.buffer.dtype, start: self.start, len: self.len }
    }

    /// The same view for a shorter while, so that one view serves several calls.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: self.buffer, start: self.start, len: self.len }
    }

    /// Part of this view.
    pub fn at(self, range: Range<usize>) -> ViewMut<'a> {
        assert!(range.start <= range.end && range.end <= self.len, "view {range:?} outside a view of {}", self.len);
        ViewMut { start: self.start + range.start, len: range.len(), buffer: self.buffer }
    }

    /// Where it starts, for a kernel.
    pub(crate) fn address(&mut self) -> *mut u8 {
        self.buffer.bytes_mut().wrapping_add(self.start * self.buffer.dtype.size())
    }

    /// See [`Buffer::guard_intact`].
    pub(super) fn guard_intact(&self) -> bool {
        self.buffer.guard_intact()
    }

    /// See [`Buffer::life`].
    pub fn life(&self) -> Life {
        self.buffer.life()
    }

    /// The elements, when the buffer is host memory of type `T`. For devices and ops only.
    pub(crate) fn host_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.buffer.dtype, "view written as another type");
        assert!(matches!(self.buffer.storage, Storage::Host(..)), "a GPU's memory written as the host's");
        let bytes = self.buffer.bytes_mut();
        // SAFETY: as for `View::host`; the exclusive borrow of the buffer makes this the only view of it.
        unsafe { std::slice::from_raw_parts_mut(bytes.cast::<T>().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_reads_and_writes_its_own_part() {
        let mut b = Buffer::host(DType::F32, 10, None).unwrap();
        b.at_mut(3..6).host_mut::<f32>().copy_from_slice(&[1.0, 2.0, 3.0]);
        assert_eq!(b.at(2..7).host::<f32>(), &[0.0, 1.0, 2.0, 3.0, 0.0]);
        assert!(b.guard_intact());
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_view_outside_the_buffer_is_refused() {
        Buffer::host(DType::I32, 4, None).unwrap().at(2..5);
    }
}
