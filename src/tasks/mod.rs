//! The tasks, a folder each: what a step's episodes are, what their tokens earn, the tables.

pub mod game;
pub mod menu;
pub mod recommend;
pub mod sets;
pub mod summary;
