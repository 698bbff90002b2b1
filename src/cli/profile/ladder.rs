//! `haggle profile ladder`: the rungs that lead up to an op, side by side, and what each bought.

use super::ProfileArgs;
use crate::cli::{Exit, Globals, out};
use crate::device::Device;
use crate::error::Result;
use crate::profile::ladder::{Bought, Climbed, Did, Ladder, Sums, bought, climb};

/// What the columns of counts mean.
const COUNTED: &str = "\
Counted on the emulator; times are predicted of an H100, never measured. x bytes, touched: asked for, and different ones of each
launch, over the formula's; rd/rq, wr/rq: sectors of 32 bytes a request of a warp; lost: cycles of shared memory lost to bank
conflicts, over those without; mma, wgmma: their FLOP over the formula's; flying: KB of copies that a block has under way at once;
scratch: KB kept in memory beside inputs and outputs; us: at this shape; TFLOP/s, by: of a card that is busy with many such
launches, their operands in its caches, and what binds it. Below: + what a rung bought against the one before, - what that costs.
";

/// The ladders that are asked for, at their shapes: looked at before anything runs.
///
/// # Errors
/// [`crate::Error::Config`] for a name or a shape that there is not.
pub fn asked(args: &ProfileArgs) -> Result<Vec<Ladder>> {
    let names = args.stem.as_deref().map_or(Ladder::NAMES.to_vec(), |name| vec![name]);
    names.into_iter().map(|name| Ladder::at(name, args.shape.as_deref())).collect()
}

/// Climbs them.
///
/// # Errors
/// What the device refuses.
pub fn run(ladders: &[Ladder], globals: &Globals, dev: &Device) -> Result<Exit> {
    for (i, ladder) in ladders.iter().enumerate() {
        let climbed = climb(dev, ladder)?;
        let before = |at: usize| at.checked_sub(1).map(|at| &climbed[at]);
        if globals.json {
            let rows = climbed.iter().enumerate().map(|(at, rung)| rung.json(ladder, before(at)));
            rows.for_each(|row| out::line(&row.to_string()));
        } else {
            out::print(&format!("{}{}", if i > 0 { "\n" } else { "" }, text(ladder, &climbed, i == 0)));
        }
    }
    Ok(Exit::Done)
}

/// A ladder for people: the numbers, then the ideas; `explains`: with what the columns mean.
fn text(ladder: &Ladder, climbed: &[Climbed], explains: bool) -> String {
    let shape = climbed.first().map_or("", |rung| &rung.shape);
    let counted = climbed.iter().any(|rung| matches!(rung.did, Did::Counted(_)));
    let explained = if explains && counted { format!("{COUNTED}\n") } else { String::new() };
    let mut text = format!("{explained}{}: {}   {shape}\n\n", ladder.name(), ladder.formula());
    let head = if counted { &COUNTS[..] } else { &TIMES[..] };
    let mut rows = vec![head.iter().map(|cell| cell.to_string()).collect::<Vec<_>>()];
    rows.extend(climbed.iter().map(|rung| match &rung.did {
        Did::Counted(sums) => counts(rung, sums),
        Did::Timed(us) => vec![
            rung.name().into(),
            kb(rung.scratch_bytes as f64),
            format!("{us:.1}"),
            format!("{:.1}", rung.cost.flops / us / 1e6),
        ],
    }));
    text += &out::columns(&rows);
    for (at, rung) in climbed.iter().enumerate() {
        let Bought { gains, costs } = at.checked_sub(1).map(|at| bought(&climbed[at], rung)).unwrap_or_default();
        text += &format!("\n{}: {} (kernels/{})\n", rung.name(), rung.rung.idea, rung.rung.page);
        for (sign, told) in [("+", gains), ("-", costs)] {
            told.iter().for_each(|what| text += &format!("  {sign} {what}\n"));
        }
    }
    for rung in ladder.rungs().iter().filter(|rung| !climbed.iter().any(|climbed| climbed.rung == **rung)) {
        text += &format!("\n{}: did not run: haggle doctor says whether Hopper's kernels are on here\n", rung.name());
    }
    text
}

const TIMES: [&str; 4] = ["rung", "scratch, KB", "us, measured", "TFLOP/s"];

const COUNTS: [&str; 15] = [
    "rung", "launches", "blocks", "x bytes", "touched", "rd/rq", "wr/rq", "lost", "mma", "wgmma", "flying", "scratch",
    "us", "TFLOP/s", "by",
];

fn counts(rung: &Climbed, sums: &Sums) -> Vec<String> {
    let c = &sums.counts;
    let each = |sectors: u64, requests: u64| format!("{:.1}", sectors as f64 / requests.max(1) as f64);
    // The copy engine's boxes are no requests of a warp.
    let by_warps = c.wgmma_flops == 0;
    let [asked, touched] = sums.bytes_of_formula(rung.cost);
    let [mma, wgmma] = sums.flops_of_formula(rung.cost);
    vec![
        rung.name().into(),
        sums.launches.to_string(),
        sums.blocks.to_string(),
        format!("{asked:.2}"),
        format!("{touched:.2}"),
        if by_warps { each(c.read_sectors, c.read_requests) } else { "-".into() },
        each(c.write_sectors, c.write_requests),
        format!("{:.0}%", 100.0 * sums.conflicts()),
        format!("{mma:.2}"),
        format!("{wgmma:.2}"),
        kb(c.flight_bytes as f64),
        kb(rung.scratch_bytes as f64),
        format!("{:.2}", sums.us),
        format!("{:.1}", rung.cost.flops / sums.busy.us / 1e6),
        sums.busy.bound.into(),
    ]
}

fn kb(bytes: f64) -> String {
    format!("{:.0}", bytes / 1024.0)
}
