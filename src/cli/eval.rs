//! `haggle eval`: a model against sellers on held-out products, beside the baselines.

use super::progress::Live;
use super::train::give_back;
use super::{Exit, Globals, command_line, out, path_text, quoted, rank, run_config, shell, signals, tables, together};
use crate::config::paths::{place, spelled};
use crate::config::{Config, SELLERS, is_address, mix};
use crate::dist::Ranks;
use crate::dist::agree::Fact;
use crate::embedded;
use crate::error::{Error, Result, shown};
use crate::eval::protocol::{Beside, Protocol, protocol};
use crate::eval::{About, Report, make_folder};
use crate::model::Plan;
use crate::negotiate::Buyer;
use crate::negotiate::metrics::Row;
use crate::rank::board::{Board, board};
use crate::rank::read::{self, Columns};
use crate::rank::{Options, Ties};
use crate::setup::Setup;
use crate::setup::base::{self, Base};
use crate::setup::{known, memory};
use crate::tasks::game::Opponent;
use crate::tasks::{self, Entrant, Speaks, Task};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Options of `haggle eval`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle eval --model runs/001                                    the run's own products, held-out part
  haggle eval --model runs/001 --products DIR --seller all        every scripted seller and persona too, over all of DIR
  haggle eval --model DIR --products DIR --seller boulware,person --rollouts 8 --json
  haggle eval --model runs/001 --guarded                          no reply breaks a rule or the budget
  haggle eval --model runs/001 --seller http://127.0.0.1:8000/v1  a seller behind a server; its key from OPENAI_API_KEY
  haggle eval --model runs/001 --out runs/001/eval                a folder of its own; what is there is never replaced
  haggle eval --model runs/001 --protocol paper --products DIR    as arXiv:2604.09855 does, beside its own row
  haggle eval --board --model runs/a --model runs/b --seller all  who of several is better, where, and how sure we are
  mpirun -n 4 haggle eval --model runs/001 --set threads=1        ranks share the games; what is found is the same
  haggle eval --model runs/001 --set eval.products=20             fewer products")]
pub struct EvalArgs {
    /// Run directory, checkpoint or model folder; several play the same games, by the first one's config
    #[arg(long, value_name = "RUN|DIR", required = true, value_parser = super::path())]
    model: Vec<PathBuf>,
    /// Rank everyone who played, all scripted buyers and the best of n too, over all sellers and against each; board.html is its page
    #[arg(long, conflicts_with = "protocol")]
    board: bool,
    /// Folder of AmazonHistoryPrice files (default: what the run trained on)
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    products: Option<PathBuf>,
    #[arg(long, value_name = "NAMES|DIR|URL", value_parser = super::path(), help = counterparties())]
    seller: Vec<PathBuf>,
    /// The products it is played over: test (one in seven, which training leaves out), train, or all (default: test; all of a
    /// folder that the model was not trained on)
    #[arg(long, value_name = "PART", value_parser = ["test", "train", "all"])]
    split: Option<String>,
    /// Rollouts a product and buyer
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rollouts: Option<usize>,
    /// Guide the models: replies in the game's form, within the private limit and the standing offers; a setting of its own
    /// is rollout.constrain
    #[arg(long, conflicts_with = "protocol")]
    guarded: bool,
    /// Play as a published evaluation does and print its table beside its own row: paper (arXiv:2604.09855)
    #[arg(long, value_name = "NAME", conflicts_with = "recipe")]
    protocol: Option<String>,
}

/// Evaluates, writes a directory of its own, and prints the tables. Ranks share the games; the first one writes and prints.
///
/// # Errors
/// Everything wrong with config, model, products or the folder, before a game is played.
pub fn run(args: &EvalArgs, globals: &Globals) -> Result<Exit> {
    let asked = resolve(args, globals)?;
    let ranks = together::ranks(&asked.0)?;
    let exit = evaluated(&ranks, args, globals, asked)?;
    ranks.finish();
    Ok(exit)
}

/// What an evaluation plays with.
struct Table {
    setup: Setup,
    /// The models that are named, behind the config's own.
    models: Vec<Base>,
    labels: Vec<String>,
    speaks: Vec<Speaks>,
    paths: Vec<String>,
    plan: Plan,
    protocol: Option<Protocol>,
}

impl Table {
    /// Everything that a call names, opened and held to each other.
    fn open(ranks: &Ranks, args: &EvalArgs, globals: &Globals, (config, protocol): Asked) -> Result<Table> {
        let paths: Vec<String> = args.model.iter().map(|path| spelled(path)).collect();
        let (labels, speaks) = (labels(&args.model, &config)?, speaks(args, &config)?);
        let dev = together::device(ranks, &config)?;
        let planner = |config: &Config, plan: &mut Plan| memory::of_evaluation(config, &paths, plan);
        let plan = memory::fit_beside(&dev, &config, &planner, ranks.local_world())?;
        if let (Some(folder), true) = (&globals.out, ranks.is_first()) {
            make_folder(folder)?;
        }
        let mut setup = Setup::open_to_evaluate(dev, &config)?;
        setup.ranks = ranks.clone();
        let models = opened(&setup, &paths)?;
        let bases: Vec<&Base> = std::iter::once(&setup.base).chain(&models).collect();
        let frozen_plays = is_ready(&setup, &mut *tasks::named("game")?, &bases)?;
        let mut players: Vec<&str> = std::iter::once(&config.model.base).chain(&paths).map(String::as_str).collect();
        players.extend(frozen_plays.then_some(config.model.seller.as_str()));
        let warning = known::warn(&config, &players, &[&setup.held_out])?;
        if ranks.is_first() {
            out::known(setup.notes.iter().chain(&warning));
        }
        Ok(Table { setup, models, labels, speaks, paths, plan, protocol })
    }

    /// What every rank must have alike: checksums of all models, and the products.
    fn made_of(&self) -> Result<Fact> {
        let (dev, setup) = (&self.setup.dev, &self.setup);
        let mut all = vec![format!("seller {:08x}", setup.seller_crc()?)];
        for model in std::iter::once(&setup.base).chain(&self.models) {
            all.push(format!("{} {:08x}", model.root, model.weights.crc(dev)?));
        }
        all.extend(setup.held_out.iter().map(|product| format!("{product:?}")));
        Ok(("products and models", all.join("\n")))
    }

    /// Plays it; `hear` is told who plays whom, and how far they are.
    fn play(&self, hear: &mut dyn FnMut(&str, &str, usize, usize)) -> Result<Report> {
        let bases = std::iter::once(&self.setup.base).chain(&self.models);
        let names = std::iter::once("untrained").chain(self.labels.iter().map(String::as_str));
        let speaks = std::iter::once(&Speaks::Replies).chain(&self.speaks);
        let models: Vec<Entrant> = names.zip(bases).zip(speaks).map(|((n, model), s)| entrant(n, model, *s)).collect();
        // A model beside itself says nothing.
        let models = if self.paths.contains(&self.setup.config.model.base) { &models[1..] } else { &models[..] };
        tasks::named("game")?.evaluate(&self.setup, models, hear)
    }

    fn about(&self, report: &Report, began: Instant) -> About {
        let config = &self.setup.config;
        About {
            command: command_line(),
            model: self.paths.join(", "),
            guarded: config.rollout.constrain,
            products: self.setup.held_out.len(),
            split: config.eval.split.clone(),
            games: report.games.len(),
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

fn evaluated(ranks: &Ranks, args: &EvalArgs, globals: &Globals, asked: Asked) -> Result<Exit> {
    let table = ranks.agree("start", Table::open(ranks, args, globals, asked))?;
    if ranks.world() > 1 {
        together::alike(ranks, &table.setup.config, &table.setup.dev, table.made_of()?)?;
    }
    let folder = globals.out.clone().map_or_else(|| together::claim(ranks), Ok)?;
    ranks.board(&folder, Duration::from_secs_f32(table.setup.config.dist.timeout_s));
    ranks.phase("evaluation");
    if !ranks.is_first() {
        return table.play(&mut |_, _, _, _| ()).map(|_| Exit::Done);
    }
    let claimed = globals.out.is_none().then(|| folder.clone());
    let left = claimed.clone();
    signals::leaves(move || {
        left.iter().for_each(|folder| give_back(folder));
        "left; nothing was written".into()
    });
    let mut live = Live::new();
    live.say(&memory::line(&table.setup.dev, &table.plan));
    let began = Instant::now();
    let report = table.play(&mut |buyer, seller, done, of| live.evaluation(buyer, seller, done, of));
    live.end();
    if report.is_err() {
        claimed.iter().for_each(|folder| give_back(folder));
    }
    shown_and_kept(args, globals, &table, report?, (&folder, began))
}

/// Prints an evaluation, and keeps it in a folder.
fn shown_and_kept(
    args: &EvalArgs,
    globals: &Globals,
    table: &Table,
    mut report: Report,
    (folder, began): (&Path, Instant),
) -> Result<Exit> {
    let config = &table.setup.config;
    let beside = |of: &Protocol| Beside::new(of, config, table.setup.held_out.len());
    report.beside = table.protocol.as_ref().map(beside);
    let about = table.about(&report, began);
    let board = if args.board { Some(board_of(&report, config.seed)?) } else { None };
    let written = write(&report, &about, config, folder);
    let rows = report.table.rows();
    out::known(&tables::broken(&rows));
    out::known(&tables::void(&report.void));
    match &board {
        Some(board) => rank::show(board, None, Some(&folder.join("board.html")), globals.json)?,
        None => print(&report, &about, &rows, globals.json, folder)?,
    }
    // What was played is shown, also when it cannot be kept.
    written.map(|()| Exit::Done)
}

/// The models of these paths; what they share is held once.
fn opened(setup: &Setup, paths: &[String]) -> Result<Vec<Base>> {
    let mut models: Vec<Base> = Vec::new();
    for path in paths {
        let known: Vec<&Base> = std::iter::once(&setup.base).chain(&models).collect();
        models.push(base::open_beside(&setup.dev, path, &setup.config, &known)?);
    }
    Ok(models)
}

/// Everyone who played, ranked: over all sellers and against each.
fn board_of(report: &Report, seed: u64) -> Result<Board> {
    let columns = Columns { category: Some("seller".into()), ..Columns::default() };
    let input = read::evaluation(&report.game_lines()?, &columns)?;
    let options = Options { ties: Ties::Davidson, seed, ..Options::default() };
    let board = board(input.games, &options).map_err(|what| Error::data("the games", what))?;
    Ok(board.with_rewards(&input.episodes, options.level))
}

/// A model under a name.
fn entrant<'a>(name: &'a str, model: &'a Base, speaks: Speaks) -> Entrant<'a> {
    Entrant { name, weights: &model.weights, chat: &model.chat, speaks }
}

/// How each model speaks: as its run has taught it.
///
/// # Errors
/// [`Error::Config`] for a run of a task that is no game, and for menus that are to be guided.
fn speaks(args: &EvalArgs, config: &Config) -> Result<Vec<Speaks>> {
    let of = |path: &PathBuf| {
        let Some(file) = run_config(path) else { return Ok(Speaks::Replies) };
        let task = Config::load(Some(&file), &[])?.task;
        let refuse = |what: &str| Err(Error::Config { problems: vec![format!("--model {}: {what}", shown(path))] });
        match task.name.as_str() {
            "game" => Ok(Speaks::Replies),
            "menu" if config.rollout.constrain => {
                refuse("was trained on menus, which nothing guides; leave out --guarded")
            }
            "menu" => Ok(Speaks::Menus(task.candidates)),
            name => {
                refuse(&format!("was trained on task `{name}`, which is no game; its own table is in its sets.json"))
            }
        }
    };
    args.model.iter().map(of).collect()
}

/// Holds the players to their prompts and a server to its word, before anything is played; whether the frozen seller plays.
fn is_ready(setup: &Setup, task: &mut dyn Task, models: &[&Base]) -> Result<bool> {
    let opponents = Opponent::named(&setup.config.eval.seller)?;
    let frozen_plays = opponents.iter().any(|opponent| matches!(opponent, Opponent::Model(_)));
    tasks::fit(setup, task, models, frozen_plays, &[&setup.held_out])?;
    if frozen_plays {
        setup.seller.probe()?;
    }
    Ok(frozen_plays)
}

/// The config of a call, and the protocol that it follows.
type Asked = (Config, Option<Protocol>);

/// What a call asks for.
fn resolve(args: &EvalArgs, globals: &Globals) -> Result<Asked> {
    let (eval_seller, model_seller) = counterparty(&args.seller)?;
    let own = config(&args.model[0], globals, None, &[])?;
    let split = args.split.clone().or_else(|| foreign(args, &own).then(|| "all".into()));
    let flags = [
        ("--products", "products.path", args.products.as_deref().map(path_text)),
        ("--split", "eval.split", split.as_deref().map(quoted)),
        ("--seller", "eval.seller", eval_seller.as_deref().map(quoted)),
        ("--seller", "model.seller", model_seller.as_deref().map(path_text)),
        ("--rollouts", "eval.rollouts", args.rollouts.map(|n| n.to_string())),
        ("--guarded", "rollout.constrain", args.guarded.then(|| "true".into())),
        ("--board", "eval.buyer", args.board.then(|| quoted("all"))),
    ];
    let protocol = args.protocol.as_deref().map(protocol).transpose()?;
    let config = config(&args.model[0], globals, protocol.as_ref(), &flags)?;
    if protocol.is_some() && config.rollout.constrain {
        let what = "--protocol: a published evaluation samples freely; set rollout.constrain = false";
        return Err(Error::Config { problems: vec![what.into()] });
    }
    Ok((config, protocol))
}

/// Whether `--products` names another folder than the model was trained on: then nothing of it needs to be held out.
fn foreign(args: &EvalArgs, own: &Config) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    args.products.as_deref().is_some_and(|path| real(path) != real(&place(&own.products.path)))
}

/// What models are called in the rows: each by its folder's name, or by its path where a baseline or another model is called so.
///
/// # Errors
/// [`Error::Config`] for a model that is named twice.
fn labels(models: &[PathBuf], config: &Config) -> Result<Vec<String>> {
    let folder = |model: &PathBuf| {
        let folder = model.canonicalize().ok();
        let name = folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| spelled(model))
    };
    let names: Vec<String> = models.iter().map(folder).collect();
    let (untrained, best) = ("untrained".to_string(), format!("best_of_{}", config.eval.best_of));
    let taken = |name: &String| *name == untrained || *name == best || Buyer::from_key(name).is_some();
    let mut labels: Vec<String> = Vec::new();
    for (name, path) in names.iter().zip(models) {
        let plain = !taken(name) && names.iter().filter(|other| *other == name).count() == 1;
        let label = match (plain, taken(name)) {
            (true, _) => name.clone(),
            (false, true) if models.len() == 1 => format!("./{name}"),
            _ => shown(path),
        };
        if labels.contains(&label) {
            let what = format!("--model {label}: named twice; name each model once");
            return Err(Error::Config { problems: vec![what] });
        }
        labels.push(label);
    }
    Ok(labels)
}

/// Writes the evaluation, its config and its page.
fn write(report: &Report, about: &About, config: &Config, folder: &Path) -> Result<()> {
    report.write(folder)?;
    about.write(folder, &config.to_toml(true))?;
    crate::report::write(folder).map(drop)
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

/// The tables and where the rest is; with `--json` all of it as one object.
fn print(report: &Report, about: &About, rows: &[Row], json: bool, folder: &Path) -> Result<()> {
    if json {
        let mut all = json!({
            "run": spelled(folder), "evaluation": about, "rows": report.summary()?, "differences": report.differences,
        });
        if let Some(beside) = &report.beside {
            all["beside"] = json!(beside);
        }
        let text = serde_json::to_string_pretty(&all);
        out::line(&text.map_err(|e| Error::data("rows", e))?);
        return Ok(());
    }
    let mut text = tables::all(rows, &report.differences, out::width());
    if let Some(beside) = &report.beside {
        text += &format!("\n{}", tables::protocol(rows, beside));
    }
    out::print(&format!("{text}\n{}\n", about.line()));
    out::line(&format!("report      {}", shell::word(&folder.join("report.html"))));
    Ok(())
}

/// The help of `--seller`.
fn counterparties() -> String {
    format!(
        "The counterparty: some of {}, comma between or the option again (base is the run's frozen seller, then come personas of it, then scripts); \
         or self (the starting weights), a model folder or run directory, or the address of a server as http://host:8000/v1",
        SELLERS.join(", ")
    )
}

/// What `--seller` means, given once or several times: the keys `eval.seller` and `model.seller`.
fn counterparty(sellers: &[PathBuf]) -> Result<(Option<String>, Option<PathBuf>)> {
    let names: Option<Vec<&str>> =
        sellers.iter().map(|path| path.to_str().filter(|names| mix::strange(names).is_empty())).collect();
    let refused = |what: String| Err(Error::Config { problems: vec![what] });
    match (names, sellers) {
        (_, []) => Ok((None, None)),
        (Some(names), _) => Ok((Some(names.join(",")), None)),
        (None, [path]) => {
            let text = path.to_str().unwrap_or_default();
            if text == "self" || text == embedded::NAME || is_address(text) || path.is_dir() {
                return Ok((Some("base".into()), Some(path.clone())));
            }
            let (names, own) = (SELLERS.join(", "), shown(path));
            refused(format!(
                "--seller {own}: no such seller or folder; use {names}, self, a folder or http://host:8000/v1"
            ))
        }
        (None, several) => {
            let strange = several.iter().find(|path| path.to_str().is_none_or(|names| !mix::strange(names).is_empty()));
            let own = strange.map_or(String::new(), |path| shown(path));
            refused(format!(
                "--seller {own}: a model or a server is met alone; leave the other --seller out, or name only some of {}",
                SELLERS.join(", ")
            ))
        }
    }
}
