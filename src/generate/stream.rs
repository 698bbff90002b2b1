//! Sampled ids as text that can be shown while more come.
//!
//! The one idea: what was given out is never taken back. A character is given out when its last byte is there, and text that
//! may yet become a stop string when it can no longer. The pieces, joined, are the text of all ids, up to the stop string.

use crate::text::Tokenizer;

/// The text of one answer, as it grows.
#[derive(Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    stops: Vec<String>,
    /// The begin of a character.
    bytes: Vec<u8>,
    /// The begin of a stop string, perhaps.
    held: String,
    stopped: bool,
}

impl<'a> Stream<'a> {
    /// An empty text that ends before the first of `stops`, none of which is empty.
    pub fn new(tokenizer: &'a Tokenizer, stops: &[String]) -> Stream<'a> {
        Stream { tokenizer, stops: stops.to_vec(), bytes: vec![], held: String::new(), stopped: false }
    }

    /// Takes an id, and gives out what is sure to stay. Nothing any more once a stop string was found.
    pub fn push(&mut self, id: i32) -> String {
        self.bytes.extend(self.tokenizer.bytes(id));
        let new = characters(&mut self.bytes);
        self.give(&new)
    }

    /// True once a stop string was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The rest, when no id comes any more: bytes that became no character are U+FFFD.
    pub fn end(&mut self) -> String {
        let rest = if self.bytes.is_empty() { "" } else { "\u{fffd}" };
        self.bytes.clear();
        let given = self.give(rest);
        given + &std::mem::take(&mut self.held)
    }

    /// Character by character, so that which stop string ends the text does not depend on where tokens end: the first that
    /// is complete, the longest of those that are complete at once.
    fn give(&mut self, new: &str) -> String {
        if self.stopped {
            return String::new();
        }
        for c in new.chars() {
            self.held.push(c);
            let found = self.stops.iter().filter(|stop| self.held.ends_with(stop.as_str())).map(String::len).max();
            if let Some(len) = found {
                self.held.truncate(self.held.len() - len);
                self.stopped = true;
                return std::mem::take(&mut self.held);
            }
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let sure = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let kept = self.held.split_off(sure);
        std::mem::replace(&mut self.held, kept)
    }
}

/// Takes the whole characters off the begin of `bytes`, what is no UTF-8 as U+FFFD, as the whole would be decoded.
fn characters(bytes: &mut Vec<u8>) -> String {
    let (mut text, mut at) = (String::new(), 0);
    while at < bytes.len() {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(rest) => {
                text.push_str(rest);
                at = bytes.len();
            }
            Err(e) => {
                let end = at + e.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[at..end]));
                at = end;
                let Some(wrong) = e.error_len() else { break };
                text.push('\u{fffd}');
                at += wrong;
            }
        }
    }
    bytes.drain(..at);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use crate::noise::Noise;

    fn tokenizer() -> Tokenizer {
        embedded::chat().unwrap().tokenizer
    }

    /// Text of any characters, many of them of several bytes.
    fn any_text(noise: Noise) -> String {
        let n = noise.below(0, 40) as u64;
        let code = |i: u64| match noise.below(2 * i + 1, 4) {
            0 => noise.below(2 * i + 2, 0x80),
            1 => noise.below(2 * i + 2, 0x800),
            2 => noise.below(2 * i + 2, 0x1_0000),
            _ => 0x1_f300 + noise.below(2 * i + 2, 0x400),
        };
        (0..n).filter_map(|i| char::from_u32(code(i) as u32)).filter(|c| *c != '\u{fffd}').collect()
    }

    fn streamed(tokenizer: &Tokenizer, stops: &[String], ids: &[i32]) -> Vec<String> {
        let mut stream = Stream::new(tokenizer, stops);
        let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
        pieces.push(stream.end());
        pieces
    }

    #[test]
    fn pieces_joined_are_the_whole_text_and_no_character_is_halved() {
        let tokenizer = tokenizer();
        for case in 0..2_000 {
            let text = any_text(Noise::new(1, case));
            let ids = tokenizer.encode(&text).unwrap();
            let pieces = streamed(&tokenizer, &[], &ids);
            assert_eq!(pieces.concat(), text, "case {case}");
            let broken = |piece: &&String| piece.contains('\u{fffd}');
            assert_eq!(pieces.iter().find(broken), None, "{text:?} holds no U+FFFD");
        }
    }

    #[test]
    fn pieces_of_any_ids_joined_are_the_whole_decode() {
        // Ids no text has: halves of characters in any order, special tokens, ids of no token.
        let tokenizer = tokenizer();
        for case in 0..2_000 {
            let noise = Noise::new(2, case);
            let n = noise.below(0, 30) as u64;
            let ids: Vec<i32> = (1..=n).map(|i| noise.below(i, 2_060) as i32 - 2).collect();
            assert_eq!(
                streamed(&tokenizer, &[], &ids).concat(),
                tokenizer.decode(&ids).unwrap(),
                "case {case} {ids:?}"
            );
        }
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_nothing_of_it_is_shown() {
        let tokenizer = tokenizer();
        for case in 0..3_000 {
            let noise = Noise::new(3, case);
            let text = any_text(noise.child(1));
            let chars: Vec<char> = text.chars().collect();
            let stop = |label: u64| {
                let at = noise.below(label, chars.len().max(1));
                let end = (at + 1 + noise.below(label + 1, 6)).min(chars.len());
                chars.get(at..end).map(String::from_iter).filter(|stop| !stop.is_empty())
            };
            let stops: Vec<String> = [10, 20, 30].into_iter().filter_map(stop).collect();
            let ids = tokenizer.encode(&text).unwrap();
            // The stop string that ends first, found in the whole text.
            let ends = |stop: &String| text.find(stop.as_str()).map(|at| (at + stop.len(), at));
            let first = stops.iter().filter_map(ends).min();
            let want = first.map_or(&text[..], |(_, at)| &text[..at]);
            let mut stream = Stream::new(&tokenizer, &stops);
            let mut got = String::new();
            for id in &ids {
                got += &stream.push(*id);
                assert!(want.starts_with(&got), "case {case}: {got:?} was given out of {text:?}, stops {stops:?}");
            }
            got += &stream.end();
            assert_eq!((&got[..], stream.stopped()), (want, first.is_some()), "case {case}: {text:?}, {stops:?}");
        }
    }

    #[test]
    fn text_that_only_began_a_stop_string_is_given_out_in_the_end() {
        let tokenizer = tokenizer();
        let stops = ["END.".to_string(), "Ex".to_string()];
        let ids = tokenizer.encode("an EN").unwrap();
        assert_eq!(streamed(&tokenizer, &stops, &ids).concat(), "an EN");
        let mut stream = Stream::new(&tokenizer, &stops);
        let given: String = tokenizer.encode("an EN").unwrap().iter().map(|id| stream.push(*id)).collect();
        assert_eq!(given, "an ", "it may yet become END.");
        let given: String = tokenizer.encode("Ex!").unwrap().iter().map(|id| stream.push(*id)).collect();
        assert_eq!((given + &stream.end(), stream.stopped()), ("EN".into(), true));
    }
}
