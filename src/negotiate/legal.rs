//! What a side may do now: the protocol's rules, its private limit, and the guards set for it.
//!
//! The one idea: legality as a value. A grammar is made of it, a sampler is masked by the grammar, and what comes out needs no
//! regulator: no offer beyond the limit, none above the ask or below the bid that stands, none that takes back a concession, no
//! deal but at the standing offer.

use super::action::Action;
use super::episode::Episode;
use super::money::Cents;
use super::protocol::Side;
use serde::{Deserialize, Serialize};

/// How far a side may give in, beyond its private limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Guards {
    /// From one of its offers to the next, the acceptance of the other's included.
    pub max_step: Option<Cents>,
    /// From its first offer to any other.
    pub max_total: Option<Cents>,
}

/// What a side may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Legal {
    /// Whose turn it is.
    pub side: Side,
    /// The least and the highest price it may offer, if any.
    pub offer: Option<(Cents, Cents)>,
    /// The price it may accept.
    pub deal: Option<Cents>,
    /// Whether it may leave. It may always turn down what stands.
    pub quit: bool,
}

impl Legal {
    /// What `side` may do in this turn of an episode.
    pub fn now(episode: &Episode, side: Side, guards: Guards) -> Legal {
        let (own, other) = (episode.standing(side), episode.standing(side.other()));
        let (low, high) = reach(episode, side, guards);
        let within = |price: &Cents| (low..=high).contains(price);
        let opening = side == Side::Buyer && episode.turns_of(side).next().is_none();
        // An offer that meets the other's is a deal, and is made as one.
        let (least, most) = match side {
            Side::Buyer => (own.unwrap_or(Cents(1)), other.map_or(high, |ask| high.min(Cents(ask.0 - 1)))),
            Side::Seller => {
                let most = own.unwrap_or(episode.product().list);
                (other.map_or(low, |bid| low.max(Cents(bid.0 + 1))), most)
            }
        };
        Legal {
            side,
            offer: (least <= most).then_some((least, most)),
            deal: other.filter(within).filter(|_| !opening),
            quit: !opening,
        }
    }

    /// Whether an action is one of these.
    pub fn allows(&self, action: Action) -> bool {
        let offered = |price| self.offer.is_some_and(|(low, high)| (low..=high).contains(&price));
        match action {
            Action::Buy(price) => self.side == Side::Buyer && offered(price),
            Action::Sell(price) => self.side == Side::Seller && offered(price),
            Action::Deal(price) => self.deal == Some(price),
            Action::Reject => true,
            Action::Quit => self.quit,
        }
    }
}

/// The prices that a side may offer or accept, by its limit and its guards.
fn reach(episode: &Episode, side: Side, guards: Guards) -> (Cents, Cents) {
    let limit = episode.product().private(side);
    let steps = [(episode.standing(side), guards.max_step), (episode.offers(side).next(), guards.max_total)];
    let steps = steps.into_iter().filter_map(|(from, most)| Some((from?.0, most?.0)));
    match side {
        Side::Buyer => (Cents(1), Cents(steps.map(|(from, most)| from + most).fold(limit.0, i64::min))),
        Side::Seller => (Cents(steps.map(|(from, most)| from - most).fold(limit.0, i64::max)), Cents(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::reply::render;
    use crate::negotiate::{Persona, Product, Rules};
    use std::sync::Arc;

    /// List $100, cost $40, budget $80.
    fn played(actions: &[Action]) -> Episode {
        let product = Product::new("books_1", "books", "A book", "", Cents(10_000), Cents(4_000));
        let mut episode = Episode::new(Arc::new(product), Rules::default(), Persona::Neutral);
        for action in actions {
            let side = episode.next_side().unwrap();
            let text = render("", "Hm.", *action, episode.code());
            episode.submit(side, &text).unwrap();
        }
        episode
    }

    fn now(actions: &[Action], side: Side, guards: Guards) -> Legal {
        Legal::now(&played(actions), side, guards)
    }

    #[test]
    fn a_buyer_stays_within_budget_and_ask_and_takes_no_bid_back() {
        let free = Guards::default();
        let open = now(&[], Side::Buyer, free);
        assert_eq!((open.offer, open.deal, open.quit), (Some((Cents(1), Cents(8_000))), None, false));
        let (bid, ask) = (Action::Buy(Cents(3_000)), Action::Sell(Cents(7_000)));
        let second = now(&[bid, ask], Side::Buyer, free);
        assert_eq!((second.offer, second.deal), (Some((Cents(3_000), Cents(6_999))), Some(Cents(7_000))));
        let dear = now(&[bid, Action::Sell(Cents(9_000))], Side::Buyer, free);
        assert_eq!((dear.offer, dear.deal), (Some((Cents(3_000), Cents(8_000))), None));
        assert!(dear.allows(Action::Reject) && dear.allows(Action::Quit) && !dear.allows(Action::Deal(Cents(9_000))));
        let met = now(&[Action::Buy(Cents(4_500)), Action::Sell(Cents(4_200))], Side::Buyer, free);
        assert_eq!((met.offer, met.deal), (None, Some(Cents(4_200))));
    }

    #[test]
    fn a_seller_stays_above_cost_and_bid_and_does_not_raise_its_ask() {
        let legal = now(&[Action::Buy(Cents(3_000))], Side::Seller, Guards::default());
        assert_eq!((legal.offer, legal.deal, legal.quit), (Some((Cents(4_000), Cents(10_000))), None, true));
        let moves = [Action::Buy(Cents(3_000)), Action::Sell(Cents(6_000)), Action::Buy(Cents(4_500))];
        let legal = now(&moves, Side::Seller, Guards::default());
        assert_eq!((legal.offer, legal.deal), (Some((Cents(4_501), Cents(6_000))), Some(Cents(4_500))));
        assert!(!legal.allows(Action::Buy(Cents(5_000))) && legal.allows(Action::Sell(Cents(5_000))));
    }

    #[test]
    fn guards_bound_each_step_and_all_of_them() {
        let moves = [
            Action::Buy(Cents(3_000)),
            Action::Sell(Cents(7_000)),
            Action::Buy(Cents(3_400)),
            Action::Sell(Cents(4_100)),
        ];
        let step = now(&moves, Side::Buyer, Guards { max_step: Some(Cents(500)), max_total: None });
        assert_eq!((step.offer, step.deal), (Some((Cents(3_400), Cents(3_900))), None));
        let total = now(&moves, Side::Buyer, Guards { max_step: None, max_total: Some(Cents(600)) });
        assert_eq!(total.offer, Some((Cents(3_400), Cents(3_600))));
        let moves = [Action::Buy(Cents(3_000)), Action::Sell(Cents(7_000)), Action::Buy(Cents(6_600))];
        let seller = now(&moves, Side::Seller, Guards { max_step: Some(Cents(300)), max_total: None });
        assert_eq!((seller.offer, seller.deal), (Some((Cents(6_700), Cents(7_000))), None));
    }
}
