//! A Postgres of the test's own, and what must hold of any store of negotiations: one list of cases, for each database we have.
#![allow(dead_code)] // each test file uses a part

use haggle::serve::deal::{Once, Round, Store};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The password of the test's database, whose words must stand nowhere.
pub const PASSWORD: &str = "hush-4711";
/// Who runs Postgres where the test is root, which Postgres refuses to be.
const NOBODY: u32 = 65_534;
/// Milliseconds that answers to idempotency keys are kept.
const KEPT_MS: u64 = 7 * 86_400_000;

/// A Postgres on a port of the loopback, in a folder that goes with it.
pub struct Database {
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

/// The folder of the newest Postgres that is installed, as Debian lays them.
fn installed() -> Option<PathBuf> {
    let all = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    let version = |bin: &PathBuf| -> u32 {
        bin.parent().and_then(Path::file_name).and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    all.filter(|bin| bin.join("initdb").exists() && bin.join("psql").exists()).max_by_key(version)
}

impl Database {
    /// One that answers; none, loudly, where Postgres is not installed.
    pub fn start(test: &str) -> Option<Database> {
        let Some(bin) = installed() else {
            assert!(std::env::var_os("HAGGLE_REQUIRE_POSTGRES").is_none(), "no Postgres is installed");
            eprintln!("SKIPPED {test}: no Postgres in /usr/lib/postgresql; tools/install-postgres gets it");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        if is_root {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut database = Database { bin, dir, port, child: None };
        std::fs::write(database.dir.path().join("password"), PASSWORD).unwrap();
        let mut make = database.program("initdb", is_root);
        make.args(["-U", "haggle", "-A", "scram-sha-256", "--pwfile", "password", "-E", "UTF8", "--no-locale", "-N"]);
        let made = make.args(["-D", "data"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        database.begin();
        Some(database)
    }

    fn program(&self, name: &str, as_nobody: bool) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(self.dir.path()).stdin(Stdio::null()).env("PGPASSWORD", PASSWORD);
        if as_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts it, again where it was stopped, and waits until it answers.
    pub fn begin(&mut self) {
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(self.dir.path()).unwrap());
        let log = std::fs::File::options().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let mut command = self.program("postgres", owner == NOBODY);
        command.args(["-D", "data", "-c", "listen_addresses=127.0.0.1", "-c", "synchronous_commit=off", "-p"]);
        command.arg(self.port.to_string()).arg("-k").arg(self.dir.path()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() || self.psql("postgres", "SELECT 1").is_none() {
            let said = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(60), "{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it: with `-INT` connections are cut and what was committed is written down; with `-QUIT` it stops where it stands.
    pub fn end(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a statement says, a line a row; none where it fails.
    pub fn psql(&self, database: &str, statement: &str) -> Option<String> {
        let mut command = self.program("psql", false);
        command.args(["-h", "127.0.0.1", "-U", "haggle", "-tAq", "-v", "ON_ERROR_STOP=1", "-d", database, "-p"]);
        let said = command.arg(self.port.to_string()).args(["-c", statement]).output().unwrap();
        said.status.success().then(|| String::from_utf8(said.stdout).unwrap())
    }

    /// A new, empty database, and its address; the password is not in it.
    pub fn new_database(&self, name: &str) -> String {
        self.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        self.url(name)
    }

    /// The address of a database, with this user.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://haggle@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }
}

/// Opens a store anew: each time another handle on the same database, which was empty at first.
type Open<'a> = &'a dyn Fn() -> Box<dyn Store>;

/// One of them.
type Case = fn(Open);

/// What must hold of every store.
pub const CASES: [(&str, Case); 7] = [
    ("of_two_writers_to_a_round_one_is_told", of_two_writers_to_a_round_one_is_told),
    ("a_round_is_stored_behind_the_one_before_and_in_an_open_negotiation", a_round_is_stored_behind_the_one_before),
    ("what_one_wrote_another_reads_to_the_byte", what_one_wrote_another_reads_to_the_byte),
    ("the_newest_are_listed_first_a_page_at_a_time", the_newest_are_listed_first_a_page_at_a_time),
    ("a_key_is_answered_once_and_with_another_body_not_at_all", a_key_is_answered_once),
    ("many_at_once_wait_for_each_other", many_at_once_wait_for_each_other),
    ("what_nobody_stored_is_not_there", what_nobody_stored_is_not_there),
];

fn round(public: &str) -> Round {
    Round { public: public.into(), private: "{}".into(), hash: "0".into() }
}

fn of_two_writers_to_a_round_one_is_told(open: Open) {
    let stores = [open(), open()];
    stores[0].create("a", "{}", 5, None).unwrap();
    for n in 1..=10 {
        let told: Vec<u16> = std::thread::scope(|scope| {
            let write = |i: usize| {
                let store = &stores[i % 2];
                scope.spawn(move || store.add("a", n, &round(&i.to_string()), 6, None).map_err(|e| e.status.as_u16()))
            };
            let all: Vec<_> = (0..4).map(write).collect();
            all.into_iter().map(|one| one.join().unwrap().err().unwrap_or(200)).collect()
        });
        let mut sorted = told.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [200, 409, 409, 409], "round {n}");
        let first = told.iter().position(|status| *status == 200).unwrap();
        let rounds = stores[1].get("a").unwrap().rounds;
        assert_eq!((rounds.len(), &rounds[n - 1]), (n, &round(&first.to_string())), "what was acknowledged is stored");
    }
}

fn a_round_is_stored_behind_the_one_before(open: Open) {
    let stores = [open(), open()];
    stores[0].create("a", "{}", 5, None).unwrap();
    let add = |n: usize| stores[1].add("a", n, &round("{}"), 6, None).map_err(|refusal| refusal.status.as_u16());
    assert_eq!([add(2), add(1), add(1), add(3), add(2)], [Err(409), Ok(()), Err(409), Err(409), Ok(())]);
    stores[0].close("a").unwrap();
    assert_eq!((add(3), stores[1].get("a").unwrap().closed), (Err(409), true));
    assert_eq!(stores[1].add("b", 1, &round("{}"), 6, None).unwrap_err().status, 409, "no negotiation of this name");
}

fn what_one_wrote_another_reads_to_the_byte(open: Open) {
    let stores = [open(), open()];
    let texts = [
        "{\"a\": \"\\u0000 it's \\\"quoted\\\"\"}",
        "\u{feff}na\u{ef}ve \u{1f9fe} \u{202e}",
        "a\tb\r\n\\n $1 ? %s ''",
        "",
    ];
    stores[0].create("a", texts[0], u64::from(u32::MAX) * 100, None).unwrap();
    for (i, text) in texts.iter().enumerate() {
        let one = Round { public: (*text).into(), private: texts[(i + 1) % 4].into(), hash: format!("{i}") };
        stores[i % 2].add("a", i + 1, &one, 6, None).unwrap();
        assert_eq!(stores[(i + 1) % 2].get("a").unwrap().rounds[i], one);
    }
    let kept = open().get("a").unwrap();
    assert_eq!((kept.settings.as_str(), kept.created_ms, kept.closed), (texts[0], u64::from(u32::MAX) * 100, false));
    assert_eq!(kept, stores[0].get("a").unwrap());
}

fn the_newest_are_listed_first_a_page_at_a_time(open: Open) {
    let stores = [open(), open()];
    // Two of one moment are in the order of their bytes, in any language.
    for (i, (id, at)) in [("a", 5), ("B", 6), ("b", 6), ("-", 6), ("d", 9), ("c", 8)].into_iter().enumerate() {
        stores[i % 2].create(id, "{}", at, None).unwrap();
    }
    let list = |most: usize, after: Option<&str>| stores[0].list(most, after).unwrap().join(" ");
    assert_eq!(list(9, None), "d c b B - a");
    assert_eq!([list(2, None), list(2, Some("c")), list(9, Some("B"))], ["d c", "b B", "- a"]);
    assert_eq!([list(9, Some("a")), list(9, Some("none"))], ["", ""]);
}

fn a_key_is_answered_once(open: Open) {
    let stores = [open(), open()];
    let once = |answer| Some(Once { key: "k", asked: "x", answer });
    stores[0].create("a", "{}", 5, once("first")).unwrap();
    assert_eq!(stores[1].answered("k", "x").unwrap().as_deref(), Some("first"));
    assert_eq!(stores[1].answered("k", "y").unwrap_err().status, 409);
    assert_eq!(stores[1].answered("other", "x").unwrap(), None);
    assert_eq!(stores[1].create("b", "{}", 5, once("second")).unwrap_err().status, 409);
    assert_eq!(stores[1].get("b").unwrap_err().status, 404, "nothing of it is stored");
    assert_eq!(stores[1].add("a", 1, &round("{}"), 5, once("second")).unwrap_err().status, 409);
    assert_eq!(stores[1].get("a").unwrap().rounds, [], "nor of that");
    let other = Once { key: "l", asked: "x", answer: "third" };
    stores[0].create("c", "{}", 6 + KEPT_MS, Some(other)).unwrap();
    assert_eq!(stores[1].answered("k", "y").unwrap(), None, "old ones are forgotten");
    assert_eq!(stores[1].answered("l", "x").unwrap().as_deref(), Some("third"));
}

fn many_at_once_wait_for_each_other(open: Open) {
    let store = open();
    std::thread::scope(|scope| {
        for i in 0..150 {
            let store = &store;
            scope.spawn(move || store.create(&format!("{i:03}"), "{}", 5, None).unwrap());
        }
    });
    assert_eq!(store.list(200, None).unwrap().len(), 150);
}

fn what_nobody_stored_is_not_there(open: Open) {
    let store = open();
    for id in ["a", "", "a\0b", "'; DROP TABLE rounds; --", "\u{1f9fe}"] {
        assert_eq!(store.get(id).unwrap_err().status, 404, "{id:?}");
    }
    store.close("a").unwrap();
    assert_eq!(store.list(9, None).unwrap(), [""; 0]);
}
