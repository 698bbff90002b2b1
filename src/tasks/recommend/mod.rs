//! Recommendations: K products for a shopper whose needs are partly told.

mod shopper;

pub use shopper::*;
