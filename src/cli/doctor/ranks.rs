//! `haggle doctor --ranks`: the ranks that a launcher started, how fast they tell each other, and whether their sums are those
//! of one rank.

use super::numbers;
use crate::cli::together;
use crate::config::Config;
use crate::device::nccl::{self, Library};
use crate::device::{DType, Device};
use crate::dist::lanes::Tree;
use crate::dist::shards::{longest, shards};
use crate::dist::{Ranks, agree};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

/// MiB that a rank tells in all.
const SIZES: [usize; 3] = [1, 16, 64];
/// Elements of the sum that is tested.
const ELEMENTS: usize = 200_000;

/// What was found; none at a rank that does not print.
///
/// # Errors
/// What the launcher, the transport and the ranks say; [`Error::Ranks`] where a sum is not that of one rank.
pub(super) fn report(config: &Config) -> Result<Option<Map<String, Value>>> {
    let ranks = together::ranks(config)?;
    let dev = &together::device(&ranks, config)?;
    let mut report = Map::new();
    report.insert("ranks".into(), json!(ranks.world()));
    report.insert("transport".into(), json!(ranks.transport()));
    if ranks.world() == 1 {
        report.insert("nccl".into(), json!(nccl()));
    }
    let facts = [("program", agree::program()), ("device", dev.kind()), ("processor", agree::processor())];
    agree::alike(&ranks, &facts)?;
    agree::apart(&ranks, dev)?;
    for mib in SIZES.into_iter().filter(|_| ranks.world() > 1) {
        let (to, all) = speeds(&ranks, mib << 20)?;
        report.insert(format!("all-to-all of {mib} MiB"), json!(format!("{to:.2} GB/s a rank")));
        report.insert(format!("all-gather of {mib} MiB"), json!(format!("{all:.2} GB/s a rank")));
        let views = view_speed(&ranks, dev, mib << 20)?;
        report.insert(format!("views, sum and share of {mib} MiB"), json!(format!("{views:.2} GB/s a rank")));
    }
    report.insert("sum".into(), json!(tree_holds(&ranks, dev)?));
    ranks.finish();
    Ok(ranks.is_first().then_some(report))
}

/// GB/s that a rank sends in an all-to-all and in an all-gather of `bytes`: of the second of two.
fn speeds(ranks: &Ranks, bytes: usize) -> Result<(f64, f64)> {
    let piece = vec![1u8; bytes / ranks.world()];
    let sent = (piece.len() * (ranks.world() - 1)) as f64;
    let (mut to, mut all) = (0.0, 0.0);
    for _ in 0..2 {
        ranks.meet("doctor")?;
        let start = Instant::now();
        ranks.tell("doctor's all-to-all", vec![piece.clone(); ranks.world()])?;
        to = sent / start.elapsed().as_secs_f64() / 1e9;
        let start = Instant::now();
        ranks.gather("doctor's all-gather", &piece)?;
        all = sent / start.elapsed().as_secs_f64() / 1e9;
    }
    Ok((to, all))
}

/// The library that ranks on GPUs would meet over, and whether it starts here.
fn nccl() -> String {
    let found = Library::find().map(Arc::new);
    let started = found.and_then(|library| nccl::starts(&library).map(|()| format!("{library:?} starts here")));
    started.unwrap_or_else(|e| e.to_string())
}

/// GB/s that a rank sends while f32 numbers of `bytes` on the device are summed over ranks and the sum is brought to all, adding
/// included: of the second of two.
fn view_speed(ranks: &Ranks, dev: &Device, bytes: usize) -> Result<f64> {
    let n = bytes / size_of::<f32>();
    let (world, cuts) = (ranks.world(), shards(n, ranks.world()));
    let mut branch = dev.zeros(DType::F32, n)?;
    let mut held =
        (0..Tree::Runs.held(world)).map(|_| dev.zeros(DType::F32, longest(n, world))).collect::<Result<Vec<_>>>()?;
    let mut speed = 0.0;
    for _ in 0..2 {
        ranks.meet("doctor")?;
        let (start, sent) = (Instant::now(), ranks.sent_bytes());
        ranks.reduce("doctor's sum of views", dev, (Tree::Runs, branch.view_mut()), &cuts, &mut held)?;
        ranks.share("doctor's share of views", dev, branch.view_mut(), &cuts)?;
        dev.wait()?;
        speed = (ranks.sent_bytes() - sent) as f64 / start.elapsed().as_secs_f64() / 1e9;
    }
    Ok(speed)
}

/// Holds a sum over ranks to the tree added at this rank alone.
fn tree_holds(ranks: &Ranks, dev: &Device) -> Result<&'static str> {
    let (world, of) = (ranks.world(), |rank: usize| numbers(100 + rank as u64, ELEMENTS));
    let cuts = shards(ELEMENTS, world);
    let mut branch = dev.upload(&of(ranks.rank()))?;
    let scratch = (0..Tree::Runs.held(world)).map(|_| dev.upload(&vec![0f32; longest(ELEMENTS, world)]));
    ranks.reduce(
        "doctor's sum",
        dev,
        (Tree::Runs, branch.view_mut()),
        &cuts,
        &mut scratch.collect::<Result<Vec<_>>>()?,
    )?;
    ranks.share("doctor's sum", dev, branch.view_mut(), &cuts)?;
    let mut want: Vec<Vec<f32>> = vec![];
    for rank in 0..world {
        want.push(of(rank));
        for _ in 0..Tree::Runs.merges(rank, world) {
            let (Some(b), Some(a)) = (want.pop(), want.last_mut()) else { continue };
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
    }
    let got = dev.download::<f32>(branch.view())?;
    let same = got.iter().zip(&want[0]).all(|(got, want)| got.to_bits() == want.to_bits());
    let held = if same {
        Ok("ok: the bits of one rank, at every rank")
    } else {
        Err(Error::Ranks {
            what: "a sum over ranks has other bits than the same sum at one; nothing trained here can be trusted"
                .into(),
        })
    };
    ranks.agree("doctor's sum", held)
}
