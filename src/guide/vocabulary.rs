//! A vocabulary as its tokens' bytes, in order, so that a grammar walks each beginning once.

use super::grammar::{Grammar, State};
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// A token that is text.
#[derive(Debug)]
struct Entry {
    bytes: Vec<u8>,
    id: i32,
    /// Bytes that it shares with the one before.
    shared: usize,
}

/// The tokens of a model that are text, and the one that ends a reply.
#[derive(Debug)]
pub struct Vocabulary {
    /// Ordered by their bytes.
    entries: Vec<Entry>,
    end: i32,
    words: usize,
}

impl Vocabulary {
    /// Of a model with `vocab` rows, whose replies end in `end`.
    ///
    /// # Errors
    /// [`Error::Data`] for a tokenizer that cannot spell every reply, byte by byte.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, end: i32) -> Result<Vocabulary> {
        let ids = 0..tokenizer.id_end().min(vocab) as i32;
        let mut all: Vec<(Vec<u8>, i32)> = ids
            .filter(|id| *id != end && !tokenizer.is_special(*id))
            .map(|id| (tokenizer.bytes(id), id))
            .filter(|(bytes, _)| !bytes.is_empty())
            .collect();
        all.sort();
        let alone = |byte: u8| all.iter().any(|(bytes, _)| bytes[..] == [byte]);
        let missing = (b' '..=b'~').chain([b'\n']).find(|byte| !alone(*byte));
        if let Some(byte) = missing {
            let what =
                format!("has no token for the byte {byte:#04x} alone: replies cannot be guided; name another model");
            return Err(Error::data("tokenizer.json", what));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(all.len());
        for (bytes, id) in all {
            let before = entries.last().map_or(&[][..], |last| &last.bytes);
            let shared = before.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
            entries.push(Entry { bytes, id, shared });
        }
        Ok(Vocabulary { entries, end, words: vocab.div_ceil(32) })
    }

    /// The token that ends a reply.
    pub fn end(&self) -> i32 {
        self.end
    }

    /// The tokens that may come next in a reply, a bit each: `[ceil(V / 32)]` as [`crate::infer::Engine::allow`] takes them.
    pub fn allowed(&self, grammar: &Grammar, state: State, closing: bool) -> Vec<i32> {
        let mut words = vec![0i32; self.words];
        let mut allow = |id: i32| words[id as usize / 32] |= 1i32.wrapping_shl(id as u32 % 32);
        if state == State::End {
            allow(self.end);
            return words;
        }
        // States behind each byte of the last token, as far as they go.
        let mut states = vec![state];
        for Entry { bytes, id, shared } in &self.entries {
            // The one before ended earlier, and so does this.
            if *shared >= states.len() {
                continue;
            }
            states.truncate(shared + 1);
            for byte in &bytes[*shared..] {
                match grammar.step(states[states.len() - 1], *byte, closing) {
                    Some(next) => states.push(next),
                    None => break,
                }
            }
            if states.len() == bytes.len() + 1 {
                allow(*id);
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use crate::negotiate::{Cents, Side, legal::Legal};
    use crate::noise::Noise;

    #[test]
    fn the_mask_is_what_each_token_alone_says() {
        let tokenizer = embedded::chat().unwrap().tokenizer;
        let vocabulary = Vocabulary::new(&tokenizer, 2048, 1).unwrap();
        let legal =
            Legal { side: Side::Seller, offer: Some((Cents(950), Cents(2_000))), deal: Some(Cents(1_000)), quit: true };
        let grammar = Grammar::new(&legal, "books");
        for case in 0..20 {
            let (noise, mut state) = (Noise::new(4, case), grammar.start());
            for step in 0..60 {
                let closing = step % 3 == 0;
                let words = vocabulary.allowed(&grammar, state, closing);
                let may = |id: i32| words[id as usize / 32] >> (id % 32) & 1 == 1;
                let next = |id: i32| {
                    if state == State::End {
                        return (id == 1).then_some(State::End);
                    }
                    if tokenizer.is_special(id) {
                        return None;
                    }
                    grammar.walk(state, &tokenizer.bytes(id), closing)
                };
                let all: Vec<i32> = (0..2048).filter(|id| may(*id)).collect();
                let want: Vec<i32> = (0..2048).filter(|id| next(*id).is_some()).collect();
                assert_eq!(all, want, "{state:?}");
                assert!(!all.is_empty());
                state = next(all[noise.below(step, all.len())]).unwrap();
            }
        }
    }
}
