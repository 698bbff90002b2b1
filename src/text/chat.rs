//! The chat template, cut into pieces once.
//!
//! The one idea: rollouts never run the template. A template that only appends (ours does; one that rewrites earlier
//! turns is refused) is a few fixed strings around the contents, so [`Chat`] learns those strings by rendering marks,
//! encodes them once, and a turn costs the encoding of its own content. Debug builds render the whole conversation
//! again and compare. What a side hears is trimmed where the template trims it; what it says stays as it was sampled,
//! whatever the template would make of it later (Qwen3's drops the thoughts of earlier turns).

use super::message::{Message, Role};
use super::renderer::{Conversation, Renderer};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The template of our own tokenizers.
pub const TEMPLATE: &str = "{%- for message in messages -%}\
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}\
    {%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}";

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
    renderer: Renderer,
    end: i32,
    /// The template trims what the system says, what the user says.
    trims: [bool; 2],
    /// Before the system content, after it, ...
    before_system: Piece,
    /// ... between system and user content, between user content and reply, after a reply up to the next user content.
    system_to_user: Piece,
    user_to_reply: Piece,
    reply_to_user: Piece,
    /// What stands for `user_to_reply` before a reply of an earlier turn: the same, or less of it where the template opens
    /// a thought for the model (Qwen3 Thinking). The ids of earlier turns stay as they were asked for.
    told_reply: String,
}

/// Turns that a template is held to when it is opened.
const TURNS: usize = 8;
/// Contents that stand for themselves in any sane template.
const MARKS: [&str; 4] = ["SystemMark", "FirstMark", "ReplyMark", "SecondMark"];
const ROLES: [Role; 4] = [Role::System, Role::User, Role::Assistant, Role::User];

/// Why a template cannot be used: rollouts only ever append, and it does not.
fn rewritten(turn: usize, by: usize) -> String {
    format!(
        "turn {turn} is rendered differently once turn {by} is there, and what was said cannot be said again; it cannot be used"
    )
}

impl Chat {
    /// Our own template around a tokenizer of ours.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer lacks our special tokens.
    pub fn ours(tokenizer: Tokenizer) -> Result<Chat> {
        let pad = tokenizer.id("<|pad|>").map(|_| ("pad_token".into(), json!("<|pad|>")));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "add_prefix_space": false,
            "model_max_length": null,
            "eos_token": "<|end|>",
            "chat_template": null,
        });
        let config = config.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).chain(pad);
        Chat::new(tokenizer, TEMPLATE, config.collect(), Path::new("tokenizer.json"))
    }

    /// A tokenizer with any template and what `tokenizer_config.json` says beside it; `path` names the template's file
    /// in errors.
    ///
    /// # Errors
    /// [`Error::Data`] when the template does not render, rewrites earlier turns, or ends a reply with no token of its
    /// own.
    pub fn new(tokenizer: Tokenizer, template: &str, config: Map<String, Value>, path: &Path) -> Result<Chat> {
        let fault = |what: String| Error::data(path, format!("chat template: {what}"));
        let blank = Piece::default;
        let mut chat = Chat {
            tokenizer,
            renderer: Renderer::new(template, config, path)?,
            end: 0,
            trims: [false; 2],
            before_system: blank(),
            system_to_user: blank(),
            user_to_reply: blank(),
            reply_to_user: blank(),
            told_reply: String::new(),
        };
        chat.cut().map_err(fault)?;
        Ok(chat)
    }

    /// Learns the pieces from two renderings, and from a third what the template does to white space.
    fn cut(&mut self) -> Result<(), String> {
        let said: Vec<Message> = ROLES.iter().zip(MARKS).map(|(r, m)| Message::new(*r, m)).collect();
        let (short, asked) = (self.rendered(&said[..2], false)?, self.rendered(&said[..2], true)?);
        let long = self.rendered(&said, true)?;
        if !long.starts_with(&short) {
            return Err(rewritten(1, 2));
        }
        let mut rest = long.as_str();
        let mut parts = Vec::new();
        for mark in MARKS {
            let (before, after) = rest.split_once(mark).ok_or("a message is not rendered")?;
            parts.push(self.piece(before)?);
            rest = after;
        }
        let last = self.piece(rest)?;
        let [before_system, system_to_user, user_to_reply, reply_to_user]: [Piece; 4] =
            parts.try_into().map_err(|_| "a message is not rendered")?;
        let first = asked.split_once(MARKS[1]).map_or("", |(_, head)| head);
        if last.text != first || !last.text.starts_with(&user_to_reply.text) {
            return Err("two turns of one role are rendered differently".into());
        }
        (self.before_system, self.system_to_user) = (before_system, system_to_user);
        (self.told_reply, self.user_to_reply, self.reply_to_user) = (user_to_reply.text, last, reply_to_user);
        self.end = self.ending()?;
        self.trims = self.trimmed()?;
        self.appends()
    }

    /// Holds a dialogue of [`TURNS`] turns to the pieces: what the template makes of a turn depends neither on what follows
    /// nor on how many came before.
    fn appends(&self) -> Result<(), String> {
        let user = |turn: usize| Message::new(Role::User, format!("UserMark{turn}."));
        let mut said = vec![Message::new(Role::System, MARKS[0]), user(1)];
        let mut pieced = [&self.before_system.text, MARKS[0], &self.system_to_user.text].concat();
        let mut before = self.rendered(&said, false)?;
        for turn in 2..=TURNS {
            said.extend([Message::new(Role::Assistant, format!("ReplyMark{turn}.")), user(turn)]);
            pieced +=
                &format!("{}{}ReplyMark{turn}.{}", user(turn - 1).content, self.told_reply, self.reply_to_user.text);
            let (now, asked) = (self.rendered(&said, false)?, self.rendered(&said, true)?);
            if !now.starts_with(&before) {
                let same = now.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
                let end = |turn: &usize| before.find(&user(*turn).content).map(|at| at + user(*turn).content.len());
                let whole = (1..turn).take_while(|turn| end(turn).is_some_and(|end| end <= same)).count();
                return Err(rewritten((whole + 1).min(turn - 1), turn));
            }
            if asked != [pieced.as_str(), &user(turn).content, &self.user_to_reply.text].concat() {
                return Err(format!("turn {turn} is rendered unlike the turns before it; it cannot be used"));
            }
            before = now;
        }
        Ok(())
    }

    /// The token that ends a reply: `eos_token`, or whatever special token the template writes there.
    fn ending(&self) -> Result<i32, String> {
        let eos = self.renderer.token("eos_token");
        let first = self.reply_to_user.ids.first().copied();
        match (first, eos.and_then(|eos| self.tokenizer.id(eos))) {
            (Some(first), eos) if eos == Some(first) || self.tokenizer.is_special(first) => Ok(first),
            _ => Err(format!(
                "a reply does not end with {} or any special token",
                eos.map_or("eos_token".into(), |eos| format!("{eos:?}"))
            )),
        }
    }

    /// Which of what a side hears the template trims: the system's words, the user's.
    fn trimmed(&self) -> Result<[bool; 2], String> {
        let wide = [" \n SystemMark \n ", " \n FirstMark \n "];
        let said = [Message::new(Role::System, wide[0]), Message::new(Role::User, wide[1])];
        let rendered = self.rendered(&said, true)?;
        let text = |content: &'static str, trims: bool| if trims { content.trim() } else { content };
        let pieced = |trims: &[bool; 2]| {
            let (system, user) = (text(wide[0], trims[0]), text(wide[1], trims[1]));
            let pieces = [&self.before_system.text, system, &self.system_to_user.text, user, &self.user_to_reply.text];
            pieces.concat() == rendered
        };
        let ways = [[false, false], [true, true], [false, true], [true, false]];
        ways.into_iter().find(pieced).ok_or("a message's white space is rendered in part; it cannot be used".into())
    }

    fn piece(&self, text: &str) -> Result<Piece, String> {
        let ids = self.tokenizer.encode_marked(text).map_err(|e| e.to_string())?;
        Ok(Piece { text: text.into(), ids })
    }

    /// The template's rendering of a conversation, as `apply_chat_template` gives it.
    ///
    /// # Errors
    /// [`Error::Data`] when the template is not valid or asks for what we do not give.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.rendered(messages, add_generation_prompt).map_err(|what| Error::data("chat template", what))
    }

    fn rendered(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, String> {
        let mut conversation = Conversation::of(json!(messages));
        conversation.add_generation_prompt = add_generation_prompt;
        self.renderer.rendered(&conversation)
    }

    /// What a side hears, as the template writes it.
    pub(super) fn heard<'a>(&self, role: Role, text: &'a str) -> &'a str {
        let trims = match role {
            Role::System => self.trims[0],
            Role::User => self.trims[1],
            Role::Assistant => false,
        };
        if trims { text.trim() } else { text }
    }

    /// The token that ends a reply.
    pub fn end(&self) -> i32 {
        self.end
    }

    /// The text of a reply's sampled ids, without the token that ends it.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn reply_text(&self, sampled: &[i32]) -> Result<String> {
        self.tokenizer.decode(sampled.strip_suffix(&[self.end]).unwrap_or(sampled))
    }

    /// Ids up to and with the system content.
    pub(super) fn open(&self, system: &str) -> Result<Vec<i32>> {
        Ok([self.before_system.ids.clone(), self.tokenizer.encode(self.heard(Role::System, system))?].concat())
    }

    /// Ids of an incoming message and the head of the reply to it. `after_reply` says whether a reply came before, and
    /// whether it already holds the token that ends it.
    pub(super) fn incoming(&self, text: &str, after_reply: Option<bool>) -> Result<Vec<i32>> {
        let before = match after_reply {
            None => &self.system_to_user.ids[..],
            Some(false) => &self.reply_to_user.ids[..],
            Some(true) => &self.reply_to_user.ids[1..],
        };
        let content = self.tokenizer.encode(self.heard(Role::User, text))?;
        Ok([before, &content, &self.user_to_reply.ids].concat())
    }

    /// The text of the same pieces: what the template renders, without running it.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn pieces(&self) -> [&str; 4] {
        [&self.before_system, &self.system_to_user, &self.user_to_reply, &self.reply_to_user].map(|p| p.text.as_str())
    }

    /// What stands before a reply: where it is asked for, and where it is told.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn reply_heads(&self) -> [&str; 2] {
        [&self.user_to_reply.text, &self.told_reply]
    }

    /// The files of a Hugging Face tokenizer: `(name, text)`. What was loaded is written as it was, with the one template
    /// that is used.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer cannot be written as JSON.
    pub fn files(&self, context: usize) -> Result<Vec<(&'static str, String)>> {
        let mut config = self.renderer.config().clone();
        config.insert("model_max_length".into(), json!(context));
        config.insert("chat_template".into(), json!(self.renderer.source()));
        let config = Value::Object(config);
        Ok(vec![
            ("tokenizer.json", self.tokenizer.to_json()?),
            ("tokenizer_config.json", format!("{config:#}\n")),
            ("chat_template.jinja", self.renderer.source().into()),
        ])
    }
}
