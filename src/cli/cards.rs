//! `haggle train --dry-run --card GB`: what training and serving hold on cards that need not be here.

use super::dry_ranks::RankArgs;
use super::{Exit, out};
use crate::config::Config;
use crate::config::paths::place;
use crate::error::{Error, Result, mib};
use crate::model::Plan;
use crate::model::config::{PRESETS, preset};
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
    if as_json {
        let rows: Vec<Value> = all.iter().map(row).collect();
        out::line(&json!({ "model": name, "cards": rows, "ranks": on_paper.world() }).to_string());
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
    out::line("Nothing was started.");
    Ok(Exit::Done)
}

fn row(need: &Need) -> Value {
    let groups: Map<String, Value> = need.groups.iter().map(|(group, bytes)| ((*group).into(), json!(bytes))).collect();
    json!({
        "what": need.what, "card_gb": need.card_gb, "plan_bytes": groups, "total_bytes": need.bytes,
        "free_bytes": need.free_bytes, "fits": need.fits(), "advice": need.advice,
    })
}
