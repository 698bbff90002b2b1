//! `haggle train --dry-run --ranks N`: what one of N ranks would hold, what it would send, and how long that takes.
//!
//! The one idea: the plan is made by the code that allocates, for a rank that is not there; bytes are those of the formula in
//! `dist/sent.rs`, which runs report beside what they really sent. Links are assumed at the speed that is stated.

use crate::config::Config;
use crate::device::Device;
use crate::dist::sent::{Done, Sizes, fullest, most_sent_bytes};
use crate::dist::{Cuts, Experts, Ranks, Shard, lanes};
use crate::error::{Result, mib};
use crate::model::{Checkpoint, Layout, ModelConfig, Plan};
use crate::setup::base;
use crate::train::rl;
use clap::Args;
use serde_json::{Value, json};

/// Links that are there where none is named, in bytes a second: a direction of NVLink between GPUs of a node, and a network
/// card of 400 Gb/s between nodes.
const LINKS: [(f64, &str); 2] = [(450e9, " (NVLink)"), (50e9, " (a network card of 400 Gb/s)")];

/// Ranks that are not there.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ranks on paper, with --dry-run")]
pub struct RankArgs {
    /// Plan for one of so many ranks, each with a device of its own: what it holds and sends; they must divide dist.lanes
    #[arg(long, value_name = "N", requires = "dry_run", value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    ranks: Option<u64>,
    /// Bytes a second that a rank sends [default: 450e9 and 50e9]
    #[arg(long, value_name = "BYTES", requires = "ranks", value_delimiter = ',', value_parser = speed)]
    link: Vec<f64>,
}

/// A number of something a second.
pub fn speed(text: &str) -> std::result::Result<f64, String> {
    let wrong = || "must be a number a second above 0, for example 450e9".to_string();
    text.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0).ok_or_else(wrong)
}

impl RankArgs {
    /// How many ranks are asked about.
    pub fn world(&self) -> usize {
        self.ranks.map_or(1, |n| n as usize)
    }

    /// The rank to plan for: of those on paper the one that holds most, or the one that is here.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for ranks that do not divide the lanes; what is wrong with the models' shapes.
    pub fn on_paper(&self, dev: &Device, config: &Config) -> Result<Ranks> {
        let world = self.world();
        if world == 1 {
            return Ok(Ranks::alone());
        }
        lanes::fit(world, config.dist.lanes)?;
        let mut plan = Plan::dry(dev);
        rl::planned_on(&Ranks::on_paper(0, world), config, &mut plan)?;
        Ok(Ranks::on_paper(fullest(&cuts(config, &plan, world)?), world))
    }

    /// What a rank of a plan sends, where several are asked about and a step learns from about so many tokens.
    ///
    /// # Errors
    /// What is wrong with the model's shape.
    pub fn sends(&self, config: &Config, ranks: &Ranks, plan: &Plan, step_tok: f64) -> Result<Option<Sends>> {
        let links = match &self.link[..] {
            [] => LINKS.map(|(speed, name)| (speed, name.to_string())).into(),
            own => own.iter().map(|speed| (*speed, String::new())).collect(),
        };
        let (world, updates) = (ranks.world(), config.grpo.optimizer_steps_per_batch);
        let done = done_in_update(config, world, step_tok / updates as f64)?;
        let sent = |done: Done| sent_bytes(config, plan, world, done);
        let [gradients, weights, rows] = sent(done)?;
        let [_, together, _] = sent(Shard::of(&config.dist.shard).done_to_play())?;
        Ok((world > 1).then_some(Sends { gradients, weights, rows, together, updates, done, links }))
    }
}

/// How what a config trains is cut over ranks; of an adapter the plan knows its size.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn cuts(config: &Config, plan: &Plan, world: usize) -> Result<Cuts> {
    match Shard::of(&config.dist.shard) {
        Shard::Moments => Ok(Cuts::whole(bytes(plan, "gradients", "weights") / size_of::<f32>(), world)),
        shard @ (Shard::Gradients | Shard::Weights) => {
            let layout = Layout::new(&base::shape(&config.model.base, config)?);
            Ok(shard.cuts(&layout.buckets(), world, Experts::of(&config.dist.experts)))
        }
    }
}

/// What a rank does in an update that learns from about so many tokens.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn done_in_update(config: &Config, world: usize, update_tok: f64) -> Result<Done> {
    let (lanes, most) = (config.dist.lanes, config.grpo.micro_batch_tokens as f64);
    let rounds = (update_tok / lanes as f64 / most).ceil().max(1.0) as u64;
    let done = Shard::of(&config.dist.shard).done_in_update(rounds, (lanes / world).max(1) as u64);
    let [rows, rows_back] = match Experts::of(&config.dist.experts) {
        Experts::Everywhere => [0; 2],
        Experts::Spread => sent_rows(config, &base::shape(&config.model.base, config)?, world, update_tok),
    };
    Ok(Done { rows, rows_back, ..done })
}

/// Rows that a rank sends to experts elsewhere and back from its own in an update, were tokens routed evenly: there and back in a
/// forward and in a layer's second one, where it has that; for the backward there their gradients, and once more the rows
/// where they did not stay, and back the rows' gradients.
fn sent_rows(config: &Config, shape: &ModelConfig, world: usize, update_tok: f64) -> [u64; 2] {
    let rows = update_tok / world as f64 * shape.mlp_rows(1).0 as f64 * (world - 1) as f64 / world as f64;
    let (all, others) = (shape.num_hidden_layers as f64, shape.num_hidden_layers as f64 - 1.0);
    let [there, back] = match config.checkpoint() {
        Checkpoint::None => [2.0 * all + others, 2.0 * all],
        Checkpoint::Layers => [2.0 * all + others; 2],
    };
    [(rows * there) as u64, (rows * back) as u64]
}

/// What the rank that sends most sends for what was done: of gradients, of weights, and of rows of experts.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn sent_bytes(config: &Config, plan: &Plan, world: usize, done: Done) -> Result<[u64; 3]> {
    let (shape, weight) = (base::shape(&config.model.base, config)?, read_bytes(config));
    let sizes = Sizes { weight, layers: shape.num_hidden_layers, rows: [weight * shape.hidden_size; 2] };
    Ok(most_sent_bytes(&cuts(config, plan, world)?, sizes, done))
}

/// Bytes of what forwards read of a trained parameter.
pub fn read_bytes(config: &Config) -> usize {
    if config.model.dtype == "bf16" && config.lora.rank == 0 { 2 } else { 4 }
}

/// Bytes of a plan's moments.
pub fn moment_bytes(plan: &Plan) -> usize {
    bytes(plan, "optimizer", "first moments") + bytes(plan, "optimizer", "second moments")
}

fn bytes(plan: &Plan, group: &str, name: &str) -> usize {
    plan.rows.iter().find(|row| row.group == group && row.name == name).map_or(0, |row| row.bytes)
}

/// What the rank that sends most sends.
pub struct Sends {
    /// Bytes of gradients in an update.
    gradients: u64,
    /// Bytes of weights in an update.
    weights: u64,
    /// Bytes of rows to experts and back in an update.
    rows: u64,
    /// Bytes of weights that are brought together for the step's rollout.
    together: u64,
    /// What is done in an update.
    done: Done,
    /// Updates of a step.
    updates: usize,
    /// Speeds and names of links.
    links: Vec<(f64, String)>,
}

impl Sends {
    fn step_bytes(&self) -> u64 {
        (self.gradients + self.weights + self.rows) * self.updates as u64 + self.together
    }

    /// Seconds of a step on a link, and what share of a step that is whose work takes `work_s`.
    fn on(&self, speed: f64, work_s: f64) -> (f64, f64) {
        let seconds = self.step_bytes() as f64 / speed;
        (seconds, seconds / (seconds + work_s))
    }

    /// As lines of a dry run: what is sent, and how long that takes beside a step's work of `work_s`.
    pub fn lines(&self, work_s: f64) -> [String; 2] {
        let Sends { updates, done, .. } = self;
        let [gradients, weights, rows, together] = [self.gradients, self.weights, self.rows, self.together].map(mib);
        let times = if done.sums > 1 { format!(" (about {} micro-batches)", done.sums) } else { String::new() };
        let rollout = if self.together > 0 { format!("; {together} of weights for a rollout") } else { String::new() };
        let rows = if self.rows > 0 { format!(", {rows} of rows to experts and back,") } else { String::new() };
        let sent = format!(
            "{gradients} of gradients and {weights} of weights{rows} a rank and update{times}, {updates} a step{rollout}"
        );
        let on = |(speed, name): &(f64, String)| {
            let (seconds, share) = self.on(*speed, work_s);
            let (ms, percent) = (1e3 * seconds, 100.0 * share);
            format!("{ms:.3} ms a step at {:.0} GB/s{name}, {percent:.2} % of it", speed / 1e9)
        };
        [sent, self.links.iter().map(on).collect::<Vec<_>>().join("; ")]
    }

    /// The same for machines.
    pub fn json(&self, work_s: f64) -> Value {
        let on = |(speed, _): &(f64, String)| {
            let (seconds, share) = self.on(*speed, work_s);
            json!({ "bytes_per_s": speed, "seconds_a_step": seconds, "share_of_step": share })
        };
        json!({
            "gradient_bytes_an_update": self.gradients, "gradients_an_update": self.done.sums, "weight_bytes_an_update": self.weights,
            "row_bytes_an_update": self.rows, "weight_bytes_a_rollout": self.together, "updates_a_step": self.updates, "bytes_a_step": self.step_bytes(),
            "links": self.links.iter().map(on).collect::<Vec<_>>(),
        })
    }
}
