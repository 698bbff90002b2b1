//! AdamW over the flat weights: warm-up, decay schedule, clipping by global norm, and what happens on a NaN.
//!
//! The one idea: a step is applied whole or not at all. When the loss or the gradient's norm is not finite, weights,
//! moments and step count stay as they are, the skip is counted and named, and a configured number of skips in a row
//! ends the run. Of several ranks each keeps the moments of its shard and updates that: see [`crate::dist::cuts`].

use crate::device::{Buffer, DType, Device, View, ViewMut};
use crate::dist::packet::numbers;
use crate::dist::{Cuts, Kept, Ranks, bytes_of, write_bytes};
use crate::error::{Error, Result};
use crate::model::{Plan, Weights};
use crate::ops;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How the learning rate falls after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Stays at its peak.
    #[default]
    Constant,
    /// Falls in a straight line to the final share.
    Linear,
    /// Falls along half a cosine to the final share (Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5).
    Cosine,
}

/// How moments are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moments {
    /// As they are computed.
    #[default]
    F32,
    /// Rounded by chance to half the memory: see [`ops::optim::adamw_step`].
    Bf16,
}

impl Moments {
    /// The number type.
    pub fn dtype(self) -> DType {
        match self {
            Moments::F32 => DType::F32,
            Moments::Bf16 => DType::Bf16,
        }
    }
}

/// The optimizer's settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hyper {
    /// Peak learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f32,
    /// Updates over which the learning rate rises linearly to its peak.
    pub warmup_steps: u64,
    /// Updates behind which warm-up and schedule begin anew; 0 for one schedule.
    pub restart_at: u64,
    /// How it falls afterwards.
    pub schedule: Schedule,
    /// Learning rate at the end, as a share of the peak.
    pub final_lr_ratio: f32,
    /// Largest global gradient norm; a longer gradient is scaled down to it. 0 turns clipping off.
    pub max_grad_norm: f32,
    /// Skipped updates in a row after which training stops.
    pub max_skipped_steps: u64,
    /// How moments are stored.
    pub moments: Moments,
}

impl Default for Hyper {
    fn default() -> Hyper {
        Hyper {
            lr: 3e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            warmup_steps: 5,
            restart_at: 0,
            schedule: Schedule::Constant,
            final_lr_ratio: 0.1,
            max_grad_norm: 1.0,
            max_skipped_steps: 5,
            moments: Moments::F32,
        }
    }
}

impl Hyper {
    /// Learning rate of update `step` (from 1) of `total_steps`.
    pub fn lr_at(&self, step: u64, total_steps: u64) -> f32 {
        let before = if step > self.restart_at { self.restart_at } else { 0 };
        let (step, total_steps) = (step - before, total_steps.saturating_sub(before));
        if step <= self.warmup_steps {
            return self.lr * step as f32 / self.warmup_steps as f32;
        }
        let span = total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let floor = self.final_lr_ratio as f64;
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - (1.0 - floor) * done,
            Schedule::Cosine => floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        (self.lr as f64 * share) as f32
    }
}

/// A part of the flat weights, and whether it decays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Elements of the flat buffer.
    pub range: Range<usize>,
    /// True for matrices; norms' gains and biases do not decay.
    pub decays: bool,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// The weights moved.
    Applied {
        /// Global norm of the gradient before clipping.
        grad_norm: f32,
        /// Learning rate of this update.
        lr: f32,
    },
    /// Nothing moved.
    Skipped {
        /// What was not finite: `loss` or `gradient`.
        what: &'static str,
    },
}

/// AdamW's state for one flat weight buffer of N elements.
pub struct Optimizer {
    /// Its settings.
    pub hyper: Hyper,
    /// Updates the schedule is stretched over.
    pub total_steps: u64,
    /// Updates applied.
    pub step: u64,
    /// Updates skipped since the start.
    pub skipped: u64,
    /// Updates skipped in a row, up to now.
    pub skipped_in_a_row: u64,
    /// First moments of this rank's shard, alone `[N]`, of the type that the settings name.
    pub m: Buffer,
    /// Second moments, likewise.
    pub v: Buffer,
    /// Who works together.
    pub ranks: Ranks,
    /// Which elements are whose.
    cuts: Cuts,
    /// Those of this rank.
    kept: Kept,
    parts: Vec<Part>,
    norm: Buffer,
    parts_of_norm: Buffer,
}

/// Its group in a plan.
const GROUP: &str = "optimizer";

impl Optimizer {
    /// A fresh optimizer for weights cut into `parts`, which lie end to end from 0 to N.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new(
        dev: &Device,
        parts: impl IntoIterator<Item = Part>,
        hyper: Hyper,
        total_steps: u64,
    ) -> Result<Optimizer> {
        Optimizer::planned(&mut Plan::on(dev), parts, hyper, total_steps)
    }

    /// The same, through a plan.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn planned(
        plan: &mut Plan,
        parts: impl IntoIterator<Item = Part>,
        hyper: Hyper,
        total_steps: u64,
    ) -> Result<Optimizer> {
        Optimizer::sharded(plan, parts, hyper, total_steps, Ranks::alone())
    }

    /// The same, of which this rank has its run.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn sharded(
        plan: &mut Plan,
        parts: impl IntoIterator<Item = Part>,
        hyper: Hyper,
        total_steps: u64,
        ranks: Ranks,
    ) -> Result<Optimizer> {
        let parts = merge(parts);
        let cuts = Cuts::whole(parts.last().map_or(0, |p| p.range.end), ranks.world());
        Optimizer::cut(plan, parts, hyper, total_steps, (ranks, cuts))
    }

    /// The same, of which this rank has what the cuts say.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn cut(
        plan: &mut Plan,
        parts: impl IntoIterator<Item = Part>,
        hyper: Hyper,
        total_steps: u64,
        (ranks, cuts): (Ranks, Cuts),
    ) -> Result<Optimizer> {
        let (parts, kept) = (merge(parts), cuts.kept(ranks.rank()));
        let (n, parts_of_norm) = (kept.len(), ops::optim::GRAD_NORM_PARTS * cuts.n_stretches());
        Ok(Optimizer {
            ranks,
            cuts,
            kept,
            hyper,
            total_steps,
            step: 0,
            skipped: 0,
            skipped_in_a_row: 0,
            m: plan.buffer(GROUP, "first moments", hyper.moments.dtype(), n)?,
            v: plan.buffer(GROUP, "second moments", hyper.moments.dtype(), n)?,
            parts,
            norm: plan.f32(GROUP, "norm", 1)?,
            parts_of_norm: plan.buffer(GROUP, "parts of the norm", DType::U64, parts_of_norm)?,
        })
    }

    /// The elements whose moments this rank keeps.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Which elements are whose.
    pub fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// Global norm of a gradient, of which `own` is what this rank keeps; all ranks ask for it together.
    ///
    /// # Errors
    /// What the device and the ranks say.
    pub fn grad_norm(&mut self, dev: &Device, own: View) -> Result<f32> {
        if self.ranks.world() > 1 || self.cuts.n_stretches() > 1 {
            return self.norm_of_cuts(dev, own);
        }
        ops::optim::grad_norm(dev, own, self.norm.view_mut(), self.parts_of_norm.view_mut())?;
        let mut squares = [0f32];
        dev.read(self.norm.view(), &mut squares)?;
        Ok(squares[0].sqrt())
    }

    /// The same, from every rank's parts in their order, stretch by stretch.
    fn norm_of_cuts(&mut self, dev: &Device, own: View) -> Result<f32> {
        const PARTS: usize = ops::optim::GRAD_NORM_PARTS;
        let rank = self.ranks.rank();
        for (stretch, (cut, _, part)) in self.cuts.norm_parts(rank).enumerate() {
            // A cut is one run of its stretch, so it is one run of what is kept.
            for (_, held) in self.kept.of_range(cut) {
                let sums = self.parts_of_norm.at_mut(stretch * PARTS..(stretch + 1) * PARTS);
                ops::optim::grad_norm_parts(dev, own.at(held), sums, part)?;
            }
        }
        let found = numbers::<f64>(&bytes_of(dev, self.parts_of_norm.view())?);
        let of = |(stretch, (_, n, _)): (usize, (_, usize, _))| found[stretch * PARTS..stretch * PARTS + n].iter();
        let mine: Vec<f64> = self.cuts.norm_parts(rank).enumerate().flat_map(of).copied().collect();
        let told = self.ranks.gather("parts of the gradient's norm", bytemuck::cast_slice(&mine))?;
        let told: Vec<Vec<f64>> = told.iter().map(|bytes| numbers(bytes)).collect();
        Ok((self.cuts.fold_norm(&told) as f32).sqrt())
    }

    /// Takes the moments of this rank's shard.
    ///
    /// # Panics
    /// When there are not as many bytes as they have.
    pub fn restore(&mut self, dev: &Device, m: &[u8], v: &[u8]) {
        write_bytes(dev, self.m.view_mut(), m);
        write_bytes(dev, self.v.view_mut(), v);
    }

    /// One update of weights `[N]` from grads `[N]`, whose loss was `loss`; skipped when either is not finite. Of both this
    /// rank's shard is read and written, which is one run.
    ///
    /// # Errors
    /// [`Error::Training`] when `max_skipped_steps` updates in a row were skipped.
    pub fn update(&mut self, dev: &Device, weights: ViewMut, grads: View, loss: f32) -> Result<Update> {
        let own = self.kept.parts().first().cloned().unwrap_or(0..0);
        self.update_kept(dev, (weights, None, None), grads.at(own), loss)
    }

    /// The same of a model's weights, of which this rank may keep a part alone, from what this rank keeps of the gradient, `own`;
    /// then what forwards read of them is renewed at every rank.
    ///
    /// # Errors
    /// As [`Optimizer::update`].
    pub fn advance(&mut self, dev: &Device, weights: &mut Weights, own: View, loss: f32) -> Result<Update> {
        let (version, place) = (weights.version, weights.kept());
        let (data, rounded) = weights.both_mut(dev);
        let update = self.update_kept(dev, (data, rounded, Some(&place)), own, loss)?;
        match update {
            Update::Skipped { .. } => weights.version = version, // nothing was written
            Update::Applied { .. } if self.ranks.world() == 1 => weights.renew(dev, &mut |_| Ok(()))?,
            Update::Applied { .. } => {
                let share = &mut |mut data: ViewMut| {
                    self.cuts.stretches().try_for_each(|cuts| self.ranks.share("weights", dev, data.reborrow(), cuts))
                };
                weights.renew(dev, share)?;
            }
        }
        Ok(update)
    }

    /// The same of what this rank keeps, of weights that lie as `place` says, whole where nothing does, and of all that forwards
    /// read of them where that is rounded.
    fn update_kept(
        &mut self,
        dev: &Device,
        (mut weights, mut rounded, place): (ViewMut, Option<ViewMut>, Option<&Kept>),
        own: View,
        loss: f32,
    ) -> Result<Update> {
        let _phase = dev.phase("optimizer");
        let grad_norm = self.grad_norm(dev, own)?;
        if !loss.is_finite() || !grad_norm.is_finite() {
            return self.skip(if loss.is_finite() { "gradient" } else { "loss" });
        }
        let longest = self.hyper.max_grad_norm;
        let grad_scale = if longest > 0.0 && grad_norm > longest { longest / grad_norm } else { 1.0 };
        self.step += 1;
        self.skipped_in_a_row = 0;
        let lr = self.hyper.lr_at(self.step, self.total_steps);
        let Hyper { beta1, beta2, eps, weight_decay, .. } = self.hyper;
        for Part { range, decays } in &self.parts {
            for (range, kept) in self.kept.of_range(range) {
                let weight_decay = if *decays { weight_decay } else { 0.0 };
                let (step, element) = (self.step, range.start as u64);
                let how = ops::optim::AdamW { lr, beta1, beta2, eps, weight_decay, grad_scale, step, element };
                let (m, v) = (self.m.at_mut(kept.clone()), self.v.at_mut(kept.clone()));
                let w = weights.reborrow().at(place.map_or(range.clone(), |place| place.run(&range)));
                let w_bf16 = rounded.as_mut().map(|all| all.reborrow().at(range.clone()));
                ops::optim::adamw_step(dev, own.at(kept), w, m, v, w_bf16, how)?;
            }
        }
        Ok(Update::Applied { grad_norm, lr })
    }

    fn skip(&mut self, what: &'static str) -> Result<Update> {
        self.skipped += 1;
        self.skipped_in_a_row += 1;
        if self.skipped_in_a_row >= self.hyper.max_skipped_steps.max(1) {
            return Err(Error::Training {
                what: format!(
                    "the {what} was not finite in {} updates in a row, the last after update {}; \
                     lower optim.lr, or resume from an earlier checkpoint",
                    self.skipped_in_a_row, self.step
                ),
            });
        }
        Ok(Update::Skipped { what })
    }
}

/// Joins neighbours of one kind, so that an update is a few long runs.
fn merge(parts: impl IntoIterator<Item = Part>) -> Vec<Part> {
    let mut merged: Vec<Part> = Vec::new();
    for part in parts {
        match merged.last_mut() {
            Some(last) if last.decays == part.decays && last.range.end == part.range.start => {
                last.range.end = part.range.end;
            }
            _ => merged.push(part),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::record::Kind;

    fn dev() -> Device {
        Device::open("cpu", 1).unwrap()
    }

    fn two_parts() -> [Part; 2] {
        [Part { range: 0..3, decays: true }, Part { range: 3..5, decays: false }]
    }

    #[test]
    fn the_first_update_moves_by_the_learning_rate_and_only_matrices_decay() {
        let dev = dev();
        let hyper = Hyper { lr: 0.1, warmup_steps: 0, weight_decay: 0.5, max_grad_norm: 0.0, ..Hyper::default() };
        let mut opt = Optimizer::new(&dev, two_parts(), hyper, 10).unwrap();
        let mut w = dev.upload(&[1f32; 5]).unwrap();
        let g = dev.upload(&[2f32, -2.0, 0.5, 2.0, -2.0]).unwrap();
        let update = opt.update(&dev, w.view_mut(), g.view(), 0.0).unwrap();
        let norm = (4f32 * 4.0 + 0.25).sqrt();
        assert_eq!(update, Update::Applied { grad_norm: norm, lr: 0.1 });
        // m / sqrt(v) is the sign at the first update; decay takes lr * wd * w = 0.05.
        for (got, want) in dev.to_vec::<f32>(w.view()).iter().zip([0.85, 1.05, 0.85, 0.9, 1.1]) {
            assert!((got - want).abs() < 1e-6, "got {got}, want {want}");
        }
    }

    /// The update itself rounds what forwards read of the weights.
    #[test]
    fn an_update_in_bf16_launches_no_copy_afterwards() {
        let dev = Device::open("emu", 1).unwrap();
        let weights = Weights::init(&dev, crate::model::ModelConfig::tiny(64), 1).unwrap();
        let mut weights = weights.compute_in(&dev, DType::Bf16).unwrap();
        let hyper = Hyper { lr: 0.1, warmup_steps: 0, ..Hyper::default() };
        let mut opt = Optimizer::new(&dev, crate::train::learner::parts(&weights), hyper, 10).unwrap();
        let grads = dev.upload(&vec![0.5f32; weights.n_trained()]).unwrap();
        let before = weights.read_crc(&dev).unwrap();
        dev.start_recording(1 << 10).unwrap();
        opt.advance(&dev, &mut weights, grads.view(), 0.0).unwrap();
        let events = dev.stop_recording().unwrap().events;
        let ran: Vec<_> = events.iter().filter(|e| e.kind == Kind::Kernel).map(|e| e.name).collect();
        let mut want = vec!["grad_norm_parts", "grad_norm"];
        want.resize(2 + opt.parts.len(), "adamw_step_f32");
        assert_eq!(ran, want);
        let after = weights.read_crc(&dev).unwrap();
        assert_ne!(before, after);
        weights.pack(&dev).unwrap();
        assert_eq!(weights.read_crc(&dev).unwrap(), after, "the weights in f32, rounded");
    }

    #[test]
    fn moments_in_bf16_keep_their_mean_where_the_nearest_would_never_fall() {
        let dev = dev();
        let n = 4096;
        let hyper = Hyper { moments: Moments::Bf16, beta2: 0.999, max_grad_norm: 0.0, ..Hyper::default() };
        let mut opt = Optimizer::new(&dev, [Part { range: 0..n, decays: true }], hyper, 1000).unwrap();
        let mut w = dev.upload(&vec![0f32; n]).unwrap();
        let (one, zero) = (dev.upload(&vec![1f32; n]).unwrap(), dev.upload(&vec![0f32; n]).unwrap());
        opt.update(&dev, w.view_mut(), one.view(), 0.0).unwrap();
        for _ in 0..200 {
            opt.update(&dev, w.view_mut(), zero.view(), 0.0).unwrap();
        }
        let v: Vec<half::bf16> = dev.to_vec(opt.v.view());
        let mean = v.iter().map(|v| v.to_f64()).sum::<f64>() / n as f64;
        let want = 0.001 * 0.999f64.powi(200);
        // A step of bf16 is up to 1/128 of a number; the mean of so many, rounded 200 times, is far nearer.
        assert!((mean / want - 1.0).abs() < 2e-3, "mean {mean:e}, want {want:e}");
        let mut nearest = half::bf16::from_f32(0.001);
        (0..200).for_each(|_| nearest = half::bf16::from_f32(nearest.to_f32() * 0.999));
        assert_eq!(nearest, half::bf16::from_f32(0.001), "the nearest stays");
    }

    #[test]
    fn a_long_gradient_is_scaled_to_the_limit() {
        let dev = dev();
        let hyper = Hyper { max_grad_norm: 1.0, warmup_steps: 0, beta1: 0.0, ..Hyper::default() };
        let mut opt = Optimizer::new(&dev, two_parts(), hyper, 10).unwrap();
        let mut w = dev.upload(&[0f32; 5]).unwrap();
        let g = dev.upload(&[3f32, 4.0, 0.0, 0.0, 0.0]).unwrap();
        opt.update(&dev, w.view_mut(), g.view(), 0.0).unwrap();
        assert_eq!(dev.to_vec::<f32>(opt.m.view()), [0.6, 0.8, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_step_that_is_not_finite_changes_nothing_and_too_many_stop_the_run() {
        let dev = dev();
        let mut opt =
            Optimizer::new(&dev, two_parts(), Hyper { max_skipped_steps: 3, ..Hyper::default() }, 10).unwrap();
        let mut w = dev.upload(&[1f32; 5]).unwrap();
        let good = dev.upload(&[1f32; 5]).unwrap();
        let bad = dev.upload(&[1f32, f32::NAN, 1.0, 1.0, 1.0]).unwrap();
        assert_eq!(opt.update(&dev, w.view_mut(), bad.view(), 0.0).unwrap(), Update::Skipped { what: "gradient" });
        let nan_loss = opt.update(&dev, w.view_mut(), good.view(), f32::NAN).unwrap();
        assert_eq!(nan_loss, Update::Skipped { what: "loss" });
        assert_eq!(dev.to_vec::<f32>(w.view()), [1.0; 5]);
        assert_eq!(dev.to_vec::<f32>(opt.m.view()), [0.0; 5]);
        assert_eq!((opt.step, opt.skipped), (0, 2));
        // a good step forgives
        assert!(matches!(opt.update(&dev, w.view_mut(), good.view(), 0.0).unwrap(), Update::Applied { .. }));
        let mut last = Ok(Update::Skipped { what: "" });
        for _ in 0..3 {
            last = opt.update(&dev, w.view_mut(), bad.view(), 0.0);
        }
        let message = last.unwrap_err().to_string();
        assert!(message.contains("gradient was not finite in 3 updates in a row"), "{message}");
    }

    #[test]
    fn the_schedule_warms_up_and_falls_to_its_floor() {
        let hyper = Hyper { lr: 1.0, warmup_steps: 4, schedule: Schedule::Cosine, ..Hyper::default() };
        assert_eq!(hyper.lr_at(1, 14), 0.25);
        assert_eq!(hyper.lr_at(4, 14), 1.0);
        assert!((hyper.lr_at(9, 14) - 0.55).abs() < 1e-6);
        assert!((hyper.lr_at(14, 14) - 0.1).abs() < 1e-6);
        assert!((hyper.lr_at(99, 14) - 0.1).abs() < 1e-6);
        let linear = Hyper { schedule: Schedule::Linear, ..hyper };
        assert!((linear.lr_at(9, 14) - 0.55).abs() < 1e-6);
        assert_eq!(Hyper { schedule: Schedule::Constant, ..hyper }.lr_at(14, 14), 1.0);
        let again = Hyper { restart_at: 14, ..hyper };
        for step in 1..=14 {
            assert_eq!(
                (again.lr_at(14 + step, 28), again.lr_at(step, 14)),
                (hyper.lr_at(step, 14), hyper.lr_at(step, 14))
            );
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_merged() {
        let part = |range, decays| Part { range, decays };
        let parts = merge([part(0..3, true), part(3..4, true), part(4..6, false), part(6..9, true)]);
        assert_eq!(parts, [part(0..4, true), part(4..6, false), part(6..9, true)]);
    }
}
