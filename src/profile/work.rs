//! The steps that are profiled: a whole GRPO step, decode, prefill.
//!
//! Each runs once or a few times unrecorded first, so that what grows on first use has grown.

use super::summary::STEP;
use crate::config::Config;
use crate::device::Device;
use crate::device::record::Recording;
use crate::error::{Error, Result};
use crate::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use crate::model::config::{PRESETS, preset};
use crate::model::{ModelConfig, Plan, Weights};
use crate::noise::Noise;
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::train::rl::Trainer;

/// Spans that a recording has room for: some 100 MiB, touched only as far as they are used.
pub(super) const CAPACITY: usize = 1 << 20;
/// Decode steps before the recorded ones.
const WARM: usize = 3;

/// What was run.
#[derive(Debug, Clone)]
pub struct Ran {
    /// `train`, `decode`, `prefill`.
    pub what: &'static str,
    /// What it was, for people.
    pub title: String,
    /// The device's name.
    pub device: &'static str,
    /// What must be known to read the figures.
    pub note: Option<&'static str>,
}

/// Sizes of decode and prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Sequences at a time.
    pub batch: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Steps recorded.
    pub steps: usize,
}

/// What a device's times are worth.
pub fn note(dev: &Device) -> Option<&'static str> {
    match dev.name() {
        "emu" => Some("the emulator runs a GPU's threads one by one: its times say nothing about a GPU"),
        "cuda" => Some("phases and ops are host time (launches return early); kernels are GPU time"),
        _ => None,
    }
}

/// A model's shape with random weights, by name or `config.json`.
///
/// # Errors
/// [`Error::Config`] for an unknown name; [`Error::Data`] for a config that cannot be read.
pub fn shape(name: &str) -> Result<ModelConfig> {
    if name.ends_with(".json") {
        return ModelConfig::read(name.as_ref());
    }
    let unknown = || Error::Config {
        problems: vec![format!("--shape {name}: use a config.json or one of {}", PRESETS.join(", "))],
    };
    preset(name).ok_or_else(unknown)
}

/// Decode: every sequence past its prompt, one token each a step.
///
/// # Errors
/// [`Error::Config`] when the model's context is too short; what the device refuses.
pub fn decode(dev: &Device, w: &Weights, sizes: Sizes) -> Result<(Ran, Recording)> {
    let Sizes { batch, prompt, steps } = sizes;
    let mut engine = decoding(dev, w, sizes, false)?;
    dev.start_recording(CAPACITY)?;
    for _ in 0..steps {
        let _step = dev.phase(STEP);
        engine.step(w)?;
        dev.wait()?;
    }
    let title = format!("decode on {}, {batch} sequences after prompts of {prompt}", dev.name());
    Ok((Ran { what: "decode", title, device: dev.name(), note: note(dev) }, dev.stop_recording()?))
}

/// An engine whose next steps decode every sequence, from graphs or not; one more than `sizes` says.
///
/// # Errors
/// As [`decode`].
pub(super) fn decoding(dev: &Device, w: &Weights, sizes: Sizes, graphs: bool) -> Result<Engine> {
    let new = WARM + sizes.steps + 1;
    let config = EngineConfig { graphs, ..engine_config(&w.config, sizes, new)? };
    let mut engine = Engine::new(dev, &w.config, config)?;
    add(&mut engine, w, sizes, new, 0)?;
    let mut prefilled = 0;
    while prefilled < (sizes.batch * sizes.prompt) as u64 {
        engine.step(w)?;
        prefilled += engine.take_stats().rows_prefill;
    }
    for _ in 1..WARM {
        engine.step(w)?;
    }
    dev.wait()?;
    Ok(engine)
}

/// An engine whose next steps, as many as there are to do, are prefill.
///
/// # Errors
/// As [`decode`].
pub(super) fn prefilling(dev: &Device, w: &Weights, sizes: Sizes) -> Result<Engine> {
    let mut engine = Engine::new(dev, &w.config, engine_config(&w.config, sizes, 1)?)?;
    add(&mut engine, w, sizes, 1, 0)?;
    Ok(engine)
}

/// Prefill: every prompt, and its first token; no prefix is shared.
///
/// # Errors
/// As [`decode`].
pub fn prefill(dev: &Device, w: &Weights, sizes: Sizes) -> Result<(Ran, Recording)> {
    let Sizes { batch, prompt, steps } = sizes;
    let mut engine = Engine::new(dev, &w.config, engine_config(&w.config, sizes, 1)?)?;
    for step in 0..=steps {
        if step == 1 {
            dev.wait()?;
            dev.start_recording(CAPACITY)?;
        }
        add(&mut engine, w, sizes, 1, step as u64)?;
        {
            let _step = dev.phase(STEP);
            while engine.step(w)? {}
            dev.wait()?;
        }
        while let Some(seq) = engine.next_finished().map(|turn| turn.seq) {
            engine.release(seq);
        }
    }
    let title = format!("prefill on {}, {batch} prompts of {prompt}", dev.name());
    Ok((Ran { what: "prefill", title, device: dev.name(), note: note(dev) }, dev.stop_recording()?))
}

/// Whole GRPO steps of a config: rollout, credit, update; the first is not recorded.
///
/// # Errors
/// As [`Setup::open`]; what the device refuses.
pub fn train(config: &Config, steps: usize) -> Result<(Ran, Recording)> {
    let mut config = config.clone();
    config.grpo.steps = steps + 1;
    let setup = Setup::open(&config)?;
    let (mut trainer, _) = Trainer::new(&setup)?;
    // A step writes its episodes somewhere.
    let path = std::env::temp_dir().join(format!("haggle-profile-{}.jsonl", std::process::id()));
    let mut log = Log::open(&path, 0)?;
    let dev = setup.dev.clone();
    let mut run = || -> Result<Recording> {
        trainer.step(&setup, 1, &mut log, &mut |_| ())?;
        dev.wait()?;
        dev.start_recording(CAPACITY)?;
        for step in 0..steps as u64 {
            let _step = dev.phase(STEP);
            trainer.step(&setup, step + 2, &mut log, &mut |_| ())?;
            dev.wait()?;
        }
        dev.stop_recording()
    };
    let recording = run();
    // What is left behind in the temporary folder harms nobody.
    let _ = std::fs::remove_file(&path);
    let title = format!("train on {}, {} episodes a step", dev.name(), setup.episodes_a_step());
    Ok((Ran { what: "train", title, device: dev.name(), note: note(&dev) }, recording?))
}

/// Checks sizes, and plans the engine of [`decode`] or [`prefill`] for a model.
///
/// # Errors
/// [`Error::Config`] when the model's context is too short.
pub fn planned(plan: &mut Plan, shape: &ModelConfig, sizes: Sizes, decodes: bool) -> Result<()> {
    let new = if decodes { WARM + sizes.steps + 1 } else { 1 };
    Engine::planned(plan, shape, engine_config(shape, sizes, new)?).map(drop)
}

fn engine_config(shape: &ModelConfig, sizes: Sizes, new: usize) -> Result<EngineConfig> {
    let zero = [("--batch", sizes.batch), ("--prompt", sizes.prompt), ("--steps", sizes.steps)];
    let mut problems: Vec<String> =
        zero.iter().filter(|(_, n)| *n == 0).map(|(option, _)| format!("{option} must be 1 or more")).collect();
    let (tokens, context) = (sizes.prompt.saturating_add(new), shape.max_position_embeddings);
    if tokens > context {
        problems.push(format!("{tokens} tokens a sequence do not fit the model's context of {context}"));
    }
    if !problems.is_empty() {
        return Err(Error::Config { problems });
    }
    Ok(EngineConfig { prefix_reuse: false, ..EngineConfig::sized_for(sizes.batch, tokens) })
}

/// Adds a batch of random prompts.
fn add(engine: &mut Engine, w: &Weights, sizes: Sizes, new: usize, round: u64) -> Result<()> {
    for stream in 0..sizes.batch as u64 {
        let noise = Noise::new(round, stream);
        let prompt: Vec<i32> = (0..sizes.prompt as u64).map(|i| noise.below(i, w.config.vocab_size) as i32).collect();
        engine.add(&prompt, Sampling::plain(1.0, new, -1), NoiseKey { seed: round, stream })?;
    }
    Ok(())
}
