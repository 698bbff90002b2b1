//! The walk over the cases of every op: each family lists its own in `cases.rs`, and nobody else lists any.
//!
//! The one idea: a case says its shapes, its inputs, how the op is called and how far from the oracle it may be, once. What
//! is done with it is the stage's affair: held to the oracle at few shapes in seconds (`haggle doctor`), at odd ones (the
//! tests), or timed at a model's (`haggle profile kernel`, the kernel bench). Rules about more than one call (the row rule,
//! far addresses, refusals) are tests of their own.

use crate::device::record::Cost;
use crate::device::{Buffer, DType, Device};
use crate::error::{Error, Result, mib};
use crate::noise::Noise;
use crate::ops::attn::TICKETS;
use half::bf16;

/// Sizes of a model's layers, as far as the ops see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Width C.
    pub width: usize,
    /// Width F of the MLP.
    pub mlp: usize,
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads Hk.
    pub kv_heads: usize,
    /// Head dim D.
    pub head_dim: usize,
    /// Vocabulary V.
    pub vocab: usize,
    /// Its experts, where it has any.
    pub experts: Option<Experts>,
}

/// Sizes of a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts E.
    pub n_experts: usize,
    /// Experts A of a token.
    pub n_active: usize,
    /// Width F of an expert.
    pub mlp: usize,
}

/// A call of an op, for a clock.
#[derive(Debug, Clone)]
pub struct Call {
    /// The op's stem.
    pub stem: &'static str,
    /// Its shape.
    pub shape: String,
    /// What it costs.
    pub cost: Cost,
}

/// One output of one op at one shape, held to the oracle.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The op's stem.
    pub stem: &'static str,
    /// Number type, output and shape.
    pub what: String,
    /// Largest error, relative to the largest number; infinite when something is not finite.
    pub error: f64,
    /// What it may be.
    pub limit: f64,
}

impl Check {
    /// True when the op computed rightly.
    pub fn passed(&self) -> bool {
        self.error <= self.limit
    }
}

/// The largest errors measured over all shapes of an output, on the CPU and the emulator, where its tensors are f32 and where
/// they are bf16. Twice of it fails.
pub type Floor = [f64; 2];

/// The floor of what is moved and not computed.
pub const EXACT: Floor = [0.0; 2];

/// What runs and times a call: `(call, its op)`.
pub type Clock<'a> = dyn FnMut(&Call, &mut dyn FnMut(&Device) -> Result<()>) -> Result<()> + 'a;

/// Shapes at which ops are timed or counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shapes {
    /// The few that reach every kernel's way, [`Purpose::Few`]'s.
    Few,
    /// A model's.
    Of(Dims),
}

/// What the cases are walked for.
pub enum Purpose<'a> {
    /// Few shapes that reach every kernel.
    Few,
    /// Odd ones too: one row, one column, the widest.
    Odd,
    /// Timing or counting.
    Time {
        /// At which shapes.
        shapes: Shapes,
        /// Stems that are wanted.
        wants: &'a dyn Fn(&str) -> bool,
        /// The clock.
        clock: &'a mut Clock<'a>,
    },
}

/// A device, a number type, and what the cases are walked for.
pub struct Stage<'a> {
    /// Where the ops run.
    pub dev: Device,
    /// The number type of their tensors.
    pub dtype: DType,
    purpose: Purpose<'a>,
    streams: u64,
    /// What was called last.
    last: Option<Call>,
    /// What was held to the oracle.
    pub checks: Vec<Check>,
    /// Every call.
    pub calls: Vec<Call>,
}

/// A tensor on the device, and the very same numbers on the host, where they are wanted.
pub struct Tensor {
    /// On the device.
    pub buffer: Buffer,
    /// On the host; empty when timing.
    pub values: Vec<f64>,
}

impl<'a> Stage<'a> {
    /// A stage.
    pub fn new(dev: &Device, dtype: DType, purpose: Purpose<'a>) -> Stage<'a> {
        Stage { dev: dev.clone(), dtype, purpose, streams: 0, last: None, checks: vec![], calls: vec![] }
    }

    /// True when something of these stems is wanted; a family need not make its inputs else.
    pub fn wants(&self, stems: &[&str]) -> bool {
        match &self.purpose {
            Purpose::Few | Purpose::Odd => true,
            Purpose::Time { wants, .. } => stems.iter().any(|stem| wants(stem)),
        }
    }

    /// The shapes of this walk: few, or those and the odd ones, or a model's; of a model's the emulator takes the first.
    pub fn shapes<S: Clone>(&self, few: &[S], odd: &[S], model: impl FnOnce(Dims) -> Vec<S>) -> Vec<S> {
        match &self.purpose {
            Purpose::Few | Purpose::Time { shapes: Shapes::Few, .. } => few.to_vec(),
            Purpose::Odd => [few, odd].concat(),
            Purpose::Time { shapes: Shapes::Of(dims), .. } => {
                let mut all = model(*dims);
                all.truncate(if self.dev.name() == "emu" { 1 } else { usize::MAX });
                all
            }
        }
    }

    /// True when calls are timed at a model's shapes: each of them alone, of one number type where a check has several.
    pub fn times(&self) -> bool {
        matches!(self.purpose, Purpose::Time { shapes: Shapes::Of(_), .. })
    }

    /// The last call, where outputs are held to the oracle.
    fn held(&self) -> Option<&Call> {
        self.last.as_ref().filter(|_| !matches!(self.purpose, Purpose::Time { .. }))
    }

    /// `len` numbers of the stage's type, normal or, for a clock, uniform in (-0.5, 0.5).
    pub fn input(&mut self, len: usize) -> Result<Tensor> {
        self.input_as(len, self.dtype)
    }

    /// The same, f32 whatever the stage's type.
    pub fn input_f32(&mut self, len: usize) -> Result<Tensor> {
        self.input_as(len, DType::F32)
    }

    /// The same in a number type.
    pub fn input_as(&mut self, len: usize, dtype: DType) -> Result<Tensor> {
        self.scaled(len, 1.0, dtype)
    }

    /// The same times a factor.
    pub fn scaled(&mut self, len: usize, by: f32, dtype: DType) -> Result<Tensor> {
        self.room_for(len, dtype)?;
        self.streams += 1;
        let noise = Noise::new(21, self.streams);
        let of = |i| if self.times() { noise.uniform(i) - 0.5 } else { noise.normal(i) as f32 };
        let host: Vec<f32> = (0..len as u64).map(|i| by * of(i)).collect();
        self.tensor(&host, dtype)
    }

    /// These numbers, as they are in `dtype`.
    pub fn tensor(&self, host: &[f32], dtype: DType) -> Result<Tensor> {
        let keep = |values: &mut dyn Iterator<Item = f64>| if self.times() { vec![] } else { values.collect() };
        if dtype == DType::Bf16 {
            let rounded: Vec<bf16> = host.iter().map(|x| bf16::from_f32(*x)).collect();
            let values = keep(&mut rounded.iter().map(|x| x.to_f64()));
            return Ok(Tensor { buffer: self.dev.upload(&rounded)?, values });
        }
        Ok(Tensor { buffer: self.dev.upload(host)?, values: keep(&mut host.iter().map(|x| *x as f64)) })
    }

    /// `len` indices in `0..n`.
    pub fn indices(&mut self, len: usize, n: usize) -> Result<(Buffer, Vec<i32>)> {
        self.room_for(len, DType::I32)?;
        self.streams += 1;
        let noise = Noise::new(22, self.streams);
        let host: Vec<i32> = (0..len as u64).map(|i| noise.below(i, n) as i32).collect();
        Ok((self.dev.upload(&host)?, host))
    }

    /// An output of the stage's type, full of NaN.
    pub fn out(&self, len: usize) -> Result<Buffer> {
        self.out_as(len, self.dtype)
    }

    /// An output in f32, full of NaN.
    pub fn out_f32(&self, len: usize) -> Result<Buffer> {
        self.out_as(len, DType::F32)
    }

    /// A workspace of attention over pages: NaN but for its tickets.
    pub fn parts(&self, len: usize) -> Result<Buffer> {
        let mut parts = self.out_f32(len)?;
        let tickets = len.min(TICKETS);
        self.dev.write(parts.at_mut(0..tickets), &vec![0f32; tickets]);
        Ok(parts)
    }

    /// An output of a number type, full of NaN.
    pub fn out_as(&self, len: usize, dtype: DType) -> Result<Buffer> {
        self.room_for(len, dtype)?;
        match dtype {
            DType::Bf16 => self.dev.upload(&vec![bf16::NAN; len]),
            _ => self.dev.upload(&vec![f32::NAN; len]),
        }
    }

    /// `Ok` when a tensor of a model's shape has room, where it is computed and on the host that it comes from.
    ///
    /// # Errors
    /// [`Error::Device`] with what it needs and what is free.
    fn room_for(&self, len: usize, dtype: DType) -> Result<()> {
        let Some(room) = self.dev.room().filter(|_| self.times()) else { return Ok(()) };
        let on_host = if matches!(self.dev, Device::Cpu(_)) { DType::F32.size() } else { 0 };
        let bytes = len as u64 * (dtype.size() + on_host) as u64;
        if bytes <= room.free_bytes {
            return Ok(());
        }
        let what =
            format!("needs {} for one tensor and {} are free; take a smaller --shape", mib(bytes), room.of_total());
        Err(Error::Device { device: self.dev.name().into(), what })
    }

    /// Calls an op, once or under the clock; `what` is added to the shape that its cost names.
    pub fn call(
        &mut self,
        stem: &'static str,
        what: &str,
        cost: Cost,
        mut op: impl FnMut(&Device) -> Result<()>,
    ) -> Result<()> {
        let shape = if what.is_empty() { cost.shape() } else { format!("{} {what}", cost.shape()) };
        let call = Call { stem, shape, cost };
        match &mut self.purpose {
            Purpose::Time { wants, clock, .. } if wants(stem) => clock(&call, &mut op)?,
            Purpose::Time { shapes: Shapes::Of(_), .. } => {}
            // What is called next may take what this makes.
            Purpose::Few | Purpose::Odd | Purpose::Time { shapes: Shapes::Few, .. } => op(&self.dev)?,
        }
        self.calls.push(call.clone());
        self.last = Some(call);
        Ok(())
    }

    /// Holds an output of the last call to the oracle.
    pub fn holds(&mut self, output: &str, got: &Buffer, floor: Floor, want: impl FnOnce() -> Vec<f64>) {
        let Some(call) = self.held() else { return };
        let read = match got.dtype() {
            DType::Bf16 => self.dev.download::<bf16>(got.view()).map(|x| x.iter().map(|x| x.to_f64()).collect()),
            _ => self.dev.download::<f32>(got.view()).map(|x| x.iter().map(|x| *x as f64).collect()),
        };
        // Nothing holds of what cannot be read; the next op says why.
        let values: Vec<f64> = read.unwrap_or_default();
        let error = if got.guard_intact() { error(&want(), &values) } else { f64::INFINITY };
        let limit = 2.0 * floor[usize::from(self.dtype == DType::Bf16)];
        let what = format!("{} {output}, {}", self.dtype.name(), call.shape);
        self.checks.push(Check { stem: call.stem, what, error, limit });
    }

    /// Notes of the last call something that holds or does not; the question is asked only when checking.
    pub fn exactly(&mut self, output: &str, is_right: impl FnOnce(&Device) -> Result<bool>) -> Result<()> {
        let Some(call) = self.held() else { return Ok(()) };
        let error = if is_right(&self.dev)? { 0.0 } else { f64::INFINITY };
        let what = format!("{} {output}, {}", self.dtype.name(), call.shape);
        self.checks.push(Check { stem: call.stem, what, error, limit: 0.0 });
        Ok(())
    }
}

/// Element by element.
pub fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Whether two buffers of one type hold the same bits.
///
/// # Errors
/// What the device met since.
pub fn same_bits(dev: &Device, a: &Buffer, b: &Buffer) -> Result<bool> {
    Ok(match a.dtype() {
        DType::Bf16 => {
            let bits = |x: &Buffer| dev.download::<bf16>(x.view()).map(|x| x.iter().map(|x| x.to_bits()).collect());
            let (a, b): (Vec<u16>, Vec<u16>) = (bits(a)?, bits(b)?);
            a == b
        }
        _ => {
            let bits = |x: &Buffer| dev.download::<f32>(x.view()).map(|x| x.iter().map(|x| x.to_bits()).collect());
            let (a, b): (Vec<u32>, Vec<u32>) = (bits(a)?, bits(b)?);
            a == b
        }
    })
}

/// The largest error over the largest number.
fn error(want: &[f64], got: &[f64]) -> f64 {
    if want.len() != got.len() || got.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let scale = want.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    want.iter().zip(got).fold(0f64, |m, (w, g)| m.max((w - g).abs())) / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_relative_and_nan_is_infinite() {
        assert_eq!(error(&[4.0, 1.0], &[4.0, 2.0]), 0.25);
        assert_eq!(error(&[1.0], &[f64::NAN]), f64::INFINITY);
        assert_eq!(error(&[1.0, 1.0], &[1.0]), f64::INFINITY);
    }

    #[test]
    fn a_wrong_output_and_a_question_answered_no_are_seen() {
        let dev = Device::open("cpu", 1).unwrap();
        let mut stage = Stage::new(&dev, DType::F32, Purpose::Few);
        let x = stage.input(8).unwrap();
        stage.call("copy", "", crate::ops::embed::cost::copy(8, DType::F32, DType::F32), |_| Ok(())).unwrap();
        stage.holds("right", &x.buffer, EXACT, || x.values.clone());
        stage.holds("wrong", &x.buffer, [1e-3; 2], || x.values.iter().map(|x| x + 0.1).collect());
        stage.exactly("no", |_| Ok(false)).unwrap();
        assert_eq!(stage.checks.iter().map(Check::passed).collect::<Vec<_>>(), [true, false, false]);
    }
}
