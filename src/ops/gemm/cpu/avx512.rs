//! The microkernel in AVX-512: 14 rows of 32 columns, 28 accumulators of 32 registers. In f32, and on pairs of bf16.

use super::{Ahead, Kernels, Packs, Set, Tile, pack};
use half::bf16;
use std::arch::{asm, x86_64::*};

const MR: usize = 14;
pub(super) const NR: usize = 32;
/// Elements of a step of A.
const STEP: usize = 16;

pub(super) struct F32;

/// The tiles of f32 on panels of bf16.
pub(super) struct Widened;

impl Set for Widened {
    const KERNELS: Kernels = Kernels {
        halves: true,
        rows: &ROWS_OF_HALVES,
        bf16: Packs { transpose: turn_halves, ..F32::KERNELS.bf16 },
        ..F32::KERNELS
    };
}

impl Set for F32 {
    const KERNELS: Kernels = Kernels {
        mr: MR,
        nr: NR,
        step: STEP,
        steps: 1,
        halves: false,
        rows: &ROWS,
        cols: &COLS,
        f32: Packs { transpose, copy_a: copy::<1>, copy_b: copy::<2>, row: pack::row, in_place: true },
        bf16: Packs {
            transpose: pack::transpose_32,
            copy_a: pack::copy::<bf16, STEP>,
            copy_b: pack::copy::<bf16, NR>,
            row: pack::row,
            in_place: false,
        },
    };
}

/// One tile by an instruction of a target feature, and how it takes two elements of a panel, `$turn` bytes. Each row is (number, its two accumulators, address of its element of
/// A: `a7` is row 7); the second element of a turn stands `$step` bytes on. In assembly, because compilers keep 28
/// accumulators in registers on some days only.
macro_rules! tile {
    ($op:literal $feature:literal $load:tt $step:literal; $(($i:literal $r0:tt $r1:tt $at:literal))*) => {{
        /// # Safety
        /// As [`Tile`] says, on a machine with AVX-512 F and the feature.
        #[target_feature(enable = $feature)]
        unsafe fn tile(
            len: usize,
            a: *const f32,
            lda: usize,
            b: *const f32,
            c: *mut f32,
            ldc: usize,
            load: bool,
            ahead: [Ahead; 2],
        ) {
            let mut acc = [[_mm512_setzero_ps(); 2]; [$($i),*].len()];
            let l = lda * size_of::<f32>();
            // SAFETY: rows of C, and elements below len of A and of the panel, as the caller promises.
            unsafe {
                if load {
                    $(acc[$i] = [_mm512_loadu_ps(c.add($i * ldc)), _mm512_loadu_ps(c.add($i * ldc + 16))];)*
                }
                asm!(
                    "/* {a7} {l1} {l3} {l5} */",
                    "test {turns}, {turns}",
                    "jz 3f",
                    "2:",
                    load_b!($load first),
                    $(fma_row!($op, $at, "0", $r0, $r1),)*
                    load_b!($load second),
                    $(fma_row!($op, $at, $step, $r0, $r1),)*
                    "prefetcht1 [{p0}]",
                    "prefetcht1 [{p1}]",
                    "add {p0}, {s0}",
                    "add {p1}, {s1}",
                    concat!("add {a}, 2 * ", $step),
                    concat!("add {a7}, 2 * ", $step),
                    load_b!($load turn),
                    "dec {turns}",
                    "jnz 2b",
                    "3:",
                    "test {odd}, {odd}",
                    "jz 4f",
                    load_b!($load first),
                    $(fma_row!($op, $at, "0", $r0, $r1),)*
                    "4:",
                    a = inout(reg) a => _,
                    b = inout(reg) b => _,
                    turns = inout(reg) len / 2 => _,
                    odd = in(reg) len % 2,
                    a7 = inout(reg) a.wrapping_byte_add(7 * l) => _,
                    l1 = in(reg) l,
                    l3 = in(reg) 3 * l,
                    l5 = in(reg) 5 * l,
                    p0 = inout(reg) ahead[0].at => _,
                    s0 = in(reg) ahead[0].step,
                    p1 = inout(reg) ahead[1].at => _,
                    s1 = in(reg) ahead[1].step,
                    $(inout($r0) acc[$i][0], inout($r1) acc[$i][1],)*
                    out("zmm0") _,
                    out("zmm1") _,
                    out("zmm30") _,
                    options(nostack, readonly),
                );
                $(
                    _mm512_storeu_ps(c.add($i * ldc), acc[$i][0]);
                    _mm512_storeu_ps(c.add($i * ldc + 16), acc[$i][1]);
                )*
            }
        }
        tile as Tile
    }};
}

/// The 32 columns of an element of a panel, the first or the second of a turn, into two registers; and on to the next turn.
/// `halves` are bf16, widened.
macro_rules! load_b {
    (whole first) => {
        "vmovaps zmm0, [{b}]\nvmovaps zmm1, [{b} + 64]"
    };
    (whole second) => {
        "vmovaps zmm0, [{b} + 128]\nvmovaps zmm1, [{b} + 192]"
    };
    (whole turn) => {
        "add {b}, 256"
    };
    (halves first) => {
        "vpmovzxwd zmm0, ymmword ptr [{b}]\nvpmovzxwd zmm1, ymmword ptr [{b} + 32]\nvpslld zmm0, zmm0, 16\nvpslld zmm1, zmm1, 16"
    };
    (halves second) => {
        "vpmovzxwd zmm0, ymmword ptr [{b} + 64]\nvpmovzxwd zmm1, ymmword ptr [{b} + 96]\nvpslld zmm0, zmm0, 16\nvpslld zmm1, zmm1, 16"
    };
    (halves turn) => {
        "add {b}, 128"
    };
}

/// One row's two multiply-adds of one element, `$more` bytes on in A.
macro_rules! fma_row {
    ($op:literal, $at:literal, $more:literal, $r0:tt, $r1:tt) => {
        concat!(
            "vbroadcastss zmm30, dword ptr [",
            $at,
            " + ",
            $more,
            "]\n",
            $op,
            " ",
            $r0,
            ", zmm30, zmm0\n",
            $op,
            " ",
            $r1,
            ", zmm30, zmm1",
        )
    };
}

/// The tiles of 1, 2, ... rows of a list.
macro_rules! tiles {
    ($op:literal $feature:literal $load:tt $step:literal; $($row:tt)*) => {
        tiles!(@ ($op $feature $load $step) [] [] $($row)*)
    };
    (@ ($($how:tt)*) [$($tile:expr,)*] [$($done:tt)*] $next:tt $($rest:tt)*) => {
        tiles!(@ ($($how)*) [$($tile,)* tile!($($how)*; $($done)* $next),] [$($done)* $next] $($rest)*)
    };
    (@ ($($how:tt)*) [$($tile:expr,)*] [$($done:tt)*]) => { [$($tile),*] };
}

/// Row i of A `lda` elements on: element (i, q) at `i lda + q`.
macro_rules! by_rows {
    ($op:literal $feature:literal $load:tt) => {
        tiles! { $op $feature $load "4";
        (0 "zmm2" "zmm3" "{a}")
        (1 "zmm4" "zmm5" "{a}+{l1}")
        (2 "zmm6" "zmm7" "{a}+{l1}*2")
        (3 "zmm8" "zmm9" "{a}+{l3}")
        (4 "zmm10" "zmm11" "{a}+{l1}*4")
        (5 "zmm12" "zmm13" "{a}+{l5}")
        (6 "zmm14" "zmm15" "{a}+{l3}*2")
        (7 "zmm16" "zmm17" "{a7}")
        (8 "zmm18" "zmm19" "{a7}+{l1}")
        (9 "zmm20" "zmm21" "{a7}+{l1}*2")
        (10 "zmm22" "zmm23" "{a7}+{l3}")
        (11 "zmm24" "zmm25" "{a7}+{l1}*4")
        (12 "zmm26" "zmm27" "{a7}+{l5}")
        (13 "zmm28" "zmm29" "{a7}+{l3}*2")
        }
    };
}

/// A packed by steps of 16 elements: element (i, q) at `16 q + i`.
macro_rules! by_steps {
    ($op:literal $feature:literal) => {
        tiles! { $op $feature whole "64";
        (0 "zmm2" "zmm3" "{a}")
        (1 "zmm4" "zmm5" "{a}+4")
        (2 "zmm6" "zmm7" "{a}+8")
        (3 "zmm8" "zmm9" "{a}+12")
        (4 "zmm10" "zmm11" "{a}+16")
        (5 "zmm12" "zmm13" "{a}+20")
        (6 "zmm14" "zmm15" "{a}+24")
        (7 "zmm16" "zmm17" "{a}+28")
        (8 "zmm18" "zmm19" "{a}+32")
        (9 "zmm20" "zmm21" "{a}+36")
        (10 "zmm22" "zmm23" "{a}+40")
        (11 "zmm24" "zmm25" "{a}+44")
        (12 "zmm26" "zmm27" "{a}+48")
        (13 "zmm28" "zmm29" "{a}+52")
        }
    };
}

static ROWS: [Tile; MR] = by_rows!("vfmadd231ps" "avx512f" whole);
static ROWS_OF_HALVES: [Tile; MR] = by_rows!("vfmadd231ps" "avx512f" halves);
static COLS: [Tile; MR] = by_steps!("vfmadd231ps" "avx512f");
pub(super) static ROWS_OF_PAIRS: [Tile; MR] = by_rows!("vdpbf16ps" "avx512f,avx512bf16" whole);
pub(super) static COLS_OF_PAIRS: [Tile; MR] = by_steps!("vdpbf16ps" "avx512f,avx512bf16");

/// As [`pack::transpose`] to 32 columns that stay bf16, element by element.
///
/// # Safety
/// As there; the panel holds `kc` rows of 32 bf16.
unsafe fn turn_halves(b: *const bf16, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    let panel = panel.cast::<bf16>();
    for q in 0..kc {
        for j in 0..NR {
            // SAFETY: row j < width and step q < kc, as promised.
            unsafe { panel.add(q * NR + j).write(if j < width { *b.add(j * ld + q) } else { bf16::ZERO }) };
        }
    }
}

/// The first `n` lanes of 16.
pub(super) fn lanes(n: usize) -> __mmask16 {
    (0xFFFFu32 >> 16usize.saturating_sub(n)) as u16
}

/// As [`pack::copy`] into rows of `16 V` floats.
///
/// # Safety
/// As there, on a machine with AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn copy<const V: usize>(from: *const f32, ld: usize, width: usize, kc: usize, to: *mut f32) {
    let masks: [__mmask16; V] = std::array::from_fn(|v| lanes(width.saturating_sub(16 * v)));
    for q in 0..kc {
        for v in 0..V {
            // SAFETY: the mask lets through lanes below `width` of step q only; `to` holds kc rows of 16 V floats.
            unsafe {
                let x = _mm512_maskz_loadu_ps(masks[v], from.wrapping_add(q * ld + 16 * v));
                _mm512_storeu_ps(to.add((q * V + v) * 16), x);
            }
        }
    }
}

/// As [`pack::transpose`], 16 x 16 elements at a time.
///
/// # Safety
/// As there, on a machine with AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(b: *const f32, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    let whole = if width == NR { kc / 16 * 16 } else { 0 };
    for q in (0..whole).step_by(16) {
        for j in [0, 16] {
            // SAFETY: rows j..j + 16 < width and columns q..q + 16 <= kc are inside, as the caller promises.
            unsafe { transpose_16x16(b.add(j * ld + q), ld, panel.add(q * NR + j)) };
        }
    }
    // SAFETY: the caller's promise, for the steps from `whole` on.
    unsafe { pack::transpose(b.add(whole), ld, width, kc - whole, panel.add(whole * NR), NR) }
}

/// `to [16, NR]`, its first 16 columns, from 16 rows of `from`, `ld` apart.
///
/// Four quarters of rows 4 apart side by side in a register, then a 4 x 4 transpose in each quarter.
///
/// # Safety
/// Both blocks are in bounds; the machine has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16x16(from: *const f32, ld: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    let quarter = |row: usize, q: usize| unsafe { _mm_loadu_ps(from.add(row * ld + q)) };
    for q in [0, 4, 8, 12] {
        let mut r = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            let x = _mm512_castps128_ps512(quarter(i, q));
            let x = _mm512_insertf32x4::<1>(x, quarter(i + 4, q));
            let x = _mm512_insertf32x4::<2>(x, quarter(i + 8, q));
            r[i] = _mm512_insertf32x4::<3>(x, quarter(i + 12, q));
        }
        // Now quarter g of r[i] holds steps q..q + 4 of row 4 g + i.
        let (x0, x1) = (_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
        let (x2, x3) = (_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
        let pd = |x| _mm512_castps_pd(x);
        let out = [
            _mm512_unpacklo_pd(pd(x0), pd(x2)),
            _mm512_unpackhi_pd(pd(x0), pd(x2)),
            _mm512_unpacklo_pd(pd(x1), pd(x3)),
            _mm512_unpackhi_pd(pd(x1), pd(x3)),
        ];
        for (s, x) in out.into_iter().enumerate() {
            // SAFETY: step q + s of the 16, as the caller promises.
            unsafe { _mm512_storeu_ps(to.add((q + s) * NR), _mm512_castpd_ps(x)) };
        }
    }
}
