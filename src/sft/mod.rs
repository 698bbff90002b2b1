//! Supervision: dialogues to imitate, the trainer that imitates, what it then knows, and teaching a task's format.

pub mod dialogues;
pub mod probe;
pub mod teach;
pub mod trainer;
