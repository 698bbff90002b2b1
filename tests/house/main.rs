//! The house itself: its floors, its lists of files, what it says of hardware, and a task brought from outside.

#![allow(clippy::unwrap_used)]

mod contributing;
mod floors;
mod hardware;
mod task_of_your_own;
