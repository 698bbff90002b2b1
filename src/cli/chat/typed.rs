//! What a person types in `haggle chat`: short forms, or free talk.

use crate::negotiate::Cents;

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
mod tests {
    use super::*;

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
