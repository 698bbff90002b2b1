//! How much of a person's words the model has room to hear.
//!
//! The one idea: what is said stays in the model's context to the end, so each turn may take its share of what the turns
//! behind it do not need. Whatever is typed, the model can answer to the last turn.

use crate::error::Result;
use crate::negotiate::{Action, Cents, Episode, Side};
use crate::text::Chat;

/// Tokens that a template puts around a message, at most.
const FRAME: usize = 16;
/// Tokens of a reply, as models write them; one reply is always left room to its limit.
const USUAL_REPLY: usize = 40;

/// The context of the model on the other side.
pub struct Room<'a> {
    chat: &'a Chat,
    context: usize,
    model: Side,
    longest_reply: usize,
}

impl<'a> Room<'a> {
    /// The room of a model of `context` positions that plays `model` and replies with at most `longest_reply` tokens.
    pub fn new(chat: &'a Chat, context: usize, model: Side, longest_reply: usize) -> Room<'a> {
        Room { chat, context, model, longest_reply }
    }

    /// As much of `talk` as the model has room for at this turn of `episode`, to a whole word.
    ///
    /// # Errors
    /// As [`crate::text::Tokenizer::encode`].
    pub fn heard(&self, episode: &Episode, talk: &str) -> Result<String> {
        let most = self.share(episode)?;
        // A token of a text holds no more characters than this.
        let mut heard: String = talk.chars().take(16 * most).collect();
        while self.tokens(&heard)? > most {
            let cut = (0..=heard.len() * 7 / 8).rev().find(|at| heard.is_char_boundary(*at)).unwrap_or(0);
            // To the end of a word, where words have ends.
            let word = heard[..cut].rfind(char::is_whitespace).filter(|at| *at > cut / 2);
            heard.truncate(word.unwrap_or(cut));
        }
        Ok(heard)
    }

    /// Tokens of this turn's words: twice an even share of what is spare, so that an early word may be longer.
    fn share(&self, episode: &Episode) -> Result<usize> {
        let mut used = self.tokens(&episode.system_prompt(self.model))? + FRAME;
        for (incoming, reply) in episode.dialogue(self.model) {
            used += self.tokens(incoming)? + self.tokens(reply)? + FRAME;
        }
        let action = Action::Sell(Cents(episode.product().list.0.max(99_999))).render(episode.code());
        let line = format!("Talk: \nAction: {action}\n(Turn 10 of 10. Your reply?) ask 100% down");
        let message = self.tokens(&line)? + FRAME;
        let left = (episode.rules().max_turns + 1).saturating_sub(episode.turn()).max(1) as usize;
        let needed = used + message + self.longest_reply + (left - 1) * (message + USUAL_REPLY);
        Ok(2 * self.context.saturating_sub(needed) / (left + 1))
    }

    fn tokens(&self, text: &str) -> Result<usize> {
        Ok(self.chat.tokenizer.encode(text)?.len())
    }
}
