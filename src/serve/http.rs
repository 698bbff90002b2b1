//! Routes and limits, from the first connection to the last.

use super::deal::routes as deal;
use super::keys::Keys;
use super::openai;
use super::progress::Progress;
use super::refusal::Refusal;
use super::worker::Order;
use super::{Model, Shared};
use crate::error::{Error, Result};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::future::IntoFuture;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// How often it is looked whether the server is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How long answers that are computed may take to be read when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// What a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// From the request to the last token of its answer.
    pub timeout: Duration,
    /// Between two pieces of a body that is sent.
    pub read: Duration,
}

/// Serves until `stop` is set and what runs is done. New requests are refused from then on.
///
/// # Errors
/// [`Error::Io`] when the socket fails.
pub fn listen(
    socket: TcpListener,
    model: Arc<Model>,
    orders: SyncSender<Order>,
    progress: Arc<Progress>,
    keys: Keys,
    limits: Limits,
    stop: &'static AtomicBool,
) -> Result<()> {
    let shared = Shared { model, orders, progress, keys: Arc::new(keys), limits };
    let failed = |e: std::io::Error| Error::io("the server's socket", e);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().map_err(failed)?;
    runtime.block_on(async {
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = tokio::net::TcpListener::from_std(socket).map_err(failed)?;
        let progress = shared.progress.clone();
        let closed = drained(progress.clone(), stop);
        let serving = axum::serve(socket, routes(shared)).with_graceful_shutdown(closed).into_future();
        tokio::select! {
            done = serving => done.map_err(failed),
            // Who does not read what is there for him does not keep the server.
            () = async { drained(progress, stop).await; tokio::time::sleep(GRACE).await } => Ok(()),
        }
    })?;
    runtime.shutdown_timeout(LOOK);
    Ok(())
}

/// Waits for `stop`, refuses new requests from then on, and ends when nothing waits or runs.
async fn drained(progress: Arc<Progress>, stop: &'static AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
    progress.drain();
    while progress.is_busy() {
        tokio::time::sleep(LOOK).await;
    }
}

fn routes(shared: Shared) -> Router {
    let limits = shared.limits;
    Router::new()
        .route("/ready", get(ready))
        .route("/v1/models", get(openai::models))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/tokenize", post(openai::tokenize))
        .route("/v1/negotiations", post(deal::create).get(deal::list))
        .route("/v1/negotiations/{id}", get(deal::get))
        .route("/v1/negotiations/{id}/messages", post(deal::message))
        .route("/v1/negotiations/{id}/close", post(deal::close))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(shared.clone(), guard))
        // Everyone may ask whether it is well.
        .route("/health", get(health))
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(RequestBodyTimeoutLayer::new(limits.read))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(shared)
}

/// Lets pass who holds a key, and says the limits of bodies in the shape of all refusals.
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !shared.keys.admits(authorization) {
        let what = "want a key of this server in the header `Authorization: Bearer KEY`";
        return Refusal::new(StatusCode::UNAUTHORIZED, what).with_code("invalid_api_key").into_response();
    }
    let answer = next.run(request).await;
    let is_json =
        answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    match answer.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let what = format!("the body is larger than {} bytes", shared.limits.body_bytes);
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, what).with_code("body_too_large").into_response()
        }
        status if status.is_client_error() && !is_json => {
            Refusal::new(status, "the body did not arrive").into_response()
        }
        _ => answer,
    }
}

/// Well while work moves.
async fn health(State(shared): State<Shared>) -> Response {
    match shared.progress.trouble() {
        None => Json(json!({"status": "ok", "steps": shared.progress.steps()})).into_response(),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": trouble.name()}))).into_response(),
    }
}

/// Whether a request would be taken in.
async fn ready(State(shared): State<Shared>) -> Response {
    let running = shared.progress.running.load(Ordering::Relaxed);
    let waiting = shared.progress.waiting.load(Ordering::Relaxed);
    let (status, word) = match shared.progress.trouble() {
        None => (StatusCode::OK, "ready"),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble.name()),
    };
    let body = json!({"status": word, "seats": shared.model.seats, "running": running, "waiting": waiting});
    (status, Json(body)).into_response()
}

async fn unknown(method: Method, uri: Uri) -> Refusal {
    let what = format!("there is no {method} {}", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, what).with_code("unknown_route")
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let what = format!("{} takes no {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, what).with_code("wrong_method")
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    let what = "a bug in haggle; the server's log has a line on it";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, what).into_response()
}
