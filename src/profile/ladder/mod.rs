//! The teaching ladders side by side, for `haggle profile ladder`: every rung at one shape, counted on the emulator or timed
//! on a GPU, and what each bought against the rung before.
//!
//! The one idea: the rungs are called by the cases that hold them to the oracle (`climb` in `ops/*/cases.rs`); here is the
//! clock. What a rung bought is computed from its numbers ([`bought()`]); only its idea is written down, beside its launch.

mod bought;
mod shape;
mod sums;

pub use bought::{Bought, bought};
pub use shape::Ladder;
pub use sums::{Busy, Sums};

use super::kernels::time;
use super::work;
use crate::device::gpu::Gpu;
use crate::device::record::Cost;
use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::ops::case::{Call, Purpose, Shapes, Stage};
use crate::ops::ladder::{Rung, gpu_of};
use serde_json::{Value, json};

/// A rung and what it did.
#[derive(Debug, Clone)]
pub struct Climbed {
    /// The rung.
    pub rung: Rung,
    /// The shape, in the op's letters.
    pub shape: String,
    /// What the op costs by its formula.
    pub cost: Cost,
    /// Bytes it keeps in memory beside its inputs and outputs.
    pub scratch_bytes: usize,
    /// What was counted or timed.
    pub did: Did,
}

/// What was seen of a rung.
#[derive(Debug, Clone)]
pub enum Did {
    /// On the emulator: what its launches did, and predictions.
    Counted(Sums),
    /// On a GPU: median microseconds of a call, in a row of calls, so that what fits a cache is there.
    Timed(f64),
}

impl Climbed {
    /// `v1_naive`.
    pub fn name(&self) -> &'static str {
        self.rung.name()
    }

    /// For machines; `before`: the rung before.
    pub fn json(&self, ladder: &Ladder, before: Option<&Climbed>) -> Value {
        let mut row = json!({
            "ladder": ladder.name(), "rung": self.name(), "page": self.rung.page, "idea": self.rung.idea,
            "shape": self.shape, "formula_bytes": self.cost.bytes, "formula_flops": self.cost.flops,
            "scratch_bytes": self.scratch_bytes, "against": before.map(Climbed::name),
        });
        let did = match &self.did {
            Did::Counted(sums) => sums.json(self.cost),
            Did::Timed(us) => json!({ "measured_us": us, "tflop_per_s": self.cost.flops / us / 1e6 }),
        };
        let Bought { gains, costs } = before.map(|before| bought(before, self)).unwrap_or_default();
        if let (Value::Object(row), Value::Object(did)) = (&mut row, did) {
            row.extend(did);
            row.insert("gains".into(), gains.into());
            row.insert("costs".into(), costs.into());
        }
        row
    }
}

/// Climbs a ladder on a device that runs kernels, from the ground up.
///
/// # Errors
/// [`Error::Device`] when the device runs none, or this build has no counted kernels; what a rung refuses.
pub fn climb(dev: &Device, ladder: &Ladder) -> Result<Vec<Climbed>> {
    let (gpu, rungs) = (gpu_of(dev)?, ladder.rungs());
    let mut climbed = Vec::new();
    let mut clock = |call: &Call, op: &mut dyn FnMut(&Device) -> Result<()>| -> Result<()> {
        let did = match gpu {
            Gpu::Emu(emu) => {
                emu.start_counting();
                let done = op(dev);
                let launches = emu.stop_counting();
                done?;
                Did::Counted(Sums::of(&launches, call.cost.flops))
            }
            Gpu::Cuda(_) => Did::Timed(time(dev, || op(dev))?[0]),
        };
        let Some(rung) = rungs.iter().find(|rung| rung.stem == call.stem).copied() else {
            let what = format!("{} is no rung of this ladder", call.stem);
            return Err(Error::Device { device: dev.name().into(), what });
        };
        let scratch_bytes = ladder.scratch_bytes(gpu, &rung);
        climbed.push(Climbed { rung, shape: call.shape.clone(), cost: call.cost, scratch_bytes, did });
        Ok(())
    };
    let shapes = Shapes::from(&work::shape("tiny")?);
    let purpose = Purpose::Time { shapes, wants: &|_| true, clock: &mut clock };
    ladder.calls(&mut Stage::new(dev, DType::Bf16, purpose))?;
    Ok(climbed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_kernels_is_refused() {
        let ladder = Ladder::at("gemm", None).unwrap();
        let refusal = climb(&Device::open("cpu", 1).unwrap(), &ladder).unwrap_err().to_string();
        assert!(refusal.contains("device cpu") && refusal.contains("--device emu"), "{refusal}");
    }
}
