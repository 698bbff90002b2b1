//! The chat template: rendered with minijinja, saved the Hugging Face way, and cut into pieces once.
//!
//! The one idea: rollouts never run the template. A template that only appends (ours does; one that rewrites earlier
//! turns is refused) is a few fixed strings around the contents, so [`Chat`] learns those strings by rendering marks,
//! encodes them once, and a turn costs the encoding of its own content. Debug builds render the whole conversation
//! again and compare.

use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// The template of our own tokenizers.
pub const TEMPLATE: &str = "{%- for message in messages -%}\
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}\
    {%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}";

/// Who a message is from, in a chat model's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions.
    System,
    /// The other side.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

/// A fixed string of the template, and its ids.
#[derive(Debug, Clone, Default)]
struct Piece {
    text: String,
    ids: Vec<i32>,
}

/// A tokenizer with its chat template.
#[derive(Debug, Clone)]
pub struct Chat {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    template: String,
    bos: String,
    eos: String,
    end: i32,
    /// Before the system content, after it, ...
    before_system: Piece,
    /// ... between system and user content, between user content and reply, after a reply up to the next user content.
    system_to_user: Piece,
    user_to_reply: Piece,
    reply_to_user: Piece,
}

/// Contents that stand for themselves in any sane template.
const MARKS: [&str; 4] = ["SystemMark", "FirstMark", "ReplyMark", "SecondMark"];

impl Chat {
    /// Our own template around a tokenizer of ours.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer lacks our special tokens.
    pub fn ours(tokenizer: Tokenizer) -> Result<Chat> {
        Chat::new(tokenizer, TEMPLATE.into(), String::new(), "<|end|>".into(), Path::new("tokenizer.json"))
    }

    /// A tokenizer with any template; `path` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Data`] when the template does not render, rewrites earlier turns, or does not end a reply with `eos`.
    pub fn new(tokenizer: Tokenizer, template: String, bos: String, eos: String, path: &Path) -> Result<Chat> {
        let end = tokenizer.id(&eos).ok_or_else(|| Error::data(path, format!("no token {eos:?} that ends a reply")))?;
        let blank = Piece::default;
        let mut chat = Chat {
            tokenizer,
            template,
            bos,
            eos,
            end,
            before_system: blank(),
            system_to_user: blank(),
            user_to_reply: blank(),
            reply_to_user: blank(),
        };
        chat.cut(path)?;
        Ok(chat)
    }

    /// Learns the pieces from two renderings.
    fn cut(&mut self, path: &Path) -> Result<()> {
        let roles = [Role::System, Role::User, Role::Assistant, Role::User];
        let said: Vec<Message> = roles.iter().zip(MARKS).map(|(r, m)| Message::new(*r, m)).collect();
        let (short, long) = (self.render(&said[..2], true)?, self.render(&said, true)?);
        let fault = |what: &str| Error::data(path, format!("chat template: {what}"));
        if !long.starts_with(&short) {
            return Err(fault("an earlier turn is rendered differently once the dialogue goes on; it cannot be used"));
        }
        let mut rest = long.as_str();
        let mut parts = Vec::new();
        for mark in MARKS {
            let (before, after) = rest.split_once(mark).ok_or_else(|| fault("a message is not rendered"))?;
            parts.push(self.piece(before)?);
            rest = after;
        }
        let last = self.piece(rest)?;
        let [before_system, system_to_user, user_to_reply, reply_to_user]: [Piece; 4] =
            parts.try_into().map_err(|_| fault("a message is not rendered"))?;
        if last.text != user_to_reply.text {
            return Err(fault("two turns of one role are rendered differently"));
        }
        if reply_to_user.ids.first() != Some(&self.end) {
            return Err(fault(&format!("a reply does not end with {:?}", self.eos)));
        }
        (self.before_system, self.system_to_user) = (before_system, system_to_user);
        (self.user_to_reply, self.reply_to_user) = (user_to_reply, reply_to_user);
        Ok(())
    }

    fn piece(&self, text: &str) -> Result<Piece> {
        Ok(Piece { text: text.into(), ids: self.tokenizer.encode_marked(text)? })
    }

    /// The template's rendering of a conversation, as `apply_chat_template` gives it.
    ///
    /// # Errors
    /// [`Error::Data`] when the template is not valid or asks for what we do not give.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let fault = |e: minijinja::Error| Error::data("chat template", format!("{e:#}"));
        let mut env = minijinja::Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.add_template("chat", &self.template).map_err(fault)?;
        let values = minijinja::context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        env.get_template("chat").and_then(|t| t.render(values)).map_err(fault)
    }

    /// The token that ends a reply.
    pub fn end(&self) -> i32 {
        self.end
    }

    /// The text of a reply's sampled ids, without the token that ends it.
    ///
    /// # Errors
    /// [`Error::Data`] for an id outside the vocabulary.
    pub fn reply_text(&self, sampled: &[i32]) -> Result<String> {
        self.tokenizer.decode(sampled.strip_suffix(&[self.end]).unwrap_or(sampled))
    }

    /// Ids up to and with the system content.
    pub(super) fn open(&self, system: &str) -> Result<Vec<i32>> {
        Ok([self.before_system.ids.clone(), self.tokenizer.encode(system)?].concat())
    }

    /// Ids of an incoming message and the head of the reply to it. `after_reply` says whether a reply came before, and
    /// whether it already holds the token that ends it.
    pub(super) fn incoming(&self, text: &str, after_reply: Option<bool>) -> Result<Vec<i32>> {
        let before = match after_reply {
            None => &self.system_to_user.ids[..],
            Some(false) => &self.reply_to_user.ids[..],
            Some(true) => &self.reply_to_user.ids[1..],
        };
        Ok([before, &self.tokenizer.encode(text)?, &self.user_to_reply.ids].concat())
    }

    /// The text of the same pieces: what the template renders, without running it.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn pieces(&self) -> [&str; 4] {
        [&self.before_system, &self.system_to_user, &self.user_to_reply, &self.reply_to_user].map(|p| p.text.as_str())
    }

    /// The files of a Hugging Face tokenizer: `(name, text)`.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer cannot be written as JSON.
    pub fn files(&self, context: usize) -> Result<Vec<(&'static str, String)>> {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "add_prefix_space": false,
            "model_max_length": context,
            "eos_token": self.eos,
            "chat_template": self.template,
        });
        if self.tokenizer.id("<|pad|>").is_some() {
            config["pad_token"] = json!("<|pad|>");
        }
        if !self.bos.is_empty() {
            config["bos_token"] = json!(self.bos);
        }
        Ok(vec![
            ("tokenizer.json", self.tokenizer.to_json()?),
            ("tokenizer_config.json", format!("{config:#}\n")),
            ("chat_template.jinja", self.template.clone()),
        ])
    }

    /// The tokenizer and template of a Hugging Face folder.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Data`] for one that holds something else.
    pub fn load(folder: &Path) -> Result<Chat> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))
        };
        let template = folder.join("chat_template.jinja").exists().then(|| read("chat_template.jinja")).transpose()?;
        Chat::from_files(&read("tokenizer.json")?, &read("tokenizer_config.json")?, template.as_deref(), folder)
    }

    /// The same from the files' bytes; `folder` names them in errors. A `chat_template.jinja` wins over the template
    /// inside `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Data`] for bytes that hold something else.
    pub fn from_files(tokenizer: &[u8], config: &[u8], template: Option<&[u8]>, folder: &Path) -> Result<Chat> {
        let path = folder.join("tokenizer_config.json");
        let value: Value = serde_json::from_slice(config).map_err(|e| Error::data(&path, format!("not JSON: {e}")))?;
        let text = match template {
            Some(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            None => value["chat_template"].as_str().map(str::to_string),
        };
        let text = text.ok_or_else(|| Error::data(&path, "no chat_template"))?;
        let eos = token(&value["eos_token"]).ok_or_else(|| Error::data(&path, "no eos_token"))?;
        let bos = token(&value["bos_token"]).unwrap_or_default();
        let tokenizer = Tokenizer::from_bytes(tokenizer, &folder.join("tokenizer.json"))?;
        Chat::new(tokenizer, text, bos, eos, &path)
    }
}

/// A token of `tokenizer_config.json`: a string, or an object with its `content`.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_string)
}
