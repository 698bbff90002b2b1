//! Files of games: csv, JSON lines and Parquet as leaderboards ship them, counts, and haggle's own runs.
//!
//! The one idea: a row is refused by its number, its column and its value, and nothing is guessed: what a word does not
//! say is no tie.

mod csv_rows;
mod json_rows;
mod parquet_rows;
mod played;
mod sink;

use super::count::Counter;
use super::games::Games;
use super::rewards::Episode;
use crate::error::{Error, Result};
use played::Split;
use sink::Sink;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Models at most: more are a column that is not one of models.
pub const MODELS: usize = 1000;
/// Columns of models.
const PAIR: [&str; 2] = ["model_a", "model_b"];
/// The column of one game's end.
const WINNER: &str = "winner";
/// Columns of counts.
const COUNTS: [&str; 3] = ["wins_a", "wins_b", "ties"];
/// The one category of rows that name none.
pub const ALL: &str = "all";

/// Which columns say where a game was played, and with whom it belongs.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Categories; by default `category`, where there is such a column.
    pub category: Option<String>,
    /// A second way to split, over the categories.
    pub persona: Option<String>,
    /// Clusters; by default `cluster`, where there is such a column.
    pub cluster: Option<String>,
    /// What else is known of a game: numbers, the first model's less the second's.
    pub covariates: Vec<String>,
}

/// What a column is to be, and its name: asked for by the user, or usual.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    name: &'a str,
    /// The option that asked for it; none where it may be missing.
    by: Option<&'static str>,
}

impl Columns {
    fn category(&self) -> Wanted<'_> {
        wanted(self.category.as_deref(), "category", "--by")
    }

    fn persona(&self) -> Option<Wanted<'_>> {
        self.persona.as_deref().map(|name| Wanted { name, by: Some("--by") })
    }

    fn cluster(&self) -> Wanted<'_> {
        wanted(self.cluster.as_deref(), "cluster", "--cluster")
    }
}

fn wanted<'a>(asked: Option<&'a str>, usual: &'a str, option: &'static str) -> Wanted<'a> {
    match asked {
        Some(name) => Wanted { name, by: Some(option) },
        None => Wanted { name: usual, by: None },
    }
}

/// One row as it was read, before its words are understood.
#[derive(Debug, Default)]
struct Raw<'a> {
    models: [Cow<'a, str>; 2],
    winner: Option<Cow<'a, str>>,
    counts: Option<[Cow<'a, str>; 3]>,
    category: Cow<'a, str>,
    /// More categories of the same game.
    more: Vec<Cow<'a, str>>,
    persona: Cow<'a, str>,
    cluster: Option<Cow<'a, str>>,
    weight: Option<Cow<'a, str>>,
    covariates: Vec<Cow<'a, str>>,
}

/// Ends a reading that must begin anew, with each row as a cluster.
enum Stop {
    Failed(Error),
    SeveralCategories,
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Failed(e)
    }
}

/// What files hold.
pub struct Input {
    /// The games.
    pub games: Games,
    /// The episodes they follow from, where they are haggle's own.
    pub episodes: Vec<Episode>,
}

/// Counts the games of all files; a folder is a run or an evaluation of haggle's own.
///
/// # Errors
/// [`Error::Io`] and [`Error::Data`]: the file, the row, the column, the value, and what would do; [`Error::Config`] for a
/// split that episodes do not have.
pub fn read(files: &[PathBuf], columns: &Columns) -> Result<Input> {
    let own: Vec<Option<PathBuf>> = files.iter().map(|path| played::file_of(path)).collect();
    if own.iter().any(Option::is_some) {
        let by = splits(columns)?;
        let other = files.iter().zip(&own).find(|(_, own)| own.is_none()).map(|(path, _)| path);
        if let Some(path) = other {
            return Err(Error::data(path, "is no run and no evaluation; rank it apart from those"));
        }
        let (games, episodes) = played::read(&own.into_iter().flatten().collect::<Vec<_>>(), by)?;
        return Ok(Input { games: checked(games, files)?, episodes });
    }
    let games = match counted(files, columns, false) {
        Err(Stop::SeveralCategories) => counted(files, columns, true),
        other => other,
    };
    match games {
        Ok(games) => Ok(Input { games: checked(games, files)?, episodes: Vec::new() }),
        Err(Stop::Failed(e)) => Err(e),
        Err(Stop::SeveralCategories) => Err(Error::data(&files[0], "holds rows of several categories")),
    }
}

/// The games of an evaluation, from the lines of its `games.jsonl` that stand in memory.
///
/// # Errors
/// As [`read`].
pub fn evaluation(lines: &str, columns: &Columns) -> Result<Input> {
    let name = PathBuf::from("games.jsonl");
    let (games, episodes) = played::of_lines(&name, lines, splits(columns)?)?;
    Ok(Input { games: checked(games, &[name])?, episodes })
}

/// How haggle's own games are split.
fn splits(columns: &Columns) -> Result<[Split; 2]> {
    let split = |name: Option<&str>, usual| name.map_or(Ok(usual), split_of);
    Ok([split(columns.category.as_deref(), Split::Product)?, split(columns.persona.as_deref(), Split::None)?])
}

/// The split of a name.
fn split_of(name: &str) -> Result<Split> {
    let found = played::SPLITS.iter().find(|(known, _)| *known == name).map(|(_, split)| *split);
    let names = played::SPLITS.map(|(name, _)| name).join(", ");
    let what = || format!("--by {name}: episodes are split by {names}");
    found.ok_or_else(|| Error::Config { problems: vec![what()] })
}

fn counted(files: &[PathBuf], columns: &Columns, by_row: bool) -> Result<Games, Stop> {
    let mut counter = Counter::default();
    for path in files {
        let mut sink = Sink { columns, counter, path, by_row };
        match kind(path)? {
            Kind::Csv => csv_rows::read(path, columns, &mut sink)?,
            Kind::Json => json_rows::read(path, columns, &mut sink)?,
            Kind::Parquet => parquet_rows::read(path, columns, &mut sink)?,
        }
        counter = sink.counter;
    }
    let mut games = counter.finish();
    games.votes.iter_mut().for_each(|votes| votes.names.clone_from(&columns.covariates));
    Ok(games)
}

/// What a file is.
enum Kind {
    Csv,
    Json,
    Parquet,
}

fn kind(path: &Path) -> Result<Kind> {
    use std::io::Read;
    if path.is_dir() {
        return Err(Error::data(
            path,
            "holds neither games.jsonl (an evaluation) nor episodes.jsonl (a run); name one that does, or files of games",
        ));
    }
    let mut head = [0; 4096];
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    let n = file.read(&mut head).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    let head = &head[..n];
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None if n == head.len() && n < 4096 => Err(Error::data(path, "is empty; want rows of games")),
        _ if head.starts_with(b"PAR1") => Ok(Kind::Parquet),
        _ if head.starts_with(b"\x1f\x8b") => Err(Error::data(path, "is compressed; unpack it first")),
        _ if head.contains(&0) => Err(Error::data(path, "is no text; want csv or JSON lines of games, in UTF-8")),
        Some(b'{' | b'[') => Ok(Kind::Json),
        _ => Ok(Kind::Csv),
    }
}

/// What must hold of all files together.
fn checked(games: Games, files: &[PathBuf]) -> Result<Games> {
    let refuse = |what: String| Err(Error::data(&files[0], what));
    let (t, m) = games.shape();
    if games.rows == 0 {
        return refuse("holds no games".into());
    }
    if m < 2 {
        return refuse(format!("holds games of {m} model; two are needed to compare any"));
    }
    for (category, name) in games.categories.iter().enumerate().filter(|_| games.personas == 1) {
        if games.of(category).iter().all(|cell| cell.won.total() <= 0.0) {
            return refuse(format!("category `{name}` is empty: all its counts are 0; leave its rows out"));
        }
    }
    if t * m * m > 10_000_000 {
        return refuse(format!(
            "{m} models in {t} categories are too many to rank together; take fewer categories (--by)"
        ));
    }
    Ok(games)
}
