//! What a launcher told this process in its environment: which of how many ranks it is, and its seat on its machine.

use crate::device::gpu::cuda_modules;
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
    /// Its place on its machine.
    pub seat: Seat,
}

/// A rank among those of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its number among them, from 0.
    pub local_rank: usize,
    /// How many they are.
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

/// The variables of a launcher.
struct Variables {
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
    /// The ranks of this machine; of several names the first that is set.
    local_world: &'static [&'static str],
    /// One that must be there too.
    too: &'static str,
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

    fn variables(self) -> Variables {
        fn of([rank, world, local_rank, too]: [&'static str; 4], local_world: &'static [&'static str]) -> Variables {
            Variables { rank, world, local_rank, local_world, too }
        }
        match self {
            Launcher::Torchrun => of(["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_RANK"], &["LOCAL_WORLD_SIZE"]),
            Launcher::OpenMpi => of(
                ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK"],
                &["OMPI_COMM_WORLD_LOCAL_SIZE"],
            ),
            Launcher::Pmi => of(["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "PMI_RANK"], &["MPI_LOCALNRANKS"]),
            // In a script of sbatch without srun there is one process, whatever SLURM_NTASKS says.
            Launcher::Slurm => of(
                ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"],
                &["SLURM_NTASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"],
            ),
        }
    }

    /// The libraries its transport may be in, the likeliest first.
    pub(super) fn libraries(self) -> Vec<String> {
        let (open_mpi, mpich) = (["libmpi.so.40", "libmpi.so"], ["libmpich.so.12", "libmpi.so.12"]);
        let all = match self {
            Launcher::Pmi => [mpich, open_mpi],
            Launcher::OpenMpi | Launcher::Slurm | Launcher::Torchrun => [open_mpi, mpich],
        };
        all.concat().into_iter().map(String::from).collect()
    }
}

/// A variable of the environment that says something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

impl Launch {
    /// What the environment says; none where nobody launched ranks.
    ///
    /// # Errors
    /// [`Error::Config`] naming a variable that cannot be understood.
    pub fn of(var: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
        for by in [Launcher::Torchrun, Launcher::OpenMpi, Launcher::Pmi, Launcher::Slurm] {
            let Variables { rank, world, local_rank, local_world, too } = by.variables();
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
            let local_rank = var(local_rank).and_then(|n| n.parse().ok()).unwrap_or(0);
            // Slurm writes `4(x2)` where two machines have four.
            let first =
                |text: String| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse::<usize>().ok());
            let local_world = local_world.iter().find_map(|name| var(name)).and_then(first).unwrap_or(1);
            let local_world = local_world.max(local_rank + 1).clamp(1, world_is);
            return Ok(Some(Launch { by, rank: rank_is, world: world_is, seat: Seat { local_rank, local_world } }));
        }
        Ok(None)
    }

    /// Refuses to do by many ranks what one does.
    ///
    /// # Errors
    /// As [`Launch::of`]; [`Error::Ranks`] where a launcher started more than one.
    pub fn one(command: &str) -> Result<()> {
        match Launch::of(&variable)? {
            Some(Launch { by, world, .. }) if world > 1 => {
                let what = format!(
                    "{} started {world} ranks of haggle {command}: haggle train, sft and eval share their work, no other command does",
                    by.name()
                );
                Err(Error::Ranks { what })
            }
            _ => Ok(()),
        }
    }
}

impl Seat {
    /// The one seat of a machine.
    pub const ALONE: Seat = Seat { local_rank: 0, local_world: 1 };

    /// CPU threads of this rank, of those that a config asks for: 0, all cores, is this rank's share of them.
    pub fn threads(&self, asked: usize) -> usize {
        if asked > 0 || self.local_world == 1 {
            return asked;
        }
        (std::thread::available_parallelism().map_or(1, usize::from) / self.local_world).max(1)
    }

    /// The device of this rank where a config asks for `asked`: of GPUs each rank its own.
    ///
    /// # Errors
    /// [`Error::Device`] where ranks would share a GPU, unless `NCCL_MULTI_RANK_GPU_ENABLE=1` lets them.
    pub fn device(&self, asked: &str) -> Result<String> {
        if self.local_world == 1 || asked != "cuda" && !asked.starts_with("cuda:") {
            return Ok(asked.into());
        }
        self.gpu(asked, cuda_modules::visible()?, gpus_are_shared())
    }

    /// The same where so many GPUs are visible.
    fn gpu(&self, asked: &str, visible: usize, shared: bool) -> Result<String> {
        let Seat { local_rank, local_world } = *self;
        let refused = |what: String| Err(Error::Device { device: asked.into(), what });
        match (asked.strip_prefix("cuda:"), visible) {
            (Some(_), _) if shared => Ok(asked.into()),
            (Some(_), _) => {
                refused(format!("{local_world} ranks of this machine take a GPU each: name the device cuda"))
            }
            // Its own, hidden from others, or one for all: the ranks compare.
            (None, 0 | 1) => Ok("cuda:0".into()),
            (None, n) if local_rank < n => Ok(format!("cuda:{local_rank}")),
            (None, n) if shared => Ok(format!("cuda:{}", local_rank % n)),
            (None, n) => {
                refused(format!("{local_world} ranks of this machine see {n} GPUs; start as many as there are GPUs"))
            }
        }
    }
}

/// True where several ranks may have one GPU: for tests.
pub(super) fn gpus_are_shared() -> bool {
    variable("NCCL_MULTI_RANK_GPU_ENABLE").is_some_and(|v| v == "1")
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
        let launch = |by, rank, world, local_rank, local_world| {
            Some(Launch { by, rank, world, seat: Seat { local_rank, local_world } })
        };
        assert_eq!(of(&[]).unwrap(), None);
        let torch = [("RANK", "3"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "3"), ("LOCAL_WORLD_SIZE", "8")];
        assert_eq!(of(&torch).unwrap(), launch(Launcher::Torchrun, 3, 16, 3, 8));
        let open_mpi =
            [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
        assert_eq!(of(&open_mpi).unwrap(), launch(Launcher::OpenMpi, 1, 4, 0, 2));
        assert_eq!(of(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).unwrap(), launch(Launcher::Pmi, 0, 2, 0, 1));
        let batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")];
        assert_eq!(of(&batch).unwrap(), None);
        let step = [batch[0], batch[1], ("SLURM_STEP_ID", "0")];
        assert_eq!(of(&step).unwrap(), launch(Launcher::Slurm, 0, 8, 0, 1));
        let nodes =
            [("SLURM_PROCID", "5"), step[1], step[2], ("SLURM_LOCALID", "1"), ("SLURM_STEP_TASKS_PER_NODE", "4(x2)")];
        assert_eq!(of(&nodes).unwrap(), launch(Launcher::Slurm, 5, 8, 1, 4));
        let no_count = [nodes[0], nodes[1], nodes[2], ("SLURM_LOCALID", "3")];
        assert_eq!(of(&no_count).unwrap(), launch(Launcher::Slurm, 5, 8, 3, 4));
    }

    #[test]
    fn each_rank_of_a_machine_has_a_gpu_of_its_own_or_is_refused() {
        let seat = Seat { local_rank: 2, local_world: 4 };
        let gpu = |asked: &str, visible, shared| seat.gpu(asked, visible, shared);
        assert_eq!(gpu("cuda", 8, false).unwrap(), "cuda:2");
        assert_eq!(gpu("cuda", 1, false).unwrap(), "cuda:0");
        assert_eq!(gpu("cuda", 2, true).unwrap(), "cuda:0");
        assert_eq!(gpu("cuda:5", 8, true).unwrap(), "cuda:5");
        assert!(gpu("cuda", 2, false).unwrap_err().to_string().contains("4 ranks of this machine see 2 GPUs"));
        assert!(gpu("cuda:1", 8, false).unwrap_err().to_string().contains("name the device cuda"));
        assert_eq!(seat.device("emu").unwrap(), "emu");
        assert_eq!(Seat::ALONE.device("cuda:1").unwrap(), "cuda:1");
    }

    #[test]
    fn what_is_no_number_or_no_rank_is_refused_by_its_variable() {
        let message = of(&[("PMI_RANK", "x"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(message.contains("PMI_RANK=x"), "{message}");
        let message = of(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(message.contains("PMI_RANK=2, PMI_SIZE=2"), "{message}");
    }
}
