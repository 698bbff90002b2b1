//! Menu negotiation: the buyer drafts K replies for one turn; each is played on against the frozen seller.
//!
//! The one idea: a candidate is a bid by its percentage on the buyer's own card and the words that go with it, or `deal`;
//! the price is the card's, so a draft is short and its price always legal. Where a draft leads is the seller's affair:
//! the caller plays it on. The horizon ends with the buyer taking the ask when it is within budget, or leaving.

use crate::negotiate::reasons::REASONS;
use crate::negotiate::reply::render;
use crate::negotiate::{Action, Episode, Side};
use crate::noise::Noise;
use crate::tasks::{Prompt, pick};

/// Percentages a demonstration bids.
const DEMO_BIDS: [u32; 8] = [50, 55, 60, 65, 70, 75, 80, 85];

/// Share of demonstrated bids that give a reason; which pays is left to training.
const REASONED: f32 = 0.25;
/// What the others say.
const PLAIN: [&str; 3] = ["That is my offer.", "What do you say?", "I can offer this."];

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

/// Percent points a bid rises by, a turn inside the horizon.
const RISE: u32 = 5;

/// The buyer's reply inside the horizon: a little above its bid, to the ask at most, with no reason. What the seller then
/// concedes is owed to time and to the draft.
pub fn rise(episode: &Episode) -> String {
    let (card, bid) = (episode.card(Side::Buyer), episode.standing(Side::Buyer));
    let percent = bid.and_then(|bid| card.percent(bid)).map_or(RISE, |percent| (percent + RISE).min(100));
    let ask = episode.standing(Side::Seller);
    let action = match (card.price(percent), ask) {
        (Some(price), Some(ask)) if ask <= price => Action::Deal(ask),
        (Some(price), _) => Action::Buy(price),
        (None, _) => bid.map_or(Action::Reject, Action::Buy),
    };
    render(&format!("bid {percent}%"), "A little more.", action, episode.code())
}

/// The buyer's reply at the end of the horizon.
pub fn close(episode: &Episode) -> String {
    let ask = episode.standing(Side::Seller).filter(|ask| *ask <= episode.product().budget);
    let action = ask.map_or(Action::Quit, Action::Deal);
    render("close", "That is all.", action, episode.code())
}

/// A demonstration: K drafts, whose bids are any and which give any reason in one of four.
pub fn demonstration(episode: &Episode, k: usize, noise: Noise) -> (String, Vec<String>) {
    let bid = |i: u64| {
        let reason = pick(noise, 4 * i, &REASONS).sentences();
        let plain = noise.child(i).uniform(0) >= REASONED;
        let talk = if plain { pick(noise, 4 * i + 2, &PLAIN) } else { pick(noise, 4 * i + 2, &reason) };
        format!("bid {}% {talk}", pick(noise, 4 * i + 1, &DEMO_BIDS))
    };
    let deal = episode.standing(Side::Seller).is_some_and(|ask| ask <= episode.product().budget);
    let draft = |i: u64| if deal && noise.uniform(4 * i + 3) < 0.1 { "deal".to_string() } else { bid(i) };
    ("drafts".into(), (0..k as u64).map(draft).collect())
}
