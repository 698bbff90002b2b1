//! What a request asks about: messages or texts, as the ids a model goes on with.

use super::Model;
use super::fields::{Fields, kind};
use super::refusal::Refusal;
use super::tools::opened;
use crate::text::Conversation;
use axum::http::StatusCode;
use serde_json::Value;

/// Most prompts of a request.
const MOST_PROMPTS: usize = 256;

/// Takes `messages` and what a template is given beside them.
///
/// # Errors
/// 400 that names the field or the message at fault.
pub fn conversation(fields: &mut Fields, model: &Model) -> Result<Conversation, Refusal> {
    let refused = |what: String| Refusal::of_field("messages", what);
    let list = match fields.take("messages") {
        Some(Value::Array(list)) if list.is_empty() => return Err(refused("`messages` is empty".into())),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(refused(format!("`messages` must be a list, is {}", kind(&other)))),
        None => return Err(refused("want `messages`".into())),
    };
    let messages = list.into_iter().enumerate().map(|(i, value)| message(i, value)).collect::<Result<Vec<_>, _>>()?;
    let mut conversation = Conversation::asking(Value::Array(messages));
    conversation.tools = tools(fields, model)?;
    conversation.more = fields.object("chat_template_kwargs")?.unwrap_or_default();
    Ok(conversation)
}

/// A message whose content is text, its parts joined.
fn message(i: usize, value: Value) -> Result<Value, Refusal> {
    let refused = |what: String| Refusal::of_field(&format!("messages[{i}]"), format!("messages[{i}]: {what}"));
    let Value::Object(mut message) = value else {
        return Err(refused(format!("want an object, got {}", kind(&value))));
    };
    if message.get("role").and_then(Value::as_str).is_none() {
        return Err(refused("want a string `role`".into()));
    }
    match message.get("content") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            let text = parts.iter().map(part).collect::<Result<String, String>>().map_err(refused)?;
            message.insert("content".into(), Value::String(text));
        }
        Some(other) => {
            return Err(refused(format!("`content` must be a string or a list of parts, is {}", kind(other))));
        }
    }
    opened(&mut message);
    Ok(Value::Object(message))
}

fn part(part: &Value) -> Result<&str, String> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        (Some("text"), None) => Err("a part of type text wants a string `text`".into()),
        (Some(other), _) => Err(format!("a part of type {other}: the model reads text alone")),
        (None, _) => Err("a part wants a `type`".into()),
    }
}

/// Tools, for a template that takes them.
fn tools(fields: &mut Fields, model: &Model) -> Result<Value, Refusal> {
    let Some(tools) = fields.take("tools") else { return Ok(Value::Null) };
    if !tools.as_array().is_some_and(|list| list.iter().all(Value::is_object)) {
        return Err(Refusal::of_field("tools", "`tools` must be a list of objects"));
    }
    match model.prompts.reads("tools") {
        true => Ok(tools),
        false => {
            Err(Refusal::of_field("tools", "`tools`: the model's chat template takes none")
                .with_code("unsupported_field"))
        }
    }
}

/// Takes `prompt`: a text, a list of texts, ids, or a list of lists of ids. One list of ids each.
///
/// # Errors
/// 400 that names what is wrong.
pub fn prompts(fields: &mut Fields, model: &Model) -> Result<Vec<Vec<i32>>, Refusal> {
    let refused = |what: &str| Refusal::of_field("prompt", what);
    let text = |text: &str| model.prompts.of_text(text).map_err(|e| Refusal::of_error(&e));
    let prompt = fields.take("prompt").ok_or_else(|| refused("want `prompt`"))?;
    let all = match &prompt {
        Value::String(one) => vec![text(one)?],
        Value::Array(list) if list.is_empty() => return Err(refused("`prompt` is empty")),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).map(text).collect::<Result<_, _>>()?
        }
        Value::Array(list) if list.iter().all(Value::is_array) => {
            list.iter().filter_map(Value::as_array).map(|list| ids(list)).collect::<Result<_, _>>()?
        }
        Value::Array(list) => vec![ids(list)?],
        _ => return Err(refused("`prompt` must be a text, a list of texts, ids, or a list of lists of ids")),
    };
    if all.len() > MOST_PROMPTS {
        return Err(refused(&format!("`prompt` holds {} prompts; {MOST_PROMPTS} are the most", all.len())));
    }
    Ok(all)
}

fn ids(list: &[Value]) -> Result<Vec<i32>, Refusal> {
    let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
    let refused =
        |value: &Value| Refusal::of_field("prompt", format!("`prompt` holds {}, want token ids", kind(value)));
    list.iter().map(|value| id(value).ok_or_else(|| refused(value))).collect()
}

/// Holds a prompt to what the model can go on with.
///
/// # Errors
/// 400 that says what it is beyond.
pub fn held(ids: Vec<i32>, model: &Model) -> Result<Vec<i32>, Refusal> {
    let (n, context) = (ids.len(), model.context);
    let refused = |what: String| Refusal::new(StatusCode::BAD_REQUEST, what);
    if n == 0 {
        return Err(refused("the prompt is empty: there is nothing to go on with".into()));
    }
    if n >= context {
        let what = format!("a prompt of {n} tokens leaves no room in the model's context of {context}");
        return Err(refused(what).with_code("context_length_exceeded"));
    }
    match ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= model.vocab)) {
        Some(id) => Err(refused(format!("token id {id} is not one of the model's 0 to {}", model.vocab - 1))),
        None => Ok(ids),
    }
}

/// A body of `/tokenize`: `prompt`, a text, or `messages`.
///
/// # Errors
/// 400 that names what is wrong.
pub fn to_tokenize(fields: &mut Fields, model: &Model) -> Result<Vec<i32>, Refusal> {
    if let Some(text) = fields.text("prompt")? {
        return model.prompts.of_text(&text).map_err(|e| Refusal::of_error(&e));
    }
    let mut conversation = conversation(fields, model)?;
    if let Some(asks) = fields.take("add_generation_prompt") {
        conversation.add_generation_prompt = asks == Value::Bool(true);
    }
    rendered(&conversation, model)
}

/// The ids of a conversation.
///
/// # Errors
/// 400 with what the template says.
pub fn rendered(conversation: &Conversation, model: &Model) -> Result<Vec<i32>, Refusal> {
    let said = model.prompts.of_conversation(conversation);
    said.map_err(|e| Refusal::of_field("messages", e.to_string().replace('\n', "; ")))
}
