//! The K-candidate reply, parsed from the very tokens that were sampled.
//!
//! The one idea: nothing is tokenised again. The tokens' own bytes are joined, lines and marks are found in the bytes, and
//! a token belongs to the span its first byte lies in. What is in no candidate (thinking, marks, line breaks, the token
//! that ends the reply) is shared.

use std::ops::Range;

/// One candidate of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its text, without the mark.
    pub text: String,
    /// Its tokens among the reply's.
    pub tokens: Range<usize>,
}

/// Why a reply is no set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// No line begins with `1)`.
    None,
    /// More candidates than were asked for.
    TooMany,
    /// A line behind the first candidate does not begin with the next number.
    Number,
    /// A candidate says nothing.
    Empty,
    /// The reply was cut at its token limit.
    Cut,
    /// A token of the reply is no text in UTF-8 together with its neighbours.
    Bytes,
}

impl Malformed {
    /// A word for logs.
    pub fn key(self) -> &'static str {
        match self {
            Malformed::None => "no_candidate",
            Malformed::TooMany => "too_many",
            Malformed::Number => "number",
            Malformed::Empty => "empty",
            Malformed::Cut => "cut",
            Malformed::Bytes => "bytes",
        }
    }
}

/// The candidates of a reply given as the bytes of each of its tokens, at most `most` of them. A reply that was `cut` is
/// malformed whatever it says.
///
/// # Errors
/// [`Malformed`], the first reason found.
pub fn parse(tokens: &[Vec<u8>], most: usize, cut: bool) -> Result<Vec<Candidate>, Malformed> {
    if cut {
        return Err(Malformed::Cut);
    }
    let starts: Vec<usize> = tokens
        .iter()
        .scan(0, |at, token| {
            *at += token.len();
            Some(*at - token.len())
        })
        .collect();
    let bytes = tokens.concat();
    let text = std::str::from_utf8(&bytes).map_err(|_| Malformed::Bytes)?;
    let mut found: Vec<Candidate> = Vec::new();
    let mut at = 0;
    for line in text.split('\n') {
        let mark = format!("{})", found.len() + 1);
        match line.strip_prefix(&mark) {
            Some(_) if found.len() == most => return Err(Malformed::TooMany),
            Some(said) if said.trim().is_empty() => return Err(Malformed::Empty),
            Some(said) => {
                let span = at + mark.len()..at + line.len();
                // A token without bytes lies where the next one begins; it is in no span's way.
                let tokens = starts.partition_point(|s| *s < span.start)..starts.partition_point(|s| *s < span.end);
                found.push(Candidate { text: said.trim().into(), tokens });
            }
            None if !found.is_empty() => return Err(Malformed::Number),
            None => {}
        }
        at += line.len() + 1;
    }
    if found.is_empty() { Err(Malformed::None) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(of: &[&str]) -> Vec<Vec<u8>> {
        of.iter().map(|t| t.as_bytes().to_vec()).collect()
    }

    #[test]
    fn spans_are_the_sampled_tokens_of_each_candidate() {
        let reply = tokens(&["Thought:", " two", "\n", "1", ")", " bid", " 55%", ".\n", "2)", " deal", " now"]);
        let got = parse(&reply, 4, false).unwrap();
        assert_eq!(got[0], Candidate { text: "bid 55%.".into(), tokens: 5..8 });
        assert_eq!(got[1], Candidate { text: "deal now".into(), tokens: 9..11 });
    }

    #[test]
    fn broken_replies_are_named() {
        let of = |text: &str, most| parse(&tokens(&[text]), most, false).unwrap_err();
        assert_eq!(of("", 4), Malformed::None);
        assert_eq!(of("Thought: nothing", 4), Malformed::None);
        assert_eq!(of("1) a", 0), Malformed::TooMany);
        assert_eq!(of("1) a\n2) b\n3) c", 2), Malformed::TooMany);
        assert_eq!(of("1) a\n2)  ", 2), Malformed::Empty);
        assert_eq!(of("1) a\n3) b", 3), Malformed::Number);
        assert_eq!(of("1) a\nand more", 3), Malformed::Number);
        assert_eq!(of("2) a", 3), Malformed::None);
        assert_eq!(parse(&[vec![b'1', b')', b' ', 0xff]], 3, false), Err(Malformed::Bytes));
        assert_eq!(parse(&tokens(&["1) a"]), 3, true), Err(Malformed::Cut));
        // Duplicates are no error of form: what they are worth is the set's affair.
        assert_eq!(parse(&tokens(&["1) a\n2) a"]), 3, false).unwrap().len(), 2);
    }

    proptest! {
        /// However a reply is cut into tokens, spans are disjoint, in order, and hold every byte behind a mark that begins
        /// a token there.
        #[test]
        fn any_cut_into_tokens_gives_disjoint_spans(cuts in prop::collection::vec(1usize..6, 1..60), k in 1usize..6) {
            let text = super::super::render("x", &vec!["bid 55% some words".to_string(); k]);
            let (mut rest, mut parts) = (text.as_bytes(), Vec::new());
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                parts.push(head.to_vec());
                rest = tail;
            }
            parts.push(rest.to_vec());
            let got = parse(&parts, 8, false).unwrap();
            prop_assert_eq!(got.len(), k);
            for (i, c) in got.iter().enumerate() {
                prop_assert_eq!(c.text.as_str(), "bid 55% some words");
                prop_assert!(c.tokens.end <= parts.len() && (i == 0 || got[i - 1].tokens.end <= c.tokens.start));
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..30)) {
            let _ = parse(&parts, 4, false);
        }
    }
}
