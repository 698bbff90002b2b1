//! What single ops do to memory, shared memory and tensor cores, counted on the emulator, beside their formulas: for
//! `haggle profile kernel STEM --device emu --counters`. Times are predicted ([`super::predict`]), never measured.

use super::predict::{H100, Prediction, predict};
use crate::device::gpu::Gpu;
use crate::device::gpu::counts::{Counted, SECTOR_BYTES};
use crate::device::gpu::emu::Emu;
use crate::device::record::Cost;
use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::ops::case::{Call, Purpose, Shapes, Stage};
use crate::ops::cases;
use serde_json::{Value, json};

/// One launch of one call of an op.
#[derive(Debug, Clone)]
pub struct Row {
    /// The op's stem.
    pub op: &'static str,
    /// Its shape.
    pub shape: String,
    /// What the whole op costs by its formula.
    pub cost: Cost,
    /// What the launch did.
    pub launch: Counted,
    /// What all launches of the call read and wrote, in sectors.
    pub op_sectors: u64,
    /// How long it would take on an H100.
    pub predicted: Prediction,
}

impl Row {
    /// The head of the table that [`Row::line`] makes.
    pub fn head() -> String {
        format!(
            "{:<32} {:<28} {:>8} {:>6} {:>7} {:>7} {:>5} {:>5} {:>9} {:>5} {:>7} {:>6} {:>6} {:>9} bound by",
            "kernel",
            "shape",
            "blocks",
            "waves",
            "x bytes",
            "touched",
            "rd/rq",
            "wr/rq",
            "conflicts",
            "worst",
            "x FLOP",
            "bars",
            "KB/SM",
            "us, H100"
        )
    }

    /// Bytes the op's launches ask for, and those this one touches at least once, over the formula's.
    pub fn bytes_of_formula(&self) -> [f64; 2] {
        let touched = self.launch.touched[0] + self.launch.touched[1];
        [self.op_sectors, touched].map(|sectors| (sectors * SECTOR_BYTES) as f64 / self.cost.bytes.max(1.0))
    }

    /// FLOPs of tensor instructions over the formula's.
    pub fn flops_of_formula(&self) -> f64 {
        let counts = &self.launch.counts;
        (counts.mma_flops + counts.wgmma_flops) as f64 / self.cost.flops.max(1.0)
    }

    /// A row of the table.
    pub fn line(&self) -> String {
        let (launch, c) = (&self.launch, &self.launch.counts);
        let each = |sectors: u64, requests: u64| sectors as f64 / requests.max(1) as f64;
        let [asked, touched] = self.bytes_of_formula();
        let conflicts = 100.0 * c.conflicts() as f64 / c.shared_ideal.max(1) as f64;
        format!(
            "{:<32} {:<28} {:>8} {:>6.2} {asked:>7.2} {touched:>7.2} {:>5.1} {:>5.1} {conflicts:>8.0}% {:>5} {:>7.2} {:>6.1} {:>6.1} {:>9.2} {}",
            launch.kernel,
            self.shape,
            launch.blocks,
            self.predicted.waves,
            each(c.read_sectors, c.read_requests),
            each(c.write_sectors, c.write_requests),
            c.worst_conflict,
            self.flops_of_formula(),
            c.barriers as f64 / launch.blocks as f64,
            self.predicted.flight_bytes / 1024.0,
            self.predicted.us,
            self.predicted.bound,
        )
    }

    /// The same for machines.
    pub fn json(&self) -> Value {
        let (launch, c) = (&self.launch, &self.launch.counts);
        json!({
            "op": self.op, "shape": self.shape, "kernel": launch.kernel, "blocks": launch.blocks, "threads": launch.threads,
            "read_requests": c.read_requests, "read_sectors": c.read_sectors, "write_requests": c.write_requests,
            "write_sectors": c.write_sectors, "touched_read": launch.touched[0], "touched_written": launch.touched[1],
            "formula_bytes": self.cost.bytes, "formula_flops": self.cost.flops, "shared_requests": c.shared_requests,
            "shared_wavefronts": c.shared_wavefronts, "conflicts": c.conflicts(), "worst_conflict": c.worst_conflict,
            "shared_bytes": c.shared_bytes, "mma_flops": c.mma_flops, "wgmma_flops": c.wgmma_flops, "barriers": c.barriers,
            "copied_bytes": c.copied_bytes, "early_bytes": c.early_bytes, "flight_bytes": c.flight_bytes, "flight_bytes_sm": self.predicted.flight_bytes,
            "waves": self.predicted.waves, "predicted_us": self.predicted.us, "bound": self.predicted.bound,
        })
    }
}

/// The emulator, which counts.
///
/// # Errors
/// [`Error::Config`] when the device is another.
pub(super) fn counting(dev: &Device) -> Result<&Emu> {
    if let Device::Gpu(gpu) = dev
        && let Gpu::Emu(emu) = gpu.as_ref()
    {
        return Ok(emu);
    }
    let problem = format!("--counters goes with --device emu: nobody counts on {}", dev.name());
    Err(Error::Config { problems: vec![problem] })
}

/// Counts every op whose stem has one of the wanted parts (none: all), and shows its launches; floats are f32 or bf16.
///
/// # Errors
/// [`Error::Config`] when the device is not the emulator; [`Error::Device`] when this build has no counted kernels; what
/// an op refuses.
pub fn count(dev: &Device, dtype: DType, shapes: Shapes, only: &[String], show: &mut dyn FnMut(&Row)) -> Result<()> {
    let emu = counting(dev)?;
    let wants = |stem: &str| only.is_empty() || only.iter().any(|part| stem.contains(part.as_str()));
    let mut clock = |call: &Call, op: &mut dyn FnMut(&Device) -> Result<()>| -> Result<()> {
        emu.start_counting();
        let done = op(dev);
        let launches = emu.stop_counting();
        done?;
        rows(call, &launches).iter().for_each(&mut *show);
        Ok(())
    };
    let purpose = Purpose::Time { shapes, wants: &wants, clock: &mut clock };
    cases(&mut Stage::new(dev, dtype, purpose))
}

/// The launches of a call. What the formula computes is laid to the one that moves most.
pub(super) fn rows(call: &Call, launches: &[Counted]) -> Vec<Row> {
    let sectors = |l: &Counted| l.counts.read_sectors + l.counts.write_sectors;
    let (op_sectors, most) = (launches.iter().map(sectors).sum(), launches.iter().map(sectors).max().unwrap_or(0));
    let row = |launch: &Counted| {
        let flops = if sectors(launch) == most { call.cost.flops } else { 0.0 };
        let Call { stem: op, shape, cost } = call.clone();
        Row { op, shape, cost, launch: *launch, op_sectors, predicted: predict(&H100, launch, flops) }
    };
    // Of no block nothing is known.
    launches.iter().filter(|launch| launch.blocks > 0).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::counts::Counts;

    #[test]
    fn a_row_says_how_often_the_formulas_bytes_and_flops_are_done() {
        let counts = Counts {
            read_requests: 10,
            read_sectors: 40,
            write_requests: 2,
            write_sectors: 24,
            shared_wavefronts: 12,
            shared_ideal: 8,
            mma_flops: 3000,
            ..Counts::default()
        };
        let launch = Counted { kernel: "k", blocks: 4, threads: 32, counts, touched: [16, 8] };
        let cost = Cost { flops: 2000.0, bytes: 1024.0, letters: "N", dims: [32, 0, 0] };
        let call = Call { stem: "k", shape: cost.shape(), cost };
        let rows = rows(&call, &[launch, Counted { counts: Counts { mma_flops: 0, ..counts }, ..launch }]);
        assert_eq!((rows.len(), rows[0].bytes_of_formula(), rows[0].flops_of_formula()), (2, [4.0, 0.75], 1.5));
        assert!(rows[0].line().contains("  50%"), "{}", rows[0].line());
        assert_eq!(rows[1].json()["conflicts"], 4);
    }

    #[test]
    fn a_device_that_counts_nothing_is_refused() {
        let dev = Device::open("cpu", 1).unwrap();
        let refusal = count(&dev, DType::F32, Shapes::Few, &[], &mut |_| {}).unwrap_err().to_string();
        assert!(refusal.contains("--device emu"), "{refusal}");
    }
}
