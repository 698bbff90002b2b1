//! Finding an episode in a file of them: by line, or by step and number.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Which line of a file of episodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// This line, from 1.
    Line(usize),
    /// This episode, from 1, of a step, or of the last step.
    Episode(Option<u64>, usize),
}

#[derive(Deserialize)]
struct Step {
    step: u64,
}

/// The line that is meant, and its number.
pub(super) fn find(path: &Path, which: Which) -> Result<(usize, String)> {
    let file = File::open(path).map_err(|e| Error::io(path, format!("cannot be read: {e}")))?;
    // Of a step only the lines so far are kept.
    let (mut found, mut step_now, mut count) = (Vec::<(usize, String)>::new(), None, 0);
    for (i, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(|e| Error::io(path, format!("line {}: cannot be read: {e}", i + 1)))?;
        count = i + 1;
        match which {
            Which::Line(n) if n == count => return Ok((count, text)),
            Which::Line(_) => {}
            Which::Episode(step, _) => {
                let Ok(Step { step: of }) = serde_json::from_str(&text) else {
                    return Err(Error::data(path, format!("line {count}: no episode")));
                };
                if step.is_some_and(|step| step != of) {
                    continue;
                }
                if step_now != Some(of) {
                    found.clear();
                    step_now = Some(of);
                }
                found.push((count, text));
            }
        }
    }
    let n = found.len();
    let missing = match which {
        Which::Line(_) => format!("has {count} lines"),
        Which::Episode(Some(step), _) if n == 0 => format!("holds no episode of step {step}"),
        Which::Episode(_, episode) => match found.into_iter().nth(episode.wrapping_sub(1)) {
            Some(line) => return Ok(line),
            None => format!("step {} has episodes 1 to {n}", step_now.unwrap_or(0)),
        },
    };
    Err(Error::data(path, missing))
}
