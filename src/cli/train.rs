//! `haggle train`: a run, shown while it goes on; stopped by Ctrl-C without loss; continued with `--resume`.

use super::progress::Live;
use super::together::{self, RUNS};
use super::{Exit, Globals, cards, dry_ranks, dry_run, lora_flags, out, path_text, quoted, shell, signals, tables};
use crate::config::paths::{place, spelled};
use crate::config::{Config, Override};
use crate::credit::rules::{RULES, Rule};
use crate::device::Device;
use crate::dist::board::FOLDER;
use crate::dist::{Ranks, agree};
use crate::error::{Error, Result, shown};
use crate::eval::{self, Report};
use crate::model::Weights;
use crate::run::checkpoint;
use crate::run::metrics::Metrics;
use crate::run::run_dir::RunDir;
use crate::run::tensorboard::{EventWriter, StepScalars};
use crate::setup::inputs::Inputs;
use crate::setup::{Setup, known, resume};
use crate::sft::{teach, tune};
use crate::tasks::{self, Entrant, Speaks};
use crate::train::rl::{self, Event};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Options of `haggle train`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle train                                          the embedded buyer, seller and catalog; runs/001
  haggle train --products AmazonHistoryPrice --seed 2 --out runs/real
  haggle train --model DIR --products DIR --seller http://127.0.0.1:8000/v1
                                                        a seller behind a server (vLLM, llama.cpp, ...); its key from OPENAI_API_KEY
  haggle train --steps 5 --set rollout.group_size=4     a short look
  haggle train --model DIR --lora rank=32,alpha=64      an adapter over DIR, as PEFT has it
  haggle train --task menu --credit shapley             K drafts a turn, each with its own credit
  haggle train --list-credit                            every credit, loss and reward rule
  haggle train --resume --out runs/real                 go on after Ctrl-C or a kill
  haggle train --extend 40 --out runs/real              40 steps more of a finished run
  haggle train --dry-run                                config, memory plan, estimates; starts nothing
  haggle train --dry-run --set dist.lanes=8 --ranks 8   the plan of one of 8 ranks, what it sends and how long that takes
  haggle train --dry-run --model qwen3-8b --card 80,141 what training and serving hold on cards of these GB")]
pub struct TrainArgs {
    /// Folder of AmazonHistoryPrice files (default: the embedded catalog)
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    products: Option<PathBuf>,
    /// Model folder or run directory to start from (default: the embedded model)
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    model: Option<PathBuf>,
    /// Train an adapter over the frozen weights: rank=32,alpha=64,targets=all-linear (the keys of the table lora)
    #[arg(long, value_name = "KEY=VALUE,..")]
    lora: Option<String>,
    /// The frozen seller: self (the starting weights), embedded, a model folder or run directory, or the address of a
    /// server that speaks the OpenAI protocol, as http://host:8000/v1 [default: self]
    #[arg(long, value_name = "self|DIR|URL", value_parser = super::path())]
    seller: Option<PathBuf>,
    /// Steps to train
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<usize>,
    /// What is trained: game, or replies of K candidates: menu, recommend, summary
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Who of a set of candidates earned its worth: uniform, shapley, leave_one_out, own, difference
    #[arg(long, value_name = "RULE")]
    credit: Option<String>,
    /// List every credit, loss and reward rule with its key, formula and source
    #[arg(long)]
    list_credit: bool,
    /// Continue the run in --out (default: the newest in runs/)
    #[arg(long)]
    resume: bool,
    /// Go on with the finished run in --out for so many steps more: warm-up and learning rate begin anew, as if it were a run
    /// of N steps; its last table is kept in RUN/evaluations
    #[arg(long, value_name = "N", conflicts_with_all = ["resume", "steps", "dry_run"], value_parser = clap::value_parser!(u32).range(1..))]
    extend: Option<u32>,
    /// Say whether it fits, how long it takes about and on what, and start nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// With --dry-run: the config and every buffer too
    #[arg(long, requires = "dry_run")]
    verbose: bool,
    #[command(flatten)]
    cards: cards::CardArgs,
    #[command(flatten)]
    on_paper: dry_ranks::RankArgs,
}

impl TrainArgs {
    /// Whether it goes on with a run that is there.
    fn goes_on(&self) -> bool {
        self.resume || self.extend.is_some()
    }
}

/// Trains.
///
/// # Errors
/// Everything wrong with config, products, models, run directory; training that cannot go on.
pub fn run(args: &TrainArgs, globals: &Globals) -> Result<Exit> {
    if args.list_credit {
        list_credit(globals.json);
        return Ok(Exit::Done);
    }
    let mut config = resolve(args, globals)?;
    if args.cards.asked() {
        return cards::print(&args.cards, &args.on_paper, config, globals.json);
    }
    if args.dry_run {
        return dry(config, args, globals);
    }
    let ranks = together::learners(&config)?;
    let auto = config.run.out == "auto";
    if auto {
        config.run.out = spelled(&together::claim(&ranks)?);
    }
    // Told as it was named, kept so that it can be gone on with from anywhere.
    let run_dir = place(&config.run.out);
    config.rooted();
    let (own, first) = (run_dir.clone(), ranks.is_first());
    signals::leaves(move || {
        let said = left(&own);
        if auto && first {
            give_back(&own);
        }
        said
    });
    let exit = if first {
        first_rank(&ranks, &config, args, &run_dir, auto, globals.json)?
    } else {
        other_rank(&ranks, &config, args, &run_dir)?
    };
    ranks.finish();
    Ok(exit)
}

/// What a run would be.
fn dry(mut config: Config, args: &TrainArgs, globals: &Globals) -> Result<Exit> {
    if config.run.out == "auto" {
        config.run.out = spelled(&RunDir::next_free(Path::new(RUNS)));
    }
    config.rooted();
    dry_run::print(&config, &args.on_paper, args.verbose, globals.json)
}

/// Trains as the rank that prints and writes.
fn first_rank(
    ranks: &Ranks,
    config: &Config,
    args: &TrainArgs,
    run_dir: &Path,
    auto: bool,
    json: bool,
) -> Result<Exit> {
    let mut live = Live::new();
    let mut log = None;
    let mut trouble = None;
    let finished = train_ranked(ranks, config, run_dir, args.goes_on(), signals::asked(), &mut |event| {
        live.hear(&event);
        on_signal(run_dir, &event);
        if let Err(e) = tensor_log(&event, &mut log, &mut |line| live.say(line)) {
            trouble.get_or_insert(e);
        }
        // A page that cannot be written now is written, or named, at the end.
        if let Event::Saved(_) = &event {
            let _ = crate::report::write(run_dir);
        }
    });
    live.end();
    if auto && finished.is_err() {
        give_back(run_dir);
    }
    let finished = finished.map_err(|e| goes_on(run_dir, e))?;
    if let Some(e) = trouble {
        out::note(&format!("haggle: the TensorBoard events are not complete: {e}"));
    }
    conclude(&finished, json)
}

/// Trains as any other rank.
fn other_rank(ranks: &Ranks, config: &Config, args: &TrainArgs, run_dir: &Path) -> Result<Exit> {
    let hear = &mut |event: Event| on_signal(run_dir, &event);
    let finished = train_ranked(ranks, config, run_dir, args.goes_on(), signals::asked(), hear)?;
    Ok(if finished.report.is_some() { Exit::Done } else { Exit::Interrupted })
}

/// Removes a claimed directory that a run has left before it began; one that holds anything stays.
pub fn give_back(run: &Path) {
    let _ = std::fs::remove_dir(run).and_then(|()| std::fs::remove_dir(RUNS));
}

/// How a run ended.
pub struct Finished {
    /// The run directory.
    pub run: PathBuf,
    /// Steps done.
    pub step: u64,
    /// The final table; none when it was interrupted, and then it can be resumed.
    pub report: Option<Report>,
}

/// A whole run in the run directory `run`: opened, its base taught, trained, evaluated. `stop`, once true, saves and ends it
/// after the present step.
///
/// # Errors
/// Everything that can go wrong, by name; the last checkpoint is whole whatever happens.
pub fn train(
    config: &Config,
    run: &Path,
    resume: bool,
    stop: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<Finished> {
    train_ranked(&Ranks::alone(), config, run, resume, stop, events)
}

/// The same by several ranks, each of which calls this with its own; the first one writes.
///
/// # Errors
/// As [`train`]; which rank is missing, has failed or is of another run.
pub fn train_ranked(
    ranks: &Ranks,
    config: &Config,
    run: &Path,
    resume: bool,
    stop: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<Finished> {
    let dev = ranks.agree("memory", fitting(ranks, config))?;
    let (mut setup, inputs) = ranks.agree("start", open(dev, ranks, config))?;
    together::alike(ranks, config, &setup.dev, named(&inputs)?)?;
    let dir = match ranks.is_first() {
        true => begin(run, config, &inputs, resume),
        false => Ok(RunDir::beside(run)),
    };
    let dir = together::shared(ranks, dir, run, "config.toml")?;
    ranks.board(run, Duration::from_secs_f32(config.dist.timeout_s));
    ranks.phase("supervision");
    teach::prepare(&mut setup, run, resume, &mut |done, of| events(Event::Supervised { done, of }))?;
    let mut unwritten = None;
    let trained = rl::run(&setup, &dir, resume, stop, &mut |event| {
        // Now nothing can refuse the resume any more.
        if let (true, true, Event::Ready { .. }) = (resume, ranks.is_first(), &event)
            && let Err(e) = resume::accept(run, config, &inputs)
        {
            unwritten = Some(e);
            stop.store(true, Ordering::Relaxed);
        }
        events(event);
    })?;
    if let Some(e) = unwritten {
        return Err(e);
    }
    ranks.phase("evaluation");
    let report = trained.weights.map(|weights| evaluate(&setup, &weights, run, events)).transpose()?;
    Ok(Finished { run: run.into(), step: trained.step, report })
}

/// The device of this rank, where it and the ranks fit what a config asks for: found before anything is read or held.
fn fitting(ranks: &Ranks, config: &Config) -> Result<Device> {
    let dev = together::learning_device(ranks, config)?;
    teach::fits(&dev, config, ranks)?;
    Ok(dev)
}

/// Everything that a config names, held to the device and to each other.
fn open(dev: Device, ranks: &Ranks, config: &Config) -> Result<(Setup, Inputs)> {
    let mut setup = Setup::open_on(dev, config)?;
    setup.ranks = ranks.clone();
    setup.seller.probe()?;
    tasks::fit_run(&setup)?;
    let warning = known::warn(config, &[&config.model.base, &config.model.seller], &[&setup.train, &setup.held_out])?;
    if ranks.is_first() {
        out::known(setup.notes.iter().chain(&warning));
    }
    let inputs = Inputs::of(&setup)?;
    Ok((setup, inputs))
}

/// What a run is made of, for ranks that must have it alike.
fn named(inputs: &Inputs) -> Result<agree::Fact> {
    let inputs = serde_json::to_string_pretty(inputs).map_err(|e| Error::Ranks { what: e.to_string() })?;
    Ok(("products and models", inputs))
}

/// The run directory, made or gone on in.
fn begin(run: &Path, config: &Config, inputs: &Inputs, resume: bool) -> Result<RunDir> {
    let dir = if resume { reopen(run, config, inputs)? } else { RunDir::create(run, &config.to_toml(true))? };
    if !resume {
        inputs.write(run)?;
    }
    // Of ranks that are no more.
    let _ = std::fs::remove_dir_all(run.join(FOLDER));
    dir.warnings.iter().for_each(|line| out::note(&format!("haggle: {line}")));
    Ok(dir)
}

/// A run directory to go on in, held to what it was; what its logs have lost is said.
fn reopen(run: &Path, config: &Config, inputs: &Inputs) -> Result<RunDir> {
    let dir = RunDir::reopen(run)?;
    let resumed = resume::check(&dir, config, inputs)?;
    if let Some(state) = resumed.checkpoint.as_deref().map(checkpoint::open).transpose()?
        && config.optim.restart_at > 0
        && config.optim.restart_at as u64 == state.updates
    {
        // An extension begins: the table of what was is not the table of what will be.
        eval::put_away(run, &run.join(format!("evaluations/step-{:06}", state.step)))?;
    }
    resumed.lost.iter().for_each(|line| out::note(&format!("haggle: {line}")));
    if resumed.checkpoint.is_none() {
        // It begins again. Before anything is made for it, the directory says for what.
        if resumed.anew {
            teach::forget(run)?;
        }
        resume::accept(run, config, inputs)?;
    }
    Ok(dir)
}

/// The final table: the base it began with, the task's baselines, and what was trained.
fn evaluate(setup: &Setup, trained: &Weights, run: &Path, events: &mut dyn FnMut(Event)) -> Result<Report> {
    let model = |name, weights| Entrant { name, weights, chat: &setup.base.chat, speaks: Speaks::Replies };
    let models = [model("untrained", &setup.base.weights), model("trained", trained)];
    let report = tasks::named(&setup.config.task.name)?.evaluate(setup, &models, &mut |buyer, seller, done, of| {
        events(Event::Evaluation { buyer, seller, done, of });
    })?;
    let written = if setup.ranks.is_first() { report.write(run).map(drop) } else { Ok(()) };
    setup.ranks.agree("the report", written)?;
    Ok(report)
}

/// Prints the table of rules.
fn list_credit(as_json: bool) {
    let defaults = Config::default().values();
    for Rule { key, value, line, source } in RULES {
        let default = defaults.iter().any(|(name, own)| name == key && own.trim_matches('"') == *value);
        let mark = if default { "*" } else { "" };
        match as_json {
            true => {
                let rule = json!({ "key": key, "value": value, "default": default, "line": line, "source": source });
                out::line(&rule.to_string());
            }
            false => out::line(&format!("{:<42} {line}  [{source}]", format!("{key} = {value}{mark}"))),
        }
    }
    if !as_json {
        out::line("* is the default");
    }
}

fn resolve(args: &TrainArgs, globals: &Globals) -> Result<Config> {
    let path = |path: &Option<PathBuf>| path.as_deref().map(path_text);
    let mut flags = vec![
        ("--products", "products.path", path(&args.products)),
        ("--model", "model.base", path(&args.model)),
        ("--seller", "model.seller", path(&args.seller)),
        ("--steps", "grpo.steps", args.steps.map(|n| n.to_string())),
        ("--task", "task.name", args.task.as_deref().map(quoted)),
        ("--credit", "credit.split", args.credit.as_deref().map(quoted)),
    ];
    flags.extend(lora_flags(args.lora.as_deref())?);
    if !args.goes_on() {
        return globals.resolve(&flags);
    }
    let run = match &globals.out {
        Some(out) => out.clone(),
        None => newest(Path::new(RUNS))?,
    };
    let own = run.join("config.toml");
    if !own.is_file() {
        return Err(Error::io(&run, "holds no run to resume (no config.toml); name one with --out, or drop --resume"));
    }
    if run.join(tune::SETTINGS).is_file() {
        return Err(Error::io(
            &run,
            "is a run of haggle sft; go on with haggle sft --resume, or start from it with --model",
        ));
    }
    let mut overrides = globals.overrides(&flags)?;
    overrides.push(Override { origin: "--out".into(), key: "run.out".into(), value: path_text(&run) });
    if let Some(more) = args.extend {
        overrides.extend(extension(&run, &own, more)?);
    }
    globals.load(Some(globals.config.as_deref().unwrap_or(&own)), &overrides)
}

/// What `--extend` sets for a finished run: its steps and `more`, and where the schedule begins anew.
fn extension(run: &Path, own: &Path, more: u32) -> Result<Vec<Override>> {
    let steps = Config::load(Some(own), &[])?.grpo.steps as u64;
    let state = checkpoint::latest(run)?.map(|at| checkpoint::open(&at)).transpose()?;
    let state = state.filter(|state| state.step == steps).ok_or_else(|| {
        Error::io(run, format!("has not done its {steps} steps yet; end it first with: {}", how_to_resume(run)))
    })?;
    let set = |key: &str, value: u64| Override { origin: "--extend".into(), key: key.into(), value: value.to_string() };
    Ok(vec![set("grpo.steps", steps + u64::from(more)), set("optim.restart_at", state.updates)])
}

/// The run of the highest number.
fn newest(runs: &Path) -> Result<PathBuf> {
    let nothing = || Error::io(runs, "holds no run to resume; name one with --out");
    let entries = std::fs::read_dir(runs).map_err(|_| nothing())?;
    let numbered = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let number: u64 = path.file_name()?.to_str()?.parse().ok()?;
        path.join("config.toml").is_file().then_some((number, path))
    });
    numbered.max().map(|(_, path)| path).ok_or_else(nothing)
}

/// A run that its seller was lost to says how it goes on.
fn goes_on(run: &Path, e: Error) -> Error {
    match e {
        Error::Seller { url, what } if run.join("config.toml").is_file() => {
            let saved = checkpoint::latest(run).ok().flatten();
            let name = saved.and_then(|at| Some(at.file_name()?.to_string_lossy().into_owned()));
            let saved = name.map_or(String::new(), |name| format!("; saved as {name}"));
            Error::Seller { url, what: format!("{what}{saved}; {}", how_to_resume(run)) }
        }
        other => other,
    }
}

/// What a run that is left now leaves behind, and how it goes on.
fn left(run: &Path) -> String {
    let begun = run.join("config.toml").is_file();
    match checkpoint::latest(run) {
        Ok(Some(at)) => {
            let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
            format!("left; the checkpoint {name} is whole; {}", how_to_resume(run))
        }
        _ if begun => format!("left before the first checkpoint; from the beginning, {}", how_to_resume(run)),
        _ => "left before the run began; nothing was written".into(),
    }
}

/// What a signal does where the run is: while it trains, the first one ends it after the present step.
fn on_signal(run: &Path, event: &Event) {
    let own = run.to_path_buf();
    match event {
        Event::Ready { .. } => signals::finishes("finishing the step, then saving", move || left(&own)),
        Event::Evaluation { .. } => signals::leaves(move || left(&own)),
        _ => {}
    }
}

fn how_to_resume(run: &Path) -> String {
    format!("go on with: haggle train --resume --out {}", shell::word(run))
}

/// Mirrors metrics.jsonl as TensorBoard events. On a resume the events of the steps before stay; what is missing of them is
/// made from metrics.jsonl, and said.
fn tensor_log(event: &Event, log: &mut Option<EventWriter>, say: &mut dyn FnMut(&str)) -> Result<()> {
    match event {
        Event::Ready { run, step, .. } => {
            let (dir, files) = (run.join("tensorboard"), crate::report::RunFiles::read(run)?);
            let rows: Vec<StepScalars> = files.metrics.iter().map(scalars).collect();
            let (writer, missing) = EventWriter::go_on(&dir, now_s(), *step, &rows)?;
            if missing > 0 {
                let what = "steps had no event; written from metrics.jsonl, at times counted by how long they took";
                say(&format!("haggle: {}: {missing} {what}", shown(&dir)));
            }
            *log = Some(writer);
            Ok(())
        }
        Event::Step(row) => log.as_mut().map_or(Ok(()), |writer| {
            let StepScalars { step, values, .. } = scalars(row);
            writer.scalars(now_s(), step, values)
        }),
        _ => Ok(()),
    }
}

fn scalars(row: &Metrics) -> StepScalars<'_> {
    let numbers = row.iter().filter(|(key, _)| *key != "step");
    StepScalars {
        step: row.get("step").and_then(|step| step.as_u64()).unwrap_or(0),
        seconds: row.get("time/step_s").and_then(|seconds| seconds.as_f64()).unwrap_or(0.0),
        values: numbers.filter_map(|(key, value)| Some((key.as_str(), value.as_f64()?))).collect(),
    }
}

fn now_s() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |time| time.as_secs_f64())
}

fn conclude(finished: &Finished, as_json: bool) -> Result<Exit> {
    let page = crate::report::write(&finished.run)?;
    let Some(report) = &finished.report else {
        out::note(&format!("haggle: saved at step {}; {}", finished.step, how_to_resume(&finished.run)));
        return Ok(Exit::Interrupted);
    };
    if let Some(sets) = &report.sets {
        match as_json {
            true => {
                out::line(&json!({ "run": spelled(&finished.run), "report": spelled(&page), "sets": sets }).to_string())
            }
            false => out::print(&of_sets(sets, finished, &page)?),
        }
        return Ok(Exit::Done);
    }
    let rows = report.table.rows();
    out::known(&tables::void(&report.void));
    if as_json {
        let summary = json!({ "run": spelled(&finished.run), "report": spelled(&page), "summary": rows, "differences": report.differences });
        out::line(&summary.to_string());
    } else {
        out::print(&format!("\n{}\n", tables::all(&rows, &report.differences, out::width())));
        out::line(&format!("checkpoint  haggle chat --model {}", shell::word(&finished.run)));
        best(&finished.run)?.iter().for_each(|line| out::line(line));
        out::line(&format!("report      {}", shell::word(&page)));
        if let Some(line) = shared(&crate::report::RunFiles::read(&finished.run)?.metrics) {
            out::line(&line);
        }
    }
    Ok(Exit::Done)
}

/// The end of a run of a set task: its table, and where the rest is.
fn of_sets(sets: &serde_json::Value, finished: &Finished, page: &Path) -> Result<String> {
    let table = out::fitted(&eval::tables::sets(sets), out::width());
    let again = format!("haggle train --extend N --out {}", shell::word(&finished.run));
    let best = best(&finished.run)?.map_or(String::new(), |line| line + "\n");
    let page = shell::word(page);
    Ok(format!(
        "\nreplies on held-out products, utilities of their candidates\n{table}{SETS}\n\n{best}report      {page}\ngo on       {again}\n"
    ))
}

/// What the columns of a table of sets mean.
const SETS: &str = "\
worth: of a set, a malformed one at its penalty. best, candidate: of the best
candidate, of the mean one. malformed: replies that are no set. distinct: of
the candidates, the share that says something new. size: candidates a set.";

/// The best checkpoint on the held-out products, where training looked at them, and how it is opened.
fn best(run: &Path) -> Result<Option<String>> {
    let state = checkpoint::latest(run)?.map(|at| checkpoint::state(&at)).transpose()?;
    Ok(state.and_then(|state| state.best).map(|best| {
        let at = shell::word(&run.join("checkpoints").join(checkpoint::BEST));
        format!("best        haggle chat --model {at}  (step {}, held-out reward {:+.3})", best.step, best.reward())
    }))
}

/// How many rows of training the shared prompts spared; none where none were.
fn shared(rows: &[Metrics]) -> Option<String> {
    let sum = |key: &str| rows.iter().filter_map(|row| row.get(key)?.as_u64()).sum::<u64>();
    let (run, spared) = (sum("policy/packed_tokens"), sum("policy/shared_tokens"));
    let percent = 100.0 * spared as f64 / (run + spared).max(1) as f64;
    (spared > 0).then(|| format!("training    {run} rows run; {spared} ({percent:.0}%) were spared by shared prompts"))
}
