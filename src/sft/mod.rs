//! Supervision: dialogues to imitate, the trainer that imitates, what it then knows, teaching a task's
//! format, and fine-tuning on conversations of others.

pub mod dialogues;
pub mod lines;
pub mod probe;
pub mod talk;
pub mod teach;
pub mod trainer;
pub mod tune;
