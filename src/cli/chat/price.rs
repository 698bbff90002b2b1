//! A price as people type it: `45`, `$1,045.50`, `700,50`, `1.000,50`, `.5`, `12 EUR`. Read by a stated rule, or asked back.
//!
//! The one idea: a price is the one thing in the game that must not be guessed. The game counts in one currency, so a sign before
//! or behind is only dropped. A mark with one or two digits behind it begins the cents. A comma before three digits groups
//! thousands, as the game itself writes; a dot before three digits alone could be either, and is asked back. Of two different
//! marks the last begins the cents, and the first groups.

use crate::negotiate::Cents;

/// What a word says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Price {
    /// An amount above zero.
    Is(Cents),
    /// It means an amount, and not which: what to write instead.
    Unclear(String),
    /// It is no amount.
    No,
}

/// Signs that may stand before or behind an amount.
const SIGNS: [&str; 11] = ["$", "€", "£", "¥", "us$", "usd", "eur", "gbp", "dollars", "euros", "bucks"];

/// Reads a word, its end marks left out.
pub fn read(word: &str) -> Price {
    let word = word.trim_end_matches([':', ';', '!', '?', ',']).trim_end_matches('.').to_lowercase();
    let digits = bare(&word);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == ',') {
        return Price::No;
    }
    if !digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b',' | b'\'')) {
        return Price::No;
    }
    match amount(digits) {
        Ok(Some(cents)) if cents.0 > 0 => Price::Is(cents),
        Ok(_) => Price::No,
        Err(what) => Price::Unclear(what),
    }
}

/// Whether a word is a sign alone, as in `$ 14`.
pub fn is_sign(word: &str) -> bool {
    SIGNS.contains(&word.to_lowercase().as_str())
}

fn bare(word: &str) -> &str {
    let front = SIGNS.iter().filter_map(|sign| word.strip_prefix(sign)).min_by_key(|rest| rest.len()).unwrap_or(word);
    SIGNS.iter().filter_map(|sign| front.strip_suffix(sign)).min_by_key(|rest| rest.len()).unwrap_or(front)
}

/// Digits and marks as an amount; none for what is no number, an error for what could be two.
fn amount(digits: &str) -> Result<Option<Cents>, String> {
    let digits = digits.replace('\'', ",");
    let last = digits.rfind(['.', ',']);
    let Some(last) = last else { return Ok(Cents::parse(&digits)) };
    let (head, mark, tail) = (&digits[..last], &digits[last..=last], &digits[last + 1..]);
    let other = if mark == "." { "," } else { "." };
    let grouped = head.contains(mark) && !head.contains(other);
    match tail.len() {
        1 | 2 if !head.contains(mark) => {
            let whole = if head.is_empty() { "0".into() } else { head.replace('.', ",") };
            Ok(Cents::parse(&format!("{whole}.{tail}")))
        }
        3 if head.contains(other) => Err(format!("{digits} has three digits of cents; write the price with two")),
        3 if mark == "," || grouped => Ok(Cents::parse(&digits.replace('.', ","))),
        3 => {
            let (large, small) = (format!("{head}{tail}"), format!("{head}.{}", &tail[..2]));
            Err(format!("{digits} could be {large} or {small}; write one of them"))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_read_by_the_rule() {
        for (word, cents) in [
            ("45", 4_500),
            ("45.", 4_500),
            ("$45!", 4_500),
            ("45$", 4_500),
            ("€700", 70_000),
            ("700€", 70_000),
            ("12eur", 1_200),
            ("US$7.5", 750),
            (".5", 50),
            (",5", 50),
            ("700,50", 70_050),
            ("700.50", 70_050),
            ("1,045", 104_500),
            ("1,045.50", 104_550),
            ("1.000,50", 100_050),
            ("1.000.000", 100_000_000),
            ("1'045.50", 104_550),
            ("0.07", 7),
        ] {
            assert_eq!(read(word), Price::Is(Cents(cents)), "{word}");
        }
    }

    #[test]
    fn what_could_be_two_prices_is_asked_back() {
        let said = |word: &str| match read(word) {
            Price::Unclear(what) => what,
            other => panic!("{word}: {other:?}"),
        };
        assert_eq!(said("12.345"), "12.345 could be 12345 or 12.34; write one of them");
        assert!(said("1,000.500").contains("three digits of cents"));
    }

    #[test]
    fn what_is_no_price_is_none() {
        for word in [
            "", "$", "x", "1e9", "-5", "$-5", "0", "0.00", "1.2.3", "12,34,5", "1,2345", "3x", "me", "NaN", "1..5",
            "٤٥",
        ] {
            assert_eq!(read(word), Price::No, "{word}");
        }
    }
}
