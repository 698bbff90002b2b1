//! Evaluation: buyers against sellers on held-out products.

pub use crate::tasks::game::contest::*;
