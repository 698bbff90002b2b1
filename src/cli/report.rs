//! `haggle report`: rebuilds a run's `report.html` and `curve.svg` from its files.

use super::{Exit, Globals, out};
use crate::error::Result;
use clap::Args;
use std::path::PathBuf;

/// Options of `haggle report`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle report runs/001            rebuild runs/001/report.html, also while the run goes on
  haggle report runs/001 --json     the page's path as JSON")]
pub struct ReportArgs {
    /// The run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

/// Rebuilds the report and prints its path.
pub fn run(args: &ReportArgs, globals: &Globals) -> Result<Exit> {
    let page = crate::report::write(&args.run)?.display().to_string();
    if globals.json {
        out::line(&serde_json::json!({ "report": page }).to_string());
    } else {
        out::line(&page);
    }
    Ok(Exit::Done)
}
