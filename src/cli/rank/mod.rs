//! `haggle rank`: who is better, where, and how sure we are.

mod table;

use super::{Exit, Globals, out};
use crate::error::{Error, Result, shown};
use crate::rank::board::{Board, METHODS, board};
use crate::rank::read::{self, Columns};
use crate::rank::{Family, Method, Options, Ties, Weights};
use crate::report;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::{Path, PathBuf};

/// Options of `haggle rank`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle rank votes.csv                       model_a, model_b, winner, and a category where there is one
  haggle rank votes.jsonl --by language       a board each language; what they share makes intervals shorter
  haggle rank votes.csv --cluster voter       votes of one voter are not independent
  haggle rank votes.csv --html=board.html     a page with forest plots and ranges of ranks
  haggle rank counts.csv --json               model_a, model_b, category, wins_a, wins_b, ties
  haggle rank EVAL --by tier,persona          buyers of an evaluation, written by haggle eval --out EVAL
  haggle rank votes.csv --method btl          each category on its own, as leaderboards do

A rating is 1000 + 400 / ln 10 a logit. An interval holds for its gap alone; a range of ranks for all models at once.")]
pub struct RankArgs {
    /// Files of games, csv or JSON lines; or runs and evaluations of the same products, by their folders
    #[arg(value_name = "FILE", required = true, value_parser = super::path())]
    files: Vec<PathBuf>,
    /// The columns that split games: categories, and personas within them (default: category, where there is one); haggle's own games have category, tier, seller, persona, scenario, none
    #[arg(long, value_name = "COL[,COL]")]
    by: Option<String>,
    /// The column of games that belong together (default: cluster, where there is one)
    #[arg(long, value_name = "COL")]
    cluster: Option<String>,
    /// Columns of numbers that also move a vote, each that of model_a less that of model_b: length, form, position
    #[arg(long, value_name = "COL[,COL...]")]
    covariates: Option<String>,
    /// How ratings are estimated
    #[arg(long, value_name = "NAME", default_value = "adaptive", value_parser = methods())]
    method: String,
    /// Patterns that categories share: auto, by held-out games, or a number
    #[arg(long, value_name = "auto|R", default_value = "auto")]
    rank: String,
    /// What a tie is: half a win, an outcome of its own, or no game (default: half; davidson for haggle's own games)
    #[arg(long, value_name = "NAME", value_parser = ["half", "davidson", "drop"])]
    ties: Option<String>,
    /// Folds of onestep and whitened; 1 is none
    #[arg(long, value_name = "K", default_value_t = 5)]
    crossfit: usize,
    /// The chance that an interval holds
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    level: f64,
    /// The gaps that a range of ranks holds together
    #[arg(long, value_name = "NAME", default_value = "category", value_parser = ["category", "board", "model"])]
    family: String,
    /// What a game weighs: itself, or one over the games of its pair, at least 50
    #[arg(long, value_name = "NAME", default_value = "games", value_parser = ["games", "pairs"])]
    weights: String,
    /// A prior of so many games on every rating (default: none where games do without)
    #[arg(long, value_name = "GAMES")]
    ridge: Option<f64>,
    /// Also write a page, to be looked at in a browser
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "board.html",
          value_parser = super::path())]
    html: Option<PathBuf>,
    /// Say who is among the first K, who is not, and who may be
    #[arg(long, value_name = "K")]
    top: Option<usize>,
}

fn methods() -> PossibleValuesParser {
    PossibleValuesParser::new(METHODS.map(|(name, _)| name))
}

/// Reads, ranks, prints.
///
/// # Errors
/// What the files or options hold that they must not.
pub fn run(args: &RankArgs, globals: &Globals) -> Result<Exit> {
    let columns = args.columns()?;
    args.options(globals, false)?;
    let input = read::read(&args.files, &columns)?;
    let options = args.options(globals, !input.episodes.is_empty())?;
    let board = board(input.games, &options).map_err(|what| Error::data(&args.files[0], what))?;
    let board = board.with_rewards(&input.episodes, options.level);
    show(&board, args.top, args.html.as_deref(), globals.json)?;
    Ok(Exit::Done)
}

/// Prints a board, and writes its page where one is wanted.
///
/// # Errors
/// [`Error::Io`] naming the page.
pub(super) fn show(board: &Board, top: Option<usize>, page: Option<&Path>, json: bool) -> Result<()> {
    out::known(&board.warnings.iter().map(|line| format!("warning: {line}")).collect::<Vec<_>>());
    if json {
        let text = serde_json::to_string_pretty(&board.json()).map_err(|e| Error::data("board", e))?;
        out::line(&text);
    } else {
        out::print(&out::plain(&table::text(board, top)));
    }
    if let Some(path) = page {
        report::write_board(board, path)?;
        out::note(&format!("haggle: wrote {}", shown(path)));
    }
    Ok(())
}

impl RankArgs {
    fn columns(&self) -> Result<Columns> {
        let mut by = self.by.as_deref().into_iter().flat_map(|by| by.split(',')).map(|name| name.trim().to_string());
        let covariates = self.covariates.iter().flat_map(|names| names.split(',')).map(|name| name.trim().to_string());
        let columns = Columns {
            category: by.next(),
            persona: by.next(),
            cluster: self.cluster.clone(),
            covariates: covariates.collect(),
        };
        let empty = [&columns.category, &columns.persona].into_iter().flatten().any(String::is_empty);
        if by.next().is_some() || empty {
            return Err(usage(format!(
                "--by {}: want one or two columns, for example --by category,persona",
                self.by.as_deref().unwrap_or_default()
            )));
        }
        Ok(columns)
    }

    fn options(&self, globals: &Globals, episodes: bool) -> Result<Options> {
        let method =
            METHODS.iter().find(|(name, _)| *name == self.method).map_or(Method::Adaptive, |(_, method)| *method);
        let rank = match self.rank.as_str() {
            "auto" => None,
            text => Some(text.parse().map_err(|_| usage(format!("--rank {text}: want auto or a number from 0 on")))?),
        };
        if !(self.level > 0.0 && self.level < 1.0) {
            return Err(usage(format!("--level {}: want a chance above 0 and below 1, for example 0.95", self.level)));
        }
        if self.crossfit == 0 || self.crossfit > 50 {
            return Err(usage(format!("--crossfit {}: want 1 to 50 folds", self.crossfit)));
        }
        if self.top == Some(0) {
            return Err(usage("--top 0: want 1 or more".into()));
        }
        if self.ridge.is_some_and(|ridge| !(ridge.is_finite() && ridge >= 0.0)) {
            return Err(usage(format!("--ridge {}: want 0 or more games", self.ridge.unwrap_or_default())));
        }
        Ok(Options {
            method,
            ties: match self.ties.as_deref() {
                Some("drop") => Ties::Drop,
                Some("half") => Ties::Half,
                Some(_) => Ties::Davidson,
                None if episodes => Ties::Davidson,
                None => Ties::Half,
            },
            rank,
            crossfit: self.crossfit,
            level: self.level,
            family: match self.family.as_str() {
                "board" => Family::Board,
                "model" => Family::Model,
                _ => Family::Category,
            },
            weights: if self.weights == "pairs" { Weights::Pairs } else { Weights::Games },
            ridge: self.ridge,
            seed: globals.seed.unwrap_or(0),
        })
    }
}

fn usage(what: String) -> Error {
    Error::Config { problems: vec![what] }
}
