//! The tiles of products in bf16, and which of them a product gets: the one that a small model of the card says is done
//! first. It is a matter of speed alone: an element is one chain over K in whatever tile.
//!
//! The model: blocks are shared out to the multiprocessors, each holds some of them side by side. A round of blocks waits for
//! memory once, and then for the slower of its chain of products and of its ring; all rounds together take at least what
//! tensor cores, shared memory, the ports to the second-level cache, that cache and memory take for all they have to do.
//! Rates are those of an H100, in cycles; cards differ in how many multiprocessors they have. Nothing here was measured.

/// Steps of K in a slot of a ring, as kernels/common/gemm_bf16.cuh.
const SLOT: usize = 64;
/// Cycles until memory answers when it is busy: 0.8 us.
const LATENCY: f64 = 1360.0;
/// Cycles from one `mma.sync` m16n8k16 to the next that takes its sum.
const CHAIN: f64 = 33.0;
/// Cycles from a slot's barrier to its first product that the chain of the slot before does not hide: by counting instructions.
const BARRIER: f64 = 40.0;
/// FLOPs a multiprocessor does a cycle by `wgmma`, and the share of them that `mma.sync` reaches (arXiv:2402.13499).
const FLOPS: f64 = 4096.0;
const MMA_SHARE: f64 = 0.629;
/// Bytes a multiprocessor moves a cycle: from and to shared memory, from the second-level cache.
const SHARED: f64 = 128.0;
const PORT: f64 = 64.0;
/// Bytes a cycle and multiprocessor that the second-level cache gives when all ask: see [`crate::profile::predict`].
const CACHE: f64 = 29.0;
/// Bytes of memory a cycle: 3.35 TB/s at 1.7 GHz.
const MEMORY: f64 = 1970.0;
/// Bytes of shared memory of a multiprocessor, and what the driver keeps of it for each block.
const SHARED_BYTES: usize = 228 * 1024;
const OF_DRIVER: usize = 1024;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `mma.sync`, by warps down and across; two copy at least: kernels/common/gemm_bf16.cuh.
    Warps([usize; 2]),
    /// The same behind Hopper's copy engine: one warp more, of which a thread copies. kernels/common/gemm_few_sm90.cuh.
    WarpsAndCopier([usize; 2]),
    /// Hopper's `wgmma`, by so many warpgroups of 64 rows, and a thread that copies: kernels/common/gemm_sm90.cuh.
    Warpgroups(usize),
}

/// A tile of C that a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Of M.
    pub rows: usize,
    /// Of N.
    pub columns: usize,
    /// Slots of the ring, each with 64 steps of rows and columns.
    pub slots: usize,
    /// What multiplies.
    pub unit: Unit,
    /// Tiles of a cluster, down and across: those one below another bring their columns once, those side by side their rows.
    pub cluster: [usize; 2],
}

/// What a launch sees of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) threads: u32,
    /// Dynamic shared memory.
    pub(crate) shared_bytes: u32,
}

/// Training.
pub const T128X128: Tile = warps([128, 128], 3, [2, 4]);
/// Prefill.
pub const T64X64: Tile = warps([64, 64], 4, [2, 2]);
/// Decode of tens of rows.
pub const T64X32: Tile = warps([64, 32], 6, [2, 2]);
/// Decode.
pub const T16X32: Tile = warps([16, 32], 12, [1, 4]);
/// Decode of weights of few rows.
pub const T16X8: Tile = warps([16, 8], 24, [1, 1]);
/// Decode of a pair of matrices, of each half the columns: see kernels/common/gemm_pair.cuh.
pub const T16X64: Tile = warps([16, 64], 6, [1, 4]);
/// The same of weights of few rows.
pub const T16X16: Tile = warps([16, 16], 12, [1, 1]);
/// Hopper's: training.
pub const SM90_128X256: Tile = warpgroups([128, 256], 4, [2, 1]);
/// Hopper's where the larger leaves half the card without a block.
pub const SM90_128X128: Tile = warpgroups([128, 128], 6, [2, 1]);
/// Hopper's: decode of tens of rows.
pub const SM90_64X32: Tile = warpgroups([64, 32], 8, [1, 8]);
/// The same of a pair of matrices, of each half the columns.
pub const SM90_64X64: Tile = warpgroups([64, 64], 6, [1, 8]);

/// Hopper's: decode of few rows.
pub const SM90_16X32: Tile = few(T16X32, [1, 4]);
/// The same of weights of few rows.
pub const SM90_16X8: Tile = few(T16X8, [1, 1]);
/// The same of a pair of matrices, of each half the columns.
pub const SM90_16X64: Tile = few(T16X64, [1, 4]);

const fn few(of: Tile, across: [usize; 2]) -> Tile {
    Tile { unit: Unit::WarpsAndCopier(across), ..of.side_by_side() }
}

const fn warps([rows, columns]: [usize; 2], slots: usize, across: [usize; 2]) -> Tile {
    Tile { rows, columns, slots, unit: Unit::Warps(across), cluster: [1, 1] }
}

const fn warpgroups([rows, columns]: [usize; 2], slots: usize, cluster: [usize; 2]) -> Tile {
    Tile { rows, columns, slots, unit: Unit::Warpgroups(rows / 64), cluster }
}

impl Tile {
    /// Eight of it in a cluster.
    pub const fn side_by_side(self) -> Tile {
        Tile { cluster: [1, 8], ..self }
    }

    /// Whether it takes its operands by tensor maps.
    pub fn by_maps(&self) -> bool {
        matches!(self.unit, Unit::WarpsAndCopier(_) | Unit::Warpgroups(_))
    }

    /// Whether it needs Hopper's instructions.
    pub fn needs_hopper(&self) -> bool {
        self.by_maps() || self.cluster != [1, 1]
    }

    /// Whether m rows of decode may be its. Blocks side by side bring rows once, but to bring one is not worth their meeting; and
    /// where there are Hopper's tiles nobody reads a weight twice for tens of rows.
    pub fn suits(&self, m: usize, hopper: bool) -> bool {
        (self.cluster[1] == 1 || m > 1) && (!hopper || self.rows >= m.min(64))
    }

    /// What a launch sees of it.
    pub(crate) fn block(&self) -> Block {
        let (threads, shared_bytes) = (self.threads(), self.shared_bytes());
        Block { rows: self.rows, columns: self.columns, threads, shared_bytes }
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        match self.unit {
            Unit::Warps([down, across]) => 32 * (down * across).max(2) as u32,
            Unit::WarpsAndCopier([down, across]) => 32 * (down * across + 1) as u32,
            // Of the last one thread copies: a whole warpgroup where the others take its registers.
            Unit::Warpgroups(1) => 160,
            Unit::Warpgroups(n) => 128 * (n + 1) as u32,
        }
    }

    /// Dynamic shared memory of a block, in bytes: the ring, on Hopper up to a multiple of 1024.
    pub fn shared_bytes(&self) -> u32 {
        let ring = self.slots * self.slot_bytes(self.rows);
        (ring + if self.by_maps() { 1024 } else { 0 }) as u32
    }

    /// Blocks of a product `[m, n]`: whole clusters.
    pub fn blocks(&self, m: usize, n: usize) -> usize {
        self.blocks_of(m.div_ceil(self.rows), n.div_ceil(self.columns))
    }

    /// The same of so many tiles down and across.
    pub fn blocks_of(&self, down: usize, across: usize) -> usize {
        down.next_multiple_of(self.cluster[0]) * across.next_multiple_of(self.cluster[1])
    }

    /// Bytes of a slot of which so many rows exist.
    fn slot_bytes(&self, rows: usize) -> usize {
        2 * SLOT * (rows + self.columns)
    }

    /// Blocks that a multiprocessor holds side by side: all these kernels are bound by shared memory.
    fn held(&self) -> usize {
        (SHARED_BYTES / (self.shared_bytes() as usize + OF_DRIVER)).max(1)
    }

    /// Cycles that 16 steps of the block's product take of the tensor cores and of shared memory, where each warp reads its
    /// own rows and columns; and those that they take if nothing else is in the way.
    fn step(&self) -> [f64; 3] {
        let flops = (2 * self.rows * self.columns * 16) as f64;
        let written = self.slot_bytes(self.rows) as f64 / 4.0;
        match self.unit {
            Unit::Warps([down, across]) | Unit::WarpsAndCopier([down, across]) => {
                let read = 32.0 * (self.rows * across + self.columns * down) as f64;
                [flops / (MMA_SHARE * FLOPS), (read + written) / SHARED, CHAIN + BARRIER / 4.0]
            }
            // A warpgroup reads its 64 rows and all columns.
            Unit::Warpgroups(n) => {
                let read = 32.0 * (64 * n + self.columns * n) as f64;
                [flops / FLOPS, (read + written) / SHARED, (flops / FLOPS).max(CHAIN)]
            }
        }
    }

    /// Cycles of the product `[m, n, k]` on a card of `sms` multiprocessors.
    pub fn cycles(&self, [m, n, k]: [usize; 3], sms: usize) -> f64 {
        let blocks = self.blocks(m, n);
        // Of the multiprocessor that has most.
        let (each, rounds) = (blocks.div_ceil(sms) as f64, blocks.div_ceil(sms * self.held()) as f64);
        let (steps, products) = (k.div_ceil(SLOT) as f64, k.div_ceil(16) as f64);
        let [tensor, shared, chain] = self.step();
        let under_way = (self.slots - 1) as f64;
        let ring = LATENCY * ((steps - under_way) / under_way).max(0.0);
        let rows = m.min(self.rows);
        let brought = steps * self.slot_bytes(rows) as f64;
        // A cluster asks once for what its blocks share.
        let [down, across] = self.cluster.map(|n| n as f64);
        let asked = steps * 2.0 * SLOT as f64 * (rows as f64 / across + self.columns as f64 / down);
        let least = [
            each * products * tensor,
            each * products * shared,
            each * brought / PORT,
            blocks as f64 * asked / (CACHE * sms as f64),
            2.0 * (m * k + n * k + m * n) as f64 / MEMORY,
        ];
        let all = LATENCY + least.into_iter().fold(0.0, f64::max);
        all.max(rounds * (LATENCY + ring.max(products * chain)))
    }
}

/// The tile by which the product `[m, n, k]` is done first; of equals the first, of none none.
pub fn first_done(tiles: impl Iterator<Item = Tile>, dims: [usize; 3], sms: usize) -> Option<Tile> {
    tiles.min_by(|a, b| a.cycles(dims, sms).total_cmp(&b.cycles(dims, sms)))
}

#[cfg(test)]
mod tests {
    use super::super::gpu::{NN, NT, Op, TN};
    use super::*;

    const SMS: usize = 132;

    /// A product, whose it is, and the tile and blocks that it gets without and with Hopper's instructions.
    type Choice = (&'static Op, [usize; 3], &'static str, (Tile, usize), (Tile, usize));

    const CHOICES: [Choice; 22] = [
        (&NT, [1, 1024, 1024], "0.6B, k and v of a token", (T16X8, 128), (T16X8, 128)),
        (&NT, [1, 1024, 3072], "0.6B, down", (T16X8, 128), (T16X8, 128)),
        (&NT, [1, 3072, 1024], "0.6B, gate and up", (T16X8, 384), (T16X8, 384)),
        (&NT, [1, 4096, 4096], "8B, q and o", (T16X32, 128), (T16X32, 128)),
        (&NT, [1, 4096, 12288], "8B, down", (T16X32, 128), (T16X32, 128)),
        (&NT, [1, 151936, 1024], "0.6B, head", (T16X32, 4748), (T16X32, 4748)),
        (&NT, [2, 1024, 2048], "0.6B, o of 2", (T16X8, 128), (SM90_16X8, 128)),
        (&NT, [16, 1024, 1024], "0.6B, k of 16 tokens", (T16X8, 128), (SM90_16X8, 128)),
        (&NT, [16, 3072, 1024], "0.6B, gate of 16", (T16X32, 96), (SM90_16X8, 384)),
        (&NT, [16, 4096, 4096], "8B, q of 16", (T16X32, 128), (SM90_16X32, 128)),
        (&NT, [16, 4096, 12288], "8B, down of 16", (T16X32, 128), (SM90_16X32, 128)),
        (&NT, [32, 1024, 1024], "0.6B, k of 32", (T16X32, 64), (SM90_64X32, 32)),
        (&NT, [64, 1024, 1024], "0.6B, k of 64", (T16X32, 128), (SM90_64X32, 32)),
        (&NT, [64, 3072, 1024], "0.6B, gate of 64", (T64X32, 96), (SM90_64X32, 96)),
        (&NT, [64, 4096, 4096], "8B, q of 64", (T64X32, 128), (SM90_64X32, 128)),
        (&NT, [128, 3072, 1024], "a prompt", (T64X64, 96), (SM90_64X32, 192)),
        (&NT, [64, 151936, 1024], "0.6B, head of 64", (T64X64, 2374), (SM90_64X32, 4752)),
        (&NT, [16384, 3072, 1024], "0.6B, gate in training", (T128X128, 3072), (SM90_128X256, 1536)),
        (&NT, [256, 16384, 1024], "logits of the head", (T128X128, 256), (SM90_128X256, 128)),
        (&NN, [512, 2048, 16384], "dx of the head", (T128X128, 64), (SM90_128X128, 64)),
        (&NN, [16384, 1024, 3072], "dx of gate", (T128X128, 1024), (SM90_128X256, 512)),
        (&TN, [3072, 1024, 16384], "dw of gate", (T128X128, 192), (SM90_128X256, 96)),
    ];

    #[test]
    fn named_products_get_these_tiles() {
        let mut wrong = vec![];
        for (op, dims, name, portable, hopper) in CHOICES {
            for (has, (want, blocks)) in [(false, portable), (true, hopper)] {
                let got = op.tile(dims, has, SMS).unwrap();
                let cycles: Vec<_> =
                    op.tiles(has).map(|tile| (tile.rows, tile.columns, tile.cycles(dims, SMS))).collect();
                if (got, got.blocks(dims[0], dims[1])) != (want, blocks) {
                    wrong.push(format!("{name} {dims:?} gets {got:?}: {cycles:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Half a card at least, and on each multiprocessor the 20 KB under way that hide the latency at full bandwidth.
    #[test]
    fn products_of_a_token_bring_their_weights_from_all_over_the_card() {
        for n in [1024, 2048, 3072, 4096, 12288] {
            for k in [1024, 2048, 4096, 12288] {
                let tile = NT.tile([1, n, k], false, SMS).unwrap();
                let (blocks, of_weights) = (tile.blocks(1, n), 2 * tile.columns * k.min(64 * (tile.slots - 1)));
                assert!(blocks >= 96, "N {n} K {k}: {blocks} blocks");
                let held = blocks.div_ceil(SMS).min(tile.held());
                let all_there_is = 2 * n * k / SMS;
                assert!(
                    of_weights * held >= all_there_is.min(20 * 1024),
                    "N {n} K {k}: {of_weights} bytes of {held} blocks"
                );
            }
        }
    }

    #[test]
    fn a_tile_is_what_its_kernel_says() {
        let source = include_str!("../../../kernels/common/gemm_bf16.cuh");
        for tile in [T128X128, T64X64, T64X32, T16X64, T16X32, T16X16, T16X8] {
            let Unit::Warps([down, across]) = tile.unit else { panic!("{tile:?}") };
            let Tile { rows, columns, slots, .. } = tile;
            let line = format!("using Gemm{rows}x{columns} = GemmTile<{rows}, {columns}, {down}, {across}, {slots}>;");
            assert!(source.contains(&line), "{line}");
        }
        let source = include_str!("../../../kernels/common/gemm_sm90.cuh");
        let few = include_str!("../../../kernels/common/gemm_few_sm90.cuh");
        for Tile { rows, columns, .. } in [SM90_16X8, SM90_16X32, SM90_16X64] {
            let line = format!("using FewSm90Tile{rows}x{columns} = FewSm90<Gemm{rows}x{columns}>;");
            assert!(few.contains(&line), "{line}");
        }
        for Tile { rows, columns, slots, cluster: [down, across], .. } in
            [SM90_128X256, SM90_128X128, SM90_64X32, SM90_64X64]
        {
            let line =
                format!("using Sm90Tile{rows}x{columns} = TileSm90<{rows}, {columns}, {slots}, {down}, {across}>;");
            assert!(source.contains(&line), "{line}");
        }
    }
}
