//! The game: one product, one price, a buyer with a budget and a seller with a cost, in six turns a side.
//!
//! The one idea: the whole game is plain data and pure functions. No device, no model, no clock, no hidden randomness;
//! money is integer cents; what a side is shown is built from the public record and its own card.

pub mod action;
pub mod buyers;
pub mod card;
pub mod catalog;
mod catalog_words;
pub mod episode;
pub mod export;
pub mod folder;
pub mod legal;
pub mod malformed;
pub mod metrics;
pub mod money;
pub mod play;
pub mod product;
pub mod prompts;
pub mod protocol;
pub mod reasons;
mod record;
mod records;
pub mod regulator;
pub mod reply;
pub mod reward;
pub mod seller;
pub mod sellers;
pub mod stats;
mod strangers;
mod talks;
pub mod teacher_seller;

pub use action::Action;
pub use buyers::{BUYERS, Buyer};
pub use card::{Card, Level, Move};
pub use episode::{Episode, Outcome, Turn};
pub use metrics::{EpisodeFacts, Row};
pub use money::Cents;
pub use play::{play, play_as};
pub use product::{Product, Scenario, split};
pub use prompts::Persona;
pub use protocol::{Rules, Side, Style, Violation};
pub use regulator::{INTERVENTIONS, Intervention};
pub use seller::{SELLERS, Seller};
