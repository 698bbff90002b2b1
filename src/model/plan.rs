//! The plan: every buffer by name and size, noted as it is allocated, or, in a dry run, instead of being allocated.
//!
//! What is printed is what is allocated: there is no second formula.

use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use std::fmt;

/// One buffer of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRow {
    /// What it is for: `weights`, `activations`, `kv`, ...
    pub group: &'static str,
    /// Which buffer.
    pub name: String,
    /// Its size.
    pub bytes: usize,
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
        self.rows.push(PlanRow { group, name, bytes });
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

    /// Bytes of all buffers.
    pub fn total_bytes(&self) -> usize {
        self.rows.iter().map(|r| r.bytes).sum()
    }

    /// Groups in the order they first appear, with their bytes.
    pub fn groups(&self) -> Vec<(&'static str, usize)> {
        let mut groups: Vec<(&'static str, usize)> = vec![];
        for row in &self.rows {
            match groups.iter_mut().find(|g| g.0 == row.group) {
                Some(g) => g.1 += row.bytes,
                None => groups.push((row.group, row.bytes)),
            }
        }
        groups
    }
}

/// The table: each buffer, each group's sum, the total.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(12);
        for (group, bytes) in self.groups() {
            writeln!(f, "{group:<width$}  {bytes:>14} bytes  {:>9.1} MiB", mib(bytes), width = width + 2)?;
            for row in self.rows.iter().filter(|r| r.group == group) {
                writeln!(f, "  {:<width$}  {:>14} bytes", row.name, row.bytes)?;
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
}
