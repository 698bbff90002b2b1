//! The report of a run: `report.html`, one self-contained page, and `curve.svg`, its first picture alone.
//!
//! The one idea: it is built from the run directory's files and nothing else, so `haggle report RUN` rebuilds it at any
//! time, from a run that was killed too. Curves are inline SVG; the page loads nothing. Beside it an episode, token by token:
//! [`lesson`]; a board of models: [`board`].

mod answers;
pub mod board;
pub mod compare;
mod curves;
mod dialogues;
mod files;
mod held_out;
pub mod lesson;
mod page;
mod parts;
mod phases;

pub use files::RunFiles;

use crate::error::{Error, Result};
use crate::rank::board::Board;
use std::path::{Path, PathBuf};

/// Writes `report.html` and `curve.svg` of a run directory; returns the page's path.
///
/// # Errors
/// [`Error::Io`] or [`Error::Data`] naming the file that cannot be read or written.
pub fn write(run_dir: &Path) -> Result<PathBuf> {
    let files = RunFiles::read(run_dir)?;
    if files.about.is_none() {
        save(run_dir.join("curve.svg"), &curves::headline(&files)?)?;
    }
    save(run_dir.join("report.html"), &page::page(&files)?)
}

/// Writes an episode, token by token, as a page.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_lesson(lesson: &lesson::Lesson, path: &Path) -> Result<()> {
    save(path.into(), &lesson::page::page(lesson)).map(drop)
}

/// Writes runs beside each other as a page.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_comparison(runs: &[compare::One], path: &Path) -> Result<()> {
    save(path.into(), &compare::page(runs)?).map(drop)
}

/// Writes a board of `haggle rank` as a page.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_board(board: &Board, path: &Path) -> Result<()> {
    save(path.into(), &board::page(board)).map(drop)
}

/// Writes whole or not at all: a new file beside, then a rename.
fn save(path: PathBuf, text: &str) -> Result<PathBuf> {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, &path))
        .map_err(|e| Error::io(&path, format!("cannot write the report: {e}")))?;
    Ok(path)
}

#[cfg(test)]
mod tests;
