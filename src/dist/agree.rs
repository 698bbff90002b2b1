//! What every rank must have alike before a run begins: the program, the config, what it reads.
//!
//! The one idea: each tells all, and all hold everybody to rank 0; so every rank knows who differs, in what, and where it runs.

use super::launch::gpus_are_shared;
use super::{Packet, Ranks, Unpack};
use crate::device::Device;
use crate::error::{Error, Result};

/// What is told of a rank: the name of a thing, and its value.
pub type Fact = (&'static str, String);

/// The name of this machine.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "an unnamed host".into() } else { name.trim().into() }
}

/// The processor: another kind's vector units may differ in the last bit.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |line: &str| {
        line.strip_prefix("model name").and_then(|rest| rest.split_once(':')).map(|(_, n)| n.trim().into())
    };
    text.lines().find_map(of).unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// CRC-32C of the program that runs: its version and its kernels are all in it.
pub fn program() -> String {
    let crc = std::env::current_exe().and_then(std::fs::read).map(|bytes| crc32c::crc32c(&bytes));
    format!("{} ({})", env!("CARGO_PKG_VERSION"), crc.map_or("unreadable".into(), |crc| format!("{crc:08x}")))
}

/// Holds every rank's facts to those of rank 0.
///
/// # Errors
/// [`Error::Ranks`] naming rank, host and what differs.
pub fn alike(ranks: &Ranks, facts: &[Fact]) -> Result<()> {
    let mut packet = Packet::new();
    packet.text(&host());
    for (_, value) in facts {
        packet.text(value);
    }
    let told = ranks.gather("what each rank runs", &packet.bytes)?;
    let mut first: Option<(String, Vec<String>)> = None;
    for (rank, bytes) in told.iter().enumerate() {
        let mut read = Unpack::of(bytes);
        let host = read.text()?;
        let values: Vec<String> = facts.iter().map(|_| read.text()).collect::<Result<_>>()?;
        let Some((at, theirs)) = &first else {
            first = Some((host, values));
            continue;
        };
        let differs = facts.iter().zip(values.iter().zip(theirs)).find(|(_, (mine, theirs))| mine != theirs);
        if let Some(((name, _), (mine, theirs))) = differs {
            let (mine, theirs) = first_apart(mine, theirs);
            let what =
                format!("{name}: rank {rank} on {host} has {mine}, rank 0 on {at} has {theirs}; start all alike");
            return Err(Error::Ranks { what });
        }
    }
    Ok(())
}

/// Holds ranks to a GPU each.
///
/// # Errors
/// [`Error::Ranks`] naming two that have one, unless `NCCL_MULTI_RANK_GPU_ENABLE=1` lets them.
pub fn apart(ranks: &Ranks, dev: &Device) -> Result<()> {
    let mut packet = Packet::new();
    packet.text(&host()).text(dev.gpu_id().unwrap_or_default());
    let told = ranks.gather("the GPU of each rank", &packet.bytes)?;
    let each = told.iter().map(|bytes| -> Result<[String; 2]> {
        let mut read = Unpack::of(bytes);
        Ok([read.text()?, read.text()?])
    });
    shared(&each.collect::<Result<Vec<_>>>()?)
        .filter(|_| !gpus_are_shared())
        .map_or(Ok(()), |what| Err(Error::Ranks { what }))
}

/// Two ranks, of each its host and GPU, that have one GPU.
fn shared(each: &[[String; 2]]) -> Option<String> {
    each.iter().enumerate().find_map(|(rank, [host, gpu])| {
        let before = each[..rank].iter().position(|[_, other]| other == gpu && !gpu.is_empty())?;
        Some(format!("rank {before} and rank {rank} on {host} have the same GPU ({gpu}): start one rank a GPU"))
    })
}

/// Holds the checksums of what must be the same at every rank to each other: whoever is not of the most is named.
///
/// # Errors
/// [`Error::Ranks`] naming every rank that differs, and its host.
pub fn same(ranks: &Ranks, what: &'static str, crc: u32) -> Result<()> {
    let mut packet = Packet::new();
    let mut all: Vec<(String, u32)> = vec![];
    for bytes in ranks.gather(what, &packet.text(&host()).put(&[crc]).bytes)? {
        let mut read = Unpack::of(&bytes);
        let (host, [crc]) = (read.text()?, read.exactly()?);
        all.push((host, crc));
    }
    let count = |crc: u32| all.iter().filter(|(_, other)| *other == crc).count();
    // Of equals the one of the lowest rank.
    let most = all.iter().rev().max_by_key(|(_, crc)| count(*crc)).map_or(crc, |(_, crc)| *crc);
    let odd = all.iter().enumerate().filter(|(_, (_, crc))| *crc != most);
    let odd: Vec<String> = odd.map(|(rank, (host, crc))| format!("rank {rank} on {host} has {crc:08x}")).collect();
    if odd.is_empty() {
        return Ok(());
    }
    let (odd, n) = (odd.join(", "), all.len() - odd.len());
    let what = format!(
        "{what}: {odd}, the {n} others have {most:08x}: what differs has computed or kept something wrongly; go on without it \
         from the checkpoint before"
    );
    Err(Error::Ranks { what })
}

/// The first lines in which two texts differ.
fn first_apart<'a>(mine: &'a str, theirs: &'a str) -> (&'a str, &'a str) {
    let (mut a, mut b) = (mine.lines(), theirs.lines());
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => return (mine, theirs),
            (a, b) => return (a.unwrap_or("nothing more").trim(), b.unwrap_or("nothing more").trim()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ranks_of_one_gpu_are_named_and_what_is_no_gpu_is_no_matter() {
        let of = |all: &[[&str; 2]]| shared(&all.iter().map(|each| each.map(String::from)).collect::<Vec<_>>());
        assert_eq!(of(&[["a", ""], ["a", ""]]), None);
        assert_eq!(of(&[["a", "1"], ["a", "2"], ["b", "3"]]), None);
        let told = of(&[["a", "1"], ["a", "2"], ["b", "2"]]).unwrap();
        assert_eq!(told, "rank 1 and rank 2 on b have the same GPU (2): start one rank a GPU");
    }
}
