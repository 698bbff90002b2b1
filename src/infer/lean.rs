//! Biases and penalties of a sequence: what its next logits are moved by before a token is drawn, and scored.
//!
//! The one idea: a list of the ids that are moved, each once, grows with the sequence; the device is told that list and knows no
//! counts. Which tokens count is as other servers have it: `repetition` sees the prompt and what was said, the other two what was
//! said in this turn alone.

use crate::error::{Error, Result};
use std::collections::HashMap;

/// Most ids that have a bias.
pub const MOST_BIASES: usize = 1024;

/// What moves the logits of a sequence. The default moves none.
#[derive(Debug, Clone, PartialEq)]
pub struct Lean {
    /// Ids, each once, and what is added to their logits.
    pub bias: Vec<(i32, f32)>,
    /// Taken off the logits of tokens that were said.
    pub presence: f32,
    /// Taken off them as often as they were said.
    pub frequency: f32,
    /// Divides the logits above 0 of tokens that were said or asked, and multiplies others; 1 moves none.
    pub repetition: f32,
}

impl Default for Lean {
    fn default() -> Lean {
        Lean { bias: vec![], presence: 0.0, frequency: 0.0, repetition: 1.0 }
    }
}

impl Lean {
    /// True when it moves nothing.
    pub fn is_none(&self) -> bool {
        *self == Lean::default()
    }

    /// # Errors
    /// [`Error::Config`] that names what is out of its range in a vocabulary of `vocab`.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let finite = |name: &str, x: f32| (!x.is_finite()).then(|| format!("{name} must be a number, is {x}"));
        let wrong = self.bias.iter().find(|(id, _)| usize::try_from(*id).map_or(true, |id| id >= vocab));
        let many = self.bias.len();
        let problems: Vec<String> = [
            finite("presence_penalty", self.presence),
            finite("frequency_penalty", self.frequency),
            finite("logit_bias", self.bias.iter().map(|(_, x)| *x).sum()),
            (!(self.repetition > 0.0 && self.repetition.is_finite()))
                .then(|| format!("repetition_penalty must be above 0, is {}", self.repetition)),
            wrong.map(|(id, _)| format!("logit_bias names token {id}; the model has 0 to {}", vocab - 1)),
            (many > MOST_BIASES).then(|| format!("logit_bias names {many} tokens; {MOST_BIASES} are the most")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::Config { problems }) }
    }
}

/// A sequence's list.
#[derive(Debug, Clone)]
pub(super) struct Leaning {
    lean: Lean,
    /// Where an id stands in the list.
    at: HashMap<i32, usize>,
    entries: Vec<Entry>,
    /// Tokens of the sequence that are counted.
    counted: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: i32,
    bias: f32,
    /// Was asked or said.
    seen: bool,
    /// How often it was said in this turn.
    said: u32,
}

impl Leaning {
    pub fn new(lean: &Lean) -> Leaning {
        let mut own = Leaning { lean: lean.clone(), at: HashMap::new(), entries: vec![], counted: 0 };
        own.restart();
        own
    }

    /// Forgets what was counted: another turn begins.
    pub fn restart(&mut self) {
        self.at.clear();
        self.entries.clear();
        self.counted = 0;
        for (id, bias) in &self.lean.bias {
            self.at.insert(*id, self.entries.len());
            self.entries.push(Entry { id: *id, bias: *bias, seen: false, said: 0 });
        }
    }

    /// Counts tokens that are new among all of a sequence's `ids`, whose turn begins at `turn`.
    pub fn count(&mut self, ids: &[i32], turn: usize) {
        let counts_asked = self.lean.repetition != 1.0;
        for (i, id) in ids.iter().enumerate().skip(self.counted).filter(|(i, _)| counts_asked || *i >= turn) {
            let next = self.entries.len();
            let at = *self.at.entry(*id).or_insert(next);
            if at == next {
                self.entries.push(Entry { id: *id, bias: 0.0, seen: false, said: 0 });
            }
            let entry = &mut self.entries[at];
            (entry.seen, entry.said) = (true, entry.said + u32::from(i >= turn));
        }
        self.counted = ids.len();
    }
}

/// The lists of a batch's rows.
#[derive(Debug, Default)]
pub(super) struct Leans {
    /// `[M + 1]`; empty before the first row that has any.
    pub offsets: Vec<i32>,
    /// `[K]`
    pub id: Vec<i32>,
    /// `[K]`
    pub bias: Vec<f32>,
    /// `[K]`
    pub repeat: Vec<f32>,
    /// `[K]`
    pub less: Vec<f32>,
}

impl Leans {
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.id.clear();
        [&mut self.bias, &mut self.repeat, &mut self.less].into_iter().for_each(Vec::clear);
    }

    pub fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    /// Notes what moves row `row`, the rows before it being noted or having nothing.
    pub fn push(&mut self, row: usize, leaning: &Leaning) {
        self.close(row);
        let Lean { presence, frequency, repetition, .. } = leaning.lean;
        for Entry { id, bias, seen, said } in &leaning.entries {
            self.id.push(*id);
            self.bias.push(*bias);
            self.repeat.push(if *seen { repetition } else { 1.0 });
            let said = *said as f32;
            self.less.push(frequency * said + if said > 0.0 { presence } else { 0.0 });
        }
    }

    /// Ends every list before that of row `row`.
    pub fn close(&mut self, row: usize) {
        self.offsets.resize(row + 1, self.id.len() as i32);
    }

    /// All of it as the device takes it: offsets, ids, then three numbers each.
    pub fn words(&self, into: &mut Vec<i32>) {
        into.clear();
        into.extend(&self.offsets);
        into.extend(&self.id);
        [&self.bias, &self.repeat, &self.less]
            .into_iter()
            .for_each(|all| into.extend(all.iter().map(|x| x.to_bits() as i32)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_counts_as_often_and_what_was_asked_only_as_seen() {
        let lean = Lean { bias: vec![(7, 2.0), (9, -1.0)], presence: 0.5, frequency: 0.25, repetition: 1.5 };
        let mut leaning = Leaning::new(&lean);
        leaning.count(&[3, 7], 2);
        leaning.count(&[3, 7, 7, 4, 7], 2);
        let mut leans = Leans::default();
        leans.push(2, &leaning);
        leans.close(4);
        assert_eq!(leans.offsets, [0, 0, 0, 4, 4]);
        assert_eq!((leans.id, leans.bias), (vec![7, 9, 3, 4], vec![2.0, -1.0, 0.0, 0.0]));
        assert_eq!((leans.repeat, leans.less), (vec![1.5, 1.0, 1.5, 1.5], vec![1.0, 0.0, 0.0, 0.75]));
        leaning.restart();
        let alone = Lean { repetition: 1.0, ..lean };
        let mut alone = Leaning::new(&alone);
        alone.count(&[3, 7], 2);
        assert_eq!(
            (leaning.entries.len(), alone.entries.len()),
            (2, 2),
            "what was asked moves nothing without repetition"
        );
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let fine = Lean { bias: vec![(9, -100.0)], ..Lean::default() };
        assert!(fine.check(10).is_ok() && !fine.is_none() && Lean::default().is_none());
        for (lean, want) in [
            (Lean { repetition: 0.0, ..Lean::default() }, "repetition_penalty must be above 0"),
            (Lean { presence: f32::NAN, ..Lean::default() }, "presence_penalty"),
            (Lean { bias: vec![(10, 1.0)], ..Lean::default() }, "token 10; the model has 0 to 9"),
            (Lean { bias: vec![(-1, 1.0)], ..Lean::default() }, "token -1"),
            (Lean { bias: (0..2000).map(|id| (id, 1.0)).collect(), ..Lean::default() }, "2000 tokens"),
        ] {
            assert!(lean.check(10).unwrap_err().to_string().contains(want), "{lean:?}");
        }
    }
}
