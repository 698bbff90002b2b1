//! What a person types in `haggle chat`: short forms, or free talk.

use crate::negotiate::Cents;
use std::io::{BufRead, ErrorKind};

/// Most bytes of a line that are read; nobody says more in a turn.
pub const LONGEST: usize = 4_096;

/// A line as it was typed, and what the person should know of how it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line as text, control characters as blanks.
    pub text: String,
    /// A line each.
    pub notes: Vec<String>,
}

/// A typed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// `offer 45`, `45`, with what is said beside it.
    Offer(Cents, String),
    /// `deal`: accept the standing offer.
    Deal(String),
    /// `reject`: turn it down without a price.
    Reject(String),
    /// `quit`: leave.
    Quit,
    /// `help` or `?`.
    Help,
    /// An offer whose price cannot be read.
    BadPrice(String),
    /// Anything else: words for the other side, before an action.
    Talk(String),
    /// An empty line.
    Nothing,
}

/// The next line of an input, whatever bytes it is made of; none at the end. What is no UTF-8 is read as Latin-1.
///
/// # Errors
/// What the input meets.
pub fn line(input: &mut dyn BufRead) -> std::io::Result<Option<Line>> {
    let (mut bytes, mut length, mut ended) = (Vec::new(), 0, false);
    while !ended {
        let new = match input.fill_buf() {
            Ok(new) => new,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if new.is_empty() {
            break;
        }
        let end = new.iter().position(|byte| *byte == b'\n');
        let part = &new[..end.unwrap_or(new.len())];
        bytes.extend(&part[..part.len().min(LONGEST - bytes.len())]);
        length += part.len();
        ended = end.is_some();
        let used = part.len() + usize::from(ended);
        input.consume(used);
    }
    if length == 0 && !ended {
        return Ok(None);
    }
    let mut notes = Vec::new();
    if length > bytes.len() {
        notes.push(format!("(the line has {length} bytes; the first {} are read)", bytes.len()));
        // A character that was cut through is none.
        let whole = std::str::from_utf8(&bytes).map_or_else(|e| e.valid_up_to(), str::len);
        bytes.truncate(if whole + 4 > bytes.len() { whole } else { bytes.len() });
    }
    let text = String::from_utf8(bytes).unwrap_or_else(|e| {
        notes.push("(the line is not UTF-8; it is read as Latin-1)".into());
        e.as_bytes().iter().map(|byte| char::from(*byte)).collect()
    });
    let visible = text.chars().map(|c| if c.is_control() || c == '\u{feff}' { ' ' } else { c });
    Ok(Some(Line { text: visible.collect(), notes }))
}

/// Reads a line. A command stands first; what follows it is said aloud.
pub fn parse(line: &str) -> Typed {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim().to_string();
    match word.to_ascii_lowercase().as_str() {
        "" => Typed::Nothing,
        "offer" | "bid" | "ask" | "buy" | "sell" => offer(&rest),
        "deal" | "accept" => Typed::Deal(rest),
        "reject" => Typed::Reject(rest),
        "quit" | "exit" if rest.is_empty() => Typed::Quit,
        "help" | "?" if rest.is_empty() => Typed::Help,
        // A bare number is an offer only alone: `3 of my friends bought it` is talk.
        _ if (rest.is_empty() || word.starts_with('$')) && price(word).is_some() => offer(line),
        _ => Typed::Talk(line.into()),
    }
}

fn offer(text: &str) -> Typed {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match price(word) {
        Some(cents) => Typed::Offer(cents, rest.trim().into()),
        None => Typed::BadPrice(word.into()),
    }
}

fn price(word: &str) -> Option<Cents> {
    Cents::parse(word.trim_end_matches(['.', ',', ':', ';', '!'])).filter(|cents| cents.0 > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_bytes_are_read_to_the_last() {
        let mut bytes = b"caf\xe9\n\xef\xbb\xbfoffer\x0045\r\n\n".to_vec();
        bytes.extend(["\u{20ac}".repeat(5_000).into_bytes(), b"\nquit".to_vec()].concat());
        let mut input = std::io::BufReader::with_capacity(7, &bytes[..]);
        let mut next = || line(&mut input).unwrap();
        let latin = next().unwrap();
        assert_eq!((latin.text.as_str(), latin.notes.len()), ("caf\u{e9}", 1));
        assert!(latin.notes[0].contains("Latin-1"));
        assert_eq!(parse(&next().unwrap().text), Typed::Offer(Cents(4500), String::new()));
        assert_eq!(next().unwrap().text, "");
        let long = next().unwrap();
        assert_eq!(long.text, "\u{20ac}".repeat(LONGEST / 3));
        assert_eq!(long.notes, ["(the line has 15000 bytes; the first 4096 are read)"]);
        assert_eq!((next().unwrap().text.as_str(), next()), ("quit", None));
    }

    #[test]
    fn short_forms_are_read_and_the_rest_is_said() {
        let said = |text: &str| text.to_string();
        for (line, want) in [
            ("offer 45", Typed::Offer(Cents(4500), said(""))),
            ("  Offer $1,045.50: my last word ", Typed::Offer(Cents(104_550), said("my last word"))),
            ("45", Typed::Offer(Cents(4500), said(""))),
            ("$7.5 take it", Typed::Offer(Cents(750), said("take it"))),
            ("deal", Typed::Deal(said(""))),
            ("DEAL thank you", Typed::Deal(said("thank you"))),
            ("reject too low", Typed::Reject(said("too low"))),
            ("quit", Typed::Quit),
            ("?", Typed::Help),
            ("", Typed::Nothing),
            ("offer", Typed::BadPrice(said(""))),
            ("offer -3", Typed::BadPrice(said("-3"))),
            ("offer 0", Typed::BadPrice(said("0"))),
            ("quit joking, friend", Typed::Talk(said("quit joking, friend"))),
            ("3 of my friends bought it", Typed::Talk(said("3 of my friends bought it"))),
            ("It is new.", Typed::Talk(said("It is new."))),
        ] {
            assert_eq!(parse(line), want, "{line}");
        }
    }
}
