//! The bytes of a reply: `Thought: ...`, `Talk: ...`, `Action: ...`, of which the last is one of those that are legal now.
//!
//! The one idea: a state knows what may follow, down to the digit: the first digits of a price are taken only where some legal
//! price begins with them. Prices are written as offers render them ([`Cents::compact`]): `$116`, `$19.99`, `$0.50`.

use crate::negotiate::{Cents, Side, legal::Legal};

/// Most tokens of the two free parts; then the part must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Of the thought.
    pub thought: usize,
    /// Of the talk.
    pub talk: usize,
}

const HEAD: &[u8] = b"Thought:";
const TALK: &[u8] = b"\nTalk:";
/// Digits of the longest price, in dollars.
const MOST_DIGITS: u32 = 10;

/// The begin of a legal action, and the least and the highest price that may follow.
type Kind = (Vec<u8>, Option<(Cents, Cents)>);

/// What replies may be.
#[derive(Debug, Clone)]
pub struct Grammar {
    kinds: Vec<Kind>,
    /// What stands behind a price.
    item: Vec<u8>,
}

/// Where in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// In the head of the thought, so many bytes.
    Head(usize),
    /// In the thought.
    Thought(Run),
    /// In the head of the talk.
    ToTalk(usize),
    /// In the talk; so many bytes of a `Thought:` inside of it.
    Talk(Run, usize),
    /// In the begin of an action, so many bytes; the kinds that begin so, a bit each.
    ToAction(u8, usize),
    /// In the price of a kind.
    Price(usize, Price),
    /// Behind it.
    Item(usize),
    /// At the end.
    End,
}

/// Free text: bytes that a character still needs, and the range of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Run {
    need: u8,
    low: u8,
    high: u8,
}

/// The begin of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Price {
    dollars: i64,
    digits: u32,
    /// Cents, and how many of their digits there are, behind the point.
    cents: Option<(i64, u32)>,
}

impl Grammar {
    /// Replies that end in one of the actions that are legal, for the item `code`.
    pub fn new(legal: &Legal, code: &str) -> Grammar {
        let offer = if legal.side == Side::Buyer { "BUY" } else { "SELL" };
        let priced = |word: &str, prices| (format!("\nAction: [{word}] $").into_bytes(), Some(prices));
        let plain = |word: &str| (format!("\nAction: [{word}]").into_bytes(), None);
        let offer = legal.offer.map(|prices| priced(offer, prices));
        let deal = legal.deal.map(|price| priced("DEAL", (price, price)));
        let quit = legal.quit.then(|| plain("QUIT"));
        let kinds = [offer, deal, Some(plain("REJECT")), quit].into_iter().flatten().collect();
        Grammar { kinds, item: format!(" (1x {code})").into_bytes() }
    }

    /// Where a reply begins.
    pub fn start(&self) -> State {
        State::Head(0)
    }

    /// Most bytes of a reply beside its free parts.
    pub fn fixed_bytes(&self) -> usize {
        let longest = self.kinds.iter().map(|(begin, _)| begin.len()).max().unwrap_or(0);
        HEAD.len() + TALK.len() + longest + MOST_DIGITS as usize + 3 + self.item.len()
    }

    /// The state behind one byte more; none where the byte may not come. A part that is `closing` takes no new character.
    pub fn step(&self, state: State, byte: u8, closing: bool) -> Option<State> {
        match state {
            State::Head(at) => (HEAD[at] == byte)
                .then(|| if at + 1 == HEAD.len() { State::Thought(Run::default()) } else { State::Head(at + 1) }),
            State::Thought(run) if run.may_end(byte) => Some(State::ToTalk(1)),
            State::Thought(run) => run.step(byte, closing).map(State::Thought),
            State::ToTalk(at) => (TALK[at] == byte)
                .then(|| if at + 1 == TALK.len() { State::Talk(Run::default(), 0) } else { State::ToTalk(at + 1) }),
            State::Talk(run, _) if run.may_end(byte) => self.to_action(u8::MAX, 0, byte),
            State::Talk(run, seen) => {
                let seen = if HEAD[seen] == byte { seen + 1 } else { usize::from(HEAD[0] == byte) };
                // A thought inside of the talk is none.
                let run = run.step(byte, closing).filter(|_| seen < HEAD.len());
                run.map(|run| State::Talk(run, seen))
            }
            State::ToAction(kinds, at) => self.to_action(kinds, at, byte),
            State::Price(kind, price) => self.price(kind, price, byte),
            State::Item(at) => (self.item[at] == byte)
                .then(|| if at + 1 == self.item.len() { State::End } else { State::Item(at + 1) }),
            State::End => None,
        }
    }

    /// The state behind a token's bytes; none where it may not come.
    pub fn walk(&self, state: State, bytes: &[u8], closing: bool) -> Option<State> {
        bytes.iter().try_fold(state, |state, byte| self.step(state, *byte, closing))
    }

    fn to_action(&self, kinds: u8, at: usize, byte: u8) -> Option<State> {
        let begins = |i: usize| kinds >> i & 1 == 1 && self.kinds[i].0.get(at) == Some(&byte);
        let left = (0..self.kinds.len()).filter(|i| begins(*i)).fold(0u8, |left, i| left | 1 << i);
        let whole = (0..self.kinds.len()).find(|i| left >> i & 1 == 1 && self.kinds[*i].0.len() == at + 1);
        match whole {
            Some(kind) if self.kinds[kind].1.is_some() => Some(State::Price(kind, Price::default())),
            Some(_) => Some(State::End),
            None => (left != 0).then_some(State::ToAction(left, at + 1)),
        }
    }

    fn price(&self, kind: usize, price: Price, byte: u8) -> Option<State> {
        let prices = self.kinds[kind].1?;
        if byte == self.item[0] {
            return price.whole().filter(|whole| prices.0 <= *whole && *whole <= prices.1).map(|_| State::Item(1));
        }
        let next = price.step(byte)?;
        next.begins_one_of(prices).then_some(State::Price(kind, next))
    }
}

impl Run {
    /// A line ends between characters.
    fn may_end(self, byte: u8) -> bool {
        self.need == 0 && byte == b'\n'
    }

    /// Text without control characters, in UTF-8.
    fn step(self, byte: u8, closing: bool) -> Option<Run> {
        if self.need > 0 {
            let next = Run { need: self.need - 1, low: 0x80, high: 0xbf };
            return (self.low..=self.high).contains(&byte).then_some(next);
        }
        let (need, low, high) = match byte {
            0x20..=0x7e => (0, 0, 0),
            // U+0080 to U+009F control.
            0xc2 => (1, 0xa0, 0xbf),
            0xc3..=0xdf => (1, 0x80, 0xbf),
            0xe0 => (2, 0xa0, 0xbf),
            0xed => (2, 0x80, 0x9f),
            0xe1..=0xef => (2, 0x80, 0xbf),
            0xf0 => (3, 0x90, 0xbf),
            0xf1..=0xf3 => (3, 0x80, 0xbf),
            0xf4 => (3, 0x80, 0x8f),
            _ => return None,
        };
        (!closing).then_some(Run { need, low, high })
    }
}

impl Price {
    fn step(self, byte: u8) -> Option<Price> {
        let digit = i64::from(byte.wrapping_sub(b'0'));
        match (byte, self.cents) {
            (b'.', None) if self.digits > 0 => Some(Price { cents: Some((0, 0)), ..self }),
            (b'0'..=b'9', Some((cents, n))) if n < 2 => {
                Some(Price { cents: Some((cents * 10 + digit, n + 1)), ..self })
            }
            // No digit follows a zero at the begin.
            (b'0'..=b'9', None) if self.digits < MOST_DIGITS && (self.digits == 0 || self.dollars > 0) => {
                Some(Price { dollars: self.dollars * 10 + digit, digits: self.digits + 1, cents: None })
            }
            _ => None,
        }
    }

    /// The price, where it may end here.
    fn whole(self) -> Option<Cents> {
        match self.cents {
            None if self.dollars > 0 => Some(Cents(self.dollars * 100)),
            Some((cents, 2)) if cents > 0 => Some(Cents(self.dollars * 100 + cents)),
            _ => None,
        }
    }

    /// Whether one of the prices from the first to the second begins so.
    fn begins_one_of(self, (low, high): (Cents, Cents)) -> bool {
        let meets = |from: i64, to: i64| from <= high.0 && low.0 <= to;
        let base = self.dollars * 100;
        match self.cents {
            // Cents of zero are not written.
            Some((_, 0)) => meets(base + 1, base + 99),
            Some((tens, 1)) => meets(base + (tens * 10).max(1), base + tens * 10 + 9),
            Some((cents, _)) => cents > 0 && meets(base + cents, base + cents),
            None if self.dollars == 0 => meets(1, 99),
            None => (0..=MOST_DIGITS - self.digits).any(|more| {
                let unit = 10i64.pow(more);
                meets(base * unit, (self.dollars + 1) * unit * 100 - 1)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::reply;
    use crate::noise::Noise;

    fn legal(offer: Option<(i64, i64)>, deal: Option<i64>, quit: bool) -> Legal {
        let offer = offer.map(|(low, high)| (Cents(low), Cents(high)));
        Legal { side: Side::Buyer, offer, deal: deal.map(Cents), quit }
    }

    fn taken(grammar: &Grammar, text: &str) -> Option<State> {
        text.bytes().try_fold(grammar.start(), |state, byte| grammar.step(state, byte, false))
    }

    fn offers(grammar: &Grammar, price: &str) -> bool {
        taken(grammar, &format!("Thought: a\nTalk: b\nAction: [BUY] {price} (1x books)")) == Some(State::End)
    }

    #[test]
    fn prices_of_the_range_are_taken_and_no_other() {
        for (low, high) in
            [(1, 8000), (3_333, 3_333), (99, 101), (4_950, 5_000), (1, 1), (99_999, 100_001), (7, 12_345)]
        {
            let grammar = Grammar::new(&legal(Some((low, high)), None, false), "books");
            for cents in (1..13_000).chain(99_900..100_100) {
                let price = Cents(cents);
                assert_eq!(
                    offers(&grammar, &price.compact()),
                    (low..=high).contains(&cents),
                    "{price:?} of {low}..{high}"
                );
            }
        }
        let grammar = Grammar::new(&legal(Some((1, 10_000_000)), None, false), "books");
        for odd in
            ["$", "$0", "$00", "$05", "$5.", "$5.0", "$5.00", "$5.5", "$5.123", "$1,000", "$-5", "$ 5", "5", "$5e3"]
        {
            assert!(!offers(&grammar, odd), "{odd}");
        }
    }

    #[test]
    fn what_is_not_legal_now_is_not_taken() {
        let end = |legal: Legal, action: &str| {
            taken(&Grammar::new(&legal, "books"), &format!("Thought:\nTalk:\nAction: {action}")) == Some(State::End)
        };
        let open = legal(Some((1, 100)), None, false);
        assert!(end(open, "[REJECT]") && !end(open, "[QUIT]") && !end(open, "[DEAL] $1 (1x books)"));
        assert!(!end(open, "[SELL] $1 (1x books)") && !end(open, "[BUY] $1 (1x tools)"));
        let late = legal(None, Some(4_200), true);
        assert!(end(late, "[QUIT]") && end(late, "[DEAL] $42 (1x books)"));
        assert!(!end(late, "[DEAL] $41 (1x books)") && !end(late, "[BUY] $1 (1x books)"));
    }

    #[test]
    fn free_parts_are_lines_of_utf8_without_a_second_thought() {
        let grammar = Grammar::new(&legal(None, None, true), "books");
        for (text, is_fine) in [
            ("Thought: caf\u{e9} \u{1f600}\nTalk: Ok.\nAction: [QUIT]", true),
            ("Thought: a\nTalk: TThought\nAction: [QUIT]", true),
            ("Thought: a\nTalk: ThThought: x\nAction: [QUIT]", false),
            ("Thought: a\tb\nTalk: b\nAction: [QUIT]", false),
            ("Thought: a\u{85}\nTalk: b\nAction: [QUIT]", false),
            ("Thought: a\nTalk: b\n\nAction: [QUIT]", false),
            ("Thought: a\nTalk: b\nAction: [QUIT] now", false),
            (" Thought: a\nTalk: b\nAction: [QUIT]", false),
        ] {
            assert_eq!(taken(&grammar, text) == Some(State::End), is_fine, "{text:?}");
        }
        for bytes in [&b"\x80"[..], b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"] {
            let state = bytes.iter().try_fold(State::Thought(Run::default()), |s, b| grammar.step(s, *b, false));
            assert_eq!(state, None, "{bytes:?} is no UTF-8");
        }
    }

    #[test]
    fn any_walk_ends_in_a_reply_that_parses_to_something_legal() {
        for case in 0..400 {
            let noise = Noise::new(8, case);
            let at = |label: u64, n: usize| noise.below(label, n) as i64;
            let low = 1 + at(0, 9_000);
            let legal = legal(
                (at(1, 4) > 0).then_some((low, low + at(2, 2_000))),
                (at(3, 2) > 0).then_some(1 + at(4, 20_000)),
                at(5, 2) > 0,
            );
            let grammar = Grammar::new(&legal, "books");
            let (mut state, mut text) = (grammar.start(), vec![]);
            for step in 0.. {
                let closing = text.len() > 40;
                let next: Vec<(u8, State)> =
                    (0..=255).filter_map(|b| grammar.step(state, b, closing).map(|s| (b, s))).collect();
                if state == State::End {
                    assert!(next.is_empty());
                    break;
                }
                assert!(!next.is_empty(), "no way on from {state:?} after {:?}", String::from_utf8_lossy(&text));
                let (byte, then) = next[noise.below(100 + step, next.len())];
                text.push(byte);
                state = then;
            }
            let text = String::from_utf8(text).unwrap();
            let parsed = reply::parse(&text, "books").unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert!(legal.allows(parsed.action), "{text:?} of {legal:?}");
        }
    }
}
