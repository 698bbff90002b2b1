//! The emulated tensor cores are the hardware's to the bit, as far as it is published: tiles of the model's own authors,
//! facts worked out by hand, and random tiles of every kind against a slow oracle (tests/support/tensor.rs).
//!
//! The authors' tiles lie outside the repository: `HAGGLE_MMA_TILES` names the file (`tools/mma_check FILE` sets it).

use crate::support::tensor::{AMPERE, BF16, Core, F16, HOPPER, dot};
use haggle::device::gpu::{Arg, Gpu, Launch, emu::Emu, emu::TensorCores};
use haggle::device::{DType, Device};
use haggle::noise::Noise;
use half::bf16;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Cards, their arithmetic, and the name of their results in files of tiles.
const CARDS: [(TensorCores, Core, &str); 2] =
    [(TensorCores::Hopper, HOPPER, "hopper"), (TensorCores::Ampere, AMPERE, "ampere")];

/// a [16, 16] and b [16, 8] in 16 bits, c [16, 8] in f32 bits.
#[derive(Clone)]
struct Tile {
    a: Vec<u16>,
    b: Vec<u16>,
    c: Vec<u32>,
}

fn emu(cores: TensorCores) -> Device {
    Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, 0).unwrap().with_tensor_cores(cores))))
}

fn halves(dev: &Device, x: impl Iterator<Item = u16>) -> haggle::device::Buffer {
    dev.upload(&x.map(bf16::from_bits).collect::<Vec<_>>()).unwrap()
}

fn singles(dev: &Device, x: impl Iterator<Item = u32>) -> haggle::device::Buffer {
    dev.upload(&x.map(f32::from_bits).collect::<Vec<_>>()).unwrap()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// mma.sync m16n8k16 on each tile; kind 0 bf16, 1 f16.
fn mma(dev: &Device, tiles: &[Tile], kind: i32) -> Vec<Vec<u32>> {
    let a = halves(dev, tiles.iter().flat_map(|t| t.a.clone()));
    let b = halves(dev, tiles.iter().flat_map(|t| t.b.clone()));
    let c = singles(dev, tiles.iter().flat_map(|t| t.c.clone()));
    let mut d = dev.zeros(DType::F32, 128 * tiles.len()).unwrap();
    let args = &mut [
        Arg::In(a.view()),
        Arg::In(b.view()),
        Arg::In(c.view()),
        Arg::Out(d.view_mut()),
        Arg::I32(kind),
        Arg::I32(0),
    ];
    crate::support::launch(dev, "probe_mma_16", tiles.len() as u32, 32, 0, args).unwrap();
    dev.to_vec::<f32>(d.view()).chunks(128).map(bits).collect()
}

/// Four tiles by one wgmma of 64 rows and 32 columns: the blocks of its diagonal. K beyond 16 is zero, which leaves every
/// sum but -0 as it is.
fn wgmma(dev: &Device, four: &[Tile]) -> Vec<Vec<u32>> {
    let a_at = |i: usize| if i % 64 < 16 { four[i / 64 / 16].a[i / 64 % 16 * 16 + i % 64] } else { 0 };
    let b_at = |i: usize| if i % 64 < 16 { four[i / 64 / 8].b[i % 64 * 8 + i / 64 % 8] } else { 0 };
    let block = |i: usize| (i / 32 / 16 == i % 32 / 8).then_some(i / 32 / 16);
    let c_at = |i: usize| block(i).map_or(0, |t| four[t].c[i / 32 % 16 * 8 + i % 8]);
    let (a, b) = (halves(dev, (0..64 * 64).map(a_at)), halves(dev, (0..32 * 64).map(b_at)));
    let mut d = singles(dev, (0..64 * 32).map(c_at));
    let mut args = vec![Arg::In(a.view()), Arg::In(b.view()), Arg::Out(d.view_mut())];
    args.extend([32, 0, 1, 0].map(Arg::I32));
    crate::support::launch(dev, "probe_wgmma", 1, 128, 1024 + 128 * (64 + 32), &mut args).unwrap();
    let d = bits(&dev.to_vec(d.view()));
    let of = |t: usize| (0..128).map(|i| d[(t * 16 + i / 8) * 32 + t * 8 + i % 8]).collect();
    (0..4).map(of).collect()
}

/// Says the first element that differs.
#[track_caller]
fn holds(what: &str, tile: &Tile, want: &[u32], got: &[u32]) {
    if let Some(i) = (0..128).find(|i| want[*i] != got[*i]) {
        let (row, column) = (i / 8, i % 8);
        let a = &tile.a[row * 16..][..16];
        let b: Vec<u16> = (0..16).map(|k| tile.b[k * 8 + column]).collect();
        let (want, got, c) = (want[i], got[i], tile.c[i]);
        panic!("{what} at [{row}, {column}]: got {got:08x}, want {want:08x}; a {a:04x?} b {b:04x?} c {c:08x}");
    }
}

fn hex(text: &str, digits: usize) -> Vec<u32> {
    let parse = |digits| u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).expect("hex digits");
    text.as_bytes().chunks(digits).map(parse).collect()
}

/// The file of tiles, if there is one.
fn tiles_file() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HAGGLE_MMA_TILES") {
        return Some(named.into());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mma-golden/m16n8k16-bf16.jsonl");
    path.exists().then_some(path)
}

#[test]
fn tiles_of_the_models_authors_hold_to_the_bit() {
    let Some(path) = tiles_file() else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no file of tiles; tools/mma_check FILE holds one");
        return;
    };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let field = |row: &serde_json::Value, name: &str, digits| hex(row[name].as_str().expect(name), digits);
    let short = |x: Vec<u32>| x.iter().map(|x| *x as u16).collect();
    let tile = |r| Tile { a: short(field(r, "a", 4)), b: short(field(r, "b", 4)), c: field(r, "c", 8) };
    let tiles: Vec<Tile> = rows.iter().map(tile).collect();
    assert!(!tiles.is_empty(), "{}: no tiles", path.display());
    for (cores, _, card) in CARDS {
        let got = mma(&emu(cores), &tiles, 0);
        for (i, row) in rows.iter().enumerate() {
            holds(
                &format!("line {}, {}, mma.sync on {card}", i + 1, row["kind"]),
                &tiles[i],
                &field(row, card, 8),
                &got[i],
            );
        }
    }
    for (i, some) in tiles.chunks(4).enumerate() {
        let four: Vec<Tile> = some.iter().cycle().take(4).cloned().collect();
        for (t, got) in wgmma(&emu(TensorCores::Hopper), &four).iter().enumerate().take(some.len()) {
            let line = 4 * i + t;
            let what = format!("line {}, {}, wgmma", line + 1, rows[line]["kind"]);
            holds(&what, &four[t], &field(&rows[line], "hopper", 8), got);
        }
    }
    let _ = writeln!(std::io::stderr(), "{}: {} tiles hold", path.display(), tiles.len());
}

/// c, products as pairs, then the result on Hopper and on Ampere.
type Fact = (f32, &'static [(f32, f32)], f32, f32);

/// 2^n.
const fn two(n: i32) -> f32 {
    if n >= -126 { f32::from_bits(((n + 127) as u32) << 23) } else { f32::from_bits(1 << (n + 149)) }
}

const INF: f32 = f32::INFINITY;

/// Each follows from the text of kernels/emu/tensor.h in a line or two of arithmetic.
const FACTS: [Fact; 17] = [
    // Four products below a float's last bit add up where 25 bits are kept, and are lost where 24 are.
    (1.0, &[(two(-25), 1.0); 4], 1.0 + two(-23), 1.0),
    // 24 bits keep 2^-24: two of them are a bit of the result.
    (1.0, &[(two(-24), 1.0); 2], 1.0 + two(-23), 1.0 + two(-23)),
    // Toward zero, not to the nearest, and not down.
    (1.0, &[(three(-25), 1.0)], 1.0, 1.0),
    (-1.0, &[(three(-25), -1.0)], -1.0, -1.0),
    // What lies more than 25 (24) bits below the largest is gone, though the largest cancels.
    (0.5, &[(1.0, two(23)), (-1.0, two(23))], 0.5, 0.5),
    (0.5, &[(1.0, two(24)), (-1.0, two(24))], 0.5, 0.0),
    (0.5, &[(1.0, two(25)), (-1.0, two(25))], 0.0, 0.0),
    // A product is not normalised: 1.5 * 1.5 counts as exponent 0, so 2^-25 stays.
    (two(-25), &[(1.5, 1.5), (-1.5, 1.5)], two(-25), 0.0),
    // A zero counts as 2^-126: beside 2^127 it pushes 2^-25 out.
    (two(-25), &[(0.0, two(127))], 0.0, 0.0),
    (two(-24), &[(0.0, two(127))], two(-24), 0.0),
    // Subnormals are numbers, in and out; what is cut off to nothing is +0.
    (two(-149), &[(two(-126), two(-22))], two(-149) + two(-148), two(-149) + two(-148)),
    (0.0, &[(-two(-126), two(-24))], 0.0, 0.0),
    // Zeros of any sign make +0.
    (-0.0, &[(-0.0, 1.0), (0.0, -1.0)], 0.0, 0.0),
    // Beyond the largest float is infinity, just below it is not.
    (two(127), &[(two(64), two(63))], INF, INF),
    (f32::MAX, &[(two(60), two(40))], f32::MAX, f32::MAX),
    (-INF, &[(two(127), two(127))], -INF, -INF),
    // Infinities of both signs; infinity times zero is beside them in the test of noise.
    (INF, &[(-INF, 1.0)], f32::NAN, f32::NAN),
];

const fn three(n: i32) -> f32 {
    two(n) + two(n + 1)
}

/// NaN as a tensor core writes it.
fn written(x: f32) -> u32 {
    if x.is_nan() { 0x7FFF_FFFF } else { x.to_bits() }
}

#[test]
fn facts_of_the_published_model_hold() {
    for (number, (c, products, hopper, ampere)) in FACTS.iter().enumerate() {
        let short = |x: f32| bf16::from_f32(x).to_bits();
        let mut tile = Tile { a: vec![0; 256], b: vec![0; 128], c: vec![c.to_bits(); 128] };
        for (k, (a, b)) in products.iter().enumerate() {
            assert!(bf16::from_f32(*a).to_f32() == *a && bf16::from_f32(*b).to_f32() == *b, "fact {number}");
            (0..16).for_each(|row| tile.a[row * 16 + k] = short(*a));
            (0..8).for_each(|column| tile.b[k * 8 + column] = short(*b));
        }
        for ((cores, core, card), want) in CARDS.into_iter().zip([*hopper, *ampere]) {
            let (a, b): (Vec<f32>, Vec<f32>) = products.iter().copied().unzip();
            assert_eq!(written(dot(core, &a, &b, *c, BF16)), written(want), "fact {number}: the oracle on {card}");
            holds(
                &format!("fact {number} on {card}"),
                &tile,
                &vec![written(want); 128],
                &mma(&emu(cores), &[tile.clone()], 0)[0],
            );
        }
    }
}

/// Tiles of numbers whose exponents spread over `spread` powers of two around `middle`, some zero, and, where `specials`,
/// some subnormal, infinite or NaN.
fn noisy(n: usize, kind: i32, spread: usize, middle: i32, specials: bool) -> Vec<Tile> {
    let noise = Noise::new(31, (spread as i32 * 1000 + middle) as u64);
    let mut at = 0;
    let mut next = |below: usize| {
        at += 1;
        noise.below(at, below) as u32
    };
    let mut half = |_| -> u16 {
        let (fraction_bits, bias, top) = if kind == 0 { (7, 127, 255) } else { (10, 15, 31) };
        let (sign, fraction) = (next(2) << 15, next(1 << fraction_bits));
        let exponent = (middle + next(spread) as i32 - spread as i32 / 2 + bias).clamp(1, top - 1) as u32;
        (match next(if specials { 200 } else { 20 }) {
            0 => sign,
            1 if specials => sign | fraction,
            2 if specials && next(40) == 0 => {
                sign | (top as u32) << fraction_bits | if next(2) == 0 { 0 } else { fraction }
            }
            _ => sign | exponent << fraction_bits | fraction,
        }) as u16
    };
    let mut tiles: Vec<Tile> = (0..n)
        .map(|_| Tile { a: (0..256).map(&mut half).collect(), b: (0..128).map(&mut half).collect(), c: vec![] })
        .collect();
    for tile in &mut tiles {
        let mut single = |_| {
            let exponent = (2 * middle + next(2 * spread) as i32 - spread as i32 + 127).clamp(0, 254) as u32;
            next(2) << 31 | exponent << 23 | next(1 << 23)
        };
        tile.c = (0..128).map(&mut single).collect();
    }
    tiles
}

fn wanted(core: Core, tile: &Tile, kind: i32) -> Vec<u32> {
    let least = if kind == 0 { BF16 } else { F16 };
    let float = |x: u16| if kind == 0 { bf16::from_bits(x).to_f32() } else { half::f16::from_bits(x).to_f32() };
    let a: Vec<f32> = tile.a.iter().copied().map(float).collect();
    let element = |i: usize| {
        let b: Vec<f32> = (0..16).map(|k| float(tile.b[k * 8 + i % 8])).collect();
        dot(core, &a[i / 8 * 16..][..16], &b, f32::from_bits(tile.c[i]), least)
    };
    (0..128).map(|i| written(element(i))).collect()
}

/// Near one, far apart, cancelling, at both ends of the range; subnormals, infinities, NaN; each tile a chain of steps into
/// its own sums.
#[test]
fn mma_and_wgmma_compute_random_tiles_to_the_bit() {
    let kinds = [(0, 4, 0), (0, 30, 0), (0, 60, 0), (0, 12, -62), (0, 20, -75), (0, 10, 60), (1, 4, 0), (1, 28, 0)];
    for ((kind, spread, middle), specials) in kinds.into_iter().flat_map(|case| [(case, false), (case, true)]) {
        for (cores, core, card) in CARDS {
            let (dev, mut tiles) = (emu(cores), noisy(12, kind, spread, middle, specials));
            for round in 0..3 {
                let what =
                    format!("kind {kind}, 2^{middle} spread {spread}, specials {specials}, step {round} on {card}");
                let got = mma(&dev, &tiles, kind);
                let by_groups = if kind == 0 && cores == TensorCores::Hopper {
                    tiles.chunks(4).flat_map(|four| wgmma(&dev, four)).collect()
                } else {
                    got.clone()
                };
                for (tile, (got, by_group)) in tiles.iter_mut().zip(got.iter().zip(&by_groups)) {
                    let want = wanted(core, tile, kind);
                    holds(&what, tile, &want, got);
                    holds(&format!("{what}, by wgmma"), tile, &want, by_group);
                    tile.c.copy_from_slice(got);
                }
            }
        }
    }
}

#[test]
fn wgmma_is_refused_on_amperes_tensor_cores() {
    let dev = emu(TensorCores::Ampere);
    let (a, mut d) = (dev.zeros(DType::Bf16, 64 * 64).unwrap(), dev.zeros(DType::F32, 64 * 64).unwrap());
    let mut args = vec![Arg::In(a.view()), Arg::In(a.view()), Arg::Out(d.view_mut())];
    args.extend([64, 0, 0, 0].map(Arg::I32));
    let (grid, block) = ([1, 1, 1], [128, 1, 1]);
    let launch = Launch { kernel: "probe_wgmma", op: "probe", grid, block, shared_bytes: 1024 + 128 * 128, shape: &"" };
    let refusal = crate::support::gpu(&dev).launch(&launch, &mut args).unwrap_err().to_string();
    assert!(refusal.contains("only Hopper's do"), "{refusal}");
}
