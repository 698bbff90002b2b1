//! The negotiation game.
