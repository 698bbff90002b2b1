//! Where a menu's drafts lead: each is played on against the frozen seller, and the best is what continues.
//!
//! The one idea: drafts branch from the seller's view of everything said before. At the first turn that is a live sequence,
//! forked without copying a page; later it is a transcript whose pages the engine's prefix cache still holds. All drafts of
//! a case meet the same seller noise, so that they differ by what they say and not by luck: the same draft twice comes to
//! the same, and is worth nothing more.

use crate::error::Result;
use crate::infer::SeqId;
use crate::negotiate::{Episode, Side, reward};
use crate::noise::Noise;
use crate::tasks::menu;
use crate::tasks::sets::credit::{Case, Reply, open};
use crate::tasks::sets::rollout::{Table, drain, key};
use crate::text::Transcript;
use std::collections::BTreeMap;

/// What the seller has heard and said before the drafts.
pub(crate) struct Root {
    /// Its sequence, where it is live.
    seq: Option<SeqId>,
    transcript: Transcript,
}

/// A draft on its way through the horizon.
struct Branch {
    reply: usize,
    candidate: usize,
    episode: Episode,
    transcript: Option<Transcript>,
    seq: Option<SeqId>,
    left: usize,
    noise: Noise,
}

/// Games behind a draft and the seller's answer, by reply and candidate.
type Answered = BTreeMap<(usize, usize), (Episode, Transcript)>;

impl Table<'_> {
    /// Plays each menu's opening: a scripted bid, the seller model's answer. The seller's sequences stay, to branch from.
    pub(crate) fn openings(&mut self, cases: &mut [Case], noise: Noise) -> Result<Vec<Option<Root>>> {
        let (chat, sampling) = (&self.setup.seller.chat, self.setup.seller_sampling());
        let mut opened: Vec<(Episode, SeqId, Transcript)> = Vec::new();
        for (i, case) in cases.iter().enumerate() {
            let Case::Menu(fresh) = case else { continue };
            let mut episode = fresh.clone();
            open(&mut episode, noise.child(i as u64))?;
            let mut transcript = Transcript::new(chat, &episode.system_prompt(Side::Seller))?;
            transcript.push_incoming(chat, &episode.view(Side::Seller))?;
            let seq = self.seller.add(transcript.ids(), sampling, key(noise.child(3 << 40).child(i as u64)))?;
            opened.push((episode, seq, transcript));
        }
        let said = drain(self.seller, &self.setup.seller.weights)?;
        let mut roots = Vec::new();
        for ((mut episode, seq, mut transcript), case) in opened.into_iter().zip(cases) {
            let turn = &said[&seq];
            transcript.push_sampled(&turn.ids, &turn.logprobs);
            let text = chat.reply_text(&turn.ids)?;
            if turn.cut { episode.submit_cut(Side::Seller, &text) } else { episode.submit(Side::Seller, &text) }?;
            if episode.outcome().is_some() {
                self.seller.release(seq);
                roots.push(None);
            } else {
                *case = Case::Menu(episode);
                roots.push(Some(Root { seq: Some(seq), transcript }));
            }
        }
        Ok(roots)
    }

    /// Plays every draft to the end of the horizon, as many at a time as the seller's engine holds, and notes what it came
    /// to. Returns the games that go on: of each case the one behind the best draft of its first rollout and the seller's
    /// answer, unless that ended it.
    pub(crate) fn play_on(
        &mut self,
        cases: &[Case],
        roots: Vec<Option<Root>>,
        replies: &mut [Reply],
        rollouts: usize,
        noise: Noise,
    ) -> Result<Vec<(Case, Root)>> {
        let held = roots.iter().flatten().filter(|root| root.seq.is_some()).count();
        let most = self.setup.engine_config(&self.setup.seller.weights.config).max_seqs.saturating_sub(held).max(1);
        let mut waiting = self.branches(cases, replies, rollouts, noise)?;
        let mut live: BTreeMap<SeqId, Branch> = BTreeMap::new();
        let mut answered = Answered::new();
        while !(waiting.is_empty() && live.is_empty()) {
            while live.len() < most {
                let Some(branch) = waiting.pop() else { break };
                let root = roots[branch.reply / rollouts].as_ref();
                self.go_on(branch, root, replies, &mut live)?;
            }
            self.seller.step(&self.setup.seller.weights)?;
            while let Some(turn) = self.seller.next_finished() {
                let Some(mut branch) = live.remove(&turn.seq) else { continue };
                if let Some(transcript) = &mut branch.transcript {
                    transcript.push_sampled(turn.ids, turn.logprobs);
                }
                let text = self.setup.seller.chat.reply_text(turn.ids)?;
                let cut = turn.truncated;
                let e = &mut branch.episode;
                if cut { e.submit_cut(Side::Seller, &text) } else { e.submit(Side::Seller, &text) }?;
                let first = branch.left == self.setup.config.task.horizon && branch.reply.is_multiple_of(rollouts);
                if let (true, None, Some(transcript)) = (first, e.outcome(), &branch.transcript) {
                    answered.insert((branch.reply, branch.candidate), (e.clone(), transcript.clone()));
                }
                branch.left -= 1;
                if e.outcome().is_none() {
                    let reply = if branch.left == 0 { menu::close(e) } else { menu::rise(e) };
                    e.submit(Side::Buyer, &reply)?;
                }
                self.go_on(branch, None, replies, &mut live)?;
            }
        }
        for seq in roots.into_iter().flatten().filter_map(|root| root.seq) {
            self.seller.release(seq);
        }
        let best = |reply: usize| {
            let scored = replies[reply].scored.iter().map(|s| s.utility).enumerate();
            scored.fold(
                None,
                |best: Option<(usize, f64)>, (c, u)| if best.is_none_or(|b| u > b.1) { Some((c, u)) } else { best },
            )
        };
        let firsts = (0..replies.len()).step_by(rollouts).filter_map(|reply| Some((reply, best(reply)?.0)));
        let going = firsts.filter_map(|at| answered.remove(&at));
        Ok(going.map(|(episode, transcript)| (Case::Menu(episode), Root { seq: None, transcript })).collect())
    }

    /// The drafts that are drafts, last first.
    fn branches(&self, cases: &[Case], replies: &[Reply], rollouts: usize, noise: Noise) -> Result<Vec<Branch>> {
        let mut waiting: Vec<Branch> = Vec::new();
        for (r, reply) in replies.iter().enumerate() {
            let Case::Menu(episode) = &cases[r / rollouts] else { continue };
            for (c, candidate) in reply.candidates.iter().flatten().enumerate() {
                let Some(text) = menu::draft(episode, &candidate.text) else { continue };
                let (mut episode, left) = (episode.clone(), self.setup.config.task.horizon);
                episode.submit(Side::Buyer, &text)?;
                let noise = noise.child((r / rollouts) as u64);
                waiting.push(Branch { reply: r, candidate: c, episode, transcript: None, seq: None, left, noise });
            }
        }
        waiting.reverse();
        Ok(waiting)
    }

    /// Gives the seller what the buyer said, or notes where the branch ended.
    fn go_on(
        &mut self,
        mut branch: Branch,
        root: Option<&Root>,
        replies: &mut [Reply],
        live: &mut BTreeMap<SeqId, Branch>,
    ) -> Result<()> {
        if let Some(outcome) = branch.episode.outcome() {
            if let Some(seq) = branch.seq {
                self.seller.release(seq);
            }
            let utility = reward::reward(branch.episode.product(), outcome);
            replies[branch.reply].scored[branch.candidate].utility = utility;
            return Ok(());
        }
        let (chat, sampling, key) = (&self.setup.seller.chat, self.setup.seller_sampling(), key(branch.noise));
        let mut transcript = match (branch.transcript.take(), root) {
            (Some(own), _) => own,
            (None, Some(root)) => root.transcript.clone(),
            (None, None) => Transcript::new(chat, &branch.episode.system_prompt(Side::Seller))?,
        };
        let new = transcript.push_incoming(chat, &branch.episode.view(Side::Seller))?;
        let seq = match (branch.seq, root.and_then(|root| root.seq)) {
            (Some(seq), _) => {
                self.seller.extend(seq, &transcript.ids()[new])?;
                seq
            }
            (None, Some(root)) => {
                let seq = self.seller.fork(root, sampling, key)?;
                self.seller.extend(seq, &transcript.ids()[new])?;
                seq
            }
            (None, None) => self.seller.add(transcript.ids(), sampling, key)?,
        };
        (branch.seq, branch.transcript) = (Some(seq), Some(transcript));
        live.insert(seq, branch);
        Ok(())
    }
}
