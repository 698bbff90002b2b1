//! Files mapped into memory.

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Maps a file to read it. The file must not be cut while the map lives; we only replace files by renaming.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened or mapped.
pub fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the map is private and read-only; see above for who may change the file.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, format!("cannot map: {e}")))
}
