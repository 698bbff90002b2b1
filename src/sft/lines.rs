//! Conversations from files of JSON lines, in the form that chat models are fine-tuned on: `{"messages": [{"role": ...,
//! "content": ...}, ...]}`, one a line.
//!
//! The one idea: a line is right or named, with its file, its number and what is wrong; all that are wrong are named at once.

use crate::error::{Error, Result, shown};
use crate::text::{Message, Role};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Lines that are named; of more there is a count.
const NAMED: usize = 20;

/// A conversation, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Talk {
    /// Its file and line.
    pub place: String,
    /// What was said; an assistant's turn is among it.
    pub messages: Vec<Message>,
}

/// A file that was read, and what it held.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Where.
    pub path: PathBuf,
    /// CRC-32C of its bytes.
    pub crc: u32,
}

/// Reads all conversations, in order; empty lines are passed over.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read, [`Error::Lines`] naming every line at fault, [`Error::Data`] when no line is
/// left.
pub fn read(paths: &[PathBuf]) -> Result<(Vec<Talk>, Vec<Source>)> {
    let (mut talks, mut sources, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, format!("cannot read the data ({e})")))?;
        sources.push(Source { path: path.clone(), crc: crc32c::crc32c(&bytes) });
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        for (i, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = format!("{}:{}", shown(path), i + 1);
            match parse(line) {
                Ok(messages) => talks.push(Talk { place, messages }),
                Err(what) => problems.push(format!("{place}: {what}")),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Error::Lines { problems: first_of(problems) });
    }
    match paths.first() {
        Some(path) if talks.is_empty() => Err(Error::data(path, "holds no conversation; want one JSON object a line")),
        _ => Ok((talks, sources)),
    }
}

/// The first problems, and how many more there are.
pub fn first_of(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(NAMED);
    problems.truncate(NAMED);
    problems.extend((more > 0).then(|| format!("... and {more} more lines")));
    problems
}

/// One line's conversation.
fn parse(line: &[u8]) -> Result<Vec<Message>, String> {
    let line = std::str::from_utf8(line).map_err(|e| format!("is not UTF-8 (byte {})", e.valid_up_to() + 1))?;
    let parsed: Value = serde_json::from_str(line).map_err(|e| format!("is not JSON: {e}"))?;
    let listed =
        parsed.get("messages").ok_or("has no `messages`; want {\"messages\": [{\"role\", \"content\"}, ...]}")?;
    let listed = listed.as_array().ok_or("`messages` is no list")?;
    let messages: Vec<Message> = listed.iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<_, _>>()?;
    let systems = messages.iter().filter(|m| m.role == Role::System).count();
    if systems > 1 {
        return Err(format!("has {systems} system messages; want one at most"));
    }
    if messages.iter().skip(1).any(|m| m.role == Role::System) {
        return Err("the system message is not the first".into());
    }
    if !messages.iter().any(|m| m.role == Role::Assistant) {
        return Err("has no assistant turn, so there is nothing to learn".into());
    }
    if messages.iter().find(|m| m.role != Role::System).is_some_and(|m| m.role == Role::Assistant) {
        return Err("an assistant turn comes first; want the user's before it".into());
    }
    Ok(messages)
}

fn message(at: usize, message: &Value) -> Result<Message, String> {
    let at = at + 1;
    let text = |key: &str| {
        let found = message.get(key).ok_or(format!("message {at} has no `{key}`"))?;
        found.as_str().ok_or(format!("message {at}: `{key}` is no text"))
    };
    let role = match text("role")? {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        other => return Err(format!("message {at}: unknown role {other:?}; want system, user or assistant")),
    };
    let content = text("content")?;
    if role == Role::Assistant && content.trim().is_empty() {
        return Err(format!("message {at}: the assistant says nothing"));
    }
    Ok(Message::new(role, content))
}

/// Writes conversations, one a line, into a new file.
///
/// # Errors
/// [`Error::Io`] when it is there already or cannot be written.
pub fn write(path: &Path, talks: impl Iterator<Item = Result<Vec<Message>>>) -> Result<usize> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::io(path, "is there already, and stays as it is; name another file with --write"));
    }
    let mut lines = String::new();
    let mut n = 0;
    for messages in talks {
        lines += &format!("{}\n", serde_json::json!({ "messages": messages? }));
        n += 1;
    }
    crate::disk::write_atomic(path, |f| f.write_all(lines.as_bytes()))?;
    Ok(n)
}
