//! A safetensors file opened: its size held to what its header says before a byte of it is mapped.

use crate::device::map_file;
use crate::disk::refuse_pointer;
use crate::error::{Error, Result};
use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of the length that a file begins with.
const LENGTH: u64 = 8;
/// The longest header that is read; that of the largest published model has a hundredth of it.
const MOST: u64 = 100_000_000;

/// A safetensors file opened in memory.
pub(super) struct Opened<'a> {
    /// The file.
    pub path: PathBuf,
    /// Its tensors.
    pub tensors: SafeTensors<'a>,
}

/// The file, mapped; it has the size that its header says.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    let size = file.metadata().map_err(|e| Error::io(path, format!("cannot be read: {e}")))?.len();
    check_size(path, file, size)?;
    map_file(path)
}

/// The tensors of a file's bytes.
pub(super) fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<Opened<'a>> {
    Ok(Opened { path: path.into(), tensors: SafeTensors::deserialize(bytes).map_err(|e| broken(path, e))? })
}

fn broken(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::data(path, format!("truncated or corrupted safetensors file: {what}; fetch or save it again"))
}

/// Holds `got`, a file's bytes, to what its header says; `from` reads it from its beginning.
pub(super) fn check_size(path: &Path, mut from: impl Read, got: u64) -> Result<()> {
    let read = |e: io::Error| Error::io(path, format!("cannot be read: {e}"));
    let mut head = Vec::new();
    from.by_ref().take(64).read_to_end(&mut head).map_err(read)?;
    refuse_pointer(path, &head)?;
    let Some(length) = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(broken(path, format!("{got} bytes, no header")));
    };
    let want = LENGTH.saturating_add(length);
    if length > MOST || want > got {
        return Err(broken(path, format!("want {want} bytes by its first number, header alone, got {got}")));
    }
    from.take(want.saturating_sub(head.len() as u64)).read_to_end(&mut head).map_err(read)?;
    let header = head.get(LENGTH as usize..want as usize).unwrap_or_default();
    let header: Value = serde_json::from_slice(header).map_err(|e| broken(path, format!("header: {e}")))?;
    let ends = header.as_object().into_iter().flatten().filter_map(|(_, entry)| entry["data_offsets"][1].as_u64());
    match want.saturating_add(ends.max().unwrap_or(0)) {
        want if got < want => Err(broken(path, format!("want {want} bytes by its header, got {got}"))),
        want if got > want => {
            Err(broken(path, format!("{} bytes follow the last tensor: want {want}, got {got}", got - want)))
        }
        _ => Ok(()),
    }
}
