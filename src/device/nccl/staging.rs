//! Bytes of the host on their way over NCCL: through a slot for each rank in a buffer of the device.
//!
//! The one idea: all ranks tell all how much they have for whom, so that all do the same rounds, and a round's sizes are known
//! on both sides.

use super::{Move, Nccl};
use crate::device::{Buffer, DType, Device};
use crate::error::{Error, Result};

/// Bytes that go out in a round, and that come in.
const ROUND_BYTES: usize = 4 << 20;
/// Slots are whole lines of so many bytes.
const LINE: usize = 64;
/// Bytes of what the buffers hold.
const WORD: usize = size_of::<i32>();

/// The buffers, a slot of each for each rank.
pub(super) struct Staging {
    out: Buffer,
    into: Buffer,
    slot_bytes: usize,
    /// A slot on the host.
    words: Vec<i32>,
}

impl Staging {
    pub(super) fn new(dev: &Device, world: usize) -> Result<Staging> {
        let slot_bytes = ROUND_BYTES / world / LINE * LINE;
        if slot_bytes < world * size_of::<u64>() {
            return Err(Error::Ranks { what: format!("{world} ranks are more than NCCL is used for here") });
        }
        let words = slot_bytes / WORD;
        let buffer = || dev.zeros(DType::I32, world * words);
        Ok(Staging { out: buffer()?, into: buffer()?, slot_bytes, words: vec![0; words] })
    }

    /// See [`Nccl::all_to_all`].
    pub(super) fn all_to_all(&mut self, nccl: &Nccl, what: &str, pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let (me, world) = (nccl.rank(), nccl.world());
        let row: Vec<u64> = pieces.iter().map(|piece| piece.len() as u64).collect();
        let row: &[u8] = bytemuck::cast_slice(&row);
        let mut rows = vec![Vec::new(); world];
        self.round(nccl, what, &vec![row; world], &vec![row.len(); world], &mut rows)?;
        // `sizes[from][to]`.
        let sizes: Vec<Vec<usize>> = rows.iter().map(|row| sizes_of(row)).collect();
        let mut told: Vec<Vec<u8>> = sizes.iter().map(|to| Vec::with_capacity(to[me])).collect();
        let longest = sizes.iter().flatten().copied().max().unwrap_or(0);
        for first in (0..longest).step_by(self.slot_bytes) {
            let part = |len: usize| len.min(first)..len.min(first + self.slot_bytes);
            let send: Vec<&[u8]> = pieces.iter().map(|piece| &piece[part(piece.len())]).collect();
            let counts: Vec<usize> = sizes.iter().map(|to| part(to[me]).len()).collect();
            self.round(nccl, what, &send, &counts, &mut told)?;
        }
        Ok(told)
    }

    /// One round: `send[r]` goes to rank r, `counts[r]` bytes come from it, behind what has come from it before.
    fn round(&mut self, nccl: &Nccl, what: &str, send: &[&[u8]], counts: &[usize], told: &mut [Vec<u8>]) -> Result<()> {
        let (me, words, mut moves) = (nccl.rank(), self.slot_bytes / WORD, Vec::new());
        for (to, piece) in send.iter().enumerate().filter(|(to, piece)| *to != me && !piece.is_empty()) {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
            bytes[..piece.len()].copy_from_slice(piece);
            let n = piece.len().div_ceil(WORD);
            nccl.dev.write(self.out.at_mut(to * words..to * words + n), &self.words[..n]);
            moves.push(Move::Send { from: self.out.at(to * words..to * words + n).address(), bytes: piece.len(), to });
        }
        for (from, bytes) in counts.iter().copied().enumerate().filter(|(from, bytes)| *from != me && *bytes > 0) {
            let into = self.into.at_mut(from * words..(from + 1) * words).address();
            moves.push(Move::Receive { into, bytes, from });
        }
        nccl.moved(what, &moves)?;
        for (from, bytes) in counts.iter().copied().enumerate() {
            if from == me {
                told[me].extend_from_slice(send[me]);
                continue;
            }
            let n = bytes.div_ceil(WORD);
            nccl.dev.read(self.into.at(from * words..from * words + n), &mut self.words[..n])?;
            told[from].extend_from_slice(&bytemuck::cast_slice::<i32, u8>(&self.words)[..bytes]);
        }
        Ok(())
    }
}

/// A rank's sizes, as it told them.
fn sizes_of(row: &[u8]) -> Vec<usize> {
    row.chunks_exact(size_of::<u64>()).map(|n| bytemuck::pod_read_unaligned::<u64>(n) as usize).collect()
}
