//! `haggle train --dry-run`: whether a run fits, how long about, and on what; then estimates of tokens and work. With
//! `--verbose` the config and every buffer too.
//!
//! The one idea: tokens are counted on dialogues that scripted players play over the run's own products, in the run's own
//! tokenizer; work follows from the model's shape; time from a matrix product measured here. Estimates are called so.

use super::dry_ranks::{RankArgs, cuts, done_in_update, moment_bytes, sent_bytes};
use super::{Exit, doctor, out};
use crate::config::Config;
use crate::dist::sent::fullest;
use crate::dist::{Ranks, lanes};
use crate::error::{Result, mib};
use crate::model::flops::{head_flops, row_flops, unread_row_flops};
use crate::model::{ModelConfig, Phase, Plan};
use crate::negotiate::{Buyer, Seller, Side, play};
use crate::noise::Noise;
use crate::setup::{Frozen, Setup, known};
use crate::sft::teach;
use crate::tasks;
use crate::text::{Chat, Transcript};
use crate::train::held_out;
use serde_json::json;
use std::time::Duration;

/// Dialogues played to count tokens.
const PLAYED: usize = 32;

/// Prints all of it.
///
/// # Errors
/// Everything that a real run would refuse before its first step.
pub fn print(config: &Config, on_paper: &RankArgs, verbose: bool, as_json: bool) -> Result<Exit> {
    let dev = config.open_device()?;
    let ranks = on_paper.on_paper(&dev, config)?;
    let plan = teach::fits(&dev, config, &ranks)?;
    let setup = Setup::open_on(dev, config)?;
    setup.seller.probe()?;
    tasks::fit_run(&setup)?;
    let warning = known::warn(config, &[&config.model.base, &config.model.seller], &[&setup.train, &setup.held_out])?;
    out::known(setup.notes.iter().chain(&warning));
    let work = Work::of(&setup)?;
    let gflops = doctor::gemm_gflops(&setup.dev, Duration::from_millis(500))?;
    let looks = held_out::count(config);
    let all_flops = work.step_flops * config.grpo.steps as f64 + work.look_flops * looks as f64 + work.eval_flops;
    let world = ranks.world() as f64;
    let (least_s, step_s) = (all_flops / gflops / 1e9 / world, work.step_flops / gflops / 1e9 / world);
    let sends = on_paper.sends(config, &ranks, &plan, work.trained_tok)?;
    if as_json {
        let mut report = json!({
            "config": config, "plan_bytes": bytes_of_groups(&plan), "total_bytes": plan.total_bytes(),
            "parameters": work.parameters, "train_products": setup.train.len(), "held_out_products": setup.held_out.len(),
            "tokens_a_step": work.step_tok.round(), "trained_tokens_a_step": work.trained_tok.round(),
            "flops_a_step": work.step_flops.round(), "eval_flops": work.eval_flops.round(), "gemm_gflops": gflops,
            "evaluations_in_training": looks, "flops_an_evaluation_in_training": work.look_flops.round(),
            "time_at_least_s": least_s, "seller": seller(&setup),
        });
        if let Some(sends) = &sends {
            report["ranks"] = json!({
                "world": ranks.world(), "rank": ranks.rank(), "lanes_a_rank": config.dist.lanes / ranks.world(),
                "moment_bytes": moment_bytes(&plan), "sends": sends.json(step_s),
            });
        }
        out::line(&report.to_string());
        return Ok(Exit::Done);
    }
    if verbose {
        out::print(&format!("{}\n# memory plan\n\n{plan}\n# estimates\n\n", config.to_toml(false)));
    }
    let free = setup.dev.room().map_or(String::new(), |room| format!(", where {} are free", room.of_total()));
    let mut rows = vec![
        ("fits", format!("yes: {} on {}{free}", mib(plan.total_bytes() as u64), setup.dev.name())),
        ("time", format!("about {}: {gflops:.1} GFLOP/s in a large matrix product, {}", span(least_s), on(config))),
        ("model", format!("{} parameters", work.parameters)),
        ("products", format!("{} to train on, {} held out", setup.train.len(), setup.held_out.len())),
        (
            "episodes",
            format!(
                "{} a step, {} in {} steps",
                setup.episodes_a_step(),
                setup.episodes_a_step() * config.grpo.steps,
                config.grpo.steps
            ),
        ),
        (
            "tokens",
            format!(
                "about {:.0} a step through both models, {:.0} of them trained on",
                work.step_tok, work.trained_tok
            ),
        ),
        (
            "work",
            format!(
                "about {:.1} GFLOP a step, {:.1} GFLOP in the final evaluation",
                work.step_flops / 1e9,
                work.eval_flops / 1e9
            ),
        ),
        ("evaluation", evaluations(config, &work, gflops)),
        ("seller", seller(&setup)),
        ("ranks", if sends.is_some() { planned(&ranks, config, &plan) } else { possible(config, &plan, &work)? }),
        ("run", config.run.out.clone()),
    ];
    if let Some([sent, takes]) = sends.map(|sends| sends.lines(step_s)) {
        rows.splice(rows.len() - 1..rows.len() - 1, [("sends", sent), ("links", takes)]);
    }
    out::print(&out::pairs(&rows));
    out::line("\nNothing was started.");
    Ok(Exit::Done)
}

/// What evaluation during training costs, and what of the run's time that is.
fn evaluations(config: &Config, work: &Work, gflops: f64) -> String {
    let n = held_out::count(config);
    if n == 0 {
        return "after the last step alone (eval.every is 0)".into();
    }
    let (flops, steps) = (work.look_flops * n as f64, work.step_flops * config.grpo.steps as f64);
    format!(
        "also {n} times while training (eval.every), {:.1} GFLOP each, about {} in all: {:.0} % of the steps' work",
        work.look_flops / 1e9,
        span(flops / gflops / 1e9),
        100.0 * flops / steps
    )
}

/// What the rank of the plan holds.
fn planned(ranks: &Ranks, config: &Config, plan: &Plan) -> String {
    let (rank, world, moments) = (ranks.rank(), ranks.world(), mib(moment_bytes(plan) as u64));
    let lanes = config.dist.lanes / world;
    let [plays, learns] = [Phase::Plays, Phase::Learns].map(|phase| plan.phase_bytes(phase) as u64);
    let phases = match plays + learns {
        0 => String::new(),
        _ => format!("; {} while it plays or {} while it learns, the larger counts", mib(plays), mib(learns)),
    };
    format!(
        "{world}, a device each; the plan is rank {rank}'s, of the longest shard: {moments} of moments, {lanes} of the lanes{phases}"
    )
}

/// What each of several ranks would hold of the moments, and send.
fn possible(config: &Config, plan: &Plan, work: &Work) -> Result<String> {
    let (lanes, moments) = (config.dist.lanes, moment_bytes(plan));
    let update_tok = work.trained_tok / config.grpo.optimizer_steps_per_batch as f64;
    let of = |world: usize| -> Result<String> {
        let cuts = cuts(config, plan, world)?;
        let sent = sent_bytes(config, plan, world, done_in_update(config, world, update_tok)?)?;
        let own = moments / cuts.n_elements().max(1) * cuts.kept(fullest(&cuts)).len();
        let [own, sent] = [own as u64, sent.iter().sum()].map(mib);
        Ok(format!("{world} of them hold {own} of moments and send {sent} an update each (--ranks {world})"))
    };
    let all = (2..=lanes).filter(|world| lanes::divides(*world, lanes)).map(of).collect::<Result<Vec<_>>>()?;
    Ok(if all.is_empty() { "one, for there is one lane (dist.lanes)".into() } else { all.join("; ") })
}

/// The threads that it would run on.
fn on(config: &Config) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if config.threads == 0 { cores } else { config.threads };
    let busy = if threads > cores { "; more than there are help nothing" } else { "" };
    format!("threads {threads} of {cores}{busy}")
}

/// Who the frozen seller is. A server has answered by now.
fn seller(setup: &Setup) -> String {
    match &setup.seller {
        Frozen::Base | Frozen::Model(_) => setup.config.model.seller.clone(),
        Frozen::Remote(server) => {
            let model = server.model().unwrap_or_default();
            format!("{model} at {}, which answers; a run against it reproduces only as far as it does", server.url())
        }
    }
}

/// Prints a plan of memory alone.
pub fn print_plan(plan: &Plan, as_json: bool) -> Exit {
    if as_json {
        let report = json!({ "plan_bytes": bytes_of_groups(plan), "total_bytes": plan.total_bytes() });
        out::line(&report.to_string());
    } else {
        out::print(&format!("# memory plan on {}\n\n{plan}", plan.device().name()));
        out::line("\nNothing was started.");
    }
    Exit::Done
}

fn bytes_of_groups(plan: &Plan) -> serde_json::Map<String, serde_json::Value> {
    plan.groups().into_iter().map(|(group, bytes)| (group.into(), json!(bytes))).collect()
}

/// Estimates of a run.
struct Work {
    parameters: usize,
    /// Tokens of a step's episodes, both sides.
    step_tok: f64,
    /// Tokens packed for the update: the buyer's transcripts, the prompt of a group once where it is shared.
    trained_tok: f64,
    step_flops: f64,
    /// One evaluation during training: the policy alone.
    look_flops: f64,
    eval_flops: f64,
}

impl Work {
    fn of(setup: &Setup) -> Result<Work> {
        let buyer = &setup.base;
        let b = Spoken::mean(setup, Side::Buyer, &buyer.chat)?;
        // What a server reads and computes is not ours.
        let seller = setup.seller_model();
        let s = seller.map_or(Ok(Spoken::NOTHING), |seller| Spoken::mean(setup, Side::Seller, &seller.chat))?;
        let (b_model, s_model) = (&buyer.weights.config, &seller.unwrap_or(buyer).weights.config);
        let group = setup.config.rollout.group_size as f64;
        let packed = if setup.config.train.share_prefix { group } else { 1.0 };
        let eval = &setup.config.eval;
        let playing = |group| b.played_flops(b_model, group) + s.played_flops(s_model, group);
        // A model's games share a product's prompt among its rollouts; a script's are played by the seller alone.
        let untrained = eval.rollouts.max(eval.best_of) as f64;
        let trained = eval.rollouts as f64;
        let a_product =
            untrained * playing(untrained) + trained * playing(trained) + trained * s.played_flops(s_model, trained);
        let episodes = setup.episodes_a_step() as f64;
        let whole = if setup.config.lora.rank == 0 { 1.0 } else { 0.0 };
        Ok(Work {
            parameters: buyer.weights.layout.n_params(),
            step_tok: episodes * (b.all + s.all),
            trained_tok: episodes * b.run(packed),
            // Backward is two forwards' worth of products; under an adapter one, for frozen matrices have no gradient.
            step_flops: episodes * (playing(group) + (2.0 + whole) * b.packed_flops(b_model, packed)),
            look_flops: setup.held_out.len() as f64 * trained * playing(trained),
            eval_flops: setup.held_out.len() as f64 * a_product,
        })
    }
}

/// Mean tokens of one side's transcript.
struct Spoken {
    /// All of them.
    all: f64,
    /// The system prompt, which the rollouts of a product share.
    prompt: f64,
    /// Those the side said itself.
    said: f64,
}

impl Spoken {
    const NOTHING: Spoken = Spoken { all: 0.0, prompt: 0.0, said: 0.0 };

    /// Over dialogues of scripted players on the run's products.
    fn mean(setup: &Setup, side: Side, chat: &Chat) -> Result<Spoken> {
        let n = PLAYED.min(setup.train.len()).max(1);
        let mut sum = Spoken { all: 0.0, prompt: 0.0, said: 0.0 };
        for i in 0..n {
            let product = &setup.train[i * setup.train.len() / n];
            let episode =
                play(Buyer::Naive, Seller::Teacher, product, setup.rules, Noise::new(setup.config.seed, i as u64));
            let mut transcript = Transcript::new(chat, &episode.system_prompt(side))?;
            sum.prompt += transcript.len() as f64 / n as f64;
            for (heard, said) in episode.dialogue(side) {
                transcript.push_incoming(chat, heard)?;
                let mut ids = chat.tokenizer.encode(said)?;
                ids.push(chat.end());
                sum.said += ids.len() as f64 / n as f64;
                transcript.push_sampled(&ids, &vec![0.0; ids.len()]);
            }
            sum.all += transcript.len() as f64 / n as f64;
        }
        Ok(sum)
    }

    /// FLOPs of playing it once, when `group` rollouts share the prompt.
    fn played_flops(&self, model: &ModelConfig, group: f64) -> f64 {
        let heard = (self.run(group) - self.said) * unread_row_flops(model, self.keys());
        heard + self.said * (row_flops(model, self.keys()) + head_flops(model))
    }

    /// Rows of it that are run, when `group` rollouts share the prompt.
    fn run(&self, group: f64) -> f64 {
        self.all - self.prompt * (1.0 - 1.0 / group)
    }

    /// FLOPs of one packed forward, when `group` rollouts share the prompt.
    fn packed_flops(&self, model: &ModelConfig, group: f64) -> f64 {
        self.run(group) * row_flops(model, self.keys()) + self.said * head_flops(model)
    }

    /// A token sees half of the others on average.
    fn keys(&self) -> f64 {
        self.all / 2.0
    }
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
