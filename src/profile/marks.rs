//! What the engine means to reach on an H100: each mark beside the figure that says how far it is.
//!
//! On a GPU the figure is measured; on the emulator it is predicted from what launches do ([`super::forecast`]), and called that.
//! A mark is a workload, a unit, and a number.

use super::Peaks;
use super::forecast::{Costs, Forecast, Step, forecast, predicted};
use super::kernels::time;
use super::predict::H100;
use super::summary::summarise;
use super::work::{self, Sizes, shape};
use crate::device::gpu::Gpu;
use crate::device::record::{Event, Keys, Kind};
use crate::device::{Buffer, DType, Device};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, Weights};
use crate::noise::Noise;
use crate::ops::attn::{
    CHUNK, Heads, Packed, Paged, Sequences, attn_bwd, attn_decode, attn_decode_workspace, attn_fwd, pages_len,
};
use crate::ops::gemm::{Store, gemm_nt};
use crate::ops::logprob::{Targets, linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use crate::ops::norm::rmsnorm_fwd;
use crate::ops::optim::{AdamW, adamw_step};
use crate::ops::rope::rope_fwd;
use crate::ops::sample::{Rows, Sampling, sample};
use crate::ops::swiglu::swiglu_fwd;
use half::bf16;
use serde_json::{Value, json};
use std::time::Instant;

/// A call of an op, ready to be made again and again.
type Work = Box<dyn FnMut(&Device) -> Result<()>>;

/// What is run.
enum Of {
    /// Ops: the worst of these counts.
    Ops(fn(&Device) -> Result<Vec<Work>>),
    /// A step of a model: its shape, sequences, tokens of each prompt.
    Step(Step, &'static str, usize, usize),
}

/// What is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Microseconds, which should be few.
    Us,
    /// TFLOP/s of the formulas' FLOPs.
    Tflops,
    /// The least time, by the formulas and the data sheet, over the time: the share of the roofline.
    Share,
    /// Launches of a step beyond five a layer, which should be few.
    Launches,
}

/// A mark.
struct Mark {
    what: &'static str,
    wanted: f64,
    unit: Unit,
    of: Of,
}

/// All of them, as the engine's plan states them.
static MARKS: [Mark; 15] = [
    mark("sampling of one row, vocabulary 151,936, any filter", 15.0, Unit::Us, Of::Ops(sampling)),
    mark("decode 0.6B, batch 1, context 1k", 0.75, Unit::Share, Of::Step(Step::Decode, "qwen3-0.6b", 1, 1024)),
    mark("decode 8B, batch 1", 0.85, Unit::Share, Of::Step(Step::Decode, "qwen3-8b", 1, 128)),
    mark("decode 8B, batch 64", 0.85, Unit::Share, Of::Step(Step::Decode, "qwen3-8b", 64, 128)),
    mark(
        "launches of a decode step beyond 5 a layer",
        4.0,
        Unit::Launches,
        Of::Step(Step::Decode, "qwen3-0.6b", 1, 128),
    ),
    mark("attention decode, batch 1, context 8k, a layer", 15.0, Unit::Us, Of::Ops(decode_8k)),
    mark("attention forward, head 128, causal, 4k", 500.0, Unit::Tflops, Of::Ops(attention_forward)),
    mark("attention backward, head 128, causal, 4k", 400.0, Unit::Tflops, Of::Ops(attention_backward)),
    mark("product 8192 x 8192 x 8192", 730.0, Unit::Tflops, Of::Ops(|dev| product(dev, [8192, 8192, 8192]))),
    mark("product M 16,384, N 3072, K 1024", 620.0, Unit::Tflops, Of::Ops(|dev| product(dev, [16_384, 3072, 1024]))),
    mark("head forward and backward, [4096, 2048] x 131,072", 16_000.0, Unit::Us, Of::Ops(head)),
    mark("prefill 8B, a prompt of 4k", 350.0, Unit::Tflops, Of::Step(Step::Prefill, "qwen3-8b", 1, 4096)),
    mark("rmsnorm, rope, swiglu: the worst", 0.85, Unit::Share, Of::Ops(elementwise)),
    mark("adamw, moments in f32", 0.85, Unit::Share, Of::Ops(adamw)),
    mark("a decode row's norms, 64 rows", 0.85, Unit::Share, Of::Ops(|dev| norm(dev, 64, 4096))),
];

const fn mark(what: &'static str, wanted: f64, unit: Unit, of: Of) -> Mark {
    Mark { what, wanted, unit, of }
}

/// A mark, and how far it is.
pub struct Told {
    what: &'static str,
    wanted: f64,
    unit: Unit,
    /// The figure.
    pub value: f64,
    /// The time it was made of.
    us: f64,
    /// What the longest launch is bound by, where it was predicted; else it was measured.
    bound: Option<&'static str>,
}

impl Told {
    /// True where the mark is reached.
    pub fn holds(&self) -> bool {
        match self.unit {
            Unit::Us | Unit::Launches => self.value <= self.wanted,
            Unit::Tflops | Unit::Share => self.value >= self.wanted,
        }
    }

    fn in_words(&self, x: f64) -> String {
        match self.unit {
            Unit::Us if self.wanted >= 1000.0 => format!("{:.1} ms", x / 1000.0),
            Unit::Us => format!("{x:.1} us"),
            Unit::Tflops => format!("{x:.0} TFLOP/s"),
            Unit::Share => format!("{:.0} %", 100.0 * x),
            Unit::Launches => format!("{x:.0}"),
        }
    }

    /// The head of the table that [`Told::line`] makes.
    pub fn head(predicted: bool) -> String {
        format!("{:<54} {:>14} {:>14}", "mark", "wanted", if predicted { "predicted" } else { "measured" })
    }

    /// A row of the table.
    pub fn line(&self) -> String {
        let sign = if matches!(self.unit, Unit::Us | Unit::Launches) { "<=" } else { ">=" };
        let wanted = format!("{sign} {}", self.in_words(self.wanted));
        let verdict = if self.holds() { "holds" } else { "MISSED" };
        let bound = self.bound.map_or(String::new(), |bound| format!(", bound by {bound}"));
        format!("{:<54} {wanted:>14} {:>14}  {verdict}{bound}", self.what, self.in_words(self.value))
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let mut row = json!({
            "mark": self.what, "wanted": self.wanted, "unit": format!("{:?}", self.unit).to_lowercase(), "value": self.value,
            "holds": self.holds(), "predicted": self.bound.is_some(), "bound": self.bound,
        });
        // What others' times of the same are held against.
        if self.bound.is_none() {
            row["us"] = json!(self.us);
        }
        row
    }
}

/// Walks the marks whose words have `only` in them, and shows each.
///
/// # Errors
/// [`Error::Config`] on the CPU, which no mark is of, and where none is named so; what the device refuses.
pub fn walk(dev: &Device, only: &str, show: &mut dyn FnMut(&Told)) -> Result<()> {
    if matches!(dev, Device::Cpu(_)) {
        let problem = "the marks are a GPU's: --device cuda measures them, --device emu predicts them";
        return Err(Error::Config { problems: vec![problem.into()] });
    }
    let wanted: Vec<&Mark> = MARKS.iter().filter(|mark| mark.what.contains(only)).collect();
    if wanted.is_empty() {
        let all: Vec<&str> = MARKS.iter().map(|mark| mark.what).collect();
        return Err(Error::Config {
            problems: vec![format!("no mark is named `{only}`; there are: {}", all.join("; "))],
        });
    }
    wanted.into_iter().try_for_each(|mark| told(dev, mark).map(|told| show(&told)))
}

/// How long something took, or would.
struct Figure {
    us: f64,
    cost: Costs,
    launches: usize,
    /// What the longest launch is bound by, where it is predicted.
    bound: Option<&'static str>,
}

impl Figure {
    fn predicted(of: &Forecast) -> Figure {
        let bound = Some(of.parts.first().map_or("nothing", |part| part.bound));
        Figure { us: of.step_us(), cost: of.cost, launches: of.launches(), bound }
    }

    fn value(&self, unit: Unit, layers: usize) -> f64 {
        match unit {
            Unit::Us => self.us,
            Unit::Tflops => self.cost.flops / self.us / 1e6,
            Unit::Share => self.cost.least_us / self.us,
            Unit::Launches => self.launches as f64 - 5.0 * layers as f64,
        }
    }
}

fn told(dev: &Device, mark: &Mark) -> Result<Told> {
    let unit = mark.unit;
    let tell = |figure: &Figure, layers| {
        let (value, us) = (figure.value(unit, layers), figure.us);
        Told { what: mark.what, wanted: mark.wanted, unit, value, us, bound: figure.bound }
    };
    match mark.of {
        Of::Step(step, name, batch, prompt) => {
            let shape = ModelConfig { compute: DType::Bf16, stored: DType::Bf16, ..shape(name)? };
            let sizes = Sizes { batch, prompt, steps: if is_cuda(dev) { 32 } else { 1 } };
            let figure = match is_cuda(dev) {
                true => measured_step(dev, &shape, step, sizes)?,
                false => Figure::predicted(&forecast(dev, &shape, step, sizes)?),
            };
            Ok(tell(&figure, shape.num_hidden_layers))
        }
        Of::Ops(make) => {
            let mut all = vec![];
            for mut work in make(dev)? {
                let figure = if is_cuda(dev) { measured(dev, &mut work)? } else { alone(dev, &mut work)? };
                all.push(tell(&figure, 0));
            }
            let order = |a: &Told, b: &Told| a.value.total_cmp(&b.value);
            let worst = if unit == Unit::Us { all.into_iter().max_by(order) } else { all.into_iter().min_by(order) };
            let nothing = || Figure { us: f64::NAN, cost: Costs::default(), launches: 0, bound: None };
            Ok(worst.unwrap_or_else(|| tell(&nothing(), 0)))
        }
    }
}

fn is_cuda(dev: &Device) -> bool {
    matches!(dev, Device::Gpu(gpu) if matches!(gpu.as_ref(), Gpu::Cuda(_)))
}

/// A call, predicted: before its first launch nothing waits.
fn alone(dev: &Device, work: &mut Work) -> Result<Figure> {
    let figure = Figure::predicted(&predicted(dev, &mut || work(dev))?);
    Ok(Figure { us: figure.us - 1e6 * H100.launch_s, ..figure })
}

/// A call's time on a GPU, and what it costs.
fn measured(dev: &Device, work: &mut Work) -> Result<Figure> {
    dev.start_recording(1 << 10)?;
    let ran = work(dev).and_then(|()| dev.wait());
    let events = dev.stop_recording()?.events;
    ran?;
    let [us, ..] = time(dev, || work(dev))?;
    figure(dev, &events, 1.0, us)
}

/// The same of a step.
fn measured_step(dev: &Device, shape: &ModelConfig, step: Step, sizes: Sizes) -> Result<Figure> {
    let w = Weights::for_timing(dev, shape.clone())?;
    if step == Step::Decode {
        return measured_decode(dev, &w, sizes);
    }
    let (_, recording) = work::prefill(dev, &w, sizes)?;
    let sums = summarise(&recording, false);
    figure(dev, &recording.events, sums.steps.max(1) as f64, sums.step_ns as f64 / 1e3)
}

/// The median of steps that run from graphs, as an engine's do; what they cost and launch says one more, which is recorded, and
/// so launched one by one.
fn measured_decode(dev: &Device, w: &Weights, sizes: Sizes) -> Result<Figure> {
    let mut engine = work::decoding(dev, w, sizes, true)?;
    let mut us = vec![];
    for _ in 0..sizes.steps {
        let start = Instant::now();
        engine.step(w)?;
        dev.wait()?;
        us.push(1e6 * start.elapsed().as_secs_f64());
    }
    us.sort_by(f64::total_cmp);
    dev.start_recording(work::CAPACITY)?;
    let ran = engine.step(w).and_then(|_| dev.wait());
    let events = dev.stop_recording()?.events;
    ran?;
    figure(dev, &events, 1.0, us[us.len() / 2])
}

/// Of so many steps that took `us` together.
fn figure(dev: &Device, events: &[Event], steps: f64, us: f64) -> Result<Figure> {
    let peaks = Peaks::measure(dev, DType::Bf16)?;
    let all = Costs::of(events, &|flops, bytes| peaks.floor_s(flops, bytes));
    let launches = events.iter().filter(|event| event.kind == Kind::Kernel).count();
    let cost = Costs { least_us: all.least_us / steps, flops: all.flops / steps };
    Ok(Figure { us: us / steps, cost, launches: (launches as f64 / steps) as usize, bound: None })
}

/// Numbers between -1 and 1: on the emulator, where nothing that is counted depends on them, zeros if they are many.
fn numbers(dev: &Device, dtype: DType, len: usize) -> Result<Buffer> {
    if !is_cuda(dev) && len > 1 << 20 {
        return dev.zeros(dtype, len);
    }
    let noise = Noise::new(11, len as u64);
    let some: Vec<f32> = (0..len.min(1 << 20)).map(|i| 2.0 * noise.uniform(i as u64) - 1.0).collect();
    let all: Vec<f32> = some.iter().copied().cycle().take(len).collect();
    match dtype {
        DType::Bf16 => dev.upload(&all.into_iter().map(bf16::from_f32).collect::<Vec<_>>()),
        _ => dev.upload(&all),
    }
}

fn numbers_bf16<const N: usize>(dev: &Device, lens: [usize; N]) -> Result<[Buffer; N]> {
    let all: Vec<Buffer> = lens.into_iter().map(|len| numbers(dev, DType::Bf16, len)).collect::<Result<_>>()?;
    Ok(all.try_into().unwrap_or_else(|_| unreachable!("as many as there are lengths")))
}

/// Temperature 1 with no filter, with top-k, top-p and min-p.
fn sampling(dev: &Device) -> Result<Vec<Work>> {
    const V: usize = 151_936;
    let work = |(top_k, top_p, min_p): (i32, f32, f32)| -> Result<Work> {
        let noise = Noise::new(7, V as u64);
        let logits: Vec<f32> = (0..V as u64).map(|i| 3.0 * noise.normal(i) as f32).collect();
        let mut logits = dev.upload(&logits)?;
        let one = |x: f32| dev.upload(&[x]);
        let (temperature, top_p, min_p, top_k) = (one(1.0)?, one(top_p)?, one(min_p)?, dev.upload(&[top_k])?);
        let (key, pos) = (dev.upload(&[1u64, 2])?, dev.upload(&[3i32])?);
        let (mut token, mut logprob) = (dev.zeros(DType::I32, 1)?, dev.zeros(DType::F32, 1)?);
        Ok(Box::new(move |dev| {
            let how = Sampling {
                temperature: temperature.view(),
                top_k: top_k.view(),
                top_p: top_p.view(),
                min_p: min_p.view(),
                key: key.view(),
            };
            sample(dev, logits.view_mut(), how, Rows::Stay(pos.view()), token.view_mut(), logprob.view_mut(), V, V)
        }))
    };
    [(0, 1.0, 0.0), (50, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.1)].into_iter().map(work).collect()
}

/// The heads of the 0.6B shape.
const HEADS: Heads = Heads { q: 16, kv: 8, dim: 128, scale: 0.088_388_35 };

fn decode_8k(dev: &Device) -> Result<Vec<Work>> {
    const T: usize = 8192;
    let n_pages = T.div_ceil(CHUNK);
    let len = pages_len(n_pages, HEADS);
    let [q, k_pages, v_pages] = numbers_bf16(dev, [HEADS.q * HEADS.dim, len, len])?;
    let (seq, pos) = (dev.upload(&[0i32])?, dev.upload(&[T as i32 - 1])?);
    let table = dev.upload(&(0..n_pages as i32).rev().collect::<Vec<i32>>())?;
    let mut o = dev.zeros(DType::Bf16, HEADS.q * HEADS.dim)?;
    let mut parts = dev.zeros(DType::F32, attn_decode_workspace(dev, 1, T, HEADS))?;
    Ok(vec![Box::new(move |dev| {
        dev.note_keys(|| Keys::paged(&[0], &[T as i32 - 1]));
        let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages: n_pages, longest: T };
        attn_decode(dev, q.view(), k_pages.view(), v_pages.view(), at, o.view_mut(), parts.view_mut(), HEADS)
    })])
}

/// Tokens of the one sequence of the marks of attention.
const N: usize = 4096;

fn attention_forward(dev: &Device) -> Result<Vec<Work>> {
    let (wide, narrow) = (N * HEADS.q * HEADS.dim, N * HEADS.kv * HEADS.dim);
    let [q, k, v, mut o] = numbers_bf16(dev, [wide, narrow, narrow, wide])?;
    let (cu, mut lse) = (dev.upload(&[0i32, N as i32])?, dev.zeros(DType::F32, N * HEADS.q)?);
    Ok(vec![Box::new(move |dev| {
        dev.note_keys(|| Sequences::apart(&[0, N as i32]).keys());
        attn_fwd(dev, q.view(), k.view(), v.view(), Packed::apart(cu.view()), o.view_mut(), lse.view_mut(), HEADS)
    })])
}

fn attention_backward(dev: &Device) -> Result<Vec<Work>> {
    let (wide, narrow) = (N * HEADS.q * HEADS.dim, N * HEADS.kv * HEADS.dim);
    let [q, k, v, o, d_o] = numbers_bf16(dev, [wide, narrow, narrow, wide, wide])?;
    let [mut dq, mut dk, mut dv] = numbers_bf16(dev, [wide, narrow, narrow])?;
    let (cu, lse) = (dev.upload(&[0i32, N as i32])?, dev.upload(&vec![9f32; N * HEADS.q])?);
    Ok(vec![Box::new(move |dev| {
        dev.note_keys(|| Sequences::apart(&[0, N as i32]).keys());
        let (q, k, v, o, lse, seqs) = (q.view(), k.view(), v.view(), o.view(), lse.view(), Packed::apart(cu.view()));
        attn_bwd(dev, d_o.view(), q, k, v, o, lse, seqs, dq.view_mut(), dk.view_mut(), dv.view_mut(), HEADS)
    })])
}

fn product(dev: &Device, [m, n, k]: [usize; 3]) -> Result<Vec<Work>> {
    let [a, b, mut c] = numbers_bf16(dev, [m * k, n * k, m * n])?;
    Ok(vec![Box::new(move |dev| gemm_nt(dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set))])
}

fn head(dev: &Device) -> Result<Vec<Work>> {
    let (n, c, v) = (N, 2048, 131_072);
    let [x, w, mut dx] = numbers_bf16(dev, [n * c, v * c, n * c])?;
    let noise = Noise::new(5, v as u64);
    let target = dev.upload(&(0..n as u64).map(|i| noise.below(i, v) as i32).collect::<Vec<i32>>())?;
    let (mut logprob, mut lse, mut entropy) =
        (dev.zeros(DType::F32, n)?, dev.zeros(DType::F32, n)?, dev.zeros(DType::F32, n)?);
    let (dlogprob, dentropy, mut dw) =
        (dev.upload(&vec![1f32; n])?, dev.zeros(DType::F32, n)?, dev.zeros(DType::F32, v * c)?);
    let mut work = dev.zeros(DType::F32, linear_logprob_workspace(dev, v, c, DType::Bf16))?;
    Ok(vec![Box::new(move |dev| {
        let targets = || Targets { ids: target.view(), masks: None };
        let (lp, work_) = (logprob.view_mut(), work.view_mut());
        linear_logprob_fwd(dev, x.view(), w.view(), targets(), lp, lse.view_mut(), entropy.view_mut(), work_, c, 1.0)?;
        let (dlp, dh, dw, work) = (dlogprob.view(), dentropy.view(), dw.view_mut(), work.view_mut());
        let (lse, h) = (lse.view(), entropy.view());
        linear_logprob_bwd(dev, dlp, dh, x.view(), w.view(), targets(), lse, h, dx.view_mut(), dw, work, c, 1.0)
    })])
}

/// At 4096 tokens of the 8B shape.
fn elementwise(dev: &Device) -> Result<Vec<Work>> {
    let (f, heads) = (12_288, Heads { q: 32, ..HEADS });
    let [gate, up, mut h] = numbers_bf16(dev, [N * f, N * f, N * f])?;
    let swiglu: Work = Box::new(move |dev| swiglu_fwd(dev, gate.view(), up.view(), h.view_mut()));
    let [mut x] = numbers_bf16(dev, [N * heads.q * heads.dim])?;
    let (positions, table) =
        (dev.upload(&(0..N as i32).collect::<Vec<i32>>())?, numbers(dev, DType::F32, N * heads.dim)?);
    let rope: Work =
        Box::new(move |dev| rope_fwd(dev, x.view_mut(), positions.view(), table.view(), heads.q, heads.dim));
    let mut all = norm(dev, N, 4096)?;
    all.extend([swiglu, rope]);
    Ok(all)
}

fn norm(dev: &Device, n: usize, c: usize) -> Result<Vec<Work>> {
    let [x, w, mut y] = numbers_bf16(dev, [n * c, c, n * c])?;
    let mut rstd = dev.zeros(DType::F32, n)?;
    Ok(vec![Box::new(move |dev| rmsnorm_fwd(dev, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-6))])
}

/// Of 64 M weights, with their copy in bf16.
fn adamw(dev: &Device) -> Result<Vec<Work>> {
    let n = 1 << 26;
    let g = numbers(dev, DType::F32, n)?;
    let (mut w, mut m, mut v) = (numbers(dev, DType::F32, n)?, dev.zeros(DType::F32, n)?, dev.zeros(DType::F32, n)?);
    let mut copy = dev.zeros(DType::Bf16, n)?;
    let how =
        AdamW { lr: 1e-5, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, step: 1, element: 0 };
    Ok(vec![Box::new(move |dev| {
        adamw_step(dev, g.view(), w.view_mut(), m.view_mut(), v.view_mut(), Some(copy.view_mut()), how)
    })])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a card, where it cannot be tried here: from graphs, and the cost and launches of a step, not of all that ran.
    #[test]
    fn a_measured_step_of_decode_runs_from_graphs_and_tells_of_one_step() {
        let dev = Device::open("emu", 2).unwrap();
        let shape = ModelConfig { compute: DType::Bf16, stored: DType::Bf16, ..shape("tiny").unwrap() };
        let w = Weights::for_timing(&dev, shape.clone()).unwrap();
        let told = |steps| measured_decode(&dev, &w, Sizes { batch: 2, prompt: 40, steps }).unwrap();
        let (one, three) = (told(1), told(3));
        assert_eq!(one.launches, three.launches);
        assert_eq!(one.value(Unit::Launches, shape.num_hidden_layers), 4.0);
        assert!(one.us > 0.0 && one.bound.is_none());
        // A sequence has a key more with each step before.
        assert!(three.cost.flops >= one.cost.flops && three.cost.flops < 1.1 * one.cost.flops, "{:?}", three.cost);
    }
}
