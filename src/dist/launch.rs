//! How ranks begin: what a launcher told this process in its environment, and the transport that it goes with.
//!
//! The one idea: the launcher and the transport must count the same ranks. The launcher of one MPI with the library of another
//! gives as many runs of one rank each, which would write into one directory.

use super::Ranks;
use crate::device::mpi::Mpi;
use crate::error::{Error, Result};

/// What a launcher says of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Who started it.
    pub by: Launcher,
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// How many of them are on this machine.
    pub local_world: usize,
}

/// Who starts ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`.
    Torchrun,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// `mpirun` of MPICH, Intel MPI and others that speak PMI.
    Pmi,
    /// Slurm's `srun`.
    Slurm,
}

impl Launcher {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Torchrun => "torchrun",
            Launcher::OpenMpi => "Open MPI's mpirun",
            Launcher::Pmi => "an mpirun that speaks PMI (MPICH, Intel MPI)",
            Launcher::Slurm => "srun",
        }
    }

    /// Its variables: rank, world, world on this machine; and one that must be there too.
    fn variables(self) -> [&'static str; 4] {
        match self {
            Launcher::Torchrun => ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"],
            Launcher::OpenMpi => {
                ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_RANK"]
            }
            Launcher::Pmi => ["PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "PMI_RANK"],
            // In a script of sbatch without srun there is one process, whatever SLURM_NTASKS says.
            Launcher::Slurm => ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_ID"],
        }
    }

    /// The libraries its transport may be in, the likeliest first.
    fn libraries(self) -> Vec<String> {
        let (open_mpi, mpich) = (["libmpi.so.40", "libmpi.so"], ["libmpich.so.12", "libmpi.so.12"]);
        let all = match self {
            Launcher::Pmi => [mpich, open_mpi],
            Launcher::OpenMpi | Launcher::Slurm | Launcher::Torchrun => [open_mpi, mpich],
        };
        all.concat().into_iter().map(String::from).collect()
    }
}

impl Launch {
    /// What the environment says; none where nobody launched ranks.
    ///
    /// # Errors
    /// [`Error::Config`] naming a variable that cannot be understood.
    pub fn of(var: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
        for by in [Launcher::Torchrun, Launcher::OpenMpi, Launcher::Pmi, Launcher::Slurm] {
            let [rank, world, local_world, too] = by.variables();
            if [rank, world, too].iter().any(|name| var(name).is_none()) {
                continue;
            }
            let number = |name: &str| -> Result<usize> {
                let text = var(name).unwrap_or_default();
                let wrong = || format!("{name}={text}: {} set no number here", by.name());
                text.parse().map_err(|_| Error::Config { problems: vec![wrong()] })
            };
            let (rank_is, world_is) = (number(rank)?, number(world)?);
            if rank_is >= world_is {
                let what = format!("{rank}={rank_is}, {world}={world_is}: there is no such rank");
                return Err(Error::Config { problems: vec![what] });
            }
            let local_world = var(local_world).and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, world_is);
            return Ok(Some(Launch { by, rank: rank_is, world: world_is, local_world }));
        }
        Ok(None)
    }

    /// The ranks of this process: one where no launcher started more.
    ///
    /// # Errors
    /// As [`Launch::of`]; [`Error::Ranks`] when the transport is not there or counts other ranks than the launcher.
    pub fn ranks() -> Result<Ranks> {
        let var = |name: &str| std::env::var(name).ok();
        let Some(launch) = Launch::of(&var)?.filter(|launch| launch.world > 1) else { return Ok(Ranks::alone()) };
        let own = var("HAGGLE_MPI").filter(|file| !file.is_empty());
        if launch.by == Launcher::Torchrun && own.is_none() {
            let what = "torchrun starts ranks that meet over NCCL, which haggle does not speak yet; start them with mpirun or srun";
            return Err(Error::Ranks { what: what.into() });
        }
        let mpi = Mpi::begin(&own.map_or_else(|| launch.by.libraries(), |file| vec![file]))?;
        launch.holds(&mpi)?;
        Ok(Ranks::linked(mpi).with_local(launch.local_world).watched())
    }

    /// Refuses to do by many ranks what one does.
    ///
    /// # Errors
    /// As [`Launch::of`]; [`Error::Ranks`] where a launcher started more than one.
    pub fn one(command: &str) -> Result<()> {
        match Launch::of(&|name: &str| std::env::var(name).ok())? {
            Some(Launch { by, world, .. }) if world > 1 => {
                let what = format!(
                    "{} started {world} ranks of haggle {command}: haggle train alone shares its work",
                    by.name()
                );
                Err(Error::Ranks { what })
            }
            _ => Ok(()),
        }
    }

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
            super::agree::host(),
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

    fn of(vars: &[(&str, &str)]) -> Result<Option<Launch>> {
        let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Launch::of(&move |name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn each_launcher_is_understood_and_a_script_without_srun_is_one_process() {
        let launch = |by, rank, world, local_world| Some(Launch { by, rank, world, local_world });
        assert_eq!(of(&[]).unwrap(), None);
        let torch = [("RANK", "3"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "3"), ("LOCAL_WORLD_SIZE", "8")];
        assert_eq!(of(&torch).unwrap(), launch(Launcher::Torchrun, 3, 16, 8));
        let open_mpi =
            [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
        assert_eq!(of(&open_mpi).unwrap(), launch(Launcher::OpenMpi, 1, 4, 2));
        assert_eq!(of(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).unwrap(), launch(Launcher::Pmi, 0, 2, 1));
        let batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")];
        assert_eq!(of(&batch).unwrap(), None);
        let step = [batch[0], batch[1], ("SLURM_STEP_ID", "0")];
        assert_eq!(of(&step).unwrap(), launch(Launcher::Slurm, 0, 8, 1));
    }

    #[test]
    fn what_is_no_number_or_no_rank_is_refused_by_its_variable() {
        let message = of(&[("PMI_RANK", "x"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(message.contains("PMI_RANK=x"), "{message}");
        let message = of(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(message.contains("PMI_RANK=2, PMI_SIZE=2"), "{message}");
    }
}
