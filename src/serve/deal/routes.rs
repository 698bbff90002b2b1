//! The routes of negotiations.

use super::super::openai::{aside, give};
use super::super::progress::Trouble;
use super::super::refusal::Refusal;
use super::super::{Model, Shared};
use super::play::{Draft, Message, Table};
use super::settings::Settings;
use super::store::Once;
use super::{Negotiator, record};
use crate::generate::{How, Request};
use crate::guide::{Guide, Rule};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Negotiations of a list where nobody says, and at most.
const LISTED: [usize; 2] = [20, 100];
/// Longest idempotency key.
const LONGEST_KEY: usize = 255;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What negotiates, where the model can.
fn negotiator(model: &Model) -> Result<&Negotiator, Refusal> {
    model.negotiator.as_ref().map_err(|why| {
        let what = format!("this model cannot negotiate: {why}");
        Refusal::new(StatusCode::NOT_IMPLEMENTED, what).with_code("no_negotiations")
    })
}

/// The client's key for a request that may come again, with its route, and the hash of the body.
fn once_of(headers: &HeaderMap, route: &str, body: &[u8]) -> Result<Option<(String, String)>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= LONGEST_KEY);
    let what = format!("Idempotency-Key must be 1 to {LONGEST_KEY} visible characters");
    let key = key.ok_or_else(|| Refusal::of_field("Idempotency-Key", what))?;
    let body = String::from_utf8_lossy(body);
    Ok(Some((format!("{route} {key}"), record::hash(&body))))
}

/// `POST /v1/negotiations`
pub async fn create(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let model = shared.model.clone();
    let told = aside(move || {
        let own = negotiator(&model)?;
        let once = once_of(&headers, "create", &body)?;
        if let Some(answer) = replayed(own, once.as_ref())? {
            return Ok(answer);
        }
        let settings = Settings::read(&body, own)?;
        let now = now_ms();
        let id = format!("neg-{:016x}{:016x}", RandomState::new().hash_one(now), RandomState::new().hash_one(1u64));
        let text = serde_json::to_string(&settings)
            .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        let kept = super::store::Kept { settings: text.clone(), created_ms: now, closed: false, rounds: vec![] };
        let table = Table::lay(own, kept)?;
        let (asked, most) = (table.ids().len(), own.most_tokens());
        if asked + 2 * most > own.context {
            let what = format!(
                "the product's prompt of {asked} tokens leaves no room for a turn in a context of {}",
                own.context
            );
            return Err(Refusal::of_field("product", what).with_code("context_length_exceeded"));
        }
        let answer = record::whole(&id, &table.settings, &table.episode, false, now, &[]).to_string();
        own.store.create(&id, &text, now, kept_as(once.as_ref(), &answer))?;
        Ok(answer)
    });
    Ok((StatusCode::CREATED, as_json(told.await?)).into_response())
}

fn replayed(own: &Negotiator, once: Option<&(String, String)>) -> Result<Option<String>, Refusal> {
    once.map_or(Ok(None), |(key, asked)| own.store.answered(key, asked))
}

fn kept_as<'a>(once: Option<&'a (String, String)>, answer: &'a str) -> Option<Once<'a>> {
    once.map(|(key, asked)| Once { key, asked, answer })
}

fn as_json(text: String) -> Response {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A message that was heard: the negotiation with it, the round so far, what is asked of the model.
type Heard = (Table, Draft, Option<(Request, How, Guide)>);

/// `POST /v1/negotiations/{id}/messages`
pub async fn message(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let model = shared.model.clone();
    let once = once_of(&headers, &id, &body)?;
    let turn = negotiator(&model)?.busy.take(&id)?;
    let (at, asked) = ((model.clone(), id.clone()), once.clone());
    let begun = aside(move || {
        let own = negotiator(&at.0)?;
        match replayed(own, asked.as_ref())? {
            Some(answer) => Ok(Err(answer)),
            None => heard(own, &at.1, &body).map(Ok),
        }
    });
    let (mut table, mut draft, ask) = match begun.await? {
        Ok(begun) => begun,
        Err(answer) => return Ok(as_json(answer)),
    };
    let said = said(&shared, ask).await?;
    let told = aside(move || {
        // Held until it is stored, whether the client waits for it or not.
        let _turn = turn;
        let own = negotiator(&model)?;
        table.speak(own, &mut draft, said)?;
        let now = now_ms();
        let (round, n) = (table.round(&draft, now), table.kept.rounds.len() + 1);
        let answer = told(&id, &round);
        own.store.add(&id, n, &round, now, kept_as(once.as_ref(), &answer))?;
        let outcome = table.episode.outcome().map(|outcome| outcome.key());
        shared.metrics.round(table.last_kind(), draft.interventions(), outcome);
        Ok(answer)
    });
    Ok(as_json(told.await?))
}

fn heard(own: &Negotiator, id: &str, body: &[u8]) -> Result<Heard, Refusal> {
    let message = Message::read(body)?;
    let mut table = Table::lay(own, own.store.get(id)?)?;
    let draft = table.hear(own, &message, now_ms())?;
    let ask = table.ask(own)?;
    Ok((table, draft, ask))
}

/// The ids that the model says, and their logprobs, where it is asked.
async fn said(shared: &Shared, ask: Option<(Request, How, Guide)>) -> Result<Option<(Vec<i32>, Vec<f32>)>, Refusal> {
    let Some((request, how, guide)) = ask else { return Ok(None) };
    let mut news = give(shared, vec![request], how, Some(Rule::Reply(guide)), None)?;
    let (mut ids, mut logprobs, mut done) = (vec![], vec![], false);
    while let Some(token) = news.recv().await {
        let token = token?;
        ids.push(token.id);
        logprobs.push(token.logprob);
        done |= token.finish.is_some();
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

/// `GET /v1/negotiations/{id}`: its record.
pub async fn get(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let model = shared.model.clone();
    aside(move || record_of(negotiator(&model)?, &id)).await.map(Json)
}

/// `POST /v1/negotiations/{id}/close`: it takes no more messages.
pub async fn close(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let model = shared.model.clone();
    let told = aside(move || {
        let own = negotiator(&model)?;
        let _turn = own.busy.take(&id)?;
        own.store.get(&id)?;
        own.store.close(&id)?;
        record_of(own, &id)
    });
    told.await.map(Json)
}

fn record_of(own: &Negotiator, id: &str) -> Result<Value, Refusal> {
    let kept = own.store.get(id)?;
    let Table { settings, episode, kept, .. } = Table::lay(own, kept)?;
    Ok(record::whole(id, &settings, &episode, kept.closed, kept.created_ms, &kept.rounds))
}

/// `GET /v1/negotiations`: ids, the newest first; `?limit=N&after=ID`.
pub async fn list(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Result<Json<Value>, Refusal> {
    let (mut most, mut after) = (LISTED[0], None);
    for pair in query.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("limit", n)) => {
                let n = n.parse().ok().filter(|n| (1..=LISTED[1]).contains(n));
                most = n.ok_or_else(|| Refusal::of_field("limit", format!("`limit` must be 1 to {}", LISTED[1])))?;
            }
            Some(("after", id)) => after = Some(id.to_string()),
            _ => return Err(Refusal::of_field(pair, format!("unknown parameter `{pair}`")).with_code("unknown_field")),
        }
    }
    let model: Arc<Model> = shared.model.clone();
    let ids = aside(move || negotiator(&model)?.store.list(most, after.as_deref())).await?;
    let data: Vec<Value> = ids.iter().map(|id| json!({"id": id, "object": "negotiation"})).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}
