//! Ranks that are processes which an MPI launcher started.

use super::{Call, Link};
use crate::device::mpi::Mpi;
use crate::error::Result;

impl Link for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_to_all(&self, _: &Call, pieces: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        Mpi::all_to_all(self, &pieces.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn all_gather(&self, _: &Call, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        Mpi::all_to_all(self, &vec![mine; self.world])
    }

    fn abort(&self, code: u8, _: &str) {
        Mpi::abort(self, code);
    }

    fn transport(&self) -> String {
        format!("{} ({})", self.version, self.file)
    }

    fn finish(&self) {
        Mpi::finish(self);
    }
}
