//! Text and tokens: the tokenizer, the chat template, and the append-only transcript of one side of an episode.
//!
//! The one idea: text becomes tokens once. What a side hears is encoded when it is heard, what it says stays the ids it
//! sampled; nothing is ever re-tokenised. Knows no device and no game.

pub mod chat;
mod folder;
pub mod jinja;
mod message;
mod methods;
pub mod prompts;
mod python;
pub mod renderer;
pub mod tokenizer;
pub mod transcript;

pub use chat::Chat;
pub use message::{Message, Role};
pub use prompts::Prompts;
pub use renderer::{Conversation, Renderer};
pub use tokenizer::Tokenizer;
pub use transcript::{Mask, Transcript};
