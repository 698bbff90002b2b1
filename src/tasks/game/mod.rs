//! The game: a buyer and a seller over one product.

pub mod contest;
pub mod credit;
