//! The methods that Python gives strings, dictionaries and lists: those of minijinja's pycompat, and here what it lacks
//! or gives otherwise.

use super::python::{refused, repr};
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// What `value.name(args)` is.
pub fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (_, Some(text)) => string_method(text, name, args)?,
        (ValueKind::Seq, _) if name == "index" => {
            let (what,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|v| v == *what) {
                Some(at) => Some(at.into()),
                None => return refused(format!("{} is not in the list", repr(what))),
            }
        }
        (ValueKind::Map, _) if name == "copy" => Some(value.clone()),
        _ => None,
    };
    own.map_or_else(|| unknown_method_callback(state, value, name, args), Ok)
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "split" | "rsplit" => split(text, name == "rsplit", args)?,
        "splitlines" => splitlines(text, args)?,
        "partition" | "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            let last = name == "rpartition";
            let parts = if last { text.rsplit_once(sep) } else { text.split_once(sep) };
            let whole = if last { ["", "", text] } else { [text, "", ""] };
            Value::from_iter(parts.map_or(whole, |(before, after)| [before, sep, after]))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if name.starts_with('r') { text.rfind(what) } else { text.find(what) };
            match at.map(|at| text[..at].chars().count() as i64) {
                None if name.ends_with("index") => return refused("substring not found"),
                at => Value::from(at.unwrap_or(-1)),
            }
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Value::from(text.matches(what).count())
        }
        "removeprefix" => {
            let (what,): (&str,) = from_args(args)?;
            text.strip_prefix(what).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (what,): (&str,) = from_args(args)?;
            text.strip_suffix(what).unwrap_or(text).into()
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            padded(text, name, width, fill.unwrap_or(' ')).into()
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let digits = text.trim_start_matches(['+', '-']);
            let sign = &text[..text.len() - digits.len()];
            (sign.to_string() + &padded(digits, "rjust", width.saturating_sub(sign.len()), '0')).into()
        }
        "casefold" => text.to_lowercase().into(),
        "swapcase" => text.chars().flat_map(swapped).collect::<String>().into(),
        "join" => {
            let (parts,): (&Value,) = from_args(args)?;
            let parts = parts.try_iter()?.map(|p| match p.as_str() {
                Some(part) => Ok(part.to_string()),
                None => refused(format!("join: {} is no string", repr(&p))),
            });
            parts.collect::<Result<Vec<_>, _>>()?.join(text).into()
        }
        _ => return Ok(is_all(text, name).map(Value::from)),
    }))
}

/// `isalpha` and its kind: false of an empty string; of case only letters that have one are asked.
fn is_all(text: &str, name: &str) -> Option<bool> {
    let all = |of: fn(char) -> bool| !text.is_empty() && text.chars().all(of);
    let cased = |c: &char| c.is_lowercase() || c.is_uppercase();
    let in_case = |of: fn(char) -> bool| text.chars().any(|c| cased(&c)) && text.chars().filter(cased).all(of);
    Some(match name {
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(char::is_whitespace),
        "islower" => in_case(char::is_lowercase),
        "isupper" => in_case(char::is_uppercase),
        _ => return None,
    })
}

fn swapped(c: char) -> Vec<char> {
    if c.is_lowercase() { c.to_uppercase().collect() } else { c.to_lowercase().collect() }
}

fn padded(text: &str, side: &str, width: usize, fill: char) -> String {
    let pad = width.saturating_sub(text.chars().count());
    let left = match side {
        "ljust" => 0,
        "rjust" => pad,
        // Python leaves the odd one on the left when the width is odd.
        _ => pad / 2 + (pad & width & 1),
    };
    let fills = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    fills(left) + text + &fills(pad - left)
}

/// `text.split(sep, maxsplit)`, from the right for `rsplit`.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (sep, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let sep = sep.or(kwargs.get("sep")?).filter(|sep| !sep.is_none());
    let most = most.or(kwargs.get("maxsplit")?).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    kwargs.assert_all_used()?;
    let n = most.saturating_add(1);
    let mut parts: Vec<&str> = match sep.as_ref().map(|sep| sep.as_str().unwrap_or_default()) {
        Some("") => return refused("split: the separator is empty"),
        Some(sep) if from_right => text.rsplitn(n, sep).collect(),
        Some(sep) => text.splitn(n, sep).collect(),
        None => words(text, most, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(Value::from_iter(parts))
}

/// Words between white space, and after `most` of them the rest; from the right the last word comes first.
fn words(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let inner = |text: &'_ str| if from_right { text.trim_end().len() } else { text.len() - text.trim_start().len() };
    let (mut parts, mut rest) = (vec![], text);
    loop {
        let (left, right) = rest.split_at(inner(rest));
        rest = if from_right { left } else { right };
        if rest.is_empty() {
            return parts;
        }
        let cut = if from_right { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let Some(at) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            return parts;
        };
        let after = at + rest[at..].chars().next().map_or(0, char::len_utf8);
        let (word, left) = if from_right { (&rest[after..], &rest[..at]) } else { (&rest[..at], &rest[at..]) };
        parts.push(word);
        rest = left;
    }
}

/// `text.splitlines(keepends)`, at the line ends Python knows.
fn splitlines(text: &str, args: &[Value]) -> Result<Value, Error> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
    let (mut lines, mut rest) = (vec![], text);
    while let Some(at) = rest.find(ENDS) {
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if keep { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    lines.extend((!rest.is_empty()).then_some(rest));
    Ok(Value::from_iter(lines))
}
