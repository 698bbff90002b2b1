//! What a rank tells another, as bytes: numbers by the bit, texts, lists of them, one behind the other.
//!
//! The one idea: both sides run the same program, so nothing says what comes next; whoever reads asks for it.

use super::failed;
use crate::error::{Error, Result};
use bytemuck::Pod;

/// Bytes being written.
#[derive(Debug, Default)]
pub struct Packet {
    /// What is written so far.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// An empty one.
    pub fn new() -> Packet {
        Packet::default()
    }

    /// Appends numbers, and how many they are.
    pub fn put<T: Pod>(&mut self, numbers: &[T]) -> &mut Packet {
        self.bytes.extend_from_slice(&(numbers.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(bytemuck::cast_slice(numbers));
        self
    }

    /// Appends a text.
    pub fn text(&mut self, text: &str) -> &mut Packet {
        self.put(text.as_bytes())
    }

    /// How something went at this rank: well, or what failed.
    pub fn of_outcome(failed: Option<&Error>) -> Vec<u8> {
        let mut packet = Packet::new();
        match failed {
            None => packet.put(&[0u8]),
            Some(Error::Seller { url, what }) => packet.put(&[1u8]).text(url).text(what),
            Some(other) => packet.put(&[2u8]).text(&other.to_string()),
        };
        packet.bytes
    }
}

/// The numbers that bytes hold, however they are aligned.
pub fn numbers<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Bytes being read, in the order in which they were written.
#[derive(Debug)]
pub struct Unpack<'a> {
    rest: &'a [u8],
}

impl<'a> Unpack<'a> {
    /// Reads a packet's bytes.
    pub fn of(bytes: &'a [u8]) -> Unpack<'a> {
        Unpack { rest: bytes }
    }

    /// The next numbers.
    ///
    /// # Errors
    /// [`Error::Ranks`] where they are not there: the ranks run different programs.
    pub fn take<T: Pod>(&mut self) -> Result<Vec<T>> {
        let short = || Error::Ranks { what: "a rank told less than was asked for".into() };
        let (head, rest) = self.rest.split_first_chunk::<8>().ok_or_else(short)?;
        let bytes = usize::try_from(u64::from_le_bytes(*head)).ok().and_then(|n| n.checked_mul(size_of::<T>()));
        let (own, rest) = bytes.and_then(|n| rest.split_at_checked(n)).ok_or_else(short)?;
        self.rest = rest;
        Ok(numbers(own))
    }

    /// The next numbers, as many as there must be.
    ///
    /// # Errors
    /// As [`Unpack::take`].
    pub fn exactly<T: Pod, const N: usize>(&mut self) -> Result<[T; N]> {
        let numbers = self.take::<T>()?;
        numbers.try_into().map_err(|_| Error::Ranks { what: "a rank told another number of numbers".into() })
    }

    /// The next text.
    ///
    /// # Errors
    /// As [`Unpack::take`].
    pub fn text(&mut self) -> Result<String> {
        let bytes = self.take::<u8>()?;
        String::from_utf8(bytes).map_err(|_| Error::Ranks { what: "a rank told a text that is none".into() })
    }

    /// How something went at a rank.
    ///
    /// # Errors
    /// What failed there: a seller's loss as it is, anything else with the rank's number.
    pub fn outcome(&mut self, rank: usize) -> Result<()> {
        match self.exactly::<u8, 1>()? {
            [0] => Ok(()),
            [1] => Err(Error::Seller { url: self.text()?, what: self.text()? }),
            _ => Err(failed(rank, &self.text()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_to_the_bit_and_what_is_missing_is_an_error() {
        let odd = [f32::NAN, -0.0, 1e-40, f32::INFINITY];
        let mut packet = Packet::new();
        packet.put(&odd).text("caf\u{e9}").put::<u64>(&[]).put(&[7u64, u64::MAX]);
        let mut read = Unpack::of(&packet.bytes);
        assert_eq!(read.take::<f32>().unwrap().map_bits(), odd.to_vec().map_bits());
        assert_eq!(read.text().unwrap(), "caf\u{e9}");
        assert_eq!(read.take::<u64>().unwrap(), [0; 0]);
        assert_eq!(read.exactly::<u64, 2>().unwrap(), [7, u64::MAX]);
        assert!(read.take::<u8>().unwrap_err().to_string().contains("told less"));
        assert!(Unpack::of(&u64::MAX.to_le_bytes()).take::<f32>().is_err());
    }

    trait MapBits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl MapBits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(f32::to_bits).collect()
        }
    }

    #[test]
    fn a_failure_is_told_with_its_rank_and_a_lost_seller_as_it_is() {
        let well = Packet::of_outcome(None);
        Unpack::of(&well).outcome(3).unwrap();
        let seller = Error::Seller { url: "http://x".into(), what: "is gone".into() };
        let told = Unpack::of(&Packet::of_outcome(Some(&seller))).outcome(3).unwrap_err();
        assert_eq!(told.to_string(), seller.to_string());
        let other = Error::Training { what: "a NaN".into() };
        let told = Unpack::of(&Packet::of_outcome(Some(&other))).outcome(3).unwrap_err().to_string();
        assert!(told.contains("rank 3 failed: training stopped: a NaN"), "{told}");
    }
}
