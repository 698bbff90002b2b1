//! A turn: the counterparty's words in, ours out, from the record alone.
//!
//! The one idea: the model's reply is drawn under a grammar of what is legal now, so it parses and keeps to the limit; every
//! guard is held again to what came out, by code that does not know the grammar. Where one of them would not hold, what is said
//! is scripted, and the round's record says so.

use super::super::fields::{Fields, kind};
use super::super::refusal::Refusal;
use super::settings::{Settings, price};
use super::store::{Kept, Round};
use super::{Negotiator, record};
use crate::generate::{How, Request};
use crate::guide::hearing::Room;
use crate::guide::{Grammar, Guide, said};
use crate::infer::{Lean, Sampling};
use crate::negotiate::legal::Legal;
use crate::negotiate::{Action, Episode, Side, money, protocol, reply};
use crate::text::Transcript;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Longest message, in bytes.
const LONGEST: usize = 8_192;

/// The private half of a round: enough to play it again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Private {
    /// What the counterparty was heard to say, and its action.
    pub theirs: Option<(String, Action)>,
    /// What was said to it: thought, talk and action.
    pub ours: Option<String>,
    /// Ids of what the model said, and their logprobs; none where it was scripted.
    pub ids: Vec<i32>,
    /// See [`crate::infer::Turn::logprobs`], under the mask.
    pub logprobs: Vec<f32>,
}

/// What a counterparty sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    words: Option<String>,
    action: Option<(String, Option<crate::negotiate::Cents>)>,
    /// The round it thinks it answers, from 1.
    round: Option<u64>,
}

impl Message {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 that names the field at fault.
    pub fn read(body: &[u8]) -> Result<Message, Refusal> {
        let mut fields = Fields::read(if body.is_empty() { b"{}" } else { body })?;
        let words = fields.text("message")?;
        if words.as_ref().is_some_and(|words| words.len() > LONGEST) {
            return Err(Refusal::of_field("message", format!("`message` is longer than {LONGEST} bytes")));
        }
        let action = match fields.object("action")?.map(Fields::of) {
            None => None,
            Some(mut own) => {
                let word = own.text("kind")?.unwrap_or_default();
                let price = price(&mut own, "price_cents")?;
                own.end()?;
                Some((word, price))
            }
        };
        let round = fields.whole("round")?;
        fields.flag("stream")?;
        fields.end()?;
        Ok(Message { words, action, round })
    }
}

/// A negotiation at hand.
pub struct Table {
    /// Its settings.
    pub settings: Settings,
    /// As it stands.
    pub episode: Episode,
    /// Its rounds, as they are stored.
    pub kept: Kept,
    transcript: Transcript,
}

/// A round that is being played.
pub struct Draft {
    /// The private half.
    pub private: Private,
    theirs: Value,
    /// What we say aloud.
    words: String,
    /// Why ours was scripted, a word each.
    interventions: Vec<&'static str>,
}

impl Draft {
    /// What was heard, as it is told.
    pub fn theirs(&self) -> &Value {
        &self.theirs
    }

    /// Why a guard changed what is said, a word each.
    pub fn interventions(&self) -> &[&'static str] {
        &self.interventions
    }
}

impl Table {
    /// The kind of our last action, as it is told.
    pub fn last_kind(&self) -> &'static str {
        let last = self.episode.turns_of(self.settings.role).next_back().and_then(|turn| turn.action);
        last.map_or("none", record::kind)
    }

    /// A negotiation, rebuilt from its record.
    ///
    /// # Errors
    /// 500 when the record cannot be one of ours.
    pub fn lay(negotiator: &Negotiator, kept: Kept) -> Result<Table, Refusal> {
        let broken =
            |what: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the record is damaged: {what}"));
        let settings: Settings = serde_json::from_str(&kept.settings).map_err(|e| broken(e.to_string()))?;
        let mut episode =
            Episode::new(Arc::new(settings.product.clone()), settings.rules(negotiator), settings.persona);
        let failed = |e: crate::error::Error| broken(e.to_string());
        let mut transcript =
            Transcript::new(&negotiator.chat, &episode.system_prompt(settings.role)).map_err(failed)?;
        for round in &kept.rounds {
            let private: Private = serde_json::from_str(&round.private).map_err(|e| broken(e.to_string()))?;
            if let Some((words, action)) = &private.theirs {
                submit(&mut episode, settings.role.other(), "", words, *action).map_err(failed)?;
            }
            let Some(ours) = &private.ours else { continue };
            transcript.push_incoming(&negotiator.chat, &episode.view(settings.role)).map_err(failed)?;
            match private.ids.is_empty() {
                true => transcript.push_told(&negotiator.chat, ours).map_err(failed)?,
                false => transcript.push_sampled(&private.ids, &private.logprobs),
            }
            episode.submit(settings.role, ours).map_err(failed)?;
        }
        Ok(Table { settings, episode, kept, transcript })
    }

    /// Ids of what the model has heard and said.
    pub fn ids(&self) -> &[i32] {
        self.transcript.ids()
    }

    /// Takes the counterparty's message, where it may send one now.
    ///
    /// # Errors
    /// 400 for what is not understood or not legal, 409 for a negotiation that takes no more.
    pub fn hear(&mut self, negotiator: &Negotiator, message: &Message, now_ms: u64) -> Result<Draft, Refusal> {
        let round = self.kept.rounds.len() as u64 + 1;
        let done = record::state(&self.episode, self.kept.closed);
        if done != "open" {
            return Err(Refusal::conflict(format!("this negotiation has {done}"), done));
        }
        if now_ms >= self.kept.created_ms + self.settings.expires_in_ms {
            return Err(Refusal::conflict("this negotiation has expired", "expired"));
        }
        if message.round.is_some_and(|n| n != round) {
            return Err(Refusal::conflict(format!("the next round is {round}"), "wrong_round"));
        }
        let mut draft =
            Draft { private: Private::default(), theirs: Value::Null, words: String::new(), interventions: vec![] };
        let them = self.settings.role.other();
        if self.episode.next_side() != Some(them) {
            let opens = message.words.is_none() && message.action.is_none();
            let what = "the buyer opens, and the model is it: send {} for its first offer";
            return if opens { Ok(draft) } else { Err(Refusal::new(StatusCode::BAD_REQUEST, what)) };
        }
        let words = message.words.clone().unwrap_or_default();
        let action = self.action(message, &words)?;
        let room = Room::new(&negotiator.chat, negotiator.context, self.settings.role, negotiator.most_tokens());
        let failed = |e: crate::error::Error| Refusal::of_error(&e);
        let heard = room.heard(&self.episode, &said::heard(&words)).map_err(failed)?;
        draft.theirs = json!({"message": message.words, "action": record::action_json(action)});
        submit(&mut self.episode, them, "", &heard, action).map_err(failed)?;
        draft.private.theirs = Some((heard, action));
        Ok(draft)
    }

    /// What a message does.
    fn action(&self, message: &Message, words: &str) -> Result<Action, Refusal> {
        let refused = |what: String| Refusal::of_field("action", what);
        let (role, them) = (self.settings.role, self.settings.role.other());
        let standing = self.episode.standing(role);
        let Some((word, price)) = &message.action else {
            // A number in words is not guessed to be an offer.
            return match money::dollars_in(words).next() {
                Some(price) => Err(refused(format!(
                    "the message names {}: is it an offer? Send `action`: {{\"kind\": \"offer\", \"price_cents\": {}}}, or \
                     {{\"kind\": \"reject\"}} for words alone",
                    price.compact(),
                    price.0
                ))),
                None if words.trim().is_empty() => Err(refused("want `message` or `action`".into())),
                None => Ok(Action::Reject),
            };
        };
        let action = match (word.as_str(), price) {
            ("offer", Some(price)) if them == Side::Buyer => Action::Buy(*price),
            ("offer", Some(price)) => Action::Sell(*price),
            ("offer", None) => return Err(refused("an offer wants `price_cents`".into())),
            ("accept", price) => match (standing, price) {
                (None, _) => return Err(refused("there is no offer to accept".into())),
                (Some(ours), Some(price)) if ours != *price => {
                    return Err(refused(format!("the offer that stands is {} cents, not {}", ours.0, price.0)));
                }
                (Some(ours), _) => Action::Deal(ours),
            },
            ("reject" | "quit", Some(_)) => return Err(refused(format!("`{word}` has no price"))),
            ("reject", None) => Action::Reject,
            ("quit", None) => Action::Quit,
            (other, _) => {
                let what =
                    format!("`action.kind` must be offer, accept, reject or quit, is {}", kind(&Value::from(other)));
                return Err(refused(what));
            }
        };
        let first = self.episode.turns_of(them).next().is_none();
        protocol::check(them, action, first, standing).map_err(|why| refused(format!("not now: {why}")))?;
        Ok(action)
    }

    /// What is asked of the model, where it is its turn and there is room for it.
    ///
    /// # Errors
    /// 500 when the tokenizer fails.
    pub fn ask(&mut self, negotiator: &Negotiator) -> Result<Option<(Request, How, Guide)>, Refusal> {
        let role = self.settings.role;
        if self.episode.next_side() != Some(role) {
            return Ok(None);
        }
        let legal = Legal::now(&self.episode, role, self.settings.guards);
        let guide = Guide::new(&negotiator.manner, Grammar::new(&legal, self.episode.code()));
        let most = guide.most_tokens();
        let room = negotiator.context.saturating_sub(most);
        let incoming = self.episode.view(role);
        let pushed = self.transcript.push_incoming_within(&negotiator.chat, &incoming, room);
        if pushed.map_err(|e| Refusal::of_error(&e))?.is_none() {
            return Ok(None);
        }
        let sampling = Sampling { temperature: self.settings.temperature, max_new_tokens: most, ..negotiator.sampling };
        let how = How {
            sampling,
            lean: Lean::default(),
            ends: vec![negotiator.chat.end()],
            stops: vec![],
            seed: self.settings.seed,
        };
        let label = self.kept.rounds.len() as u64 + 1;
        let request = Request { label, sample: 0, prompt: self.transcript.ids().to_vec() };
        Ok(Some((request, how, guide)))
    }

    /// Plays what the model said; without it, where it is its turn, what is scripted.
    ///
    /// # Errors
    /// 500 when it cannot be played.
    pub fn speak(
        &mut self,
        negotiator: &Negotiator,
        draft: &mut Draft,
        said: Option<(Vec<i32>, Vec<f32>)>,
    ) -> Result<(), Refusal> {
        let role = self.settings.role;
        if self.episode.next_side() != Some(role) {
            return Ok(());
        }
        let legal = Legal::now(&self.episode, role, self.settings.guards);
        let failed = |e: crate::error::Error| Refusal::of_error(&e);
        let code = self.episode.code().to_string();
        let text = said.as_ref().map(|(ids, _)| negotiator.chat.reply_text(ids)).transpose().map_err(failed)?;
        let parsed = text.as_deref().map(|text| reply::parse(text, &code));
        let reply = match (text, parsed) {
            // The grammar saw to it; who sells or buys beyond his limit for a fault of ours must not.
            (Some(text), Some(Ok(reply))) if legal.allows(reply.action) => {
                let agrees = said::agrees(&reply.talk, reply.action, self.episode.product(), role);
                if !agrees {
                    draft.interventions.push("words_made_anew");
                }
                let own = agrees && !reply.talk.is_empty();
                draft.words = if own { reply.talk } else { said::of_action(role, reply.action) };
                (draft.private.ids, draft.private.logprobs) = said.unwrap_or_default();
                text
            }
            (text, _) => {
                draft.interventions.push(if text.is_some() { "action_refused" } else { "no_room" });
                draft.words = said::of_action(role, Action::Reject);
                reply::render("", &draft.words, Action::Reject, &code)
            }
        };
        self.episode.submit(role, &reply).map_err(failed)?;
        draft.private.ours = Some(reply);
        Ok(())
    }

    /// The round as it is stored and told.
    pub fn round(&self, draft: &Draft, now_ms: u64) -> Round {
        let role = self.settings.role;
        let spoken = draft.private.ours.as_ref().and_then(|_| self.episode.turns_of(role).next_back());
        let ours = spoken.and_then(|turn| turn.action).map(|action| {
            json!({
                "message": draft.words, "action": record::action_json(action),
                "concession_cents": record::concession(&self.episode, role), "interventions": draft.interventions,
            })
        });
        let public = json!({
            "round": self.kept.rounds.len() + 1, "at_ms": now_ms, "theirs": draft.theirs, "ours": ours,
            "state": record::state(&self.episode, false), "outcome": record::outcome_json(&self.episode, role),
            "previous": self.kept.rounds.last().map(|round| round.hash.as_str()),
        })
        .to_string();
        let private = serde_json::to_string(&draft.private).unwrap_or_default();
        let hash = record::hash(&public);
        Round { public, private, hash }
    }
}

/// Plays a counterparty's turn of an action that was held to the rules.
fn submit(episode: &mut Episode, side: Side, thought: &str, words: &str, action: Action) -> crate::error::Result<()> {
    let text = reply::render(thought, words, action, episode.code());
    episode.submit(side, &text).map(drop)
}
