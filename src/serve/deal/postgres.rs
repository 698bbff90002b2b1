//! Negotiations in Postgres: one database behind any number of servers.
//!
//! The one idea: a server keeps nothing that another would need, so a negotiation goes on wherever its next message arrives. The
//! row of a negotiation is locked while a round is put behind it: so the database says who was first. A database that is lost
//! is a 503 and a line for who runs the server; the next request opens another connection. What was sent and not acknowledged
//! when it was lost may be stored: who asks again with the same idempotency key is told.

use super::super::refusal::Refusal;
use super::store::{KEPT_MS, Kept, Once, Round, Store, VERSION, again, overtaken, readable, unknown};
use crate::error::{Error, Result as Opened};
use axum::http::StatusCode;
use std::error::Error as _;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, Row};

/// For all that one request asks of the database.
const LIMIT: Duration = Duration::from_secs(10);
/// What is said of it then.
const SILENT: &str = "no answer in 10 s";
/// For a connection, where the address does not say.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections of a server; more requests wait. A Postgres as it comes takes a hundred, of all servers together.
const MOST: usize = 16;

/// One server at a time makes the tables.
const LOCK: &str = "BEGIN; SELECT pg_advisory_xact_lock(4857201960213)";
const SCHEMA: &str = "
CREATE SCHEMA IF NOT EXISTS haggle;
CREATE TABLE haggle.version (n BIGINT NOT NULL);
CREATE TABLE haggle.negotiations (id TEXT COLLATE \"C\" PRIMARY KEY, settings TEXT NOT NULL, created_ms BIGINT NOT NULL,
    closed BOOLEAN NOT NULL DEFAULT false);
CREATE TABLE haggle.rounds (id TEXT COLLATE \"C\" NOT NULL REFERENCES haggle.negotiations (id), n BIGINT NOT NULL,
    public TEXT NOT NULL, private TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (id, n));
CREATE TABLE haggle.answers (key TEXT COLLATE \"C\" PRIMARY KEY, asked TEXT NOT NULL, answer TEXT NOT NULL,
    at_ms BIGINT NOT NULL);
CREATE INDEX answers_by_age ON haggle.answers (at_ms);
CREATE INDEX negotiations_by_age ON haggle.negotiations (created_ms, id);";
/// What is acknowledged is on the disk, whatever the database does by default; a statement nobody waits for ends.
const SESSION: &str =
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SET statement_timeout = '10s'; SET idle_in_transaction_session_timeout = '20s'";

/// Why a request got nothing of the database.
enum Failed {
    /// It is as the API says it.
    Refused(Refusal),
    /// The database did not do it.
    Lost(String),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(e: tokio_postgres::Error) -> Failed {
        match e.code() {
            Some(&SqlState::UNIQUE_VIOLATION) => Failed::Refused(overtaken()),
            _ => Failed::Lost(told(&e)),
        }
    }
}

/// The database.
pub struct Postgres {
    /// Its connections' own: they outlive requests, and a store is opened before the server listens.
    runtime: Runtime,
    config: Config,
    /// Its address without user and password.
    place: String,
    idle: Mutex<Vec<Client>>,
    places: Semaphore,
    lost: AtomicBool,
}

impl Postgres {
    /// Connects to `postgres://USER@HOST/DATABASE`, with `password` where the address has none, and makes the tables where they
    /// are not there.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no such address, [`Error::Io`] when the database cannot be reached or used, [`Error::Data`]
    /// for one of a newer version or another encoding.
    pub fn open(url: &str, password: Option<&str>) -> Opened<Postgres> {
        let config = configured(url, password).map_err(|what| Error::Config { problems: vec![what] })?;
        let place = place(&config);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| Error::io(&place, e))?;
        let (idle, places, lost) = (Mutex::default(), Semaphore::new(MOST), AtomicBool::new(false));
        let store = Postgres { runtime, config, place, idle, places, lost };
        store.runtime.block_on(async {
            let what = async { store.made(&store.connected().await?).await };
            let made = tokio::time::timeout(LIMIT, what).await;
            let made: Result<_, tokio_postgres::Error> = made.map_err(|_| Error::io(&store.place, SILENT))?;
            match made.map_err(|e| Error::io(&store.place, told(&e)))? {
                Ok(()) => Ok(()),
                Err(what) => Err(Error::data(&store.place, what)),
            }
        })?;
        Ok(store)
    }

    /// Makes the tables, or looks at those that are there; why they cannot be used.
    async fn made(&self, db: &Client) -> Result<Result<(), String>, tokio_postgres::Error> {
        let encoding: String = db.query_one("SELECT current_setting('server_encoding')", &[]).await?.get(0);
        if encoding != "UTF8" {
            return Ok(Err(format!("is in the encoding {encoding}: make a database in UTF8")));
        }
        db.batch_execute(LOCK).await?;
        let there: bool = db.query_one("SELECT to_regclass('haggle.version') IS NOT NULL", &[]).await?.get(0);
        if there {
            let row = db.query_one("SELECT max(n) FROM haggle.version", &[]).await?;
            db.batch_execute("COMMIT").await?;
            return Ok(readable(row.get::<_, Option<i64>>(0).unwrap_or_default()).map(drop));
        }
        db.batch_execute(&format!("{SCHEMA} INSERT INTO haggle.version VALUES ({VERSION}); COMMIT")).await?;
        Ok(Ok(()))
    }

    async fn connected(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, wire) = self.config.connect(NoTls).await?;
        self.runtime.spawn(wire);
        client.batch_execute(SESSION).await?;
        Ok(client)
    }

    /// A connection in a transaction: one that was kept and is still good, or another.
    async fn begun(&self) -> Result<Client, tokio_postgres::Error> {
        // Nothing was asked yet: a connection that was lost meanwhile costs nobody anything.
        loop {
            let kept = self.kept().pop();
            let Some(client) = kept else { break };
            if client.batch_execute("BEGIN").await.is_ok() {
                return Ok(client);
            }
        }
        let client = self.connected().await?;
        client.batch_execute("BEGIN").await?;
        Ok(client)
    }

    /// All of `work`, or nothing of it.
    fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, Failed>) -> Result<T, Refusal> {
        let all = async {
            let _place = self.places.acquire().await;
            let client = self.begun().await?;
            let done = work(&client).await;
            let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
            let ended = client.batch_execute(end).await;
            if ended.is_ok() {
                self.kept().push(client);
            }
            let told = done?;
            ended?;
            Ok(told)
        };
        let within = async { tokio::time::timeout(LIMIT, all).await };
        match self.runtime.block_on(within) {
            Ok(Ok(told)) => {
                self.noted(None);
                Ok(told)
            }
            Ok(Err(Failed::Refused(refusal))) => Err(refusal),
            Ok(Err(Failed::Lost(why))) => Err(self.noted(Some(&why))),
            Err(_) => Err(self.noted(Some(SILENT))),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who runs the server when the database is lost, and when it is back; 503.
    fn noted(&self, why: Option<&str>) -> Refusal {
        let place = &self.place;
        let line = match (self.lost.swap(why.is_some(), Ordering::Relaxed), why) {
            (false, Some(why)) => format!("haggle: {place}: {why}; negotiations are refused until it answers\n"),
            (true, None) => format!("haggle: {place}: answers again\n"),
            _ => String::new(),
        };
        // Nobody need listen.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
        let what =
            "the database of negotiations does not answer: ask again, with the same Idempotency-Key where there is one";
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, what).with_code("storage_unavailable");
        Refusal { retry_after: Some(1), ..refusal }
    }
}

impl Store for Postgres {
    fn create(&self, id: &str, settings: &str, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        const NEW: &str = "INSERT INTO haggle.negotiations VALUES ($1, $2, $3)";
        self.run(async |db| {
            let values: [Value; 3] = [(&id, Type::TEXT), (&settings, Type::TEXT), (&(now_ms as i64), Type::INT8)];
            db.execute_typed(NEW, &values).await?;
            remember(db, once, now_ms).await
        })
    }

    fn add(&self, id: &str, n: usize, round: &Round, now_ms: u64, once: Option<Once>) -> Result<(), Refusal> {
        const BEHIND: &str = "INSERT INTO haggle.rounds SELECT id, $2, $3, $4, $5 FROM haggle.negotiations WHERE id = $1 \
                              AND NOT closed AND (SELECT coalesce(max(n), 0) FROM haggle.rounds WHERE id = $1) = $2 - 1 \
                              FOR UPDATE";
        let (n, Round { public, private, hash }) = (n as i64, round);
        self.run(async |db| {
            let texts = [(public as _, Type::TEXT), (private as _, Type::TEXT), (hash as _, Type::TEXT)];
            let values: Vec<Value> = [(&id as _, Type::TEXT), (&n as _, Type::INT8)].into_iter().chain(texts).collect();
            match db.execute_typed(BEHIND, &values).await? {
                0 => Err(Failed::Refused(overtaken())),
                _ => remember(db, once, now_ms).await,
            }
        })
    }

    fn close(&self, id: &str) -> Result<(), Refusal> {
        self.run(async |db| {
            db.execute_typed("UPDATE haggle.negotiations SET closed = true WHERE id = $1", &[(&id, Type::TEXT)])
                .await?;
            Ok(())
        })
    }

    fn get(&self, id: &str) -> Result<Kept, Refusal> {
        const HEAD: &str = "SELECT settings, created_ms, closed FROM haggle.negotiations WHERE id = $1";
        const ROUNDS: &str = "SELECT public, private, hash FROM haggle.rounds WHERE id = $1 ORDER BY n";
        // No text of Postgres holds it, so no id does.
        if id.contains('\0') {
            return Err(unknown(id));
        }
        self.run(async |db| {
            let Some(head) = db.query_typed(HEAD, &[(&id, Type::TEXT)]).await?.pop() else {
                return Err(Failed::Refused(unknown(id)));
            };
            let rows = db.query_typed(ROUNDS, &[(&id, Type::TEXT)]).await?;
            let round = |row: &Row| Round { public: row.get(0), private: row.get(1), hash: row.get(2) };
            let created_ms = head.get::<_, i64>(1) as u64;
            Ok(Kept {
                settings: head.get(0),
                created_ms,
                closed: head.get(2),
                rounds: rows.iter().map(round).collect(),
            })
        })
    }

    fn list(&self, most: usize, after: Option<&str>) -> Result<Vec<String>, Refusal> {
        const LISTED: &str = "SELECT id FROM haggle.negotiations WHERE $1 IS NULL OR (created_ms, id) < \
                              (SELECT created_ms, id FROM haggle.negotiations WHERE id = $1) \
                              ORDER BY created_ms DESC, id DESC LIMIT $2";
        let most = most as i64;
        self.run(async |db| {
            let rows = db.query_typed(LISTED, &[(&after, Type::TEXT), (&most, Type::INT8)]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })
    }

    fn answered(&self, key: &str, asked: &str) -> Result<Option<String>, Refusal> {
        const ANSWER: &str = "SELECT asked, answer FROM haggle.answers WHERE key = $1";
        let found = self.run(async |db| Ok(db.query_typed(ANSWER, &[(&key, Type::TEXT)]).await?.pop()))?;
        again(found.map(|row| (row.get(0), row.get(1))), asked)
    }
}

/// A value of a statement, and its type: so a statement is one message there and one back.
type Value<'a> = (&'a (dyn tokio_postgres::types::ToSql + Sync), Type);

async fn remember(db: &Client, once: Option<Once<'_>>, now_ms: u64) -> Result<(), Failed> {
    // What another forgets at the same time is passed over: nobody waits for anybody.
    const FORGET: &str = "DELETE FROM haggle.answers WHERE key IN (SELECT key FROM haggle.answers WHERE at_ms < $1 \
                          FOR UPDATE SKIP LOCKED)";
    const KEEP: &str = "INSERT INTO haggle.answers VALUES ($1, $2, $3, $4)";
    let Some(Once { key, asked, answer }) = once else { return Ok(()) };
    let (now, old) = (now_ms as i64, now_ms.saturating_sub(KEPT_MS) as i64);
    db.execute_typed(FORGET, &[(&old, Type::INT8)]).await?;
    let texts = [(&key as _, Type::TEXT), (&asked as _, Type::TEXT), (&answer as _, Type::TEXT)];
    let values: Vec<Value> = texts.into_iter().chain([(&now as _, Type::INT8)]).collect();
    db.execute_typed(KEEP, &values).await?;
    Ok(())
}

/// An address as it is written on the command line, or what is wrong with it; its password is in no word of that.
fn configured(url: &str, password: Option<&str>) -> Result<Config, String> {
    let read = url.parse::<Config>().map_err(|e| told(&e));
    let mut config = read.map_err(|why| format!("--state: want postgres://USER@HOST/DATABASE: {why}"))?;
    if let (None, Some(password)) = (config.get_password(), password) {
        config.password(password);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    if config.get_application_name().is_none() {
        config.application_name("haggle");
    }
    config.tcp_user_timeout(LIMIT).keepalives_idle(LIMIT);
    Ok(config)
}

/// `postgres://HOST:PORT/DATABASE`
fn place(config: &Config) -> String {
    let port = |at: usize| config.get_ports().get(at).or(config.get_ports().first()).copied().unwrap_or(5432);
    let host = |(at, host): (usize, &Host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(at)),
        Host::Unix(folder) => format!("{}:{}", folder.display(), port(at)),
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    format!("postgres://{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

/// An error of the database with its cause, on one line.
fn told(e: &tokio_postgres::Error) -> String {
    let cause = match (e.as_db_error(), e.source()) {
        (Some(said), _) => said.message().to_string(),
        (None, Some(cause)) => format!("{e}: {cause}"),
        (None, None) => e.to_string(),
    };
    cause.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_without_user_and_password() {
        for (url, want) in [
            ("postgres://ann:secret@db.example/deals", "postgres://db.example:5432/deals"),
            ("postgresql://ann@a,b:7000/deals", "postgres://a:5432,b:7000/deals"),
            ("postgres://ann@%2Frun%2Fpg/deals", "postgres:///run/pg:5432/deals"),
        ] {
            assert_eq!(configured(url, None).map(|config| place(&config)), Ok(want.into()));
        }
        let own = configured("postgres://ann:own@a/b", Some("other")).unwrap();
        assert_eq!(own.get_password(), Some(&b"own"[..]));
        let none = configured("postgres://ann@a/b", Some("other")).unwrap();
        assert_eq!(none.get_password(), Some(&b"other"[..]));
        for url in [
            "postgres://ann:secret@a:port/b",
            "postgres://ann:secret@a/b?colour=red",
            "postgres://ann:secret@a/b?connect_timeout=soon",
        ] {
            let said = configured(url, None).unwrap_err();
            assert!(said.starts_with("--state: want postgres://") && !said.contains("secret"), "{said}");
        }
    }
}
