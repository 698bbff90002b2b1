//! `haggle chat`: a person against a model, in the terminal or from a pipe.

pub mod table;
pub mod typed;
