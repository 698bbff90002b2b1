//! What a person types in `haggle chat`: short forms, or free talk.

use super::price::{self, Price};
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
    /// `deal`, alone or with the price that is accepted.
    Deal(Option<Cents>),
    /// Words that may mean a deal, or not: to be asked back.
    MaybeDeal(String),
    /// `reject`: turn it down without a price.
    Reject(String),
    /// `quit`: leave.
    Quit,
    /// `help` or `?`.
    Help,
    /// An offer whose price cannot be read: what to tell.
    BadPrice(String),
    /// A word that stands for an action in talk: which to type instead.
    Hint(&'static str),
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

/// Reads a line. A command stands first; what follows it is said aloud. A deal is the one thing that cannot be taken back, so it
/// stands alone or with its price; anything else that sounds like one is asked back.
pub fn parse(line: &str) -> Typed {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim().to_string();
    match word.trim_end_matches([':', '.', '!', ',']).to_lowercase().as_str() {
        "" => Typed::Nothing,
        "offer" | "bid" | "ask" | "buy" | "sell" => offer(&rest, line),
        "deal" | "accept" | "accepted" | "agreed" => deal(&rest, line),
        "yes" | "ok" | "okay" | "y" | "sure" if rest.is_empty() => Typed::MaybeDeal(line.into()),
        "no" | "n" | "nope" if rest.is_empty() => Typed::Hint("reject turns it down; a price makes an offer"),
        "reject" => Typed::Reject(rest),
        "quit" | "exit" if rest.is_empty() => Typed::Quit,
        "help" | "?" if rest.is_empty() => Typed::Help,
        // A bare number is an offer only alone: `3 of my friends bought it` is talk.
        _ if rest.is_empty() || price::is_sign(word) || word.starts_with('$') => number(line),
        _ => Typed::Talk(line.into()),
    }
}

/// The price at the front of a text, a sign apart from it too, and the words behind.
fn priced(text: &str) -> (Price, &str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if price::is_sign(word) && !rest.is_empty() {
        return priced(rest);
    }
    let (next, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = if price::is_sign(next) { behind.trim() } else { rest };
    (price::read(word), word, rest)
}

/// `offer PRICE words`; words without a digit behind it are talk (`ask my wife`).
fn offer(text: &str, line: &str) -> Typed {
    match priced(text) {
        (Price::Is(cents), _, rest) => Typed::Offer(cents, rest.into()),
        (Price::Unclear(what), ..) => Typed::BadPrice(what),
        (Price::No, word, rest) if rest.is_empty() || word.contains(|c: char| c.is_ascii_digit()) => {
            let word: String = word.chars().take(LONGEST_WORD).collect();
            Typed::BadPrice(format!("`{word}` is no price; write offer 45 or offer 19.99"))
        }
        (Price::No, ..) => Typed::Talk(line.into()),
    }
}

fn deal(text: &str, line: &str) -> Typed {
    match priced(text) {
        _ if text.is_empty() => Typed::Deal(None),
        (Price::Is(cents), _, "") => Typed::Deal(Some(cents)),
        _ => Typed::MaybeDeal(line.into()),
    }
}

/// A line that is a price, with words behind it, or else talk.
fn number(line: &str) -> Typed {
    match priced(line) {
        (Price::Is(cents), _, rest) => Typed::Offer(cents, rest.into()),
        (Price::Unclear(what), ..) => Typed::BadPrice(what),
        (Price::No, ..) => Typed::Talk(line.into()),
    }
}

/// Most characters of a word that is told back.
const LONGEST_WORD: usize = 40;

/// Whether an answer to a question is yes.
pub fn is_yes(line: &str) -> bool {
    ["y", "yes"].contains(&line.trim().to_lowercase().as_str())
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
            ("deal", Typed::Deal(None)),
            ("Deal.", Typed::Deal(None)),
            ("accept $9.23", Typed::Deal(Some(Cents(923)))),
            ("deal 700,50 €", Typed::Deal(Some(Cents(70_050)))),
            (
                "deal breaker: I will not sell below 12",
                Typed::MaybeDeal(said("deal breaker: I will not sell below 12")),
            ),
            ("accept my apologies, but no", Typed::MaybeDeal(said("accept my apologies, but no"))),
            ("DEAL thank you", Typed::MaybeDeal(said("DEAL thank you"))),
            ("ok", Typed::MaybeDeal(said("ok"))),
            ("no", Typed::Hint("reject turns it down; a price makes an offer")),
            ("offer: 14", Typed::Offer(Cents(1400), said(""))),
            ("offer $ 14 and no more", Typed::Offer(Cents(1400), said("and no more"))),
            ("$ 14", Typed::Offer(Cents(1400), said(""))),
            ("14 euros", Typed::Talk(said("14 euros"))),
            ("12.345", Typed::BadPrice(said("12.345 could be 12345 or 12.34; write one of them"))),
            ("offer me something better", Typed::Talk(said("offer me something better"))),
            ("ask my wife", Typed::Talk(said("ask my wife"))),
            ("reject too low", Typed::Reject(said("too low"))),
            ("quit", Typed::Quit),
            ("?", Typed::Help),
            ("", Typed::Nothing),
            ("offer", Typed::BadPrice(said("`` is no price; write offer 45 or offer 19.99"))),
            ("offer -3", Typed::BadPrice(said("`-3` is no price; write offer 45 or offer 19.99"))),
            ("offer 0 please", Typed::BadPrice(said("`0` is no price; write offer 45 or offer 19.99"))),
            ("quit joking, friend", Typed::Talk(said("quit joking, friend"))),
            ("3 of my friends bought it", Typed::Talk(said("3 of my friends bought it"))),
            ("It is new.", Typed::Talk(said("It is new."))),
        ] {
            assert_eq!(parse(line), want, "{line}");
        }
    }
}
