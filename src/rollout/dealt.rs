//! Episodes dealt over ranks.
//!
//! The one idea: what an episode says is a function of its job alone, so any rank may play it; and an episode is a function of
//! the replies that were submitted to it, so every other rank plays it again from those, in no time, to the same state.

use super::play::{self, Line, LineEnd, play};
use super::{Episode, Job, Player, Rollout, Spoken};
use crate::dist::{Packet, Ranks, Unpack};
use crate::error::{Error, Result};
use crate::infer::Stats;
use crate::remote;
use crate::text::Transcript;

/// Plays jobs as [`play()`] does, each rank its run of them; `together` jobs in a row stay at one rank, for they share a
/// prompt. Every rank has the whole result, in the order of jobs; of seconds those of the slowest rank.
///
/// # Errors
/// As [`play()`]; what failed at another rank.
pub fn play_dealt<E: Episode + ?Sized>(
    ranks: &Ranks,
    together: usize,
    mut jobs: Vec<Job<'_, E>>,
    players: &mut [Player<'_, E>],
    max_live: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Rollout> {
    if ranks.world() == 1 {
        return play(jobs, players, max_live, progress);
    }
    let (n, together) = (jobs.len(), together.max(1));
    let run_of = |rank| {
        let runs = ranks.dealt_to(rank, n.div_ceil(together));
        n.min(runs.start * together)..n.min(runs.end * together)
    };
    let own = run_of(ranks.rank());
    let mut after = jobs.split_off(own.end);
    let played = play::recorded(jobs.split_off(own.start), players, max_live, progress);
    let mut before = jobs;
    let packet = match &played {
        Ok((rollout, lines)) => told(rollout, lines),
        Err(e) => Packet::of_outcome(Some(e)),
    };
    let told = ranks.gather("episodes", &packet)?;
    played?;
    let mut all = Rollout::default();
    for (rank, bytes) in told.iter().enumerate() {
        let mut read = Unpack::of(bytes);
        read.outcome(rank)?;
        for i in run_of(rank) {
            let lines = lines(&mut read)?;
            all.spoken.push(spoken(&mut read)?);
            let other =
                if i < own.start { before.get_mut(i) } else { i.checked_sub(own.end).and_then(|i| after.get_mut(i)) };
            if let Some(job) = other {
                again(&mut *job.episode, &lines)?;
            }
        }
        add_cost(&mut all, &mut read)?;
    }
    Ok(all)
}

/// Plays an episode again from what was said in it.
fn again<E: Episode + ?Sized>(episode: &mut E, lines: &[Line]) -> Result<()> {
    for Line { seat, text, end } in lines {
        match end {
            LineEnd::Lost => episode.lose(*seat, text)?,
            LineEnd::Whole | LineEnd::Cut => episode.submit(*seat, text, *end == LineEnd::Cut)?,
        }
    }
    match episode.next_seat() {
        None => Ok(()),
        Some(_) => {
            Err(Error::Ranks { what: "an episode played again from its replies did not end: a bug in haggle".into() })
        }
    }
}

/// What a rank tells of its episodes.
fn told(rollout: &Rollout, lines: &[Vec<Line>]) -> Vec<u8> {
    let mut packet = Packet { bytes: Packet::of_outcome(None) };
    for (lines, spoken) in lines.iter().zip(&rollout.spoken) {
        packet.put(&[lines.len() as u64]);
        for Line { seat, text, end } in lines {
            packet.put(&[*seat as u64, *end as u64]).text(text);
        }
        packet.put(&[spoken.len() as u64]);
        for transcript in spoken {
            packet.put(&[u8::from(transcript.is_some())]);
            transcript.iter().for_each(|transcript| transcript.write(&mut packet));
        }
    }
    packet.put(&[rollout.context_full as u64]).put(&[rollout.environment_s, rollout.total_s]);
    packet.put(&[rollout.stats.len() as u64]);
    for s in &rollout.stats {
        let counts = [s.steps, s.rows_prefill, s.rows_decode, s.sampled_tok, s.prefix_reused_tok, s.preemptions];
        packet.put(&counts).put(&[s.pages_peak as u64, s.captures, s.replays]).put(&[s.prefill_s, s.decode_s]);
    }
    let asked = rollout.remote.map(|r| ([r.requests, r.failures, r.lost, r.tokens], [r.wait_s]));
    packet.put(&[u8::from(asked.is_some())]);
    if let Some((counts, seconds)) = asked {
        packet.put(&counts).put(&seconds);
    }
    packet.bytes
}

fn lines(read: &mut Unpack) -> Result<Vec<Line>> {
    let [n] = read.exactly::<u64, 1>()?;
    (0..n)
        .map(|_| {
            let [seat, end] = read.exactly::<u64, 2>()?;
            let end = [LineEnd::Whole, LineEnd::Cut, LineEnd::Lost][end.min(2) as usize];
            Ok(Line { seat: seat as usize, text: read.text()?, end })
        })
        .collect()
}

fn spoken(read: &mut Unpack) -> Result<Spoken> {
    let [n] = read.exactly::<u64, 1>()?;
    (0..n)
        .map(|_| match read.exactly::<u8, 1>()? {
            [0] => Ok(None),
            _ => Transcript::read(read).map(Some),
        })
        .collect()
}

/// Adds what a rank's episodes cost: counts to counts; of seconds the most, for ranks play side by side.
fn add_cost(all: &mut Rollout, read: &mut Unpack) -> Result<()> {
    let [context_full] = read.exactly::<u64, 1>()?;
    let [environment_s, total_s] = read.exactly::<f64, 2>()?;
    all.context_full += context_full as usize;
    all.environment_s = all.environment_s.max(environment_s);
    all.total_s = all.total_s.max(total_s);
    all.ranks_s.push(total_s);
    let [seats] = read.exactly::<u64, 1>()?;
    all.stats.resize(all.stats.len().max(seats as usize), Stats::default());
    for seat in 0..seats as usize {
        let [steps, rows_prefill, rows_decode, sampled_tok, prefix_reused_tok, preemptions] = read.exactly()?;
        let [pages_peak, captures, replays] = read.exactly::<u64, 3>()?;
        let [prefill_s, decode_s] = read.exactly::<f64, 2>()?;
        let mine = &mut all.stats[seat];
        let seconds = [mine.prefill_s.max(prefill_s), mine.decode_s.max(decode_s)];
        let pages_peak = pages_peak as usize;
        let counts =
            Stats { steps, rows_prefill, rows_decode, sampled_tok, prefix_reused_tok, preemptions, ..Stats::default() };
        mine.add(&Stats { pages_peak, captures, replays, ..counts });
        [mine.prefill_s, mine.decode_s] = seconds;
    }
    if read.exactly::<u8, 1>()? == [1] {
        let [requests, failures, lost, tokens] = read.exactly()?;
        let [wait_s] = read.exactly()?;
        all.remote.get_or_insert_default().add(&remote::Stats { requests, failures, lost, tokens, wait_s });
    }
    Ok(())
}
