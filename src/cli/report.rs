//! `haggle report`: rebuilds a run's `report.html` and `curve.svg` from its files.

use super::{Exit, Globals, out};
use crate::config::paths::spelled;
use crate::error::Result;
use clap::Args;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Options of `haggle report`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle report runs/001            rebuild runs/001/report.html, also while the run goes on
  haggle report runs/001 --json     the page's path as JSON")]
pub struct ReportArgs {
    /// The run directory
    #[arg(value_name = "RUN", value_parser = super::path())]
    run: PathBuf,
}

/// Rebuilds the report and prints its path.
pub fn run(args: &ReportArgs, globals: &Globals) -> Result<Exit> {
    let page = crate::report::write(&args.run)?;
    if globals.json {
        out::line(&serde_json::json!({ "report": spelled(&page) }).to_string());
    } else {
        // To be read by other programs: its bytes, and nothing else.
        out::print_bytes(&[page.as_os_str().as_bytes(), b"\n"].concat());
    }
    Ok(Exit::Done)
}
