//! `haggle eval`: a model against sellers on held-out products, beside the baselines.

use super::progress::Live;
use super::{Exit, Globals, out, path_text, quoted, signals, tables};
use crate::config::paths::spelled;
use crate::config::{Config, SELLERS, is_address};
use crate::embedded;
use crate::error::{Error, Result, shown};
use crate::eval::protocol::{Beside, Protocol, protocol};
use crate::eval::{Report, make_folder};
use crate::negotiate::metrics::Row;
use crate::setup::Setup;
use crate::setup::{base, known, memory};
use crate::tasks::game::Opponent;
use crate::tasks::{self, Entrant};
use clap::Args;
use std::path::{Path, PathBuf};

/// Options of `haggle eval`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle eval --model runs/001                                    the run's own products, held-out part
  haggle eval --model runs/001 --products DIR --seller all        every scripted seller and persona too
  haggle eval --model DIR --products DIR --seller boulware --rollouts 8 --json
  haggle eval --model runs/001 --seller http://127.0.0.1:8000/v1  a seller behind a server; its key from OPENAI_API_KEY
  haggle eval --model runs/001 --out runs/001/eval                a folder of its own; what is there is never replaced
  haggle eval --model runs/001 --protocol paper --products DIR    as arXiv:2604.09855 does, beside its own row
  haggle eval --model runs/001 --set eval.products=20             fewer products")]
pub struct EvalArgs {
    /// Run directory, checkpoint or model folder
    #[arg(long, value_name = "RUN|DIR", value_parser = super::path())]
    model: PathBuf,
    /// Folder of AmazonHistoryPrice files (default: what the run trained on)
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    products: Option<PathBuf>,
    #[arg(long, value_name = "NAME|DIR|URL", value_parser = super::path(), help = counterparties())]
    seller: Option<PathBuf>,
    /// Rollouts a product and buyer
    #[arg(long, value_name = "N")]
    rollouts: Option<usize>,
    /// Play as a published evaluation does and print its table beside its own row: paper (arXiv:2604.09855)
    #[arg(long, value_name = "NAME", conflicts_with = "recipe")]
    protocol: Option<String>,
}

/// Evaluates and prints the rows; with `--out`, writes them there too, into a folder that holds nothing of the kind yet.
///
/// # Errors
/// Everything wrong with config, model, products or the folder, before a game is played.
pub fn run(args: &EvalArgs, globals: &Globals) -> Result<Exit> {
    let (eval_seller, model_seller) = counterparty(args.seller.as_deref())?;
    let flags = [
        ("--products", "products.path", args.products.as_deref().map(path_text)),
        ("--seller", "eval.seller", eval_seller.map(quoted)),
        ("--seller", "model.seller", model_seller.as_deref().map(path_text)),
        ("--rollouts", "eval.rollouts", args.rollouts.map(|n| n.to_string())),
    ];
    let protocol = args.protocol.as_deref().map(protocol).transpose()?;
    let config = config(&args.model, globals, protocol.as_ref(), &flags)?;
    let name = spelled(&args.model);
    let dev = config.open_device()?;
    let plan = memory::fit(&dev, &config, &|config, plan| memory::of_evaluation(config, &name, plan))?;
    if let Some(folder) = &globals.out {
        make_folder(folder)?;
    }
    let setup = Setup::open_on(dev, &config)?;
    let model = base::open_beside(&setup.dev, &name, &setup.config, &[&setup.base])?;
    let (mut task, scripts) = (tasks::named("game")?, Opponent::named(&setup.config.eval.seller)?);
    let frozen_plays = scripts.iter().any(|opponent| matches!(opponent, Opponent::Model(_)));
    tasks::fit(&setup, &mut *task, &[&setup.base, &model], frozen_plays, &[&setup.held_out])?;
    if frozen_plays {
        setup.seller.probe()?;
    }
    let mut players = vec![config.model.base.as_str(), &name];
    players.extend(frozen_plays.then_some(config.model.seller.as_str()));
    let warning = known::warn(&config, &players, &[&setup.held_out])?;
    out::known(setup.notes.iter().chain(&warning));
    let models = [
        Entrant { name: "untrained", weights: &setup.base.weights, chat: &setup.base.chat },
        Entrant { name: "trained", weights: &model.weights, chat: &model.chat },
    ];
    signals::leaves(|| "left; nothing was written".into());
    let mut live = Live::new();
    live.say(&memory::line(&setup.dev, &plan));
    let report = task.evaluate(&setup, &models, &mut |buyer, seller, done, of| {
        live.evaluation(buyer, seller, done, of);
    });
    live.end();
    let mut report = report?;
    let beside = |of: &Protocol| Beside::new(of, &setup.config, setup.held_out.len());
    report.beside = protocol.as_ref().map(beside);
    let written = globals.out.as_deref().map_or(Ok(()), |folder| report.write(folder));
    let rows = report.table.rows();
    out::known(&tables::broken(&rows));
    out::known(&tables::void(&report.void));
    print(&report, &rows, globals.json)?;
    // What was played is shown, also when it cannot be kept.
    written.map(|()| Exit::Done)
}

/// The config of a call: the run's own or `--config`, what a protocol sets, then what the user says.
fn config(
    model: &Path,
    globals: &Globals,
    protocol: Option<&Protocol>,
    flags: &[(&str, &str, Option<String>)],
) -> Result<Config> {
    let file = globals.file_for(model);
    let trained = file.is_some() || spelled(model) == embedded::NAME;
    let mut overrides = protocol.map_or(vec![], |protocol| protocol.overrides(trained));
    overrides.extend(globals.overrides(flags)?);
    globals.load(file.as_deref(), &overrides)
}

/// The rows, differences, and what a protocol puts beside them; with `--json` the rows alone, or an object of both.
fn print(report: &Report, rows: &[Row], json: bool) -> Result<()> {
    if json {
        let rows = report.summary()?;
        let text = match &report.beside {
            None => serde_json::to_string_pretty(&rows),
            Some(beside) => serde_json::to_string_pretty(&serde_json::json!({ "rows": rows, "beside": beside })),
        };
        out::line(&text.map_err(|e| Error::data("rows", e))?);
        return Ok(());
    }
    let mut text =
        format!("{}\n{}\n\n{}", tables::rows(rows), tables::LEGEND, tables::differences(&report.differences));
    if let Some(beside) = &report.beside {
        text += &format!("\n{}", tables::protocol(rows, beside));
    }
    out::print(&text);
    Ok(())
}

/// The help of `--seller`.
fn counterparties() -> String {
    format!(
        "The counterparty: {} (base is the run's frozen seller, then come personas of it, then scripts), self (the starting \
         weights), a model folder or run directory, or the address of a server as http://host:8000/v1",
        SELLERS.join(", ")
    )
}

/// What `--seller` means: the keys `eval.seller` and `model.seller`.
fn counterparty(seller: Option<&Path>) -> Result<(Option<&str>, Option<PathBuf>)> {
    let Some(path) = seller else { return Ok((None, None)) };
    match path.to_str() {
        Some(name) if SELLERS.contains(&name) => Ok((Some(name), None)),
        Some(text) if text == "self" || text == embedded::NAME || is_address(text) => {
            Ok((Some("base"), Some(path.into())))
        }
        _ if path.is_dir() => Ok((Some("base"), Some(path.into()))),
        _ => {
            let (names, own) = (SELLERS.join(", "), shown(path));
            let what =
                format!("--seller {own}: no such seller or folder; use {names}, self, a folder or http://host:8000/v1");
            Err(Error::Config { problems: vec![what] })
        }
    }
}
