//! Launches of the sampling kernel.

use crate::device::cpu::softmax::{PIECE, SPAN};
use crate::device::gpu::{Arg, Gpu, Launch, holds, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::sample::{Leans, Rows, Sampling};

/// Most threads of a block that samples a row, and logits that each has where a row is shorter.
const THREADS: usize = 512;
const LOGITS: usize = 16;
/// Sums of a span that stand side by side in shared memory.
const CUTS: usize = 8;
/// Blocks of a cluster that samples a row.
const CLUSTER: usize = 8;

/// How many blocks walk each of `n` rows together: a cluster, where the rows alone would leave most multiprocessors without work
/// and each block has a span at least.
fn blocks_of_row(gpu: &Gpu, n: usize, spans: usize) -> usize {
    if gpu.hopper() && n * CLUSTER <= gpu.multiprocessors() && spans >= CLUSTER { CLUSTER } else { 1 }
}

/// See [`crate::ops::sample::sample`].
pub fn sample(
    gpu: &Gpu,
    mut logits: ViewMut,
    how: Sampling,
    rows: Rows,
    token: ViewMut,
    logprob: ViewMut,
    vocab: usize,
    end: usize,
) -> Result<()> {
    let floats = [("logits", logits.dtype()), ("temperature", how.temperature.dtype()), ("top_p", how.top_p.dtype())];
    holds("sample", DType::F32, &floats)?;
    holds("sample", DType::F32, &[("min_p", how.min_p.dtype()), ("logprob", logprob.dtype())])?;
    holds("sample", DType::I32, &[("top_k", how.top_k.dtype()), ("token", token.dtype())])?;
    holds("sample", DType::U64, &[("key", how.key.dtype())])?;
    let (pos, rows, n_seqs) = match rows {
        Rows::Stay(pos) => {
            holds("sample", DType::I32, &[("positions", pos.dtype())])?;
            (Arg::In(pos), Arg::Null, 0)
        }
        Rows::MoveOn { rows, n_seqs } => {
            holds("sample", DType::I32, &[("rows", rows.dtype())])?;
            (Arg::Null, Arg::Out(rows), n_seqs)
        }
    };
    let (n, spans) = (token.len(), vocab.div_ceil(SPAN));
    let pieces = if spans > 1 { vocab.div_ceil(PIECE) } else { 1 };
    let blocks = blocks_of_row(gpu, n, spans);
    let width = vector_width(vocab, DType::F32, &[logits.address()]);
    gpu.launch_dependent(
        &Launch {
            kernel: if blocks > 1 { "sample_sm90" } else { "sample" },
            op: "sample",
            grid: [(n * blocks) as u32, 1, 1],
            block: [vocab.div_ceil(LOGITS).next_multiple_of(32).min(THREADS) as u32, 1, 1],
            // Two numbers of each piece, a place left free behind eight, and of each span its sums.
            shared_bytes: (4 * (2 * (pieces + pieces / 8) + CUTS * spans)) as u32,
            shape: &format_args!("N={n} V={vocab}"),
        },
        &mut [
            Arg::Out(logits),
            Arg::In(how.temperature),
            Arg::In(how.top_k),
            Arg::In(how.top_p),
            Arg::In(how.min_p),
            Arg::In(how.key),
            pos,
            rows,
            Arg::Out(token),
            Arg::Out(logprob),
            Arg::I32(vocab as i32),
            Arg::I32(end as i32),
            Arg::I32((width > 1) as i32),
            Arg::I32(n_seqs as i32),
        ],
    )
}

/// See [`crate::ops::sample::sample_mask`].
pub fn sample_mask(gpu: &Gpu, allowed: View, logits: ViewMut, vocab: usize) -> Result<()> {
    holds("sample_mask", DType::I32, &[("allowed", allowed.dtype())])?;
    holds("sample_mask", DType::F32, &[("logits", logits.dtype())])?;
    let len = logits.len();
    gpu.launch_dependent(
        &Launch {
            kernel: "sample_mask",
            op: "sample_mask",
            grid: [len.div_ceil(256) as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={} V={vocab}", len / vocab),
        },
        &mut [
            Arg::In(allowed),
            Arg::Out(logits),
            Arg::I64(len as i64),
            Arg::I32(vocab as i32),
            Arg::I32(vocab.div_ceil(32) as i32),
        ],
    )
}

/// See [`crate::ops::sample::sample_lean`].
pub fn sample_lean(gpu: &Gpu, leans: Leans, logits: ViewMut, vocab: usize) -> Result<()> {
    let Leans { offsets, id, bias, repeat, less } = leans;
    holds("sample_lean", DType::I32, &[("offsets", offsets.dtype()), ("id", id.dtype())])?;
    let floats =
        [("bias", bias.dtype()), ("repeat", repeat.dtype()), ("less", less.dtype()), ("logits", logits.dtype())];
    holds("sample_lean", DType::F32, &floats)?;
    let (n, k) = (offsets.len() - 1, id.len());
    gpu.launch_dependent(
        &Launch {
            kernel: "sample_lean",
            op: "sample_lean",
            grid: [n as u32, 1, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} K={k}"),
        },
        &mut [
            Arg::In(offsets),
            Arg::In(id),
            Arg::In(bias),
            Arg::In(repeat),
            Arg::In(less),
            Arg::Out(logits),
            Arg::I32(vocab as i32),
        ],
    )
}
