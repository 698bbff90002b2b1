//! What an answer is held to, and the answer on its way.

use super::course::{Course, Guide};
use super::schema::{Form, Schema};
use crate::error::Result;
use crate::text::Tokenizer;

/// What an answer is held to.
#[derive(Debug, Clone)]
pub enum Rule {
    /// A reply of a game.
    Reply(Guide),
    /// JSON of a schema.
    Json(Box<Schema>),
}

/// An answer that is held to a rule, so far.
pub enum Ruled {
    /// See [`Rule::Reply`].
    Reply(Course),
    /// See [`Rule::Json`].
    Json(Box<Form>),
}

impl From<Schema> for Rule {
    fn from(schema: Schema) -> Rule {
        Rule::Json(Box::new(schema))
    }
}

impl Rule {
    /// An answer of which nothing was said.
    pub fn begin(&self) -> Ruled {
        match self {
            Rule::Reply(guide) => Ruled::Reply(guide.begin()),
            Rule::Json(schema) => Ruled::Json(Box::new(schema.begin())),
        }
    }
}

impl Ruled {
    /// The tokens that may come next: see [`crate::infer::Engine::allow`]. Never none.
    ///
    /// # Errors
    /// As [`Form::allowed`].
    pub fn allowed(&mut self) -> Result<&[i32]> {
        match self {
            Ruled::Reply(course) => Ok(course.allowed()),
            Ruled::Json(form) => form.allowed(),
        }
    }

    /// Takes the next token. False for one that may not come.
    pub fn take(&mut self, tokenizer: &Tokenizer, id: i32) -> bool {
        match self {
            Ruled::Reply(course) => course.take(tokenizer, id),
            Ruled::Json(form) => form.take(id),
        }
    }
}
