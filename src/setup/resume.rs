//! Going on with a run: whether it may, under which config, and what of its logs is left.
//!
//! The one idea: everything is looked at before anything is changed. A resume that is refused leaves the run as it was; one
//! that is accepted writes the config and the inputs in force, so that the run directory tells the truth.

use super::inputs::Inputs;
use crate::config::Config;
use crate::config::paths::place;
use crate::disk::write_atomic;
use crate::error::{Error, Result, shown};
use crate::run::checkpoint::State;
use crate::run::run_dir::{CONFIG, RunDir};
use crate::run::{checkpoint, logs};
use std::path::{Path, PathBuf};

/// What a resume goes on from.
pub struct Resumed {
    /// Its latest checkpoint; none when it has saved none, and then it begins again.
    pub checkpoint: Option<PathBuf>,
    /// What the run's logs have lost, a line each.
    pub lost: Vec<String>,
    /// True when it begins again as another run than it was.
    pub anew: bool,
}

/// Holds a resume to the run. With a checkpoint, all that changes bits must be as it was; without one the run begins again,
/// and its config may change, but not what lies unseen behind the paths it names.
///
/// # Errors
/// [`Error::Config`] naming every key, [`Error::Data`] naming the product file or the part of a model that has changed; the
/// run directory is as it was.
pub fn check(run: &RunDir, config: &Config, inputs: &Inputs) -> Result<Resumed> {
    let (at, began) = (checkpoint::latest(run.path())?, Inputs::read(run.path())?);
    let (path, toml) = match &at {
        Some(at) => checkpoint::config_toml(at)?,
        None => read(&run.path().join(CONFIG))?,
    };
    // Of another version's config only a checkpoint must be understood.
    let differences = match (Config::parse(&shown(&path), &toml, &[]), &at) {
        (Ok(theirs), Some(at)) if extends(config, &theirs, &checkpoint::open(at)?) => own(config.differences(&theirs)),
        (Ok(theirs), _) => config.differences(&theirs),
        (Err(e), Some(_)) => return Err(e),
        (Err(_), None) => vec!["the config cannot be read".into()],
    };
    if let (Some(at), false) = (&at, differences.is_empty()) {
        let head = format!(
            "{}: is a checkpoint of another config; resume with its own, or go on with a finished run by --extend:",
            shown(at)
        );
        return Err(Error::Config { problems: [vec![head], differences].concat() });
    }
    let mut anew = !differences.is_empty();
    for ((key, now), (_, then)) in inputs.keyed().into_iter().zip(began.iter().flat_map(Inputs::keyed)) {
        let changed = now.changed(then);
        if !changed.is_empty() && (at.is_some() || now.path == then.path) {
            let what = format!(
                "{key}: not what the run began with: {} changed; put it back, or start another run with --out",
                changed.join(", ")
            );
            return Err(Error::data(place(&now.path), what));
        }
        anew |= !changed.is_empty();
    }
    let lost = at.as_ref().map_or(Ok(Vec::new()), |at| logs::settle(run.path(), at))?;
    Ok(Resumed { checkpoint: at, lost, anew })
}

/// Keys that an extension sets.
const EXTENSION: [&str; 2] = ["grpo.steps:", "optim.restart_at:"];

/// Whether a config goes on where a finished run ended, with a schedule of its own from there.
fn extends(config: &Config, theirs: &Config, state: &State) -> bool {
    let finished = state.step == theirs.grpo.steps as u64 && config.grpo.steps > theirs.grpo.steps;
    finished && state.updates > 0 && config.optim.restart_at as u64 == state.updates
}

/// The differences that an extension does not explain.
fn own(mut differences: Vec<String>) -> Vec<String> {
    differences.retain(|line| !EXTENSION.iter().any(|key| line.starts_with(key)));
    differences
}

/// Writes the config and the inputs in force; a file that says so already stays as it is.
///
/// # Errors
/// As [`write_atomic`].
pub fn accept(run: &Path, config: &Config, inputs: &Inputs) -> Result<()> {
    if Inputs::read(run)?.as_ref() != Some(inputs) {
        inputs.write(run)?;
    }
    let (path, toml) = (run.join(CONFIG), config.to_toml(true));
    match read(&path) {
        Ok((_, own)) if own == toml => Ok(()),
        _ => write_atomic(&path, |f| f.write_all(toml.as_bytes())),
    }
}

fn read(path: &Path) -> Result<(PathBuf, String)> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    Ok((path.into(), text))
}
