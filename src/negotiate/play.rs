//! Scripted against scripted: whole episodes without a model, for supervision, baselines and tests.

use super::buyers::Buyer;
use super::episode::Episode;
use super::product::Product;
use super::prompts::Persona;
use super::protocol::{Rules, Side};
use super::seller::Seller;
use crate::noise::Noise;
use std::sync::Arc;

/// Plays one episode to its end. The same arguments give the same episode.
pub fn play(buyer: Buyer, seller: Seller, product: &Arc<Product>, rules: Rules, noise: Noise) -> Episode {
    play_as(Persona::Neutral, buyer, seller, product, rules, noise)
}

/// The same with a persona in the seller's prompt.
pub fn play_as(
    persona: Persona,
    buyer: Buyer,
    seller: Seller,
    product: &Arc<Product>,
    rules: Rules,
    noise: Noise,
) -> Episode {
    let mut episode = Episode::new(product.clone(), rules, persona);
    while let Some(side) = episode.next_side() {
        let text = match side {
            Side::Buyer => buyer.reply(&episode, noise),
            Side::Seller => seller.reply(&episode, noise),
        };
        // `next_side` has just named this side, so it is its turn.
        if episode.submit(side, &text).is_err() {
            break;
        }
    }
    episode
}
