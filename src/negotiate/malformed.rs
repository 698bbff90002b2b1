//! What can be wrong with a reply's form.

use serde::{Deserialize, Serialize};

/// What is wrong with a reply's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// The reply does not begin with `Thought:`.
    #[error("the reply does not begin with Thought:")]
    NoThought,
    /// No line `Talk:` follows the thought.
    #[error("no Talk: line")]
    NoTalk,
    /// No line `Action:` follows, or it holds no `[WORD]`.
    #[error("no action")]
    NoAction,
    /// A `[WORD]` that is none of the five.
    #[error("unknown action")]
    UnknownAction,
    /// An offer without ` $price` behind the word.
    #[error("no price behind the action")]
    NoPrice,
    /// A price that is not a positive amount.
    #[error("the price is not a positive amount")]
    BadPrice,
    /// Not `(1x code)` with this product's code.
    #[error("the item is not (1x code) of this product")]
    WrongItem,
    /// A second `Thought:` line inside the talk.
    #[error("a thought inside the talk")]
    ThoughtInTalk,
    /// The reply was cut off at its token limit.
    #[error("the reply is longer than its token limit")]
    TooLong,
}
