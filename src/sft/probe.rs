//! How well a model under supervision knows its part: teacher-forced, on dialogues it never trained on.
//!
//! The one idea: form and prices are copied, so each has one right spelling; the probability of that spelling is the
//! share of sampled replies that would get it right at temperature 1. Words of thought and talk are a choice and are
//! held against the teacher by their loss alone.

use crate::error::Result;
use crate::negotiate::Side;
use crate::sft::dialogues::{Dialogues, Marks, Part, Sequence};
use crate::sft::trainer::Trainer;
use crate::text::Chat;
use serde::Serialize;

/// Dialogues of a probe are taken from this number of their stream on: training never comes here.
const FROM: u64 = 1 << 40;

/// What a probe found. Probabilities are means over replies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub struct Probe {
    /// Mean -logprob of the buyer's own tokens.
    pub loss_buyer: f64,
    /// Mean -logprob of the seller's own tokens.
    pub loss_seller: f64,
    /// Probability of the right price after `[BUY]`, given thought and talk.
    pub bid_price: f64,
    /// Probability of the right price after `[SELL]`.
    pub ask_price: f64,
    /// Probability of the right price after `[DEAL]`.
    pub deal_price: f64,
    /// Probability of the right price after a percentage in the thought.
    pub thought_price: f64,
    /// Share of prices behind an action whose every token is the likeliest beyond doubt (probability above one half).
    pub price_greedy: f64,
    /// Probability of all of a reply's form: line heads, item, end.
    pub form: f64,
}

/// Probes a model on `n` dialogues of the stream of `seed`.
///
/// # Errors
/// As [`Trainer::score`].
pub fn probe(trainer: &mut Trainer, chat: &Chat, seed: u64, n: u64) -> Result<Probe> {
    let stream = Dialogues::new(seed)?;
    let mut sequences = Vec::new();
    for index in FROM..FROM + n {
        sequences.extend(stream.sequences(chat, index)?);
    }
    let scored = trainer.score(&sequences)?;
    let marks = Marks::new(chat);
    let mut sums = Sums::default();
    for (s, logprobs) in sequences.iter().zip(&scored) {
        if s.imitated {
            sums.side[(s.side == Side::Seller) as usize].extend(logprobs.iter().map(|l| -*l as f64));
        }
        for reply in replies(s, logprobs, chat.end()) {
            sums.reply(&reply, &marks);
        }
    }
    Ok(sums.means())
}

/// A reply's ids, and their logprobs.
type Scored = (Vec<i32>, Vec<f64>);

fn replies(s: &Sequence, logprobs: &[f32], end: i32) -> Vec<Scored> {
    let own = s.ids.iter().zip(&s.own).filter(|(_, own)| **own).map(|(id, _)| *id);
    let scored: Vec<(i32, f64)> = own.zip(logprobs.iter().map(|l| *l as f64)).collect();
    scored.split_inclusive(|(id, _)| *id == end).map(|reply| reply.iter().copied().unzip()).collect()
}

#[derive(Default)]
struct Sums {
    side: [Vec<f64>; 2],
    price: [Vec<f64>; 4],
    greedy: Vec<f64>,
    form: Vec<f64>,
}

impl Sums {
    fn reply(&mut self, (ids, logprobs): &Scored, marks: &Marks) {
        let mut form = 0.0;
        let mut prices = [None::<(f64, bool)>; 4];
        for (part, logprob) in marks.parts(ids).zip(logprobs) {
            match part {
                Part::Choice => {}
                Part::Form => form += logprob,
                Part::Price(kind) => {
                    let (sum, sure) = prices[kind].unwrap_or((0.0, true));
                    prices[kind] = Some((sum + logprob, sure && *logprob > 0.5f64.ln()));
                }
            }
        }
        self.form.push(form.exp());
        for (kind, price) in prices.iter().enumerate() {
            self.price[kind].extend(price.map(|p| p.0.exp()));
            self.greedy.extend(price.filter(|_| kind < 3).map(|p| p.1 as u8 as f64));
        }
    }

    fn means(&self) -> Probe {
        let mean = |v: &Vec<f64>| v.iter().sum::<f64>() / v.len().max(1) as f64;
        Probe {
            loss_buyer: mean(&self.side[0]),
            loss_seller: mean(&self.side[1]),
            bid_price: mean(&self.price[0]),
            ask_price: mean(&self.price[1]),
            deal_price: mean(&self.price[2]),
            thought_price: mean(&self.price[3]),
            price_greedy: mean(&self.greedy),
            form: mean(&self.form),
        }
    }
}
