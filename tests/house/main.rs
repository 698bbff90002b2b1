//! The house itself: its floors, its lists of files, and a task brought from outside.

#![allow(clippy::unwrap_used)]

mod contributing;
mod floors;
mod task_of_your_own;
