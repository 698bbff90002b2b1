//! One side's token ids of one episode: append-only.
//!
//! The one idea: this is the only place where an episode's ids are put together, and it can only append. What was
//! encoded or sampled stays as it is, so the ids of turn n are a prefix of those of turn n + 1, the cache of the engine
//! stays valid, and the training forward sees the very ids that were sampled.

use super::chat::Chat;
#[cfg(any(test, debug_assertions))]
use super::message::{Message, Role};
use crate::dist::{Packet, Unpack};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// The ids that might have come in the place of a sampled one: `[ceil(V / 32)]`, bit id % 32 of word id / 32.
pub type Mask = Arc<[i32]>;

/// One side's ids, which of them it sampled, and their logprobs when sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    ids: Vec<i32>,
    sampled: Vec<bool>,
    logprobs: Vec<f32>,
    /// Among which ids each was drawn, up to the last that was not drawn among all.
    masks: Vec<Option<Mask>>,
    /// First id of the reply being sampled.
    reply: usize,
    #[cfg(any(test, debug_assertions))]
    messages: Vec<Message>,
}

impl Transcript {
    /// A transcript that holds the system prompt.
    ///
    /// # Errors
    /// As [`super::Tokenizer::encode`].
    pub fn new(chat: &Chat, system: &str) -> Result<Transcript> {
        let ids = chat.open(system)?;
        Ok(Transcript {
            sampled: vec![false; ids.len()],
            logprobs: vec![0.0; ids.len()],
            masks: vec![],
            reply: 0,
            ids,
            #[cfg(any(test, debug_assertions))]
            messages: vec![Message::new(Role::System, chat.heard(Role::System, system))],
        })
    }

    /// Appends what the side hears and the head of its reply. Returns the range of the new ids: what an engine that has
    /// seen all ids before must be fed. A reply that was cut short is ended here, by a token that carries no loss.
    ///
    /// # Errors
    /// As [`super::Tokenizer::encode`].
    pub fn push_incoming(&mut self, chat: &Chat, text: &str) -> Result<Range<usize>> {
        let end = self.ids.len();
        Ok(self.push_incoming_within(chat, text, usize::MAX)?.unwrap_or(end..end))
    }

    /// The same where a context of `context` ids has room for it and one id of a reply; else none, and nothing is appended.
    ///
    /// # Errors
    /// As [`super::Tokenizer::encode`].
    pub fn push_incoming_within(&mut self, chat: &Chat, text: &str, context: usize) -> Result<Option<Range<usize>>> {
        let start = self.ids.len();
        let after_reply = (self.reply > 0).then(|| self.ids.last() == Some(&chat.end()));
        let new = chat.incoming(text, after_reply)?;
        if start + new.len() >= context {
            return Ok(None);
        }
        #[cfg(any(test, debug_assertions))]
        self.note_reply(chat)?;
        self.append(&new, false, None);
        self.reply = self.ids.len();
        #[cfg(any(test, debug_assertions))]
        {
            self.messages.push(Message::new(Role::User, chat.heard(Role::User, text)));
            debug_assert!(self.agrees(chat), "the ids are not the rendered conversation");
        }
        Ok(Some(start..self.ids.len()))
    }

    /// Appends sampled ids of the reply, the token that ends it included, with their logprobs.
    ///
    /// # Panics
    /// When there are not as many logprobs as ids.
    pub fn push_sampled(&mut self, ids: &[i32], logprobs: &[f32]) {
        assert_eq!(ids.len(), logprobs.len(), "each sampled id has its logprob");
        self.append(ids, true, Some(logprobs));
    }

    /// The same of ids each of which was drawn, and scored, among those that its mask allows.
    ///
    /// # Panics
    /// When there are not as many masks, or logprobs, as ids.
    pub fn push_drawn(&mut self, ids: &[i32], logprobs: &[f32], masks: &[Mask]) {
        assert_eq!(ids.len(), masks.len(), "each drawn id has its mask");
        self.masks.resize(self.len(), None);
        self.masks.extend(masks.iter().cloned().map(Some));
        self.push_sampled(ids, logprobs);
    }

    /// Appends a reply that this side did not sample: its text, and the token that ends it. It carries no loss.
    ///
    /// # Errors
    /// As [`super::Tokenizer::encode`].
    pub fn push_told(&mut self, chat: &Chat, text: &str) -> Result<()> {
        let mut ids = chat.tokenizer.encode(text)?;
        ids.push(chat.end());
        self.append(&ids, false, None);
        Ok(())
    }

    fn append(&mut self, ids: &[i32], sampled: bool, logprobs: Option<&[f32]>) {
        self.ids.extend_from_slice(ids);
        self.sampled.resize(self.ids.len(), sampled);
        match logprobs {
            Some(l) => self.logprobs.extend_from_slice(l),
            None => self.logprobs.resize(self.ids.len(), 0.0),
        }
    }

    /// All ids, `[T]`.
    pub fn ids(&self) -> &[i32] {
        &self.ids
    }

    /// `[T]`: true where the id was sampled by this side. The loss mask.
    pub fn sampled(&self) -> &[bool] {
        &self.sampled
    }

    /// `[T]`: the logprob a sampled id had when it was sampled, 0 elsewhere.
    pub fn logprobs(&self) -> &[f32] {
        &self.logprobs
    }

    /// Among which ids the id at `at` was drawn, and scored; none where among all, or where it was not sampled.
    pub fn mask(&self, at: usize) -> Option<&Mask> {
        self.masks.get(at)?.as_ref()
    }

    /// The ids of the reply being sampled, or of the last one.
    pub fn reply(&self) -> &[i32] {
        &self.ids[self.reply..]
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Writes it for another rank.
    pub fn write(&self, to: &mut Packet) {
        let sampled: Vec<u8> = self.sampled.iter().map(|s| u8::from(*s)).collect();
        to.put(&self.ids).put(&sampled).put(&self.logprobs).put(&[self.reply as u64]);
        write_masks(&self.masks, to);
        #[cfg(any(test, debug_assertions))]
        {
            to.put(&[self.messages.len() as u64]);
            for message in &self.messages {
                to.put(&[message.role as u8]).text(&message.content);
            }
        }
    }

    /// Reads what another rank wrote.
    ///
    /// # Errors
    /// As [`Unpack::take`].
    pub fn read(from: &mut Unpack) -> Result<Transcript> {
        let (ids, sampled, logprobs) = (from.take()?, from.take::<u8>()?, from.take()?);
        let [reply] = from.exactly::<u64, 1>()?;
        let masks = read_masks(from)?;
        #[cfg(any(test, debug_assertions))]
        let messages = {
            let [n] = from.exactly::<u64, 1>()?;
            let message = |_| {
                let [role] = from.exactly::<u8, 1>()?;
                let role = [Role::System, Role::User, Role::Assistant][usize::from(role.min(2))];
                Ok(Message::new(role, from.text()?))
            };
            (0..n).map(message).collect::<Result<_>>()?
        };
        Ok(Transcript {
            ids,
            sampled: sampled.into_iter().map(|s| s == 1).collect(),
            logprobs,
            masks,
            reply: reply as usize,
            #[cfg(any(test, debug_assertions))]
            messages,
        })
    }

    /// Never true: the system prompt stands at the beginning.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Each mask once, as rollout keeps it once, and which of them each id has: -1 for none.
fn write_masks(masks: &[Option<Mask>], to: &mut Packet) {
    let mut each: Vec<&Mask> = Vec::new();
    let mut of: Vec<i32> = Vec::new();
    for mask in masks {
        let known = mask.as_ref().map(|mask| each.iter().position(|one| Arc::ptr_eq(one, mask)).unwrap_or(each.len()));
        each.extend(mask.as_ref().filter(|_| known == Some(each.len())));
        of.push(known.map_or(-1, |at| at as i32));
    }
    to.put(&of).put(&[each.len() as u64]);
    for mask in each {
        to.put(mask);
    }
}

fn read_masks(from: &mut Unpack) -> Result<Vec<Option<Mask>>> {
    let of = from.take::<i32>()?;
    let [n] = from.exactly::<u64, 1>()?;
    let each: Vec<Mask> = (0..n).map(|_| Ok(from.take::<i32>()?.into())).collect::<Result<_>>()?;
    let unknown = || Error::Ranks { what: "a rank told of a mask that it did not tell".into() };
    let of_id = |at: i32| match at {
        -1 => Ok(None),
        at => usize::try_from(at).ok().and_then(|at| each.get(at).cloned()).map(Some).ok_or_else(unknown),
    };
    of.into_iter().map(of_id).collect()
}

/// The check of the append-only rule: the conversation is kept as text, too, and rendered by the template.
#[cfg(any(test, debug_assertions))]
impl Transcript {
    fn note_reply(&mut self, chat: &Chat) -> Result<()> {
        if self.reply > 0 {
            self.messages.push(Message::new(Role::Assistant, chat.reply_text(self.reply())?));
        }
        Ok(())
    }

    /// True when the ids decode to the template's pieces around the contents, and the template, with a mark in place of
    /// each reply, renders the same pieces and begins with its rendering of the turns before.
    pub fn agrees(&self, chat: &Chat) -> bool {
        let marked = |m: &Message| match m.role {
            Role::Assistant => Message::new(Role::Assistant, "ReplyMark"),
            _ => m.clone(),
        };
        let messages: Vec<Message> = self.messages.iter().map(marked).collect();
        let rendered = chat.render(&messages, true).unwrap_or_default();
        let before = match messages.len() {
            0..=2 => String::new(),
            n => chat.render(&messages[..n - 2], false).unwrap_or_default(),
        };
        let decoded = chat.tokenizer.decode(&self.ids).unwrap_or_default();
        let [asked, told] = chat.reply_heads();
        let as_template = rendered == pieced(chat, &messages, told) && rendered.starts_with(&before);
        as_template && !rendered.is_empty() && decoded == pieced(chat, &self.messages, asked)
    }
}

/// The template's pieces around the contents of messages, `head` before those of earlier replies.
#[cfg(any(test, debug_assertions))]
fn pieced(chat: &Chat, messages: &[Message], head: &str) -> String {
    let [first, system_to_user, user_to_reply, reply_to_user] = chat.pieces();
    let mut text = String::from(first);
    for (i, m) in messages.iter().enumerate() {
        text.push_str(match (m.role, i) {
            (Role::User, 1) => system_to_user,
            (Role::User, _) => reply_to_user,
            (Role::Assistant, _) => head,
            (Role::System, _) => "",
        });
        text.push_str(&m.content);
    }
    text + user_to_reply
}
