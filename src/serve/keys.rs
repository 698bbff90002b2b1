//! Keys: who may ask.
//!
//! The one idea: keys are compared as their hashes, all of them, in constant time, so that an answer's time says nothing of how
//! near a guess was.

use crate::disk::read_fetched;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::path::Path;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// The keys of a server; without any, everyone may ask.
#[derive(Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Reads a file of keys, one a line; blank lines and those that begin with `#` are none.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Data`] when it holds no key or one with a blank inside.
    pub fn read(path: &Path) -> Result<Keys> {
        let bytes = read_fetched(path)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::data(path, "is not UTF-8"))?;
        let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
        if let Some((at, _)) = lines.iter().find(|(_, key)| key.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            return Err(Error::data(path, format!("line {at}: a key has no blanks inside; write one a line")));
        }
        if lines.is_empty() {
            return Err(Error::data(path, "holds no key; write one a line"));
        }
        Ok(Keys(lines.iter().map(|(_, key)| hash(key)).collect()))
    }

    /// True where everyone may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Which of the keys it is.
    fn find(&self, key: &str) -> Option<usize> {
        const NONE: u32 = u32::MAX;
        let asked = hash(key);
        let found =
            (0u32..).zip(&self.0).fold(NONE, |found, (i, own)| u32::conditional_select(&found, &i, own.ct_eq(&asked)));
        (found != NONE).then_some(found as usize)
    }

    /// The key that an `Authorization` header holds, where it is one of these; the first for everyone where there are none.
    pub fn admitted(&self, authorization: Option<&str>) -> Option<usize> {
        if self.is_empty() {
            return Some(0);
        }
        let (scheme, key) = authorization?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") { self.find(key.trim()) } else { None }
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Keys> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, text).unwrap();
        Keys::read(&path)
    }

    #[test]
    fn a_key_of_the_file_is_admitted_and_no_other() {
        let some = keys("# two\nsk-one\n\n  sk-two \r\n").unwrap();
        for (good, which) in [("Bearer sk-one", 0), ("bearer sk-two", 1), ("BEARER  sk-two", 1)] {
            assert_eq!(some.admitted(Some(good)), Some(which), "{good}");
        }
        for bad in ["", "Bearer", "Bearer ", "sk-one", "Basic sk-one", "Bearer sk-on", "Bearer sk-onee", "Bearer # two"]
        {
            assert_eq!(some.admitted(Some(bad)), None, "{bad}");
        }
        assert_eq!((some.admitted(None), Keys::default().admitted(None)), (None, Some(0)));
    }

    #[test]
    fn a_file_without_a_key_or_with_two_on_a_line_is_refused() {
        for (text, want) in [("", "holds no key"), ("# none\n", "holds no key"), ("a\nb c\n", "line 2")] {
            assert!(keys(text).err().unwrap().to_string().contains(want), "{text:?}");
        }
    }
}
