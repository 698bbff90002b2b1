//! Menu negotiation: the buyer drafts K replies for one turn; each is played on against the frozen seller.
//!
//! The one idea: a candidate is a bid by its percentage on the buyer's own card and the words that go with it, or `deal`;
//! the price is the card's, so a draft is short and its price always legal. Where a draft leads is the seller's affair:
//! the caller plays it on. The horizon ends with the buyer taking the ask when it is within budget, or leaving.

use super::{Prompt, pick};
use crate::negotiate::reasons::REASONS;
use crate::negotiate::reply::render;
use crate::negotiate::{Action, Episode, Side};
use crate::noise::Noise;

/// Percentages a demonstration bids.
const DEMO_BIDS: [u32; 8] = [50, 55, 60, 65, 70, 75, 80, 85];

/// The buyer's prompt at its turn in `episode`: the game's own, and how many drafts are wanted.
pub fn prompt(episode: &Episode, k: usize) -> Prompt {
    Prompt { system: format!("{}\nmenu {k}", episode.system_prompt(Side::Buyer)), incoming: episode.view(Side::Buyer) }
}

/// The game's reply that a draft stands for; `None` when it is no draft: another first word, a percentage not on the card,
/// a deal with nothing to accept.
pub fn draft(episode: &Episode, text: &str) -> Option<String> {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (thought, talk, action) = match first {
        "bid" => {
            let (percent, talk) = rest.split_once(' ').unwrap_or((rest, ""));
            let price = episode.card(Side::Buyer).price(percent.strip_suffix('%')?.parse().ok()?)?;
            (format!("bid {percent}"), talk, Action::Buy(price))
        }
        "deal" => ("deal".into(), rest, Action::Deal(episode.standing(Side::Seller)?)),
        _ => return None,
    };
    let talk = if talk.trim().is_empty() { "My offer." } else { talk.trim() };
    Some(render(&thought, talk, action, episode.code()))
}

/// The buyer's reply inside the horizon: the same bid again.
pub fn again(episode: &Episode) -> String {
    let action = episode.standing(Side::Buyer).map_or(Action::Reject, Action::Buy);
    render("wait", "I stay with my offer.", action, episode.code())
}

/// The buyer's reply at the end of the horizon.
pub fn close(episode: &Episode) -> String {
    let ask = episode.standing(Side::Seller).filter(|ask| *ask <= episode.product().budget);
    let action = ask.map_or(Action::Quit, Action::Deal);
    render("close", "That is all.", action, episode.code())
}

/// A demonstration: K drafts, whose bids and reasons are any.
pub fn demonstration(episode: &Episode, k: usize, noise: Noise) -> (String, Vec<String>) {
    let bid = |i: u64| {
        let reason = pick(noise, 4 * i, &REASONS);
        format!("bid {}% {}", pick(noise, 4 * i + 1, &DEMO_BIDS), pick(noise, 4 * i + 2, &reason.sentences()))
    };
    let deal = episode.standing(Side::Seller).is_some_and(|ask| ask <= episode.product().budget);
    let draft = |i: u64| if deal && noise.uniform(4 * i + 3) < 0.1 { "deal".to_string() } else { bid(i) };
    ("drafts".into(), (0..k as u64).map(draft).collect())
}
