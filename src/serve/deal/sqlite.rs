//! Negotiations in SQLite, in a folder that the user names.
//!
//! The one idea: a file beside the server, which a kill at any moment leaves whole. Every write is on the disk before it is
//! acknowledged, and writes that wait while another is being synced are synced together: a disk that syncs three hundred times
//! a second stores as many turns as the engine plays. Readers have a connection of their own and wait for no sync.

use super::super::refusal::Refusal;
use super::store::{KEPT_MS, Kept, Once, Round, Store, VERSION, again, overtaken, readable, unknown};
use crate::error::{Error, Result, shown};
use axum::http::StatusCode;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

const FILE: &str = "negotiations.sqlite";
/// Milliseconds that a writer waits for another process.
const WAIT_MS: u64 = 2_000;

const SCHEMA: &str = "
CREATE TABLE negotiations (id TEXT PRIMARY KEY, settings TEXT NOT NULL, created_ms INTEGER NOT NULL,
    closed INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE rounds (id TEXT NOT NULL REFERENCES negotiations (id), n INTEGER NOT NULL, public TEXT NOT NULL,
    private TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (id, n)) STRICT, WITHOUT ROWID;
CREATE TABLE answers (key TEXT PRIMARY KEY, asked TEXT NOT NULL, answer TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
CREATE INDEX answers_by_age ON answers (at_ms);
CREATE INDEX negotiations_by_age ON negotiations (created_ms, id);";

/// What stores something, or refuses to.
type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Result<(), Refusal>> + Send>;

/// A write that nobody has stored yet.
struct Waiting {
    work: Work,
    /// Whom to tell.
    tell: SyncSender<Result<(), Refusal>>,
}

/// The database.
pub struct Sqlite {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    /// Writes that the next who has the writer stores.
    waiting: Mutex<Vec<Waiting>>,
    path: PathBuf,
}

impl Sqlite {
    /// Opens the database in a folder, and makes both where they are not there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, [`Error::Data`] for one that is damaged or of a newer version.
    pub fn open(folder: &Path) -> Result<Sqlite> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| Error::io(folder, e))?;
        let path = folder.join(FILE);
        let failed = |e: rusqlite::Error| {
            let what = match e.sqlite_error_code() {
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                    "is damaged or no database: move it away, or name another --state folder".into()
                }
                _ => format!("cannot be opened: {e}"),
            };
            Error::data(&path, what)
        };
        let writer = Connection::open(&path).and_then(prepared).map_err(failed)?;
        let version = version(&writer).map_err(failed)?;
        if readable(version).map_err(|what| Error::data(&path, what))? == 0 {
            writer
                .execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"))
                .map_err(failed)?;
        }
        let reader = Connection::open(&path).and_then(prepared).map_err(failed)?;
        Ok(Sqlite { writer: Mutex::new(writer), reader: Mutex::new(reader), waiting: Mutex::default(), path })
    }

    /// All of `work`, or nothing of it, on the disk when this returns: by us, or by who had the writer while we waited for it.
    fn write(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<Result<(), Refusal>> + Send + 'static,
    ) -> Result<(), Refusal> {
        let (tell, told) = sync_channel(1);
        locked(&self.waiting).push(Waiting { work: Box::new(work), tell });
        let mut db = locked(&self.writer);
        if let Ok(done) = told.try_recv() {
            return done;
        }
        let waiting = std::mem::take(&mut *locked(&self.waiting));
        let (work, tell): (Vec<Work>, Vec<_>) = waiting.into_iter().map(|one| (one.work, one.tell)).unzip();
        let n = work.len();
        let done = self.synced(&mut db, work).unwrap_or_else(|e| vec![Err(self.failed(&e)); n]);
        tell.iter().zip(done).for_each(|(tell, done)| drop(tell.send(done)));
        let lost = || self.broken("whoever stored it broke off");
        told.recv().unwrap_or_else(|_| Err(lost()))
    }

    /// Each of `work` for itself, in one transaction. An error is of the whole: nothing was stored.
    fn synced(&self, db: &mut Connection, work: Vec<Work>) -> rusqlite::Result<Vec<Result<(), Refusal>>> {
        let mut all = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut done = vec![];
        for work in work {
            let one = all.savepoint()?;
            done.push(match work(&one) {
                Ok(Ok(())) => one.commit().map(Ok)?,
                Ok(refused) => refused,
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Err(overtaken()),
                Err(e) => Err(self.failed(&e)),
            });
        }
        all.commit()?;
        Ok(done)
    }

    fn failed(&self, e: &rusqlite::Error) -> Refusal {
        self.broken(&e.to_string())
    }

    fn broken(&self, what: &str) -> Refusal {
        let what = format!("{}: {what}; nothing was changed", shown(&self.path));
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, what).with_code("storage")
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        locked(&self.reader)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Sqlite {
    fn create(&self, id: &str, settings: &str, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        const NEW: &str = "INSERT INTO negotiations (id, settings, created_ms) VALUES (?, ?, ?)";
        let (id, settings, once) = (id.to_string(), settings.to_string(), once.map(Answer::of));
        self.write(move |db| {
            db.prepare_cached(NEW)?.execute(params![id, settings, now_ms as i64])?;
            remember(db, once, now_ms).map(Ok)
        })
    }

    fn add(&self, id: &str, n: usize, round: &Round, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        const BEHIND: &str = "INSERT INTO rounds SELECT id, ?2, ?3, ?4, ?5 FROM negotiations WHERE id = ?1 AND NOT closed \
                              AND (SELECT coalesce(max(n), 0) FROM rounds WHERE id = ?1) = ?2 - 1";
        let (id, round, once) = (id.to_string(), round.clone(), once.map(Answer::of));
        self.write(move |db| {
            let Round { public, private, hash } = &round;
            match db.prepare_cached(BEHIND)?.execute(params![id, n as i64, public, private, hash])? {
                0 => Ok(Err(overtaken())),
                _ => remember(db, once, now_ms).map(Ok),
            }
        })
    }

    fn close(&self, id: &str) -> Result<(), Refusal> {
        let id = id.to_string();
        self.write(move |db| db.execute("UPDATE negotiations SET closed = 1 WHERE id = ?", [id]).map(|_| Ok(())))
    }

    fn get(&self, id: &str) -> Result<Kept, Refusal> {
        let db = self.db();
        let row = |row: &rusqlite::Row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?));
        let head = db.query_row("SELECT settings, created_ms, closed FROM negotiations WHERE id = ?", [id], row);
        let Some((settings, created_ms, closed)) = head.optional().map_err(|e| self.failed(&e))? else {
            return Err(unknown(id));
        };
        let round = |row: &rusqlite::Row| Ok(Round { public: row.get(0)?, private: row.get(1)?, hash: row.get(2)? });
        let rounds = db
            .prepare_cached("SELECT public, private, hash FROM rounds WHERE id = ? ORDER BY n")
            .and_then(|mut ask| ask.query_map([id], round)?.collect::<Result<Vec<Round>, _>>())
            .map_err(|e| self.failed(&e))?;
        Ok(Kept { settings, created_ms: created_ms as u64, closed, rounds })
    }

    fn list(&self, most: usize, after: Option<&str>) -> Result<Vec<String>, Refusal> {
        const ALL: &str = "SELECT id FROM negotiations ORDER BY created_ms DESC, id DESC LIMIT ?2";
        const BEHIND: &str = "SELECT id FROM negotiations WHERE (created_ms, id) < (SELECT created_ms, id FROM negotiations \
                              WHERE id = ?1) ORDER BY created_ms DESC, id DESC LIMIT ?2";
        let ask = if after.is_some() { BEHIND } else { ALL };
        let db = self.db();
        let ids = db.prepare_cached(ask).and_then(|mut ask| {
            ask.query_map(params![after, most as i64], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
        });
        ids.map_err(|e| self.failed(&e))
    }

    fn answered(&self, key: &str, asked: &str) -> Result<Option<String>, Refusal> {
        let row = |row: &rusqlite::Row| Ok((row.get(0)?, row.get(1)?));
        let found = self.db().query_row("SELECT asked, answer FROM answers WHERE key = ?", [key], row).optional();
        again(found.map_err(|e| self.failed(&e))?, asked)
    }
}

fn prepared(db: Connection) -> rusqlite::Result<Connection> {
    db.busy_timeout(std::time::Duration::from_millis(WAIT_MS))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // What was acknowledged is on the disk, also after a power cut.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    Ok(db)
}

fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// [`Once`], as it waits.
struct Answer {
    key: String,
    asked: String,
    answer: String,
}

impl Answer {
    fn of(Once { key, asked, answer }: Once) -> Answer {
        Answer { key: key.into(), asked: asked.into(), answer: answer.into() }
    }
}

fn remember(db: &Connection, once: Option<Answer>, now_ms: u64) -> rusqlite::Result<()> {
    let Some(Answer { key, asked, answer }) = once else { return Ok(()) };
    db.execute("DELETE FROM answers WHERE at_ms < ?", [now_ms.saturating_sub(KEPT_MS) as i64])?;
    db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", params![key, asked, answer, now_ms as i64]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_are_synced_together_are_each_for_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(dir.path()).unwrap();
        let round = |hash: String| Round { public: "{}".into(), private: "{}".into(), hash };
        store.create("all", "{}", 1, None).unwrap();
        let stored: usize = std::thread::scope(|scope| {
            let one = |writer: usize| {
                let (store, round) = (&store, &round);
                scope.spawn(move || {
                    store.create(&format!("own-{writer}"), "{}", 1, None).unwrap();
                    // All write the same rounds of one negotiation: each is stored once.
                    (1..=8).filter(|n| store.add("all", *n, &round(format!("{writer}")), 2, None).is_ok()).count()
                })
            };
            let writers: Vec<_> = (0..16).map(one).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        let kept = store.get("all").unwrap();
        assert_eq!((kept.rounds.len(), stored), (8, 8));
        assert_eq!(store.list(100, None).unwrap().len(), 17);
        assert!(store.waiting.lock().unwrap().is_empty());
    }

    fn refused(folder: &Path) -> String {
        Sqlite::open(folder).err().unwrap().to_string()
    }

    #[test]
    fn a_damaged_file_and_a_newer_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Sqlite::open(dir.path()).unwrap());
        let path = dir.path().join(FILE);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
        assert!(refused(dir.path()).contains("is of version 9"));
        std::fs::write(&path, "not a database at all, but some text that is long enough").unwrap();
        assert!(refused(dir.path()).contains("is damaged"));
    }
}
