//! Negotiations in SQLite, in a folder that the user names.
//!
//! The one idea: a file beside the server, which a kill at any moment leaves whole: every write is a transaction, synced before
//! it is acknowledged.

use super::super::refusal::Refusal;
use super::store::{KEPT_MS, Kept, Once, Round, Store, VERSION, again, overtaken, readable, unknown};
use crate::error::{Error, Result, shown};
use axum::http::StatusCode;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
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

/// The database.
#[derive(Debug)]
pub struct Sqlite {
    db: Mutex<Connection>,
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
        let db = Connection::open(&path).and_then(prepared).map_err(failed)?;
        let version = version(&db).map_err(failed)?;
        if readable(version).map_err(|what| Error::data(&path, what))? == 0 {
            db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")).map_err(failed)?;
        }
        Ok(Sqlite { db: Mutex::new(db), path })
    }

    /// All of `work`, or nothing of it.
    fn write(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<Result<(), Refusal>>) -> Result<(), Refusal> {
        let mut db = self.db();
        let done =
            db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).and_then(|all| match work(&all)? {
                Ok(()) => all.commit().map(Ok),
                refused => Ok(refused),
            });
        done.unwrap_or_else(|e| match e.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => Err(overtaken()),
            _ => Err(self.failed(&e)),
        })
    }

    fn failed(&self, e: &rusqlite::Error) -> Refusal {
        let what = format!("{}: {e}; nothing was changed", shown(&self.path));
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, what).with_code("storage")
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Sqlite {
    fn create(&self, id: &str, settings: &str, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        self.write(|db| {
            db.execute(
                "INSERT INTO negotiations (id, settings, created_ms) VALUES (?, ?, ?)",
                params![id, settings, now_ms as i64],
            )?;
            remember(db, once, now_ms).map(Ok)
        })
    }

    fn add(&self, id: &str, n: usize, round: &Round, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        const BEHIND: &str = "INSERT INTO rounds SELECT id, ?2, ?3, ?4, ?5 FROM negotiations WHERE id = ?1 AND NOT closed \
                              AND (SELECT coalesce(max(n), 0) FROM rounds WHERE id = ?1) = ?2 - 1";
        let Round { public, private, hash } = round;
        self.write(|db| match db.execute(BEHIND, params![id, n as i64, public, private, hash])? {
            0 => Ok(Err(overtaken())),
            _ => remember(db, once, now_ms).map(Ok),
        })
    }

    fn close(&self, id: &str) -> Result<(), Refusal> {
        self.write(|db| db.execute("UPDATE negotiations SET closed = 1 WHERE id = ?", [id]).map(|_| Ok(())))
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

fn remember(db: &Connection, once: Option<Once>, now_ms: u64) -> rusqlite::Result<()> {
    let Some(Once { key, asked, answer }) = once else { return Ok(()) };
    db.execute("DELETE FROM answers WHERE at_ms < ?", [now_ms.saturating_sub(KEPT_MS) as i64])?;
    db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", params![key, asked, answer, now_ms as i64]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_and_a_newer_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Sqlite::open(dir.path()).unwrap());
        let path = dir.path().join(FILE);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
        assert!(Sqlite::open(dir.path()).unwrap_err().to_string().contains("is of version 9"));
        std::fs::write(&path, "not a database at all, but some text that is long enough").unwrap();
        assert!(Sqlite::open(dir.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
