//! Negotiations on disk: SQLite, in a folder that the user names.
//!
//! The one idea: a round is one transaction, synced before it is acknowledged, together with the answer to its idempotency key.
//! Its number is part of its key: of two writers to one round, here or on another machine, one is told so.

use super::super::refusal::Refusal;
use crate::error::{Error, Result, shown};
use axum::http::StatusCode;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const FILE: &str = "negotiations.sqlite";
/// The schema's version.
const VERSION: i64 = 1;
/// Milliseconds that a writer waits for another process.
const WAIT_MS: u64 = 2_000;
/// Milliseconds that answers to idempotency keys are kept.
const KEPT_MS: u64 = 7 * 86_400_000;

const SCHEMA: &str = "
CREATE TABLE negotiations (id TEXT PRIMARY KEY, settings TEXT NOT NULL, created_ms INTEGER NOT NULL,
    closed INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE rounds (id TEXT NOT NULL REFERENCES negotiations (id), n INTEGER NOT NULL, public TEXT NOT NULL,
    private TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (id, n)) STRICT, WITHOUT ROWID;
CREATE TABLE answers (key TEXT PRIMARY KEY, asked TEXT NOT NULL, answer TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
CREATE INDEX answers_by_age ON answers (at_ms);
CREATE INDEX negotiations_by_age ON negotiations (created_ms, id);";

/// A round as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// What may be told: see `record.rs`.
    pub public: String,
    /// What the model heard and said, thoughts included.
    pub private: String,
    /// Of `public`.
    pub hash: String,
}

/// A negotiation as it is stored.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As JSON.
    pub settings: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Whether it takes no more messages.
    pub closed: bool,
    /// In order.
    pub rounds: Vec<Round>,
}

/// A request that may come again: its key, the hash of its body, what it is answered.
#[derive(Debug, Clone)]
pub struct Once<'a> {
    /// The client's key with the route.
    pub key: &'a str,
    /// Hash of the body.
    pub asked: &'a str,
    /// The answer.
    pub answer: &'a str,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    db: Mutex<Connection>,
    path: PathBuf,
}

impl Store {
    /// Opens the database in a folder, and makes both where they are not there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, [`Error::Data`] for one that is damaged or of a newer version.
    pub fn open(folder: &Path) -> Result<Store> {
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
        if version > VERSION {
            let what = format!("is of version {version}, this haggle reads up to {VERSION}: run the newer one");
            return Err(Error::data(path, what));
        }
        if version == 0 {
            db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")).map_err(failed)?;
        }
        Ok(Store { db: Mutex::new(db), path })
    }

    /// Stores a new negotiation.
    ///
    /// # Errors
    /// 500 when it cannot be stored.
    pub fn create(&self, id: &str, settings: &str, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        self.write(|db| {
            db.execute(
                "INSERT INTO negotiations (id, settings, created_ms) VALUES (?, ?, ?)",
                params![id, settings, now_ms as i64],
            )?;
            remember(db, once, now_ms)
        })
    }

    /// Stores round `n` of a negotiation, from 1.
    ///
    /// # Errors
    /// 409 when there is one already, 500 when it cannot be stored.
    pub fn add(&self, id: &str, n: usize, round: &Round, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        let Round { public, private, hash } = round;
        self.write(|db| {
            db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?)", params![id, n as i64, public, private, hash])?;
            remember(db, once, now_ms)
        })
    }

    /// Closes a negotiation.
    ///
    /// # Errors
    /// 500 when it cannot be stored.
    pub fn close(&self, id: &str) -> Result<(), Refusal> {
        self.write(|db| db.execute("UPDATE negotiations SET closed = 1 WHERE id = ?", [id]).map(drop))
    }

    /// A negotiation with its rounds.
    ///
    /// # Errors
    /// 404 when there is none, 500 when it cannot be read.
    pub fn get(&self, id: &str) -> Result<Kept, Refusal> {
        let db = self.db();
        let row = |row: &rusqlite::Row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?));
        let head = db.query_row("SELECT settings, created_ms, closed FROM negotiations WHERE id = ?", [id], row);
        let Some((settings, created_ms, closed)) = head.optional().map_err(|e| self.failed(&e))? else {
            let what = format!("there is no negotiation `{}`", id.chars().take(60).collect::<String>());
            return Err(Refusal::new(StatusCode::NOT_FOUND, what).with_code("unknown_negotiation"));
        };
        let round = |row: &rusqlite::Row| Ok(Round { public: row.get(0)?, private: row.get(1)?, hash: row.get(2)? });
        let rounds = db
            .prepare_cached("SELECT public, private, hash FROM rounds WHERE id = ? ORDER BY n")
            .and_then(|mut ask| ask.query_map([id], round)?.collect::<Result<Vec<Round>, _>>())
            .map_err(|e| self.failed(&e))?;
        Ok(Kept { settings, created_ms: created_ms as u64, closed, rounds })
    }

    /// Ids of negotiations, the newest first: at most `most`, those behind `after`.
    ///
    /// # Errors
    /// 500 when they cannot be read.
    pub fn list(&self, most: usize, after: Option<&str>) -> Result<Vec<String>, Refusal> {
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

    /// What a key was answered, where it was: its answer.
    ///
    /// # Errors
    /// 409 when it was asked with another body.
    pub fn answered(&self, key: &str, asked: &str) -> Result<Option<String>, Refusal> {
        let row = |row: &rusqlite::Row| Ok((row.get::<_, String>(0)?, row.get(1)?));
        let found = self.db().query_row("SELECT asked, answer FROM answers WHERE key = ?", [key], row).optional();
        match found.map_err(|e| self.failed(&e))? {
            None => Ok(None),
            Some((before, answer)) if before == asked => Ok(Some(answer)),
            Some(_) => {
                Err(Refusal::conflict("this Idempotency-Key was used with another body", "idempotency_key_reused"))
            }
        }
    }

    fn write(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), Refusal> {
        let mut db = self.db();
        let done = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).and_then(|all| {
            work(&all)?;
            all.commit()
        });
        done.map_err(|e| match e.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => {
                Refusal::conflict("another message to this negotiation was answered first", "busy")
            }
            _ => self.failed(&e),
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
    fn of_two_writers_to_a_round_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let stores = [Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap()];
        stores[0].create("a", "{}", 5, None).unwrap();
        let round = Round { public: "{}".into(), private: "{}".into(), hash: "0".into() };
        stores[0].add("a", 1, &round, 6, None).unwrap();
        assert_eq!(stores[1].add("a", 1, &round, 6, None).unwrap_err().status, StatusCode::CONFLICT);
        stores[1].add("a", 2, &round, 6, None).unwrap();
        assert_eq!(stores[0].get("a").unwrap().rounds.len(), 2);
        assert_eq!(stores[0].get("b").unwrap_err().status, StatusCode::NOT_FOUND);
        for (i, id) in ["b", "c", "d"].iter().enumerate() {
            stores[0].create(id, "{}", 7 + i as u64, None).unwrap();
        }
        assert_eq!(
            (stores[1].list(2, None).unwrap(), stores[1].list(9, Some("c")).unwrap()),
            (vec!["d".into(), "c".into()], vec!["b".into(), "a".into()])
        );
    }

    #[test]
    fn a_key_is_answered_once_and_with_another_body_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let once = |answer| Some(Once { key: "k", asked: "x", answer });
        store.create("a", "{}", 5, once("first")).unwrap();
        assert_eq!(store.answered("k", "x").unwrap().as_deref(), Some("first"));
        assert_eq!(store.answered("k", "y").unwrap_err().status, StatusCode::CONFLICT);
        assert_eq!(store.answered("other", "x").unwrap(), None);
        assert!(
            store.create("b", "{}", 5, once("second")).is_err() && store.get("b").is_err(),
            "nothing of it is stored"
        );
        store.create("c", "{}", 6 + KEPT_MS, Some(Once { key: "l", asked: "x", answer: "third" })).unwrap();
        assert_eq!(store.answered("k", "y").unwrap(), None, "old ones are forgotten");
    }

    #[test]
    fn a_damaged_file_and_a_newer_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let path = dir.path().join(FILE);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
        assert!(Store::open(dir.path()).unwrap_err().to_string().contains("is of version 9"));
        std::fs::write(&path, "not a database at all, but some text that is long enough").unwrap();
        assert!(Store::open(dir.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
