//! A turn over HTTP: a message in, our half of the round out, whole or as events.
//!
//! The one idea: words are told when they are held to the guards and stored, and not before. So what a stream tells while the model
//! still writes is what was heard and how far it is, never what it writes; its last event is the answer that is told without a
//! stream. A turn whose client leaves before it is stored was never said.

use super::super::fields::Fields;
use super::super::openai::{aside, give};
use super::super::progress::Trouble;
use super::super::refusal::Refusal;
use super::super::traces::Span;
use super::super::{Model, Shared};
use super::Negotiator;
use super::play::{Draft, Message, Table};
use super::routes::{as_json, kept_as, negotiator, once_of, replayed, told_once};
use super::store::Kept;
use crate::generate::{How, Request};
use crate::guide::{Guide, Rule};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// A message that was heard: the negotiation with it, the round so far, what is asked of the model.
type Heard = (Table, Draft, Option<(Request, How, Guide)>);
/// A request that may come again: the client's key, and the hash of its body.
type Again = Option<(String, String)>;

/// Where events go, where any do.
struct Events(Option<UnboundedSender<Value>>);

impl Events {
    /// Tells an event; false where nobody listens any more.
    fn tell(&self, event: impl FnOnce() -> Value) -> bool {
        self.0.as_ref().is_none_or(|to| to.send(event()).is_ok())
    }
}

/// `POST /v1/negotiations/{id}/messages`
pub async fn message(
    State(shared): State<Shared>,
    Extension(span): Extension<Span>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let again = once_of(&headers, &id, &body)?;
    let streams = Fields::read(if body.is_empty() { b"{}" } else { &body })?.flag("stream")?;
    let turn = negotiator(&shared.model)?.busy.take(&id)?;
    let (at, asked, whole) = ((shared.model.clone(), id.clone()), again.clone(), span.clone());
    let begun = aside(move || {
        let own = negotiator(&at.0)?;
        // In this order: what another server stores between the two is seen, as an answer here or as a conflict later.
        let store = whole.part("store");
        let kept = own.store.get(&at.1);
        let before = replayed(own, asked.as_ref())?;
        drop(store);
        match before {
            Some(answer) => Ok(Err(answer)),
            None => heard(own, kept?, &body).map(Ok),
        }
    });
    let begun = begun.await?;
    if !streams {
        return Ok(as_json(match begun {
            Ok(begun) => played(&shared, &span, &id, begun, again, turn, &Events(None)).await?,
            Err(answer) => answer,
        }));
    }
    let (sender, events) = unbounded_channel();
    tokio::spawn(async move {
        let to = Events(Some(sender));
        let told = match begun {
            Ok(begun) => played(&shared, &span, &id, begun, again, turn, &to).await,
            Err(answer) => Ok(answer),
        };
        let last =
            told.map_or_else(|refusal| refusal.body(), |answer| serde_json::from_str(&answer).unwrap_or_default());
        to.tell(|| last);
    });
    let events = UnboundedReceiverStream::new(events).map(|event| format!("data: {event}\n\n"));
    let all = events.chain(tokio_stream::once("data: [DONE]\n\n".to_string())).map(Ok::<_, Infallible>);
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    Ok((head, Body::from_stream(all)).into_response())
}

fn heard(own: &Negotiator, kept: Kept, body: &[u8]) -> Result<Heard, Refusal> {
    let message = Message::read(body)?;
    let mut table = Table::lay(own, kept)?;
    let draft = table.hear(own, &message, own.clock.now_ms())?;
    let ask = table.ask(own)?;
    Ok((table, draft, ask))
}

/// Plays the rest of a round and stores it; its answer.
async fn played(
    shared: &Shared,
    span: &Span,
    id: &str,
    (mut table, mut draft, ask): Heard,
    again: Again,
    turn: super::Turn,
    events: &Events,
) -> Result<String, Refusal> {
    events.tell(|| json!({"id": id, "object": "negotiation.heard", "theirs": draft.theirs()}));
    let said = said(shared, span, ask, id, events).await?;
    let (model, id): (Arc<Model>, String) = (shared.model.clone(), id.into());
    let (metrics, span) = (shared.metrics.clone(), span.clone());
    let told = aside(move || {
        // Held until it is stored, whether the client waits for it or not.
        let _turn = turn;
        let own = negotiator(&model)?;
        let guard = span.part("guard");
        table.speak(own, &mut draft, said)?;
        let now = own.clock.now_ms();
        let (round, n) = (table.round(&draft, now), table.kept.rounds.len() + 1);
        let answer = told(&id, &round);
        drop(guard);
        let _store = span.part("store");
        let stored = own.store.add(&id, n, &round, now, kept_as(again.as_ref(), &answer));
        if stored.is_ok() {
            let outcome = table.episode.outcome().map(|outcome| outcome.key());
            metrics.round(table.last_kind(), draft.interventions(), outcome);
        }
        told_once(own, again.as_ref(), stored, answer)
    });
    told.await
}

/// The ids that the model says, and their logprobs, where it is asked.
async fn said(
    shared: &Shared,
    span: &Span,
    ask: Option<(Request, How, Guide)>,
    id: &str,
    events: &Events,
) -> Result<Option<(Vec<i32>, Vec<f32>)>, Refusal> {
    let Some((request, how, guide)) = ask else { return Ok(None) };
    let mut news = give(shared, span, vec![request], how, Some(Rule::Reply(guide)), None)?;
    let (mut ids, mut logprobs, mut done) = (vec![], vec![], false);
    while let Some(tokens) = news.recv().await {
        for token in tokens? {
            ids.push(token.id);
            logprobs.push(token.logprob);
            done |= token.finish.is_some();
        }
        if !events.tell(|| json!({"id": id, "object": "negotiation.writing", "tokens": ids.len()})) {
            break;
        }
    }
    if done { Ok(Some((ids, logprobs))) } else { Err(Refusal::of_trouble(Trouble::Draining)) }
}

/// The answer to a message: our half of the round, and how it stands.
fn told(id: &str, round: &super::store::Round) -> String {
    let public: Value = serde_json::from_str(&round.public).unwrap_or_default();
    let why = match public["ours"]["action"]["kind"].as_str() {
        Some("offer") => {
            "within the limit and the guards, on its side of what stands, and no step back from the offer before"
        }
        Some("accept") => "the offer that stands, to the cent, within the limit and the guards",
        Some("reject") => "turning an offer down is always allowed",
        Some("quit") => "leaving is allowed after the first turn",
        _ => "",
    };
    json!({
        "id": id, "object": "negotiation.round", "round": public["round"], "message": public["ours"]["message"],
        "action": public["ours"]["action"], "legal": if why.is_empty() { Value::Null } else { why.into() },
        "interventions": public["ours"]["interventions"], "state": public["state"], "outcome": public["outcome"],
        "hash": round.hash,
    })
    .to_string()
}
