//! Products from a folder in the AmazonHistoryPrice format: one file a category, prices as text.
//!
//! The one idea: the files are read exactly as published; whatever is wrong is named by file and record, all of it at once,
//! and what stands in them twice is taken once.

use super::product::Product;
use super::{record, records};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// What the names of product files end in.
const PRODUCT_FILES: [&str; 3] = ["json", "jsonl", "ndjson"];
/// Files that may hold products and are not read.
const OTHER_FILES: [&str; 7] = ["csv", "tsv", "xlsx", "parquet", "zip", "gz", "bz2"];
/// Most characters of a code before its number.
const LONGEST_STEM: usize = 40;
/// Most problems, and most numbers of records, that are listed.
const LISTED: usize = 20;

/// What a folder holds.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// Its products, in the order of file names and records.
    pub products: Vec<Product>,
    /// What was left out, a line each: doubles, folders inside, files of other kinds.
    pub notes: Vec<String>,
}

impl Folder {
    /// Its products as (train, test). Records of one title are one product at several prices: all of them go where that of
    /// the shortest code goes by [`Product::is_held_out`], so that nothing trained on is held out.
    pub fn split(&self) -> (Vec<Product>, Vec<Product>) {
        let mut first: HashMap<String, &Product> = HashMap::new();
        let rank = |p: &Product| (p.code.len(), p.code.clone());
        for product in &self.products {
            let known = first.entry(product.likeness()).or_insert(product);
            if rank(product) < rank(known) {
                *known = product;
            }
        }
        let held_out = |p: &Product| first.get(&p.likeness()).is_some_and(|first| first.is_held_out());
        let (test, train): (Vec<Product>, Vec<Product>) = self.products.iter().cloned().partition(held_out);
        (train, test)
    }
}

/// The products of a folder.
///
/// # Errors
/// As [`read`].
pub fn load(folder: &Path) -> Result<Vec<Product>> {
    read(folder).map(|folder| folder.products)
}

/// Reads every product file of a folder, in name order. Hidden files and those of editors (`.x`, `#x#`, `x~`) are passed over.
/// The code of a record is `{stem}_{n}`, n from 1: the file's stem, whose runs of characters other than letters, digits, `-`,
/// `_` and `.` become one `-`, so that any side can name it in an action. A file or record that stands there already is
/// skipped, and a note says so; of two files the one of the longer name is taken to be the copy.
///
/// # Errors
/// [`Error::Io`] and [`Error::Data`] of the folder, or of the file and record when one thing is wrong; [`Error::Products`] when
/// more is.
pub fn read(folder: &Path) -> Result<Folder> {
    let (found, problems) = check(folder)?;
    match &problems[..] {
        [] => {}
        [(path, what)] => return Err(Error::data(path, what)),
        many => {
            let lines = many.iter().take(LISTED).map(|(path, what)| format!("{}: {what}", path.display()));
            let more = many.len().saturating_sub(LISTED);
            let rest = (more > 0).then(|| format!("{}: {more} more records or files are wrong", folder.display()));
            return Err(Error::Products { problems: lines.chain(rest).collect() });
        }
    }
    if found.products.is_empty() {
        return Err(Error::data(folder, "the product files hold no record"));
    }
    Ok(found)
}

/// A file, and what is wrong with it or one of its records.
pub type Problem = (PathBuf, String);

/// What a folder holds, and everything that is wrong with it, by file and record.
///
/// # Errors
/// [`Error::Io`] and [`Error::Data`] of a folder that cannot be read or has no product file.
pub fn check(folder: &Path) -> Result<(Folder, Vec<Problem>)> {
    let mut reading = Reading::default();
    let mut files = reading.list(folder)?;
    if files.is_empty() {
        let held = if reading.notes.is_empty() { String::new() } else { format!(" ({})", reading.notes.join("; ")) };
        let what = format!("no product files: want one JSON array a category, such as books.json{held}");
        return Err(Error::data(folder, what));
    }
    // Of two files that hold the same, the one of the shorter name stays: `books.json`, not `books (1).json`.
    files.sort_by_key(|file| file.file_name().map(|name| (name.len(), name.to_owned())));
    files.iter().for_each(|file| reading.file(file));
    reading.note_doubles();
    reading.problems.sort_by(|a, b| a.0.cmp(&b.0));
    reading.products.sort_by(|a, b| a.0.cmp(&b.0));
    let products = reading.products.into_iter().map(|(_, product)| product).collect();
    Ok((Folder { products, notes: reading.notes }, reading.problems))
}

/// A folder being read.
#[derive(Default)]
struct Reading {
    /// Each with its file.
    products: Vec<(PathBuf, Product)>,
    notes: Vec<String>,
    problems: Vec<Problem>,
    /// What each file held.
    bytes: HashMap<Vec<u8>, PathBuf>,
    /// Stems of codes that are taken.
    stems: BTreeSet<String>,
    /// Where a record's text and prices stood first.
    seen: HashMap<Content, (PathBuf, usize)>,
    /// Doubled records: file, file of the first, numbers of both.
    doubles: BTreeMap<(PathBuf, PathBuf), Vec<(usize, usize)>>,
}

/// What makes two records one product: title and description without regard to white space and case, and its prices.
type Content = (String, String, [i64; 3]);

fn content(product: &Product) -> Content {
    let prices = [product.list, product.cost, product.budget].map(|price| price.0);
    (product.likeness(), super::product::folded(&product.description), prices)
}

impl Reading {
    /// The product files of a folder, in name order.
    fn list(&mut self, folder: &Path) -> Result<Vec<PathBuf>> {
        if folder.is_file() {
            return Err(Error::data(folder, "is a file; name the folder that holds it"));
        }
        let entries =
            std::fs::read_dir(folder).map_err(|e| Error::io(folder, format!("cannot read the product folder: {e}")))?;
        let paths: std::io::Result<BTreeSet<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        let paths = paths.map_err(|e| Error::io(folder, format!("cannot read the product folder: {e}")))?;
        Ok(paths.into_iter().filter(|path| self.is_product_file(path)).collect())
    }

    /// Whether a path is to be read; what might be expected to be read and is not is noted.
    fn is_product_file(&mut self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(['.', '#']) || name.ends_with('~') {
            return false;
        }
        let one_of = |path: &Path, names: &[&str]| {
            path.extension().is_some_and(|e| names.contains(&e.to_string_lossy().to_lowercase().as_str()))
        };
        let holds = |folder: &Path| {
            std::fs::read_dir(folder)
                .is_ok_and(|mut inside| inside.any(|e| e.is_ok_and(|e| one_of(&e.path(), &PRODUCT_FILES))))
        };
        let is_named_so = one_of(path, &PRODUCT_FILES);
        if path.is_dir() {
            if is_named_so || holds(path) {
                self.notes.push(format!("{}: is a folder inside and is not read", path.display()));
            }
        } else if is_named_so && !path.is_file() {
            let what = if path.exists() { "is no plain file" } else { "is a link to nothing" };
            self.problems.push((path.into(), what.into()));
        } else if one_of(path, &OTHER_FILES) {
            self.notes.push(format!("{}: is not read; want .json or .jsonl", path.display()));
        }
        is_named_so && path.is_file()
    }

    fn file(&mut self, file: &Path) {
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(e) => return self.problems.push((file.into(), format!("cannot be read: {e}"))),
        };
        match records::read(&bytes) {
            Err(what) => self.problems.push((file.into(), what)),
            Ok(records) if records.is_empty() => self.notes.push(format!("{}: holds no record", file.display())),
            Ok(records) => match self.bytes.get(&bytes) {
                Some(same) => {
                    let same = same.display();
                    self.notes.push(format!("{}: is the same file as {same}, and is skipped", file.display()));
                }
                None => {
                    self.bytes.insert(bytes, file.into());
                    self.records(file, records);
                }
            },
        }
    }

    fn records(&mut self, file: &Path, records: Vec<records::Record>) {
        let category = file.file_stem().unwrap_or_default().to_string_lossy();
        let stem = self.stem(&category);
        for (n, record) in (1..).zip(records) {
            let parsed = record.and_then(|record| record::parse(&record, &format!("{stem}_{n}"), &category));
            match parsed {
                Err(what) => self.problems.push((file.into(), format!("record {n}: {what}"))),
                Ok(product) => match self.seen.get(&content(&product)) {
                    Some((first, at)) => {
                        self.doubles.entry((file.into(), first.clone())).or_default().push((n, *at));
                    }
                    None => {
                        self.seen.insert(content(&product), (file.into(), n));
                        self.products.push((file.into(), product));
                    }
                },
            }
        }
    }

    /// The stem of a file's codes; a number behind it where another file has it.
    fn stem(&mut self, name: &str) -> String {
        let plain = code_stem(name);
        let mut stem = plain.clone();
        for n in 2.. {
            if self.stems.insert(stem.clone()) {
                break;
            }
            stem = format!("{plain}-{n}");
        }
        stem
    }

    fn note_doubles(&mut self) {
        for ((file, first), numbers) in &self.doubles {
            let records = |of: &dyn Fn(&(usize, usize)) -> usize| {
                let listed: Vec<String> = numbers.iter().take(LISTED).map(|pair| of(pair).to_string()).collect();
                let more = numbers.len().saturating_sub(LISTED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("record{} {}{more}", if numbers.len() == 1 { "" } else { "s" }, listed.join(", "))
            };
            let place = if file == first { "the same file".to_string() } else { first.display().to_string() };
            self.notes.push(format!(
                "{}: {}: the same as {} of {place}; skipped",
                file.display(),
                records(&|pair| pair.0),
                records(&|pair| pair.1)
            ));
        }
    }
}

/// A file's stem as it can stand in a code.
fn code_stem(name: &str) -> String {
    let stays = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let words: Vec<&str> = name.split(|c| !stays(c)).filter(|word| !word.is_empty()).collect();
    let stem: String = words.join("-").chars().take(LONGEST_STEM).collect();
    if stem.is_empty() { "item".into() } else { stem }
}
