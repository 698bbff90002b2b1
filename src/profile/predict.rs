//! How long a launch would take on an H100, from what the emulator counted: predicted, never measured.
//!
//! The largest of what memory, tensor cores, the instructions around them (those of a loop's turn in kernels/table.tsv),
//! multiply-adds, shared memory and the second-level cache need, all but memory longer where the blocks do not fill the card
//! evenly; and of what a block waits for memory that brings its bytes by copies of which few are under way at once. Left out: the
//! latency of what is loaded otherwise, chains of instructions, instructions outside loops of products, loads that miss the
//! multiprocessor's own cache more than once. So it is a bound from below, and says which.
//!
//! Between two launches no multiprocessor computes, but memory need not idle: a launch that begins early (common/dependent.cuh)
//! asks for the first of its bytes then. What it asks for so, those of its blocks that find room beside the launch before, is
//! there when it goes on, and [`gap`] is shorter by the time memory takes for it.

use super::data_sheet;
use crate::device::gpu::counts::{Counted, SECTOR_BYTES};

/// A card's rates.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    /// Multiprocessors.
    pub sms: u64,
    /// Bytes a second of its memory.
    pub bytes_per_s: f64,
    /// Bytes a second of its second-level cache when all multiprocessors ask.
    pub cache_bytes_per_s: f64,
    /// Bytes a cycle that a multiprocessor takes from there.
    pub port_bytes: f64,
    /// FLOPs a second of bf16 on tensor cores, dense.
    pub tensor_flops_per_s: f64,
    /// The share of them that `mma.sync` reaches.
    pub mma_share: f64,
    /// FLOPs a second of f32 outside tensor cores.
    pub flops_per_s: f64,
    /// Cycles a second.
    pub hertz: f64,
    /// Seconds until memory answers when it is busy: assumed.
    pub latency_s: f64,
    /// Seconds between a launch of a graph and the next, in which no multiprocessor computes: assumed.
    pub launch_s: f64,
    /// What a multiprocessor holds: threads, blocks, registers, bytes of shared memory.
    pub threads: u64,
    /// Blocks.
    pub blocks: u64,
    /// Registers of 32 bits.
    pub registers: u64,
    /// Bytes of shared memory; 1024 of a block's are the driver's.
    pub shared_bytes: u64,
}

/// H100 SXM: the rates of its data sheet, 132 multiprocessors; from that of bf16 and the 4096 FLOPs a multiprocessor does a
/// cycle follow 1.83 GHz. CUDA C++ Programming Guide, compute
/// capability 9.0: 2048 threads, 32 blocks, 65536 registers, 228 KiB. `mma.sync`: 62.9 % of the peak, arXiv:2402.13499. Between
/// launches of a graph: 1.3 us, as measured on an H100 by B. Spector et al., "Look Ma, No Bubbles!", 2025. The second-level cache:
/// 5.6 TB/s were measured on the 114 multiprocessors of the PCIe card (chipsandcheese.com, "Nvidia's H100: Funny L2, and Tons of
/// Bandwidth", 2023), 132 get as much each: 6.5 TB/s.
pub const H100: Card = Card {
    sms: 132,
    bytes_per_s: data_sheet::H100.bytes_per_s,
    cache_bytes_per_s: 6.5e12,
    port_bytes: 64.0,
    tensor_flops_per_s: data_sheet::H100.bf16,
    mma_share: 0.629,
    flops_per_s: data_sheet::H100.f32,
    hertz: 1.83e9,
    latency_s: 0.8e-6,
    launch_s: 1.3e-6,
    threads: 2048,
    blocks: 32,
    registers: 65536,
    shared_bytes: 228 * 1024,
};

/// The registers of kernels, as the table of them says.
const TABLE: &str = include_str!("../../kernels/table.tsv");

/// A launch's time, and what it is bound by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Microseconds.
    pub us: f64,
    /// What takes them.
    pub bound: &'static str,
    /// Times the blocks fill the card.
    pub waves: f64,
    /// Bytes of asynchronous copies that a multiprocessor has under way at once, at most.
    pub flight_bytes: f64,
}

/// What the compiler made of a kernel for sm_90a.
struct Compiled {
    /// Registers a thread.
    registers: u64,
    /// Instructions that a warp issues for a FLOP of its tensor instructions, in their innermost loop.
    issued_per_flop: f64,
}

impl Compiled {
    /// None where the table has no such kernel.
    fn of(kernel: &str) -> Option<Compiled> {
        let row = TABLE.lines().find_map(|line| line.strip_prefix(kernel)?.strip_prefix("\tsm_90a\t"))?;
        let column = |i: usize| row.split('\t').nth(i)?.parse::<u64>().ok();
        let (issued, flops) = (column(4).unwrap_or(0), column(5).unwrap_or(0));
        Some(Compiled { registers: column(0)?, issued_per_flop: issued as f64 / flops.max(1) as f64 })
    }
}

/// Registers of a block: a warp is given them in units of 256. Of a kernel that no table has, none.
fn registers(launch: &Counted) -> u64 {
    let warps = u64::from(launch.threads).div_ceil(32);
    Compiled::of(launch.kernel).map_or(0, |compiled| (32 * compiled.registers).next_multiple_of(256) * warps)
}

/// Blocks of a launch for which this has room at once.
fn fit(room: &Card, launch: &Counted) -> u64 {
    let threads = u64::from(launch.threads).next_multiple_of(32);
    let by_registers = room.registers.checked_div(registers(launch)).unwrap_or(room.blocks);
    let by_shared = room.shared_bytes / (launch.counts.shared_bytes + 1024);
    [room.blocks, room.threads / threads, by_registers, by_shared].into_iter().min().unwrap_or(0)
}

/// Blocks of a launch that a multiprocessor holds at once.
fn resident(card: &Card, launch: &Counted) -> u64 {
    fit(card, launch).max(1)
}

/// Predicts a launch; `flops`: what the op's formula says it computes, for kernels without tensor instructions.
pub fn predict(card: &Card, launch: &Counted, flops: f64) -> Prediction {
    let counts = &launch.counts;
    let held = resident(card, launch);
    let waves = launch.blocks as f64 / (card.sms * held) as f64;
    // A card whose last wave is not full, or whose only one is not, computes with a part of itself.
    let uneven = if launch.blocks < card.sms {
        card.sms as f64 / launch.blocks as f64
    } else if waves > 1.0 {
        waves.ceil() / waves
    } else {
        let each = launch.blocks as f64 / card.sms as f64;
        each.ceil() / each
    };
    let bytes = (launch.touched[0] + launch.touched[1]) * SECTOR_BYTES;
    let mma = counts.mma_flops as f64 / card.mma_share + counts.wgmma_flops as f64;
    let plain = if mma > 0.0 { 0.0 } else { flops };
    let sms = card.sms as f64;
    // Copies and stores pass a multiprocessor's own cache, where loads may find what they read again.
    let through = (counts.copied_bytes + counts.write_sectors * SECTOR_BYTES) as f64;
    // Times a block's copies fill what they can have under way.
    let fills = counts.copied_bytes as f64 / launch.blocks as f64 / (counts.flight_bytes as f64).max(1.0);
    let waits = if counts.copied_bytes > 0 { waves.ceil() * fills.max(1.0) } else { 0.0 };
    // Four warps issue a cycle.
    let issued = Compiled::of(launch.kernel)
        .map_or(0.0, |compiled| compiled.issued_per_flop * (counts.mma_flops + counts.wgmma_flops) as f64);
    let terms = [
        ("memory", bytes as f64 / card.bytes_per_s),
        ("tensor cores", uneven * mma / card.tensor_flops_per_s),
        ("instructions", uneven * issued / (4.0 * sms * card.hertz)),
        ("multiply-adds", uneven * plain / card.flops_per_s),
        ("shared memory", uneven * counts.shared_wavefronts as f64 / (sms * card.hertz)),
        ("latency", waits * card.latency_s),
        ("requests", uneven * (counts.read_sectors + counts.write_sectors) as f64 / 4.0 / (sms * card.hertz)),
        ("second-level cache", through / card.cache_bytes_per_s),
        ("second-level cache", uneven * through / (sms * card.port_bytes * card.hertz)),
    ];
    let (bound, seconds) =
        terms.into_iter().fold(("memory", 0.0), |most, term| if term.1 > most.1 { term } else { most });
    let flight_bytes = counts.flight_bytes as f64 * (launch.blocks as f64 / sms).min(held as f64);
    Prediction { us: seconds * 1e6, bound, waves, flight_bytes }
}

/// Seconds between a launch and the one before it in a graph: less what memory brings meanwhile, where it asks before it waits.
pub fn gap(card: &Card, before: Option<&Counted>, launch: &Counted) -> f64 {
    let room = match before {
        // Blocks of the last wave of the launch before are still there, and as many of its threads and so much of its memory.
        Some(before) => {
            let each = before.blocks.div_ceil(card.sms).min(resident(card, before));
            let taken = |of: u64| each * of;
            let left = Card {
                threads: card.threads - taken(u64::from(before.threads)).min(card.threads),
                blocks: card.blocks - each,
                registers: card.registers - taken(registers(before)).min(card.registers),
                shared_bytes: card.shared_bytes - taken(before.counts.shared_bytes + 1024).min(card.shared_bytes),
                ..*card
            };
            fit(&left, launch)
        }
        None => 0,
    };
    let early = launch.blocks.min(room * card.sms) as f64 / launch.blocks as f64 * launch.counts.early_bytes as f64;
    (card.launch_s - early / card.bytes_per_s).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::counts::Counts;

    fn launch(blocks: u64, counts: Counts, touched: [u64; 2]) -> Counted {
        Counted { kernel: "of no table", blocks, threads: 256, counts, touched }
    }

    #[test]
    fn the_largest_need_is_the_time() {
        let memory = predict(&H100, &launch(132_000, Counts::default(), [1 << 20, 1 << 20]), 1e6);
        assert_eq!((memory.bound, (memory.us * 100.0).round()), ("memory", 2003.0));
        let counts = Counts { mma_flops: 989_400_000, ..Counts::default() };
        let mma = predict(&H100, &launch(132 * 8, counts, [1, 1]), 1e12);
        assert_eq!((mma.bound, mma.waves, (mma.us * 1000.0).round()), ("tensor cores", 1.0, 1590.0));
        let wgmma = Counts { wgmma_flops: 989_400_000, ..Counts::default() };
        assert_eq!((predict(&H100, &launch(132, wgmma, [1, 1]), 0.0).us * 1e6).round(), 1e6);
    }

    #[test]
    fn blocks_that_do_not_fill_the_card_cost_what_it_idles() {
        let counts = Counts { wgmma_flops: 989_400_000, ..Counts::default() };
        let us = |blocks| predict(&H100, &launch(blocks, counts, [1, 1]), 0.0).us;
        assert!((us(66) / us(132) - 2.0).abs() < 1e-9);
        assert!((us(132 * 8 + 1) / us(132 * 8) - 2.0 * 1056.0 / 1057.0).abs() < 1e-9);
    }

    /// 132 blocks of 16 KiB each, of which 4 are under way: four times the latency. All at once: once.
    #[test]
    fn a_block_waits_as_often_as_its_copies_fill_its_ring() {
        let counts = Counts { copied_bytes: 132 << 14, flight_bytes: 1 << 12, ..Counts::default() };
        let few = predict(&H100, &launch(132, counts, [1, 1]), 0.0);
        assert_eq!((few.bound, (few.us * 10.0).round(), few.flight_bytes), ("latency", 32.0, 4096.0));
        let all = predict(&H100, &launch(132, Counts { flight_bytes: 1 << 14, ..counts }, [1, 1]), 0.0);
        assert_eq!((all.us * 10.0).round(), 8.0);
        let two =
            Counted { blocks: 264, counts: Counts { copied_bytes: 132 << 15, ..counts }, ..launch(1, counts, [1, 1]) };
        assert_eq!(predict(&H100, &two, 0.0).flight_bytes, 8192.0);
    }

    #[test]
    fn what_is_asked_for_early_shortens_the_gap_as_far_as_there_is_room_for_blocks() {
        let counts = |early_bytes, shared_bytes| Counts { early_bytes, shared_bytes, ..Counts::default() };
        let (small, own) = (launch(132, counts(0, 10 << 10), [1, 1]), launch(132, counts(1 << 20, 64 << 10), [1, 1]));
        let hidden = |before: Option<&Counted>, launch: &Counted| 1e6 * (H100.launch_s - gap(&H100, before, launch));
        assert_eq!((hidden(Some(&small), &own) * 1e3).round(), 313.0, "1 MiB at 3.35 TB/s");
        assert_eq!(hidden(None, &own), 0.0, "the first waits for nothing it could begin beside");
        let large = launch(132, counts(0, 200 << 10), [1, 1]);
        assert_eq!(hidden(Some(&large), &own), 0.0, "no room beside it");
        // Three blocks of 64 KiB find room beside one of 10: of twice as many, half of the bytes.
        let many = launch(6 * 132, counts(2 << 20, 64 << 10), [1, 1]);
        assert_eq!((hidden(Some(&small), &many) * 1e3).round(), 313.0);
        assert_eq!(gap(&H100, Some(&small), &launch(132, counts(1 << 30, 64 << 10), [1, 1])), 0.0);
    }

    #[test]
    fn the_second_level_cache_gives_what_it_has_and_a_port_what_it_takes() {
        let counts =
            Counts { copied_bytes: 1 << 24, write_sectors: 1 << 19, flight_bytes: 1 << 20, ..Counts::default() };
        let all = predict(&H100, &launch(132 * 8, counts, [1, 1]), 0.0);
        assert_eq!((all.bound, (all.us * 100.0).round()), ("second-level cache", 516.0));
        let few = predict(&H100, &launch(33, counts, [1, 1]), 0.0);
        assert!((few.us / all.us - 4.0 * 6.5e12 / (132.0 * 64.0 * 1.83e9)).abs() < 1e-3, "{few:?}");
    }

    #[test]
    fn registers_and_shared_memory_limit_the_blocks_of_a_multiprocessor() {
        let many = Counted { kernel: "adamw_step_bf16", ..launch(1, Counts::default(), [0, 0]) };
        assert_eq!(Compiled::of("adamw_step_bf16").map(|c| c.registers), Some(26), "kernels/table.tsv");
        assert_eq!(resident(&H100, &many), 8);
        let shared = Counts { shared_bytes: 100 * 1024, ..Counts::default() };
        assert_eq!(resident(&H100, &launch(1, shared, [0, 0])), 2);
    }
}
