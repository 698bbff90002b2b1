//! The routes of negotiations.

use super::super::openai::aside;
use super::super::refusal::Refusal;
use super::super::traces::Span;
use super::super::{Model, Shared};
use super::play::Table;
use super::settings::Settings;
use super::store::Once;
use super::{Negotiator, record};
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Negotiations of a list where nobody says, and at most.
const LISTED: [usize; 2] = [20, 100];
/// Longest idempotency key.
const LONGEST_KEY: usize = 255;

/// What negotiates, where the model can.
pub(super) fn negotiator(model: &Model) -> Result<&Negotiator, Refusal> {
    model.negotiator.as_ref().map_err(|why| {
        let what = format!("this model cannot negotiate: {why}");
        Refusal::new(StatusCode::NOT_IMPLEMENTED, what).with_code("no_negotiations")
    })
}

/// The client's key for a request that may come again, with its route, and the hash of the body.
pub(super) fn once_of(headers: &HeaderMap, route: &str, body: &[u8]) -> Result<Option<(String, String)>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= LONGEST_KEY);
    let what = format!("Idempotency-Key must be 1 to {LONGEST_KEY} visible characters");
    let key = key.ok_or_else(|| Refusal::of_field("Idempotency-Key", what))?;
    let body = String::from_utf8_lossy(body);
    Ok(Some((format!("{route} {key}"), record::hash(&body))))
}

/// `POST /v1/negotiations`
pub async fn create(
    State(shared): State<Shared>,
    Extension(span): Extension<Span>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let model = shared.model.clone();
    let told = aside(move || {
        let own = negotiator(&model)?;
        let once = once_of(&headers, "create", &body)?;
        if let Some(answer) = replayed(own, once.as_ref())? {
            return Ok(answer);
        }
        let settings = Settings::read(&body, own)?;
        let now = own.clock.now_ms();
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
        let _store = span.part("store");
        let stored = own.store.create(&id, &text, now, kept_as(once.as_ref(), &answer));
        told_once(own, once.as_ref(), stored, answer)
    });
    Ok((StatusCode::CREATED, as_json(told.await?)).into_response())
}

pub(super) fn replayed(own: &Negotiator, once: Option<&(String, String)>) -> Result<Option<String>, Refusal> {
    once.map_or(Ok(None), |(key, asked)| own.store.answered(key, asked))
}

/// The answer to what was stored; where the same was asked of another server at the same time, the answer of that one.
pub(super) fn told_once(
    own: &Negotiator,
    once: Option<&(String, String)>,
    stored: Result<(), Refusal>,
    answer: String,
) -> Result<String, Refusal> {
    match stored {
        Err(refusal) if refusal.status == StatusCode::CONFLICT => replayed(own, once)?.ok_or(refusal),
        stored => stored.map(|()| answer),
    }
}

pub(super) fn kept_as<'a>(once: Option<&'a (String, String)>, answer: &'a str) -> Option<Once<'a>> {
    once.map(|(key, asked)| Once { key, asked, answer })
}

pub(super) fn as_json(text: String) -> Response {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], text).into_response()
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
