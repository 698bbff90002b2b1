//! The board: what each rank is at, in a file of its own in the run directory, and who looks when one is missed.
//!
//! The one idea: a rank that waits cannot say for whom, but every rank can say where it is. A thread of each rank writes that
//! down again and again; past the limit it reads what the others wrote, names whoever is not there, and ends the run. What is
//! left behind tells what happened.

use super::{Call, Link, agree};
use crate::disk::write_atomic;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Exit code of a run that was ended because a rank was missed.
pub const MISSED: u8 = 7;
/// Between two looks.
const EACH: Duration = Duration::from_millis(500);
/// How long a run may take to begin.
const BEGIN: Duration = Duration::from_secs(120);

/// What a rank is at.
struct Now {
    /// The last collective it came to; none before the first.
    call: Option<Call>,
    /// Since when it is in it; none once it is done.
    waits: Option<Instant>,
    /// What it does between collectives.
    phase: &'static str,
    /// Where the ranks write.
    folder: Option<PathBuf>,
    limit: Duration,
}

/// What a rank writes down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    rank: usize,
    host: String,
    pid: u32,
    phase: String,
    /// The number and name of the last collective it came to.
    collective: u64,
    what: String,
    /// True while it is in it.
    waits: bool,
}

/// A rank's place on the board.
pub struct Board {
    rank: usize,
    now: Mutex<Now>,
}

impl Board {
    /// A board whose watch ends the link's run when this rank waits too long.
    pub fn watched(link: &Arc<dyn Link>) -> Arc<Board> {
        let now = Now { call: None, waits: None, phase: "start", folder: None, limit: BEGIN };
        let board = Arc::new(Board { rank: link.rank(), now: Mutex::new(now) });
        let (watched, link) = (Arc::downgrade(&board), link.clone());
        std::thread::spawn(move || watch(&watched, &*link));
        board
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on ranks write into a folder of the run directory, and wait so long at most.
    pub fn place(&self, run: &Path, limit: Duration) {
        {
            let mut now = self.now();
            (now.folder, now.limit) = (Some(run.join(FOLDER)), limit);
        }
        self.write();
    }

    /// Writes down where this rank is; returns that, and since when it waits.
    fn write(&self) -> (Note, Option<Duration>) {
        let (note, folder, waits) = {
            let now = self.now();
            let call = now.call.unwrap_or(Call { number: 0, what: "none yet" });
            let note = Note {
                rank: self.rank,
                host: agree::host(),
                pid: std::process::id(),
                phase: now.phase.into(),
                collective: call.number,
                what: call.what.into(),
                waits: now.waits.is_some(),
            };
            (note, now.folder.clone(), now.waits.map(|since| since.elapsed()))
        };
        if let Some(folder) = folder {
            // A board that cannot be written is no reason to end a run.
            let text = serde_json::to_vec(&note).unwrap_or_default();
            let _ = std::fs::create_dir_all(&folder);
            let _ = write_atomic(&file(&folder, self.rank), |f| f.write_all(&text));
        }
        (note, waits)
    }

    /// What this rank does now.
    pub fn phase(&self, phase: &'static str) {
        self.now().phase = phase;
    }

    /// This rank comes to a collective.
    pub(super) fn comes(&self, call: Call) {
        let mut now = self.now();
        (now.call, now.waits) = (Some(call), Some(Instant::now()));
    }

    /// It is done.
    pub(super) fn leaves(&self) {
        self.now().waits = None;
    }
}

/// Where ranks write, in the run directory.
pub const FOLDER: &str = "ranks";

fn file(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("{rank:04}.json"))
}

/// Writes, and looks, until the board is gone.
fn watch(board: &Weak<Board>, link: &dyn Link) {
    while let Some(board) = board.upgrade() {
        let (note, waits) = board.write();
        let (folder, limit) = {
            let now = board.now();
            (now.folder.clone(), now.limit)
        };
        drop(board);
        if let Some(waited) = waits.filter(|waited| *waited > limit) {
            let what = missed(&note, waited, folder.as_deref(), link.world());
            let _ = writeln!(std::io::stderr(), "haggle: ranks: {what}");
            link.abort(MISSED, &what);
        }
        std::thread::sleep(EACH.min(limit / 4));
    }
}

/// How much older what a rank wrote last is than what this one did, by the clock of the disk that both write to: one that is
/// asleep, or whose machine is, writes no more.
fn silence(folder: &Path, mine: usize, rank: usize) -> Option<Duration> {
    let written = |rank| std::fs::metadata(file(folder, rank)).ok()?.modified().ok();
    written(mine)?.duration_since(written(rank)?).ok()
}

/// Who is missed, and where it was last.
fn missed(mine: &Note, waited: Duration, folder: Option<&Path>, world: usize) -> String {
    let call = Call { number: mine.collective, what: "" };
    let head = format!("collective {} ({}) waits {} s for", call.number, mine.what, waited.as_secs());
    let Some(folder) = folder else { return format!("{head} a rank that has not begun") };
    let note = |rank| -> Option<Note> { serde_json::from_slice(&std::fs::read(file(folder, rank)).ok()?).ok() };
    let place = |rank: usize| {
        let Some(note) = note(rank) else { return Some(format!("rank {rank}, which has written nothing")) };
        let silent = silence(folder, mine.rank, rank).filter(|silent| *silent > waited / 2);
        let behind = match (note.collective == mine.collective && note.waits, silent) {
            (true, None) => return None,
            (true, Some(silent)) => format!("in it, and has written nothing for {} s", silent.as_secs()),
            (false, _) => format!("behind collective {} ({})", note.collective, note.what),
        };
        let Note { host, pid, phase, .. } = note;
        Some(format!("rank {rank} ({host}, pid {pid}): last seen in phase {phase}, {behind}"))
    };
    let missing: Vec<String> = (0..world).filter(|rank| *rank != mine.rank).filter_map(place).collect();
    match missing.is_empty() {
        true => format!("{head} nobody: all ranks are in it, the transport does not end it"),
        false => format!("{head} {}", missing.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_not_there_is_named_with_its_host_and_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let note = |rank: usize, collective, waits| Note {
            rank,
            host: format!("gpu0{rank}"),
            pid: 40 + rank as u32,
            phase: "rollout".into(),
            collective,
            what: "episodes".into(),
            waits,
        };
        let mine = note(0, 12, true);
        let told = |others: &[Note]| {
            for other in others {
                std::fs::write(file(dir.path(), other.rank), serde_json::to_vec(other).unwrap()).unwrap();
            }
            missed(&mine, Duration::from_secs(600), Some(dir.path()), 3)
        };
        assert_eq!(
            told(&[note(1, 12, true), note(2, 11, false)]),
            "collective 12 (episodes) waits 600 s for rank 2 (gpu02, pid 42): last seen in phase rollout, behind \
             collective 11 (episodes)"
        );
        let all = [mine.clone(), note(1, 12, true), note(2, 12, true)];
        assert!(told(&all).ends_with("nobody: all ranks are in it, the transport does not end it"));
        let asleep = std::fs::File::options().write(true).open(file(dir.path(), 2)).unwrap();
        let written = std::fs::metadata(file(dir.path(), 0)).unwrap().modified().unwrap();
        asleep.set_modified(written - Duration::from_secs(590)).unwrap();
        assert!(told(&[]).ends_with(
            "for rank 2 (gpu02, pid 42): last seen in phase rollout, in it, and has written nothing for 590 s"
        ));
        std::fs::remove_file(file(dir.path(), 1)).unwrap();
        assert!(told(&[note(2, 12, true)]).ends_with("for rank 1, which has written nothing"));
        assert!(missed(&mine, BEGIN, None, 3).ends_with("a rank that has not begun"));
    }
}
