//! Where a draft leads: the seller's next answers, the buyer's part scripted.

use super::drafts;
use crate::error::Result;
use crate::negotiate::{Episode, Outcome, Side};
use crate::rollout;

/// A game in which the seller answers a number of times; between its answers the buyer rises a little.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    /// The game, the seller's turn.
    pub game: Episode,
    left: usize,
}

impl Answers {
    /// The seller's next `left` answers.
    pub fn new(game: Episode, left: usize) -> Answers {
        Answers { game, left }
    }

    /// True when the seller says nothing more.
    pub fn over(&self) -> bool {
        self.left == 0 || self.game.outcome().is_some()
    }

    /// The buyer's reply to an answer behind which others come.
    pub fn go_on(&mut self) -> Result<()> {
        if !self.over() {
            let reply = drafts::rise(&self.game);
            self.game.submit(Side::Buyer, &reply)?;
        }
        Ok(())
    }

    /// The buyer's last word, when the game still goes on; how it ended.
    pub fn close(&mut self) -> Result<Option<Outcome>> {
        if self.game.outcome().is_none() {
            let reply = drafts::close(&self.game);
            self.game.submit(Side::Buyer, &reply)?;
        }
        Ok(self.game.outcome())
    }
}

impl rollout::Episode for Answers {
    fn next_seat(&self) -> Option<usize> {
        (!self.over()).then_some(Side::Seller as usize)
    }

    fn seat_name(&self, seat: usize) -> &'static str {
        rollout::Episode::seat_name(&self.game, seat)
    }

    fn system_prompt(&self, seat: usize) -> String {
        rollout::Episode::system_prompt(&self.game, seat)
    }

    fn view(&self, seat: usize) -> String {
        rollout::Episode::view(&self.game, seat)
    }

    fn submit(&mut self, seat: usize, reply: &str, cut: bool) -> Result<()> {
        rollout::Episode::submit(&mut self.game, seat, reply, cut)?;
        self.left -= 1;
        self.go_on()
    }

    fn reward(&self, seat: usize) -> Option<f64> {
        rollout::Episode::reward(&self.game, seat)
    }
}
