//! `haggle train --dry-run --card GB`: what training and serving hold on cards that need not be here.

use super::dry_ranks::{RankArgs, Sends};
use super::{Exit, out};
use crate::config::Config;
use crate::config::paths::place;
use crate::device::Device;
use crate::error::{Error, Result, mib};
use crate::model::config::{PRESETS, preset};
use crate::model::flops::{head_flops, row_flops};
use crate::model::{Checkpoint, Plan};
use crate::setup::base;
use crate::setup::cards::{Need, Served, needs};
use crate::train::rl;
use clap::Args;
use serde_json::{Map, Value, json};

/// Cards, and what they would serve.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory of cards, with --dry-run")]
pub struct CardArgs {
    /// Plan for cards of so many GB, computing in bf16; --model may be the name of a preset: --card 80,141
    #[arg(long, value_name = "GB", value_delimiter = ',', requires = "dry_run", value_parser = clap::value_parser!(u64).range(2..=4096))]
    card: Vec<u64>,
    /// Sequences served at a time
    #[arg(long, value_name = "N", default_value_t = 64, requires = "card", value_parser = clap::value_parser!(u64).range(1..=65536))]
    serve_seqs: u64,
    /// Tokens of a sequence, trained or served
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "card", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    context: u64,
    /// FLOP/s of one card in matrix products, for how long ranks of --ranks learn
    #[arg(long, value_name = "FLOPS", default_value_t = 400e12, requires = "card", value_parser = super::dry_ranks::speed)]
    flops: f64,
}

impl CardArgs {
    /// True when cards are asked about.
    pub fn asked(&self) -> bool {
        !self.card.is_empty()
    }
}

/// Prints what fits.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn print(args: &CardArgs, on_paper: &RankArgs, mut config: Config, as_json: bool) -> Result<Exit> {
    let name = config.model.base.clone();
    if !place(&name).exists() && name != crate::embedded::NAME {
        if preset(&name).is_none() {
            let what = format!("no such folder, and no preset: {}", PRESETS.join(", "));
            return Err(Error::io(place(&name), what));
        }
        config.model.base = format!("{}{name}", base::PRESET);
    }
    let served = Served { seqs: args.serve_seqs as usize, context_tok: args.context as usize };
    let trained = |config: &Config, plan: &mut Plan| {
        let ranks = on_paper.on_paper(plan.device(), config)?;
        rl::planned_on(&ranks, config, plan)
    };
    let all = needs(&config, &trained, served, &args.card)?;
    let step = step(args, on_paper, &config)?;
    if as_json {
        let rows: Vec<Value> = all.iter().map(row).collect();
        let mut report = json!({ "model": name, "cards": rows, "ranks": on_paper.world() });
        if let Some(step) = &step {
            report["step"] = json!({
                "tokens": step.tokens, "flops_a_rank": step.flops, "learns_s": step.learns_s,
                "sends": step.sends.json(step.learns_s),
            });
        }
        out::line(&report.to_string());
        return Ok(Exit::Done);
    }
    for need in &all {
        let groups: Vec<_> = need.groups.iter().map(|(group, bytes)| format!("{group} {}", mib(*bytes))).collect();
        // Replicas serve alone.
        let shared = on_paper.world() > 1 && need.what.starts_with("training");
        let of = if shared { format!(", one of {} ranks", on_paper.world()) } else { String::new() };
        out::line(&format!("# {name}, {}, on a card of {} GB{of}\n", need.what, need.card_gb));
        let rows = [
            ("needs", format!("{} ({})", mib(need.bytes), groups.join(" + "))),
            ("free", mib(need.free_bytes)),
            ("so it", need.verdict()),
        ];
        out::line(&out::pairs(&rows));
    }
    if let Some(step) = step {
        out::line(&format!("# a step of {} ranks, every parameter\n", on_paper.world()));
        let learns = format!(
            "from {:.0} tokens, each trained on, {:.1} PFLOP a rank: {:.1} s at {:.0} TFLOP/s; a rollout comes before it",
            step.tokens,
            step.flops / 1e15,
            step.learns_s,
            args.flops / 1e12
        );
        let [sends, links] = step.sends.lines(step.learns_s);
        out::line(&out::pairs(&[("learns", learns), ("sends", sends), ("links", links)]));
    }
    out::line("Nothing was started.");
    Ok(Exit::Done)
}

/// What ranks learn and send in a step whose episodes fill their context.
struct Step {
    tokens: f64,
    /// Of one rank, in forward, backward and, with checkpoints, the forward again.
    flops: f64,
    learns_s: f64,
    sends: Sends,
}

/// A step of the ranks that are asked about.
fn step(args: &CardArgs, on_paper: &RankArgs, config: &Config) -> Result<Option<Step>> {
    if on_paper.world() == 1 {
        return Ok(None);
    }
    let (dev, mut config) = (Device::open("emu", 1)?, config.clone());
    (config.model.dtype, config.model.context, config.lora.rank) = ("bf16".into(), args.context as usize, 0);
    let (ranks, mut plan) = (on_paper.on_paper(&dev, &config)?, Plan::dry(&dev));
    rl::planned_on(&ranks, &config, &mut plan)?;
    let (shape, context) = (base::shape(&config.model.base, &config)?, args.context as f64);
    let tokens = (config.rollout.products_per_step * config.rollout.group_size) as f64 * context;
    let through = if config.checkpoint() == Checkpoint::Layers { 4.0 } else { 3.0 };
    let all = tokens * (through * row_flops(&shape, context / 2.0) + 3.0 * head_flops(&shape));
    let flops = all / ranks.world() as f64;
    let sends = on_paper.sends(&config, &ranks, &plan, tokens)?;
    Ok(sends.map(|sends| Step { tokens, flops, learns_s: flops / args.flops, sends }))
}

fn row(need: &Need) -> Value {
    let groups: Map<String, Value> = need.groups.iter().map(|(group, bytes)| ((*group).into(), json!(bytes))).collect();
    json!({
        "what": need.what, "card_gb": need.card_gb, "plan_bytes": groups, "total_bytes": need.bytes,
        "free_bytes": need.free_bytes, "fits": need.fits(), "advice": need.advice,
    })
}
