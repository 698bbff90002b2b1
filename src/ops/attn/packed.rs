//! Sequences of packed rows, some of which begin with rows of another one: the replies to one prompt, whose rows stand once.
//!
//! A sequence without a prefix is a stem. The sequences on a stem stand right behind it, and begin with some of its first
//! rows, each with as many as it shares: a family. A key's place in the walk is its position in the sequence, wherever its
//! row lies, so a row of a family has the bits it has in a sequence of its own.

use crate::device::View;
use crate::device::record::Keys;
use crate::error::Result;
use crate::ops::want;

/// Packed sequences on a device.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    /// Where the own rows of each begin and end `[B + 1]` i32.
    pub cu_seqlens: View<'a>,
    /// What each begins with `[B, 2]` i32: a row, and how many from there on. None where all are stems.
    pub prefixes: Option<View<'a>>,
}

impl<'a> Packed<'a> {
    /// Sequences that share nothing.
    pub fn apart(cu_seqlens: View<'a>) -> Packed<'a> {
        Packed { cu_seqlens, prefixes: None }
    }

    /// Sequences B.
    pub(super) fn len(self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// As the host reads them.
    pub(super) fn host(self) -> Sequences<'a> {
        Sequences { cu: self.cu_seqlens.host(), prefixes: self.prefixes.map_or(&[], |prefixes| prefixes.host()) }
    }
}

/// The same on the host; `prefixes` is empty where all are stems.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// Offsets `[B + 1]`.
    pub cu: &'a [i32],
    /// First row and rows `[B, 2]`, or nothing.
    pub prefixes: &'a [i32],
}

/// One of them: `prefix` rows from row `prefix_at` on, then `own` rows from row `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// First row of the prefix.
    pub prefix_at: usize,
    /// Its rows; 0 of a stem.
    pub prefix: usize,
    /// First own row.
    pub start: usize,
    /// Own rows.
    pub own: usize,
}

impl Sequence {
    /// Positions it has.
    pub fn len(&self) -> usize {
        self.prefix + self.own
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of a position.
    #[inline(always)]
    pub fn row(&self, position: usize) -> usize {
        if position < self.prefix { self.prefix_at + position } else { self.start + position - self.prefix }
    }
}

impl<'a> Sequences<'a> {
    /// Sequences that share nothing.
    pub fn apart(cu: &'a [i32]) -> Sequences<'a> {
        Sequences { cu, prefixes: &[] }
    }

    /// Sequences B.
    pub fn len(self) -> usize {
        self.cu.len().saturating_sub(1)
    }

    /// True when there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Sequence s.
    #[inline(always)]
    pub fn at(self, s: usize) -> Sequence {
        let (start, end) = (self.cu[s] as usize, self.cu[s + 1] as usize);
        let (at, len) =
            if self.prefixes.is_empty() { (0, 0) } else { (self.prefixes[2 * s], self.prefixes[2 * s + 1]) };
        Sequence { prefix_at: at as usize, prefix: len as usize, start, own: end - start }
    }

    /// The family of stem s: itself, and those that stand on it.
    #[inline(always)]
    pub fn family(self, s: usize) -> impl Iterator<Item = Sequence> {
        let on_it = (s + 1..self.len()).map(move |s| self.at(s)).take_while(|sequence| sequence.prefix > 0);
        std::iter::once(self.at(s)).chain(on_it)
    }

    /// What attention over them costs.
    pub fn keys(self) -> Keys {
        Keys::packed(self.cu, self.prefixes)
    }

    /// `Ok` when offsets rise from 0 to N, and every prefix is the first rows of the last stem before it.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn check(self, op: &'static str, n: usize) -> Result<()> {
        let Sequences { cu, prefixes } = self;
        want(op, "cu_seqlens [B + 1] from 0", cu.first().map_or(usize::MAX, |x| *x as usize), 0)?;
        want(op, "cu_seqlens ascends", cu.windows(2).filter(|w| w[0] > w[1]).count(), 0)?;
        want(op, "cu_seqlens ends at N", cu.last().map_or(0, |x| *x as usize), n)?;
        if prefixes.is_empty() {
            return Ok(());
        }
        want(op, "prefixes [B, 2]", prefixes.len(), 2 * self.len())?;
        let mut stem = 0..0;
        for (own, prefix) in cu.windows(2).zip(prefixes.as_chunks::<2>().0) {
            if prefix[1] == 0 {
                stem = own[0]..own[1];
            }
            let rows = prefix[0]..prefix[0].saturating_add(prefix[1]);
            let inside = prefix[1] == 0 || rows.start == stem.start && rows.start < rows.end && rows.end <= stem.end;
            want(op, "a prefix is the first rows of the last sequence without one", inside as usize, 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_first_rows_of_the_last_stem() {
        let check = |prefixes: &[i32]| Sequences { cu: &[0, 5, 7, 9, 12], prefixes }.check("attn_fwd", 12).is_ok();
        assert!(check(&[0, 0, 0, 5, 0, 1, 9, 0]) && check(&[]) && check(&[0; 8]));
        for bad in [
            [0, 0, 0, 6, 0, 1, 0, 0],  // longer than the stem
            [0, 0, 1, 2, 0, 1, 0, 0],  // not its first rows
            [0, 2, 0, 1, 0, 1, 0, 0],  // no stem before it
            [0, 0, 0, 1, 7, 0, 0, 1],  // a stem between
            [0, 0, 0, -1, 0, 0, 0, 0], // fewer than none
            [0, 0, 0, i32::MAX, 0, 0, 0, 0],
        ] {
            assert!(!check(&bad), "{bad:?}");
        }
        assert!(!check(&[0, 0, 0, 5]), "too few");
    }

    #[test]
    fn a_family_is_a_stem_and_those_on_it() {
        let of = Sequences { cu: &[0, 5, 7, 9, 12], prefixes: &[0, 0, 0, 5, 0, 1, 9, 0] };
        assert_eq!(of.family(0).map(|s| s.len()).collect::<Vec<_>>(), [5, 7, 3]);
        assert_eq!(of.family(3).map(|s| s.len()).collect::<Vec<_>>(), [3]);
        assert_eq!((0..7).map(|p| of.at(1).row(p)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!((0..3).map(|p| of.at(2).row(p)).collect::<Vec<_>>(), [0, 7, 8]);
    }
}
