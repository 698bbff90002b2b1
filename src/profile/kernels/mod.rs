//! Single ops, timed at a model's shapes, beside what the machine can do at most: for `haggle profile kernel` and for
//! `cargo bench --bench kernels`. Which, at which shapes and how they are called says [`crate::ops::cases`].

mod cold;

use super::Peaks;
use crate::device::record::Cost;
use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::ops::case::{Call, Dims, Experts, Purpose, Shapes, Stage};
use crate::ops::cases;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The stems that are timed.
pub const STEMS: [&str; 53] = [
    "adamw_step",
    "add",
    "attn_bwd",
    "attn_decode",
    "attn_fwd",
    "attn_step",
    "bias_bwd",
    "bias_fwd",
    "copy",
    "embed_bwd",
    "embed_fwd",
    "fill",
    "gemm_grouped_nn",
    "gemm_grouped_nt",
    "gemm_grouped_tn",
    "gemm_nn",
    "gemm_nt",
    "gemm_nt_naive",
    "gemm_pack",
    "gemm_qkv",
    "gemm_swiglu",
    "gemm_tn",
    "grad_norm",
    "group_advantage",
    "kv_append",
    "kv_copy_page",
    "linear_logprob_bwd",
    "linear_logprob_fwd",
    "moe_combine_bwd",
    "moe_combine_fwd",
    "moe_gather_bwd",
    "moe_gather_fwd",
    "moe_sort",
    "noise_bits",
    "policy_loss",
    "qk_rope_append",
    "qk_rope_fwd",
    "rmsnorm_bwd",
    "rmsnorm_fwd",
    "rope_bwd",
    "rope_fwd",
    "route_balance_bwd",
    "route_balance_fwd",
    "route_topk_bwd",
    "route_topk_fwd",
    "sample",
    "sample_lean",
    "sample_mask",
    "scale",
    "shapley_max",
    "shapley_table",
    "swiglu_bwd",
    "swiglu_fwd",
];

/// Whether a stem is timed only at the shapes of a model that has experts.
pub fn is_of_experts(stem: &str) -> bool {
    ["gemm_grouped_", "moe_", "route_"].iter().any(|start| stem.starts_with(start))
}

/// One op at one shape.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Its stem.
    pub op: &'static str,
    /// Its shape.
    pub shape: String,
    /// Its tensors' number type.
    pub dtype: &'static str,
    /// The device's name.
    pub device: &'static str,
    /// Microseconds of a call: median, 10th and 90th percentile. Calls follow each other: what fits a cache is there.
    pub us: [f64; 3],
    /// The median where no cache holds anything of it; none on the emulator.
    pub cold_us: Option<f64>,
    /// Times as fast as its naive rung, where there is one.
    pub times_naive: Option<f64>,
    /// What it costs.
    pub cost: Cost,
    /// The ceilings measured before.
    pub peaks: Peaks,
}

impl Timed {
    /// The head of the table that [`Timed::line`] makes.
    pub fn head() -> String {
        format!(
            "{:<20} {:<32} {:>10} {:>17} {:>15} {:>9} {:>10} {:>8}",
            "op", "shape", "median us", "p10..p90", "rate", "roofline", "cold us", "x naive"
        )
    }

    /// Its rate in the unit of what it is bound by.
    fn rate(&self) -> (f64, &'static str) {
        let per_s = 1e6 / self.us[0];
        match self.peaks.is_memory_bound(self.cost.flops, self.cost.bytes) {
            true => (self.cost.bytes * per_s / 1e9, "GB/s"),
            false => (self.cost.flops * per_s / 1e9, "GFLOP/s"),
        }
    }

    fn share(&self) -> f64 {
        self.peaks.share(self.cost.flops, self.cost.bytes, (self.us[0] * 1e3) as u64)
    }

    /// A row of the table.
    pub fn line(&self) -> String {
        let ([median, p10, p90], (rate, unit)) = (self.us, self.rate());
        format!(
            "{:<20} {:<32} {median:>10.1} {p10:>8.1}..{p90:<7.1} {rate:>7.1} {unit:<7} {:>8.0}% {:>10} {:>8}",
            self.op,
            self.shape,
            100.0 * self.share(),
            told(self.cold_us),
            told(self.times_naive)
        )
    }

    /// The same for machines.
    pub fn json(&self) -> Value {
        let (rate, unit) = self.rate();
        json!({
            "op": self.op, "shape": self.shape, "dtype": self.dtype, "device": self.device, "median_us": self.us[0],
            "p10_us": self.us[1], "p90_us": self.us[2], "cold_us": self.cold_us, "times_naive": self.times_naive,
            "flops": self.cost.flops, "bytes": self.cost.bytes,
            "rate": rate, "unit": unit, "roofline": self.share(),
        })
    }
}

fn told(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{x:.1}"))
}

/// A device, its ceilings, the shapes, and who is shown the results.
pub struct Bench<'a> {
    dev: Device,
    dtype: DType,
    shapes: Shapes,
    only: Vec<String>,
    show: &'a mut dyn FnMut(&Timed),
    peaks: Peaks,
    flusher: cold::Flusher,
    rows: usize,
}

impl<'a> Bench<'a> {
    /// Measures the ceilings; `only` are parts of the stems to time, all when empty; floats are f32 or bf16.
    ///
    /// # Errors
    /// [`Error::Device`] when it does not compute in `dtype`; what the device refuses.
    pub fn open(
        dev: Device,
        dtype: DType,
        shapes: Shapes,
        only: Vec<String>,
        show: &'a mut dyn FnMut(&Timed),
    ) -> Result<Bench<'a>> {
        if dtype != DType::F32 && matches!(dev, Device::Cpu(_)) {
            let what = format!("computes in f32 only, not in {}; use --device emu or cuda", dtype.name());
            return Err(Error::Device { device: dev.name().into(), what });
        }
        let peaks = Peaks::measure(&dev, dtype)?;
        let flusher = cold::Flusher::new(&dev)?;
        Ok(Bench { dev, dtype, shapes, only, show, peaks, flusher, rows: 0 })
    }

    /// The ceilings.
    pub fn peaks(&self) -> Peaks {
        self.peaks
    }

    /// Results so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Times every op whose stem has one of the wanted parts, and shows its rows.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn run(&mut self) -> Result<()> {
        let Bench { dev, dtype, shapes, only, show, peaks, flusher, rows } = self;
        let (device, dtype, peaks) = (dev.name(), *dtype, *peaks);
        let wants = |stem: &str| only.is_empty() || only.iter().any(|part| stem.contains(part.as_str()));
        // Of the naive rung that was timed just before.
        let mut naive_us: Option<f64> = None;
        let on = dev.clone();
        let mut clock = |call: &Call, op: &mut dyn FnMut(&Device) -> Result<()>| -> Result<()> {
            let us = time(&on, || op(&on))?;
            let cold_us = flusher.cold_us(&on, || op(&on))?;
            let times_naive = naive_us.filter(|_| call.stem == "gemm_nt").map(|naive| naive / us[0]);
            naive_us =
                if call.stem.ends_with("_naive") { Some(us[0]) } else { naive_us.filter(|_| call.stem != "gemm_nt") };
            let Call { stem: op, shape, cost } = call.clone();
            show(&Timed { op, shape, dtype: dtype.name(), device, us, cold_us, times_naive, cost, peaks });
            *rows += 1;
            Ok(())
        };
        let purpose = Purpose::Time { shapes: *shapes, wants: &wants, clock: &mut clock };
        cases(&mut Stage::new(dev, dtype, purpose))
    }
}

impl From<&ModelConfig> for Shapes {
    fn from(model: &ModelConfig) -> Shapes {
        Shapes::Of(Dims {
            width: model.hidden_size,
            mlp: model.intermediate_size,
            heads: model.num_attention_heads,
            kv_heads: model.num_key_value_heads,
            head_dim: model.head_dim,
            vocab: model.vocab_size,
            experts: model.experts.map(|x| Experts {
                n_experts: x.count,
                n_active: x.active,
                mlp: x.intermediate_size,
            }),
        })
    }
}

/// Median, 10th and 90th percentile in microseconds: samples of at least 200 us each, for at least 0.1 s; on a GPU the
/// calls of a sample follow each other without waiting.
pub(super) fn time(dev: &Device, mut call: impl FnMut() -> Result<()>) -> Result<[f64; 3]> {
    let mut sample = |calls: usize| -> Result<f64> {
        let start = Instant::now();
        (0..calls).try_for_each(|_| call())?;
        dev.wait()?;
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    };
    sample(1)?;
    let calls = (2e-4 / sample(1)?.max(1e-9)).ceil().max(1.0) as usize;
    let (begin, mut seconds) = (Instant::now(), Vec::new());
    let least = Duration::from_millis(100);
    // What takes long is not taken often.
    while seconds.len() < 9 && begin.elapsed() < 10 * least || begin.elapsed() < least {
        seconds.push(sample(calls)?);
    }
    seconds.sort_by(f64::total_cmp);
    Ok([0.5, 0.1, 0.9].map(|q| seconds[((seconds.len() - 1) as f64 * q) as usize] * 1e6))
}
