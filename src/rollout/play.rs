//! Many episodes at once.
//!
//! The one idea: nobody waits for the slowest. Each pass steps every seat's engine with whatever is runnable; a finished
//! turn is played at once and the next seat hears it in the same pass. What an episode says is a function of its job, the
//! weights and the noise alone: which episodes run beside it changes nothing. Replies of a server are played as they come;
//! only when no engine has anything to do does a pass wait for one. An episode whose reply is lost ends void.

use super::guided::{Bound, Given};
use super::{Bounds, Episode, Job, Player, Rollout, Spoken, Voice};
use crate::error::{Error, Result};
use crate::guide::Guide;
use crate::infer::{NoiseKey, Sampling, SeqId, Stats};
use crate::noise::Noise;
use crate::remote::{self, Ask, Heard, Said};
use crate::text::{Message, Role, Transcript};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A reply that was played, or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Whose it was.
    pub seat: usize,
    /// The reply; why there is none, when it is lost.
    pub text: String,
    /// How it ended.
    pub end: LineEnd,
}

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// As its speaker would have it.
    Whole,
    /// At its limit.
    Cut,
    /// It never came, and the episode is void.
    Lost,
}

/// Plays all jobs, at most `max_live` at a time (each engine holds that many sequences), seat `i` by `players[i]`;
/// `progress` hears how many have ended.
///
/// # Errors
/// What the ops refuse, and [`Error::Config`] naming seat and job whose turn could never run. A turn for which a model's
/// context has no room is played as an empty one that was cut, and counted: [`crate::tasks::fit`] finds what never fits.
pub fn play<E: Episode + ?Sized>(
    jobs: Vec<Job<'_, E>>,
    players: &mut [Player<'_, E>],
    max_live: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Rollout> {
    recorded(jobs, players, max_live, progress).map(|(rollout, _)| rollout)
}

/// The same, with every reply that was played in each job, in order.
///
/// # Errors
/// As [`play`].
pub(super) fn recorded<E: Episode + ?Sized>(
    jobs: Vec<Job<'_, E>>,
    players: &mut [Player<'_, E>],
    max_live: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<(Rollout, Vec<Vec<Line>>)> {
    let dev = players.iter().find_map(|player| player.device());
    let _phase = dev.as_ref().map(|dev| dev.phase("rollout"));
    let start = Instant::now();
    let n = jobs.len();
    let mut table = Table::new(jobs, players);
    let mut next = 0;
    while table.ended < n {
        while next < n && table.live.len() < max_live.max(1) {
            table.live.insert(next, table.seats());
            table.advance(next)?;
            next += 1;
        }
        let mut moved = false;
        for seat in 0..table.players.len() {
            moved |= table.listen(seat)? | table.collect(seat, Duration::ZERO)?;
        }
        for seat in 0..table.players.len() {
            moved = moved || table.collect(seat, PATIENCE)?;
        }
        progress(table.ended);
    }
    Ok(table.finish(start))
}

/// How long a pass that has nothing else to do waits for a server; then whoever watches hears that it still does.
const PATIENCE: Duration = Duration::from_millis(200);

/// A seat of a live episode that a model plays, once it has heard something.
struct Seat {
    transcript: Transcript,
    seq: Option<SeqId>,
    /// Where it is guided.
    bound: Option<Bound>,
}

struct Table<'t, 'j, 'p, E: ?Sized> {
    jobs: Vec<Job<'j, E>>,
    players: &'t mut [Player<'p, E>],
    live: BTreeMap<usize, Vec<Option<Seat>>>,
    /// By seat: whose turn a running sequence is.
    speaking: Vec<BTreeMap<SeqId, usize>>,
    /// By job and seat: what a model behind a server was told and said.
    talks: BTreeMap<(usize, usize), Vec<Message>>,
    spoken: Vec<Spoken>,
    /// Masks of guided seats.
    given: Given,
    /// By job: what was submitted.
    lines: Vec<Vec<Line>>,
    ended: usize,
    context_full: usize,
    environment_s: f64,
}

impl<'t, 'j, 'p, E: Episode + ?Sized> Table<'t, 'j, 'p, E> {
    fn new(jobs: Vec<Job<'j, E>>, players: &'t mut [Player<'p, E>]) -> Table<'t, 'j, 'p, E> {
        for player in &mut *players {
            if let Player::Model(voice) = player {
                voice.engine.take_stats();
            }
        }
        Table {
            speaking: players.iter().map(|_| BTreeMap::new()).collect(),
            talks: BTreeMap::new(),
            spoken: jobs.iter().map(|_| vec![]).collect(),
            given: Given::default(),
            lines: jobs.iter().map(|_| vec![]).collect(),
            jobs,
            players,
            live: BTreeMap::new(),
            ended: 0,
            context_full: 0,
            environment_s: 0.0,
        }
    }

    fn seats(&self) -> Vec<Option<Seat>> {
        self.players.iter().map(|_| None).collect()
    }

    /// One step of a seat's engine; every turn it finished is played. False when it had nothing to do.
    fn listen(&mut self, seat: usize) -> Result<bool> {
        let Player::Model(voice) = &mut self.players[seat] else { return Ok(false) };
        let moved = voice.engine.step(voice.weights)?;
        let start = Instant::now();
        if voice.manner.is_some() {
            for (seq, job) in &self.speaking[seat] {
                let bound = self.live.get_mut(job).and_then(|seats| seats[seat].as_mut()?.bound.as_mut());
                let given = &mut self.given;
                bound.map_or(Ok(()), |bound| bound.follow(voice.engine, &voice.chat.tokenizer, *seq, given))?;
            }
        }
        let mut said: Vec<(usize, String, bool)> = Vec::new();
        while let Some(turn) = voice.engine.next_finished() {
            let Some(job) = self.speaking[seat].remove(&turn.seq) else { continue };
            if let Some(Some(seat)) = self.live.get_mut(&job).map(|seats| &mut seats[seat]) {
                match seat.bound.take() {
                    Some(bound) => seat.transcript.push_drawn(turn.ids, turn.logprobs, &bound.into_masks()),
                    None => seat.transcript.push_sampled(turn.ids, turn.logprobs),
                }
                let full = seat.transcript.len() >= voice.weights.config.max_position_embeddings;
                self.context_full += usize::from(turn.truncated && full);
            }
            said.push((job, voice.chat.reply_text(turn.ids)?, turn.truncated));
        }
        for (job, text, cut) in said {
            self.submit(job, seat, &text, cut)?;
            self.advance(job)?;
        }
        self.environment_s += start.elapsed().as_secs_f64();
        Ok(moved)
    }

    /// Plays the replies of a seat's server that have come, the first of them waited for at most that long; an episode whose
    /// reply is lost ends void. False when none came.
    fn collect(&mut self, seat: usize, mut patience: Duration) -> Result<bool> {
        let mut came = false;
        while let Player::Remote(voice) = &mut self.players[seat]
            && let Some((job, heard)) = voice.desk.next(patience)?
        {
            (came, patience) = (true, Duration::ZERO);
            match heard {
                Heard::Said(Said { text, cut }) => {
                    self.submit(job, seat, &text, cut)?;
                    self.talks.entry((job, seat)).or_default().push(Message::new(Role::Assistant, text));
                    self.advance(job)?;
                }
                Heard::Lost(why) => {
                    self.jobs[job].episode.lose(seat, &why)?;
                    self.lines[job].push(Line { seat, text: why, end: LineEnd::Lost });
                    self.end(job);
                }
            }
        }
        Ok(came)
    }

    /// Plays a reply.
    fn submit(&mut self, job: usize, seat: usize, text: &str, cut: bool) -> Result<()> {
        let end = if cut { LineEnd::Cut } else { LineEnd::Whole };
        self.lines[job].push(Line { seat, text: text.into(), end });
        self.jobs[job].episode.submit(seat, text, cut)
    }

    /// Asks a seat's server for its next reply.
    fn send(&mut self, job_at: usize, seat: usize) {
        let Player::Remote(voice) = &mut self.players[seat] else { return };
        let job = &self.jobs[job_at];
        let talk = self.talks.entry((job_at, seat)).or_default();
        if talk.is_empty() {
            talk.push(Message::new(Role::System, job.episode.system_prompt(seat)));
        }
        talk.push(Message::new(Role::User, job.episode.view(seat)));
        let noise = job.draws(seat).child(talk.len() as u64);
        let (temperature, max_tokens) = (voice.temperature, voice.max_tokens);
        voice.desk.ask(job_at, Ask { messages: talk.clone(), temperature, max_tokens, noise });
    }

    /// Plays the turns of scripts and people until a model must speak or the episode is over.
    fn advance(&mut self, job: usize) -> Result<()> {
        while let Some(seat) = self.jobs[job].episode.next_seat() {
            let Job { episode, noise, .. } = &mut self.jobs[job];
            let script = match &self.players[seat] {
                Player::Script(reply) => Some(reply(episode, *noise)),
                Player::Model(_) | Player::Remote(_) | Player::Person(_) => episode.scripted(seat, *noise),
            };
            if let Some(reply) = script {
                let ears =
                    self.players.iter().enumerate().find_map(|(at, player)| player.ears().filter(|_| at != seat));
                let heard = ears.map_or(Ok(reply.clone()), |ears| episode.heard(seat, reply, &ears))?;
                self.submit(job, seat, &heard, false)?;
                continue;
            }
            let reply = match &mut self.players[seat] {
                Player::Person(reply) => match reply(episode)? {
                    Some(reply) => Some(reply),
                    None => break,
                },
                Player::Remote(_) => {
                    self.send(job, seat);
                    return Ok(());
                }
                Player::Model(_) | Player::Script(_) => None,
            };
            match reply {
                Some(reply) => self.submit(job, seat, &reply, false)?,
                None if self.hear(job, seat)? => return Ok(()),
                None => self.pass(job, seat)?,
            }
        }
        self.end(job);
        Ok(())
    }

    /// Plays the turn of a model that has no room to say anything.
    fn pass(&mut self, job: usize, seat: usize) -> Result<()> {
        let guided = matches!(&self.players[seat], Player::Model(Voice { manner: Some(_), .. }));
        match self.jobs[job].episode.bounds(seat).filter(|_| guided) {
            Some(Bounds { without_room, .. }) => self.submit(job, seat, &without_room, false),
            None => self.submit(job, seat, "", true),
        }
    }

    /// Gives a model its incoming message and starts its turn; false when its context is full.
    fn hear(&mut self, job: usize, at: usize) -> Result<bool> {
        let (Player::Model(voice), Some(seats)) = (&mut self.players[at], self.live.get_mut(&job)) else {
            return Ok(false);
        };
        let (job_at, said) = (job, self.lines[job].len() as u64);
        let job = &mut self.jobs[job];
        let text = job.episode.view(at);
        let forgets = job.episode.forgets(at);
        if let Some(Seat { seq: Some(seq), .. }) = seats[at].take_if(|_| forgets) {
            voice.engine.release(seq);
        }
        let seat = match &mut seats[at] {
            Some(seat) => seat,
            empty => {
                let before = job.heard.get_mut(at).and_then(Option::take);
                let new = || Transcript::new(voice.chat, &job.episode.system_prompt(at));
                let transcript = before.map_or_else(new, Ok)?;
                empty.insert(Seat { transcript, seq: None, bound: None })
            }
        };
        let bounds = voice.manner.as_ref().and_then(|manner| Some((manner, job.episode.bounds(at)?)));
        let guide = bounds.map(|(manner, bounds)| Guide::new(manner, bounds.grammar));
        let (most, context) = (guide.as_ref().map(Guide::most_tokens), voice.weights.config.max_position_embeddings);
        let room = context.saturating_sub(most.unwrap_or(0));
        let Some(new) = seat.transcript.push_incoming_within(voice.chat, &text, room)? else {
            self.context_full += 1;
            return Ok(false);
        };
        let seq = match seat.seq {
            Some(seq) => voice.engine.extend(seq, &seat.transcript.ids()[new]).map(|()| seq),
            None => {
                let draws = job.draws(at);
                let Noise { seed, stream } = if forgets { draws.child(said) } else { draws };
                // A guided reply ends by its form.
                let max_new_tokens = most.unwrap_or(voice.sampling.max_new_tokens);
                let sampling = Sampling { max_new_tokens, ..voice.sampling };
                voice.engine.add(seat.transcript.ids(), sampling, NoiseKey { seed, stream })
            }
        };
        let seq = seq.map_err(|e| name(e, job.episode.seat_name(at), &job.about))?;
        seat.seq = Some(seq);
        seat.bound = guide.map(|guide| Bound::begin(voice.engine, seq, &guide, &mut self.given)).transpose()?;
        self.speaking[at].insert(seq, job_at);
        Ok(true)
    }

    fn end(&mut self, job: usize) {
        let Some(seats) = self.live.remove(&job) else { return };
        for (player, seat) in self.players.iter_mut().zip(&seats) {
            if let (Player::Model(voice), Some(Seat { seq: Some(seq), .. })) = (player, seat) {
                voice.engine.release(*seq);
            }
        }
        (0..self.players.len()).for_each(|seat| drop(self.talks.remove(&(job, seat))));
        self.spoken[job] = seats.into_iter().map(|seat| seat.map(|seat| seat.transcript)).collect();
        self.ended += 1;
    }

    fn finish(self, start: Instant) -> (Rollout, Vec<Vec<Line>>) {
        let mut remote: Option<remote::Stats> = None;
        let stats = |player: &mut Player<'_, E>| match player {
            Player::Model(voice) => voice.engine.take_stats(),
            Player::Remote(voice) => {
                let asked = voice.desk.take_stats();
                remote.get_or_insert_default().add(&asked);
                Stats { sampled_tok: asked.tokens, ..Stats::default() }
            }
            Player::Script(_) | Player::Person(_) => Stats::default(),
        };
        let rollout = Rollout {
            spoken: self.spoken,
            stats: self.players.iter_mut().map(stats).collect(),
            remote,
            context_full: self.context_full,
            environment_s: self.environment_s,
            total_s: start.elapsed().as_secs_f64(),
            ranks_s: vec![],
        };
        (rollout, self.lines)
    }
}

/// Adds whose prompt it was to what the engine refused.
fn name(e: Error, seat: &str, about: &str) -> Error {
    match e {
        Error::Config { problems } => {
            let named = |p: &String| format!("the {seat}'s prompt for {about}: {p}");
            Error::Config { problems: problems.iter().map(named).collect() }
        }
        other => other,
    }
}
