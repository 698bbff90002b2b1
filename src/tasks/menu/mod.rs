//! Menus: K drafts of the buyer's next reply, each played on against the seller.

pub mod branches;
mod drafts;

pub use drafts::*;
