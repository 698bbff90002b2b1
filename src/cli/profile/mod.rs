//! `haggle profile`: where the time, the bytes and the FLOPs of a step go.

mod ladder;
mod table;

use super::{Exit, Globals, out, path_text, quoted};
use crate::config::Config;
use crate::device::gpu::{Gpu, emu::Emu};
use crate::device::{DType, Device};
use crate::disk::try_file;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, Plan, Weights};
use crate::ops::case::{Dims, Shapes};
use crate::profile::counters::{self, Row};
use crate::profile::forecast::{Step, forecast};
use crate::profile::kernels::{Bench, Timed};
use crate::profile::marks::{self, Told};
use crate::profile::work::{self, Sizes};
use crate::profile::{Peaks, kernels, roofline, summary, trace};
use crate::setup::{base, memory};
use crate::train::rl;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of `haggle profile`.
#[derive(Args)]
#[command(after_help = "\
Columns: share is of the step; gap is idle time just before an op; roofline is the least time an op could take, from its
FLOPs and bytes and this machine's measured ceilings, over the time it took (data in a cache can pass 100 %).

Examples:
  haggle profile train                             one GRPO step: rollout, credit, update
  haggle profile train --set rollout.group_size=4 --shapes
  haggle profile decode --batch 64 --prompt 128    decode steps of 64 sequences
  haggle profile prefill --trace prefill.json      for ui.perfetto.dev
  haggle profile decode --html roofline.html       the roofline as a picture
  haggle profile decode --shape qwen3-0.6b --batch 1
  haggle profile kernel gemm_nt                    one kernel at many shapes
  haggle profile kernel attn --device emu
  haggle profile kernel gemm_nt --device emu --counters
  haggle profile decode --device emu --counters --shape qwen3-8b --batch 64
                                                   what a step would take on an H100, predicted
  haggle profile marks --device emu                what the engine means to reach there, and how far it is
  haggle profile ladder --device emu               how gemm, attention and the head came to be, counted
  haggle profile ladder gemm --device cuda:0 --shape M=4096,N=4096,K=4096

tools/profile_gpu holds the commands for Nsight Systems and Nsight Compute.")]
pub struct ProfileArgs {
    /// What to profile
    #[arg(value_enum)]
    what: What,
    /// With kernel and marks: part of the names; with ladder: gemm, attn or head (all by default)
    stem: Option<String>,
    /// Steps to record (default: train 1, decode 32, prefill 4)
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Sequences at a time, in decode and prefill
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
    /// Tokens of each prompt, in decode and prefill
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt: usize,
    /// Model folder or run directory (default: the embedded model)
    #[arg(long, value_name = "DIR", conflicts_with = "shape", value_parser = super::path())]
    model: Option<PathBuf>,
    /// Random weights of a shape instead: tiny, qwen3-0.6b or a config.json; not in train. With kernel also few: the small
    /// shapes that doctor checks, of every op. With ladder: letters and sizes, M=256,K=64
    #[arg(long, value_name = "NAME")]
    shape: Option<String>,
    /// Number type to compute in: f32 or bf16 (default: the config's model.dtype); the cpu has f32 only
    #[arg(long, value_name = "NAME")]
    dtype: Option<String>,
    /// With kernel, on emu: count sectors, bank conflicts and products instead of timing; with decode and prefill: predict a
    /// step on an H100 from them (a release needs HAGGLE_EMU_COUNT=1 at its build)
    #[arg(long)]
    counters: bool,
    /// Of a launch that is counted, run so many blocks, spread over it, and scale what they do (default: with kernel all, else
    /// 8)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    blocks: Option<u32>,
    /// Count each shape of an op by itself
    #[arg(long)]
    shapes: bool,
    /// Write a Chrome trace, for ui.perfetto.dev
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    trace: Option<PathBuf>,
    /// Write the roofline as a self-contained page
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A whole GRPO step
    Train,
    /// Steps of one token a sequence
    Decode,
    /// Prompts
    Prefill,
    /// Single ops at the tiny model's shapes
    Kernel,
    /// The rungs that lead up to an op, from its plainest kernel to the product's, on emu or a GPU
    Ladder,
    /// What the engine means to reach on an H100: measured on cuda, predicted on emu
    Marks,
}

/// Profiles.
///
/// # Errors
/// [`Error::Config`] for options that do not go together; what the device and the disk refuse.
pub fn run(args: &ProfileArgs, globals: &Globals) -> Result<Exit> {
    check(args)?;
    let ladders = if args.what == What::Ladder { ladder::asked(args)? } else { vec![] };
    args.trace.iter().chain(&args.html).try_for_each(|path| try_file(path))?;
    let model = args.model.as_deref().map(path_text);
    let dtype = args.dtype.as_deref().map(quoted);
    let config = globals.resolve(&[("--model", "model.base", model), ("--dtype", "model.dtype", dtype)])?;
    let dev = config.open_device()?;
    match args.what {
        What::Kernel => return kernel(args, globals, on_some_blocks(args, dev)?, config.compute()),
        What::Ladder => return ladder::run(&ladders, globals, &dev),
        What::Marks => return marks(args, globals, &on_some_blocks(args, dev)?),
        _ if args.counters => return predict(args, globals, &on_some_blocks(args, dev)?, &config),
        _ => {}
    }
    fits(args, &dev, &config)?;
    let peaks = Peaks::measure(&dev, config.compute())?;
    let weights = || match &args.shape {
        Some(name) if config.compute() == DType::Bf16 => Weights::for_timing(&dev, work::shape(name)?),
        Some(name) => Weights::init(&dev, work::shape(name)?, 1)?.compute_in(&dev, config.compute()),
        None => base::open(&dev, &config.model.base, &config).map(|base| base.weights),
    };
    let (ran, recording) = match args.what {
        What::Decode => work::decode(&dev, &weights()?, sizes(args))?,
        What::Prefill => work::prefill(&dev, &weights()?, sizes(args))?,
        _ => work::train(&config, args.steps.unwrap_or(1))?,
    };
    let sums = summary::summarise(&recording, args.shapes);
    if let Some(path) = &args.trace {
        write(path, &trace::json(&ran.title, &recording))?;
    }
    if let Some(path) = &args.html {
        write(path, &roofline::html(&ran.title, &sums, &peaks, &table::text(&ran, &sums, &peaks)))?;
    }
    match globals.json {
        true => out::line(&table::json(&ran, &sums, &peaks).to_string()),
        false => out::print(&table::text(&ran, &sums, &peaks)),
    }
    Ok(Exit::Done)
}

/// Sizes of decode or prefill.
fn sizes(args: &ProfileArgs) -> Sizes {
    let steps = args.steps.unwrap_or(if args.what == What::Decode { 32 } else { 4 });
    Sizes { batch: args.batch as usize, prompt: args.prompt, steps }
}

/// `Ok` when what is profiled fits the device: before anything is measured.
fn fits(args: &ProfileArgs, dev: &Device, config: &Config) -> Result<()> {
    if args.what == What::Train {
        return memory::fit(dev, config, &rl::planned).map(drop);
    }
    let planner = |plan: &mut Plan| {
        let compute = config.compute();
        let shape = match &args.shape {
            Some(name) if compute == DType::Bf16 => ModelConfig { compute, stored: compute, ..work::shape(name)? },
            Some(name) => ModelConfig { compute, ..work::shape(name)? },
            None => base::shape(&config.model.base, config)?,
        };
        match &args.shape {
            Some(_) => Weights::planned_frozen(plan, "model", shape.clone()).map(drop)?,
            None => base::plan_frozen(plan, "model", &config.model.base, config, &mut vec![]).map(drop)?,
        }
        work::planned(plan, &shape, sizes(args), args.what == What::Decode)
    };
    memory::fit_own(dev, &planner, "take a smaller --batch, a shorter --prompt or a smaller model").map(drop)
}

/// Options that do not go together, all at once.
fn check(args: &ProfileArgs) -> Result<()> {
    let [kernel, ladder, marks] = [What::Kernel, What::Ladder, What::Marks].map(|what| args.what == what);
    let (alone, f32) = (kernel || ladder, args.dtype.as_deref().is_some_and(|dtype| dtype != "bf16"));
    let pages = args.trace.is_some() || args.html.is_some();
    let counts = args.counters && (kernel || args.what == What::Decode || args.what == What::Prefill);
    let steps = [
        (args.steps == Some(0), "--steps must be 1 or more"),
        (
            !alone && !marks && args.stem.is_some(),
            "a STEM goes with `haggle profile kernel`, `ladder` and `marks` only",
        ),
        (alone && args.trace.is_some(), "--trace goes with train, decode and prefill: a kernel alone has no trace"),
        (alone && args.html.is_some(), "--html goes with train, decode and prefill"),
        (
            args.counters && !counts,
            "--counters goes with kernel, decode and prefill; ladder and marks count on emu anyway",
        ),
        ((marks || counts && !kernel) && pages, "--trace and --html show what was measured: leave them out"),
        (counts && args.model.is_some(), "--counters knows no weights: give the model's --shape (its config.json)"),
        (args.blocks.is_some() && !counts && !marks, "--blocks goes with what is counted: --counters, or marks on emu"),
        ((ladder || marks) && f32, "the ladders and the marks are of bf16: leave --dtype out"),
        (ladder && args.shape.is_some() && args.stem.is_none(), "--shape goes with one ladder: gemm, attn or head"),
        (marks && args.shape.is_some(), "the marks have shapes of their own: leave --shape out"),
        ((ladder || marks) && args.model.is_some(), "--model goes not with ladder and marks, which have shapes"),
        (args.what == What::Train && args.shape.is_some(), "--shape goes with decode and prefill; train takes --model"),
    ];
    let problems: Vec<String> = steps.iter().filter(|(wrong, _)| *wrong).map(|(_, what)| (*what).into()).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::Config { problems }) }
}

/// `Ok` when something whose stem contains STEM is timed at the shapes of the model.
fn timed(stem: &str, shapes: Shapes, model: &str) -> Result<()> {
    let named: Vec<&str> = kernels::STEMS.into_iter().filter(|s| s.contains(stem)).collect();
    let problem = if named.is_empty() {
        format!("no timed kernel is named `{stem}`; there are {}", kernels::STEMS.join(", "))
    } else if matches!(shapes, Shapes::Of(Dims { experts: None, .. }))
        && named.iter().all(|s| kernels::is_of_experts(s))
    {
        format!("`{stem}` is timed where a model has experts, and {model} has none; use --shape qwen3-30b-a3b")
    } else {
        return Ok(());
    };
    Err(Error::Config { problems: vec![problem] })
}

/// The name of the shapes that reach most kernels.
const FEW: &str = "few";

/// Times every op whose stem contains STEM.
fn kernel(args: &ProfileArgs, globals: &Globals, dev: Device, dtype: DType) -> Result<Exit> {
    let (only, model): (Vec<String>, _) =
        (args.stem.iter().cloned().collect(), args.shape.as_deref().unwrap_or("tiny"));
    let shapes = if model == FEW { Shapes::Few } else { Shapes::from(&work::shape(model)?) };
    if let Some(stem) = &args.stem {
        timed(stem, shapes, model)?;
    }
    let as_json = globals.json;
    if args.counters {
        return count(&dev, dtype, shapes, &only, as_json);
    }
    let mut show = |row: &Timed| out::line(&if as_json { row.json().to_string() } else { row.line() });
    let mut bench = Bench::open(dev, dtype, shapes, only, &mut show)?;
    if !as_json {
        let peaks = bench.peaks();
        let (copy, fma) = (peaks.bytes_per_s / 1e9, peaks.flops_per_s / 1e9);
        out::line(&format!(
            "copy {copy:.1} GB/s, multiply-add {fma:.1} GFLOP/s, measured just before\n{}",
            Timed::head()
        ));
    }
    bench.run()?;
    Ok(Exit::Done)
}

/// The device; where it is the emulator and not all blocks are to run, one that runs some.
fn on_some_blocks(args: &ProfileArgs, dev: Device) -> Result<Device> {
    let some = args.blocks.or((args.what != What::Kernel).then_some(8));
    match (&dev, some) {
        (Device::Gpu(gpu), Some(n)) => match gpu.as_ref() {
            Gpu::Emu(emu) => {
                // Predictions are of an H100, which has Hopper's kernels, and launches that begin early.
                let hopper = gpu.hopper() || args.what != What::Kernel;
                let emu = Emu::new(emu.threads())?.with_hopper(hopper).with_pdl(true).spread_blocks(n.into());
                Ok(Device::Gpu(Arc::new(Gpu::Emu(emu))))
            }
            Gpu::Cuda(_) => Ok(dev),
        },
        _ => Ok(dev),
    }
}

/// Predicts a step.
fn predict(args: &ProfileArgs, globals: &Globals, dev: &Device, config: &Config) -> Result<Exit> {
    let shape = match &args.shape {
        Some(name) => work::shape(name)?,
        None => base::shape(&config.model.base, config)?,
    };
    let step = if args.what == What::Decode { Step::Decode } else { Step::Prefill };
    let told = forecast(dev, &shape, step, Sizes { steps: 1, ..sizes(args) })?;
    match globals.json {
        true => out::line(&told.json().to_string()),
        false => out::print(&told.text()),
    }
    Ok(Exit::Done)
}

/// The marks, each when it is known.
fn marks(args: &ProfileArgs, globals: &Globals, dev: &Device) -> Result<Exit> {
    let (as_json, mut headed) = (globals.json, globals.json);
    marks::walk(dev, args.stem.as_deref().unwrap_or(""), &mut |told: &Told| {
        if !headed {
            out::line(&Told::head(dev.name() != "cuda"));
            headed = true;
        }
        out::line(&if as_json { told.json().to_string() } else { told.line() });
    })?;
    Ok(Exit::Done)
}

/// Counts them instead.
fn count(dev: &Device, dtype: DType, shapes: Shapes, only: &[String], as_json: bool) -> Result<Exit> {
    let mut headed = as_json;
    counters::count(dev, dtype, shapes, only, &mut |row: &Row| {
        if !headed {
            out::line(&format!("{COUNTED}\n{}", Row::head()));
            headed = true;
        }
        out::line(&if as_json { row.json().to_string() } else { row.line() });
    })?;
    Ok(Exit::Done)
}

/// What the columns of counters mean.
const COUNTED: &str = "\
counted on the emulator; times are predicted, never measured. x bytes, touched, x FLOP: times the op's formula, with and
without what is read again; rd/rq, wr/rq: sectors a request; bars: barriers a block; KB/SM: of asynchronous copies, under
way at once on a multiprocessor";

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io(path, format!("cannot write: {e}")))
}
