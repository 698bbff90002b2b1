//! The plan: every buffer by name and size, noted as it is allocated, or, in a dry run, instead of being allocated.
//!
//! What is printed is what is allocated: there is no second formula.

use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use std::fmt;

/// When a buffer is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// All the time.
    Always,
    /// While episodes are played.
    Plays,
    /// While it is learned from them.
    Learns,
}

/// One buffer of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRow {
    /// What it is for: `weights`, `activations`, `kv`, ...
    pub group: &'static str,
    /// Which buffer.
    pub name: String,
    /// Its size.
    pub bytes: usize,
    /// When it is held.
    pub phase: Phase,
}

/// Allocates buffers and keeps the list of them.
pub struct Plan {
    dev: Device,
    dry: bool,
    /// The buffers, in the order they were asked for.
    pub rows: Vec<PlanRow>,
}

impl Plan {
    /// A plan whose buffers are allocated on `dev`.
    pub fn on(dev: &Device) -> Plan {
        Plan { dev: dev.clone(), dry: false, rows: vec![] }
    }

    /// A plan that only counts: its buffers are empty and must not be used.
    pub fn dry(dev: &Device) -> Plan {
        Plan { dev: dev.clone(), dry: true, rows: vec![] }
    }

    /// The device buffers are for.
    pub fn device(&self) -> &Device {
        &self.dev
    }

    /// True when nothing is allocated.
    pub fn is_dry(&self) -> bool {
        self.dry
    }

    /// A buffer of `len` zeros, noted under `group` and `name`.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] with these names when the device has no more.
    pub fn buffer(&mut self, group: &'static str, name: impl Into<String>, dtype: DType, len: usize) -> Result<Buffer> {
        let (name, bytes) = (name.into(), len.saturating_mul(dtype.size()));
        let buffer = self.dev.zeros(dtype, if self.dry { 0 } else { len });
        let buffer = buffer.map_err(|e| e.named(|| format!("{group}: {name}")))?;
        self.rows.push(PlanRow { group, name, bytes, phase: Phase::Always });
        Ok(buffer)
    }

    /// A buffer of `len` zeros, f32.
    ///
    /// # Errors
    /// As [`Plan::buffer`].
    pub fn f32(&mut self, group: &'static str, name: impl Into<String>, len: usize) -> Result<Buffer> {
        self.buffer(group, name, DType::F32, len)
    }

    /// A buffer of `len` zeros, i32.
    ///
    /// # Errors
    /// As [`Plan::buffer`].
    pub fn i32(&mut self, group: &'static str, name: impl Into<String>, len: usize) -> Result<Buffer> {
        self.buffer(group, name, DType::I32, len)
    }

    /// What `make` asks for is held in a phase alone: it is noted, and made when the phase begins. Returns what it makes of
    /// empty buffers.
    ///
    /// # Errors
    /// What `make` says.
    pub fn later<T>(&mut self, phase: Phase, make: impl FnOnce(&mut Plan) -> Result<T>) -> Result<T> {
        let mut dry = Plan::dry(&self.dev);
        let made = make(&mut dry)?;
        self.rows.extend(dry.rows.into_iter().map(|row| PlanRow { phase, ..row }));
        Ok(made)
    }

    /// Bytes of a phase, without what is always held.
    pub fn phase_bytes(&self, phase: Phase) -> usize {
        self.rows.iter().filter(|row| row.phase == phase).map(|row| row.bytes).sum()
    }

    /// The buffers that are held when most is: those of all the time, and of the phase that takes more.
    pub fn most(&self) -> impl Iterator<Item = &PlanRow> {
        let plays = self.phase_bytes(Phase::Plays) > self.phase_bytes(Phase::Learns);
        let other = if plays { Phase::Learns } else { Phase::Plays };
        self.rows.iter().filter(move |row| row.phase != other)
    }

    /// Bytes of all buffers that are held at a time.
    pub fn total_bytes(&self) -> usize {
        self.most().map(|r| r.bytes).sum()
    }

    /// Groups in the order they first appear, with their bytes of [`Plan::most`].
    pub fn groups(&self) -> Vec<(&'static str, usize)> {
        let mut groups: Vec<(&'static str, usize)> = vec![];
        for row in self.most() {
            match groups.iter_mut().find(|g| g.0 == row.group) {
                Some(g) => g.1 += row.bytes,
                None => groups.push((row.group, row.bytes)),
            }
        }
        groups
    }
}

/// The table: each buffer, each group's sum, the total; sums are of what is held at a time.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(12);
        for (group, bytes) in self.groups() {
            writeln!(f, "{group:<width$}  {bytes:>14} bytes  {:>9.1} MiB", mib(bytes), width = width + 2)?;
            for row in self.rows.iter().filter(|r| r.group == group) {
                let phase = match row.phase {
                    Phase::Always => "",
                    Phase::Plays => "  while it plays",
                    Phase::Learns => "  while it learns",
                };
                writeln!(f, "  {:<width$}  {:>14} bytes{phase}", row.name, row.bytes)?;
            }
        }
        let total = self.total_bytes();
        writeln!(f, "{:<width$}  {total:>14} bytes  {:>9.1} MiB", "total", mib(total), width = width + 2)
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activations, KvPages, ModelConfig, Use};

    #[test]
    fn a_dry_plan_counts_what_a_real_one_allocates() {
        let dev = Device::open("cpu", 1).unwrap();
        let c = ModelConfig::tiny(64);
        let build = |mut plan: Plan| {
            Activations::planned(&mut plan, &c, 40, 10, Use::Train).unwrap();
            Activations::planned(&mut plan, &c, 8, 3, Use::Decode).unwrap();
            let kv = KvPages::planned(&mut plan, &c, 5).unwrap();
            let bytes: usize = kv.k.iter().chain(&kv.v).map(Buffer::size_bytes).sum();
            (plan, bytes)
        };
        let ((dry, none), (real, kv_bytes)) = (build(Plan::dry(&dev)), build(Plan::on(&dev)));
        assert_eq!(dry.rows, real.rows);
        assert_eq!((none, kv_bytes), (0, 2 * 4 * 5 * 32 * 64 * 4));
        assert!(dry.groups().contains(&("kv pages", kv_bytes)));
        assert_eq!(dry.total_bytes(), dry.groups().iter().map(|g| g.1).sum::<usize>());
        let table = dry.to_string();
        assert!(table.contains("layers.3.gate") && table.contains(&dry.total_bytes().to_string()), "{table}");
    }

    #[test]
    fn of_two_phases_the_larger_counts_and_nothing_is_made_before_it() {
        let mut plan = Plan::on(&Device::open("cpu", 1).unwrap());
        plan.f32("a", "always", 100).unwrap();
        let later = |plan: &mut Plan, phase, len| plan.later(phase, |plan| plan.f32("b", "later", len)).unwrap();
        assert!(later(&mut plan, Phase::Plays, 70).is_empty());
        assert_eq!(plan.total_bytes(), 4 * 170);
        later(&mut plan, Phase::Learns, 30);
        later(&mut plan, Phase::Learns, 50);
        assert_eq!((plan.total_bytes(), plan.groups()), (4 * 180, vec![("a", 400), ("b", 320)]));
        assert_eq!([Phase::Plays, Phase::Learns].map(|phase| plan.phase_bytes(phase)), [280, 320]);
        let table = plan.to_string();
        assert!(table.contains("280 bytes  while it plays") && table.contains("720 bytes"), "{table}");
    }
}
