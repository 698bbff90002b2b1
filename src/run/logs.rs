//! The logs of a run that goes on, held to where its checkpoint stands, also when something was deleted of them for space.
//!
//! The one idea: a log is what a run says, not what it needs. What is gone is told, what is left of the steps before the
//! checkpoint stays, and the checkpoint's state learns the new length, so that later resumes cut at the right place.

use super::checkpoint;
use crate::disk::write_atomic;
use crate::error::{Error, Result, shown};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// Rows of metrics.
pub const METRICS: &str = "metrics.jsonl";
/// Episodes.
pub const EPISODES: &str = "episodes.jsonl";

/// What of a row says where it belongs.
#[derive(Deserialize)]
struct Row {
    step: u64,
}

/// Makes every log of a run end with the last step of the checkpoint `at`; a line about each that has lost something.
///
/// # Errors
/// What the disk says.
pub fn settle(run: &Path, at: &Path) -> Result<Vec<String>> {
    let mut state = checkpoint::state(at)?;
    let step = state.step;
    let logs = [(METRICS, &mut state.metrics_bytes), (EPISODES, &mut state.episodes_bytes)];
    let (mut cut, mut lost) = (Vec::new(), Vec::new());
    for (path, recorded) in logs.map(|(name, recorded)| (run.join(name), recorded)) {
        if !ends_at(&path, *recorded, step)? {
            cut.push((path, recorded));
        }
    }
    if cut.is_empty() {
        return Ok(lost);
    }
    // Nothing is rewritten for a checkpoint that nothing can go on from.
    checkpoint::open(at)?;
    for (path, recorded) in cut {
        let left = keep_rows(&path, step)?;
        *recorded = left.bytes;
        lost.push(match left.steps {
            None => format!("{}: its steps 1 to {step} are gone; it goes on with step {}", shown(&path), step + 1),
            Some((first, last)) => format!(
                "{}: is cut short; rows of steps {first} to {last} are left, it goes on with step {}",
                shown(&path),
                step + 1
            ),
        });
    }
    checkpoint::write_state(at, &state)?;
    Ok(lost)
}

/// Whether the rows of a log up to `step` end at `bytes`, as far as the rows around say.
fn ends_at(path: &Path, bytes: u64, step: u64) -> Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(bytes == 0),
        Err(e) => return Err(Error::io(path, format!("cannot be read: {e}"))),
    };
    let unreadable = |e| Error::io(path, format!("cannot be read: {e}"));
    if file.metadata().map_err(unreadable)?.len() < bytes {
        return Ok(false);
    }
    let before = if bytes == 0 { None } else { Some(row_before(&mut file, bytes).map_err(unreadable)?) };
    let mut next = Vec::new();
    file.seek(SeekFrom::Start(bytes)).map_err(unreadable)?;
    BufReader::new(file).read_until(b'\n', &mut next).map_err(unreadable)?;
    // What is not a whole row behind it was being written when the run ended.
    let seen = before.is_none_or(|row| row.ends_with(b"\n") && step_of(&row).is_some_and(|of| of <= step));
    Ok(seen && step_of(&next).is_none_or(|of| of > step))
}

fn step_of(row: &[u8]) -> Option<u64> {
    serde_json::from_slice(row).ok().map(|row: Row| row.step)
}

/// The line that ends at `end`.
fn row_before(file: &mut File, end: u64) -> io::Result<Vec<u8>> {
    let mut reach = 1 << 16;
    loop {
        let start = end.saturating_sub(reach);
        let mut tail = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut tail))?;
        let whole = &tail[..tail.len() - 1];
        match whole.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => return Ok(tail.split_off(at + 1)),
            None if start == 0 => return Ok(tail),
            None => reach *= 2,
        }
    }
}

/// What is left of a log.
struct Left {
    bytes: u64,
    /// The first and the last step of its rows.
    steps: Option<(u64, u64)>,
}

/// Cuts a log down to its whole rows of steps up to `step`.
fn keep_rows(path: &Path, step: u64) -> Result<Left> {
    let mut left = Left { bytes: 0, steps: None };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(left),
        Err(e) => return Err(Error::io(path, format!("cannot be read: {e}"))),
    };
    let (mut lines, mut line) = (BufReader::new(file), Vec::new());
    write_atomic(path, |kept| {
        while lines.read_until(b'\n', &mut line)? > 0 {
            match step_of(&line) {
                Some(of) if of <= step && line.ends_with(b"\n") => {
                    kept.write_all(&line)?;
                    left.bytes += line.len() as u64;
                    left.steps = Some((left.steps.map_or(of, |(first, _)| first), of));
                }
                _ => {}
            }
            line.clear();
        }
        Ok(())
    })?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::checkpoint::{State, state, write_state};
    use std::fs;

    /// A run with a checkpoint at step 2 and logs of 3 steps, the last of which the checkpoint has not seen.
    fn run() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("checkpoints/step-000002");
        fs::create_dir_all(at.join("haggle")).unwrap();
        // Rows longer than what is read of a file at once.
        let row = |step: u64| format!("{{\"step\":{step},\"x\":\"{}\"}}\n", "y".repeat(70_000 * step as usize));
        let rows: String = (1..=3).map(row).collect();
        let kept = (rows.len() - row(3).len()) as u64;
        for name in [METRICS, EPISODES] {
            fs::write(dir.path().join(name), &rows).unwrap();
        }
        let state = State { step: 2, metrics_bytes: kept, episodes_bytes: kept, ..State::start([1, 2]) };
        write_state(&at, &state).unwrap();
        (dir, at)
    }

    #[test]
    fn logs_that_lost_nothing_are_left_alone() {
        let (dir, at) = run();
        let before = state(&at).unwrap();
        assert!(settle(dir.path(), &at).unwrap().is_empty());
        assert_eq!(state(&at).unwrap(), before);
        assert_eq!(fs::read_to_string(dir.path().join(METRICS)).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_log_that_was_deleted_goes_on_empty_and_the_other_whole() {
        let (dir, at) = run();
        fs::remove_file(dir.path().join(EPISODES)).unwrap();
        let lost = settle(dir.path(), &at).unwrap();
        assert!(lost.len() == 1 && lost[0].contains("episodes.jsonl: its steps 1 to 2 are gone"), "{lost:?}");
        assert_eq!((state(&at).unwrap().episodes_bytes, state(&at).unwrap().metrics_bytes > 0), (0, true));
        assert!(settle(dir.path(), &at).unwrap().is_empty(), "it is told once");
    }

    #[test]
    fn a_log_that_lost_its_beginning_keeps_the_rows_the_checkpoint_has_seen() {
        // Also when more follows than is gone: rows of a step that the checkpoint has not seen, the last one torn, or one that
        // ends just where the checkpoint's last row did.
        let (_keep, at) = run();
        let recorded = state(&at).unwrap().episodes_bytes as usize;
        let torn = format!("{}{{\"st", "{\"step\":3}\n".repeat(20_000));
        let fill = recorded - "{\"step\":2,\"x\":1}\n{\"step\":3,\"x\":\"\"}\n".len();
        let level = format!("{{\"step\":3,\"x\":\"{}\"}}\n{{\"step\":3}}\n", "z".repeat(fill));
        for more in ["", &torn, &level] {
            let (dir, at) = run();
            let path = dir.path().join(EPISODES);
            fs::write(&path, format!("{{\"step\":2,\"x\":1}}\n{more}")).unwrap();
            let lost = settle(dir.path(), &at).unwrap();
            assert!(lost.len() == 1 && lost[0].contains("rows of steps 2 to 2 are left"), "{lost:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":2,\"x\":1}\n");
            assert_eq!(state(&at).unwrap().episodes_bytes, fs::metadata(&path).unwrap().len());
        }
    }
}
