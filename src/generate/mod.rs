//! Generation: prompts in, texts out, through the engine.
//!
//! The one idea: an answer is a function of the weights, its prompt, how it is sampled, and the noise of (seed, label,
//! sample). Not of the other requests, their number or order, nor of whether their prefixes were shared: a request asked
//! alone gives the same ids, logprobs and text, to the bit. Knows no game: what a side of a negotiation says is `rollout`'s.

mod answers;
pub mod defaults;
mod stream;

pub use answers::{Answer, Answering, Finish, Heard, How, Request, Step, run};
pub use defaults::Defaults;
pub use stream::Stream;
