//! What a tensor core computes, told slowly: one element at a time, every number an integer of 128 bits. The emulator's own
//! (kernels/emu/tensor.h) adds eight columns at once in floats; the two share the published model and no line.

/// A card's arithmetic: products added at once, fraction bits kept.
#[derive(Clone, Copy)]
pub struct Core {
    pub terms: usize,
    pub fraction: i32,
}

pub const HOPPER: Core = Core { terms: 16, fraction: 25 };
pub const AMPERE: Core = Core { terms: 8, fraction: 24 };

/// The least exponent of a number type.
pub const BF16: i32 = -126;
pub const F16: i32 = -14;

const NAN: u32 = 0x7FFF_FFFF;

/// `significand * 2^(exponent - 23)`, as the type of least exponent `least` holds it.
fn parts(x: f32, least: i32) -> (i128, i32) {
    let (bits, sign) = (x.to_bits() & 0x7FFF_FFFF, if x.is_sign_negative() { -1 } else { 1 });
    let (field, fraction) = ((bits >> 23) as i32, (bits & 0x7F_FFFF) as i128);
    match (field, bits) {
        (_, 0) => (0, -126),
        (0, _) => (sign * fraction, -126),
        _ if field - 127 < least => (sign * ((1 << 23 | fraction) >> (least - field + 127)), least),
        _ => (sign * (1 << 23 | fraction), field - 127),
    }
}

/// `value * 2^exponent` in whole units of `2^unit`, cut off toward zero.
fn cut(value: i128, exponent: i32, unit: i32) -> i128 {
    match exponent - unit {
        left @ 0.. => value << left,
        right @ -120..0 => value.signum() * (value.abs() >> -right),
        _ => 0,
    }
}

/// The float below `value * 2^unit` in size.
fn float(value: i128, unit: i32) -> f32 {
    let top = 127 - value.abs().leading_zeros() as i32 + unit;
    if value == 0 {
        return 0.0;
    }
    if top > 127 {
        return if value < 0 { f32::NEG_INFINITY } else { f32::INFINITY };
    }
    let last = (top - 23).max(-149);
    let digits = cut(value, unit, last);
    let size = digits.unsigned_abs() as f64 * 2f64.powi(last);
    if digits < 0 { -size as f32 } else { size as f32 }
}

/// One element of one step.
fn step(a: &[f32], b: &[f32], c: f32, least: i32, fraction: i32) -> f32 {
    let products = || a.iter().zip(b);
    let infinities: Vec<f32> = products()
        .filter(|(a, b)| a.is_infinite() || b.is_infinite())
        .map(|(a, b)| a * b)
        .chain(c.is_infinite().then_some(c))
        .collect();
    let one_sign = infinities.windows(2).all(|two| two[0] == two[1]);
    if c.is_nan() || products().any(|(a, b)| a.is_nan() || b.is_nan() || (a * b).is_nan()) || !one_sign {
        return f32::from_bits(NAN);
    }
    if let Some(infinity) = infinities.first() {
        return *infinity;
    }
    let mut terms = vec![{
        let (c, exponent) = parts(c, BF16);
        (c, exponent, exponent - 23)
    }];
    terms.extend(products().map(|(a, b)| {
        let ((a, of_a), (b, of_b)) = (parts(*a, least), parts(*b, least));
        (a * b, of_a + of_b, of_a + of_b - 46)
    }));
    let unit = terms.iter().map(|(_, exponent, _)| *exponent).max().unwrap() - fraction;
    float(terms.iter().map(|(value, _, last)| cut(*value, *last, unit)).sum(), unit)
}

/// One element of a chain of steps over K, the last filled up with zeros.
pub fn dot(core: Core, a: &[f32], b: &[f32], c: f32, least: i32) -> f32 {
    let filled = |x: &[f32]| [x, &vec![0.0; core.terms - x.len()]].concat();
    let steps = a.chunks(core.terms).zip(b.chunks(core.terms));
    steps.fold(c, |sum, (a, b)| step(&filled(a), &filled(b), sum, least, core.fraction))
}

/// c [M, N] + the product of rows `a(i, k)` and columns `b(k, j)` in bf16, K long.
pub fn product(
    core: Core,
    [m, n, k]: [usize; 3],
    c: impl Fn(usize) -> f32,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let columns: Vec<Vec<f32>> = (0..n).map(|j| (0..k).map(|p| b(p, j)).collect()).collect();
    let mut all = Vec::with_capacity(m * n);
    for i in 0..m {
        let row: Vec<f32> = (0..k).map(|p| a(i, p)).collect();
        all.extend((0..n).map(|j| dot(core, &row, &columns[j], c(i * n + j), BF16)));
    }
    all
}
