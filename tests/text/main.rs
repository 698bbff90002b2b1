//! Tokens and templates, against what their authors publish.

#![allow(clippy::unwrap_used)]

mod embedded;
mod golden;
mod published;
mod templates;
mod tokenizer;
