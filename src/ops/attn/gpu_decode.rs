//! Launches of attention over pages.
//!
//! A row of several segments is walked by one block a kv head, or by several whose parts the last of them merges: a lone
//! conversation of thousands of tokens fills a card so. How many moves no bit, so it is chosen for speed: while rows and kv
//! heads are too few to fill a card, and as long as the parts have room.

use super::gpu::{Kernels, P_STRIDE, THREADS, aligned, floats_bytes, halves_bytes, pick};
use crate::device::gpu::{Arg, Gpu, Launch};
use crate::device::{View, ViewMut};
use crate::error::Result;
use crate::ops::attn::{CHUNK, Heads, Paged, SEGMENT, TICKETS};

/// Heads of a group that walk together in f32.
const QUERIES: usize = 16;
/// Pages in the ring in bf16.
const RING: usize = 4;
/// Blocks that fill the largest card, with some to spare. Rows and kv heads that are divided are fewer: each has its ticket.
const BLOCKS: usize = TICKETS;
/// f32 elements of parts at most, whatever a model's context: 32 MiB.
const MOST: usize = 8 << 20;

/// f32 elements of the tickets and the parts of `n` rows: maximum, sum and output of each head and segment.
pub(crate) fn parts_len(n: usize, segments: usize, heads: Heads) -> usize {
    TICKETS + n * heads.q * segments * (2 + heads.dim)
}

/// See [`crate::ops::attn::attn_decode_workspace`].
pub fn workspace(n: usize, longest: usize, heads: Heads) -> usize {
    let segments = longest.div_ceil(SEGMENT);
    let divided = n.min((BLOCKS - 1) / heads.kv);
    if segments > 1 { parts_len(divided, segments, heads).min(MOST) } else { 0 }
}

/// Blocks of a row and kv head: more than one where the parts of all rows have `room`.
pub(crate) fn blocks_a_row(n: usize, segments: usize, heads: Heads, room: usize) -> usize {
    let blocks = BLOCKS.div_ceil(n.max(1) * heads.kv).min(segments);
    if blocks > 1 && parts_len(n, segments, heads) <= room { blocks } else { 1 }
}

/// Shared memory of a block: queries, keys and values of a chunk or of the ring, scores.
pub(crate) fn shared_bytes(is_bf16: bool, dim: usize) -> u32 {
    match is_bf16 {
        true => halves_bytes(16 + RING * 2 * CHUNK, dim, 16 * (CHUNK + 4)),
        false => floats_bytes(QUERIES + 2 * CHUNK, dim, QUERIES * P_STRIDE),
    }
}

/// See [`crate::ops::attn::attn_decode`].
pub fn attn_decode(
    gpu: &Gpu,
    q: View,
    k_pages: View,
    v_pages: View,
    at: Paged,
    n_pages: usize,
    o: ViewMut,
    workspace: ViewMut,
    heads: Heads,
) -> Result<()> {
    let (n, Heads { q: h, kv, dim, scale }) = (at.pos.len(), heads);
    let kernels = Kernels {
        f32: ["attn_decode_f32_d32", "attn_decode_f32_d64", "attn_decode_f32_d128", "attn_decode_f32_d256"],
        bf16: ["attn_decode_bf16_d32", "attn_decode_bf16_d64", "attn_decode_bf16_d128"],
    };
    let dtypes = [q.dtype(), k_pages.dtype(), v_pages.dtype(), o.dtype()];
    let (kernel, is_bf16) = pick("attn_decode", &dtypes, dim, kernels)?;
    aligned("attn_decode", is_bf16, &[q, k_pages, v_pages, o.view()])?;
    let segments = at.longest.div_ceil(SEGMENT);
    let blocks = blocks_a_row(n, segments, heads, workspace.len());
    let mut parts = (blocks > 1).then(|| workspace.at(0..parts_len(n, segments, heads)));
    gpu.launch(
        &Launch {
            kernel,
            op: "attn_decode",
            grid: [n as u32, kv as u32, blocks as u32],
            block: [THREADS, 1, 1],
            shared_bytes: shared_bytes(is_bf16, dim),
            shape: &format_args!("N={n} P={n_pages} H={h} Hk={kv} D={dim} G={segments}"),
        },
        &mut [
            Arg::In(q),
            Arg::In(k_pages),
            Arg::In(v_pages),
            Arg::In(at.seq),
            Arg::In(at.pos),
            Arg::In(at.table),
            Arg::Out(o),
            parts.as_mut().map_or(Arg::Null, |parts| Arg::Out(parts.reborrow())),
            Arg::I64(n as i64),
            Arg::I32(at.max_pages as i32),
            Arg::I32(n_pages as i32),
            Arg::I32(segments as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
            Arg::F32(scale),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads of Qwen3-0.6B.
    const HEADS: Heads = Heads { q: 16, kv: 8, dim: 128, scale: 1.0 };

    #[test]
    fn few_rows_of_long_sequences_are_divided_and_all_others_are_not() {
        let room = |longest| workspace(512, longest, HEADS);
        let blocks = |n, longest: usize| blocks_a_row(n, longest.div_ceil(SEGMENT), HEADS, room(longest));
        assert_eq!((blocks(1, 512), blocks(1, 513), blocks(1, 8192)), (1, 2, 16));
        assert_eq!((blocks(16, 8192), blocks(64, 8192), blocks(127, 8192), blocks(128, 8192)), (8, 2, 2, 1));
        assert_eq!(blocks(0, 8192), 16, "no rows are no launch, and no division by them");
        assert_eq!((room(512), room(8192)), (0, 1024 + 127 * 16 * 16 * 130));
    }

    #[test]
    fn parts_without_room_are_not_made() {
        let longest = 131072;
        let (segments, room) = (longest / SEGMENT, workspace(512, longest, HEADS));
        assert_eq!(room, MOST);
        let most = (1..128).take_while(|n| blocks_a_row(*n, segments, HEADS, room) > 1).last();
        assert_eq!(most, Some((MOST - TICKETS) / (parts_len(1, segments, HEADS) - TICKETS)));
        assert_eq!(blocks_a_row(1, segments, HEADS, 0), 1);
    }
}
