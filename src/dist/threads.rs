//! Ranks that are threads of one process: for tests, and the simplest link there is.
//!
//! The one idea: each lays what it tells on one table; when the last has, everyone takes what is its own. Who waits too long,
//! or for one that has left, is told for whom.

use super::{Call, Link};
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What all ranks told in a round: by rank, a piece for each.
type Told = Arc<Vec<Vec<Vec<u8>>>>;

#[derive(Default)]
struct Round {
    number: u64,
    laid: Vec<Option<(Call, Vec<Vec<u8>>)>>,
    /// What was told in the round before.
    told: Told,
    left: Vec<bool>,
    aborted: Option<String>,
}

struct Table {
    round: Mutex<Round>,
    bell: Condvar,
    patience: Duration,
}

/// One of these ranks.
pub struct Threads {
    rank: usize,
    world: usize,
    table: Arc<Table>,
}

impl Threads {
    /// `world` ranks at one table, who wait for each other that long at most.
    pub fn new(world: usize, patience: Duration) -> Vec<Threads> {
        let round = Round { laid: vec![None; world], left: vec![false; world], ..Round::default() };
        let table = Arc::new(Table { round: Mutex::new(round), bell: Condvar::new(), patience });
        (0..world).map(|rank| Threads { rank, world, table: table.clone() }).collect()
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.table.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays pieces on the table; returns what all have laid there.
    fn meet(&self, call: &Call, pieces: Vec<Vec<u8>>) -> Result<Told> {
        let mut round = self.round();
        let (number, began) = (round.number, Instant::now());
        round.laid[self.rank] = Some((*call, pieces));
        if round.laid.iter().all(Option::is_some) {
            round.close();
            self.table.bell.notify_all();
        }
        while round.number == number {
            let missing = round.missing();
            let gone = missing.iter().find(|rank| round.left[**rank]);
            let waited = began.elapsed();
            let what = match (&round.aborted, gone) {
                (Some(why), _) => why.clone(),
                (None, Some(rank)) => format!("{call} waits for rank {rank}, which has left"),
                (None, None) if waited >= self.table.patience => {
                    let names: Vec<String> = missing.iter().map(usize::to_string).collect();
                    format!("{call} waits {} s for rank {}", waited.as_secs(), names.join(", "))
                }
                _ => {
                    let rest = self.table.patience - waited;
                    round = self.table.bell.wait_timeout(round, rest).map_or_else(|e| e.into_inner().0, |(r, _)| r);
                    continue;
                }
            };
            round.aborted.get_or_insert_with(|| what.clone());
            self.table.bell.notify_all();
            return Err(Error::Ranks { what });
        }
        match &round.aborted {
            Some(why) => Err(Error::Ranks { what: why.clone() }),
            None => Ok(round.told.clone()),
        }
    }
}

impl Round {
    /// Ends a round that all have laid their pieces for.
    fn close(&mut self) {
        let laid: Vec<(Call, Vec<Vec<u8>>)> = self.laid.iter_mut().filter_map(Option::take).collect();
        let first = laid[0].0;
        if let Some((rank, (other, _))) = laid.iter().enumerate().find(|(_, (call, _))| *call != first) {
            self.aborted = Some(format!("rank 0 is at {first}, rank {rank} at {other}"));
        }
        self.told = Arc::new(laid.into_iter().map(|(_, pieces)| pieces).collect());
        self.number += 1;
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.laid.len()).filter(|rank| self.laid[*rank].is_none()).collect()
    }
}

impl Link for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_to_all(&self, call: &Call, pieces: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let told = self.meet(call, pieces)?;
        Ok(told.iter().map(|pieces| pieces[self.rank].clone()).collect())
    }

    fn all_gather(&self, call: &Call, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let told = self.meet(call, vec![mine.to_vec()])?;
        Ok(told.iter().map(|pieces| pieces[0].clone()).collect())
    }

    fn transport(&self) -> String {
        "threads of one process".into()
    }

    fn abort(&self, _: u8, why: &str) {
        self.round().aborted.get_or_insert_with(|| why.into());
        self.table.bell.notify_all();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.round().left[self.rank] = true;
        self.table.bell.notify_all();
    }
}
