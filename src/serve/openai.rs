//! The routes of OpenAI's API: chats, completions, models; and `/tokenize`, which its servers have beside them.

use super::answer::{Form, Scribe, Told};
use super::asked::{Asked, MOST_LIKELIEST, of_model};
use super::fields::Fields;
use super::progress::Trouble;
use super::prompt;
use super::refusal::Refusal;
use super::tools::{self, Choice, Listener};
use super::traces::Span;
use super::worker::{Order, Token};
use super::{Model, Shared};
use crate::generate::{How, Request};
use crate::guide::Rule;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::mpsc::TrySendError;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// `GET /v1/models`
pub async fn models(State(shared): State<Shared>) -> Json<Value> {
    let Model { name, context, .. } = &*shared.model;
    Json(json!({"object": "list", "data": [
        {"id": name, "object": "model", "created": 0, "owned_by": "haggle", "max_model_len": context}
    ]}))
}

/// `POST /tokenize`: the ids of a text or of messages.
pub async fn tokenize(State(shared): State<Shared>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let model = shared.model.clone();
    let ids = aside(move || {
        let mut fields = Fields::read(&body)?;
        of_model(&mut fields, &model)?;
        let ids = prompt::to_tokenize(&mut fields, &model)?;
        fields.end()?;
        Ok(ids)
    });
    let ids = ids.await?;
    Ok(Json(json!({"count": ids.len(), "max_model_len": shared.model.context, "tokens": ids})))
}

/// `POST /v1/chat/completions`
pub async fn chat(
    State(shared): State<Shared>,
    Extension(span): Extension<Span>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let model = shared.model.clone();
    let call = aside(move || {
        let mut fields = Fields::read(&body)?;
        let (logprobs, likeliest) = (fields.flag("logprobs")?, fields.whole("top_logprobs")?);
        if likeliest.is_some() && !logprobs {
            return Err(Refusal::of_field("top_logprobs", "`top_logprobs` needs `logprobs`: true"));
        }
        let likeliest = most("top_logprobs", likeliest.unwrap_or(0))?;
        let conversation = prompt::conversation(&mut fields, &model)?;
        let choice = tools::choice(&mut fields, &conversation.tools)?;
        let mut asked = Asked::take(&mut fields, &model, likeliest)?;
        asked.rule = tools::held(&choice, &conversation.tools, asked.rule, &model)?;
        fields.end()?;
        let prompts = vec![prompt::held(prompt::rendered(&conversation, &model)?, &model)?];
        let reads = !conversation.tools.is_null() && choice != Choice::None;
        let tools = reads.then(|| Listener::new(&conversation.tools));
        let is_call = matches!(choice, Choice::Required | Choice::Named(_));
        let tools = if is_call { tools.map(Listener::held) } else { tools };
        Ok(Call { asked, prompts, form: Form::Chat, logprobs, echo: false, tools })
    });
    answered(shared, &span, call.await?).await
}

/// `POST /v1/completions`
pub async fn completions(
    State(shared): State<Shared>,
    Extension(span): Extension<Span>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let model = shared.model.clone();
    let call = aside(move || {
        let mut fields = Fields::read(&body)?;
        let logprobs = fields.whole("logprobs")?;
        let likeliest = most("logprobs", logprobs.unwrap_or(0))?;
        for (name, plain) in [("best_of", json!(1)), ("suffix", json!(""))] {
            fields.neutral(name, &[plain])?;
        }
        let echo = fields.flag("echo")?;
        let prompts = prompt::prompts(&mut fields, &model)?;
        let asked = Asked::take(&mut fields, &model, likeliest)?;
        fields.end()?;
        let prompts = prompts.into_iter().map(|ids| prompt::held(ids, &model)).collect::<Result<_, _>>()?;
        Ok(Call { asked, prompts, form: Form::Text, logprobs: logprobs.is_some(), echo, tools: None })
    });
    answered(shared, &span, call.await?).await
}

fn most(name: &str, asked: u64) -> Result<u64, Refusal> {
    match asked > MOST_LIKELIEST {
        true => Err(Refusal::of_field(name, format!("`{name}` must be at most {MOST_LIKELIEST}, is {asked}"))),
        false => Ok(asked),
    }
}

/// A request that was read.
struct Call {
    asked: Asked,
    prompts: Vec<Vec<i32>>,
    form: Form,
    logprobs: bool,
    /// The prompt is part of the text.
    echo: bool,
    /// Reads calls of tools out of answers.
    tools: Option<Listener>,
}

/// Long texts take a while to tokenize: beside the threads of connections.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let failed =
        |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be read; see the server's log");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

async fn answered(shared: Shared, span: &Span, call: Call) -> Result<Response, Refusal> {
    let Call { asked, prompts, form, logprobs, echo, tools } = call;
    let (token_ids, include_usage, told) = (asked.token_ids, asked.include_usage, asked.told);
    let likeliest = asked.how.sampling.likeliest;
    // The alternatives that either asks for.
    let tells = told.max((echo && logprobs).then_some(likeliest));
    let told = Told { form, logprobs, token_ids, include_usage, echo, prompt: told, tools };
    // Labelled as the lines of `haggle generate --input`: so the answers are the same.
    let each = |(i, prompt): (usize, Vec<i32>)| {
        (0..asked.n).map(move |sample| Request { label: i as u64 + 1, sample, prompt: prompt.clone() })
    };
    let requests = prompts.iter().cloned().enumerate().flat_map(each).collect();
    let (stream, n) = (asked.stream, asked.n as usize);
    let news = give(&shared, span, requests, asked.how, asked.rule, tells)?;
    let head = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
    let id = format!("{head}-{:016x}", RandomState::new().hash_one(0u64));
    let scribe = Scribe::new(shared.model.clone(), told, id, prompts, n);
    if stream { Ok(streamed(scribe, news)) } else { Ok(Json(whole(scribe, news).await?).into_response()) }
}

/// Puts an order in the queue.
///
/// # Errors
/// 429 when the queue is full, 503 when the server takes none.
pub fn give(
    shared: &Shared,
    span: &Span,
    requests: Vec<Request>,
    how: How,
    rule: Option<Rule>,
    tells: Option<usize>,
) -> Result<UnboundedReceiver<Result<Vec<Token>, Refusal>>, Refusal> {
    if let Some(trouble) = shared.progress.trouble() {
        return Err(Refusal::of_trouble(trouble));
    }
    let (news, heard) = unbounded_channel();
    let asked = Instant::now();
    let (span, deadline) = (span.clone(), asked + shared.limits.timeout);
    let order = Order { requests, how, rule, tells, news, asked, deadline, span };
    // Counted before it is taken in.
    shared.progress.waiting.fetch_add(1, Ordering::Relaxed);
    shared.orders.try_send(order).map_err(|e| {
        shared.progress.waiting.fetch_sub(1, Ordering::Relaxed);
        match e {
            TrySendError::Full(_) => Refusal::full(1),
            TrySendError::Disconnected(_) => Refusal::of_trouble(Trouble::Draining),
        }
    })?;
    Ok(heard)
}

async fn whole(mut scribe: Scribe, mut news: UnboundedReceiver<Result<Vec<Token>, Refusal>>) -> Result<Value, Refusal> {
    while let Some(tokens) = news.recv().await {
        tokens?.into_iter().for_each(|token| scribe.take(token));
    }
    if scribe.is_done() { Ok(scribe.whole()) } else { Err(Refusal::of_trouble(Trouble::Draining)) }
}

/// Server-sent events. Who reads slowly holds up nobody; who hangs up drops the stream, and with it the order.
fn streamed(mut scribe: Scribe, news: UnboundedReceiver<Result<Vec<Token>, Refusal>>) -> Response {
    let events = UnboundedReceiverStream::new(news).map(move |tokens| Ok::<_, Infallible>(scribe.chunk(tokens)));
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (head, Body::from_stream(events)).into_response()
}
