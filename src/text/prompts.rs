//! Prompts for generation: the ids that transformers would hand to a model.
//!
//! The one idea: generation asks less of a folder than training does. It needs no template for a text, and any template that
//! renders for messages, also one that rewrites earlier turns: [`super::Chat`] refuses those. So the whole is rendered and
//! encoded here, once, and spellings of special tokens in it are special tokens.

use super::renderer::{Conversation, Renderer};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A tokenizer, and a template where there is one.
#[derive(Debug)]
pub struct Prompts {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The id of `eos_token`, where `tokenizer_config.json` names one.
    pub eos: Option<i32>,
    /// The template, or why there is none.
    pub(super) template: Result<Renderer>,
}

impl Prompts {
    /// Ids of a text, as transformers' `tokenizer(text)`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_input`].
    pub fn of_text(&self, text: &str) -> Result<Vec<i32>> {
        self.tokenizer.encode_input(text)
    }

    /// Ids of a conversation, as transformers' `apply_chat_template(messages, tokenize=True)`.
    ///
    /// # Errors
    /// [`Error::Data`] when the folder has no template, or the template refuses the conversation.
    pub fn of_conversation(&self, conversation: &Conversation) -> Result<Vec<i32>> {
        let renderer = match &self.template {
            Ok(renderer) => renderer,
            Err(why) => return Err(Error::data("messages need a chat template", why)),
        };
        let text = renderer.rendered(conversation).map_err(|what| Error::data("chat template", what))?;
        self.tokenizer.encode_marked(&text)
    }

    /// Whether others make the same ids of the same words.
    pub fn same(&self, other: &Prompts) -> bool {
        let template = |prompts: &Prompts| prompts.template.as_ref().ok().map(|renderer| renderer.source().to_string());
        let tokenizer = |prompts: &Prompts| prompts.tokenizer.to_json().ok();
        (self.eos, template(self), tokenizer(self)) == (other.eos, template(other), tokenizer(other))
    }

    /// Whether the template names a variable: one that does not passes over what is given.
    pub fn reads(&self, variable: &str) -> bool {
        self.template.as_ref().is_ok_and(|renderer| renderer.source().contains(variable))
    }
}
