//! Scripted sellers.

use super::episode::Episode;
use super::teacher_seller;
use crate::noise::Noise;
use serde::{Deserialize, Serialize};

/// A scripted seller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seller {
    /// The fair opponent the embedded seller is supervised from.
    Teacher,
}

impl Seller {
    /// This seller's reply in `episode`. `noise` is the episode's.
    pub fn reply(self, episode: &Episode, noise: Noise) -> String {
        match self {
            Seller::Teacher => teacher_seller::reply(episode, noise),
        }
    }
}
