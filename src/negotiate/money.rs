//! Money: integer cents, read and written the way prices stand in offers.
//!
//! The one idea: a price is compared, copied and bounded to the cent, so it never passes through a float.
//! Parsing is strict about what it accepts (`$1,234.50`, `$116`, `116.5`) and total: any text gives a price or `None`.

use serde::{Deserialize, Serialize};

/// The largest price accepted anywhere: one billion dollars.
pub const MAX_CENTS: i64 = 100_000_000_000;

/// An amount of money in integer cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cents(pub i64);

impl Cents {
    /// Reads `$1,234.50`, `$116` or `116.5`: an optional dollar sign, digits (commas only in groups of three),
    /// at most two decimals. `None` for anything else, signs and amounts above `MAX_CENTS` included.
    pub fn parse(text: &str) -> Option<Cents> {
        let digits = text.strip_prefix('$').unwrap_or(text);
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) => (whole, fraction),
            None => (digits, "0"),
        };
        let dollars = parse_whole(whole)?;
        if fraction.is_empty() || fraction.len() > 2 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let hundredths = fraction.parse::<i64>().ok()? * if fraction.len() == 1 { 10 } else { 1 };
        let cents = dollars.checked_mul(100)?.checked_add(hundredths)?;
        (cents <= MAX_CENTS).then_some(Cents(cents))
    }

    /// `$116`, `$19.99`: no thousands commas, cents only when they are not zero.
    pub fn compact(self) -> String {
        if self.0 % 100 == 0 { format!("{}${}", sign(self.0), self.0.abs() / 100) } else { self.plain() }
    }

    /// `$1,234.50`: thousands commas and always two decimals, as the data set writes prices.
    pub fn full(self) -> String {
        let dollars = (self.0.abs() / 100).to_string();
        let mut grouped = String::new();
        for (i, digit) in dollars.chars().enumerate() {
            if i > 0 && (dollars.len() - i).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        format!("{}${grouped}.{:02}", sign(self.0), self.0.abs() % 100)
    }

    /// `$1234.50`: two decimals, no commas.
    pub fn plain(self) -> String {
        format!("{}${}.{:02}", sign(self.0), self.0.abs() / 100, self.0.abs() % 100)
    }
}

fn sign(cents: i64) -> &'static str {
    if cents < 0 { "-" } else { "" }
}

/// Digits, or digits with commas before every group of three.
fn parse_whole(text: &str) -> Option<i64> {
    let mut groups = text.split(',');
    let first = groups.next()?;
    let rest: Vec<&str> = groups.collect();
    let well_grouped = rest.is_empty() || (first.len() <= 3 && rest.iter().all(|g| g.len() == 3));
    let joined: String = std::iter::once(first).chain(rest).collect();
    let digits = !first.is_empty() && joined.bytes().all(|b| b.is_ascii_digit());
    if well_grouped && digits && joined.len() <= 10 { joined.parse().ok() } else { None }
}

/// Every amount that stands in a text right after a dollar sign, in order.
pub fn dollars_in(text: &str) -> impl Iterator<Item = Cents> + '_ {
    spans_in(text).into_iter().filter(|(range, _)| text[..range.start].ends_with('$')).map(|(_, amount)| amount)
}

/// The byte ranges and values of all amounts in a text.
pub(crate) fn spans_in(text: &str) -> Vec<(std::ops::Range<usize>, Cents)> {
    let bytes = text.as_bytes();
    let mut spans = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        if !bytes[start].is_ascii_digit() {
            start += 1;
            continue;
        }
        let mut end = start;
        while end < bytes.len() && (bytes[end].is_ascii_digit() || matches!(bytes[end], b',' | b'.')) {
            end += 1;
        }
        let number = text[start..end].trim_end_matches([',', '.']);
        if let Some(amount) = Cents::parse(number) {
            spans.push((start..start + number.len(), amount));
        }
        start = end;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_reads_the_forms_of_the_protocol() {
        for (text, cents) in [
            ("$1,234.50", 123_450),
            ("$116", 11_600),
            ("116.5", 11_650),
            ("$0.07", 7),
            ("1234", 123_400),
            ("$4,299.98", 429_998),
        ] {
            assert_eq!(Cents::parse(text), Some(Cents(cents)), "{text}");
        }
    }

    #[test]
    fn parse_refuses_what_is_no_price() {
        for text in [
            "",
            "$",
            "-5",
            "$-5",
            "1.234",
            "1.",
            ".5",
            "NaN",
            "inf",
            "1e3",
            "$12,34",
            "$,100",
            "1,2345",
            "1 000",
            "$$5",
            "99999999999",
            "1000000000.01",
            "١٢",
        ] {
            assert_eq!(Cents::parse(text), None, "{text}");
        }
    }

    #[test]
    fn display_round_trips() {
        for cents in [0, 7, 100, 1_999, 11_600, 123_450, 100_000_000] {
            let price = Cents(cents);
            assert_eq!(Cents::parse(&price.compact()), Some(price));
            assert_eq!(Cents::parse(&price.full()), Some(price));
            assert_eq!(Cents::parse(&price.plain()), Some(price));
        }
        assert_eq!(Cents(123_450).full(), "$1,234.50");
        assert_eq!(Cents(123_450).compact(), "$1234.50");
        assert_eq!(Cents(11_600).compact(), "$116");
    }

    #[test]
    fn amounts_are_found_inside_words_and_sentences() {
        let text = "At $1,234.50, or 99. No 1.2.3, 7x, €5 or $3.";
        let amounts: Vec<Cents> = spans_in(text).into_iter().map(|s| s.1).collect();
        assert_eq!(amounts, [123_450, 9_900, 700, 500, 300].map(Cents));
        assert_eq!(dollars_in(text).collect::<Vec<_>>(), [123_450, 300].map(Cents));
    }
}
