//! Reading a TOML text and overrides into a [`Config`]; every problem is kept, none stops the reading.

use super::fields::Slot;
use super::{Config, Field, paths};
use std::collections::BTreeMap;
use toml_edit::{Document, Item, TableLike, Value};

/// One key set from the command line.
#[derive(Debug, Clone)]
pub struct Override {
    /// How messages name it: `--set grpo.steps=0`, `--steps 0`.
    pub origin: String,
    /// The whole key: `grpo.steps`.
    pub key: String,
    /// The value as TOML; a bare word is taken as a string.
    pub value: String,
}

/// What reading found: problems in order, and where each key was set.
#[derive(Default)]
pub struct Found {
    /// One line each.
    pub problems: Vec<String>,
    /// Whole key to `file:line` or the command-line option.
    pub origins: BTreeMap<String, String>,
}

impl Found {
    /// Notes a problem of `key`, naming where it was set.
    pub fn problem(&mut self, key: &str, what: &str) {
        let place = self.origins.get(key).map(|origin| format!("{origin}: ")).unwrap_or_default();
        self.problems.push(format!("{place}{key}: {what}"));
    }
}

/// Reads a whole text. `name` is the file's.
pub fn read_text(config: &mut Config, name: &str, text: &str, found: &mut Found) {
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(e) => {
            let line = e.span().map_or(1, |span| line_of(text, span.start));
            let value = text.lines().nth(line - 1).and_then(|line| line.split_once('=')).map_or("", |(_, value)| value);
            let hint = hint(value.split('#').next().unwrap_or_default().trim(), &|_| true);
            return found.problems.push(format!("{name}:{line}: not TOML: {}{hint}", e.message().replace('\n', "; ")));
        }
    };
    let reader = Reader { name, text };
    for (key, item) in document.as_table().iter() {
        let line = reader.line(document.as_table(), key);
        match (is_section(config, key), item.as_table_like()) {
            (true, Some(table)) => reader.section(config, key, table, found),
            (true, None) => found.problems.push(format!(
                "{name}:{line}: {key}: is a section; write [{key}] on a line of its own and the keys below it"
            )),
            (false, _) => reader.one(config, key, item, line, found),
        }
    }
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn section(&self, config: &mut Config, section: &str, table: &dyn TableLike, found: &mut Found) {
        for (key, item) in table.iter() {
            self.one(config, &format!("{section}.{key}"), item, self.line(table, key), found);
        }
    }

    fn one(&self, config: &mut Config, key: &str, item: &Item, line: usize, found: &mut Found) {
        let origin = format!("{}:{line}", self.name);
        match item.as_value() {
            Some(value) => set(config, key, value, origin, found),
            None => {
                let sections: Vec<&str> = config.sections().iter().map(|s| s.0).filter(|s| !s.is_empty()).collect();
                let near = nearest(key, &sections).map(|s| format!("; did you mean [{s}]?")).unwrap_or_default();
                found.problems.push(format!("{origin}: [{key}]: unknown section{near}"));
            }
        }
    }

    fn line(&self, table: &dyn TableLike, key: &str) -> usize {
        let span = table.get_key_value(key).and_then(|(key, item)| key.span().or(item.span()));
        span.map_or(1, |span| line_of(self.text, span.start))
    }
}

/// Applies one override.
pub fn read_override(config: &mut Config, one: &Override, found: &mut Found) {
    let value = one.value.trim().parse::<Value>().unwrap_or_else(|_| Value::from(one.value.as_str()));
    set(config, &one.key, &value, one.origin.clone(), found);
}

fn set(config: &mut Config, key: &str, value: &Value, origin: String, found: &mut Found) {
    let told = match slot(config, key) {
        None => Err(unknown(key)),
        Some(field) => store(field, value),
    };
    found.origins.insert(key.into(), origin);
    if let Err(what) = told {
        found.problem(key, &what);
    }
}

fn is_section(config: &mut Config, key: &str) -> bool {
    config.sections().iter().any(|(name, _)| *name == key)
}

fn slot<'a>(config: &'a mut Config, key: &str) -> Option<Field<'a>> {
    let (section, key) = key.split_once('.').unwrap_or(("", key));
    let (_, fields) = config.sections().into_iter().find(|(name, _)| *name == section)?;
    fields.into_iter().find(|field| field.key == key)
}

fn store(field: Field, value: &Value) -> Result<(), String> {
    let fits = |right: &Value| match &field.slot {
        Slot::Switch(_) => right.is_bool(),
        Slot::Seed(_) | Slot::Count(..) => right.is_integer(),
        Slot::Real(..) => right.is_float() || right.is_integer(),
        Slot::Choice(..) | Slot::Text(_) | Slot::Path(_) => false,
    };
    let hint = hint(value.as_str().unwrap_or_default(), &fits);
    let want = |kind: &str| format!("must be {kind}, is {}{hint}", described(value));
    match field.slot {
        Slot::Switch(at) => *at = value.as_bool().ok_or_else(|| want("true or false"))?,
        Slot::Seed(at) => {
            let number = value.as_integer().and_then(|n| u64::try_from(n).ok());
            *at = number.ok_or_else(|| want("a whole number, 0 or more"))?;
        }
        Slot::Count(at, least) => {
            let number =
                value.as_integer().and_then(|n| usize::try_from(n).ok()).filter(|n| (least..=MOST).contains(n));
            *at = number.ok_or_else(|| want(&format!("a whole number, {least} or more (at most {MOST})")))?;
        }
        Slot::Real(at, bounds) => {
            let number = value.as_float().or(value.as_integer().map(|n| n as f64)).map(|x| x as f32);
            *at = number.filter(|&x| bounds.holds(x)).ok_or_else(|| want(&format!("a number {bounds}")))?;
        }
        Slot::Choice(at, names) => {
            let name = value.as_str().filter(|name| names.contains(name));
            *at = name.ok_or_else(|| want(&format!("one of {}", names.join(", "))))?.into();
        }
        Slot::Text(at) => {
            let text = value.as_str().filter(|text| !text.trim().is_empty());
            *at = text.ok_or_else(|| want("a text that is not empty"))?.into();
        }
        Slot::Path(at) => {
            let text = value.as_str().filter(|text| !text.trim().is_empty());
            let text = text.ok_or_else(|| want("a text that is not empty, a path"))?;
            *at = paths::spelled(&paths::written(text.as_ref())?);
        }
    }
    Ok(())
}

/// Largest count any key takes: sizes multiply without overflow below it.
const MOST: usize = 1 << 30;

fn described(value: &Value) -> String {
    let text = value.to_string();
    format!("{} ({})", text.trim(), value.type_name())
}

/// `; write 0.001` for a number or a truth value that TOML spells otherwise and that `fits`, else nothing.
fn hint(value: &str, fits: &dyn Fn(&Value) -> bool) -> String {
    let right = spelled(value).unwrap_or_default();
    let spellings = [right.as_str(), right.trim_end_matches(".0")];
    let fitting = spellings.into_iter().find(|text| text.parse::<Value>().is_ok_and(|value| fits(&value)));
    fitting.map_or(String::new(), |text| format!("; write {text}"))
}

/// TOML's spelling of `.001`, `1.`, `-.5`, `1.e-4`, `007`, `0,5`, `True`; none where a value is right, or means nothing.
fn spelled(value: &str) -> Option<String> {
    let lower = value.trim_matches(['"', '\'']).trim().to_ascii_lowercase();
    let (sign, digits) = lower.strip_prefix(['-', '+']).map_or(("", &*lower), |rest| (&lower[..1], rest));
    let (number, exponent) =
        digits.split_once('e').map_or((digits, ""), |(number, _)| (number, &digits[number.len()..]));
    let (whole, fraction) = number.split_once(['.', ',']).map_or((number, None), |(whole, part)| (whole, Some(part)));
    let or_zero = |part: &str| if part.is_empty() { "0".to_string() } else { part.to_string() };
    let right = match lower.as_str() {
        "true" | "false" => lower.clone(),
        _ if (whole.to_owned() + fraction.unwrap_or_default()).is_empty() => return None,
        _ => {
            let whole = or_zero(whole.trim_start_matches('0'));
            let fraction = fraction.map_or(String::new(), |part| format!(".{}", or_zero(part)));
            format!("{sign}{whole}{fraction}{exponent}")
        }
    };
    let known = right.parse::<Value>().is_ok_and(|v| v.is_bool() || v.is_integer() || v.is_float());
    (known && value.parse::<Value>().map_or(true, |v| v.is_str())).then_some(right)
}

fn unknown(key: &str) -> String {
    let keys: Vec<String> = Config::default().values().into_iter().map(|(key, _)| key).collect();
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    // A key in the wrong section is as common as a typo.
    let last = key.rsplit('.').next().unwrap_or(key);
    let moved = names.iter().find(|name| name.rsplit('.').next() == Some(last)).copied();
    match moved.or_else(|| nearest(key, &names)) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => "unknown key; `haggle config` prints them all".into(),
    }
}

/// The name nearest to `word` when at most a third of it differs.
fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = names.iter().map(|name| (distance(word, name), *name)).min()?;
    (near.0 * 3 <= word.chars().count().max(3)).then_some(near.1)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}
