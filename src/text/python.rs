//! Python's values as a chat template prints them, and their JSON and dates.

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Local};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// An error that says `what`.
pub fn refused<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, what.into()))
}

/// `str(value)`: what a template prints.
pub fn str(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.to_string(),
        _ => repr(value),
    }
}

/// `repr(value)`: how a value stands inside a list.
pub fn repr(value: &Value) -> String {
    let list = |values: Vec<String>| values.join(", ");
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            format!("[{}]", list(value.try_iter().into_iter().flatten().map(|v| repr(&v)).collect()))
        }
        ValueKind::Map => {
            format!("{{{}}}", list(pairs(value).iter().map(|(k, v)| repr(k) + ": " + &repr(v)).collect()))
        }
        _ => value.to_string(),
    }
}

fn pairs(map: &Value) -> Vec<(Value, Value)> {
    let keys = map.try_iter().into_iter().flatten();
    keys.map(|key| (key.clone(), map.get_item(&key).unwrap_or_default())).collect()
}

/// Whole numbers as they are; floats with their shortest digits, and an exponent where Python writes one.
fn number(value: &Value) -> String {
    let Some(x) = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer()) else { return value.to_string() };
    let size = x.abs();
    if x.is_finite() && size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    match x {
        x if x.is_nan() => "nan".into(),
        x if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.into(),
        x => format!("{x:?}"),
    }
}

/// A string as Python's source has it: in single quotes unless only double ones need no escape.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' ' => out.push(c),
            c if c.is_control() || c.is_whitespace() => out.push_str(&match c as u32 {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code => format!("\\u{code:04x}"),
            }),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// `json.dumps(value)` with the arguments that transformers lets through.
pub fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        Some(v) if v.kind() == ValueKind::String => v.as_str().map(str::to_string),
        Some(v) if !v.is_none() => Some(" ".repeat(usize::try_from(v).unwrap_or(0))),
        _ => None,
    };
    let separators = match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return refused("tojson: separators must be two strings"),
        None => [if indent.is_some() { "," } else { ", " }.into(), ": ".into()],
    };
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut out = String::new();
    Json { indent, separators, ascii, sort_keys }.write(value, 0, &mut out)?;
    Ok(out)
}

struct Json {
    indent: Option<String>,
    /// Between items, and after a key.
    separators: [String; 2],
    ascii: bool,
    sort_keys: bool,
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(match number(value).as_str() {
                "nan" => "NaN",
                "inf" => "Infinity",
                "-inf" => "-Infinity",
                number => number,
            }),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_all("[]", &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut items = pairs(value);
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_all("{}", &items, depth, out, |(key, item), out| {
                    self.write_key(key, out)?;
                    out.push_str(&self.separators[1]);
                    self.write(item, depth + 1, out)
                })?;
            }
            kind => return refused(format!("tojson: {kind} has no JSON")),
        }
        Ok(())
    }

    fn write_all<T>(
        &self,
        brackets: &str,
        items: &[T],
        depth: usize,
        out: &mut String,
        write: impl Fn(&T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize| self.indent.as_ref().map_or(String::new(), |i| format!("\n{}", i.repeat(depth)));
        out.push_str(&brackets[..1]);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.separators[0]);
            }
            out.push_str(&line(depth + 1));
            write(item, out)?;
        }
        if !items.is_empty() {
            out.push_str(&line(depth));
        }
        out.push_str(&brackets[1..]);
        Ok(())
    }

    fn write_key(&self, key: &Value, out: &mut String) -> Result<(), Error> {
        if key.kind() == ValueKind::String {
            self.write_string(key.as_str().unwrap_or_default(), out);
            return Ok(());
        }
        out.push('"');
        self.write(key, 0, out)?;
        out.push('"');
        Ok(())
    }

    fn write_string(&self, text: &str, out: &mut String) {
        let plain = Value::from(text);
        let json = serde_json::to_string(&plain).unwrap_or_default();
        for c in json.chars() {
            if self.ascii && !c.is_ascii() {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            } else {
                out.push(c);
            }
        }
    }
}

/// `now.strftime(format)`, of a time that knows no zone.
pub fn strftime(now: DateTime<Local>, format: &str) -> Result<String, Error> {
    let parts = format.split("%%").map(|part| part.replace("%f", "%6f").replace("%z", "").replace("%Z", ""));
    let format = parts.collect::<Vec<_>>().join("%%");
    let items: Vec<Item> = StrftimeItems::new(&format).collect();
    if items.contains(&Item::Error) {
        return refused(format!("strftime_now: {format:?} is no date format"));
    }
    Ok(now.naive_local().format_with_items(items.iter()).to_string())
}
