//! Summaries: K one-line pitches of a product.

mod pitch;

pub use pitch::*;
