//! A buyer that drafts at each of its turns and plays one of the drafts: a model that was trained on menus, in a game.
//!
//! The one idea: a menu answers a prompt of its own, as in training. Which draft is played is drawn, each as likely as
//! another: in a game nobody can play them all on to see which would do best.

use super::super::sets::reply::parse;
use super::drafts;
use crate::error::Result;
use crate::negotiate::{Episode, Side};
use crate::noise::Noise;
use crate::rollout::{self, Ears};

/// A game whose buyer drafts.
#[derive(Debug, Clone)]
pub struct Drafting {
    game: Episode,
    /// Drafts a turn.
    k: usize,
    noise: Noise,
    /// Turns that the buyer has taken.
    turns: u64,
}

impl Drafting {
    /// A game whose buyer drafts `k` replies a turn; which is played is drawn from `noise`.
    pub fn new(game: Episode, k: usize, noise: Noise) -> Drafting {
        Drafting { game, k, noise, turns: 0 }
    }

    /// The reply that a menu comes to; none for a menu, or a draft, that is broken.
    fn drawn(&self, menu: &str, cut: bool) -> Option<String> {
        let drafts = parse(&[menu.as_bytes().to_vec()], self.k, cut).ok()?;
        drafts::draft(&self.game, &drafts[self.noise.below(self.turns, drafts.len())].text)
    }
}

impl AsRef<Episode> for Drafting {
    fn as_ref(&self) -> &Episode {
        &self.game
    }
}

impl From<Drafting> for Episode {
    fn from(seated: Drafting) -> Episode {
        seated.game
    }
}

impl rollout::Episode for Drafting {
    fn next_seat(&self) -> Option<usize> {
        rollout::Episode::next_seat(&self.game)
    }

    fn seat_name(&self, seat: usize) -> &'static str {
        rollout::Episode::seat_name(&self.game, seat)
    }

    fn system_prompt(&self, seat: usize) -> String {
        match seat == Side::Buyer as usize {
            true => drafts::prompt(&self.game, self.k).system,
            false => rollout::Episode::system_prompt(&self.game, seat),
        }
    }

    fn view(&self, seat: usize) -> String {
        rollout::Episode::view(&self.game, seat)
    }

    /// A broken menu is a broken reply.
    fn submit(&mut self, seat: usize, reply: &str, cut: bool) -> Result<()> {
        if seat != Side::Buyer as usize {
            return rollout::Episode::submit(&mut self.game, seat, reply, cut);
        }
        let drawn = self.drawn(reply, cut);
        self.turns += 1;
        match drawn {
            Some(draft) => rollout::Episode::submit(&mut self.game, seat, &draft, false),
            None => rollout::Episode::submit(&mut self.game, seat, reply, cut),
        }
    }

    fn lose(&mut self, seat: usize, why: &str) -> Result<()> {
        rollout::Episode::lose(&mut self.game, seat, why)
    }

    fn forgets(&self, seat: usize) -> bool {
        seat == Side::Buyer as usize
    }

    fn scripted(&self, seat: usize, noise: Noise) -> Option<String> {
        rollout::Episode::scripted(&self.game, seat, noise)
    }

    fn heard(&self, seat: usize, reply: String, ears: &Ears) -> Result<String> {
        rollout::Episode::heard(&self.game, seat, reply, ears)
    }

    fn reward(&self, seat: usize) -> Option<f64> {
        rollout::Episode::reward(&self.game, seat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::{Outcome, Persona, Rules, catalog};
    use crate::rollout::Episode as _;
    use std::sync::Arc;

    const BUYER: usize = Side::Buyer as usize;

    fn drafting() -> Drafting {
        let product = Arc::new(catalog::products(1, 3).unwrap().remove(0));
        Drafting::new(Episode::new(product, Rules::default(), Persona::Neutral), 2, Noise::new(7, 1))
    }

    #[test]
    fn one_of_the_drafts_is_played_and_each_is_sometimes() {
        let menu = "Thought: drafts\n1) bid 50% It is cheaper elsewhere.\n2) bid 60% I can pay cash now.";
        let bid = |seed| {
            let mut seat = Drafting { noise: Noise::new(seed, 1), ..drafting() };
            seat.submit(BUYER, menu, false).unwrap();
            let card = seat.game.card(Side::Buyer);
            [50, 60].iter().position(|percent| card.price(*percent) == seat.game.standing(Side::Buyer)).unwrap()
        };
        let played: Vec<usize> = (0..20).map(bid).collect();
        assert!(played.contains(&0) && played.contains(&1), "{played:?}");
    }

    #[test]
    fn a_broken_menu_is_a_broken_reply() {
        for (menu, cut) in
            [("bid 50%", false), ("Thought: x\n1) offer 5", false), ("Thought: x\n1) bid 50% Yes.", true)]
        {
            let mut seat = drafting();
            seat.submit(BUYER, menu, cut).unwrap();
            let outcome = seat.game.outcome();
            assert!(matches!(outcome, Some(Outcome::Violation { .. })), "{menu:?}: {outcome:?}");
        }
    }

    #[test]
    fn each_menu_answers_the_prompt_of_training() {
        let seat = drafting();
        let asked = drafts::prompt(&seat.game, 2);
        assert_eq!((seat.system_prompt(BUYER), seat.view(BUYER)), (asked.system, asked.incoming));
        assert!(seat.forgets(BUYER) && !seat.forgets(Side::Seller as usize));
    }
}
