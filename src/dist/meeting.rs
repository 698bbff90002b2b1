//! Where ranks meet that a launcher of no MPI started: an address that each knows by itself.
//!
//! The one idea: no socket of ours. Every rank names the same `HOST:PORT` to NCCL, which at rank 0 listens there. So it takes a
//! network that is private, as torch's does, and one address of which all machines reach.

use super::launch::{Launch, Launcher};
use crate::error::{Error, Result};

/// The first port that jobs of Slurm get; each its own.
const SLURM_PORTS: u32 = 15_000;

impl Launch {
    /// `HOST:PORT`; none where ranks tell each other over the launcher's MPI.
    ///
    /// # Errors
    /// [`Error::Ranks`] naming the variable that is missing or makes no sense.
    pub(super) fn meets_at(&self, var: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
        let var = |name: &str| var(name).filter(|text| !text.is_empty());
        if let Some(own) = var("NCCL_COMM_ID") {
            return Ok(Some(own));
        }
        let asks = |name: &str, or: Option<String>| {
            let what = format!("{} set no {name}: set it, the same for all ranks; rank 0 is there", self.by.name());
            or.ok_or(Error::Ranks { what })
        };
        let (host, port) = (var("MASTER_ADDR"), port(var("MASTER_PORT"))?);
        let (host, port) = match self.by {
            // Its agent listens at that port itself.
            Launcher::Torchrun => {
                let taken = u32::from(var("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True"));
                (asks("MASTER_ADDR", host)?, port.map(|port| port + taken))
            }
            Launcher::OpenMpi | Launcher::Pmi => match (host, port) {
                (Some(host), Some(port)) => (host, Some(port)),
                _ => return Ok(None),
            },
            Launcher::Slurm => {
                let nodes = var("SLURM_STEP_NODELIST").or_else(|| var("SLURM_JOB_NODELIST"));
                let job = var("SLURM_JOB_ID").and_then(|id| id.parse::<u32>().ok());
                let host = asks("MASTER_ADDR", host.or_else(|| nodes.map(|nodes| first_node(&nodes))))?;
                (host, port.or(job.map(|id| SLURM_PORTS + id % 10_000)))
            }
        };
        let port = asks("MASTER_PORT", port.map(|port| port.to_string()))?;
        let bare_v6 = host.contains(':') && !host.starts_with('[');
        Ok(Some(if bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }))
    }
}

fn port(text: Option<String>) -> Result<Option<u32>> {
    let wrong = |text: &str| Error::Ranks { what: format!("MASTER_PORT={text}: no port") };
    let of = |text: String| text.parse::<u16>().map(u32::from).map_err(|_| wrong(&text));
    text.map(of).transpose()
}

/// The first node of Slurm's way to write many: `gpu[03-05,7],other` begins with `gpu03`.
fn first_node(nodes: &str) -> String {
    let Some((head, rest)) = nodes.split_once('[').filter(|(head, _)| !head.contains(',')) else {
        return nodes.split(',').next().unwrap_or_default().into();
    };
    let (numbers, tail) = rest.split_once(']').unwrap_or((rest, ""));
    let number = numbers.split([',', '-']).next().unwrap_or_default();
    format!("{head}{number}{}", tail.split(',').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::launch::Seat;
    use super::*;

    fn at(by: Launcher, vars: &[(&str, &str)]) -> Result<Option<String>> {
        let launch = Launch { by, rank: 1, world: 4, seat: Seat { local_rank: 1, local_world: 2 } };
        launch.meets_at(&|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn each_launcher_names_one_address_and_torchruns_agent_keeps_its_port() {
        let master = [("MASTER_ADDR", "10.0.0.7"), ("MASTER_PORT", "29500")];
        let agent = [master[0], master[1], ("TORCHELASTIC_USE_AGENT_STORE", "True")];
        assert_eq!(at(Launcher::Torchrun, &master).unwrap().unwrap(), "10.0.0.7:29500");
        assert_eq!(at(Launcher::Torchrun, &agent).unwrap().unwrap(), "10.0.0.7:29501");
        assert_eq!(at(Launcher::OpenMpi, &master).unwrap().unwrap(), "10.0.0.7:29500");
        assert_eq!(at(Launcher::Pmi, &[]).unwrap(), None, "over MPI");
        let slurm = [("SLURM_JOB_ID", "8123456"), ("SLURM_JOB_NODELIST", "gpu[03-05,7],other")];
        assert_eq!(at(Launcher::Slurm, &slurm).unwrap().unwrap(), "gpu03:18456");
        assert_eq!(
            at(Launcher::Slurm, &[slurm[0], slurm[1], master[0], master[1]]).unwrap().unwrap(),
            "10.0.0.7:29500"
        );
        let v6 = [("MASTER_ADDR", "fe80::1"), master[1]];
        assert_eq!(at(Launcher::Torchrun, &v6).unwrap().unwrap(), "[fe80::1]:29500");
        let own = [("NCCL_COMM_ID", "a:1"), master[0], master[1]];
        assert_eq!(at(Launcher::Torchrun, &own).unwrap().unwrap(), "a:1");
    }

    #[test]
    fn what_is_missing_or_no_port_is_named() {
        let said = |vars: &[(&str, &str)]| at(Launcher::Torchrun, vars).unwrap_err().to_string();
        assert!(said(&[("MASTER_PORT", "1")]).contains("set no MASTER_ADDR"));
        assert!(said(&[("MASTER_ADDR", "a")]).contains("set no MASTER_PORT"));
        assert!(said(&[("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")]).contains("MASTER_PORT=70000: no port"));
    }

    #[test]
    fn slurms_first_node_is_read_as_slurm_writes_it() {
        let all = [("n1", "n1"), ("n1,n2", "n1"), ("n[07-09]", "n07"), ("n[3,5]-ib,m", "n3-ib"), ("a,b[1-2]", "a")];
        for (nodes, first) in all {
            assert_eq!(first_node(nodes), first);
        }
    }
}
