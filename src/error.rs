//! The library's one error type: each variant is a fact with its fields.
//!
//! The binary prints one line (`Display`) and exits with [`Error::exit_code`].

use std::path::{Path, PathBuf};

/// Memory of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can still be taken.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// What limits it, where that is not the device itself.
    pub bound: &'static str,
    /// True when what is mapped counts, touched or not.
    pub mapped: bool,
}

/// What takes less memory.
const LESS: &str = "take fewer pages (engine.pages), fewer rows (engine.max_rows), smaller micro-batches \
                    (grpo.micro_batch_tokens) or, on emu and cuda, model.dtype = \"bf16\"";

/// What went wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An op was given buffers that do not fit its shape letters.
    #[error("{op}: {rule}: want {want}, got {got}")]
    Shape {
        /// The op's stem.
        op: &'static str,
        /// Which rule was broken, in the op's own letters.
        rule: &'static str,
        /// The size the rule asks for.
        want: usize,
        /// The size that came.
        got: usize,
    },
    /// A buffer holds another number type than the op takes.
    #[error("{op}: {tensor} must be {want}, is {got}")]
    DType {
        /// The op's stem.
        op: &'static str,
        /// The tensor's name.
        tensor: &'static str,
        /// The type the op takes.
        want: &'static str,
        /// The type that came.
        got: &'static str,
    },
    /// A file or folder could not be read or written.
    #[error("{path}: {what}", path = shown(.path))]
    Io {
        /// The path.
        path: PathBuf,
        /// What failed, and what to do.
        what: String,
    },
    /// A data file (products, ids, checkpoint parts) holds something it must not.
    #[error("{path}: {what}", path = shown(.path))]
    Data {
        /// The file.
        path: PathBuf,
        /// The record and what is wrong with it.
        what: String,
    },
    /// Product files hold what they must not; every problem at once, a line each: file, record, what is wrong.
    #[error("{}", .problems.join("\n"))]
    Products {
        /// One line each.
        problems: Vec<String>,
    },
    /// Lines of a data file hold what they must not; every problem at once, a line each: file, line, what is wrong.
    #[error("{}", .problems.join("\n"))]
    Lines {
        /// One line each.
        problems: Vec<String>,
    },
    /// A weight is missing, misnamed or of another shape.
    #[error("{file}: weight `{name}`: want {want}, got {got}", file = shown(.file))]
    Weight {
        /// The file that holds it, or the folder where none does.
        file: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What the config asks for.
        want: String,
        /// What the file holds.
        got: String,
    },
    /// The configuration or the command line cannot be used; every problem at once, a line each.
    #[error("{}", .problems.join("\n"))]
    Config {
        /// One line each: file, line, key, what to do.
        problems: Vec<String>,
    },
    /// The device asked for is not there or cannot do this.
    #[error("device {device}: {what}")]
    Device {
        /// The device as the user named it.
        device: String,
        /// What is missing and what to do.
        what: String,
    },
    /// A device has no room for a buffer. What takes the room is in `haggle train --dry-run`.
    #[error("device {device}: no room for {what}, {}{}; {LESS}", mib(*.bytes), room.map_or(String::new(), of_room))]
    Memory {
        /// The device.
        device: String,
        /// The buffer.
        what: String,
        /// Its size.
        bytes: u64,
        /// What the device has, where it says.
        room: Option<Room>,
    },
    /// A kernel did something wrong: the emulator saw it, or the GPU reported a fault.
    #[error("{op}: kernel {kernel} on {shape}{}: {what}", place(.block, .thread))]
    Kernel {
        /// The op's stem.
        op: &'static str,
        /// The entry point.
        kernel: String,
        /// The op's shape, in its letters.
        shape: String,
        /// The block, where known.
        block: Option<[u32; 3]>,
        /// The thread of the block, where known.
        thread: Option<[u32; 3]>,
        /// What it did.
        what: String,
    },
    /// A graph of launches cannot be run again, or one of its launches failed.
    #[error("graph {name} ({ops}): {what}")]
    Graph {
        /// What it computes, of which size.
        name: String,
        /// The ops in it, each with the number of its launches.
        ops: String,
        /// What failed.
        what: String,
    },
    /// A reply was submitted for a side that is not to speak.
    #[error("no turn for the {side}: {state}")]
    Turn {
        /// The side.
        side: &'static str,
        /// Whose turn it is instead.
        state: &'static str,
    },
    /// A seller behind a server is lost: it cannot be reached, or fails one request after the other.
    #[error("the seller at {url} is lost: {what}")]
    Seller {
        /// The server's address.
        url: String,
        /// What it does, or does not.
        what: String,
    },
    /// Ranks that should work together cannot: one is missing, has failed, or is of another run.
    #[error("ranks: {what}")]
    Ranks {
        /// Which rank, at what, and what to do.
        what: String,
    },
    /// Training cannot go on (non-finite loss or gradient, too many skipped steps).
    #[error("training stopped: {what}")]
    Training {
        /// Step, quantity, what to do.
        what: String,
    },
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Room {
    /// `1.0 MiB of 2.0 MiB`, and what limits it.
    pub fn of_total(&self) -> String {
        let bound = if self.bound.is_empty() { String::new() } else { format!(", limited by {},", self.bound) };
        format!("{} of {}{bound}", mib(self.free_bytes), mib(self.total_bytes))
    }
}

impl Error {
    /// Exit code by kind: 2 usage, 3 data, 4 device, 5 training, 6 ranks; 1 is left to what is none of these.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config { .. } => 2,
            Error::Io { .. }
            | Error::Data { .. }
            | Error::Products { .. }
            | Error::Lines { .. }
            | Error::Weight { .. } => 3,
            Error::Device { .. } | Error::Memory { .. } | Error::Kernel { .. } | Error::Graph { .. } => 4,
            Error::Training { .. } | Error::Seller { .. } => 5,
            Error::Ranks { .. } => 6,
            Error::Shape { .. } | Error::DType { .. } | Error::Turn { .. } => 1,
        }
    }

    /// An [`Error::Io`] from a path and whatever failed there.
    pub fn io(path: impl Into<PathBuf>, what: impl ToString) -> Error {
        Error::Io { path: path.into(), what: what.to_string() }
    }

    /// The same, when it is [`Error::Memory`], with the buffer's own name.
    pub fn named(self, buffer: impl FnOnce() -> String) -> Error {
        match self {
            Error::Memory { device, bytes, room, .. } => Error::Memory { device, what: buffer(), bytes, room },
            other => other,
        }
    }

    /// An [`Error::Data`] from a file and what is wrong in it.
    pub fn data(path: impl Into<PathBuf>, what: impl ToString) -> Error {
        Error::Data { path: path.into(), what: what.to_string() }
    }
}

/// `, block (x, y, z), thread (x, y, z)`, as far as known.
fn place(block: &Option<[u32; 3]>, thread: &Option<[u32; 3]>) -> String {
    let part =
        |name: &str, at: &Option<[u32; 3]>| at.map_or(String::new(), |[x, y, z]| format!(", {name} ({x}, {y}, {z})"));
    part("block", block) + &part("thread", thread)
}

/// A path on one line, each byte that cannot be shown as `\\xHH`.
pub fn shown(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let part = |chunk: std::str::Utf8Chunk| {
        let spell = |c: char| if c.is_control() { format!("\\x{:02x}", u32::from(c)) } else { c.into() };
        let rest = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        chunk.valid().chars().map(spell).chain(rest).collect::<String>()
    };
    bytes.utf8_chunks().map(part).collect()
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

fn of_room(room: Room) -> String {
    format!(" ({} are free)", room.of_total())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn paths_of_any_bytes_are_shown_on_one_line() {
        let path = Path::new(std::ffi::OsStr::from_bytes(b"caf\xc3\xa9/r\xe9\n\x1b[2J"));
        assert_eq!(Error::io(path, "gone").to_string(), "caf\u{e9}/r\\xe9\\x0a\\x1b[2J: gone");
    }
}
