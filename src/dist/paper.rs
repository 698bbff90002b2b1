//! Ranks on paper: for plans of a run that nobody has started.
//!
//! The one idea: what a rank holds and sends follows from its number and theirs alone, so the code that allocates says it,
//! run dry; whoever asks the others is refused.

use super::{Call, Link};
use crate::error::{Error, Result};

/// One of ranks that are not there.
pub(super) struct Paper {
    pub(super) rank: usize,
    pub(super) world: usize,
}

fn refused<T>(call: &Call) -> Result<T> {
    Err(Error::Ranks { what: format!("{call} of ranks that are on paper alone: nobody would answer") })
}

impl Link for Paper {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_to_all(&self, call: &Call, _: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        refused(call)
    }

    fn all_gather(&self, call: &Call, _: &[u8]) -> Result<Vec<Vec<u8>>> {
        refused(call)
    }

    fn abort(&self, _: u8, _: &str) {}

    fn transport(&self) -> String {
        "none: they are on paper".into()
    }
}
