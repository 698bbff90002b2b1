//! Prompts as they come: typed, piped, or a line each. All are read and held to the model before anything is computed.

use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::text::{Conversation, Prompts};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Keys that other programs read in a line, where here an option holds for all lines.
const OPTIONS: [&str; 9] =
    ["temperature", "top_k", "top_p", "min_p", "max_tokens", "max_new_tokens", "seed", "n", "stop"];

/// The ids of `--prompt`, of `--chat`, or of standard input as a prompt.
///
/// # Errors
/// [`Error::Io`] for an input that cannot be read, [`Error::Data`] for a prompt that cannot be answered.
pub fn typed(prompt: Option<&str>, chat: Option<&str>, prompts: &Prompts, shape: &ModelConfig) -> Result<Vec<i32>> {
    let (name, ids) = match (prompt, chat) {
        (Some(text), _) => ("--prompt", prompts.of_text(text)?),
        (None, Some(text)) => ("--chat", prompts.of_conversation(&Conversation::asking(message(text)))?),
        (None, None) => {
            let text = String::from_utf8(read(Path::new("-"))?);
            let text =
                text.map_err(|e| Error::data(STDIN, format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to())))?;
            // The line's end is the shell's.
            (STDIN, prompts.of_text(text.strip_suffix('\n').unwrap_or(&text))?)
        }
    };
    held(ids, shape).map_err(|what| Error::data(name, what))
}

fn message(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

/// The ids of every line of a file or of standard input, with the line's number. Blank lines are passed over.
///
/// # Errors
/// [`Error::Io`], or [`Error::Data`] naming the first line that cannot be answered, and why.
pub fn lines(path: &Path, prompts: &Prompts, shape: &ModelConfig) -> Result<Vec<(u64, Vec<i32>)>> {
    let bytes = read(path)?;
    let path = if path.as_os_str() == "-" { Path::new(STDIN) } else { path };
    let lines = bytes.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    let all: Result<Vec<_>> = lines
        .map(|(i, line)| match ids(line, prompts).and_then(|ids| held(ids, shape)) {
            Ok(ids) => Ok((i as u64 + 1, ids)),
            Err(what) => Err(Error::data(path, format!("line {}: {what}", i + 1))),
        })
        .collect();
    let all = all?;
    if all.is_empty() {
        return Err(Error::data(path, "holds no line; each is an object with `prompt`, `messages` or `ids`"));
    }
    Ok(all)
}

const STDIN: &str = "standard input";

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let (path, got) = match path.as_os_str() == "-" {
        true => (Path::new(STDIN), std::io::stdin().read_to_end(&mut bytes)),
        false => (path, File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))),
    };
    got.map_err(|e| Error::io(path, e))?;
    Ok(bytes)
}

fn ids(line: &[u8], prompts: &Prompts) -> Result<Vec<i32>, String> {
    let json: Value = serde_json::from_slice(line).map_err(|e| format!("column {}: not JSON: {e}", e.column()))?;
    let Value::Object(line) = json else { return Err("want an object".into()) };
    if let Some(option) = OPTIONS.iter().find(|key| line.contains_key(**key)) {
        return Err(format!("`{option}` holds for all lines: give it as an option, and take it out of the line"));
    }
    let given: Vec<&str> = ["prompt", "messages", "ids"].into_iter().filter(|key| line.contains_key(*key)).collect();
    let text = |e: Error| e.to_string();
    match (&given[..], line.get(given.first().copied().unwrap_or_default())) {
        (["prompt"], Some(Value::String(prompt))) => prompts.of_text(prompt).map_err(text),
        (["messages"], Some(messages)) => prompts.of_conversation(&conversation(messages, &line)?).map_err(text),
        (["ids"], Some(Value::Array(ids))) => ids.iter().enumerate().map(id).collect(),
        (["prompt"], Some(other)) => Err(format!("`prompt` must be a string, is {}", kind(other))),
        (["ids"], Some(other)) => Err(format!("`ids` must be a list, is {}", kind(other))),
        ([], _) => Err("want one of `prompt`, `messages` and `ids`".into()),
        (several, _) => Err(format!("holds `{}`: want one of them", several.join("` and `"))),
    }
}

fn id((i, value): (usize, &Value)) -> Result<i32, String> {
    let id = value.as_i64().and_then(|id| i32::try_from(id).ok());
    id.ok_or_else(|| format!("ids[{i}] is {value}, want a token id"))
}

fn conversation(messages: &Value, line: &Map<String, Value>) -> Result<Conversation, String> {
    let list = messages.as_array().ok_or_else(|| format!("`messages` must be a list, is {}", kind(messages)))?;
    let no_role = |message: &Value| message.get("role").and_then(Value::as_str).is_none();
    match list.iter().position(no_role) {
        Some(at) => return Err(format!("messages[{at}] must be an object with a string `role`")),
        None if list.is_empty() => return Err("`messages` is empty".into()),
        None => {}
    }
    let mut conversation = Conversation::asking(messages.clone());
    conversation.tools = line.get("tools").cloned().unwrap_or_default();
    match line.get("chat_template_kwargs") {
        None | Some(Value::Null) => {}
        Some(Value::Object(more)) => conversation.more = more.clone(),
        Some(other) => return Err(format!("`chat_template_kwargs` must be an object, is {}", kind(other))),
    }
    Ok(conversation)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Ids that the model can go on with.
fn held(ids: Vec<i32>, shape: &ModelConfig) -> Result<Vec<i32>, String> {
    let (n, context) = (ids.len(), shape.max_position_embeddings);
    if n == 0 {
        return Err("the prompt is empty: there is nothing to go on with".into());
    }
    if n >= context {
        return Err(format!("a prompt of {n} tokens leaves no room in the model's context of {context}"));
    }
    match ids.iter().position(|id| usize::try_from(*id).map_or(true, |id| id >= shape.vocab_size)) {
        Some(at) => Err(format!("ids[{at}] is {}, want a token id in 0..{}", ids[at], shape.vocab_size)),
        None => Ok(ids),
    }
}
