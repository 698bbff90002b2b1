//! A chat template with what it is given, as transformers' `apply_chat_template` gives it.
//!
//! The one idea: a conversation is JSON. What a message holds beside `role` and `content` (tool calls, thoughts, images that we
//! do not read) is the template's affair.

use super::jinja::Template;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The special tokens that transformers hands to a template, those of them that there are.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a template renders.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// A list of objects.
    pub messages: Value,
    /// A list of JSON schemas, or null.
    pub tools: Value,
    /// End with the head of a reply.
    pub add_generation_prompt: bool,
    /// Further variables by name, such as `enable_thinking`.
    pub more: Map<String, Value>,
}

impl Conversation {
    /// Messages alone.
    pub fn of(messages: Value) -> Conversation {
        Conversation { messages, tools: Value::Null, add_generation_prompt: false, more: Map::new() }
    }

    /// Messages, and the head of the reply to them.
    pub fn asking(messages: Value) -> Conversation {
        Conversation { add_generation_prompt: true, ..Conversation::of(messages) }
    }
}

/// A template and the special tokens it may name.
#[derive(Debug, Clone)]
pub struct Renderer {
    template: Template,
    /// What `tokenizer_config.json` holds, the special tokens among it.
    config: Map<String, Value>,
}

impl Renderer {
    /// A template and what `tokenizer_config.json` says beside it; `path` names the template's file in errors.
    ///
    /// # Errors
    /// [`Error::Data`] when it is no template.
    pub fn new(template: &str, config: Map<String, Value>, path: &Path) -> Result<Renderer> {
        let template = Template::new(template, chrono::Local::now());
        let template = template.map_err(|what| Error::data(path, format!("chat template: {what}")))?;
        Ok(Renderer { template, config })
    }

    /// What the template makes of a conversation.
    ///
    /// # Errors
    /// One line: what the template raises, or where it cannot be run, and why.
    pub fn rendered(&self, conversation: &Conversation) -> Result<String, String> {
        let json = |value: &Value| minijinja::Value::from_serialize(value);
        let mut values = vec![
            ("messages", json(&conversation.messages)),
            ("tools", json(&conversation.tools)),
            ("documents", json(&Value::Null)),
            ("add_generation_prompt", conversation.add_generation_prompt.into()),
        ];
        values.extend(TOKENS.iter().filter_map(|name| Some((*name, self.token(name)?.into()))));
        values.extend(conversation.more.iter().map(|(name, value)| (name.as_str(), json(value))));
        self.template.render(values.into_iter().collect())
    }

    /// A special token's text, by the name templates call it.
    pub fn token(&self, name: &str) -> Option<&str> {
        token(&self.config, name)
    }

    /// What `tokenizer_config.json` holds.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The template's text, lines ended by `\n`.
    pub fn source(&self) -> &str {
        self.template.source()
    }
}

/// A special token's text in a `tokenizer_config.json`.
pub(super) fn token<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let value = config.get(name)?;
    value.as_str().or_else(|| value["content"].as_str()).filter(|token| !token.is_empty())
}
