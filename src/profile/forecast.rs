//! A whole step of a model on an H100, from what the emulator counts of one layer and of two: predicted, never measured.
//!
//! The one idea: layers are alike, so what a second one adds is what each adds; and blocks of a launch are alike, or change
//! along the grid, so of a large launch some are run, spread evenly, and what they did is scaled
//! ([`Emu::spread_blocks`](crate::device::gpu::emu::Emu::spread_blocks)). Nothing that is counted depends on weights, so they are
//! zeros. A step is its launches one after another, each as [`predict`](super::predict::predict) says, and what lies between
//! them ([`Card::launch_s`](super::predict::Card::launch_s)).

use super::counters::{counting, rows};
use super::predict::{H100, gap};
use super::work::{CAPACITY, Sizes, decoding, prefilling};
use crate::device::gpu::counts::Counted;
use crate::device::record::{Event, Kind};
use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, Plan, Weights};
use crate::ops::case::Call;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One token of every sequence.
    Decode,
    /// Every prompt, to its first token.
    Prefill,
}

/// The launches of a kernel in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its name.
    pub kernel: &'static str,
    /// How many.
    pub launches: usize,
    /// Microseconds of all.
    pub us: f64,
    /// What the longest of them is bound by.
    pub bound: &'static str,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forecast {
    /// What it is of, for people.
    pub title: String,
    /// Its kernels, the longest first.
    pub parts: Vec<Part>,
    /// Microseconds between launches.
    pub between_us: f64,
    /// What its ops cost by their formulas.
    pub cost: Costs,
}

/// What ops cost by their formulas.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Costs {
    /// The least time of each, added up, in microseconds.
    pub least_us: f64,
    /// FLOPs.
    pub flops: f64,
}

impl Costs {
    /// Of recorded ops that lie in no other op, by what the least time of FLOPs and bytes is, in seconds.
    pub fn of(events: &[Event], least_s: &dyn Fn(f64, f64) -> f64) -> Costs {
        calls(events).iter().fold(Costs::default(), |sum, (call, _)| Costs {
            least_us: sum.least_us + 1e6 * least_s(call.cost.flops, call.cost.bytes),
            flops: sum.flops + call.cost.flops,
        })
    }
}

impl Forecast {
    /// Launches.
    pub fn launches(&self) -> usize {
        self.parts.iter().map(|part| part.launches).sum()
    }

    /// Microseconds of its kernels.
    pub fn kernels_us(&self) -> f64 {
        self.parts.iter().map(|part| part.us).sum()
    }

    /// Microseconds of the step.
    pub fn step_us(&self) -> f64 {
        self.kernels_us() + self.between_us
    }

    /// The least time over the predicted.
    pub fn roofline(&self) -> f64 {
        self.cost.least_us / self.step_us()
    }

    /// For people.
    pub fn text(&self) -> String {
        let (step, kernels) = (self.step_us(), self.kernels_us());
        let mut text = format!(
            "{}\npredicted for an H100, never measured: {step:.0} us, of them {:.0} between {} launches ({:.0} where none begins \
             early); {:.0} % of the roofline, {:.0} TFLOP/s\n{:<34} {:>8} {:>10} {:>9} {:>6}  bound by\n",
            self.title,
            step - kernels,
            self.launches(),
            1e6 * H100.launch_s * self.launches() as f64,
            100.0 * self.roofline(),
            self.cost.flops / step / 1e6,
            "kernel",
            "launches",
            "us each",
            "us",
            "share"
        );
        for Part { kernel, launches, us, bound } in &self.parts {
            let each = us / *launches as f64;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{kernel:<34} {launches:>8} {each:>10.2} {us:>9.1} {:>5.0}%  {bound}",
                100.0 * us / step
            );
        }
        text
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let part = |p: &Part| json!({ "kernel": p.kernel, "launches": p.launches, "us": p.us, "bound": p.bound });
        json!({
            "title": self.title, "predicted": true, "card": "H100", "step_us": self.step_us(), "kernels_us": self.kernels_us(),
            "launches": self.launches(), "least_us": self.cost.least_us, "roofline": self.roofline(), "flops": self.cost.flops,
            "kernels": self.parts.iter().map(part).collect::<Vec<_>>(),
        })
    }

    /// This one and `times` more of what `more` has above it.
    fn and(mut self, more: &Forecast, times: f64) -> Forecast {
        for part in &more.parts {
            let own = match self.parts.iter_mut().find(|own| own.kernel == part.kernel) {
                Some(own) => own,
                None => {
                    self.parts.push(Part { launches: 0, us: 0.0, ..part.clone() });
                    self.parts.last_mut().unwrap_or_else(|| unreachable!("one was pushed"))
                }
            };
            own.launches += (times * part.launches.saturating_sub(own.launches) as f64) as usize;
            own.us += times * (part.us - own.us).max(0.0);
        }
        self.between_us += times * (more.between_us - self.between_us);
        self.cost.least_us += times * (more.cost.least_us - self.cost.least_us);
        self.cost.flops += times * (more.cost.flops - self.cost.flops);
        self.parts.sort_by(|a, b| b.us.total_cmp(&a.us));
        self
    }
}

/// Predicts a step of a model of this shape in bf16.
///
/// # Errors
/// [`Error::Config`] when the device is not the emulator or the context is too short; [`Error::Device`] when this build counts
/// nothing; [`Error::Memory`].
pub fn forecast(dev: &Device, shape: &ModelConfig, step: Step, sizes: Sizes) -> Result<Forecast> {
    let of = |layers: usize| of_layers(dev, shape, layers, step, sizes);
    let one = of(1)?;
    let whole = match shape.num_hidden_layers {
        1 => one,
        layers => one.and(&of(2)?, layers as f64 - 1.0),
    };
    let what = if step == Step::Decode { "decode of" } else { "prefill of" };
    let Sizes { batch, prompt, .. } = sizes;
    Ok(Forecast {
        title: format!("{what} {batch} sequences, prompts of {prompt}, {} layers", shape.num_hidden_layers),
        ..whole
    })
}

/// A step of a model of so many of the shape's layers.
fn of_layers(dev: &Device, shape: &ModelConfig, layers: usize, step: Step, sizes: Sizes) -> Result<Forecast> {
    counting(dev)?;
    let config = ModelConfig { num_hidden_layers: layers, stored: DType::Bf16, compute: DType::Bf16, ..shape.clone() };
    let w = Weights::planned_frozen(&mut Plan::on(dev), "model", config)?.compute_in(dev, DType::Bf16)?;
    let mut engine = match step {
        Step::Decode => decoding(dev, &w, sizes, false)?,
        Step::Prefill => prefilling(dev, &w, sizes)?,
    };
    let mut run = || match step {
        Step::Decode => engine.step(&w).map(drop),
        Step::Prefill => {
            while engine.step(&w)? {}
            Ok(())
        }
    };
    // Launches begin early inside of a graph: as decode has them on a card.
    predicted(dev, &mut || match step {
        Step::Decode => dev.capture("forecast", &mut run).map(drop),
        Step::Prefill => run(),
    })
}

/// What is run, predicted.
///
/// # Errors
/// As [`forecast`]; what is run itself.
pub(super) fn predicted(dev: &Device, run: &mut dyn FnMut() -> Result<()>) -> Result<Forecast> {
    let emu = counting(dev)?;
    dev.start_recording(CAPACITY)?;
    emu.start_counting();
    let ran = run();
    let (counted, recording) = (emu.stop_counting(), dev.stop_recording()?);
    ran?;
    let calls = calls(&recording.events);
    if calls.iter().map(|(_, launches)| launches).sum::<usize>() != counted.len() {
        let what = format!("{} launches were counted and others recorded", counted.len());
        return Err(Error::Device { device: dev.name().into(), what });
    }
    let least_s = |flops: f64, bytes: f64| (bytes / H100.bytes_per_s).max(flops / H100.tensor_flops_per_s);
    let cost = Costs::of(&recording.events, &least_s);
    let launches: Vec<&Counted> = counted.iter().filter(|launch| launch.blocks > 0).collect();
    let before = std::iter::once(None).chain(launches.iter().copied().map(Some));
    let between_us = 1e6 * before.zip(&launches).map(|(before, launch)| gap(&H100, before, launch)).sum::<f64>();
    let (mut all, mut rest) = (Forecast { cost, between_us, ..Forecast::default() }, counted.as_slice());
    for (call, launches) in calls {
        let (own, others) = rest.split_at(launches);
        rest = others;
        for row in rows(&call, own) {
            add(&mut all.parts, row.launch.kernel, row.predicted.us, row.predicted.bound);
        }
    }
    all.parts.sort_by(|a, b| b.us.total_cmp(&a.us));
    Ok(all)
}

fn add(parts: &mut Vec<Part>, kernel: &'static str, us: f64, bound: &'static str) {
    match parts.iter_mut().find(|part| part.kernel == kernel) {
        Some(part) => {
            part.launches += 1;
            part.us += us;
        }
        None => parts.push(Part { kernel, launches: 1, us, bound }),
    }
}

/// The ops that lie in no other op, and how many launches each has.
pub(super) fn calls(events: &[Event]) -> Vec<(Call, usize)> {
    let (mut calls, mut inside): (Vec<(Call, usize)>, Option<u32>) = (vec![], None);
    for event in events {
        inside = inside.filter(|depth| event.depth > *depth);
        match (event.kind, inside) {
            (Kind::Op, None) => {
                calls.push((Call { stem: event.name, shape: event.cost.shape(), cost: event.cost }, 0));
                inside = Some(event.depth);
            }
            (Kind::Kernel, _) => calls.iter_mut().last().into_iter().for_each(|(_, launches)| *launches += 1),
            _ => {}
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::{Gpu, emu::Emu};
    use std::sync::Arc;

    /// Two layers tell of four what four tell of themselves; and some blocks of each launch, of alike ones, what all do.
    #[test]
    fn two_layers_and_some_blocks_tell_of_a_whole_model() {
        let shape = |layers| ModelConfig { num_hidden_layers: layers, ..crate::profile::work::shape("tiny").unwrap() };
        let dev = |emu: Emu| Device::Gpu(Arc::new(Gpu::Emu(emu.with_hopper(false))));
        let all = dev(Emu::new(0).unwrap());
        let sizes = Sizes { batch: 2, prompt: 200, steps: 1 };
        if forecast(&all, &shape(1), Step::Decode, sizes).is_err_and(|e| e.to_string().contains("HAGGLE_EMU_COUNT")) {
            return eprintln!("SKIPPED: this build counts nothing");
        }
        for step in [Step::Decode, Step::Prefill] {
            let told = forecast(&all, &shape(4), step, sizes).unwrap();
            let whole = of_layers(&all, &shape(4), 4, step, sizes).unwrap();
            assert_eq!(told.launches(), whole.launches());
            for (told, whole) in [
                (told.kernels_us(), whole.kernels_us()),
                (told.cost.least_us, whole.cost.least_us),
                (told.cost.flops, whole.cost.flops),
            ] {
                assert!((told / whole - 1.0).abs() < 0.02, "{told} {whole}");
            }
            let some = forecast(&dev(Emu::new(0).unwrap().spread_blocks(8)), &shape(4), step, sizes).unwrap();
            assert_eq!(some.launches(), told.launches());
            let (some, told) = (some.step_us(), told.step_us());
            assert!((some / told - 1.0).abs() < 0.05, "{some} {told}");
        }
    }
}
