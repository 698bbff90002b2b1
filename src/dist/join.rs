//! How ranks come together: the transport that a launch goes with, and a device for each.
//!
//! The one idea: the launcher and the transport must count the same ranks. The launcher of one MPI with the library of another
//! gives as many runs of one rank each, which would write into one directory.

use super::launch::{Launch, Launcher, Seat, variable};
use super::nccl::{OverNccl, Present};
use super::{Ranks, agree};
use crate::device::Device;
use crate::device::mpi::Mpi;
use crate::device::nccl::{Joining, Library, Nccl, UniqueId};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// The longest that ranks wait for each other to begin.
const BEGIN: Duration = Duration::from_secs(120);

/// What ranks meet over: `dist.transport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// NCCL for GPUs and under torchrun, else MPI.
    Auto,
    /// MPI: memory goes through the host.
    Mpi,
    /// NCCL: memory goes from GPU to GPU.
    Nccl,
}

impl Transport {
    /// The words, in the order of the variants.
    pub const WORDS: &'static [&'static str] = &["auto", "mpi", "nccl"];

    /// What a word means.
    ///
    /// # Panics
    /// For a word that is none of these.
    pub fn of(word: &str) -> Transport {
        match word {
            "auto" => Transport::Auto,
            "mpi" => Transport::Mpi,
            "nccl" => Transport::Nccl,
            other => panic!("`{other}` is none of {:?}", Transport::WORDS),
        }
    }
}

/// Who adds what ranks have: `dist.sum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sum {
    /// This program, in the tree of lanes: the bits of one rank.
    #[default]
    Tree,
    /// NCCL, in an order of its own: the bits depend on the number of ranks, and on what NCCL chooses.
    Nccl,
}

impl Sum {
    /// The words, in the order of the variants.
    pub const WORDS: &'static [&'static str] = &["tree", "nccl"];

    /// What a word means.
    ///
    /// # Panics
    /// For a word that is none of these.
    pub fn of(word: &str) -> Sum {
        match word {
            "tree" => Sum::Tree,
            "nccl" => Sum::Nccl,
            other => panic!("`{other}` is none of {:?}", Sum::WORDS),
        }
    }
}

/// What a run asks of its ranks.
pub struct Asked<'a> {
    /// What they meet over.
    pub transport: Transport,
    /// The device, as the config names it.
    pub device: &'a str,
    /// How long they wait for each other.
    pub limit: Duration,
    /// Opens the device of a rank.
    pub open: &'a dyn Fn(&Seat) -> Result<Device>,
}

impl Asked<'_> {
    fn is_cuda(&self) -> bool {
        self.device == "cuda" || self.device.starts_with("cuda:")
    }
}

/// The ranks of this process: one where no launcher started more.
///
/// # Errors
/// As [`Launch::of`]; [`Error::Ranks`] when the transport is not there, counts other ranks than the launcher, or misses one;
/// over NCCL also what the device says.
pub fn ranks(asked: &Asked) -> Result<Ranks> {
    let Some(launch) = Launch::of(&variable)?.filter(|launch| launch.world > 1) else { return Ok(Ranks::alone()) };
    let own_mpi = variable("HAGGLE_MPI");
    let over_nccl = match asked.transport {
        Transport::Mpi => false,
        Transport::Nccl => true,
        Transport::Auto => asked.is_cuda() || launch.by == Launcher::Torchrun && own_mpi.is_none(),
    };
    let ranks = if over_nccl { nccl(&launch, asked)? } else { Ranks::linked(mpi(&launch)?) };
    Ok(ranks.seated(launch.seat).watched())
}

/// The launcher's MPI.
fn mpi(launch: &Launch) -> Result<Mpi> {
    let mpi = Mpi::begin(&variable("HAGGLE_MPI").map_or_else(|| launch.by.libraries(), |file| vec![file]))?;
    launch.holds(&mpi)?;
    Ok(mpi)
}

fn nccl(launch: &Launch, asked: &Asked) -> Result<Ranks> {
    if !asked.is_cuda() && variable("HAGGLE_NCCL").is_none() {
        let what = format!(
            "{} ranks that meet over NCCL have a GPU each: --device cuda; or start with mpirun or srun, whose ranks meet over MPI",
            launch.world
        );
        return Err(Error::Ranks { what });
    }
    let library = Arc::new(Library::find()?);
    let dev = (asked.open)(&launch.seat)?;
    let at = launch.meets_at(&variable)?;
    let (id, met) = match &at {
        Some(at) => (library.id_at(at)?, None),
        None => {
            let mpi = mpi(launch)?;
            (told_id(&library, &mpi)?, Some(mpi))
        }
    };
    let at = at.unwrap_or_else(|| "an address told over MPI".into());
    let first = launch.rank - launch.seat.local_rank.min(launch.rank);
    let here = first..(first + launch.seat.local_world).min(launch.world);
    let present = Present::comes(&at, launch.rank, here);
    let missing = || format!("at {at}; {}", present.missing());
    let limit = asked.limit.min(BEGIN);
    let joining = Joining { library, id, rank: launch.rank, world: launch.world, limit, missing: &missing };
    Ok(Ranks::linked(OverNccl::process(Nccl::begin(dev, joining)?, met)))
}

/// Rank 0's id, told to all.
fn told_id(library: &Library, mpi: &Mpi) -> Result<UniqueId> {
    let mine = if mpi.rank == 0 { library.new_id()?.0.to_vec() } else { Vec::new() };
    let told = mpi.all_to_all(&vec![&mine[..]; mpi.world])?;
    let id = told[0].as_slice().try_into().map_err(|_| Error::Ranks { what: "rank 0 told no id of NCCL".into() })?;
    Ok(UniqueId(id))
}

impl Launch {
    /// Holds a transport to the launcher.
    fn holds(&self, mpi: &Mpi) -> Result<()> {
        if (mpi.rank, mpi.world) == (self.rank, self.world) {
            return Ok(());
        }
        let what = format!(
            "{} started rank {} of {} on {}, {} ({}) counts rank {} of {}: they are of two MPIs; start with the mpirun of that \
             library, or name another in HAGGLE_MPI",
            self.by.name(),
            self.rank,
            self.world,
            agree::host(),
            mpi.version,
            mpi.file,
            mpi.rank,
            mpi.world
        );
        Err(Error::Ranks { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_transports_mean_them_in_their_order() {
        let all: Vec<Transport> = Transport::WORDS.iter().map(|word| Transport::of(word)).collect();
        assert_eq!(all, [Transport::Auto, Transport::Mpi, Transport::Nccl]);
        assert_eq!(Sum::WORDS.iter().map(|word| Sum::of(word)).collect::<Vec<_>>(), [Sum::Tree, Sum::Nccl]);
    }
}
