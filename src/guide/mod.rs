//! Guided replies: what a model may say next in a game, as a mask over its vocabulary.
//!
//! The one idea: the state of the game gives what is legal ([`crate::negotiate::legal`]), that gives a grammar over the bytes of
//! a reply, and that, walked over the tokens, a bit each. The engine samples among those bits and scores among them: the
//! distribution that is drawn from is the one that is told. So a reply always parses, and a price beyond the limit has no
//! probability at all. What is said in words is another matter: [`said`] looks at it afterwards.

mod course;
mod grammar;
pub mod hearing;
mod keywords;
mod rule;
pub mod said;
mod schema;
mod vocabulary;

pub use course::{Course, Guide, Manner};
pub use grammar::{Caps, Grammar, State};
pub use rule::{Rule, Ruled};
pub use schema::{Form, Schema, Schemas};
pub use vocabulary::Vocabulary;
