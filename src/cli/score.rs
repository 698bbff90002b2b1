//! `haggle score`: the teacher-forced logprob of every token of given id sequences, one JSON line each.
//!
//! The whole input is checked before anything is computed; sequences are packed into micro-batches, lines come out in
//! the order they came in. The numbers are those of the training forward, and so of the rollout, to the bit.

use super::{Exit, Globals, out};
use crate::config::paths::spelled;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Activations, ModelConfig, PackedBatch, Packing, Plan, Use, Weights, forward};
use crate::setup::{base, memory};
use clap::Args;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Tokens of a micro-batch, unless one sequence is longer.
const MICRO_BATCH_TOKENS: usize = 4096;

/// Options of `haggle score`.
#[derive(Args)]
#[command(after_help = "\
Each input line is {\"ids\": [12, 7, 345]}, each output line {\"logprobs\": [null, -1.5, -0.25]}, in the same order:
logprobs[i] is the natural logarithm of the probability of ids[i] given ids[..i], at temperature 1. The first entry is
null, for nothing stands before the first token. Blank lines are passed over.

Examples:
  haggle score --model embedded --input ids.jsonl
  haggle score --model runs/001 --input ids.jsonl
  haggle score --model Qwen3-0.6B --input ids.jsonl > logprobs.jsonl
  gzip -dc ids.jsonl.gz | haggle score --model runs/001 --input -")]
pub struct ScoreArgs {
    /// Hugging Face folder, a run directory (its latest checkpoint), or `embedded`
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    model: PathBuf,
    /// File of id sequences, one JSON object a line; `-` reads standard input
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    input: PathBuf,
}

/// Prints the logprobs of every sequence of the input.
///
/// # Errors
/// [`Error::Io`], [`Error::Data`] or [`Error::Weight`] for a model or an input that cannot be used; the line is named.
pub fn run(args: &ScoreArgs, globals: &Globals) -> Result<Exit> {
    let config = globals.resolve(&[])?;
    let dev = config.open_device()?;
    let name = spelled(&args.model);
    let shape = base::shape(&name, &config)?;
    let sequences = read(&args.input, &shape)?;
    let planner = |plan: &mut Plan| {
        base::plan_frozen(plan, "model", &name, &config, &mut vec![])?;
        buffers(plan, &shape, budget(&sequences)).map(drop)
    };
    memory::fit_own(&dev, &planner, "score shorter sequences, or take a smaller model or a larger device")?;
    let w = base::weights(&dev, &name, &config)?;
    score(&dev, &w, &sequences, |logprobs| {
        if logprobs.iter().flatten().any(|l| !l.is_finite()) {
            return Err(Error::data(&args.model, "computes logprobs that are not finite: its weights are too large"));
        }
        out::line(&line(logprobs));
        Ok(())
    })?;
    Ok(Exit::Done)
}

/// One output line; each number is the shortest decimal that reads back as the same f32.
fn line(logprobs: &[Option<f32>]) -> String {
    let number = |l: &Option<f32>| l.map_or("null".into(), |l| format!("{l:?}"));
    format!("{{\"logprobs\": [{}]}}", logprobs.iter().map(number).collect::<Vec<String>>().join(", "))
}

/// The sequences of an input file or of standard input, all of them within the model's vocabulary and positions.
fn read(path: &Path, c: &ModelConfig) -> Result<Vec<Vec<i32>>> {
    let mut bytes = vec![];
    let (path, got) = match path.as_os_str() == "-" {
        true => (Path::new("standard input"), std::io::stdin().read_to_end(&mut bytes)),
        false => (path, File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))),
    };
    got.map_err(|e| Error::io(path, e))?;
    let lines = bytes.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    lines.map(|(i, line)| ids(line, c).map_err(|what| Error::data(path, format!("line {}: {what}", i + 1)))).collect()
}

fn ids(line: &[u8], c: &ModelConfig) -> Result<Vec<i32>, String> {
    let json: Value = serde_json::from_slice(line).map_err(|e| format!("column {}: not JSON", e.column()))?;
    let list = json.get("ids").and_then(Value::as_array).ok_or("want an object with a list `ids`")?;
    if list.len() > c.max_position_embeddings {
        let most = c.max_position_embeddings;
        return Err(format!("{} ids, but the model has max_position_embeddings {most}", list.len()));
    }
    let id = |(i, v): (usize, &Value)| match v.as_u64() {
        Some(id) if id < c.vocab_size as u64 => Ok(id as i32),
        _ => Err(format!("ids[{i}] is {v}, want a whole number in 0..{}", c.vocab_size)),
    };
    list.iter().enumerate().map(id).collect()
}

/// Tokens of a micro-batch of such sequences.
fn budget(sequences: &[Vec<i32>]) -> usize {
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let total: usize = sequences.iter().map(Vec::len).sum();
    longest.max(MICRO_BATCH_TOKENS.min(total)).max(1)
}

/// What a micro-batch of so many tokens is computed in.
fn buffers(plan: &mut Plan, shape: &ModelConfig, budget: usize) -> Result<(PackedBatch, Activations)> {
    let batch = PackedBatch::planned(plan, shape, budget, budget)?;
    Ok((batch, Activations::planned(plan, shape, budget, budget, Use::Score)?))
}

/// Scores sequences in micro-batches and hands each one's logprobs to `done`, in order.
fn score(
    dev: &Device,
    w: &Weights,
    sequences: &[Vec<i32>],
    mut done: impl FnMut(&[Option<f32>]) -> Result<()>,
) -> Result<()> {
    let budget = budget(sequences);
    let (mut batch, mut acts) = buffers(&mut Plan::on(dev), &w.config, budget)?;
    let mut packing = Packing::default();
    let mut rest = sequences;
    while !rest.is_empty() {
        packing.clear();
        let mut n = 0;
        // A batch has room for as many sequences as tokens: empty ones count too.
        while n < rest.len().min(budget) && packing.ids.len() + rest[n].len() <= budget {
            packing.push(&rest[n], |_| true);
            n += 1;
        }
        batch.set(dev, &packing)?;
        forward(dev, w, &batch, &mut acts, 1.0)?;
        let logprobs = dev.download::<f32>(acts.logprob())?;
        let mut at = 0;
        for ids in &rest[..n] {
            let len = ids.len().saturating_sub(1);
            let known = logprobs[at..at + len].iter().map(|l| Some(*l));
            done(&std::iter::once(None).chain(known).take(ids.len()).collect::<Vec<_>>())?;
            at += len;
        }
        rest = &rest[n..];
    }
    Ok(())
}
